package posix

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// program copies an executable that reads its input to the end.
func (e *env) program(path string) {
	e.Helper()
	cat, err := exec.LookPath("cat")
	if err != nil {
		e.Skip("cat is not installed")
	}
	content, err := os.ReadFile(cat)
	e.ok(err)
	e.file(path, 0o755, string(content))
}

// execCases run programs that lie on the file system.
func execCases(s *suite) {
	s.run("a program runs", func(e *env) {
		e.program("prog")
		cmd := exec.Command("env", e.dir+"/prog")
		cmd.Stdin = strings.NewReader("through the program")
		out, err := cmd.Output()
		if err != nil || string(out) != "through the program" {
			e.Errorf("got %q, %v", out, err)
		}
	})
	s.run("a script runs", func(e *env) {
		e.file("script", 0o755, "#!/bin/sh\necho \"$1\"\n")
		out, err := exec.Command("env", e.dir+"/script", "argument").Output()
		if err != nil || string(out) != "argument\n" {
			e.Errorf("got %q, %v", out, err)
		}
	})
	s.run("a running program is not written to", func(e *env) {
		e.program("prog")
		before := e.lstat("prog")
		in, wait := e.startProgram("prog")
		e.still(func() {
			e.want(tryOpen("prog", unix.O_WRONLY, 0), unix.ETXTBSY)
			e.want(tryOpen("prog", unix.O_RDWR, 0), unix.ETXTBSY)
			e.want(tryOpen("prog", unix.O_WRONLY|unix.O_TRUNC, 0), unix.ETXTBSY)
			e.want(unix.Truncate("prog", 0), unix.ETXTBSY)
		}, "prog")
		e.size("prog", before.Size)
		e.ok(tryOpen("prog", unix.O_RDONLY, 0))
		e.ok(unix.Chmod("prog", 0o700))
		e.ok(unix.Rename("prog", "moved"))
		e.file("new", 0o755, "")
		e.ok(unix.Rename("new", "moved")) // replaced while it runs
		e.ok(in.Close())
		if err := wait(); err != nil {
			e.Errorf("the program ended with %v", err)
		}
	})
	s.run("a program that has ended is written to", func(e *env) {
		e.program("prog")
		in, wait := e.startProgram("prog")
		e.want(tryOpen("prog", unix.O_WRONLY, 0), unix.ETXTBSY)
		e.ok(in.Close())
		if err := wait(); err != nil {
			e.Errorf("the program ended with %v", err)
		}
		e.ok(tryOpen("prog", unix.O_WRONLY, 0))
	})
	s.run("a file open for writing is not run", func(e *env) {
		e.program("prog")
		fd := e.open("prog", unix.O_WRONLY, 0)
		e.want(startErrno(e.dir+"/prog", nil), unix.ETXTBSY)
		e.close(fd)
		e.want(startErrno(e.dir+"/prog", nil), 0)
	})
	s.run("refused", func(e *env) {
		e.program("prog")
		e.mkdir(0o755, "d")
		e.make(fifo, "p", 0o755)
		e.file("text", 0o755, "no directory\n")
		e.ok(unix.Chmod("prog", 0o644))
		e.want(startErrno(e.dir+"/prog", nil), unix.EACCES) // not even root
		e.want(startErrno(e.dir+"/d", nil), unix.EACCES)
		e.want(startErrno(e.dir+"/p", nil), unix.EACCES)
		e.want(startErrno(e.dir+"/none", nil), unix.ENOENT)
		e.want(startErrno(e.dir+"/text/x", nil), unix.ENOTDIR)
	})
	s.run("by permission bits", func(e *env) {
		// The program lies behind directories that only root may search: the child
		// stands in the case's directory already.
		e.program("prog")
		e.chown("prog", alice.with(team))
		for _, c := range classes {
			for bits := range uint32(8) {
				e.ok(unix.Chmod("prog", c.mode(bits)))
				want := unix.EACCES
				if bits&1 != 0 {
					want = 0
				}
				cred := &syscall.Credential{Uid: uint32(c.u.uid), Gid: uint32(c.u.gid), Groups: c.u.groups}
				e.at("mode %04o by %s", c.mode(bits), c.name)
				e.want(startErrno("./prog", cred), want)
			}
		}
	})
}

// startProgram runs a copy of cat until its input is closed, and returns when it
// is running for certain.
func (e *env) startProgram(path string) (in io.Closer, wait func() error) {
	e.Helper()
	cmd := exec.Command("env", e.dir+"/"+path)
	pipe, err := cmd.StdinPipe()
	e.ok(err)
	out, err := cmd.StdoutPipe()
	e.ok(err)
	e.ok(cmd.Start())
	e.Cleanup(func() { pipe.Close() })
	echo := make([]byte, 1)
	if _, err := io.WriteString(pipe, "x"); err != nil {
		e.Fatal(err)
	}
	if _, err := io.ReadFull(out, echo); err != nil {
		e.Fatalf("the program does not run: %v", err)
	}
	return pipe, cmd.Wait
}

// startErrno runs a program with empty input to its end and returns what
// execve(2) said. It is env(1) that executes it: a parent waits for execve without
// the runtime knowing, which must not depend on a file system that the parent
// itself may be serving.
func startErrno(path string, cred *syscall.Credential) error {
	cmd := exec.Command("env", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	var status *exec.ExitError
	if !errors.As(err, &status) {
		return err
	}
	said := strings.ToLower(strings.TrimSpace(string(out)))
	for _, n := range []unix.Errno{unix.EACCES, unix.ENOENT, unix.ENOTDIR, unix.ETXTBSY, unix.EIO} {
		if strings.HasSuffix(said, ": "+n.Error()) {
			return n
		}
	}
	return fmt.Errorf("%w: %s", err, out)
}

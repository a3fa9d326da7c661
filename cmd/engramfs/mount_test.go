package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"engramfs/internal/logbuf"
)

// need skips the test for why, or fails it with REQUIRE_ALL=1; "": neither.
func need(t *testing.T, why string) {
	t.Helper()
	if why == "" {
		return
	}
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// needMount skips the test where this user cannot mount.
func needMount(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		need(t, "mounting needs /dev/fuse: "+err.Error())
	}
	f.Close()
	if os.Geteuid() != 0 {
		need(t, "the tests of the mount run as root")
	}
}

// mountPoint returns a folder to mount on. What is left there at the end of the
// test is detached, and fails the test.
func mountPoint(t *testing.T) string {
	t.Helper()
	needMount(t)
	dir := t.TempDir()
	t.Cleanup(func() {
		if isMount(dir) {
			t.Errorf("%s is still mounted", dir)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

func isMount(dir string) bool {
	text, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(text), " "+dir+" fuse.engramfs ")
}

// program is the program in a process of its own.
type program struct {
	*exec.Cmd
	stdout, stderr *logbuf.Buffer
	url            string
}

// spawn starts the program, and kills it when the test ends.
func spawn(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	p := &program{Cmd: exec.Command(os.Args[0], args...), stdout: &logbuf.Buffer{}, stderr: &logbuf.Buffer{}}
	p.Env = append(append(os.Environ(), asMain+"=1"), env...)
	p.Stdout, p.Stderr = p.stdout, p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
		if t.Failed() {
			t.Logf("stdout:\n%s\nstderr:\n%s", p.stdout, p.stderr)
		}
	})
	p.url, _ = waitReady(t, p.stdout, p.stderr)
	return p
}

// serving are the arguments of a server of data, mounted at point.
func serving(data, point string, more ...string) []string {
	return append([]string{"serve", "--data", data, "--anonymous", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--reserve=none", "--mount", point}, more...)
}

// A client is answered, and a program looks: what was done through one door is
// there when looking through the other, though the kernel may cache for an hour.
func TestBothDoorsShowTheSame(t *testing.T) {
	for _, integrity := range []string{"fast", "strict"} {
		t.Run(integrity, func(t *testing.T) {
			point := mountPoint(t)
			s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--mount", point,
				"--mount-timeout=1h", "--mount-integrity", integrity)
			for i, size := range []int{0, 10, 20_000, 300_000, 20_000, 10} {
				text := strings.Repeat(string(rune('a'+i)), size)
				s.mustRead(point, "gone", "")
				s.want([]int{201, 204}[min(i, 1)], "PUT", s.url+"file", text)
				s.mustRead(point, "file", text)
				if err := os.WriteFile(filepath.Join(point, "file"), []byte(text+"+"), 0o644); err != nil {
					t.Fatal(err)
				}
				if got := s.want(200, "GET", s.url+"file", ""); got != text+"+" {
					t.Errorf("GET after a write of %d bytes: %d bytes", size+1, len(got))
				}
				s.want(201, "MOVE", s.url+"file", "", "Destination", s.url+"moved")
				s.mustRead(point, "file", "")
				s.mustRead(point, "moved", text+"+")
				s.want(201, "COPY", s.url+"moved", "", "Destination", s.url+"file")
				s.mustRead(point, "file", text+"+")
				s.want(204, "DELETE", s.url+"moved", "")
				s.mustRead(point, "moved", "")
			}
			s.want(201, "MKCOL", s.url+"dir/", "")
			if err := os.WriteFile(filepath.Join(point, "dir", "in"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			s.want(204, "DELETE", s.url+"dir/", "")
			if _, err := os.Stat(filepath.Join(point, "dir", "in")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("below a deleted collection: %v", err)
			}
		})
	}
}

// mustRead fails the test unless the file on the mount has the content; "" also
// means that there is none.
func (s *running) mustRead(point, name, want string) {
	s.t.Helper()
	got, err := os.ReadFile(filepath.Join(point, name))
	if string(got) != want || err != nil && (want != "" || !errors.Is(err, os.ErrNotExist)) {
		s.t.Fatalf("%s on the mount: %d bytes, %v, want %d bytes", name, len(got), err, len(want))
	}
}

// At SIGTERM the mount goes first, and a writer who leaves in time loses nothing.
func TestSIGTERMUnmountsFirst(t *testing.T) {
	point := mountPoint(t)
	data := filepath.Join(t.TempDir(), "data")
	p := spawn(t, nil, serving(data, point)...)
	f, err := os.Create(filepath.Join(point, "slow"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	_, werr := f.WriteString("whole")
	if err := errors.Join(werr, f.Close()); err != nil {
		t.Errorf("a file that was open at SIGTERM: %v", err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	last := -1
	for _, event := range []string{`"unmounted"`, `"draining"`, `"stopped"`} {
		at := strings.Index(p.stderr.String(), event)
		if at <= last {
			t.Errorf("%s is not in its place in the log", event)
		}
		last = at
	}
	s := start(t, data, "--anonymous")
	if got := s.want(200, "GET", s.url+"slow", ""); got != "whole" {
		t.Errorf("slow = %q", got)
	}
}

// A killed server leaves a dead mount that a process may still be in. The next
// one takes its place.
func TestRestartAfterKill(t *testing.T) {
	point := mountPoint(t)
	data := filepath.Join(t.TempDir(), "data")
	p := spawn(t, nil, serving(data, point)...)
	if err := os.Mkdir(filepath.Join(point, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(point, "dir", "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("kept"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	resident := exec.Command("sleep", "60")
	resident.Dir = filepath.Join(point, "dir")
	if err := resident.Start(); err != nil {
		t.Fatal(err)
	}
	defer resident.Wait()
	defer resident.Process.Kill()
	if err := p.Process.Kill(); err != nil { // and at once:
		t.Fatal(err)
	}
	again := spawn(t, nil, serving(data, point)...)
	if got, err := os.ReadFile(filepath.Join(point, "dir", "file")); err != nil || string(got) != "kept" {
		t.Errorf("after the restart: %q, %v", got, err)
	}
	if !strings.Contains(again.stderr.String(), "detached the dead mount") {
		t.Error("the log does not say that a dead mount was detached")
	}
	if err := again.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := again.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
}

// Whoever unmounts it by hand has ended the mount command, and WebDAV goes on.
func TestUnmountByHand(t *testing.T) {
	t.Run("Mount", func(t *testing.T) {
		point := mountPoint(t)
		var stdout, stderr logbuf.Buffer
		ended := make(chan int, 1)
		go func() {
			ended <- run(t.Context(), []string{"mount", "--data", filepath.Join(t.TempDir(), "data"), "--reserve=none", "-o", "integrity=strict", point}, &stdout, &stderr)
		}()
		waitReady(t, &stdout, &stderr)
		if err := os.WriteFile(filepath.Join(point, "a"), []byte("x"), 0o644); err != nil {
			t.Error(err)
		}
		if strings.Contains(stdout.String(), "password") {
			t.Errorf("a mount without listeners made a user:\n%s", &stdout)
		}
		if err := unix.Unmount(point, 0); err != nil {
			t.Fatal(err)
		}
		if code := <-ended; code != exitClean {
			t.Errorf("exit code %d\n%s", code, &stderr)
		}
	})
	t.Run("Serve", func(t *testing.T) {
		point := mountPoint(t)
		s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--mount", point)
		if err := unix.Unmount(point, 0); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return strings.Contains(s.stderr.String(), "unmounted by somebody else") })
		s.want(201, "PUT", s.url+"a", "x")
		if code := s.stop(); code != exitClean {
			t.Errorf("exit code %d", code)
		}
	})
}

func TestMountErrorsSayWhatToDo(t *testing.T) {
	data, point := filepath.Join(t.TempDir(), "data"), mountPoint(t)
	start(t, filepath.Join(t.TempDir(), "other"), "--anonymous", "--mount", point)
	for _, c := range []struct {
		name, point, message, hint string
	}{
		{"Missing", filepath.Join(data, "..", "missing"), "does not exist", "mkdir -p"},
		{"Overlap", filepath.Join(data, "blobs"), "overlap", "outside of the data folder"},
		{"InUse", point, "in use by another process", "another directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), []string{"mount", "--data", data, "--reserve=none", c.point}, &out, &errs)
			if code != exitRun || !strings.Contains(errs.String(), c.message) || !strings.Contains(errs.String(), "engramfs: hint: ") || !strings.Contains(errs.String(), c.hint) {
				t.Errorf("exit code %d\n%s\nwant %q and a hint with %q", code, &errs, c.message, c.hint)
			}
		})
	}
}

// A user who may not mount does it with fusermount3, and has a mount without
// direct access, for himself.
func TestMountWithoutRoot(t *testing.T) {
	needMount(t)
	for _, program := range []string{"fusermount3", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, err.Error())
		}
	}
	openDevice(t)
	base, err := os.MkdirTemp("", "engramfs-user-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	point, binary := filepath.Join(base, "mnt"), filepath.Join(base, "engramfs")
	const nobody = 65534
	for _, err := range []error{
		os.Mkdir(point, 0o755), copyFile(os.Args[0], binary), os.Chown(base, nobody, nobody), os.Chown(point, nobody, nobody), os.Chmod(base, 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	setpriv := func(args ...string) *exec.Cmd {
		cmd := exec.Command("setpriv", append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"}, args...)...)
		cmd.Env = append(os.Environ(), asMain+"=1", "HOME="+base)
		cmd.Dir = base
		return cmd
	}
	mount := func(args ...string) *exec.Cmd {
		return setpriv(append([]string{binary, "mount", "--data", filepath.Join(base, "data"), "--reserve=none", point}, args...)...)
	}
	cmd := mount()
	var stdout, stderr logbuf.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = unix.Unmount(point, unix.MNT_DETACH)
	}()
	waitReady(t, &stdout, &stderr)
	script := fmt.Sprintf("cd %s && umask 022 && echo hello > a && mkdir d && mv a d/b && cat d/b && stat -c '%%u %%a' d/b", point)
	out, err := setpriv("sh", "-c", script).CombinedOutput()
	if err != nil || string(out) != "hello\n65534 644\n" {
		t.Errorf("as the user: %v\n%s", err, out)
	}
	if !strings.Contains(stderr.String(), `"native":false`) {
		t.Errorf("log:\n%s", &stderr)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v\n%s", err, &stderr)
	}
	if isMount(point) {
		t.Error("still mounted")
	}
	conf, _ := os.ReadFile("/etc/fuse.conf")
	if regexp.MustCompile(`(?m)^user_allow_other`).Match(conf) {
		return
	}
	if out, err := mount("-o", "allow_other").CombinedOutput(); err == nil || !strings.Contains(string(out), "add the line user_allow_other") {
		t.Errorf("with allow_other: %v\n%s", err, out)
	}
}

// openDevice gives /dev/fuse the mode that udev gives it, for the time of the test.
func openDevice(t *testing.T) {
	t.Helper()
	const device, everybody = "/dev/fuse", 0o666
	fi, err := os.Stat(device)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() == everybody {
		return
	}
	if err := os.Chmod(device, everybody); err != nil {
		need(t, err.Error())
	}
	t.Cleanup(func() { _ = os.Chmod(device, fi.Mode().Perm()) })
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// supervisor records what it is told by sd_notify(3).
type supervisor struct {
	socket string

	mu   sync.Mutex
	told []string
}

func newSupervisor(t *testing.T) *supervisor {
	t.Helper()
	s := &supervisor{socket: filepath.Join(t.TempDir(), "notify")}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 4096); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.told = append(s.told, strings.Split(string(b[:n]), "\n")...)
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return s
}

// heard reports whether the states came, in this order.
func (s *supervisor) heard(states ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.told
	for _, state := range states {
		i := slices.Index(rest, state)
		if i < 0 {
			return false
		}
		rest = rest[i+1:]
	}
	return true
}

func TestSupervisorIsNotified(t *testing.T) {
	point := mountPoint(t)
	s := newSupervisor(t)
	p := spawn(t, []string{"NOTIFY_SOCKET=" + s.socket, "WATCHDOG_USEC=150000"}, serving(filepath.Join(t.TempDir(), "data"), point)...)
	waitFor(t, func() bool { return s.heard("READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1") })
	if !isMount(point) {
		t.Error("ready before the mount is")
	}
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.heard("READY=1", "RELOADING=1", "READY=1") })
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.heard("READY=1", "READY=1", "STOPPING=1") })
	if err := p.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
}

// The unit is what systemd understands, and its commands are what this program does.
func TestServiceUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		need(t, err.Error())
	}
	text, err := os.ReadFile("../../configs/engramfs.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "engramfs.service")
	if err := os.WriteFile(unit, bytes.ReplaceAll(text, []byte("/usr/bin/engramfs"), []byte(os.Args[0])), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for _, m := range regexp.MustCompile(`(?m)^ExecStart=/usr/bin/engramfs (.*)$`).FindAllSubmatch(text, -1) {
		args := strings.Fields(strings.ReplaceAll(string(m[1]), "/etc/engramfs/engramfs.yaml", "../../configs/engramfs.yaml"))
		var c cli
		if _, _, err := parse(&c, args, &process{context.Background(), new(bytes.Buffer), new(bytes.Buffer)}); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// The privileges that the unit leaves are enough for everything.
func TestServiceUnitCapabilities(t *testing.T) {
	point := mountPoint(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		need(t, err.Error())
	}
	text, err := os.ReadFile("../../configs/engramfs.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatal("the unit has no CapabilityBoundingSet")
	}
	caps := "-all"
	for _, c := range strings.Fields(string(m[1])) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	args := append([]string{"--bounding-set", caps, "--inh-caps", "-all", "--no-new-privs", os.Args[0]}, serving(filepath.Join(t.TempDir(), "data"), point)...)
	cmd := exec.Command("setpriv", args...)
	var stdout, stderr logbuf.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), asMain+"=1"), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	url, _ := waitReady(t, &stdout, &stderr)
	name := filepath.Join(point, "file")
	err = errors.Join(os.WriteFile(name, make([]byte, 1<<20), 0o600), os.Chown(name, 1, 1), os.Chmod(name, 0o400))
	if err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(name); err != nil || len(got) != 1<<20 {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if answer, body := do(t, http.DefaultClient, "GET", url+"file", ""); answer.StatusCode != 200 || len(body) != 1<<20 {
		t.Errorf("GET = %s, %d bytes", answer.Status, len(body))
	}
	if strings.Contains(stderr.String(), "does not take files") {
		t.Errorf("no direct access:\n%s", &stderr)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v\n%s", err, &stderr)
	}
}

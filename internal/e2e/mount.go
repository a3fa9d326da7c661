package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Mounted is a server whose files are also mounted on this machine.
type Mounted struct {
	*Server
	// Point is the mount point, a folder of its own.
	Point string

	t      testing.TB
	killed bool // the last end of the server was not one that unmounts
}

// StartMounted starts a server like Start, with its files mounted on a folder
// of the test's. It skips the test where nothing can be mounted. The test's end
// stops the server, and fails the test if that leaves the mount behind.
func StartMounted(t testing.TB, o Options) *Mounted {
	t.Helper()
	needFUSE(t)
	m := &Mounted{t: t, Point: t.TempDir()}
	t.Cleanup(m.detach) // runs after the server's own end
	o.Args = append([]string{"--mount", m.Point}, o.Args...)
	m.Server = Start(t, o)
	m.awaitMount()
	return m
}

// needFUSE skips the test where the kernel offers no FUSE or the user may not mount.
func needFUSE(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		missing(t, "mounting needs /dev/fuse: "+err.Error())
	}
	f.Close()
	if os.Geteuid() != 0 {
		missing(t, "the tests of the mount run as root")
	}
}

// Restart is Server.Restart and waits for the mount as well.
func (m *Mounted) Restart() {
	m.t.Helper()
	m.Server.Restart()
	m.awaitMount()
}

// Kill is Server.Kill. The mount stays behind and answers ENOTCONN.
func (m *Mounted) Kill() {
	m.killed = true
	m.Server.Kill()
}

func (m *Mounted) awaitMount() {
	m.t.Helper()
	m.killed = false
	deadline := time.Now().Add(startTimeout)
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(m.Point, &fs)
		if err == nil && fs.Type == unix.FUSE_SUPER_MAGIC {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s is not mounted within %v: %v, file system type %#x", m.Point, startTimeout, err, fs.Type)
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// detach takes away what is still mounted.
func (m *Mounted) detach() {
	n, err := mountsAt(m.Point)
	if err != nil {
		m.t.Error(err)
	}
	if n > 0 && !m.killed {
		m.t.Errorf("SIGTERM left %d mounts on %s", n, m.Point)
	}
	for range n {
		if err := unix.Unmount(m.Point, unix.MNT_DETACH); err != nil {
			m.t.Errorf("detach %s: %v", m.Point, err)
		}
	}
}

// mountsAt counts the file systems mounted on point, one above the other.
func mountsAt(point string) (int, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	n := 0
	for line := range strings.Lines(string(text)) {
		// Field 5 of proc_pid_mountinfo(5); a temporary folder has nothing to escape.
		if f := strings.Fields(line); len(f) > 4 && f[4] == point {
			n++
		}
	}
	return n, err
}

// Path returns the path of a file on the mount.
func (m *Mounted) Path(elem ...string) string {
	return filepath.Join(append([]string{m.Point}, elem...)...)
}

// Watch ends a server that has not been told otherwise within limit, with a
// dump of its goroutines in its log: a request that is stuck in it would block
// the test for ever, and the test could not even unmount. The end is to be
// called when the work is done.
func (m *Mounted) Watch(limit time.Duration) (end func()) {
	pid := m.Pid()
	timer := time.AfterFunc(limit, func() {
		m.t.Errorf("not done within %v: the server ends with a dump of its goroutines", limit)
		m.killed = true
		syscall.Kill(pid, syscall.SIGQUIT)
	})
	return func() { timer.Stop() }
}

// logErrors returns the lines of the server's log that report an error.
func (s *Server) logErrors() ([]string, error) {
	text, err := os.ReadFile(s.log.Name())
	var found []string
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(`"level":"ERROR"`)) {
			found = append(found, string(bytes.TrimSpace(line)))
		}
	}
	return found, err
}

// isErrno reports whether err is one of the errnos.
func isErrno(err error, want ...syscall.Errno) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	for _, w := range want {
		if e == w {
			return true
		}
	}
	return false
}

// errnoName returns the name of the errno in err in brackets, or "": the text of
// an errno is often not the one by which it is known.
func errnoName(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return " (" + unix.ErrnoName(e) + ")"
	}
	return ""
}

func describeErrno(err error) string { return fmt.Sprint(err) + errnoName(err) }

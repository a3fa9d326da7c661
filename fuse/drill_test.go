package fuse

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"engramfs/store"
)

// TestDrills strikes at every fault point that a program on the mount can reach:
// it gets EIO, or ends up with a change that was made all the same; the mount
// lives, siblings can be written, and after a reset so can the file.
func TestDrills(t *testing.T) {
	big := strings.Repeat("content of a file that is too large for the engine", 1000)
	write := func(m *testMount) error {
		f, err := os.OpenFile(m.path("dir", "file"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("new"), 1)
		return err
	}
	chmod := func(m *testMount) error { return os.Chmod(m.path("dir", "file"), 0o640) }
	create := func(m *testMount) error {
		fd, err := unix.Open(m.path("dir", "created"), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	rename := func(m *testMount) error { return os.Rename(m.path("dir", "file"), m.path("dir", "renamed")) }
	unlink := func(m *testMount) error { return unix.Unlink(m.path("dir", "file")) }
	mkdir := func(m *testMount) error { return os.Mkdir(m.path("dir", "made"), 0o700) }
	truncate := func(m *testMount) error { return os.Truncate(m.path("dir", "file"), 10) }
	setxattr := func(m *testMount) error { return unix.Setxattr(m.path("dir", "file"), "user.x", []byte("y"), 0) }
	lock := func(m *testMount) error {
		f, err := os.Open(m.path("dir", "file"))
		if err != nil {
			return err
		}
		defer f.Close()
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	acts := map[string]map[string]func(*testMount) error{
		"write:content":   {"write": write, "truncate": truncate},
		"alloc:reserve":   nil, // below: the allocator reserves numbers in advance
		"usage:add":       {"create": create, "mkdir": mkdir},
		"filelock:change": {"flock": lock},
	}
	changes := map[string]func(*testMount) error{
		"write": write, "chmod": chmod, "create": create, "rename": rename, "unlink": unlink, "mkdir": mkdir, "setxattr": setxattr,
	}
	for _, p := range store.FaultPoints() {
		list := acts[p.Name]
		if strings.HasPrefix(p.Name, "change:") {
			list = changes
		}
		for name, act := range list {
			for _, cause := range []string{"panic", "goexit", "error"} {
				t.Run(p.Name+"/"+name+"/"+cause, func(t *testing.T) { drill(t, p, name, cause, big, act) })
			}
		}
	}
}

func drill(t *testing.T, p store.FaultPoint, name, cause, content string, act func(*testMount) error) {
	m := mountForTest(t, Options{Integrity: IntegrityStrict})
	m.panicsExpected = cause == "goexit"
	must(t, os.Mkdir(m.path("dir"), 0o755))
	must(t, os.Mkdir(m.path("sibling"), 0o755))
	must(t, os.WriteFile(m.path("dir", "file"), []byte(content), 0o644))

	ctx := context.Background()
	at := "/dir/file"
	if name == "create" || name == "mkdir" {
		at = "/dir"
	}
	must(t, m.store.ArmFault(ctx, at, p.Name, cause))
	err := act(m)
	if m.store.FaultsFired() != 1 {
		t.Fatalf("the drill fired %d times; %s: %v", m.store.FaultsFired(), name, err)
	}
	// A change that was complete when its publisher died may count as made.
	if errno, _ := errnoOf(err); errno != syscall.EIO && !(p.Late && err == nil) {
		t.Errorf("%s: %v, want EIO", name, err)
	}
	must(t, os.WriteFile(m.path("sibling", "file"), []byte("fine"), 0o644))
	if _, err := os.ReadDir(m.path("dir")); err != nil {
		t.Errorf("read the directory: %v", err)
	}
	m.heal()
	must(t, os.WriteFile(m.path("dir", "after"), []byte("fine"), 0o644))
	if b, err := os.ReadFile(m.path("dir", "after")); err != nil || string(b) != "fine" {
		t.Errorf("after the reset: %q, %v", b, err)
	}
}

// heal resets every poisoned lock.
func (m *testMount) heal() {
	m.t.Helper()
	for _, l := range m.store.Locks() {
		if l.State != "poisoned" {
			continue
		}
		if report, err := m.store.ResetLock(context.Background(), l.Name, l.Gen, false); err != nil {
			m.t.Errorf("reset %s: %v: %+v", l.Name, err, report)
		}
	}
}

// TestRecoveredReadsAreNotKept reads a poisoned file and directory with long
// timeouts: the kernel must ask again every time.
func TestRecoveredReadsAreNotKept(t *testing.T) {
	var ops opCounter
	m := mountForTest(t, Options{EntryTimeout: hour, AttrTimeout: hour, Observe: ops.observe})
	must(t, os.WriteFile(m.path("file"), []byte("recovered"), 0o644))
	must(t, m.store.ArmFault(context.Background(), "/file", "change:computed", "panic"))
	wantErrno(t, "chmod", os.Chmod(m.path("file"), 0o600), syscall.EIO)
	ops.reset()
	for range 3 {
		a, err := os.Stat(m.path("file"))
		must(t, err)
		if a.Mode() != 0o644 {
			t.Errorf("mode = %v", a.Mode())
		}
	}
	if n := ops.count("getattr") + ops.count("lookup"); n < 3 {
		t.Errorf("3 looks at recovered attributes reached the server %d times", n)
	}
	if b, err := os.ReadFile(m.path("file")); err != nil || string(b) != "recovered" {
		t.Errorf("read: %q, %v", b, err)
	}
	m.heal()
	_, _ = os.Stat(m.path("file"))
	ops.reset()
	_, _ = os.Stat(m.path("file"))
	if n := ops.count("getattr") + ops.count("lookup"); n != 0 {
		t.Errorf("a look at healthy attributes with a timeout of an hour reached the server %d times", n)
	}
}

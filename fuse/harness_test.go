package fuse

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"engramfs/internal/logbuf"
	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// needFUSE skips the test where the kernel offers no FUSE or the user is not root.
func needFUSE(t testing.TB) {
	t.Helper()
	why := ""
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		why = "mounting needs /dev/fuse: " + err.Error()
	} else if f.Close(); os.Geteuid() != 0 {
		why = "the tests of the mount run as root"
	}
	if why == "" {
		return
	}
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// testMount is a store and its mount.
type testMount struct {
	*Mounted
	t     testing.TB
	dir   string // the mount point
	store *store.Store
	log   *logbuf.Buffer

	panicsExpected bool
}

const hour = time.Hour

// opCounter counts the operations that reach the server.
type opCounter struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *opCounter) observe(op string, _ time.Duration, _ int, _ syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[op]++
}

func (c *opCounter) count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[op]
}

func (c *opCounter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.n)
}

// openStoreForTest opens a store in real files, which is checked and closed when
// the test ends.
func openStoreForTest(t testing.TB, dir string, log io.Writer) *store.Store {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(log, nil))
	db, err := pebble.Open(filepath.Join(dir, "meta"), pebble.Options{Create: true, Logger: logger, CacheSize: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := local.Open(filepath.Join(dir, "blobs"), local.Options{Create: true, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), store.Options{Meta: db, Blobs: blobs, Logger: logger, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		storetest.Check(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// mountForTest mounts a new store. When the test ends it is unmounted, and the
// test fails if a request panicked, an open file or a reference is left over, or
// the store fails its check.
func mountForTest(t testing.TB, o Options) *testMount {
	t.Helper()
	needFUSE(t)
	log := new(logbuf.Buffer)
	if o.Store == nil {
		data := t.TempDir()
		o.Store = openStoreForTest(t, data, log)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // for tests with other users
	m, err := Mount(context.Background(), MountOptions{Options: o, Point: dir, Suid: true, Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	tm := &testMount{Mounted: m, t: t, dir: dir, store: o.Store, log: log}
	watchdog := time.AfterFunc(2*time.Minute, func() {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		// A process does not end while one of its threads waits for its own mount.
		_ = syscall.Unmount(dir, syscall.MNT_FORCE)
		panic("test of the mount is stuck:\n" + log.String() + string(stacks))
	})
	t.Cleanup(func() {
		watchdog.Stop()
		tm.unmount()
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return tm
}

func (m *testMount) unmount() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Unmount(ctx); err != nil {
		m.t.Errorf("Unmount: %v", err)
		syscall.Unmount(m.dir, syscall.MNT_DETACH)
		return
	}
	if n := m.fs.files.len() + m.fs.dirs.len(); n != 0 {
		m.t.Errorf("%d open handles are left over", n)
	}
	if n := m.fs.table.len(); n != 0 {
		m.t.Errorf("%d inodes are left in the table", n)
	}
	if n := m.fs.nativeWriters.Load(); n != 0 {
		m.t.Errorf("%d native writers are left over", n)
	}
	if n := m.fs.panics.count.Load(); n != 0 && !m.panicsExpected {
		m.t.Errorf("%d operations panicked", n)
	}
}

// path returns the path of a file on the mount.
func (m *testMount) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErrno fails the test unless err is errno.
func wantErrno(t testing.TB, what string, err error, errno syscall.Errno) {
	t.Helper()
	if got, _ := errnoOf(err); got != errno {
		t.Errorf("%s: %v, want %v", what, err, errno)
	}
}

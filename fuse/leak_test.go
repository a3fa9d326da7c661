package fuse

import (
	"bytes"
	"context"
	"os"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"engramfs/store"
	"engramfs/store/storetest"
)

func TestNothingRunsAfterUnmount(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("mounted", func(t *testing.T) {
		m := mountForTest(t, Options{})
		path, _ := m.makeBig("f", 100_000)
		must(t, os.Rename(path, m.path("g")))
		_, err := os.ReadFile(m.path("g"))
		must(t, err)
	})
	goleak.VerifyNone(t, before)
}

// TestDetachedMountLetsGo takes the mount away from under an open file and a
// working directory: the kernel then closes nothing.
func TestDetachedMountLetsGo(t *testing.T) {
	m := mountForTest(t, Options{})
	path, _ := m.makeBig("f", 100_000)
	must(t, os.Mkdir(m.path("d"), 0o755))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	d, err := os.Open(m.path("d"))
	must(t, err)
	defer d.Close()
	must(t, lockFile(f, "flock-ex", false))
	a, err := m.store.LookupPath(t.Context(), "/f")
	must(t, err)
	must(t, os.Remove(path))
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no patience
	if err := m.Unmount(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = f.Stat()
	wantErrno(t, "stat after the end", err, syscall.ENOTCONN)
	if m.store.LockedByFile(a.Ino) {
		t.Error("a lock has outlived its mount")
	}
}

// TestContentWithoutFiles mounts a store whose content is in memory: nothing of
// it can be native.
func TestContentWithoutFiles(t *testing.T) {
	s := storetest.New(t)
	m := mountForTest(t, Options{Store: s})
	path, content := m.makeBig("f", 200_000)
	f := open(t, path, os.O_RDWR)
	if m.mode(path) != modeCached {
		t.Error("content in memory is served natively")
	}
	copy(content[100_000:], "changed")
	_, err := f.WriteAt([]byte("changed"), 100_000)
	must(t, err)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestFullDisk(t *testing.T) {
	full, _ := storetest.NewWith(t, store.Options{Reserve: 1 << 60})
	m := mountForTest(t, Options{Store: full})
	wantErrno(t, "create on a full disk", unix.Mknod(m.path("f"), unix.S_IFREG|0o600, 0), syscall.ENOSPC)
	wantErrno(t, "mkdir on a full disk", unix.Mkdir(m.path("d"), 0o700), syscall.ENOSPC)
	var st unix.Statfs_t
	must(t, unix.Statfs(m.dir, &st))
	if st.Bavail != 0 {
		t.Errorf("%d blocks are free on a full disk", st.Bavail)
	}
}

func TestMissingNamesAreRemembered(t *testing.T) {
	var ops opCounter
	m := mountForTest(t, Options{NegativeTimeout: hour, EntryTimeout: hour, AttrTimeout: hour, Observe: ops.observe})
	for range 5 {
		_, err := os.Stat(m.path("none"))
		wantErrno(t, "stat", err, syscall.ENOENT)
	}
	if n := ops.count("lookup"); n != 1 {
		t.Errorf("%d lookups of one missing name", n)
	}
	must(t, os.WriteFile(m.path("none"), nil, 0o644))
	if _, err := os.Stat(m.path("none")); err != nil {
		t.Error(err)
	}
}

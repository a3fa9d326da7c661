package fuse

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"engramfs/store"
)

func TestDAVLocksOnTheMount(t *testing.T) {
	for _, mode := range []DAVLocksMode{DAVLocksAdvisory, DAVLocksMandatory} {
		m := mountForTest(t, Options{DAVLocks: mode})
		must(t, os.MkdirAll(m.path("dir", "sub"), 0o755))
		must(t, os.MkdirAll(m.path("deep", "locked"), 0o755))
		for _, f := range []string{"locked", "free", "dir/member", "dir/sub/f", "deep/locked/f"} {
			must(t, os.WriteFile(m.path(f), []byte("x"), 0o644))
		}
		for _, l := range []store.DAVLock{{Path: "/locked"}, {Path: "/dir"}, {Path: "/deep/locked", Infinite: true}} {
			_, err := m.store.DAVLocks().Create(m.store.Now(), l)
			must(t, err)
		}
		open := func(path string, flags int) error {
			fd, err := unix.Open(m.path(path), flags, 0o600)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		rename := func(from, to string) error { return unix.Rename(m.path(from), m.path(to)) }
		busy := unix.EBUSY
		if mode == DAVLocksAdvisory {
			busy = 0
		}
		wantErrno(t, "write", open("locked", unix.O_WRONLY), busy)
		wantErrno(t, "truncate", unix.Truncate(m.path("locked"), 0), busy)
		wantErrno(t, "write below", open("deep/locked/f", unix.O_RDWR), busy)
		wantErrno(t, "create in a locked list", open("dir/new", unix.O_CREAT|unix.O_RDWR), busy)
		wantErrno(t, "link into a locked list", unix.Link(m.path("free"), m.path("dir", "l")), busy)
		wantErrno(t, "read", open("locked", unix.O_RDONLY), 0)
		wantErrno(t, "chmod", os.Chmod(m.path("locked"), 0o600), 0)
		wantErrno(t, "write a member", open("dir/member", unix.O_WRONLY), 0)
		wantErrno(t, "create below a member", open("dir/sub/new", unix.O_CREAT|unix.O_RDWR), 0)
		wantErrno(t, "write what is free", open("free", unix.O_WRONLY), 0)
		wantErrno(t, "rename over", rename("free", "locked"), busy)
		if mode == DAVLocksAdvisory {
			continue
		}
		wantErrno(t, "unlink", unix.Unlink(m.path("locked")), busy)
		wantErrno(t, "unlink of a locked list", unix.Unlink(m.path("dir", "member")), busy)
		wantErrno(t, "rename", rename("locked", "x"), busy)
		wantErrno(t, "rename with locks below", rename("deep", "x"), busy)
		wantErrno(t, "rename what is free", rename("free", "x"), 0)
		if names, _ := filepath.Glob(m.path("*")); len(names) != 4 {
			t.Errorf("%v", names)
		}
	}
}

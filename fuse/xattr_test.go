package fuse

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func listxattr(t testing.TB, path string) []string {
	t.Helper()
	n, err := unix.Llistxattr(path, nil)
	must(t, err)
	buf := make([]byte, n)
	n, err = unix.Llistxattr(path, buf)
	must(t, err)
	if n != len(buf) {
		t.Errorf("the list of %s has %d bytes, its size was %d", path, n, len(buf))
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
}

func TestXattrs(t *testing.T) {
	m := mountForTest(t, Options{})
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	buf := make([]byte, 128<<10)
	get := func(name string, dest []byte) error { _, err := unix.Lgetxattr(f, name, dest); return err }
	set := func(name string, n, flags int) error { return unix.Lsetxattr(f, name, make([]byte, n), flags) }

	wantErrno(t, "get none", get("user.a", buf), unix.ENODATA)
	wantErrno(t, "remove none", unix.Lremovexattr(f, "user.a"), unix.ENODATA)
	wantErrno(t, "replace none", set("user.a", 1, unix.XATTR_REPLACE), unix.ENODATA)
	must(t, unix.Lsetxattr(f, "user.a", []byte("value"), unix.XATTR_CREATE))
	wantErrno(t, "create again", set("user.a", 1, unix.XATTR_CREATE), unix.EEXIST)
	must(t, unix.Lsetxattr(f, "user.a", []byte("other"), unix.XATTR_REPLACE))
	wantErrno(t, "both flags", set("user.a", 1, unix.XATTR_CREATE|unix.XATTR_REPLACE), unix.EEXIST)
	wantErrno(t, "unknown flag", set("user.a", 1, 16), unix.EINVAL)
	if n, err := unix.Lgetxattr(f, "user.a", nil); n != 5 || err != nil {
		t.Errorf("size = %d, %v, want 5", n, err)
	}
	wantErrno(t, "small buffer", get("user.a", buf[:4]), unix.ERANGE)
	if n, err := unix.Lgetxattr(f, "user.a", buf); err != nil || string(buf[:n]) != "other" {
		t.Errorf("value = %q, %v", buf[:n], err)
	}
	must(t, unix.Lsetxattr(f, "user.empty", nil, 0))
	if n, err := unix.Lgetxattr(f, "user.empty", buf); n != 0 || err != nil {
		t.Errorf("empty value: %d bytes, %v", n, err)
	}
	must(t, set("user.large", 64<<10, 0))
	if n, err := unix.Lgetxattr(f, "user.large", buf); n != 64<<10 || err != nil || !bytes.Equal(buf[:n], make([]byte, n)) {
		t.Errorf("large value: %d bytes, %v", n, err)
	}
	wantErrno(t, "too large", set("user.huge", 64<<10+1, 0), unix.E2BIG)
	wantErrno(t, "long name", set("user."+strings.Repeat("n", 251), 1, 0), unix.ERANGE)
	must(t, set("user."+strings.Repeat("n", 250), 1, 0))
	wantErrno(t, "no namespace", set("name", 1, 0), unix.EOPNOTSUPP)
	wantErrno(t, "only a namespace", set("user.", 1, 0), unix.EINVAL)
	wantErrno(t, "system namespace", set("system.x", 1, 0), unix.EOPNOTSUPP)
	wantErrno(t, "access control list without the option", get("system.posix_acl_access", buf), unix.EOPNOTSUPP)
	_, err := unix.Llistxattr(f, buf[:3])
	wantErrno(t, "small list", err, unix.ERANGE)
	must(t, unix.Lremovexattr(f, "user.large"))
	must(t, unix.Lremovexattr(f, "user."+strings.Repeat("n", 250)))
	must(t, set("trusted.t", 1, 0))
	must(t, set("security.s", 1, 0))
	if got, want := listxattr(t, f), []string{"security.s", "trusted.t", "user.a", "user.empty"}; !slices.Equal(got, want) {
		t.Errorf("list = %q, want %q", got, want)
	}
	asUser(t, 1234, 1234, func() {
		if got := listxattr(t, f); slices.Contains(got, "trusted.t") {
			t.Errorf("a user sees %q", got)
		}
		wantErrno(t, "set without permission", set("user.a", 1, 0), unix.EACCES)
	})
	for _, name := range listxattr(t, f) {
		must(t, unix.Lremovexattr(f, name))
	}
	if got := listxattr(t, f); len(got) != 0 {
		t.Errorf("list = %q", got)
	}
	must(t, os.Symlink("x", m.path("l")))
	wantErrno(t, "user. of a symbolic link", unix.Lsetxattr(m.path("l"), "user.a", nil, 0), unix.EPERM)
	must(t, unix.Lsetxattr(m.path("l"), "trusted.a", nil, 0))
	must(t, unix.Lsetxattr(m.dir, "user.dir", []byte("root"), 0))
}

func TestDeadPropertiesAreVisible(t *testing.T) {
	m := mountForTest(t, Options{})
	must(t, os.WriteFile(m.path("f"), nil, 0o644))
	a, err := m.store.LookupPath(t.Context(), "/f")
	must(t, err)
	must(t, m.store.SetXattr(t.Context(), a.Ino, "user.dav.{urn:x}color", []byte("red"), 0))
	if got := listxattr(t, m.path("f")); !slices.Equal(got, []string{"user.dav.{urn:x}color"}) {
		t.Errorf("list = %q", got)
	}
}

func TestTooManyXattrNames(t *testing.T) {
	m := mountForTest(t, Options{})
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	var err error
	n := 0
	for ; n < 400 && err == nil; n++ {
		err = unix.Lsetxattr(f, "user."+strings.Repeat("n", 240)+string(rune('A'+n/26))+string(rune('A'+n%26)), nil, 0)
	}
	wantErrno(t, "more names than a list can hold", err, unix.ENOSPC)
	if got := listxattr(t, f); len(got) != n-1 || n < 200 {
		t.Errorf("%d names in the list, %d were set", len(got), n-1)
	}
}

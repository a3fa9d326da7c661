package fuse

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Entries for lists in tests.
func aclOf(entries ...aclEntry) []byte {
	for i := range entries {
		if tag := entries[i].tag; tag != aclUser && tag != aclGroup {
			entries[i].id = 0xffffffff // ACL_UNDEFINED_ID
		}
	}
	return acl(entries).encode()
}

func TestParseACL(t *testing.T) {
	whole := []aclEntry{{aclUserObj, 7, 0}, {aclGroupObj, 5, 0}, {aclOther, 4, 0}}
	with := func(extra ...aclEntry) []byte { return aclOf(append(append([]aclEntry{}, whole...), extra...)...) }
	for _, tt := range []struct {
		what string
		b    []byte
		ok   bool
	}{
		{"minimal", with(), true},
		{"named", with(aclEntry{aclUser, 6, 5}, aclEntry{aclMask, 7, 0}), true},
		{"empty", aclOf(), true},
		{"nothing", nil, false},
		{"short", with()[:20], false},
		{"version", append([]byte{3}, with()[1:]...), false},
		{"named without mask", with(aclEntry{aclUser, 6, 5}), false},
		{"two masks", with(aclEntry{aclMask, 7, 0}, aclEntry{aclMask, 7, 0}), false},
		{"two owners", with(aclEntry{aclUserObj, 7, 0}), false},
		{"no other", aclOf(whole[:2]...), false},
		{"unknown tag", with(aclEntry{0x40, 7, 0}), false},
		{"unknown permission", with(aclEntry{aclMask, 8, 0}), false},
	} {
		list, err := parseACL(tt.b)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, errBadACL) {
			t.Errorf("%s: %v", tt.what, err)
		}
		if err == nil && !bytes.Equal(list.encode(), tt.b) {
			t.Errorf("%s: encoded again as %x, want %x", tt.what, list.encode(), tt.b)
		}
	}
}

func TestACL(t *testing.T) {
	m := mountForTest(t, Options{ACL: true, EntryTimeout: hour, AttrTimeout: hour})
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	must(t, os.Chmod(m.dir, 0o755))
	f := m.path("f")
	must(t, os.WriteFile(f, []byte("secret"), 0o666))
	mode := func(path string) uint32 { return stat(t, path).Mode & 0o7777 }
	get := func(path, name string) []byte {
		buf := make([]byte, 1024)
		n, err := unix.Lgetxattr(path, name, buf)
		if err == unix.ENODATA {
			return nil
		}
		must(t, err)
		return buf[:n]
	}
	if mode(f) != 0o640 {
		t.Errorf("the umask made it %o, want 640", mode(f))
	}
	wantErrno(t, "no list", func() error { _, err := unix.Lgetxattr(f, aclAccess, nil); return err }(), unix.ENODATA)

	// A user who is neither owner nor in the group gets in by the list.
	named := aclOf(aclEntry{aclUserObj, 6, 0}, aclEntry{aclUser, 6, 1234}, aclEntry{aclGroupObj, 0, 0}, aclEntry{aclMask, 4, 0}, aclEntry{aclOther, 0, 0})
	read := func(uid int) (err error) {
		asUser(t, uid, uid, func() { _, err = os.ReadFile(f) })
		return err
	}
	wantErrno(t, "read before", read(1234), unix.EACCES)
	must(t, unix.Lsetxattr(f, aclAccess, named, 0))
	wantErrno(t, "read as named user", read(1234), 0)
	wantErrno(t, "read as another", read(4321), unix.EACCES)
	asUser(t, 1234, 1234, func() {
		wantErrno(t, "write as masked user", os.WriteFile(f, []byte("x"), 0), unix.EACCES)
	})
	if mode(f) != 0o640 {
		t.Errorf("mode = %o, want 640: the group bits are the mask", mode(f))
	}
	if got := get(f, aclAccess); !bytes.Equal(got, named) {
		t.Errorf("list = %x, want %x", got, named)
	}

	// chmod changes the mask.
	must(t, os.Chmod(f, 0o600))
	wantErrno(t, "read after chmod", read(1234), unix.EACCES)
	must(t, os.Chmod(f, 0o664))
	list, err := parseACL(get(f, aclAccess))
	must(t, err)
	if list.find(aclMask).perm != 6 || list.find(aclOther).perm != 4 || list.find(aclGroupObj).perm != 0 {
		t.Errorf("after chmod 664 the list is %+v", list)
	}

	// A list that says no more than a mode is not kept.
	must(t, unix.Lsetxattr(f, aclAccess, aclOf(aclEntry{aclUserObj, 6, 0}, aclEntry{aclGroupObj, 4, 0}, aclEntry{aclOther, 4, 0}), 0))
	if got := get(f, aclAccess); got != nil || mode(f) != 0o644 {
		t.Errorf("minimal list: %x, mode %o", got, mode(f))
	}
	must(t, unix.Lsetxattr(f, aclAccess, named, 0))
	must(t, unix.Lremovexattr(f, aclAccess))
	must(t, unix.Lremovexattr(f, aclAccess)) // there is none
	if get(f, aclAccess) != nil {
		t.Error("a removed list is there")
	}
	wantErrno(t, "a malformed list", unix.Lsetxattr(f, aclAccess, []byte("nonsense"), 0), unix.EOPNOTSUPP)
	wantErrno(t, "default list of a file", unix.Lsetxattr(f, aclDefault, named, 0), unix.EACCES)
	asUser(t, 4321, 4321, func() {
		wantErrno(t, "set on another's file", unix.Lsetxattr(f, aclAccess, named, 0), unix.EPERM)
	})
}

func TestDefaultACLIsInherited(t *testing.T) {
	m := mountForTest(t, Options{ACL: true})
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	d := m.path("d")
	must(t, os.Mkdir(d, 0o755))
	inherit := aclOf(aclEntry{aclUserObj, 7, 0}, aclEntry{aclUser, 7, 1234}, aclEntry{aclGroupObj, 5, 0}, aclEntry{aclMask, 7, 0}, aclEntry{aclOther, 5, 0})
	must(t, unix.Lsetxattr(d, aclDefault, inherit, 0))
	buf := make([]byte, 1024)
	access := func(path string) acl {
		n, err := unix.Lgetxattr(path, aclAccess, buf)
		must(t, err)
		list, err := parseACL(buf[:n])
		must(t, err)
		return list
	}
	must(t, os.WriteFile(d+"/f", nil, 0o640)) // the umask has no say here
	if st := stat(t, d+"/f"); st.Mode&0o777 != 0o640 {
		t.Errorf("file: mode %o, want 640", st.Mode&0o777)
	}
	if l := access(d + "/f"); l.find(aclUser).perm != 7 || l.find(aclMask).perm != 4 || l.find(aclOther).perm != 0 {
		t.Errorf("file: %+v", l)
	}
	must(t, os.Mkdir(d+"/sub", 0o777))
	if st := stat(t, d+"/sub"); st.Mode&0o777 != 0o775 {
		t.Errorf("directory: mode %o, want 775", st.Mode&0o777)
	}
	if n, err := unix.Lgetxattr(d+"/sub", aclDefault, buf); err != nil || !bytes.Equal(buf[:n], inherit) {
		t.Errorf("the default list was not passed on: %x, %v", buf[:n], err)
	}
	must(t, unix.Mkfifo(d+"/p", 0o660))
	if l := access(d + "/p"); l.find(aclMask).perm != 6 {
		t.Errorf("fifo: %+v", l)
	}
	fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	must(t, unix.Close(fd))
	if st.Mode&0o777 != 0o600 {
		t.Errorf("tmpfile: mode %o", st.Mode&0o777)
	}
	must(t, os.Symlink("x", d+"/l"))

	// A default list that says no more than a mode takes the umask's place, too.
	must(t, unix.Lsetxattr(d, aclDefault, aclOf(aclEntry{aclUserObj, 7, 0}, aclEntry{aclGroupObj, 4, 0}, aclEntry{aclOther, 4, 0}), 0))
	must(t, os.WriteFile(d+"/g", nil, 0o666))
	if st := stat(t, d+"/g"); st.Mode&0o777 != 0o644 {
		t.Errorf("file: mode %o, want 644", st.Mode&0o777)
	}
	if _, err := unix.Lgetxattr(d+"/g", aclAccess, buf); err != unix.ENODATA {
		t.Errorf("it has a list: %v", err)
	}
	must(t, unix.Lremovexattr(d, aclDefault))
	must(t, os.WriteFile(d+"/h", nil, 0o666))
	if st := stat(t, d+"/h"); st.Mode&0o777 != 0o600 {
		t.Errorf("without a default list: mode %o, want 600", st.Mode&0o777)
	}
}

func TestACLDropsSetGroupID(t *testing.T) {
	m := mountForTest(t, Options{ACL: true})
	must(t, os.Chmod(m.dir, 0o777))
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	must(t, os.Chown(f, 1234, 99)) // a group that its owner is not in
	must(t, unix.Chmod(f, 0o2755))
	list := aclOf(aclEntry{aclUserObj, 7, 0}, aclEntry{aclUser, 7, 5}, aclEntry{aclGroupObj, 5, 0}, aclEntry{aclMask, 5, 0}, aclEntry{aclOther, 5, 0})
	asUser(t, 1234, 1234, func() { must(t, unix.Lsetxattr(f, aclAccess, list, 0)) })
	if st := stat(t, f); st.Mode&0o7777 != 0o755 {
		t.Errorf("mode = %o, want 755", st.Mode&0o7777)
	}
}

package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/storetest"
)

func ptr[T any](v T) *T { return &v }

// TestChangesOfPrivileges: what chown(2), chmod(2) and a write by another take
// away, as notify_change in Linux's fs/attr.c does.
func TestChangesOfPrivileges(t *testing.T) {
	for _, c := range []struct {
		name     string
		mode     uint32 // with the type
		set      store.SetAttr
		want     uint32 // permission bits
		keepsCap bool
	}{
		{"Chown", store.ModeRegular | 0o6755, store.SetAttr{UID: ptr(uint32(7))}, 0o755, false},
		{"ChownToTheSame", store.ModeRegular | 0o4711, store.SetAttr{UID: ptr(uint32(0))}, 0o711, false},
		{"Chgrp", store.ModeRegular | 0o6755, store.SetAttr{GID: ptr(uint32(7))}, 0o755, false},
		{"ChownSetgidWithoutExec", store.ModeRegular | 0o6745, store.SetAttr{UID: ptr(uint32(7))}, 0o2745, false},
		{"ChownDirectory", store.ModeDir | 0o6755, store.SetAttr{UID: ptr(uint32(7))}, 0o6755, true},
		{"ChownFIFO", store.ModeFIFO | 0o4755, store.SetAttr{UID: ptr(uint32(7))}, 0o755, false},
		{"ChownAndChmod", store.ModeRegular | 0o6755, store.SetAttr{UID: ptr(uint32(7)), Mode: ptr(uint32(0o6750))}, 0o6750, false},
		{"Chmod", store.ModeRegular | 0o755, store.SetAttr{Mode: ptr(uint32(0o6755))}, 0o6755, true},
		{"ChmodWithTypeBits", store.ModeRegular | 0o755, store.SetAttr{Mode: ptr(store.ModeDir | 0o600)}, 0o600, true},
		{"KillPriv", store.ModeRegular | 0o7755, store.SetAttr{KillPriv: true}, 0o1755, false},
		{"KillPrivDirectory", store.ModeDir | 0o6755, store.SetAttr{KillPriv: true}, 0o6755, true},
		{"Times", store.ModeRegular | 0o6755, store.SetAttr{MtimeNow: true}, 0o6755, true},
		{"TruncateAndKillPriv", store.ModeRegular | 0o6755, store.SetAttr{Size: ptr(int64(3)), KillPriv: true}, 0o755, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := storetest.New(t)
			a, err := s.Create(ctx, store.RootIno, "f", store.NewNode{Mode: c.mode, Xattrs: map[string][]byte{"security.capability": {1}, "user.x": {2}}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.SetAttr(ctx, a.Ino, c.set)
			if err != nil || got.Mode != c.mode&store.ModeType|c.want {
				t.Errorf("mode %#o, %v; want %#o", got.Mode, err, c.want)
			}
			if again := lookup(s, "/f"); again != got {
				t.Errorf("SetAttr returned %+v, GetAttr %+v", got, again)
			}
			_, err = s.GetXattr(ctx, a.Ino, "security.capability")
			if kept := err == nil; kept != c.keepsCap || err != nil && !errors.Is(err, store.ErrNoXattr) {
				t.Errorf("security.capability kept: %v (%v), want %v", kept, err, c.keepsCap)
			}
			if _, err := s.GetXattr(ctx, a.Ino, "user.x"); err != nil {
				t.Errorf("another attribute: %v", err)
			}
			if changed := got != a; changed && got.Change == a.Change {
				t.Errorf("change counter %d after %d", got.Change, a.Change)
			}
			storetest.Check(t, s)
		})
	}
}

func TestSetAttrOfNothingChangesNothing(t *testing.T) {
	s := storetest.New(t)
	a := put(t, s, "/f", nil)
	for name, set := range map[string]store.SetAttr{"Nothing": {}, "NoPrivileges": {KillPriv: true}} {
		got, err := s.SetAttr(ctx, a.Ino, set)
		if err != nil || got != a || lookup(s, "/f") != a {
			t.Errorf("%s: %+v, %v; was %+v", name, got, err, a)
		}
	}
}

func TestSetAttrTimes(t *testing.T) {
	var clock atomic.Int64 // others ask it, too
	s, _ := storetest.NewWith(t, store.Options{Now: func() time.Time { return time.Unix(0, clock.Load()) }})
	a := put(t, s, "/f", nil)
	now := time.Unix(2000, 5)
	clock.Store(now.UnixNano())
	then := time.Unix(7, 9)
	got, err := s.SetAttr(ctx, a.Ino, store.SetAttr{AtimeNow: true, Mtime: &then, Btime: &then})
	if err != nil || got.Atime != now.UnixNano() || got.Mtime != then.UnixNano() || got.Btime != then.UnixNano() || got.Ctime != now.UnixNano() {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = s.SetAttr(ctx, a.Ino, store.SetAttr{MtimeNow: true, Mtime: &then})
	if err != nil || got.Mtime != now.UnixNano() || got.Version != a.Version {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSetAttrErrors(t *testing.T) {
	s := storetest.New(t)
	d, f := mkdir(t, s, "/d"), put(t, s, "/f", nil)
	link, err := s.Create(ctx, store.RootIno, "l", store.NewNode{Mode: store.ModeSymlink | 0o777, Target: "x"})
	if err != nil {
		t.Fatal(err)
	}
	size := func(n int64) store.SetAttr { return store.SetAttr{Size: &n} }
	wantErr(t, "truncate a directory", second(s.SetAttr(ctx, d.Ino, size(0))), store.ErrIsDir)
	wantErr(t, "truncate a link", second(s.SetAttr(ctx, link.Ino, size(0))), fs.ErrInvalid)
	wantErr(t, "truncate to less than nothing", second(s.SetAttr(ctx, f.Ino, size(-1))), fs.ErrInvalid)
	wantErr(t, "truncate to more than the limit", second(s.SetAttr(ctx, f.Ino, size(store.MaxFileSize+1))), store.ErrTooBig)
	wantErr(t, "gone", second(s.SetAttr(ctx, 999, store.SetAttr{MtimeNow: true})), store.ErrStale)
	wantErr(t, "nothing of what is gone", second(s.SetAttr(ctx, 999, store.SetAttr{})), store.ErrStale)
}

// TestXattrErrors has one line for each errno of setxattr(2), getxattr(2) and
// removexattr(2).
func TestXattrErrors(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	set := func(name string, n int, flags store.XattrFlags) error {
		return s.SetXattr(ctx, ino, name, make([]byte, n), flags)
	}
	wantErr(t, "ENODATA: replace", set("user.a", 1, store.XattrReplace), store.ErrNoXattr)
	wantErr(t, "ENODATA: remove", s.RemoveXattr(ctx, ino, "user.a"), store.ErrNoXattr)
	if a := lookup(s, "/f"); a.Change != 1 {
		t.Errorf("refused changes have changed the inode: %+v", a)
	}
	if err := set("user.a", 1, store.XattrCreate); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "EEXIST", set("user.a", 1, store.XattrCreate), fs.ErrExist)
	wantErr(t, "ENODATA: replace another", set("user.b", 1, store.XattrReplace), store.ErrNoXattr)
	wantErr(t, "ENODATA: remove another", s.RemoveXattr(ctx, ino, "user.b"), store.ErrNoXattr)
	_, err := s.GetXattr(ctx, ino, "user.b")
	wantErr(t, "ENODATA: get", err, store.ErrNoXattr)
	if err := set("user.a", 0, store.XattrReplace); err != nil {
		t.Errorf("replace by an empty value: %v", err)
	}
	if v, err := s.GetXattr(ctx, ino, "user.a"); err != nil || len(v) != 0 {
		t.Errorf("empty value: %q, %v", v, err)
	}
	wantErr(t, "E2BIG", set("user.a", store.MaxXattrValue+1, 0), store.ErrTooBig)
	wantErr(t, "ERANGE", set(strings.Repeat("n", store.MaxXattrName+1), 1, 0), store.ErrNameTooLong)
	wantErr(t, "EINVAL", set("", 1, 0), fs.ErrInvalid)
	if err := set("user.big", store.MaxXattrValue, 0); err != nil {
		t.Errorf("the largest value: %v", err)
	}
}

// TestXattrNamesAreBounded: what listxattr(2) returns has at most 64 KiB.
func TestXattrNamesAreBounded(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	name := func(i int) string { return fmt.Sprintf("user.%0250d", i) } // 255 bytes and a NUL
	patch := map[string][]byte{}
	for i := range 255 {
		patch[name(i)] = []byte{}
	}
	if _, err := s.PatchXattrs(ctx, ino, patch, store.SetAttr{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetXattr(ctx, ino, name(255), nil, 0); err != nil {
		t.Fatalf("the 256th name: %v", err)
	}
	before := lookup(s, "/f")
	err := s.SetXattr(ctx, ino, "u", nil, 0)
	wantErr(t, "one more", err, store.ErrXattrSpace)
	wantErr(t, "one more", err, syscall.ENOSPC)
	_, err = s.PatchXattrs(ctx, ino, map[string][]byte{"u": {}, name(1): {}}, store.SetAttr{}, nil)
	wantErr(t, "one more in a patch", err, store.ErrXattrSpace)
	if after := lookup(s, "/f"); after != before {
		t.Errorf("a refused change has changed the inode: %+v", after)
	}
	if err := s.SetXattr(ctx, ino, name(3), []byte("v"), 0); err != nil {
		t.Errorf("another value for a name that is there: %v", err)
	}
	if _, err := s.PatchXattrs(ctx, ino, map[string][]byte{"u": {}, name(1): nil}, store.SetAttr{}, nil); err != nil {
		t.Errorf("one for another: %v", err)
	}
	patch = map[string][]byte{}
	for i := range 257 {
		patch[name(i)] = []byte{}
	}
	_, err = s.Create(ctx, store.RootIno, "g", store.NewNode{Xattrs: patch})
	wantErr(t, "create with too many", err, store.ErrXattrSpace)
}

// TestXattrsAreBounded: all names and values of an inode have at most 1 MiB, and what
// had more before there was a limit can be read and made smaller.
func TestXattrsAreBounded(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	big := make([]byte, store.MaxXattrValue)
	patch := map[string][]byte{}
	for i := range 15 {
		patch[fmt.Sprintf("user.%02d", i)] = big
	}
	if _, err := s.PatchXattrs(ctx, ino, patch, store.SetAttr{}, nil); err != nil {
		t.Fatal(err)
	}
	left := store.MaxXattrBytes - 15*(len(big)+8) - len("user.z") - 1
	if err := s.SetXattr(ctx, ino, "user.z", big[:left], 0); err != nil {
		t.Fatalf("the last %d bytes: %v", left, err)
	}
	before := lookup(s, "/f")
	wantErr(t, "a larger value", s.SetXattr(ctx, ino, "user.z", big[:left+1], 0), store.ErrXattrSpace)
	wantErr(t, "one more", s.SetXattr(ctx, ino, "u", nil, 0), syscall.ENOSPC)
	_, err := s.PatchXattrs(ctx, ino, map[string][]byte{"user.z": big[:left+1]}, store.SetAttr{}, nil)
	wantErr(t, "a larger value in a patch", err, store.ErrXattrSpace)
	if after := lookup(s, "/f"); after != before {
		t.Errorf("a refused change has changed the inode: %+v", after)
	}
	patch["user.y"], patch["user.z"] = big, big
	_, err = s.Create(ctx, store.RootIno, "g", store.NewNode{Xattrs: patch})
	wantErr(t, "create with too much", err, store.ErrXattrSpace)

	for i := range 4 { // as an earlier version has let it in
		if err := s.SetXattrRecord(ino, fmt.Sprint("user.old", i), big); err != nil {
			t.Fatal(err)
		}
	}
	if attrs, err := s.Xattrs(ctx, ino); err != nil || len(attrs) != 20 {
		t.Errorf("%d attributes, %v, want 20", len(attrs), err)
	}
	wantErr(t, "one more over the limit", s.SetXattr(ctx, ino, "u", nil, 0), store.ErrXattrSpace)
	if err := s.SetXattr(ctx, ino, "user.old1", big[1:], 0); err != nil {
		t.Errorf("a smaller value over the limit: %v", err)
	}
	if err := s.RemoveXattr(ctx, ino, "user.old2"); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Clone(ctx, ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Errorf("copy over the limit: %v", err)
	}
}

func TestPatchXattrsAsksUnderTheLock(t *testing.T) {
	s := storetest.New(t)
	a := put(t, s, "/f", nil)
	_, err := s.PatchXattrs(ctx, a.Ino, map[string][]byte{"user.a": {}}, store.SetAttr{}, func(cur *store.Attr) error {
		if *cur != a {
			t.Errorf("asked with %+v, want %+v", cur, a)
		}
		return store.ErrPrecondition
	})
	wantErr(t, "refused", err, store.ErrPrecondition)
	if lookup(s, "/f") != a {
		t.Error("a refused patch has changed the inode")
	}
}

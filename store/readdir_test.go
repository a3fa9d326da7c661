package store_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
)

// plus returns what ReadDirPlus says of a directory.
func plus(t *testing.T, s *store.Store, dir store.Ino) map[string]store.Attr {
	t.Helper()
	all := map[string]store.Attr{}
	err := s.ReadDirPlus(ctx, dir, "", func(name string, a *store.Attr) bool { all[name] = *a; return true })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestReadDirPlusOfADirectoryThatChanges renames files over entries that were read, and
// whose inodes were not yet looked at: one that is in memory and one that is not. A
// name that is there all the time is listed.
func TestReadDirPlusOfADirectoryThatChanges(t *testing.T) {
	path, mem := t.TempDir(), vfs.NewMem()
	b := &between{op: "get_attr", call: func(int32) {}}
	s := openLocal(t, path, mem, store.Options{})
	mkdir(t, s, "/d")
	for _, p := range []string{"/d/first", "/d/f-warm", "/d/g-cold", "/d/removed", "/warm", "/cold"} {
		put(t, s, p, []byte(p))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openLocal(t, path, mem, store.Options{Began: b.began})
	defer s.Close()
	dir := lookup(s, "/d").Ino
	lookup(s, "/d/f-warm")
	for _, name := range []string{"first", "removed"} {
		lookup(s, "/d/"+name)
	}
	b.n.Store(0)
	b.call = func(n int32) {
		if n != 1 {
			return
		}
		b.call = func(int32) {}
		for from, to := range map[string]string{"warm": "first", "cold": "g-cold"} {
			if _, err := s.Rename(ctx, store.RootIno, from, dir, to, store.RenameOptions{}); err != nil {
				t.Error(err)
			}
		}
		if err := s.Unlink(ctx, dir, "removed", nil); err != nil {
			t.Error(err)
		}
	}
	got := plus(t, s, dir)
	if b.n.Load() == 0 || exists(s, "/warm") || exists(s, "/cold") {
		t.Fatal("nothing was renamed meanwhile")
	}
	for name, size := range map[string]int{"f-warm": len("/d/f-warm"), "first": len("/warm"), "g-cold": len("/cold")} {
		if a, ok := got[name]; !ok || a != lookup(s, "/d/"+name) || a.Size != int64(size) {
			t.Errorf("%s is listed as %+v, %v", name, a, ok)
		}
	}
	if len(got) != 3 {
		t.Errorf("%d entries, want 3", len(got))
	}
}

// TestReadDirPlusWithDamagedInodes: one damaged inode costs no more than itself, and is
// not taken for removed.
func TestReadDirPlusWithDamagedInodes(t *testing.T) {
	s := openLocal(t, t.TempDir(), vfs.NewMem(), store.Options{})
	defer s.Close()
	var inos []store.Ino
	for i := range 4 {
		inos = append(inos, put(t, s, fmt.Sprint("/", i), []byte("x")).Ino)
	}
	if err := s.SetInodeRecord(inos[1], nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetInodeRecord(inos[2], []byte{9}); err != nil {
		t.Fatal(err)
	}
	got := plus(t, s, store.RootIno)
	for i, ino := range inos {
		want := store.Attr{Ino: ino, Mode: store.ModeRegular, Nlink: 1}
		if i == 0 || i == 3 {
			want = lookup(s, fmt.Sprint("/", i))
		}
		if a := got[fmt.Sprint(i)]; a != want {
			t.Errorf("%d is listed as %+v, want %+v", i, a, want)
		}
	}
	entries := []store.Dirent{{Name: "1", Ino: inos[1]}, {Name: "2", Ino: inos[2]}, {Name: "3", Ino: inos[3]}}
	attrs, err := s.AppendAttrs(ctx, nil, entries)
	if err != nil || !slices.EqualFunc(attrs, []bool{false, false, true}, func(a store.Attr, ok bool) bool { return ok == (a.Mode != 0) }) {
		t.Errorf("AppendAttrs = %+v, %v", attrs, err)
	}
}

package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/storetest"
)

// between is a Store.Began that calls a function when the changes, or reads, named op
// begin, with their number. No lock is held then.
type between struct {
	op   string
	n    atomic.Int32
	call func(n int32)
}

func (b *between) began(_ context.Context, op string, _ store.Ino) func(error) {
	if op == b.op {
		b.call(b.n.Add(1))
	}
	return nil
}

// TestCloneOfATreeThatChanges changes an entry of a directory after it was read for a
// copy, and before the entry's batch: a name that is there all the time is in the copy.
func TestCloneOfATreeThatChanges(t *testing.T) {
	const files, name = 300, "f299"
	for what, c := range map[string]struct {
		change func(s *store.Store, dir store.Ino, attempt int) error
		want   string // content of the name, "" for none
	}{
		"replaced by a file": {func(s *store.Store, dir store.Ino, attempt int) error {
			if attempt > 1 {
				return nil
			}
			return second(s.Rename(ctx, store.RootIno, "tmp1", dir, name, store.RenameOptions{}))
		}, "tmp1"},
		"replaced twice": {func(s *store.Store, dir store.Ino, attempt int) error {
			if attempt > 2 {
				return nil
			}
			return second(s.Rename(ctx, store.RootIno, fmt.Sprint("tmp", attempt), dir, name, store.RenameOptions{}))
		}, "tmp2"},
		"replaced by a directory": {func(s *store.Store, dir store.Ino, attempt int) error {
			if attempt > 1 {
				return nil
			}
			return second(s.Rename(ctx, store.RootIno, "tmpdir", dir, name, store.RenameOptions{ReplaceTree: true}))
		}, "member"},
		"replaced while it is open": {func(s *store.Store, dir store.Ino, attempt int) error {
			if attempt > 1 {
				return nil
			}
			open(t, s, "/d/"+name, false)
			return second(s.Rename(ctx, store.RootIno, "tmp1", dir, name, store.RenameOptions{}))
		}, "tmp1"},
		"removed": {func(s *store.Store, dir store.Ino, attempt int) error {
			if attempt > 1 {
				return nil
			}
			return s.Unlink(ctx, dir, name, nil)
		}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			b := &between{op: "clone"}
			s, _ := storetest.NewWith(t, store.Options{Began: b.began})
			dir := mkdir(t, s, "/d").Ino
			for i := range files {
				put(t, s, fmt.Sprintf("/d/f%03d", i), []byte("old"))
			}
			for _, p := range []string{"/tmp1", "/tmp2"} {
				put(t, s, p, []byte(p[1:]))
			}
			mkdir(t, s, "/tmpdir")
			put(t, s, "/tmpdir/m", []byte("member"))
			b.call = func(n int32) {
				if n > 2 { // the copy's root, and the first 256
					if err := c.change(s, dir, int(n)-2); err != nil {
						t.Error(err)
					}
				}
			}
			if _, _, err := s.Clone(ctx, dir, store.RootIno, "copy", store.CloneOptions{}); err != nil {
				t.Fatal(err)
			}
			want := files
			if c.want == "" {
				want--
			}
			if n := len(strings.Fields(names(t, s, lookup(s, "/copy").Ino))); n != want {
				t.Errorf("the copy has %d names, want %d", n, want)
			}
			p := "/copy/" + name
			if a := lookup(s, p); a.IsDir() {
				p += "/m"
			}
			if exists(s, p) != (c.want != "") || c.want != "" && !content(s, p, c.want) {
				t.Errorf("%s is not %q", p, c.want)
			}
		})
	}
}

// TestCloneOfADirectoryThatIsReplaced: what was in it is removed in the background, so
// that the copy could have any part of it.
func TestCloneOfADirectoryThatIsReplaced(t *testing.T) {
	b := &between{op: "clone"}
	s, _ := storetest.NewWith(t, store.Options{Began: b.began})
	dir := mkdir(t, s, "/d").Ino
	mkdir(t, s, "/d/sub")
	put(t, s, "/d/sub/f", []byte("old"))
	mkdir(t, s, "/tmp")
	put(t, s, "/tmp/f", []byte("new"))
	b.call = func(n int32) {
		if n != 3 { // the copy's root, what is in /d, and what is in /d/sub
			return
		}
		if _, err := s.Rename(ctx, store.RootIno, "tmp", dir, "sub", store.RenameOptions{ReplaceTree: true}); err != nil {
			t.Error(err)
		}
		if err := s.Quiesce(ctx); err != nil {
			t.Error(err)
		}
	}
	_, _, err := s.Clone(ctx, dir, store.RootIno, "copy", store.CloneOptions{})
	wantErr(t, "copy", err, store.ErrStale)
	if exists(s, "/copy") {
		t.Error("it has left a copy")
	}
	if _, _, err := s.Clone(ctx, dir, store.RootIno, "copy", store.CloneOptions{}); err != nil || !content(s, "/copy/sub/f", "new") {
		t.Errorf("the next copy: %v", err)
	}
}

// TestCloneOfATreeWithALostInode: a copy that has less than its source is no copy.
func TestCloneOfATreeWithALostInode(t *testing.T) {
	s := openLocal(t, t.TempDir(), vfs.NewMem(), store.Options{})
	defer s.Close()
	mkdir(t, s, "/d")
	put(t, s, "/d/a", []byte("a"))
	if err := s.SetInodeRecord(put(t, s, "/d/b", []byte("b")).Ino, nil); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.Clone(ctx, lookup(s, "/d").Ino, store.RootIno, "copy", store.CloneOptions{})
	wantErr(t, "copy of a tree with a lost inode", err, store.ErrDamaged)
	if exists(s, "/copy") {
		t.Error("it has left a copy")
	}
}

// TestCloneOfManyXattrs: what a copy holds in memory at a time is bounded by size, too.
func TestCloneOfManyXattrs(t *testing.T) {
	var batches atomic.Int32
	b := &between{op: "clone", call: batches.Store}
	s, _ := storetest.NewWith(t, store.Options{Began: b.began})
	mkdir(t, s, "/d")
	value := pattern(store.MaxXattrValue, 1)
	for i := range 20 {
		a := put(t, s, fmt.Sprintf("/d/%02d", i), nil)
		set := map[string][]byte{}
		for k := range 15 {
			set[fmt.Sprint("user.", k)] = value
		}
		if _, err := s.PatchXattrs(ctx, a.Ino, set, store.SetAttr{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Clone(ctx, lookup(s, "/d").Ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := batches.Load(); n != 5 { // the root, three times at least 8 MiB of 19, and the name
		t.Errorf("%d batches, want 5", n)
	}
	for i := range 20 {
		attrs, err := s.Xattrs(ctx, lookup(s, fmt.Sprintf("/copy/%02d", i)).Ino)
		if err != nil || len(attrs) != 15 || string(attrs["user.14"]) != string(value) {
			t.Errorf("copy %d has %d attributes, %v", i, len(attrs), err)
		}
	}
}

// TestCloneOfContentThatIsReplaced: the file gets another content, and the old one is
// collected, between the look at it and the copy of its bytes.
func TestCloneOfContentThatIsReplaced(t *testing.T) {
	var src store.Ino
	var replace func()
	s := localStore(t, store.Options{Began: func(_ context.Context, op string, ino store.Ino) func(error) {
		if op != "clone" || ino != src || replace == nil {
			return nil
		}
		return func(error) {
			if fn := replace; fn != nil {
				replace = nil
				fn()
			}
		}
	}})
	before, after := pattern(100_000, 1), pattern(90_000, 2)
	src = put(t, s, "/f", before).Ino
	h := open(t, s, "/f", false)
	native(t, h) // so that the copy gets a blob of its own
	replaced := false
	replace = func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		put(t, s, "/f", after)
		if err := s.Quiesce(ctx); err != nil {
			t.Error(err)
		}
		replaced = true
	}
	if _, _, err := s.Clone(ctx, src, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatalf("copy of a file that exists: %v", err)
	}
	if !replaced {
		t.Fatal("the file was not replaced meanwhile")
	}
	if got := get(t, s, "/copy"); string(got) != string(before) && string(got) != string(after) {
		t.Errorf("the copy has %d bytes of neither", len(got))
	}
}

// TestTreeThatACopyReplacesIsCollected without anything else that wakes the collector.
func TestTreeThatACopyReplacesIsCollected(t *testing.T) {
	s := storetest.New(t)
	mkdir(t, s, "/src/d")
	mkdir(t, s, "/dst/d")
	for i := range 2000 { // the collector has looked before the copy is complete
		put(t, s, fmt.Sprintf("/src/d/f%d", i), []byte("new"))
	}
	put(t, s, "/dst/d/old", []byte("old"))
	src := lookup(s, "/src")
	if _, _, err := s.Clone(ctx, src.Ino, store.RootIno, "dst", store.CloneOptions{Replace: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old tree to be collected", func() bool { return s.FileCount(ctx) == 4000 && s.DirCount(ctx) == 5 })
}

package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/storetest"
)

// cutOff makes /d/e/sub with a file f in e, removes /d, keeps the collector from it, and
// returns e.
func cutOff(t *testing.T, s *store.Store) store.Attr {
	t.Helper()
	mkdir(t, s, "/d/e/sub")
	put(t, s, "/d/e/f", []byte("f"))
	d, e := lookup(s, "/d"), lookup(s, "/d/e")
	s.HoldTree(d.Ino)
	if err := s.RemoveAll(ctx, store.RootIno, "d", nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestRemovedTreeTakesNothingIn: what is put into a directory of a tree that is removed,
// and not yet collected, would go with it.
func TestRemovedTreeTakesNothingIn(t *testing.T) {
	root := store.RootIno
	for name, add := range map[string]func(s *store.Store, e, keep, tree store.Ino) error{
		"Rename": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, root, "keep", e, "keep", store.RenameOptions{}))
		},
		"RenameOver": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, root, "keep", e, "f", store.RenameOptions{}))
		},
		"RenameTree": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, root, "tree", e, "tree", store.RenameOptions{}))
		},
		"RenameOverTree": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, root, "tree", e, "sub", store.RenameOptions{ReplaceTree: true}))
		},
		"RenameOverEmptyDirectory": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, root, "tree", e, "sub", store.RenameOptions{}))
		},
		"Exchange": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, root, "keep", e, "f", store.RenameOptions{Exchange: true}))
		},
		"ExchangeBack": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, e, "sub", root, "tree", store.RenameOptions{Exchange: true}))
		},
		"RenameOut": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Rename(ctx, e, "sub", root, "out", store.RenameOptions{}))
		},
		"Create": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Create(ctx, e, "new", store.NewNode{}))
		},
		"Mkdir": func(s *store.Store, e, _, _ store.Ino) error {
			return second(s.Create(ctx, e, "new", store.NewNode{Mode: store.ModeDir | 0o755}))
		},
		"Link": func(s *store.Store, e, keep, _ store.Ino) error { return second(s.Link(ctx, keep, e, "new")) },
		"Tmpfile": func(s *store.Store, e, _, _ store.Ino) error {
			_, _, err := s.Tmpfile(ctx, e, store.NewNode{})
			return err
		},
		"LinkTmpfile": func(s *store.Store, e, _, _ store.Ino) error {
			a, h, err := s.Tmpfile(ctx, root, store.NewNode{})
			if err != nil {
				return err
			}
			defer h.Close()
			return second(s.Link(ctx, a.Ino, e, "new"))
		},
		"Clone": func(s *store.Store, e, keep, _ store.Ino) error {
			_, _, err := s.Clone(ctx, keep, e, "new", store.CloneOptions{})
			return err
		},
		"CloneTree": func(s *store.Store, e, _, tree store.Ino) error {
			_, _, err := s.Clone(ctx, tree, e, "new", store.CloneOptions{})
			return err
		},
		"Put":     func(s *store.Store, e, _, _ store.Ino) error { return putAt(s, e, "new") },
		"PutOver": func(s *store.Store, e, _, _ store.Ino) error { return putAt(s, e, "f") },
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			content := pattern(100_000, 1)
			keep := put(t, s, "/keep", content)
			tree := mkdir(t, s, "/tree")
			e := cutOff(t, s)
			before := names(t, s, root)
			wantErr(t, name, add(s, e.Ino, keep.Ino, tree.Ino), store.ErrStale)
			if after := names(t, s, root); after != before {
				t.Errorf("the root has %q, had %q", after, before)
			}
			if got := get(t, s, "/keep"); string(got) != string(content) {
				t.Error("the content of /keep is another")
			}
		})
	}
}

func putAt(s *store.Store, parent store.Ino, name string) error {
	u, err := s.NewUpload(ctx, parent, name, 3)
	if err != nil {
		return err
	}
	if _, err := u.Write([]byte("new")); err != nil {
		return err
	}
	_, _, err = u.Commit(ctx, store.CommitOptions{})
	return err
}

// TestOrphanDirectoriesAreCounted: the count comes back to 0 whatever becomes of them, and
// a restart knows it.
func TestOrphanDirectoriesAreCounted(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	s := m.s
	mkdir(t, s, "/a/b/c/d")
	mkdir(t, s, "/a/b2/c")
	mkdir(t, s, "/x/y")
	put(t, s, "/x/f", []byte("f"))
	p, err := s.Pin(ctx, mkdir(t, s, "/empty").Ino)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Rmdir(ctx, store.RootIno, "empty", nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Clone(ctx, lookup(s, "/a").Ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Clone(ctx, lookup(s, "/a").Ino, store.RootIno, "copy", store.CloneOptions{}); err == nil {
		t.Fatal("a copy over another")
	}
	if _, err := s.Rename(ctx, store.RootIno, "a", store.RootIno, "copy", store.RenameOptions{ReplaceTree: true}); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	if n := s.OrphanDirs(); n != 1 {
		t.Errorf("%d orphans are counted, want the pinned one", n)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	x := lookup(s, "/x")
	s.HoldTree(x.Ino)
	if err := s.RemoveAll(ctx, store.RootIno, "x", nil); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	if n := s.OrphanDirs(); n != 1 {
		t.Errorf("%d orphans are counted, want 1", n)
	}
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	m = m.powerCut(rand.New(rand.NewPCG(1, 1)))
	quiesce(t, m.s)
	if n := m.s.OrphanDirs(); n != 0 {
		t.Errorf("%d orphans are counted after the restart", n)
	}
	wantErr(t, "x", second(m.s.GetAttr(ctx, x.Ino)), store.ErrStale)
}

// removable is a tree that is removed and made again, over and over.
type removable struct {
	mu                sync.Mutex
	dirs              []store.Ino  // of the tree of now
	removing, removed *atomic.Bool // whether the removal of that tree has begun and ended
}

// grow makes the tree and removes it, some times, and leaves it there.
func (r *removable) grow(t *testing.T, s *store.Store, name string, times int) {
	for n := range times + 1 {
		mkdir(t, s, "/"+name+"/a/b/c")
		var dirs []store.Ino
		for _, p := range []string{"", "/a", "/a/b", "/a/b/c"} {
			dirs = append(dirs, lookup(s, "/"+name+p).Ino)
		}
		removing, removed := new(atomic.Bool), new(atomic.Bool)
		r.mu.Lock()
		r.dirs, r.removing, r.removed = dirs, removing, removed
		r.mu.Unlock()
		if n == times {
			return
		}
		time.Sleep(time.Millisecond)
		removing.Store(true)
		if err := s.RemoveAll(ctx, store.RootIno, name, nil); err != nil {
			t.Error(err)
		}
		removed.Store(true)
		time.Sleep(time.Millisecond)
	}
}

// moveInto moves a new file into a directory of r. If the removal of the tree had ended
// before, the file must be refused and stay; if it has not begun afterwards, the file
// must be there.
func (r *removable) moveInto(t *testing.T, s *store.Store, random *rand.Rand, name string) (moved bool) {
	if _, err := s.Create(ctx, store.RootIno, name, store.NewNode{}); err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	to, removing, removed := r.dirs[random.IntN(len(r.dirs))], r.removing, r.removed
	r.mu.Unlock()
	late := removed.Load()
	_, err := s.Rename(ctx, store.RootIno, name, to, name, store.RenameOptions{})
	_, gone := s.LookupPath(ctx, "/"+name)
	_, missing := s.Lookup(ctx, to, name)
	switch {
	case err == nil && late:
		t.Errorf("%s was moved into a tree that had been removed", name)
	case err == nil && gone == nil:
		t.Errorf("%s was moved and is where it was", name)
	case err == nil && missing != nil && !removing.Load():
		t.Errorf("%s was moved and is lost: %v", name, missing)
	case err != nil && !errors.Is(err, store.ErrStale):
		t.Error(err)
	case err != nil && gone != nil:
		t.Errorf("%s was refused and is lost: %v", name, gone)
	}
	return err == nil
}

// shuffle moves the directory c of r to a or back to b, wherever it is.
func (r *removable) shuffle(t *testing.T, s *store.Store) {
	r.mu.Lock()
	a, b, removed := r.dirs[1], r.dirs[2], r.removed
	r.mu.Unlock()
	late := removed.Load()
	for _, way := range [][2]store.Ino{{a, b}, {b, a}} {
		_, err := s.Rename(ctx, way[0], "c", way[1], "c", store.RenameOptions{})
		if err == nil && late {
			t.Error("a directory was moved in a tree that had been removed")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, store.ErrNotEmpty) {
			t.Error(err)
		}
	}
}

// TestNothingIsLostInRemovedTrees moves files into trees that others remove, while their
// directories move.
func TestNothingIsLostInRemovedTrees(t *testing.T) {
	s := storetest.New(t)
	var (
		trees           [3]removable
		growers, movers sync.WaitGroup
		stop            atomic.Bool
		moved, refused  atomic.Int64
	)
	for i := range trees {
		trees[i].grow(t, s, fmt.Sprint("t", i), 0)
	}
	for i := range trees {
		growers.Go(func() { trees[i].grow(t, s, fmt.Sprint("t", i), 50) })
	}
	for g := range uint64(3) {
		movers.Go(func() {
			random := rand.New(rand.NewPCG(g, 7))
			for n := 0; !stop.Load(); n++ {
				if trees[random.IntN(len(trees))].moveInto(t, s, random, fmt.Sprintf("f%d-%d", g, n)) {
					moved.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	movers.Go(func() {
		for n := 0; !stop.Load(); n++ {
			trees[n%len(trees)].shuffle(t, s)
			time.Sleep(100 * time.Microsecond)
		}
	})
	growers.Wait()
	stop.Store(true)
	movers.Wait()
	quiesce(t, s)
	if n := s.OrphanDirs(); n != 0 {
		t.Errorf("%d orphans are counted at the end", n)
	}
	t.Logf("%d files moved, %d refused", moved.Load(), refused.Load())
	if moved.Load() == 0 || refused.Load() == 0 {
		t.Error("both must happen")
	}
}

// TestTreeWithALinkInside: a tree is refused also if what is poisoned or locked in it has
// its home elsewhere.
func TestTreeWithALinkInside(t *testing.T) {
	for name, c := range map[string]struct {
		stop func(*testing.T, *store.Store)
		want error
	}{
		"Poisoned": {func(t *testing.T, s *store.Store) {
			st := poisonFile(t, s, "/f")
			t.Cleanup(func() { reset(t, s, st) })
		}, store.ErrPoisoned},
		"Locked": {func(t *testing.T, s *store.Store) {
			if err := s.FileLocks().Lock(ctx, lookup(s, "/f").Ino, fileLock(1, true), false); err != nil {
				t.Fatal(err)
			}
		}, store.ErrLocked},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			f := put(t, s, "/f", []byte("f"))
			if _, err := s.Link(ctx, f.Ino, mkdir(t, s, "/d/e").Ino, "link"); err != nil {
				t.Fatal(err)
			}
			c.stop(t, s)
			wantErr(t, "of the tree", s.RemoveAll(ctx, store.RootIno, "d", nil), c.want)
			if !exists(s, "/d/e/link") {
				t.Error("the link is gone")
			}
			mkdir(t, s, "/other")
			if err := s.RemoveAll(ctx, store.RootIno, "other", nil); err != nil {
				t.Errorf("of another tree: %v", err)
			}
		})
	}
}

package store_test

import (
	"io/fs"
	"sync"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

func quiesce(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestPinKeepsWhatIsRemoved removes one inode of each type, each in the way that
// fits, while it is pinned.
func TestPinKeepsWhatIsRemoved(t *testing.T) {
	for name, c := range map[string]struct {
		mode   uint32
		remove func(*store.Store) error
	}{
		"File":    {store.ModeRegular | 0o644, func(s *store.Store) error { return s.Unlink(ctx, store.RootIno, "x", nil) }},
		"Symlink": {store.ModeSymlink | 0o777, func(s *store.Store) error { return s.Unlink(ctx, store.RootIno, "x", nil) }},
		"FIFO":    {store.ModeFIFO | 0o644, func(s *store.Store) error { return s.Unlink(ctx, store.RootIno, "x", nil) }},
		"Rmdir":   {store.ModeDir | 0o755, func(s *store.Store) error { return s.Rmdir(ctx, store.RootIno, "x", nil) }},
		"Tree":    {store.ModeDir | 0o755, func(s *store.Store) error { return s.RemoveAll(ctx, store.RootIno, "x", nil) }},
		"Replaced": {store.ModeDir | 0o755, func(s *store.Store) error {
			if _, err := s.Create(ctx, store.RootIno, "y", store.NewNode{Mode: store.ModeDir | 0o755}); err != nil {
				return err
			}
			return second(s.Rename(ctx, store.RootIno, "y", store.RootIno, "x", store.RenameOptions{}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			a, err := s.Create(ctx, store.RootIno, "x", store.NewNode{Mode: c.mode, Target: "t"})
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.Pin(ctx, a.Ino)
			if err != nil || p.Ino() != a.Ino {
				t.Fatal(err)
			}
			again, err := s.Pin(ctx, a.Ino)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.remove(s); err != nil {
				t.Fatal(err)
			}
			quiesce(t, s)
			before, err := s.GetAttr(ctx, a.Ino)
			if err != nil || before.Nlink != 0 {
				t.Fatalf("pinned and removed: %+v, %v; want 0 links", before, err)
			}
			storetest.Check(t, s)
			if a.IsDir() {
				if got := names(t, s, a.Ino); got != "" {
					t.Errorf("entries %q", got)
				}
				_, err := s.Create(ctx, a.Ino, "n", store.NewNode{})
				wantErr(t, "create in a removed directory", err, fs.ErrNotExist)
				_, _, err = s.Tmpfile(ctx, a.Ino, store.NewNode{})
				wantErr(t, "tmpfile in a removed directory", err, fs.ErrNotExist)
			}
			quiesce(t, s)
			if after, _ := s.GetAttr(ctx, a.Ino); after != before {
				t.Errorf("the collector has changed it: %+v, was %+v", after, before)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			wantErr(t, "second Close", p.Close(), fs.ErrClosed)
			quiesce(t, s)
			if _, err := s.GetAttr(ctx, a.Ino); err != nil {
				t.Errorf("collected while a pin is left: %v", err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			quiesce(t, s)
			_, err = s.GetAttr(ctx, a.Ino)
			wantErr(t, "after the last pin", err, store.ErrStale)
			_, err = s.Pin(ctx, a.Ino)
			wantErr(t, "pin of what is gone", err, store.ErrStale)
			storetest.Check(t, s)
		})
	}
}

func TestPutOverPinnedFileKeepsItsInode(t *testing.T) {
	s := storetest.New(t)
	a := put(t, s, "/f", []byte("old"))
	p, err := s.Pin(ctx, a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if b := put(t, s, "/f", []byte("new")); b.Ino != a.Ino {
		t.Errorf("inode %d, was %d", b.Ino, a.Ino)
	}
}

// TestPinOrStale removes files while others pin them: a pin that was had keeps
// the inode until it is closed.
func TestPinOrStale(t *testing.T) {
	s := storetest.New(t)
	for range 200 {
		a := put(t, s, "/f", nil)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				p, err := s.Pin(ctx, a.Ino)
				if err != nil {
					wantErr(t, "pin", err, store.ErrStale)
					return
				}
				if _, err := s.GetAttr(ctx, a.Ino); err != nil {
					t.Errorf("pinned: %v", err)
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		if err := unlink(s, "/f"); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
	quiesce(t, s)
	if n := s.FileCount(ctx); n != 0 {
		t.Errorf("%d files are left", n)
	}
	storetest.Check(t, s)
}

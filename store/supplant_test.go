package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// read returns all that a handle reads.
func read(t testing.TB, h *store.Handle) []byte {
	t.Helper()
	a, err := h.Attr(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, a.Size)
	if n, err := h.ReadAt(ctx, b, 0); int64(n) != a.Size {
		t.Fatalf("read %d of %d bytes: %v", n, a.Size, err)
	}
	return b
}

func TestPutOverOpenFileLeavesHandlesAlone(t *testing.T) {
	for name, size := range map[string]int{"Inline": 100, "Blob": 70_000} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			mkdir(t, s, "/d")
			mkdir(t, s, "/e")
			old := put(t, s, "/d/f", pattern(size, 1))
			for _, p := range []string{"/d/g", "/e/f"} {
				parent, name, err := s.LookupParent(ctx, p)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Link(ctx, old.Ino, parent, name); err != nil {
					t.Fatal(err)
				}
			}
			mode, uid, gid := uint32(0o751), uint32(11), uint32(12)
			if _, err := s.SetAttr(ctx, old.Ino, store.SetAttr{Mode: &mode, UID: &uid, GID: &gid}); err != nil {
				t.Fatal(err)
			}
			if err := s.SetXattr(ctx, old.Ino, "user.k", []byte("v"), 0); err != nil {
				t.Fatal(err)
			}
			reader, err := s.Open(ctx, old.Ino, false)
			if err != nil {
				t.Fatal(err)
			}
			writer, err := s.Open(ctx, old.Ino, true)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := writer.WriteAt(ctx, []byte("mine"), 0); err != nil {
				t.Fatal(err)
			}
			mine := read(t, reader)

			fresh := put(t, s, "/d/g", pattern(30_000, 9))
			if fresh.Ino == old.Ino || fresh.ETag() == old.ETag() {
				t.Errorf("inode %d with ETag %s, want another than %d", fresh.Ino, fresh.ETag(), old.Ino)
			}
			if fresh.Mode&store.ModePerm != mode || fresh.UID != uid || fresh.GID != gid || fresh.Btime != old.Btime || fresh.Nlink != 3 {
				t.Errorf("attributes %+v", fresh)
			}
			for _, p := range []string{"/d/f", "/d/g", "/e/f"} {
				if lookup(s, p) != fresh || !bytes.Equal(get(t, s, p), pattern(30_000, 9)) {
					t.Errorf("%s is %+v", p, lookup(s, p))
				}
			}
			if v, err := s.GetXattr(ctx, fresh.Ino, "user.k"); err != nil || string(v) != "v" {
				t.Errorf("extended attribute %q, %v", v, err)
			}
			if got := read(t, reader); !bytes.Equal(got, mine) {
				t.Error("the open handle reads something else")
			}
			if _, err := writer.WriteAt(ctx, []byte("still"), 10); err != nil {
				t.Errorf("write to the old content: %v", err)
			}
			if a, err := reader.Attr(ctx); err != nil || a.Nlink != 0 || a.Ino != old.Ino {
				t.Errorf("old inode %+v, %v", a, err)
			}
			quiesce(t, s)
			storetest.Check(t, s)
			if err := reader.Close(); err != nil {
				t.Fatal(err)
			}
			if err := writer.Close(); err != nil {
				t.Fatal(err)
			}
			quiesce(t, s)
			_, err = s.GetAttr(ctx, old.Ino)
			wantErr(t, "old inode after its last handle", err, store.ErrStale)
			if s.FileCount(ctx) != 1 || s.TotalSize(ctx) != 30_000 {
				t.Errorf("%d files, %d bytes", s.FileCount(ctx), s.TotalSize(ctx))
			}
			storetest.Check(t, s)
			if again := put(t, s, "/d/f", nil); again.Ino != fresh.Ino {
				t.Error("a PUT over a file that is not open made a new inode")
			}
		})
	}
}

func TestPutOverOpenFileAsksTheOldInode(t *testing.T) {
	s := storetest.New(t)
	old := put(t, s, "/f", []byte("old"))
	h, err := s.Open(ctx, old.Ino, false)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	commit := func(cond store.Cond) error {
		u, err := s.NewUpload(ctx, store.RootIno, "f", -1)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Abort()
		_, created, err := u.Commit(ctx, store.CommitOptions{Cond: cond})
		if created {
			t.Error("created")
		}
		return err
	}
	wantErr(t, "refused", commit(func(cur *store.Attr) error {
		if cur.ETag() != old.ETag() {
			t.Errorf("asked with %+v", cur)
		}
		return store.ErrPrecondition
	}), store.ErrPrecondition)
	if lookup(s, "/f").Ino != old.Ino {
		t.Error("a refused PUT has moved the name")
	}
	if err := commit(nil); err != nil {
		t.Fatal(err)
	}
}

// TestPutOverOpenFileNeedsItsDirectories: the names move, so a poisoned directory
// among those that hold them refuses the PUT, and nothing has changed then.
func TestPutOverOpenFileNeedsItsDirectories(t *testing.T) {
	s := storetest.New(t)
	mkdir(t, s, "/d")
	mkdir(t, s, "/e")
	old := put(t, s, "/d/f", []byte("old"))
	if _, err := s.Link(ctx, old.Ino, lookup(s, "/e").Ino, "f"); err != nil {
		t.Fatal(err)
	}
	arm(t, s, "/e", "change:locked", "panic")
	_, err := s.Create(ctx, lookup(s, "/e").Ino, "x", store.NewNode{})
	wantErr(t, "create", err, store.ErrPoisoned)
	if _, err := tryPut(s, "/d/f", []byte("unopened")); err != nil {
		t.Errorf("PUT over a file that is not open: %v", err)
	}
	h, err := s.Open(ctx, old.Ino, false)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, err = tryPut(s, "/d/f", []byte("opened"))
	wantErr(t, "PUT over the open file", err, store.ErrPoisoned)
	if got := get(t, s, "/d/f"); string(got) != "unopened" || lookup(s, "/d/f").Ino != old.Ino {
		t.Errorf("content %q", got)
	}
}

func TestPutOverOpenFileWithManyNames(t *testing.T) {
	s := storetest.New(t)
	old := put(t, s, "/f", []byte("old"))
	for i := range 999 {
		dir := mkdir(t, s, fmt.Sprintf("/d%d", i%300))
		if _, err := s.Link(ctx, old.Ino, dir.Ino, fmt.Sprintf("l%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	h, err := s.Open(ctx, old.Ino, false)
	if err != nil {
		t.Fatal(err)
	}
	if fresh := put(t, s, "/f", []byte("new")); fresh.Ino == old.Ino || fresh.Nlink != 1000 {
		t.Errorf("inode %+v", fresh)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "/d7/l7"); string(got) != "new" {
		t.Errorf("content %q", got)
	}
	if _, err := s.Link(ctx, lookup(s, "/f").Ino, store.RootIno, "one more"); err != nil {
		t.Fatal(err)
	}
	if h, err = s.Open(ctx, lookup(s, "/f").Ino, false); err != nil {
		t.Fatal(err)
	}
	_, err = tryPut(s, "/f", []byte("newer"))
	wantErr(t, "1,001 names", err, store.ErrLocked)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tryPut(s, "/f", []byte("newer")); err != nil {
		t.Errorf("1,001 names, not open: %v", err)
	}
	storetest.Check(t, s)
}

// TestPutsNeverShowThroughOpenHandles puts while others open the file, read it
// twice and close it: what a handle reads is one PUT's content and stays it.
func TestPutsNeverShowThroughOpenHandles(t *testing.T) {
	s := storetest.New(t)
	put(t, s, "/f", bytes.Repeat([]byte{0}, 40_000))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var reads atomic.Int64
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				h, err := s.Open(ctx, lookup(s, "/f").Ino, false)
				if errors.Is(err, store.ErrStale) {
					continue // replaced since it was looked up
				}
				if err != nil {
					t.Error(err)
					return
				}
				first := read(t, h)
				second := read(t, h)
				if !bytes.Equal(first, second) || !bytes.Equal(first, bytes.Repeat(first[:1], len(first))) {
					t.Error("a PUT shows through an open handle")
				}
				reads.Add(1)
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	fresh := map[store.Ino]bool{}
	for i := range 300 {
		fresh[put(t, s, "/f", bytes.Repeat([]byte{byte(i)}, 100+i%2*40_000)).Ino] = true
	}
	close(stop)
	readers.Wait()
	if reads.Load() == 0 || len(fresh) < 2 {
		t.Errorf("%d reads, %d inodes: nothing was tried", reads.Load(), len(fresh))
	}
	quiesce(t, s)
	if n := s.FileCount(ctx); n != 1 {
		t.Errorf("%d files are left", n)
	}
	storetest.Check(t, s)
}

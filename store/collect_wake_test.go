package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// orphanScans counts the collector's looks at the orphans, and the records that it meets.
type orphanScans struct {
	meta.Engine
	looks, records atomic.Int64
}

func (e *orphanScans) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	if len(lo) == 0 || lo[0] != 'O' {
		return e.Engine.Scan(lo, hi, fn)
	}
	e.looks.Add(1)
	return e.Engine.Scan(lo, hi, func(key, value []byte) bool {
		e.records.Add(1)
		return fn(key, value)
	})
}

func newOrphanScans(t *testing.T) (*store.Store, *orphanScans) {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	e := &orphanScans{Engine: db}
	s, err := store.Open(ctx, store.Options{Meta: e, Blobs: storetest.NewMemBlobs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		storetest.Check(t, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, e
}

// TestRoundPassesEachOrphanOnce: a round must not begin from the first orphan for every few
// that it has to leave because they are open.
func TestRoundPassesEachOrphanOnce(t *testing.T) {
	s, e := newOrphanScans(t)
	const n = 3000
	pins := make([]*store.Pin, n)
	for i := range pins {
		name := fmt.Sprint("f", i)
		a, err := s.Create(ctx, store.RootIno, name, store.NewNode{})
		if err != nil {
			t.Fatal(err)
		}
		if pins[i], err = s.Pin(ctx, a.Ino); err != nil {
			t.Fatal(err)
		}
		if err := s.Unlink(ctx, store.RootIno, name, nil); err != nil {
			t.Fatal(err)
		}
	}
	quiesce(t, s)
	e.records.Store(0)
	quiesce(t, s)
	if met := e.records.Load(); met < n || met > 3*n {
		t.Errorf("a round met %d records of %d orphans", met, n)
	}
	for _, p := range pins {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	quiesce(t, s)
	if left := s.FileCount(ctx); left != 0 {
		t.Errorf("%d files are left", left)
	}
}

// TestChildDirectoryThatComesFirst: a round also takes a directory that has become an
// orphan in it, and whose number is below its parent's.
func TestChildDirectoryThatComesFirst(t *testing.T) {
	s, _ := newOrphanScans(t)
	parent := store.RootIno
	var dirs []store.Ino
	for i := range 5 {
		dirs = append(dirs, mkdir(t, s, fmt.Sprint("/d", i)).Ino)
	}
	for i := len(dirs) - 1; i >= 0; i-- { // d4/d3/d2/d1/d0
		if _, err := s.Rename(ctx, store.RootIno, fmt.Sprint("d", i), parent, fmt.Sprint("d", i), store.RenameOptions{}); err != nil {
			t.Fatal(err)
		}
		parent = dirs[i]
	}
	if err := s.RemoveAll(ctx, store.RootIno, "d4", nil); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	for _, d := range dirs {
		wantErr(t, "a directory of a removed tree", second(s.GetAttr(ctx, d)), store.ErrStale)
	}
}

// TestUploadsDoNotWakeTheCollector: they leave nothing to collect.
func TestUploadsDoNotWakeTheCollector(t *testing.T) {
	s, e := newOrphanScans(t)
	quiesce(t, s)
	e.looks.Store(0)
	for i := range 20 {
		put(t, s, fmt.Sprint("/f", i), pattern(50_000, byte(i)))
	}
	time.Sleep(50 * time.Millisecond)
	if n := e.looks.Load(); n != 0 {
		t.Errorf("the collector looked %d times for orphans", n)
	}
}

// TestGarbageThatWasBeingWritten: content that lost its file before its upload has ended is
// removed when it has.
func TestGarbageThatWasBeingWritten(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	a := put(t, s, "/f", pattern(50_000, 1))
	id := s.BlobOf(a.Ino)
	s.BeginBlob(id)
	if err := s.Unlink(ctx, store.RootIno, "f", nil); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	if blobs.Len() != 1 {
		t.Fatal("content that is being written was removed")
	}
	s.EndBlob(id)
	eventually(t, "the content is removed", func() bool { return blobs.Len() == 0 })
}

// TestTmpfileThatDies leaves nothing, without anybody waking the collector.
func TestTmpfileThatDies(t *testing.T) {
	var armed atomic.Bool
	s, _ := storetest.NewWith(t, store.Options{Began: func(_ context.Context, op string, _ store.Ino) func(error) {
		if op == "open" && armed.Swap(false) {
			panic("while it is being opened")
		}
		return nil
	}})
	quiesce(t, s)
	armed.Store(true)
	func() {
		defer func() { _ = recover() }()
		if _, _, err := s.Tmpfile(ctx, store.RootIno, store.NewNode{}); err == nil {
			t.Error("no error")
		}
	}()
	if armed.Load() {
		t.Fatal("nothing has died")
	}
	eventually(t, "the file is removed", func() bool { return s.FileCount(ctx) == 0 })
}

// TestDrillWaitsForItsPath: a change that locks nothing for writing does not use it up.
func TestDrillWaitsForItsPath(t *testing.T) {
	s := storetest.New(t)
	g := put(t, s, "/g", []byte("g"))
	mkdir(t, s, "/d")
	for _, point := range []string{"", "change:computed"} {
		if err := s.ArmFault(ctx, "/g", point, "error"); err != nil {
			t.Fatal(err)
		}
		_, h, err := s.Tmpfile(ctx, store.RootIno, store.NewNode{})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Clone(ctx, lookup(s, "/d").Ino, store.RootIno, "copy"+point, store.CloneOptions{}); err != nil {
			t.Fatal(err)
		}
		wantErr(t, point, second(s.SetAttr(ctx, g.Ino, store.SetAttr{AtimeNow: true})), store.ErrFault)
	}
}

// TestLockOfARecreatedPathStays: who locks a path that was removed and made again, before
// the removal has ended the locks of what was there, keeps that lock.
func TestLockOfARecreatedPathStays(t *testing.T) {
	var (
		s    *store.Store
		once sync.Once
		old  store.DAVLock
		lock store.DAVLock
	)
	s, _ = storetest.NewWith(t, store.Options{Began: func(_ context.Context, op string, _ store.Ino) func(error) {
		if op != "unlink" && op != "rename" {
			return nil
		}
		return func(error) {
			once.Do(func() {
				_, err := s.Create(ctx, store.RootIno, "f", store.NewNode{})
				err = errors.Join(err, s.DAVLocks().Unlock(s.Now(), old.Token)) // the lock's owner, by himself
				var lerr error
				lock, lerr = s.DAVLocks().Create(s.Now(), store.DAVLock{Path: "/f", Principal: "p"})
				if err = errors.Join(err, lerr); err != nil {
					t.Error(err)
				}
			})
		}
	}})
	for name, change := range map[string]func(ctx context.Context) error{
		"Unlink": func(ctx context.Context) error { return s.Unlink(ctx, store.RootIno, "f", nil) },
		"Rename": func(ctx context.Context) error {
			return second(s.Rename(ctx, store.RootIno, "f", store.RootIno, "g", store.RenameOptions{}))
		},
	} {
		put(t, s, "/f", nil)
		var err error
		if old, err = s.DAVLocks().Create(s.Now(), store.DAVLock{Path: "/f", Principal: "p"}); err != nil {
			t.Fatal(err)
		}
		once = sync.Once{}
		if err := change(store.WithOrigin(ctx, store.NewOrigin())); err != nil {
			t.Fatal(err)
		}
		if _, err := s.DAVLocks().Get(s.Now(), lock.Token); err != nil {
			t.Errorf("%s: the new lock: %v", name, err)
		}
		if err := s.DAVLocks().Unlock(s.Now(), lock.Token); err != nil {
			t.Fatal(err)
		}
	}
}

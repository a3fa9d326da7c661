package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/blob/local"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/poison"
)

// internalStore is a store for tests that reach below its methods.
func internalStore(t *testing.T, o Options) *Store {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := local.Open(t.TempDir(), local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	o.Meta, o.Blobs, o.Reserve = db, blobs, -1
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// putRecord writes a record behind the store's back.
func putRecord(t *testing.T, s *Store, key, value []byte) {
	t.Helper()
	if err := s.engine.Update(func(tx meta.Txn) error { tx.Put(key, value); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedOrphansDoNotKeepOthers puts damaged orphans of every kind in front
// of a good one.
func TestDamagedOrphansDoNotKeepOthers(t *testing.T) {
	ctx := context.Background()
	var log bytes.Buffer
	s := internalStore(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	orphanDir := func(ino Ino, entries map[string][]byte) {
		putRecord(t, s, inoKey(keyInode, ino), appendInode(nil, &inode{Attr: Attr{Ino: ino, Mode: ModeDir | 0o755}}))
		for name, record := range entries {
			putRecord(t, s, direntKey(ino, name), record)
		}
		putRecord(t, s, inoKey(keyOrphan, ino), []byte{})
	}
	putRecord(t, s, inoKey(keyInode, 1001), []byte("no inode")) // undecodable
	putRecord(t, s, inoKey(keyOrphan, 1001), []byte{})
	putRecord(t, s, inoKey(keyOrphan, 1002), []byte{}) // missing
	orphanDir(1003, map[string][]byte{"bad": []byte("no record")[:5], "gone": appendDirent(nil, dirent{ino: 9999, typ: ModeRegular})})
	a, err := s.Create(ctx, RootIno, "f", NewNode{})
	if err != nil {
		t.Fatal(err)
	}
	orphanDir(1004, nil)
	s.collector.wake()
	if err := s.Unlink(ctx, RootIno, "f", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	for _, ino := range []Ino{1002, 1003, 1004, a.Ino} {
		if _, err := s.engine.Get(inoKey(keyOrphan, ino)); !errors.Is(err, meta.ErrNotFound) {
			t.Errorf("orphan record of %d is left (%v)", ino, err)
		}
		if _, err := readInode(s.engine, ino); !errors.Is(err, ErrStale) {
			t.Errorf("inode %d is left (%v)", ino, err)
		}
	}
	if _, err := s.engine.Get(inoKey(keyOrphan, 1001)); err != nil {
		t.Errorf("the damaged one is to stay for those who can repair it: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"collect inode 1001", `name=bad`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, &log)
		}
	}
}

// TestNodeLoadPanicIsNotForEver: an engine that panics once must not make an
// inode unreachable.
func TestNodeLoadPanicIsNotForEver(t *testing.T) {
	c := testCache(t, 5, 64)
	good := c.engine
	c.engine = panicEngine{good}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = c.acquire(3)
	}()
	if n := c.peek(3); n != nil {
		t.Error("a node that was never loaded is in the cache")
	}
	c.engine = good
	n, err := c.acquire(3)
	if err != nil {
		t.Fatalf("after the panic: %v", err)
	}
	c.release(n)
}

type panicEngine struct{ meta.Engine }

func (panicEngine) Get([]byte) ([]byte, error) { panic("engine") }

// TestReservedNodesHoldOthersBack: between the batch that creates an inode and
// its publication nobody can load it from the engine.
func TestReservedNodesHoldOthersBack(t *testing.T) {
	c := testCache(t, 5, 1)
	v := inode{Attr: Attr{Ino: 77, Mode: ModeRegular, Nlink: 1, Size: 1}}
	nodes, err := c.reserve([]inode{v})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.engine.Update(func(tx meta.Txn) error { tx.Put(inoKey(keyInode, 77), appendInode(nil, &v)); return nil }); err != nil {
		t.Fatal(err)
	}
	got := make(chan *node, 2)
	for range 2 {
		go func() {
			n, err := c.acquire(77)
			if err != nil {
				t.Error(err)
			}
			got <- n
		}()
	}
	for { // until both wait
		sh := c.shard(77)
		sh.mu.Lock()
		refs := sh.nodes[77].refs
		sh.mu.Unlock()
		if refs == 3 {
			break
		}
	}
	c.born(nodes, []inode{v})
	a, b := <-got, <-got
	if a != nodes[0] || b != nodes[0] {
		t.Error("there are two locks for one inode")
	}
	c.release(a)
	c.release(b)
	if _, err := c.reserve([]inode{v}); !errors.Is(err, ErrDamaged) {
		t.Errorf("reserving what exists: %v", err)
	}
}

// TestAbandonedNodesAreLoaded: whoever waited for an inode whose creation died
// after its batch gets what the engine has.
func TestAbandonedNodesAreLoaded(t *testing.T) {
	c := testCache(t, 5, 1)
	v := inode{Attr: Attr{Ino: 77, Mode: ModeRegular, Nlink: 1}}
	for _, inEngine := range []bool{false, true} {
		nodes, err := c.reserve([]inode{v})
		if err != nil {
			t.Fatal(err)
		}
		if inEngine {
			if err := c.engine.Update(func(tx meta.Txn) error { tx.Put(inoKey(keyInode, 77), appendInode(nil, &v)); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		got := make(chan error, 1)
		go func() {
			n, err := c.acquire(77)
			if err == nil {
				c.release(n)
			}
			got <- err
		}()
		for refs := 0; refs < 2; {
			sh := c.shard(77)
			sh.mu.Lock()
			refs = sh.nodes[77].refs
			sh.mu.Unlock()
		}
		c.abandon(nodes)
		if err := <-got; (err == nil) != inEngine || err != nil && !errors.Is(err, ErrStale) {
			t.Errorf("in the engine: %v, acquire: %v", inEngine, err)
		}
	}
}

// TestUsageResetCountsEveryBatchOnce resets the usage counts while changes are
// between their batch and their counting.
func TestUsageResetCountsEveryBatchOnce(t *testing.T) {
	ctx := context.Background()
	s := internalStore(t, Options{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Create(ctx, RootIno, fmt.Sprintf("f%d-%d", g, i), NewNode{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 200 {
		s.usage.Poison("test", poison.Manual, "by hand")
		st, err := s.LockStatus(lockUsage)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.ResetLock(ctx, lockUsage, st.Gen, false); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	want, err := loadUsage(s.engine)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.readUsage(ctx, "test"); got != want {
		t.Errorf("memory counts %+v, the engine %+v", got, want)
	}
}

package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/poison"
)

func testCache(t *testing.T, inodes, limit int) *nodeCache {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	reg := poison.NewRegistry(poison.RegistryOptions{})
	t.Cleanup(func() {
		reg.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Update(func(tx meta.Txn) error {
		for i := 1; i <= inodes; i++ {
			tx.Put(inoKey(keyInode, Ino(i)), appendInode(nil, &inode{Attr: Attr{Mode: ModeRegular, Nlink: 1, Size: int64(i)}}))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c := newNodeCache(db, limit)
	c.family = reg.NewFamily(poison.FamilyOptions{Name: lockInode, Rank: rankInode, Class: poison.Durable})
	return c
}

func (c *nodeCache) count() (n int) {
	c.each(func(*node) bool { n++; return true })
	return n
}

func TestNodeCacheIsBounded(t *testing.T) {
	c := testCache(t, 5000, 640)
	for i := 1; i <= 5000; i++ {
		n, err := c.acquire(Ino(i))
		if err != nil {
			t.Fatal(err)
		}
		c.release(n)
	}
	if n := c.count(); n > 640 || n < 320 {
		t.Errorf("%d nodes in memory, want at most 640", n)
	}
}

func TestNodeCacheKeepsUsedAndPoisoned(t *testing.T) {
	c := testCache(t, 5000, 64)
	used, err := c.acquire(1)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := c.acquire(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.guard.Write("test", func(*inode) error { panic("die") }); !errors.Is(err, ErrPoisoned) {
		t.Fatal(err)
	}
	c.release(bad)
	for i := 3; i <= 5000; i++ {
		n, err := c.acquire(Ino(i))
		if err != nil {
			t.Fatal(err)
		}
		c.release(n)
	}
	if c.peek(1) != used {
		t.Error("a referenced node was evicted")
	}
	if c.peek(2) != bad {
		t.Error("a poisoned node was evicted")
	}
}

// TestNodeCacheOneLockPerInode acquires the same few inodes from many goroutines,
// with a cache so small that they are evicted all the time.
func TestNodeCacheOneLockPerInode(t *testing.T) {
	c := testCache(t, 200, 1)
	var wg sync.WaitGroup
	var held [201]sync.Mutex
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				ino := Ino((i*7+g)%200 + 1)
				n, err := c.acquire(ino)
				if err != nil {
					t.Error(err)
					return
				}
				if err := n.guard.Write("test", func(v *inode) error {
					if !held[ino].TryLock() {
						return fmt.Errorf("inode %d has two locks", ino)
					}
					defer held[ino].Unlock()
					if v.Size != int64(ino) {
						return fmt.Errorf("inode %d holds %d", ino, v.Size)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				c.release(n)
			}
		})
	}
	wg.Wait()
	if _, err := c.acquire(999); !errors.Is(err, ErrStale) {
		t.Errorf("acquire of a missing inode: %v, want ErrStale", err)
	}
}

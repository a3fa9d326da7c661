package pebble

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"engramfs/store/meta"
	"engramfs/store/meta/metatest"
)

// An engine in which Pebble has panicked leaves the goroutines of its file cache; one that
// is not closed leaves others, too.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/internal/genericcache.(*shard[...]).releaseLoop"))
}

// TestConformance runs the suite on the real file system.
func TestConformance(t *testing.T) {
	metatest.Run(t, func(t *testing.T) metatest.Harness {
		dir := filepath.Join(t.TempDir(), "meta")
		return metatest.Harness{
			Open:           func() (meta.Engine, error) { return asEngine(Open(dir, Options{Create: true})) },
			OpenCheckpoint: func(dir string) (meta.Engine, error) { return asEngine(Open(dir, Options{})) },
		}
	})
}

// TestConformanceWithCrashes runs the suite on a file system in memory that
// loses what was not synced, with memtables so small that crashes meet flushes,
// compactions and WAL rotations.
func TestConformanceWithCrashes(t *testing.T) {
	for name, keep := range map[string]int{"LoseAllUnsynced": 0, "KeepSomeUnsynced": 50} {
		t.Run(name, func(t *testing.T) {
			metatest.Run(t, func(t *testing.T) metatest.Harness {
				c := &crashable{fs: vfs.NewCrashableMem(), keep: keep}
				return metatest.Harness{Open: c.open, Crash: c.crash, OpenCheckpoint: c.openCheckpoint}
			})
		})
	}
}

// crashable is a store on a file system that can lose power.
type crashable struct {
	mu   sync.Mutex
	fs   *vfs.MemFS
	keep int // percentage of unsynced blocks and names that survive
	seed uint64
}

func (c *crashable) options() Options {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Options{Create: true, FS: c.fs, MemTableSize: 64 << 10, SlowDisk: -1}
}

func (c *crashable) open() (meta.Engine, error) { return asEngine(Open("/data/meta", c.options())) }

func (c *crashable) openCheckpoint(dir string) (meta.Engine, error) {
	opts := c.options()
	opts.Create = false
	return asEngine(Open(dir, opts))
}

func (c *crashable) crash() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seed++
	c.fs = c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.keep, RNG: rand.New(rand.NewPCG(c.seed, 1))})
}

func asEngine(db *DB, err error) (meta.Engine, error) {
	if err != nil {
		return nil, err
	}
	return db, nil
}

// mustOpen opens a store and closes it at the end of the test; a failed engine may
// say so then.
func mustOpen(t *testing.T, dir string, opts Options) *DB {
	t.Helper()
	db, err := Open(dir, opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func put(t *testing.T, db *DB, pairs ...string) {
	t.Helper()
	if err := tryPut(db, pairs...); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func tryPut(db *DB, pairs ...string) error {
	return db.Update(func(tx meta.Txn) error {
		for i := 0; i < len(pairs); i += 2 {
			tx.Put([]byte(pairs[i]), []byte(pairs[i+1]))
		}
		return nil
	})
}

func wantGet(t *testing.T, db *DB, key, want string) {
	t.Helper()
	if got, err := db.Get([]byte(key)); err != nil || string(got) != want {
		t.Errorf("Get(%q) = %q, %v, want %q", key, got, err, want)
	}
}

// TestNoSyncLosesData is the control of the crash tests: without Sync a power
// cut does lose updates, so the harness would notice a missing fsync.
func TestNoSyncLosesData(t *testing.T) {
	c := &crashable{fs: vfs.NewCrashableMem()}
	db := mustOpen(t, "/meta", c.options())
	put(t, db, "synced", "1")
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	put(t, db, "unsynced", "1")
	c.crash()
	db = mustOpen(t, "/meta", c.options())
	wantGet(t, db, "synced", "1")
	if _, err := db.Get([]byte("unsynced")); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("an update that was not synced survived the crash (%v): the harness proves nothing", err)
	}
}

func TestCheckpointOpensAsStore(t *testing.T) {
	root := t.TempDir()
	db := mustOpen(t, filepath.Join(root, "meta"), Options{Create: true})
	put(t, db, "a", "1")
	// Next to the store and on another file system in the sense of the fence.
	dir := filepath.Join(root, "backups", "one")
	if err := db.Checkpoint(dir); err != nil {
		t.Fatal(err)
	}
	put(t, db, "a", "2")
	copied := mustOpen(t, dir, Options{})
	wantGet(t, copied, "a", "1")
	put(t, copied, "b", "1")
	wantGet(t, db, "a", "2")
	if _, err := os.Stat(filepath.Join(dir, formatName)); err != nil {
		t.Error(err)
	}
	if err := db.Checkpoint(filepath.Join(root, "meta", "inside")); err == nil {
		t.Error("a checkpoint inside the store's own directory succeeded")
	}
	put(t, db, "a", "3")
}

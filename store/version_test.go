package store_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// A second copy knows by the value under RunKey whether it has all that the engine has.
func TestRunKeyIsAnotherOneAtEveryTurn(t *testing.T) {
	mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
	engine := func() *pebble.DB {
		t.Helper()
		db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20, MemTableSize: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	seen, runs := map[string]bool{}, uint64(0)
	for range 3 {
		db := engine()
		s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs})
		if err != nil {
			t.Fatal(err)
		}
		during, err := db.Get(store.RunKey())
		if err != nil || len(during) != 16 || seen[string(during)] {
			t.Errorf("during a run: %x, %v", during, err)
		}
		if n := store.Runs(db); n <= runs {
			t.Errorf("%d runs after %d", n, runs)
		}
		runs = store.Runs(db)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		blobs = blobs.Snapshot()
		db = engine()
		after, err := db.Get(store.RunKey())
		if err != nil || len(after) != 16 || seen[string(after)] || string(after) == string(during) {
			t.Errorf("after a run: %x, during it %x, %v", after, during, err)
		}
		seen[string(during)], seen[string(after)] = true, true
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

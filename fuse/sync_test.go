package fuse

import (
	"context"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// openOn opens a store on a disk that can lose power.
func openOn(t *testing.T, mem *vfs.MemFS, blobs *storetest.MemBlobs) *store.Store {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20})
	must(t, err)
	s, err := store.Open(context.Background(), store.Options{Meta: db, Blobs: blobs})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestTruncateOfASyncMountIsDurable cuts the power after truncate(2) was answered.
func TestTruncateOfASyncMountIsDurable(t *testing.T) {
	mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
	m := mountForTest(t, Options{Store: openOn(t, mem, blobs), Sync: true})
	sizes := map[string]int64{"empty": 1 << 20, "small": 1 << 20, "large": 1 << 20, "cut": 50_000}
	for name, before := range map[string]int{"empty": 0, "small": 100, "large": 100_000, "cut": 100_000} {
		must(t, os.WriteFile(m.path(name), make([]byte, before), 0o644))
		must(t, os.Truncate(m.path(name), sizes[name]))
	}
	disk := mem.CrashClone(vfs.CrashCloneCfg{RNG: rand.New(rand.NewPCG(1, 1))})
	s := openOn(t, disk, blobs.PowerCut())
	for name, size := range sizes {
		a, err := s.LookupPath(context.Background(), "/"+name)
		if err != nil || a.Size != size {
			t.Errorf("%s has %d bytes after the power cut (%v), want %d", name, a.Size, err, size)
		}
	}
	storetest.Check(t, s)
}

package store_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// afterSync calls hook once, after the next Sync.
type afterSync struct {
	meta.Engine
	hook atomic.Pointer[func()]
}

func (e *afterSync) Sync() error {
	err := e.Engine.Sync()
	if hook := e.hook.Swap(nil); hook != nil {
		(*hook)()
	}
	return err
}

// removals calls before ahead of each removal of a blob.
type removals struct {
	*storetest.MemBlobs
	before func(blob.ID)
}

func (b *removals) Delete(id blob.ID) error {
	b.before(id)
	return b.MemBlobs.Delete(id)
}

// TestLastNameGoesWhileTheCollectorLooks removes one of two names of some content, and the
// other just when the collector has made sure that the first removal is durable. A power
// cut takes the second removal back, so the content must stay until that is durable, too.
func TestLastNameGoesWhileTheCollectorLooks(t *testing.T) {
	for range 20 {
		mem := vfs.NewCrashableMem()
		db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem})
		if err != nil {
			t.Fatal(err)
		}
		e := &afterSync{Engine: db}
		blobs := &removals{MemBlobs: storetest.NewMemBlobs()}
		blobs.before = func(id blob.ID) {
			disk := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
			left, err := pebble.Open("meta", pebble.Options{FS: disk})
			if err != nil {
				t.Error(err)
				return
			}
			defer left.Close()
			if refs, err := left.Counter(append([]byte{'R'}, id[:]...)); err != nil || refs > 0 {
				t.Errorf("content is removed to which the disk has %d references, %v", refs, err)
			}
		}
		s, err := store.Open(ctx, store.Options{Meta: e, Blobs: blobs})
		if err != nil {
			t.Fatal(err)
		}
		a := put(t, s, "/f", pattern(100_000, 1))
		if _, _, err := s.Clone(ctx, a.Ino, store.RootIno, "c", store.CloneOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		remove := func() {
			if err := s.Unlink(ctx, store.RootIno, "f", nil); err != nil {
				t.Error(err)
			}
		}
		if err := s.Unlink(ctx, store.RootIno, "c", nil); err != nil {
			t.Fatal(err)
		}
		e.hook.Store(&remove)
		if err := s.Quiesce(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

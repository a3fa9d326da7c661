package torture

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

var ctx = context.Background()

// disk is what a machine's store lies on.
type disk struct {
	mem   *vfs.MemFS
	blobs *storetest.MemBlobs
}

func newDisk() disk { return disk{vfs.NewCrashableMem(), storetest.NewMemBlobs()} }

// machine is a running store whose calls to its disk are watched.
type machine struct {
	disk
	Calls
	s *store.Store

	// mu protects what was deleted: a power cut may bring it back, as nobody
	// waits until a removed name is off the disk.
	mu      sync.Mutex
	deleted map[blob.ID][]byte
}

// boot starts a store on a disk.
func boot(d disk) (*machine, error) { return bootWatched(d, nil) }

// bootWatched is boot with the calls of the start watched, too.
func bootWatched(d disk, before func(*machine, Call) Fault) (*machine, error) {
	m := &machine{disk: d, deleted: map[blob.ID][]byte{}}
	if before != nil {
		m.Watch(func(c Call) Fault { return before(m, c) })
		defer m.Watch(nil)
	}
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: m.FS(d.mem), CacheSize: 1 << 20, MemTableSize: 256 << 10, SlowDisk: -1})
	if err != nil {
		return nil, err
	}
	m.s, err = store.Open(ctx, store.Options{Meta: db, Blobs: m.Blobs(&remembering{d.blobs, m}), Reserve: -1})
	return m, err
}

// mustBoot is boot for disks that are in good order.
func mustBoot(t testing.TB, d disk) *machine {
	t.Helper()
	m, err := boot(d)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// powerCut returns what a power cut now leaves of the disk. rng decides what of
// the unsynced gets through; nil: nothing does.
func (m *machine) powerCut(rng *rand.Rand) disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	var after disk
	if rng == nil {
		after.blobs = m.blobs.PowerCut()
		after.mem = m.mem.CrashClone(vfs.CrashCloneCfg{})
		return after
	}
	after.blobs = m.blobs.TornPowerCut(rng, func() {
		after.mem = m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(3) * 50, RNG: rng})
	})
	for id, data := range m.deleted {
		if rng.IntN(2) == 0 {
			restore(after.blobs, id, data)
		}
	}
	return after
}

func restore(to *storetest.MemBlobs, id blob.ID, data []byte) {
	f, err := to.Create(id)
	if err != nil {
		return // it is there: the cut came before the removal
	}
	f.WriteAt(data, 0) // in memory, neither of these fails
	f.Sync()
}

// remembering keeps what is deleted.
type remembering struct {
	*storetest.MemBlobs
	m *machine
}

func (r *remembering) Delete(id blob.ID) error {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if f, err := r.MemBlobs.Open(id, false); err == nil {
		size, _ := f.Size() // cannot fail in memory
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err == nil || err == io.EOF {
			r.m.deleted[id] = b
		}
	}
	return r.MemBlobs.Delete(id)
}

// mustBeSound checks a store, and that it still does its work, and closes it.
func (m *machine) mustBeSound(t testing.TB) {
	t.Helper()
	storetest.Check(t, m.s)
	if err := Write(ctx, m.s, "/still-alive", pattern(20_000, 99)); err != nil {
		t.Errorf("a write afterwards: %v", err)
	}
	if err := m.s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// pattern returns n bytes that depend on seed.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed, byte(n), byte(n >> 8)}).Read(b)
	return b
}

// within fails the test with the stacks of all goroutines if fn hangs.
func within(t testing.TB, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		panic(what + " hangs")
	}
}

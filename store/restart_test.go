package store_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// writePatched writes a file as programs write archives: the body in small
// pieces, beyond what stays inline, and then its header once more. It returns the
// content. Nothing is synced.
func writePatched(t *testing.T, s *store.Store) []byte {
	t.Helper()
	h, err := s.Open(ctx, put(t, s, "/f", nil).Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	want := pattern(40_000, 3)
	for off := 0; off < len(want); off += 4000 {
		if _, err := h.WriteAt(ctx, want[off:off+4000], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	copy(want, "the header, patched at the end")
	if _, err := h.WriteAt(ctx, want[:30], 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestCleanRestartKeepsWhatWasWritten stops the store right after a file was
// written, before it has checksums, and loses all that was not synced then.
func TestCleanRestartKeepsWhatWasWritten(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	want := writePatched(t, m.s)
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	mem := m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	m = boot(t, mem, m.blobs.PowerCut())
	defer m.s.Close()
	if got := get(t, m.s, "/f"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes that begin with %.30q, want %d that begin with %.30q", len(got), got, len(want), want)
	}
	storetest.Check(t, m.s)
}

// TestKillKeepsWhatWasWritten ends the process without a word. The machine goes
// on, and has all that was written.
func TestKillKeepsWhatWasWritten(t *testing.T) {
	open := func(mem *vfs.MemFS, blobs *storetest.MemBlobs) *store.Store {
		db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20, MemTableSize: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs, Boot: "this one"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
	s := open(mem, blobs)
	want := writePatched(t, s)
	if err := s.Sync(ctx); err != nil { // of names and attributes, which are in the process; content is not
		t.Fatal(err)
	}
	killed, content := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}), blobs.Snapshot()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(killed, content)
	defer s.Close()
	if got := get(t, s, "/f"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes that begin with %.30q, want %d that begin with %.30q", len(got), got, len(want), want)
	}
	storetest.Check(t, s)
}

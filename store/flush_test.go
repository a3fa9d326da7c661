package store_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/storetest"
)

// dark returns the machine after a power cut that has kept nothing unsynced.
func (m *machine) dark() *machine {
	m.t.Helper()
	blobs := m.blobs.PowerCut()
	mem := m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	if err := m.s.Close(); err != nil {
		m.t.Fatal(err)
	}
	return boot(m.t, mem, blobs)
}

// TestChangesReachTheDiskUnasked makes changes that nobody syncs, and cuts the
// power a little more than a second later. A handle stays open, because closing
// the last one would have its content synced.
func TestChangesReachTheDiskUnasked(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	h, err := m.s.Open(ctx, put(t, m.s, "/f", pattern(70_000, 1)).Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(flushed) // nothing has happened for a while: the flusher sleeps
	if _, err := h.WriteAt(ctx, []byte("written"), 60_000); err != nil {
		t.Fatal(err)
	}
	mkdir(t, m.s, "/d")
	time.Sleep(2 * flushed) // the content's sync may itself be a change
	syncs := m.s.EngineStats().Syncs
	time.Sleep(flushed)
	if again := m.s.EngineStats().Syncs; again != syncs {
		t.Errorf("%d syncs while nothing changed", again-syncs)
	}
	blobs := m.blobs.PowerCut() // before the close below can sync anything
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	m.blobs = blobs
	m = m.dark()
	defer m.s.Close()
	if _, err := m.s.LookupPath(ctx, "/d"); err != nil {
		t.Errorf("a directory that was made a second ago: %v", err)
	}
	want := pattern(70_000, 1)
	copy(want[60_000:], "written")
	if !bytes.Equal(get(t, m.s, "/f"), want) {
		t.Error("content that was written a second ago is not there")
	}
	storetest.Check(t, m.s)
}

// flushed is when everything is durable for certain: a second and some.
const flushed = 1400 * time.Millisecond

// TestRenameOverReplacesDurably writes a new file beside an old one and renames it
// over that without fsync(2), as many programs do. After a power cut, the name
// means the old content or the new one as a whole.
func TestRenameOverReplacesDurably(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	put(t, m.s, "/f", []byte("old"))
	fresh := put(t, m.s, "/f.new", nil)
	h, err := m.s.Open(ctx, fresh.Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, pattern(50_000, 1), 0); err != nil { // becomes a blob
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, pattern(90_000, 7), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := m.s.Rename(ctx, store.RootIno, "f.new", store.RootIno, "f", store.RenameOptions{}); err != nil {
		t.Fatal(err)
	}
	blobs := m.blobs.PowerCut() // before the close below can sync anything
	if err := m.s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	m.blobs = blobs
	m = m.dark()
	defer m.s.Close()
	if !bytes.Equal(get(t, m.s, "/f"), pattern(90_000, 7)) {
		t.Error("the name means an empty or a torn file")
	}
}

package store_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/blob/local"
	"engramfs/store/storetest"
)

// killed returns the machine as it is after a power cut of which only the engine's
// changes so far survive, and with kept also all content.
func (m *machine) killed(kept bool) *machine {
	m.t.Helper()
	if err := m.s.Sync(ctx); err != nil {
		m.t.Fatal(err)
	}
	mem := m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	blobs := m.blobs.PowerCut()
	if kept {
		blobs = m.blobs.Snapshot()
	}
	if err := m.s.Close(); err != nil {
		m.t.Fatal(err)
	}
	return boot(m.t, mem, blobs)
}

// TestPowerCutAfterSpill grows a file out of the engine without fsync(2). What was
// durable before is there after a power cut, wherever the blob was.
func TestPowerCutAfterSpill(t *testing.T) {
	old := bytes.Repeat([]byte("old."), 1000)
	for name, c := range map[string]struct {
		sync bool // the file after it has grown
		cut  int64
		grow int64 // afterwards
		kept bool
		want func(got []byte) bool
	}{
		"BlobLost":   {want: func(got []byte) bool { return bytes.Equal(got, old) }},
		"BlobKept":   {kept: true, want: func(got []byte) bool { return bytes.HasPrefix(got, old) && len(got) == 60_000 }},
		"Synced":     {sync: true, want: func(got []byte) bool { return bytes.Equal(got, bytes.Repeat([]byte{9}, 60_000)) }},
		"CutSmaller": {cut: 7, want: func(got []byte) bool { return string(got) == "old.old" }},
		// What the file has lost by being cut must not come back with its old bytes.
		"CutAndGrown": {cut: 7, grow: 50, kept: true, want: func(got []byte) bool {
			return bytes.Equal(got, append(bytes.Repeat([]byte{9}, 7), make([]byte, 43)...)) ||
				bytes.Equal(got, append([]byte("old.old"), make([]byte, 43)...))
		}},
		"CutKept": {cut: 7, kept: true, want: func(got []byte) bool { return string(got) == "old.old" }},
	} {
		t.Run(name, func(t *testing.T) {
			m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
			put(t, m.s, "/f", old)
			before := lookup(m.s, "/f")
			h := open(t, m.s, "/f", true)
			write(t, h, bytes.Repeat([]byte{9}, 60_000), 0)
			if c.cut > 0 {
				if err := h.Truncate(ctx, c.cut); err != nil {
					t.Fatal(err)
				}
			}
			if c.grow > 0 {
				if err := h.Truncate(ctx, c.grow); err != nil {
					t.Fatal(err)
				}
			}
			if c.sync {
				if err := h.Sync(ctx); err != nil {
					t.Fatal(err)
				}
			}
			seen := lookup(m.s, "/f")
			m = m.killed(c.kept)
			defer m.s.Close()
			got := get(t, m.s, "/f")
			if !c.want(got) {
				t.Errorf("%d bytes, beginning with %q", len(got), got[:min(len(got), 20)])
			}
			now := lookup(m.s, "/f")
			if now.ETag() == seen.ETag() || now.ETag() == before.ETag() || now.Change <= seen.Change {
				t.Errorf("ETag %s, change %d; before the power cut %s, %s, change %d", now.ETag(), now.Change, before.ETag(), seen.ETag(), seen.Change)
			}
			storetest.Check(t, m.s)
		})
	}
}

// TestUnsealIsDurableFirst writes to a sealed blob, and has the disk keep the bytes
// and lose what the engine has not synced: that is no damage.
func TestUnsealIsDurableFirst(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	put(t, m.s, "/f", pattern(100_000, 1))
	if err := m.s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	write(t, open(t, m.s, "/f", true), []byte("in place"), 1000)
	m.blobs = m.blobs.Snapshot() // what the background syncs afterwards is lost
	mem := m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m = boot(t, mem, m.blobs)
	defer m.s.Close()
	if got := get(t, m.s, "/f"); string(got[1000:1008]) != "in place" {
		t.Errorf("content %q", got[1000:1008])
	}
	storetest.Check(t, m.s)
}

// TestPowerCutTakesNewContent writes a new file that nobody syncs. After a power cut
// it is as long as what has reached the disk, and never has bytes that nobody wrote.
func TestPowerCutTakesNewContent(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	put(t, m.s, "/lost", nil)
	put(t, m.s, "/grown", bytes.Repeat([]byte{1}, 100_000))
	write(t, open(t, m.s, "/lost", true), bytes.Repeat([]byte{2}, 100_000), 0)
	write(t, open(t, m.s, "/grown", true), bytes.Repeat([]byte{3}, 100_000), 100_000)
	m = m.killed(false)
	defer m.s.Close()
	if a := lookup(m.s, "/lost"); a.Size != 0 {
		t.Errorf("the lost file has %d bytes", a.Size)
	}
	if got := get(t, m.s, "/grown"); !bytes.Equal(got, bytes.Repeat([]byte{1}, 100_000)) {
		t.Errorf("the grown file has %d bytes, %d of them zero", len(got), bytes.Count(got, []byte{0}))
	}
	if d := m.s.Damaged(); len(d) > 0 {
		t.Errorf("damaged: %v", d)
	}
	storetest.Check(t, m.s)
}

// TestLostContentIsNeverMadeUp removes a blob behind the store's back.
func TestLostContentIsNeverMadeUp(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	put(t, m.s, "/f", pattern(100_000, 1))
	h := open(t, m.s, "/f", true)
	write(t, h, []byte("x"), 0)
	if err := h.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range m.blobs.IDs() {
		if err := m.blobs.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	m = m.killed(true)
	defer m.s.Close()
	if _, err := tryGet(ctx, m.s, "/f"); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("reading: %v, want %v", err, store.ErrDamaged)
	}
	if a := lookup(m.s, "/f"); a.Size != 100_000 {
		t.Errorf("size %d: the file was cut", a.Size)
	}
	d := m.s.Damaged()
	if len(d) != 1 || d[0].Path != "/f" || d[0].Offset != 0 || d[0].At.IsZero() {
		t.Errorf("damaged: %+v", d)
	}
	put(t, m.s, "/f", []byte("whole again"))
	if d := m.s.Damaged(); len(d) != 0 {
		t.Errorf("damaged after a new content: %+v", d)
	}
}

// TestETagsSurviveLostChanges has changes taken back by a power cut, makes others,
// and expects none of their ETags to have been seen with other bytes.
func TestETagsSurviveLostChanges(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	put(t, m.s, "/f", pattern(100_000, 1))
	if err := m.s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	h := open(t, m.s, "/f", true)
	write(t, h, []byte{0}, 0) // unseals, durably
	seen := map[string]bool{}
	for round := range 3 {
		for i := range 50 {
			write(t, h, []byte{byte(i), byte(round)}, 10)
			tag := tagOf(m.s, "/f")
			if seen[tag] {
				t.Fatalf("ETag %s again in round %d", tag, round)
			}
			seen[tag] = true
		}
		m = m.dark()
		if tag := tagOf(m.s, "/f"); seen[tag] {
			t.Fatalf("ETag %s again after the power cut", tag)
		}
		h = open(t, m.s, "/f", true)
	}
	storetest.Check(t, m.s)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := m.s.Close(); err != nil {
		t.Error(err)
	}
}

func tagOf(s *store.Store, path string) string {
	a := lookup(s, path)
	return a.ETag()
}

// TestKilledWhileWrittenNatively ends the store while a kernel writes to a blob, and
// lets it write on.
func TestKilledWhileWrittenNatively(t *testing.T) {
	dir, mem := t.TempDir(), vfs.NewCrashableMem()
	s := openLocal(t, dir, mem, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	f, err := h.Native(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := lookup(s, "/f")
	if _, err := f.WriteAt([]byte("native"), 150_000); err != nil {
		t.Fatal(err)
	}
	image := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	outlives, err := local.Open(t.TempDir(), local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer outlives.Close()
	copyBlob(t, f, outlives, blob.ID(s.BlobOf(h.Ino())))
	if err := errors.Join(h.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, image, outlives)
	defer s.Close()
	a := lookup(s, "/f")
	if a.Size != 150_006 || a.ETag() == before.ETag() || a.Mtime < before.Mtime {
		t.Errorf("after the start %+v, before %+v", a, before)
	}
	if got := get(t, s, "/f"); string(got[150_000:]) != "native" {
		t.Errorf("content ends with %q", got[150_000:])
	}
	storetest.Check(t, s)
	if !s.Sealed(a.Ino) {
		t.Error("the file is not sealed")
	}
}

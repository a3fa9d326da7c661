package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/internal/logbuf"
	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// sealedFile makes a file that was written in place and has its checksums again.
func sealedFile(t testing.TB, s *store.Store, path string, data []byte) store.Attr {
	t.Helper()
	put(t, s, path, data)
	h, err := s.Open(ctx, lookup(s, path).Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	write(t, h, data[:1], 0)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	if !s.Sealed(h.Ino()) {
		t.Fatal("the file is not sealed")
	}
	return lookup(s, path)
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after 10 s", what)
		}
	}
}

// TestSealWaitsUntilIdle opens and closes a file again and again.
func TestSealWaitsUntilIdle(t *testing.T) {
	s := storetest.New(t)
	const delay = 300 * time.Millisecond
	s.SetSealDelay(delay)
	put(t, s, "/f", pattern(100_000, 1))
	var last time.Time
	for range 6 {
		h := open(t, s, "/f", true)
		write(t, h, []byte("x"), 0)
		last = time.Now()
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay / 3)
		if s.Sealed(h.Ino()) && time.Since(last) < delay {
			t.Fatal("sealed before it was idle")
		}
	}
	ino := lookup(s, "/f").Ino
	eventually(t, "sealing", func() bool { return s.Sealed(ino) })
	if idle := time.Since(last); idle < delay {
		t.Errorf("sealed after %v", idle)
	}
}

// TestSealIsAskedAgain poisons a file that waits for its seal.
func TestSealIsAskedAgain(t *testing.T) {
	s := storetest.New(t)
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	write(t, h, []byte("x"), 0)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	st := poisonFile(t, s, "/f")
	if err := s.SealAll(ctx); err != nil {
		t.Fatal(err)
	}
	if s.Sealed(h.Ino()) {
		t.Fatal("a poisoned file was sealed")
	}
	reset(t, s, st)
	eventually(t, "sealing after the reset", func() bool { return s.Sealed(h.Ino()) })
}

// TestLateWriteIsNotDamage writes to a blob after it was sealed, as a mapping does
// that outlives its file, and flips a bit in another.
func TestLateWriteIsNotDamage(t *testing.T) {
	var log logbuf.Buffer
	s, blobs := storetest.NewWith(t, store.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	late := sealedFile(t, s, "/late", pattern(200_000, 1))
	rotten := sealedFile(t, s, "/rotten", pattern(200_000, 2))
	if err := s.Lent(late.Ino); err != nil {
		t.Fatal(err)
	}
	blobs.Scribble(s.BlobOf(late.Ino), []byte("written late"), 100_000)
	want := pattern(200_000, 1)
	copy(want[100_000:], "written late")
	for range 2 {
		if got := get(t, s, "/late"); !bytes.Equal(got, want) {
			t.Fatal("content differs")
		}
	}
	if n := strings.Count(log.String(), "written after it was closed"); n != 1 {
		t.Errorf("%d log messages, want 1", n)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	now := lookup(s, "/late")
	if now.Version != late.Version+1 || !s.Sealed(late.Ino) || now.Mtime <= late.Mtime {
		t.Errorf("after it was sealed again %+v, before %+v", now, late)
	}
	if got := get(t, s, "/late"); !bytes.Equal(got, want) {
		t.Error("content differs after it was sealed again")
	}
	if len(s.Damaged()) != 0 {
		t.Errorf("damaged: %+v", s.Damaged())
	}

	blobs.Flip(s.BlobOf(rotten.Ino), 100_000)
	blobs.Flip(s.BlobOf(late.Ino), 3)
	for path, offset := range map[string]int64{"/rotten": 65536, "/late": 0} {
		if _, err := tryGet(ctx, s, path); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v, want %v", path, err, store.ErrDamaged)
		}
		found := false
		for _, d := range s.Damaged() {
			found = found || d.Path == path && d.Offset == offset
		}
		if !found {
			t.Errorf("%s is not listed: %+v", path, s.Damaged())
		}
	}
	blobs.Flip(s.BlobOf(rotten.Ino), 100_000) // the check at the end is to find nothing
	blobs.Flip(s.BlobOf(late.Ino), 3)
}

// TestLateWriteOfSharedBlob writes late to what a copy shares: both are served.
func TestLateWriteOfSharedBlob(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	a := sealedFile(t, s, "/a", pattern(200_000, 1))
	if _, _, err := s.Clone(ctx, a.Ino, store.RootIno, "b", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Lent(a.Ino); err != nil {
		t.Fatal(err)
	}
	blobs.Scribble(s.BlobOf(a.Ino), []byte("late"), 5)
	for range 2 {
		for _, path := range []string{"/a", "/b"} {
			if got := get(t, s, path); string(got[5:9]) != "late" {
				t.Errorf("%s: %q", path, got[:20])
			}
		}
		if err := s.Quiesce(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLateWriteOnRealFile does it with a file of the operating system, after a
// restart.
func TestLateWriteOnRealFile(t *testing.T) {
	dir, mem := t.TempDir(), vfs.NewMem()
	s := openLocal(t, dir, mem, store.Options{})
	put(t, s, "/f", pattern(200_000, 1))
	h := open(t, s, "/f", true)
	outlives := native(t, h)
	mapping := reopen(t, outlives)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	before := lookup(s, "/f")
	if !s.Sealed(before.Ino) {
		t.Fatal("not sealed")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := mapping.WriteAt([]byte("late"), 70_000); err != nil { // at once: sealing has waited for the clock
		t.Fatal(err)
	}
	s = openLocal(t, dir, mem, store.Options{})
	defer s.Close()
	if got := get(t, s, "/f"); string(got[70_000:70_004]) != "late" {
		t.Errorf("content %q", got[70_000:70_004])
	}
	storetest.Check(t, s)
	if now := lookup(s, "/f"); now.Version <= before.Version {
		t.Errorf("version %d, was %d", now.Version, before.Version)
	}
	if got := get(t, s, "/f"); string(got[70_000:70_004]) != "late" {
		t.Errorf("content after sealing %q", got[70_000:70_004])
	}
}

// TestCloneOfUnsealedFile copies a file that was just written.
func TestCloneOfUnsealedFile(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	mkdir(t, s, "/d")
	put(t, s, "/d/f", []byte("inline"))
	h := open(t, s, "/d/f", true)
	write(t, h, pattern(100_000, 1), 0)
	src := lookup(s, "/d/f")
	if _, _, err := s.Clone(ctx, src.Ino, store.RootIno, "busy", store.CloneOptions{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("while it is written: %v, want %v", err, store.ErrLocked)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Clone(ctx, src.Ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "/d/g", []byte("inline"))
	h = open(t, s, "/d/g", true)
	write(t, h, pattern(100_000, 2), 0)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Clone(ctx, lookup(s, "/d").Ino, store.RootIno, "tree", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	w := open(t, s, "/d/g", true)
	write(t, w, []byte("changed"), 0)
	lost := blobs.PowerCut()
	for path, seed := range map[string]byte{"/copy": 1, "/tree/f": 1, "/tree/g": 2} {
		if !bytes.Equal(get(t, s, path), pattern(100_000, seed)) {
			t.Errorf("%s differs", path)
		}
		f, err := lost.Open(s.BlobOf(lookup(s, path).Ino), false)
		if err != nil {
			t.Errorf("%s is not durable: %v", path, err)
			continue
		}
		if n, err := f.Size(); n != 100_000 || err != nil {
			t.Errorf("%s: %d durable bytes, %v", path, n, err)
		}
	}
}

// TestCloseDoesNotWaitForSeals closes a store with files to be sealed, and expects
// the next start to seal them.
func TestCloseDoesNotWaitForSeals(t *testing.T) {
	mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
	m := boot(t, mem, blobs)
	put(t, m.s, "/f", pattern(100_000, 1))
	h := open(t, m.s, "/f", true)
	write(t, h, []byte("x"), 0)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("Close took %v", took)
	}
	m = boot(t, mem, blobs)
	defer m.s.Close()
	if m.s.Sealed(h.Ino()) {
		t.Error("Close has waited for the seal")
	}
	storetest.Check(t, m.s)
	if !m.s.Sealed(h.Ino()) {
		t.Error("the next start has not sealed the file")
	}
}

// TestSweptBlobLeavesNoRecords starts on a blob that a crash has left with its
// checksums and without a file.
func TestSweptBlobLeavesNoRecords(t *testing.T) {
	mem, blobs := vfs.NewMem(), storetest.NewMemBlobs()
	id := blob.NewID()
	if _, err := blobs.Create(id); err != nil {
		t.Fatal(err)
	}
	db := openMeta(t, mem)
	sums := append(append([]byte{'S'}, id[:]...), 0, 0, 0, 0)
	refs := append([]byte{'R'}, id[:]...)
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutRecords(sums, []byte("sums"), refs, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	later := func() time.Time { return time.Now().Add(25 * time.Hour) }
	if s, err = store.Open(ctx, store.Options{Meta: openMeta(t, mem), Blobs: blobs, Now: later}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	storetest.Check(t, s)
	if blobs.Len() != 0 {
		t.Fatal("the blob was not swept")
	}
	if s.HasRecord(sums) || s.HasRecord(refs) {
		t.Error("records of the blob are left")
	}
}

// TestCloneWaitsForTheWriter copies a file that is closed a little later, as a kernel
// reports it.
func TestCloneWaitsForTheWriter(t *testing.T) {
	s := storetest.New(t)
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	write(t, h, []byte("x"), 0)
	timer := time.AfterFunc(50*time.Millisecond, func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	defer timer.Stop()
	if _, _, err := s.Clone(ctx, h.Ino(), store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "/copy"); got[0] != 'x' || len(got) != 100_000 {
		t.Errorf("%d bytes, the first is %q", len(got), got[0])
	}
	h = open(t, s, "/f", true)
	defer h.Close()
	write(t, h, []byte("y"), 0)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := s.Clone(canceled, h.Ino(), store.RootIno, "none", store.CloneOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestCheckFindsRotOfNewerTime: a blob that was never lent to a kernel, and has a newer
// time, is damaged, not written late.
func TestCheckFindsRotOfNewerTime(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	a := sealedFile(t, s, "/f", pattern(200_000, 1))
	blobs.Scribble(s.BlobOf(a.Ino), []byte("rot"), 100_000)
	found, err := s.Check(ctx, store.CheckOptions{Content: true})
	if err != nil || len(found) != 1 || found[0].Code != store.ContentDamaged {
		t.Errorf("Check = %+v, %v, want %s", found, err, store.ContentDamaged)
	}
}

// badBlockEngine panics once when it is asked for a record of that key, as an engine may
// that meets a bad block.
type badBlockEngine struct {
	meta.Engine
	key atomic.Pointer[[]byte]
}

func (e *badBlockEngine) Get(key []byte) ([]byte, error) {
	if bad := e.key.Load(); bad != nil && bytes.Equal(key, *bad) && e.key.CompareAndSwap(bad, nil) {
		panic("bad block")
	}
	return e.Engine.Get(key)
}

// TestSealerSurvivesPanics: the other files get their checksums.
func TestSealerSurvivesPanics(t *testing.T) {
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	e := &badBlockEngine{Engine: db}
	s, err := store.Open(ctx, store.Options{Meta: e, Blobs: storetest.NewMemBlobs(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetSealDelay(time.Millisecond)
	var inos []store.Ino
	for i := range 3 {
		path := fmt.Sprintf("/f%d", i)
		inos = append(inos, put(t, s, path, pattern(100_000, 1)).Ino)
		h := open(t, s, path, true)
		write(t, h, []byte("x"), 0)
		if i == 0 {
			key := store.InodeKey(inos[0])
			e.key.Store(&key)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			eventually(t, "the panic", func() bool { return e.key.Load() == nil })
		}
	}
	eventually(t, "the seals", func() bool { return s.Sealed(inos[1]) && s.Sealed(inos[2]) })
}

package store_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/storetest"
)

// What follows are interleavings of readers, writers, scrubs and crashes in which sound
// content was once taken for damaged, or damaged content for sound.

// noDamage fails the test if content that nobody harmed is called damaged.
func noDamage(t *testing.T, s *store.Store, err error) {
	t.Helper()
	if errors.Is(err, store.ErrDamaged) || len(s.Damaged()) > 0 {
		t.Errorf("%v; damaged: %+v", err, s.Damaged())
	}
}

// pin opens content until the end of the test.
func pin(t *testing.T, s *store.Store, ino store.Ino) *store.Content {
	t.Helper()
	c, err := s.OpenContent(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestReaderFromBeforeAScrub: a scrub keeps digests of content that is being read, which
// is then written in place.
func TestReaderFromBeforeAScrub(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{Scrub: fast})
	a := put(t, s, "/f", pattern(rotSize, 1))
	c, p := pin(t, s, a.Ino), make([]byte, 10)
	if _, err := c.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	scrub(t, s)
	h := open(t, s, "/f", true)
	write(t, h, pattern(block, 9), 5*block)
	_, err := c.ReadAt(p, 5*block)
	noDamage(t, s, err)
	if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
		t.Fatal(err)
	}
	h = open(t, s, "/f", true)
	write(t, h, []byte("x"), 10)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReaderOfACopyFromBeforeAScrub: as above, and the file it shares its content with is
// the one that is written.
func TestReaderOfACopyFromBeforeAScrub(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{Scrub: fast})
	data := pattern(rotSize, 1)
	a := put(t, s, "/a", data)
	copied, _, err := s.Clone(ctx, a.Ino, store.RootIno, "b", store.CloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, p := pin(t, s, copied.Ino), make([]byte, 10)
	if _, err := c.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	scrub(t, s)
	if err := s.Unlink(ctx, store.RootIno, "b", nil); err != nil {
		t.Fatal(err)
	}
	h := open(t, s, "/a", true)
	defer h.Close()
	write(t, h, pattern(block, 9), 5*block)
	if _, err = c.ReadAt(p, 5*block); err != nil || string(p) != string(data[5*block:5*block+10]) {
		t.Errorf("the removed copy reads as %q, %v", p, err)
	}
}

// interrupted runs a scrub that is stopped at its read number at.
func interrupted(t *testing.T, s *store.Store, b *tracedBlobs) {
	t.Helper()
	ended := make(chan store.ScrubRun)
	go func() {
		run, _ := s.Scrub(ctx, "one")
		ended <- run
	}()
	<-b.here
	s.StopScrub()
	close(b.goOn)
	if run := <-ended; run.Result != "stopped" {
		t.Fatalf("the scrub was not stopped: %+v", run)
	}
	b.mu.Lock()
	b.at = -1
	b.mu.Unlock()
}

func newTraced(at int) *tracedBlobs {
	return &tracedBlobs{
		MemBlobs: storetest.NewMemBlobs(), reads: map[string]int{}, at: at,
		here: make(chan struct{}), goOn: make(chan struct{}),
	}
}

// TestScrubOfAFileThatWasWrittenMeanwhile: the digest of what a stopped scrub had read is
// none of the file any more.
func TestScrubOfAFileThatWasWrittenMeanwhile(t *testing.T) {
	b := newTraced(4)
	s := openTraced(t, vfs.NewMem(), b)
	defer s.Close()
	put(t, s, "/f", pattern(8<<20, 1))
	interrupted(t, s, b)
	h := open(t, s, "/f", true)
	write(t, h, []byte("new"), 10)
	if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
		t.Fatal(err)
	}
	if run := scrub(t, s); run.Result != "clean" {
		t.Errorf("%+v", run)
	}
	noDamage(t, s, nil)
}

// TestScrubStoppedBehindDamage: the scrub that goes on must not make a digest of what the
// one before it has found bad.
func TestScrubStoppedBehindDamage(t *testing.T) {
	b := newTraced(6)
	s := openTraced(t, vfs.NewMem(), b)
	defer s.Close()
	a := put(t, s, "/f", pattern(8<<20, 1))
	s.SetDigests(a.Ino, store.Digests{})
	b.MemBlobs.Flip(s.BlobOf(a.Ino), 10)
	interrupted(t, s, b)
	if run := scrub(t, s); run.Result == "clean" {
		t.Errorf("%+v", run)
	}
	if d, _ := digestsOf(t, s, "/f"); d[store.SHA256] != nil {
		t.Errorf("the digest of damaged content is kept: %x", d[store.SHA256])
	}
	b.MemBlobs.Flip(s.BlobOf(a.Ino), 10) // mended
	scrub(t, s)
	noDamage(t, s, nil)
}

// TestCopyOfUnsealedDamage: damage in a part of a file that nobody wrote does not get good
// checksums by being copied.
func TestCopyOfUnsealedDamage(t *testing.T) {
	dir := t.TempDir()
	s := openLocal(t, dir, vfs.NewMem(), store.Options{})
	defer s.Close()
	a := put(t, s, "/f", pattern(rotSize, 1))
	put(t, s, "/g", pattern(rotSize, 2))
	h, g := open(t, s, "/f", true), open(t, s, "/g", true)
	defer h.Close()
	defer g.Close()
	write(t, h, []byte("new"), 10)
	rot(t, blobPath(dir, s.BlobOf(a.Ino)), 5*block+9)
	if _, err := s.CopyRange(ctx, h, 4*block, g, 4*block, 4*block); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("CopyRange: %v, want ErrDamaged", err)
	}
}

// TestLateWriteThatAScrubFinds: a reader has the checksums from before.
func TestLateWriteThatAScrubFinds(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{Scrub: fast})
	a := sealedFile(t, s, "/f", pattern(200_000, 1))
	s.Lent(a.Ino)
	scrub(t, s)
	c, p := pin(t, s, a.Ino), make([]byte, 10)
	if _, err := c.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	blobs.Scribble(s.BlobOf(a.Ino), []byte("written late"), 100_000)
	scrub(t, s)
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := c.ReadAt(p, 100_000)
	noDamage(t, s, err)
}

// TestKilledBetweenCloseAndSeal: damage in what nobody wrote is found by the next run.
func TestKilledBetweenCloseAndSeal(t *testing.T) {
	mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
	s := rotMachine(t, mem, blobs, "1")
	s.SetSealDelay(time.Hour)
	a := put(t, s, "/f", pattern(rotSize, 1))
	time.Sleep(settledDelay)
	h := open(t, s, "/f", true)
	write(t, h, []byte("new"), 3*block)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(flushed + settledDelay + time.Second)
	id := s.BlobOf(a.Ino)
	image, after := crashed(t, s, mem), blobs.Snapshot()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after.Flip(id, 9*block+1)
	s = rotMachine(t, image, after, "1")
	defer s.Close()
	h = open(t, s, "/f", false)
	defer h.Close()
	if _, err := h.ReadAt(ctx, make([]byte, 10), 9*block); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("read of a bad block: %v", err)
	}
}

// TestStartAfterAPowerCutIsKilled: the one after it must not take the disk for one that has
// kept everything.
func TestStartAfterAPowerCutIsKilled(t *testing.T) {
	mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
	s := rotMachine(t, mem, blobs, "1")
	a := put(t, s, "/f", pattern(rotSize, 1))
	time.Sleep(settledDelay)
	h := open(t, s, "/f", true)
	write(t, h, []byte("new"), 3*block)
	time.Sleep(flushed + settledDelay)
	id := s.BlobOf(a.Ino)
	image, after := crashed(t, s, mem), blobs.Snapshot()
	if err := errors.Join(h.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	after.Flip(id, 8*block+1) // the bytes of a last write have come, its time has not
	s = rotMachine(t, image, after, "2")
	killed := crashed(t, nil, image)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = rotMachine(t, killed, after, "2")
	defer s.Close()
	h = open(t, s, "/f", false)
	defer h.Close()
	_, err := h.ReadAt(ctx, make([]byte, 10), 8*block)
	noDamage(t, s, err)
}

// crashed returns what a power cut leaves, after everything that s has done if that is not nil.
func crashed(t *testing.T, s *store.Store, mem *vfs.MemFS) *vfs.MemFS {
	t.Helper()
	if s != nil {
		if err := s.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
}

// TestReaderOfARemovedFileWhoseCopyIsWritten: the file was sealed while it was read, and
// shared its content then with a copy, which is the only one left.
func TestReaderOfARemovedFileWhoseCopyIsWritten(t *testing.T) {
	s := storetest.New(t)
	data := pattern(200_000, 1)
	put(t, s, "/a", data)
	h := open(t, s, "/a", true)
	write(t, h, data[:1], 0)
	c := pin(t, s, h.Ino())
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.SealAll(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Clone(ctx, h.Ino(), store.RootIno, "b", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := unlink(s, "/a"); err != nil {
		t.Fatal(err)
	}
	write(t, open(t, s, "/b", true), []byte("of the copy"), 100)
	p := make([]byte, 200)
	if _, err := c.ReadAt(p, 0); err != nil || !bytes.Equal(p, data[:200]) {
		t.Errorf("ReadAt: %v, %q", err, p[100:111])
	}
}

// TestReadersOfForgottenContentLearnOfACut: each seal makes the next reader open the blob
// anew. All of them learn that it is cut, also when the first is gone.
func TestReadersOfForgottenContentLearnOfACut(t *testing.T) {
	s := storetest.New(t)
	data := pattern(200_000, 1)
	put(t, s, "/f", data)
	var readers []*store.Content
	for range 3 {
		h := open(t, s, "/f", true)
		write(t, h, data[:1], 0)
		c, err := s.OpenContent(ctx, h.Ino())
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, c)
		if err := errors.Join(h.Close(), s.SealAll(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	readers[0].Close()
	h := open(t, s, "/f", true)
	write(t, h, data[:1], 0)
	if err := h.Truncate(ctx, 70_000); err != nil {
		t.Fatal(err)
	}
	write(t, h, data[70_000:], 70_000)
	for i, c := range readers[1:] {
		if n, err := c.ReadAt(make([]byte, 100_000), 0); n > 70_000 || err == nil {
			t.Errorf("reader %d: ReadAt = %d, %v, and the content was cut", i+1, n, err)
		}
		c.Close()
	}
}

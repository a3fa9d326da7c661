package store_test

import (
	"errors"
	"io/fs"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// TestSparseFile makes holes and reserves space on a disk that knows both.
func TestSparseFile(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(1<<20, 1))
	h := open(t, s, "/f", true)
	allocated := func() int64 {
		t.Helper()
		n, err := s.Allocated(ctx, h.Ino())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	full := allocated()
	if full < 1<<20 || lookup(s, "/f").Sparse {
		t.Errorf("a whole file takes %d bytes, sparse %v", full, lookup(s, "/f").Sparse)
	}
	if err := h.Allocate(ctx, store.Allocation{PunchHole: true}, 256<<10, 512<<10); err != nil {
		t.Fatal(err)
	}
	if got := allocated(); got > full-(512<<10) || !lookup(s, "/f").Sparse {
		t.Errorf("with a hole of 512 KiB it takes %d of %d bytes, sparse %v", got, full, lookup(s, "/f").Sparse)
	}
	for _, c := range []struct {
		whence    store.Whence
		off, want int64
	}{{store.SeekHole, 0, 256 << 10}, {store.SeekData, 300 << 10, 768 << 10}, {store.SeekHole, 800 << 10, 1 << 20}} {
		if got, err := h.Seek(ctx, c.off, c.whence); err != nil || got != c.want {
			t.Errorf("Seek(%d, %d) = %d, %v, want %d", c.off, c.whence, got, err, c.want)
		}
	}
	for _, off := range []int64{-1, 1 << 20} {
		if _, err := h.Seek(ctx, off, store.SeekData); !errors.Is(err, store.ErrNoData) {
			t.Errorf("Seek(%d): %v", off, err)
		}
	}
	before := allocated()
	if err := h.Allocate(ctx, store.Allocation{KeepSize: true}, 1<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if got := allocated(); got < before+1<<20 || lookup(s, "/f").Size != 1<<20 {
		t.Errorf("with 1 MiB reserved it takes %d of %d bytes, size %d", got, before, lookup(s, "/f").Size)
	}
	if err := h.Allocate(ctx, store.Allocation{}, 0, 0); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("an empty range: %v", err)
	}
	if err := h.Allocate(ctx, store.Allocation{}, store.MaxFileSize, 1); !errors.Is(err, store.ErrTooBig) {
		t.Errorf("beyond the largest file: %v", err)
	}
}

// TestCopyRangeVerifiesItsSource copies from a file with a damaged block: the copy
// would get checksums that call the damage sound.
func TestCopyRangeVerifiesItsSource(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	put(t, s, "/src", pattern(200_000, 1))
	put(t, s, "/dst", nil)
	src, dst := open(t, s, "/src", false), open(t, s, "/dst", true)
	id := s.BlobOf(src.Ino())
	blobs.Flip(id, 70_000)
	if n, err := s.CopyRange(ctx, src, 0, dst, 0, 200_000); !errors.Is(err, store.ErrDamaged) || n > 65536 {
		t.Errorf("CopyRange = %d, %v, want %v", n, err, store.ErrDamaged)
	}
	if a := lookup(s, "/dst"); a.Size > 65536 {
		t.Errorf("%d bytes were copied", a.Size)
	}
	blobs.Flip(id, 70_000)
	if n, err := s.CopyRange(ctx, src, 199_000, dst, 0, 5000); n != 1000 || err != nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := s.CopyRange(ctx, src, 300_000, dst, 0, 5000); n != 0 || err != nil {
		t.Errorf("behind the end: %d, %v", n, err)
	}
}

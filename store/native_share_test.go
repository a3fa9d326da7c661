package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"engramfs/store"
	"engramfs/store/storetest"
)

// TestRotIsNotSealed writes to one block of a file of which another has rotted.
func TestRotIsNotSealed(t *testing.T) {
	for _, tt := range []struct {
		what string
		size int
		off  int64 // of the write
		want error // of the write
	}{
		{"small file", 200_000, 10, store.ErrDamaged},
		{"another block", 2 << 20, 10, nil},
		{"the same block", 2 << 20, 100_100, store.ErrDamaged},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s, blobs := storetest.NewWith(t, store.Options{})
			a := put(t, s, "/f", pattern(tt.size, 1))
			id := s.BlobOf(a.Ino)
			blobs.Flip(id, 100_000)
			h := open(t, s, "/f", true)
			if _, err := h.WriteAt(ctx, []byte("new"), tt.off); !errors.Is(err, tt.want) {
				t.Fatalf("WriteAt: %v, want %v", err, tt.want)
			}
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			if err := s.SealAll(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := tryGet(ctx, s, "/f"); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("reading after the seal: %v, want %v", err, store.ErrDamaged)
			}
			if d := s.Damaged(); len(d) != 1 || d[0].Offset != 65536 {
				t.Errorf("damaged: %+v", d)
			}
			blobs.Flip(id, 100_000) // the check at the end is to find nothing
		})
	}
}

// TestDamagedCanBeReplaced writes all of a damaged file anew, in place.
func TestDamagedCanBeReplaced(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	a := put(t, s, "/f", pattern(200_000, 1))
	blobs.Flip(s.BlobOf(a.Ino), 100_000)
	h := open(t, s, "/f", true)
	write(t, h, pattern(200_000, 2), 0)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.SealAll(ctx); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, s, "/f"), pattern(200_000, 2)) || len(s.Damaged()) != 0 {
		t.Errorf("content differs, or damaged: %+v", s.Damaged())
	}
}

// TestReaderOfRemovedCopy reads a copy that is removed, while its original is written.
func TestReaderOfRemovedCopy(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{})
	a := put(t, s, "/a", pattern(200_000, 1))
	b, _, err := s.Clone(ctx, a.Ino, store.RootIno, "b", store.CloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.OpenContent(ctx, b.Ino)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unlink(ctx, store.RootIno, "b", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	h := open(t, s, "/a", true)
	write(t, h, bytes.Repeat([]byte("x"), 200_000), 0)
	got, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err != nil || !bytes.Equal(got, pattern(200_000, 1)) {
		t.Errorf("the reader of the copy sees what was written to the original (%v)", err)
	}
	c.Close()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestHoldNativeKeepsTheFile closes the handle that the file was first taken of.
func TestHoldNativeKeepsTheFile(t *testing.T) {
	s := localStore(t, store.Options{})
	a := put(t, s, "/f", pattern(100_000, 1))
	first := open(t, s, "/f", false)
	f := native(t, first)
	hold, err := first.HoldNative()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	b, _, err := s.Clone(ctx, a.Ino, store.RootIno, "b", store.CloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s.BlobOf(a.Ino) == s.BlobOf(b.Ino) {
		t.Error("a copy shares the content of a file that is held")
	}
	w := open(t, s, "/f", true)
	if g := native(t, w); g != f {
		t.Error("a later handle has another file")
	}
	if err := errors.Join(w.Close(), hold.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := hold.HoldNative(); !errors.Is(err, store.ErrNotNative) {
		t.Errorf("HoldNative of a closed handle: %v", err)
	}
}

// TestCopyOfMappedFile copies a file that a mapping goes on writing to.
func TestCopyOfMappedFile(t *testing.T) {
	s := localStore(t, store.Options{})
	a := put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	m, err := unix.Mmap(int(native(t, h).Fd()), 0, 100_000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.SealAll(ctx); err != nil {
		t.Fatal(err)
	}
	b, _, err := s.Clone(ctx, a.Ino, store.RootIno, "b", store.CloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond) // the kernel's clock ticks
	copy(m[70_000:], "stored late")
	if !bytes.Equal(get(t, s, "/b"), pattern(100_000, 1)) {
		t.Error("the copy has what was written to the original")
	}
	c, _, err := s.Clone(ctx, a.Ino, store.RootIno, "c", store.CloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "/c"); string(got[70_000:70_011]) != "stored late" || s.BlobOf(c.Ino) == s.BlobOf(b.Ino) {
		t.Error("a later copy has not what was stored before")
	}
	get(t, s, "/f") // finds it out
	if err := s.SealAll(ctx); err != nil {
		t.Fatal(err)
	}
	if len(s.Damaged()) != 0 {
		t.Errorf("damaged: %+v", s.Damaged())
	}
}

// TestStoreBeforeTheSealIsANewVersion writes past the store after the last close.
func TestStoreBeforeTheSealIsANewVersion(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	f := reopen(t, native(t, h))
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	closed := lookup(s, "/f")
	time.Sleep(30 * time.Millisecond)
	if _, err := f.WriteAt([]byte("late"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.SealAll(ctx); err != nil {
		t.Fatal(err)
	}
	if now := lookup(s, "/f"); now.Version <= closed.Version || !s.Sealed(now.Ino) {
		t.Errorf("after the seal %+v, before %+v", now, closed)
	}
}

// TestNativeMtimeSticksAtOnce sets a time right after a write, within one tick of
// the kernel's clock.
func TestNativeMtimeSticksAtOnce(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	if _, err := native(t, h).WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1_000_000_000, 0)
	if _, err := s.SetAttr(ctx, h.Ino(), store.SetAttr{Mtime: &old}); err != nil {
		t.Fatal(err)
	}
	if a := lookup(s, "/f"); a.Mtime != old.UnixNano() {
		t.Errorf("while it is open: mtime %v", a.ModTime())
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if a := lookup(s, "/f"); a.Mtime != old.UnixNano() {
		t.Errorf("after close: mtime %v", a.ModTime())
	}
}

// TestCopyOfTreeWithOpenFiles copies a tree in several changes, of which each is tried
// once more for a file that is open natively: the blobs that the first ones made stay.
func TestCopyOfTreeWithOpenFiles(t *testing.T) {
	s := localStore(t, store.Options{})
	for i := range 3 {
		mkdir(t, s, fmt.Sprintf("/src/d%d", i))
		path := fmt.Sprintf("/src/d%d/f", i)
		put(t, s, path, pattern(100_000, byte(i)))
		h := open(t, s, path, false)
		native(t, h)
		defer h.Close()
	}
	if _, _, err := s.Clone(ctx, lookup(s, "/src").Ino, store.RootIno, "dst", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if !bytes.Equal(get(t, s, fmt.Sprintf("/dst/d%d/f", i)), pattern(100_000, byte(i))) {
			t.Errorf("the copy of file %d differs", i)
		}
	}
}

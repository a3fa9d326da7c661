package store_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/storetest"
)

// disk is a backend whose free space the test says.
type disk struct {
	*storetest.MemBlobs
	free atomic.Int64
}

func (d *disk) Free() (free, total int64, err error) { return d.free.Load(), 1 << 40, nil }

// TestFreeSpaceWhenTheClockIsSetBack: the disk is asked, not what it said an hour later.
func TestFreeSpaceWhenTheClockIsSetBack(t *testing.T) {
	var behind atomic.Int64
	d := &disk{MemBlobs: storetest.NewMemBlobs()}
	d.free.Store(1 << 30)
	s, err := store.Open(ctx, store.Options{
		Meta: openMeta(t, vfs.NewMem()), Blobs: d, Reserve: 1 << 20,
		Now: func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "/f", []byte("x"))
	behind.Store(int64(time.Hour))
	d.free.Store(0)
	_, err = tryPut(s, "/g", []byte("x"))
	wantErr(t, "PUT on a full disk", err, store.ErrNoSpace)
}

// TestFullDiskCanBeEmptied: what makes a file smaller needs no space, whatever its content
// is; what makes it larger does.
func TestFullDiskCanBeEmptied(t *testing.T) {
	var ahead atomic.Int64
	d := &disk{MemBlobs: storetest.NewMemBlobs()}
	d.free.Store(1 << 30)
	s, err := store.Open(ctx, store.Options{
		Meta: openMeta(t, vfs.NewMem()), Blobs: d, Reserve: 1 << 20,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const size = 100_000
	put(t, s, "/sealed", pattern(size, 1))
	put(t, s, "/inline", pattern(1000, 2))
	put(t, s, "/written", nil)
	h := open(t, s, "/written", true)
	defer h.Close()
	write(t, h, pattern(size, 3), 0)
	d.free.Store(0)
	ahead.Store(int64(time.Hour)) // the disk is asked again
	for _, path := range []string{"/sealed", "/inline", "/written"} {
		a := lookup(s, path)
		for _, n := range []int64{a.Size, a.Size / 2, 3, 0} {
			if _, err := s.SetAttr(ctx, a.Ino, store.SetAttr{Size: &n}); err != nil {
				t.Errorf("%s to %d bytes: %v", path, n, err)
			}
			if got := lookup(s, path).Size; got != n {
				t.Errorf("%s has %d bytes, want %d", path, got, n)
			}
		}
		for _, n := range []int64{1, size} {
			_, err := s.SetAttr(ctx, a.Ino, store.SetAttr{Size: &n})
			wantErr(t, path+" to more", err, store.ErrNoSpace)
		}
	}
}

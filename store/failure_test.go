package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// faultyBlobs is a backend whose disk is full or broken on demand.
type faultyBlobs struct {
	*storetest.MemBlobs
	free               atomic.Int64
	syncErr, writeErr  atomic.Pointer[error]
	createErr, openErr atomic.Pointer[error]
	lies               atomic.Bool // a write that fails does not say how far it got
	none               atomic.Bool // a write that fails does nothing
}

func (f *faultyBlobs) Free() (int64, int64, error) { return f.free.Load(), 1 << 40, nil }

func (f *faultyBlobs) Create(id blob.ID) (blob.File, error) {
	if err := f.createErr.Load(); err != nil {
		return nil, *err
	}
	file, err := f.MemBlobs.Create(id)
	return &faultyFile{file, f}, err
}

func (f *faultyBlobs) Open(id blob.ID, write bool) (blob.File, error) {
	if err := f.openErr.Load(); err != nil {
		return nil, *err
	}
	file, err := f.MemBlobs.Open(id, write)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f}, nil
}

type faultyFile struct {
	blob.File
	f *faultyBlobs
}

func (f *faultyFile) Sync() error {
	if err := f.f.syncErr.Load(); err != nil {
		return *err
	}
	return f.File.Sync()
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.f.writeErr.Load(); err != nil {
		if f.f.none.Load() {
			return 0, *err
		}
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		if f.f.lies.Load() {
			n = 0
		}
		return n, *err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.f.writeErr.Load(); err != nil && f.f.none.Load() {
		return *err
	}
	return f.File.Truncate(size)
}

func faultyStore(t *testing.T) (*store.Store, *faultyBlobs) {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	f := &faultyBlobs{MemBlobs: storetest.NewMemBlobs()}
	f.free.Store(1 << 40)
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: f, Reserve: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		storetest.Check(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, f
}

func TestFullDiskRefusesBeforeAnyChange(t *testing.T) {
	s, f := faultyStore(t)
	a := put(t, s, "/f", pattern(100<<10, 1))
	before := lookup(s, "/f")
	f.free.Store(1<<30 + 100)
	time.Sleep(300 * time.Millisecond) // free space is asked for again
	for what, err := range map[string]error{
		"create": second(s.Create(ctx, store.RootIno, "n", store.NewNode{})),
		"put":    second(tryPut(s, "/f", []byte("x"))),
		"mkdir":  second(s.EnsureDirectory(ctx, "/d", store.NewNode{})),
		"xattr":  s.SetXattr(ctx, a.Ino, "user.k", nil, 0),
		"rename": second(s.Rename(ctx, store.RootIno, "f", store.RootIno, "g", store.RenameOptions{})),
	} {
		wantErr(t, what, err, store.ErrNoSpace)
		wantErr(t, what, err, syscall.ENOSPC)
	}
	if now := lookup(s, "/f"); now != before {
		t.Errorf("attributes changed: %+v, were %+v", now, before)
	}
	if !bytes.Equal(get(t, s, "/f"), pattern(100<<10, 1)) {
		t.Error("content changed")
	}
	if err := unlink(s, "/f"); err != nil {
		t.Errorf("removing must work on a full disk: %v", err)
	}
	f.free.Store(1 << 40)
	time.Sleep(300 * time.Millisecond)
	put(t, s, "/again", nil)
}

func TestFailedWriteOfContentChangesNothing(t *testing.T) {
	s, f := faultyStore(t)
	put(t, s, "/f", []byte("old"))
	for name, c := range map[string]struct {
		set  *atomic.Pointer[error]
		err  error
		want error
	}{
		"ENOSPC in write":  {&f.writeErr, syscall.ENOSPC, store.ErrNoSpace},
		"EIO in write":     {&f.writeErr, syscall.EIO, syscall.EIO},
		"ENOSPC in create": {&f.createErr, syscall.ENOSPC, store.ErrNoSpace},
		"ENOSPC in sync":   {&f.syncErr, syscall.ENOSPC, store.ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			c.set.Store(&c.err)
			defer c.set.Store(nil)
			_, err := tryPut(s, "/f", pattern(100<<10, 1))
			wantErr(t, "put", err, c.want)
			if got := get(t, s, "/f"); string(got) != "old" {
				t.Errorf("content %q", got)
			}
			if f.Len() != 0 {
				t.Errorf("%d blobs left", f.Len())
			}
			if s.ReadOnly() != nil {
				t.Errorf("store is read-only: %v", s.ReadOnly())
			}
		})
	}
	put(t, s, "/f", pattern(100<<10, 1))
}

func TestFailedSyncMakesReadOnly(t *testing.T) {
	s, f := faultyStore(t)
	put(t, s, "/f", []byte("old"))
	var err error = fmt.Errorf("%w: %w", blob.ErrSyncFailed, syscall.EIO)
	f.syncErr.Store(&err)
	_, err = tryPut(s, "/f", pattern(100<<10, 1))
	wantErr(t, "put", err, store.ErrReadOnly)
	wantErr(t, "put", err, syscall.EIO)
	f.syncErr.Store(nil) // a later success proves nothing
	_, err = tryPut(s, "/g", nil)
	wantErr(t, "another put", err, store.ErrReadOnly)
	if got := get(t, s, "/f"); string(got) != "old" {
		t.Errorf("content %q", got)
	}
	wantErr(t, "ReadOnly", s.ReadOnly(), store.ErrReadOnly)
}

func TestMissingBlobIsDamagedNotMissing(t *testing.T) {
	s, f := faultyStore(t)
	a := put(t, s, "/f", pattern(100<<10, 1))
	id := f.IDs()[0]
	saved, err := f.MemBlobs.Open(id, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(id); err != nil {
		t.Fatal(err)
	}
	_, err = s.OpenContent(ctx, a.Ino)
	if !errors.Is(err, store.ErrDamaged) {
		t.Errorf("OpenContent: %v, want ErrDamaged", err)
	}
	problems, err := s.Check(ctx, store.CheckOptions{})
	if err != nil || len(problems) != 1 {
		t.Errorf("Check = %q, %v, want the missing content", problems, err)
	}
	again, err := f.MemBlobs.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100<<10)
	if _, err := saved.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := again.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

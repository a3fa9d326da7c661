package store_test

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta/pebble"
	"engramfs/store/poison"
	"engramfs/store/storetest"
)

// poisonRootEntry makes the directory /f and poisons its lock. It returns the lock's name and generation.
func poisonRootEntry(t *testing.T, s *store.Store) (lock string, gen uint64) {
	t.Helper()
	a, err := s.EnsureDirectory(t.Context(), "/f", store.NewNode{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ArmFault(t.Context(), "/f", "", "panic"); err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o700)
	if _, err := s.SetAttr(t.Context(), a.Ino, store.SetAttr{Mode: &mode}); !errors.Is(err, store.ErrPoisoned) {
		t.Fatalf("SetAttr with a drill armed: %v, want poisoned", err)
	}
	lock = store.InodeLock(a.Ino)
	st, err := s.LockStatus(lock)
	if err != nil || st.State != "poisoned" {
		t.Fatalf("LockStatus(%s) = %+v, %v, want poisoned", lock, st, err)
	}
	return lock, st.Gen
}

func TestCountersTellResetsApart(t *testing.T) {
	s := storetest.New(t)
	lock, gen := poisonRootEntry(t, s)
	auto := store.WithResetSource(t.Context(), store.ResetByAuto)
	if _, err := s.ResetLock(t.Context(), lock, gen+1, false); !errors.Is(err, poison.ErrStale) {
		t.Fatalf("reset of a stale generation: %v", err)
	}
	if _, err := s.ResetLock(auto, lock, gen, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ResetLock(auto, lock, gen, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ResetLock(t.Context(), "nonsense:1", 1, false); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("reset of no lock: %v", err)
	}
	want := map[store.ResetKind]uint64{
		{Family: "inode", Source: store.ResetByAdmin, Result: "stale"}:  1,
		{Family: "inode", Source: store.ResetByAuto, Result: "dry_run"}: 1,
		{Family: "inode", Source: store.ResetByAuto, Result: "ok"}:      1,
	}
	if got := s.Counters().Resets; !maps.Equal(got, want) {
		t.Errorf("Counters().Resets = %v, want %v", got, want)
	}
	h, err := s.History(0, 2) // the poisoning is written down by somebody else, perhaps later
	if err != nil || !slices.ContainsFunc(h, func(e store.HistoryEntry) bool { return e.Kind == "reset" && e.Source == store.ResetByAuto }) {
		t.Errorf("newest events %+v, %v, want a reset by auto", h, err)
	}
}

func TestReadOnlyByOptionRefusesChanges(t *testing.T) {
	why := errors.New("somebody wants to look at it")
	s, _ := storetest.NewWith(t, store.Options{ReadOnly: why})
	if err := s.ReadOnly(); !errors.Is(err, store.ErrReadOnly) || !errors.Is(err, why) {
		t.Errorf("ReadOnly() = %v, want one that matches ErrReadOnly and the reason", err)
	}
	if _, err := s.EnsureDirectory(t.Context(), "/d", store.NewNode{Mode: 0o755}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("EnsureDirectory = %v, want read-only", err)
	}
	if err := s.ReadDir(t.Context(), store.RootIno, "", func(store.Dirent) bool { return true }); err != nil {
		t.Errorf("ReadDir = %v, want reads to be served", err)
	}
}

// TestWatchOptionsAreUsed holds a lock of the store and waits for the watchdog's word.
func TestWatchOptionsAreUsed(t *testing.T) {
	stuck := make(chan poison.Stuck, 1)
	s, _ := storetest.NewWith(t, store.Options{Watch: poison.WatchOptions{
		Interval: 5 * time.Millisecond, Soft: 20 * time.Millisecond,
		OnSoft: func(st poison.Stuck, stacks []byte) {
			if len(stacks) > 0 {
				stuck <- st
			}
		},
	}})
	release := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- s.HoldAllocator(release) }()
	select {
	case st := <-stuck:
		if st.Lock != "alloc" {
			t.Errorf("stuck lock %q, want alloc", st.Lock)
		}
	case <-time.After(10 * time.Second):
		t.Error("the watchdog has said nothing")
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestReadOnlyRemovesNothing: what no file refers to may be all that is left of one.
func TestReadOnlyRemovesNothing(t *testing.T) {
	mem, blobs := vfs.NewMem(), storetest.NewMemBlobs()
	f, err := blobs.Create(blob.NewID())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	later := func() time.Time { return time.Now().Add(1000 * time.Hour) }
	for _, readOnly := range []error{errors.New("asked for"), nil} {
		db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs, Reserve: -1, ReadOnly: readOnly, Now: later})
		if err != nil {
			t.Fatal(err)
		}
		if readOnly == nil {
			eventually(t, "the leftover to be removed", func() bool { return blobs.Len() == 0 })
		} else {
			_ = s.Quiesce(ctx)
			if blobs.Len() != 1 {
				t.Error("a read-only start has removed content")
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

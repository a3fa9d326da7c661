package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"engramfs/store"
)

// TestContentStorm opens, writes, reads, cuts, copies, syncs and seals one file from
// many sides at once, natively and not. What it tests is the check at the end, that
// nothing hangs, and the race detector.
func TestContentStorm(t *testing.T) {
	s := localStore(t, store.Options{})
	s.SetSealDelay(time.Millisecond)
	put(t, s, "/f", pattern(100_000, 1))
	ino := lookup(s, "/f").Ino
	expected := []error{store.ErrNotNative, store.ErrLocked}
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range rounds {
				if err := stormStep(s, ino, rng, fmt.Sprintf("copy%d-%d", w, i)); err != nil {
					known := false
					for _, want := range expected {
						known = known || errors.Is(err, want)
					}
					if !known {
						t.Errorf("writer %d: %v", w, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
}

// stormStep opens the file, does some things to it, and closes it.
func stormStep(s *store.Store, ino store.Ino, rng *rand.Rand, name string) (err error) {
	write := rng.IntN(3) > 0
	h, err := s.Open(ctx, ino, write)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	f, err := h.Native(ctx)
	if err != nil && !errors.Is(err, store.ErrNotNative) {
		return err
	}
	p := make([]byte, 5000)
	for range 1 + rng.IntN(4) {
		off := rng.Int64N(120_000)
		var err error
		switch op := rng.IntN(8); {
		case op == 0:
			_, err = s.SetAttr(ctx, ino, store.SetAttr{Size: &off})
		case op == 1:
			_, _, err = s.Clone(ctx, ino, store.RootIno, name, store.CloneOptions{Replace: true})
		case op == 2:
			err = h.Sync(ctx)
		case op == 3:
			_, err = s.GetAttr(ctx, ino)
		case op == 4:
			_, _ = h.ReadAt(ctx, p, off) // may meet the end
		case f != nil && write && op == 5:
			_, err = f.WriteAt(p, off)
			err = errors.Join(err, h.Absorb(ctx))
		default:
			if _, err = h.WriteAt(ctx, p, off); errors.Is(err, fs.ErrPermission) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

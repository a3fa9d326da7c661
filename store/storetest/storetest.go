// Package storetest helps to test the store and what is built on it: a store in
// memory that is checked when the test ends, and a blob backend that can lose power.
package storetest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/meta/pebble"
)

// New returns an empty store in memory. When the test ends, the store is
// checked, and closed.
func New(t testing.TB) *store.Store {
	s, _ := NewWith(t, store.Options{})
	return s
}

// NewWith is New with options; the engine and the backend are filled in.
func NewWith(t testing.TB, o store.Options) (*store.Store, *MemBlobs) {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), Logger: o.Logger, CacheSize: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	blobs := NewMemBlobs()
	o.Meta, o.Blobs = db, blobs
	s, err := store.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		Check(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, blobs
}

// Check waits for the collector and fails the test for every invariant that the
// store violates.
func Check(t testing.TB, s *store.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Quiesce(ctx); err != nil {
		t.Errorf("Quiesce: %v", err)
	}
	problems, err := s.Check(ctx, store.CheckOptions{})
	if err != nil {
		t.Errorf("Check: %v", err)
	}
	for _, p := range problems {
		t.Errorf("Check: %s", p)
	}
}

// Logger returns a logger that writes to the test's log.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

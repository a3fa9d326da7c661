package store_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta/pebble"
)

// BenchmarkUpload1GiB is the store's part of a PUT, with real files and fsync.
func BenchmarkUpload1GiB(b *testing.B) {
	dir := b.TempDir()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := pebble.Open(filepath.Join(dir, "meta"), pebble.Options{Create: true, Logger: log, CacheSize: 8 << 20})
	if err != nil {
		b.Fatal(err)
	}
	blobs, err := local.Open(filepath.Join(dir, "blobs"), local.Options{Create: true, Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(context.Background(), store.Options{Meta: db, Blobs: blobs, Logger: log, Reserve: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	piece := pattern(1<<20, 3)
	b.SetBytes(1 << 30)
	for b.Loop() {
		u, err := s.NewUpload(ctx, store.RootIno, "f", 1<<30)
		if err != nil {
			b.Fatal(err)
		}
		readers := make([]io.Reader, 1<<10)
		for i := range readers {
			readers[i] = bytes.NewReader(piece)
		}
		if _, err := u.ReadFrom(io.MultiReader(readers...)); err != nil {
			b.Fatal(err)
		}
		if _, _, err := u.Commit(ctx, store.CommitOptions{Mode: 0o644}); err != nil {
			b.Fatal(err)
		}
		if err := s.Sync(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

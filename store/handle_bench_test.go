package store_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta/pebble"
)

// diskStore returns a store with all of it on the disk.
func diskStore(b *testing.B) *store.Store {
	b.Helper()
	db, err := pebble.Open(b.TempDir(), pebble.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	blobs, err := local.Open(b.TempDir(), local.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

const benchSize = 64 << 20

// benchFile returns a writer of a file of benchSize bytes that is not sealed.
func benchFile(b *testing.B, s *store.Store) *store.Handle {
	b.Helper()
	put(b, s, "/f", nil)
	h := open(b, s, "/f", true)
	for off := int64(0); off < benchSize; off += 1 << 20 {
		write(b, h, pattern(1<<20, 1), off)
	}
	return h
}

func BenchmarkHandleWrite4KRandom(b *testing.B) {
	s := diskStore(b)
	h := benchFile(b, s)
	p := pattern(4096, 1)
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		write(b, h, p, rand.Int64N(benchSize/4096)*4096)
	}
}

// BenchmarkFileWrite is what the same writes take without the store.
func BenchmarkFileWrite(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off < benchSize; off += 1 << 20 {
		if _, err := f.WriteAt(pattern(1<<20, 1), off); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("4KRandom", func(b *testing.B) {
		p := pattern(4096, 1)
		b.SetBytes(4096)
		for b.Loop() {
			if _, err := f.WriteAt(p, rand.Int64N(benchSize/4096)*4096); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("128KAppend", func(b *testing.B) {
		p := pattern(128<<10, 1)
		b.SetBytes(int64(len(p)))
		off := int64(0)
		for b.Loop() {
			if _, err := f.WriteAt(p, off); err != nil {
				b.Fatal(err)
			}
			if off += int64(len(p)); off == 1<<30 {
				if err := f.Truncate(0); err != nil {
					b.Fatal(err)
				}
				off = 0
			}
		}
	})
}

func BenchmarkHandleWrite128KAppend(b *testing.B) {
	s := diskStore(b)
	put(b, s, "/f", nil)
	h := open(b, s, "/f", true)
	p := pattern(128<<10, 1)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		write(b, h, p, off)
		if off += int64(len(p)); off == 1<<30 {
			if err := h.Truncate(ctx, 0); err != nil {
				b.Fatal(err)
			}
			off = 0
		}
	}
}

func BenchmarkHandleRead(b *testing.B) {
	for _, c := range []struct {
		name   string
		size   int
		sealed bool
	}{{"4KUnsealed", 4096, false}, {"4KSealed", 4096, true}, {"128KSealed", 128 << 10, true}} {
		b.Run(c.name, func(b *testing.B) {
			s := diskStore(b)
			h := benchFile(b, s)
			if c.sealed {
				if err := h.Close(); err != nil {
					b.Fatal(err)
				}
				if err := s.Quiesce(ctx); err != nil {
					b.Fatal(err)
				}
				h = open(b, s, "/f", false)
			}
			p := make([]byte, c.size)
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for b.Loop() {
				off := rand.Int64N(benchSize/int64(c.size)) * int64(c.size)
				if _, err := h.ReadAt(ctx, p, off); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

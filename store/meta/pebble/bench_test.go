package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"engramfs/store/meta"
)

func benchOpen(b *testing.B) *DB {
	b.Helper()
	db, err := Open(filepath.Join(b.TempDir(), "meta"), Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return db
}

// createFile is what a create writes: an inode, a dirent and two counters.
func createFile(db *DB, parent, ino uint64) error {
	var inode [100]byte
	return db.Update(func(tx meta.Txn) error {
		if _, err := tx.Get(direntKey(parent, ino)); !errors.Is(err, meta.ErrNotFound) {
			return fmt.Errorf("file %d exists (%v)", ino, err)
		}
		tx.Put(inodeKey(ino), inode[:])
		tx.Put(direntKey(parent, ino), binary.BigEndian.AppendUint64(nil, ino))
		tx.Add([]byte("C/files"), 1)
		tx.Add([]byte("C/bytes"), 4096)
		return nil
	})
}

func inodeKey(ino uint64) []byte { return binary.BigEndian.AppendUint64([]byte("I"), ino) }

func direntKey(parent, ino uint64) []byte {
	return fmt.Appendf(binary.BigEndian.AppendUint64([]byte("D"), parent), "file%08d", ino)
}

// BenchmarkCreate is a durable create, as a WebDAV PUT of an empty file needs it.
func BenchmarkCreate(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			db := benchOpen(b)
			var next atomic.Uint64
			if writers == 1 {
				for b.Loop() {
					if err := createSync(db, next.Add(1)); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.SetParallelism(max(1, writers/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := createSync(db, next.Add(1)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func createSync(db *DB, ino uint64) error {
	if err := createFile(db, ino%100, ino); err != nil {
		return err
	}
	return db.Sync()
}

// BenchmarkReaddirPlus lists a directory of 10,000 entries and gets their
// inodes, which are spread over 100,000.
func BenchmarkReaddirPlus(b *testing.B) {
	db := benchOpen(b)
	for ino := range uint64(100_000) {
		if err := createFile(db, ino%10, ino); err != nil {
			b.Fatal(err)
		}
	}
	lo, hi := direntKey(3, 0)[:9], direntKey(4, 0)[:9]
	names := func() (keys [][]byte) {
		if err := db.Scan(lo, hi, func(_, v []byte) bool {
			keys = append(keys, append([]byte("I"), v...))
			return true
		}); err != nil || len(keys) != 10_000 {
			b.Fatal(len(keys), err)
		}
		return keys
	}
	b.Run("Scan", func(b *testing.B) {
		for b.Loop() {
			names()
		}
	})
	keys := names()
	b.Run("GetMany", func(b *testing.B) {
		for b.Loop() {
			if err := db.GetMany(keys, func(_ int, v []byte) error {
				if len(v) != 100 {
					return fmt.Errorf("value of %d bytes", len(v))
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Gets", func(b *testing.B) {
		for b.Loop() {
			for _, k := range keys {
				if _, err := db.Get(k); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// BenchmarkGet looks up one of 100,000 inodes.
func BenchmarkGet(b *testing.B) {
	db := benchOpen(b)
	const n = 100_000
	for ino := range uint64(n) {
		if err := createFile(db, ino%10, ino); err != nil {
			b.Fatal(err)
		}
	}
	for name, offset := range map[string]uint64{"Present": 0, "Absent": n} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, err := db.Get(inodeKey(rand.Uint64N(n) + offset))
				if (err == nil) != (offset == 0) {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMillionFiles creates a million files and lists them, and reports the
// resident memory of the process and the time per create at the start and at the end.
// Run it alone, with -benchtime 1x.
func BenchmarkMillionFiles(b *testing.B) {
	for b.Loop() {
		db := benchOpen(b)
		const n, part = 1_000_000, 100_000
		var first, last int64
		for p := range uint64(n / part) {
			begin := b.Elapsed()
			for i := range uint64(part) {
				ino := p*part + i
				if err := createFile(db, ino%100, ino); err != nil {
					b.Fatal(err)
				}
			}
			last = int64(b.Elapsed()-begin) / part
			if p == 0 {
				first = last
			}
		}
		count := 0
		if err := db.Scan([]byte("D"), []byte("E"), func(_, _ []byte) bool { count++; return true }); err != nil || count != n {
			b.Fatal(count, err)
		}
		b.ReportMetric(float64(first), "ns/create-first")
		b.ReportMetric(float64(last), "ns/create-last")
		b.ReportMetric(residentMiB(b), "peak-MiB")
		s := db.Stats()
		b.ReportMetric(float64(s.DiskBytes)/(1<<20), "disk-MiB")
		b.ReportMetric(float64(s.WriteStalls), "stalls")
	}
}

// residentMiB returns the highest resident memory of the process so far.
func residentMiB(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}

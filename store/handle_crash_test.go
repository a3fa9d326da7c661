package store_test

import (
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/storetest"
)

// crashFile knows what a power cut may leave of one file.
type crashFile struct {
	path string
	now  []byte // as it is without a power cut
	// may holds, for each byte, the values that it had since the file was last
	// durable as a whole, and minSize and maxSize the sizes.
	may              []map[byte]bool
	minSize, maxSize int
	h                *store.Handle
	tags             map[string]uint64 // ETag -> checksum of the content it was seen with
}

// settle notes that the file is durable as it is now.
func (f *crashFile) settle() {
	f.may = make([]map[byte]bool, len(f.now))
	for i, v := range f.now {
		f.may[i] = map[byte]bool{v: true}
	}
	f.minSize, f.maxSize = len(f.now), len(f.now)
}

// changed notes that the file has changed from off on, n bytes.
func (f *crashFile) changed(off, n int) {
	for i := min(off, len(f.may)); i < len(f.now); i++ {
		if i >= len(f.may) {
			f.may = append(f.may, map[byte]bool{0: true}) // space that the disk has given to the file, and nothing in it yet
		}
		if i >= off && i < off+n {
			f.may[i][f.now[i]] = true
		}
	}
	f.minSize, f.maxSize = min(f.minSize, len(f.now)), max(f.maxSize, len(f.now))
}

func (f *crashFile) resize(size int) {
	old := len(f.now)
	if size <= old {
		f.now = f.now[:size:size]
	} else {
		f.now = append(f.now, make([]byte, size-old)...)
	}
	f.changed(min(old, size), max(size-old, 0))
}

// adopt compares the file after a power cut with what it may be, and takes it for
// what is now durable.
func (f *crashFile) adopt(t *testing.T, s *store.Store) {
	t.Helper()
	got := get(t, s, f.path)
	if len(got) < f.minSize || len(got) > f.maxSize {
		t.Fatalf("%s has %d bytes, want %d to %d", f.path, len(got), f.minSize, f.maxSize)
	}
	for i, v := range got {
		if !f.may[i][v] {
			t.Fatalf("%s: byte %d of %d is %#x, which it was not since the last fsync: %v", f.path, i, len(got), v, f.may[i])
		}
	}
	f.now = got
	f.settle()
	f.see(t, s)
}

// see notes the ETag that a client gets with the content as it is.
func (f *crashFile) see(t *testing.T, s *store.Store) {
	t.Helper()
	tag, sum := tagOf(s, f.path), crc64.Checksum(f.now, crc64.MakeTable(crc64.ECMA))
	if old, ok := f.tags[tag]; ok && old != sum {
		t.Fatalf("%s: ETag %s means two contents", f.path, tag)
	}
	f.tags[tag] = sum
}

// crashOp does something random to a file.
func crashOp(t *testing.T, m *machine, rng *rand.Rand, f *crashFile) {
	t.Helper()
	const size = 80_000
	off := rng.IntN([]int{100, 16_000, size}[rng.IntN(3)])
	n := 1 + rng.IntN(min(20_000, size-off))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch rng.IntN(12) {
	case 0, 1, 2, 3:
		write(t, f.h, pattern(n, byte(rng.Int())), int64(off))
		if off+n > len(f.now) {
			f.resize(off + n)
		}
		copy(f.now[off:], get(t, m.s, f.path)[off:off+n])
		f.changed(off, n)
	case 4:
		must(f.h.Truncate(ctx, int64(off)))
		f.resize(off)
	case 5:
		must(f.h.Allocate(ctx, store.Allocation{PunchHole: true}, int64(off), int64(n)))
		clear(f.now[min(off, len(f.now)):min(off+n, len(f.now))])
		f.changed(off, n)
	case 6:
		must(f.h.Sync(ctx))
		f.settle()
	case 7:
		must(f.h.SyncData(ctx))
		f.settle()
	case 8:
		must(f.h.Close())
		must(m.s.Quiesce(ctx))
		f.h = open(t, m.s, f.path, true)
	case 9:
		must(f.h.Close())
		put(t, m.s, f.path, pattern(n, byte(rng.Int())))
		must(m.s.Sync(ctx))
		f.now = get(t, m.s, f.path)
		f.settle()
		f.h = open(t, m.s, f.path, true)
	case 10:
		must(m.s.Sync(ctx)) // the engine's changes only
	case 11:
		f.see(t, m.s)
	}
}

// TestPowerCutWhileWriting writes to files in place, cuts the power at random
// instants, and expects of every byte that it is what it was when it was last made
// durable, or something that was written since.
func TestPowerCutWhileWriting(t *testing.T) {
	cuts := 30
	if v, err := strconv.Atoi(os.Getenv("ENGRAMFS_CUTS")); err == nil {
		cuts = v
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	files := make([]*crashFile, 4)
	for i := range files {
		f := &crashFile{path: fmt.Sprintf("/f%d", i), tags: map[string]uint64{}}
		put(t, m.s, f.path, nil)
		f.h = open(t, m.s, f.path, true)
		f.settle()
		files[i] = f
	}
	if err := m.s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for range cuts {
		for range 1 + rng.IntN(30) {
			crashOp(t, m, rng, files[rng.IntN(len(files))])
		}
		var mem *vfs.MemFS
		blobs := m.blobs.TornPowerCut(rng, func() {
			mem = m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(3) * 50, RNG: rng})
		})
		for _, f := range files {
			if err := f.h.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.s.Close(); err != nil {
			t.Fatal(err)
		}
		m = boot(t, mem, blobs)
		for _, f := range files {
			f.adopt(t, m.s)
			f.h = open(t, m.s, f.path, true)
		}
		if rng.IntN(3) == 0 {
			storetest.Check(t, m.s)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for _, f := range files {
		if err := f.h.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := m.s.Close(); err != nil {
		t.Error(err)
	}
}

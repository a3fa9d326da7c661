package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// settledDelay is more than what passes until a later write has a later time.
const settledDelay = 50 * time.Millisecond

const rotSize = 2<<20 + 5 // more than is verified as a whole before it is written

// wantRot expects every block of path but those of bad to be want, through a reader
// that is opened now and through a handle.
func wantRot(t testing.TB, s *store.Store, path string, want []byte, bad ...int64) {
	t.Helper()
	c, err := s.OpenContent(ctx, lookup(s, path).Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h := open(t, s, path, false)
	defer h.Close()
	isBad := make(map[int64]bool)
	for _, b := range bad {
		isBad[b] = true
	}
	readers := map[string]io.ReaderAt{
		"content": c,
		"handle":  readerFunc(func(p []byte, off int64) (int, error) { return h.ReadAt(ctx, p, off) }),
	}
	for off := int64(0); off < int64(len(want)); off += block {
		end := min(off+block, int64(len(want)))
		for kind, r := range readers {
			for _, span := range [][2]int64{{off, end}, {off + 7, end - 1}} {
				if span[1] <= span[0] {
					continue
				}
				p := make([]byte, span[1]-span[0])
				n, err := r.ReadAt(p, span[0])
				switch {
				case isBad[off/block] && (!errors.Is(err, store.ErrDamaged) || n > 0):
					t.Errorf("%s, %s: %d bytes of bad block %d at %d, %v", path, kind, n, off/block, span[0], err)
				case !isBad[off/block] && (err != nil && err != io.EOF || !bytes.Equal(p, want[span[0]:span[0]+int64(len(p))])):
					t.Errorf("%s, %s: good block %d: %d bytes, %v", path, kind, off/block, n, err)
				}
			}
		}
	}
	var listed []int64
	for _, d := range s.Damaged() {
		if d.Path == path {
			listed = append(listed, d.Offset/block)
		}
	}
	if fmt.Sprint(listed) != fmt.Sprint(bad) {
		t.Errorf("%s: damaged blocks %v, want %v", path, listed, bad)
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// TestRotWhileWritten flips bits in blocks of a file that is being written: in one that
// nobody touches, in one that is written, and in one that is added.
func TestRotWhileWritten(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	data := pattern(rotSize, 1)
	a := put(t, s, "/f", data)
	h := open(t, s, "/f", true)
	write(t, h, []byte("new"), 10)
	copy(data[10:], "new")
	more := pattern(100_000, 3)
	write(t, h, more, rotSize)
	data = append(data, more...)
	id := s.BlobOf(a.Ino)
	wantRot(t, s, "/f", data)
	blobs.Flip(id, 5*block+9)
	wantRot(t, s, "/f", data, 5)
	if _, err := h.WriteAt(ctx, []byte("x"), 5*block); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("write to a part of the bad block: %v", err)
	}
	write(t, h, pattern(block, 4), 5*block)
	copy(data[5*block:], pattern(block, 4))
	wantRot(t, s, "/f", data)
	blobs.Flip(id, 7*block)
	if err := h.Truncate(ctx, 12*block+1); err != nil {
		t.Fatal(err)
	}
	if err := h.Truncate(ctx, 20*block); err != nil {
		t.Fatal(err)
	}
	data = append(data[:12*block+1], make([]byte, 8*block-1)...)
	wantRot(t, s, "/f", data, 7)
	if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
		t.Fatal(err)
	}
	if !s.Sealed(a.Ino) {
		t.Fatal("not sealed")
	}
	wantRot(t, s, "/f", data, 7)
	blobs.Flip(id, 7*block) // the check at the end is to find nothing
}

// rotMachine is a machine whose store says in which boot it runs.
func rotMachine(t testing.TB, mem *vfs.MemFS, blobs blob.Backend, bootID string) *store.Store {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs, Boot: bootID, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRotAcrossRestarts ends a run, in order or not, with a file that has no checksums,
// and flips a bit before the next one.
func TestRotAcrossRestarts(t *testing.T) {
	for name, c := range map[string]struct {
		write bool   // something before the run ends
		late  bool   // and once more, just before it is killed
		kill  bool   // else it ends in order
		boot  string // of the next run
		found bool
	}{
		"InOrder":               {write: true, boot: "1", found: true},
		"InOrderThenReboot":     {write: true, boot: "2", found: true},
		"Killed":                {write: true, kill: true, boot: "1", found: true},
		"KilledUnwritten":       {kill: true, boot: "1", found: true},
		"KilledWhileWriting":    {write: true, late: true, kill: true, boot: "1"},
		"PowerCut":              {write: true, kill: true, boot: "2"}, // bytes may have come without their time
		"PowerCutWhileUnopened": {kill: true, boot: "2"},
	} {
		t.Run(name, func(t *testing.T) {
			mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
			s := rotMachine(t, mem, blobs, "1")
			data := pattern(rotSize, 1)
			a := put(t, s, "/f", data)
			time.Sleep(settledDelay)
			h := open(t, s, "/f", true)
			if c.write {
				write(t, h, []byte("new"), 3*block)
				copy(data[3*block:], "new")
				time.Sleep(flushed + settledDelay)
			} else if err := h.Unseal(ctx); err != nil {
				t.Fatal(err)
			}
			id := blob.ID(s.BlobOf(a.Ino))
			if c.late {
				write(t, h, []byte("late"), 8*block)
				copy(data[8*block:], "late")
			}
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
			if c.kill {
				if err := s.Sync(ctx); err != nil {
					t.Fatal(err)
				}
				image := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
				after := blobs.Snapshot()
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				mem, blobs = image, after
			} else if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			blobs.Flip(id, 9*block+1)
			var bad []int64
			if c.found {
				bad = []int64{9}
			} else {
				data[9*block+1] ^= 1
			}
			for run := range 2 {
				s = rotMachine(t, mem, blobs, c.boot)
				if s.Sealed(a.Ino) {
					t.Fatal("sealed")
				}
				wantRot(t, s, "/f", data, bad...)
				if run == 0 { // a second restart changes nothing
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
			defer s.Close()
			h = open(t, s, "/f", true)
			write(t, h, []byte("more"), 20*block)
			copy(data[20*block:], "more")
			wantRot(t, s, "/f", data, bad...)
			if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
				t.Fatal(err)
			}
			if !s.Sealed(a.Ino) {
				t.Fatal("not sealed")
			}
			wantRot(t, s, "/f", data, bad...)
		})
	}
}

// rot flips a bit of a file as a disk does: its times stay.
func rot(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// TestRotOfNativeFile flips a bit in a file that a kernel may write to, has written
// to, or has not.
func TestRotOfNativeFile(t *testing.T) {
	for name, writes := range map[string]bool{"Unwritten": false, "Written": true} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/restart=%t", name, restart), func(t *testing.T) {
				dir, mem := t.TempDir(), vfs.NewMem()
				o := store.Options{Boot: "1"}
				s := openLocal(t, dir, mem, o)
				defer func() { s.Close() }()
				data := pattern(rotSize, 1)
				a := put(t, s, "/f", data)
				time.Sleep(settledDelay)
				h := open(t, s, "/f", true)
				f := native(t, h)
				if writes {
					if _, err := f.WriteAt([]byte("native"), 100); err != nil {
						t.Fatal(err)
					}
					copy(data[100:], "native")
				}
				rot(t, blobPath(dir, s.BlobOf(a.Ino)), 5*block)
				bad := []int64{5}
				if writes { // nobody knows what the kernel has written
					bad = nil
					data[5*block] ^= 1
				}
				wantRot(t, s, "/f", data, bad...)
				if err := h.Close(); err != nil {
					t.Fatal(err)
				}
				if restart {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = openLocal(t, dir, mem, o)
					wantRot(t, s, "/f", data, bad...)
				}
				if err := s.Quiesce(ctx); err != nil {
					t.Fatal(err)
				}
				if !s.Sealed(a.Ino) {
					t.Fatal("not sealed")
				}
				wantRot(t, s, "/f", data, bad...)
			})
		}
	}
}

// TestLateWriteNeedsALoan changes a blob that no kernel was ever given, and its time:
// that is damage, as after a disk, or somebody who had no business there.
func TestLateWriteNeedsALoan(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	data := pattern(rotSize, 1)
	a := sealedFile(t, s, "/f", data)
	old := data[5*block : 5*block+5]
	blobs.Scribble(s.BlobOf(a.Ino), []byte("wrong"), 5*block)
	wantRot(t, s, "/f", data, 5)
	blobs.Scribble(s.BlobOf(a.Ino), old, 5*block)
	wantSound(t, s, "/f", data)
}

func wantSound(t testing.TB, s *store.Store, path string, data []byte) {
	t.Helper()
	if got := get(t, s, path); !bytes.Equal(got, data) {
		t.Errorf("%s differs", path)
	}
}

// TestLabelIsNoLateWrite gives a file that a kernel has written new labels, which
// moves the ctime of its blob, and then has it rot.
func TestLabelIsNoLateWrite(t *testing.T) {
	dir := t.TempDir()
	s := openLocal(t, dir, vfs.NewMem(), store.Options{})
	defer s.Close()
	data := pattern(rotSize, 1)
	a := put(t, s, "/f", data)
	h := open(t, s, "/f", true)
	if _, err := native(t, h).WriteAt([]byte("native"), 100); err != nil {
		t.Fatal(err)
	}
	copy(data[100:], "native")
	if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
		t.Fatal(err)
	}
	version := lookup(s, "/f").Version
	mode := uint32(0o600)
	if _, err := s.SetAttr(ctx, a.Ino, store.SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	wantLabel(t, s, dir, "/f")
	wantRot(t, s, "/f", data)
	if now := lookup(s, "/f"); now.Version != version {
		t.Errorf("version %d, was %d", now.Version, version)
	}
	path := blobPath(dir, s.BlobOf(a.Ino))
	if mtime, ctime, ok := s.SealTimes(a.Ino); !ok || mtime != statOf(t, path).Mtim.Nano() || ctime != statOf(t, path).Ctim.Nano() {
		t.Errorf("the seal has the times %d, %d, the blob %+v", mtime, ctime, statOf(t, path))
	}
	rot(t, path, 5*block)
	wantRot(t, s, "/f", data, 5)
}

func statOf(t testing.TB, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

// TestStoreIntoMappingIsNoRot stores into a mapping of a file that is open, on the file
// system of the tests, which notes the time of that, and on one that does not.
func TestStoreIntoMappingIsNoRot(t *testing.T) {
	t.Run("TempDir", func(t *testing.T) { storeIntoMapping(t, t.TempDir()) })
	t.Run("tmpfs", func(t *testing.T) {
		var st unix.Statfs_t
		if err := unix.Statfs("/dev/shm", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			if os.Getenv("REQUIRE_ALL") == "1" {
				t.Fatal("/dev/shm is no tmpfs")
			}
			t.Skip("/dev/shm is no tmpfs")
		}
		dir, err := os.MkdirTemp("/dev/shm", "engramfs-test")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		storeIntoMapping(t, dir)
	})
}

func storeIntoMapping(t *testing.T, dir string) {
	s := openLocal(t, dir, vfs.NewMem(), store.Options{})
	defer s.Close()
	data := pattern(rotSize, 1)
	a := put(t, s, "/f", data)
	time.Sleep(settledDelay)
	h := open(t, s, "/f", true)
	m, err := unix.Mmap(int(native(t, h).Fd()), 0, rotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	if m[5*block] != data[5*block] { // a read maps the page, so that the store may need no fault
		t.Fatal("the mapping has other bytes")
	}
	copy(m[5*block:], "stored")
	copy(data[5*block:], "stored")
	wantRot(t, s, "/f", data)
	if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
		t.Fatal(err)
	}
	if !s.Sealed(a.Ino) {
		t.Fatal("not sealed")
	}
	wantRot(t, s, "/f", data)
}

// TestRotAtTheEndOfAFileThatGrows: bytes that are added must not give the rotten ones
// before them a new sum.
func TestRotAtTheEndOfAFileThatGrows(t *testing.T) {
	for what, grow := range map[string]func(h *store.Handle) error{
		"append": func(h *store.Handle) error { return second(h.WriteAt(ctx, []byte("more"), rotSize)) },
		"gap":    func(h *store.Handle) error { return second(h.WriteAt(ctx, []byte("more"), rotSize+block)) },
		"size":   func(h *store.Handle) error { return h.Truncate(ctx, rotSize+10) },
	} {
		s, blobs := storetest.NewWith(t, store.Options{})
		a := put(t, s, "/f", pattern(rotSize, 1))
		h := open(t, s, "/f", true)
		write(t, h, []byte("new"), 10)
		blobs.Flip(s.BlobOf(a.Ino), rotSize-1)
		wantErr(t, what, grow(h), store.ErrDamaged)
		if len(s.Damaged()) != 1 {
			t.Errorf("%s: damaged: %+v", what, s.Damaged())
		}
		const last = rotSize / block * block
		write(t, h, pattern(100_000, 2), last) // the whole block anew, and more
		if want := append(pattern(rotSize, 1)[:last], pattern(100_000, 2)...); !bytes.Equal(get(t, s, "/f")[block:], want[block:]) {
			t.Errorf("%s: content differs after the bad block was written anew", what)
		}
		if len(s.Damaged()) != 0 {
			t.Errorf("%s: still damaged: %+v", what, s.Damaged())
		}
	}
}

// TestHugeSize sets a size that is far from what is written: whether the backend can
// have it or not, that takes no time and no memory.
func TestHugeSize(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(rotSize, 1))
	h := open(t, s, "/f", true)
	write(t, h, []byte("new"), 10)
	for _, size := range []int64{1 << 43, store.MaxFileSize} {
		if err := h.Truncate(ctx, size); err != nil {
			t.Logf("%d bytes: %v", size, err)
		}
	}
	if err := h.Truncate(ctx, rotSize); err != nil {
		t.Fatal(err)
	}
}

// TestHalfAWriteLeavesTheRestDamaged: what a failed write has not written is still on
// the list of damage.
func TestHalfAWriteLeavesTheRestDamaged(t *testing.T) {
	s, f := faultyStore(t)
	a := put(t, s, "/f", pattern(rotSize, 1))
	h := open(t, s, "/f", true)
	write(t, h, []byte("new"), 10)
	for _, b := range []int64{5, 6} {
		f.Flip(s.BlobOf(a.Ino), b*block)
		if _, err := h.ReadAt(ctx, make([]byte, block), b*block); !errors.Is(err, store.ErrDamaged) {
			t.Fatalf("block %d: %v", b, err)
		}
	}
	broken := errors.New("disk is broken")
	f.writeErr.Store(&broken)
	if n, err := h.WriteAt(ctx, pattern(2*block, 2), 5*block); n != block || !errors.Is(err, broken) {
		t.Errorf("WriteAt = %d, %v", n, err)
	}
	if err := h.Truncate(ctx, rotSize); err != nil {
		t.Fatal(err)
	}
	f.writeErr.Store(nil)
	if d := s.Damaged(); len(d) != 1 || d[0].Offset != 6*block {
		t.Errorf("damaged: %+v, want block 6", d)
	}
	write(t, h, pattern(2*block, 2), 5*block)
}

// TestFailedWriteOverRot: a write that fails must not make what it was to replace sound.
func TestFailedWriteOverRot(t *testing.T) {
	for what, fail := range map[string]func(h *store.Handle) error{
		"write": func(h *store.Handle) error { return second(h.WriteAt(ctx, pattern(200_000, 2), 0)) },
		"size":  func(h *store.Handle) error { return h.Truncate(ctx, block) },
	} {
		s, f := faultyStore(t)
		data := pattern(200_000, 1)
		a := put(t, s, "/f", data)
		h := open(t, s, "/f", true)
		write(t, h, data[:1], 0)
		id := s.BlobOf(a.Ino)
		f.Flip(id, 150_000)
		broken := errors.New("disk is broken")
		f.writeErr.Store(&broken)
		f.none.Store(true)
		wantErr(t, what, fail(h), broken)
		f.writeErr.Store(nil)
		if err := errors.Join(h.Close(), s.SealAll(ctx)); err != nil {
			t.Fatal(err)
		}
		wantRot(t, s, "/f", data, 150_000/block)
		f.Flip(id, 150_000) // the check at the end is to find nothing
	}
}

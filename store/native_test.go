package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/blob/local"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// openOn opens a store on a crash image and blobs.
func openOn(t testing.TB, mem *vfs.MemFS, blobs blob.Backend) *store.Store {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{FS: mem, CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// openMeta opens the engine that mem has, or a new one.
func openMeta(t testing.TB, mem *vfs.MemFS) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// reopen returns another descriptor of an open file, which lives on without it.
func reopen(t testing.TB, f *os.File) *os.File {
	t.Helper()
	g, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// copyBlob makes a blob with the content of f.
func copyBlob(t testing.TB, f *os.File, to blob.Backend, id blob.ID) {
	t.Helper()
	dst, err := to.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err == nil {
		_, err = dst.WriteAt(data, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// native returns the handle's file or fails the test.
func native(t testing.TB, h *store.Handle) *os.File {
	t.Helper()
	f, err := h.Native(ctx)
	if err != nil {
		t.Fatalf("Native: %v", err)
	}
	return f
}

func TestNativeIsOneFile(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	r, w := open(t, s, "/f", false), open(t, s, "/f", true)
	f := native(t, r)
	if g := native(t, w); g != f {
		t.Error("a second handle has another file")
	}
	if g := native(t, r); g != f {
		t.Error("asking again gives another file")
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is open after the last handle: %v", err)
	}
	if _, err := r.Native(ctx); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Native of a closed handle: %v", err)
	}
}

func TestNativeRefused(t *testing.T) {
	s := localStore(t, store.Options{})
	mode := uint32(0o4755)
	for path, prepare := range map[string]func(a store.Attr) error{
		"/inline": func(store.Attr) error { return nil },
		"/setuid": func(a store.Attr) error { return second(s.SetAttr(ctx, a.Ino, store.SetAttr{Mode: &mode})) },
		"/cap":    func(a store.Attr) error { return s.SetXattr(ctx, a.Ino, "security.capability", []byte("x"), 0) },
		"/shared": func(a store.Attr) error {
			_, _, err := s.Clone(ctx, a.Ino, store.RootIno, "copy", store.CloneOptions{})
			return err
		},
	} {
		data := pattern(100_000, 1)
		if path == "/inline" {
			data = data[:100]
		}
		if err := prepare(put(t, s, path, data)); err != nil {
			t.Fatal(err)
		}
		h := open(t, s, path, false)
		if _, err := h.Native(ctx); !errors.Is(err, store.ErrNotNative) {
			t.Errorf("%s: %v, want %v", path, err, store.ErrNotNative)
		}
	}
	if _, err := open(t, s, "/shared", true).Native(ctx); err != nil {
		t.Errorf("a writer of a shared blob: %v; it gets a copy", err)
	}
	mem := storetest.New(t)
	put(t, mem, "/f", pattern(100_000, 1))
	if _, err := open(t, mem, "/f", true).Native(ctx); !errors.Is(err, store.ErrNotNative) {
		t.Errorf("a backend without files: %v", err)
	}
}

// TestNativeWritesShow writes past the store: everybody sees the size and the times,
// and nobody gets an ETag for bytes that the store has not counted.
func TestNativeWritesShow(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	before := lookup(s, "/f")
	h := open(t, s, "/f", true)
	f := native(t, h)
	time.Sleep(25 * time.Millisecond) // the kernel's clock ticks
	if _, err := f.WriteAt([]byte("tail"), 120_000); err != nil {
		t.Fatal(err)
	}
	shows := func(what string, a store.Attr) {
		t.Helper()
		if a.Size != 120_004 || a.Mtime <= before.Mtime || a.Ctime <= before.Ctime || !a.Native {
			t.Errorf("%s: %+v", what, a)
		}
	}
	shows("Lookup", lookup(s, "/f"))
	a, err := h.Attr(ctx)
	if err != nil {
		t.Fatal(err)
	}
	shows("Attr", a)
	if err := s.ReadDirPlus(ctx, store.RootIno, "", func(_ string, a *store.Attr) bool { shows("ReadDirPlus", *a); return true }); err != nil {
		t.Fatal(err)
	}
	c, err := s.OpenContent(ctx, before.Ino)
	if err != nil {
		t.Fatal(err)
	}
	shows("OpenContent", c.Attr())
	c.Close()
	if got := get(t, s, "/f"); string(got[120_000:]) != "tail" || !bytes.Equal(got[100_000:120_000], make([]byte, 20_000)) {
		t.Error("content differs")
	}
	if err := h.Absorb(ctx); err != nil {
		t.Fatal(err)
	}
	absorbed := lookup(s, "/f")
	if absorbed.Version <= before.Version || s.TotalSize(ctx) != 120_004 {
		t.Errorf("after Absorb %+v, total %d", absorbed, s.TotalSize(ctx))
	}
	if _, err := f.WriteAt([]byte("more"), 0); err != nil { // perhaps within the same tick
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	closed := lookup(s, "/f")
	if closed.Native || closed.Version <= absorbed.Version || closed.Size != 120_004 {
		t.Errorf("after Close %+v", closed)
	}
	storetest.Check(t, s)
	sealed := lookup(s, "/f")
	if !s.Sealed(sealed.Ino) || sealed.ETag() != closed.ETag() {
		t.Errorf("after sealing %+v, before %+v", sealed, closed)
	}
}

// TestCondsSeeNativeWrites: the condition of every change is asked about a file as it
// is, not as the store has last counted it.
func TestCondsSeeNativeWrites(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	put(t, s, "/other", pattern(10, 1))
	h, other := open(t, s, "/f", true), lookup(s, "/other")
	f := native(t, h)
	if _, err := f.WriteAt([]byte("tail"), 120_000); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	var cur *store.Attr
	cond := func(a *store.Attr) error { cur = a; return refused }
	for op, change := range map[string]func() error{
		"Unlink":    func() error { return s.Unlink(ctx, store.RootIno, "f", cond) },
		"RemoveAll": func() error { return s.RemoveAll(ctx, store.RootIno, "f", cond) },
		"Rename source": func() error {
			return second(s.Rename(ctx, store.RootIno, "f", store.RootIno, "g", store.RenameOptions{Source: cond}))
		},
		"Rename target": func() error {
			return second(s.Rename(ctx, store.RootIno, "other", store.RootIno, "f", store.RenameOptions{Target: cond}))
		},
		"Clone source": func() error {
			_, _, err := s.Clone(ctx, h.Ino(), store.RootIno, "g", store.CloneOptions{Source: cond})
			return err
		},
		"Clone target": func() error {
			_, _, err := s.Clone(ctx, other.Ino, store.RootIno, "f", store.CloneOptions{Replace: true, Target: cond})
			return err
		},
		"PatchXattrs": func() error { return second(s.PatchXattrs(ctx, h.Ino(), nil, store.SetAttr{}, cond)) },
		"Commit": func() error {
			u, err := s.NewUpload(ctx, store.RootIno, "f", 0)
			if err != nil {
				return err
			}
			_, _, err = u.Commit(ctx, store.CommitOptions{Cond: cond})
			return err
		},
	} {
		cur = nil
		if err := change(); !errors.Is(err, refused) {
			t.Errorf("%s: %v", op, err)
		}
		if cur == nil || !cur.Native || cur.Size != 120_004 {
			t.Errorf("%s is asked about %+v", op, cur)
		}
	}
	if a := lookup(s, "/f"); a.Ino != h.Ino() || a.Size != 120_004 {
		t.Errorf("after refused changes: %+v", a)
	}
}

// TestNativeMtimeCanBeSet sets a time as cp(1) with -p does, before the last close.
func TestNativeMtimeCanBeSet(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	f := native(t, h)
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // so that the write is certainly before
	old := time.Unix(1_000_000_000, 0)
	if _, err := s.SetAttr(ctx, h.Ino(), store.SetAttr{Mtime: &old}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if a := lookup(s, "/f"); a.Mtime != old.UnixNano() {
		t.Errorf("while it is open: mtime %v", a.ModTime())
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if a := lookup(s, "/f"); a.Mtime != old.UnixNano() {
		t.Errorf("after close: mtime %v", a.ModTime())
	}
}

// TestNativeKeepsItsBlob changes a file in every other way while it is open natively.
func TestNativeKeepsItsBlob(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	r := open(t, s, "/f", false)
	f := native(t, r)
	id := s.BlobOf(r.Ino())
	w := open(t, s, "/f", true)
	same := func(what string, want string) {
		t.Helper()
		if s.BlobOf(r.Ino()) != id {
			t.Fatalf("%s: the content has moved", what)
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
		if err != nil || string(got) != want {
			t.Fatalf("%s: the file has %d bytes, want %d (%v)", what, len(got), len(want), err)
		}
	}
	_, _, err := s.Clone(ctx, r.Ino(), store.RootIno, "copy", store.CloneOptions{})
	if err != nil {
		t.Fatalf("copy of a file that is read natively: %v", err)
	}
	if s.BlobOf(lookup(s, "/copy").Ino) == id {
		t.Fatal("the copy shares a blob that must stay alone")
	}
	if err := w.Truncate(ctx, 0); err != nil {
		t.Fatal(err)
	}
	same("truncate", "")
	write(t, w, []byte("short"), 0)
	same("write", "short")
	if !bytes.Equal(get(t, s, "/copy"), pattern(100_000, 1)) {
		t.Error("the copy has changed with its source")
	}
	put(t, s, "/f", []byte("another file"))
	same("put", "short")
	if got := get(t, s, "/f"); string(got) != "another file" {
		t.Errorf("after PUT: %q", got)
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestNativeVerifiesSmallFiles flips a bit in a blob before it is read natively.
func TestNativeVerifiesSmallFiles(t *testing.T) {
	dir := t.TempDir()
	s := openLocal(t, dir, vfs.NewMem(), store.Options{})
	defer s.Close()
	for _, c := range []struct {
		path string
		size int
		want error
	}{
		{"/small", 1 << 20, store.ErrDamaged},
		{"/large", 1<<20 + 1, nil}, // left to scrubbing
	} {
		a := put(t, s, c.path, pattern(c.size, 1))
		id := blob.ID(s.BlobOf(a.Ino))
		f, err := os.OpenFile(filepath.Join(dir, id.String()[:2], id.String()), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff, 0xff}, 70_000); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if _, err := open(t, s, c.path, false).Native(ctx); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.path, err, c.want)
		}
		// A PUT blob has no times of sealing: being newer proves nothing.
		if _, err := tryGet(ctx, s, c.path); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: reading: %v", c.path, err)
		}
	}
	if d := s.Damaged(); len(d) != 2 || d[0].Offset != 65536 {
		t.Errorf("damaged: %+v", d)
	}
}

// TestNativeOfAHandleThatIsClosed asks for the file while the handle is closed.
func TestNativeOfAHandleThatIsClosed(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	for range 100 {
		h, err := s.Open(ctx, lookup(s, "/f").Ino, true)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := h.Native(ctx); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, store.ErrNotNative) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
}

// TestTimeThatWasSetStays sets the time of a file that is open natively, as rsync
// --inplace does: neither a restart nor the seal takes the blob's time instead.
func TestTimeThatWasSetStays(t *testing.T) {
	dir, mem := t.TempDir(), vfs.NewMem()
	s := openLocal(t, dir, mem, store.Options{Nodes: 64})
	defer func() { s.Close() }()
	want := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	for i, later := range []func(){
		func() { // the node is given up
			for k := range 300 {
				put(t, s, fmt.Sprintf("/other%d", k), nil)
			}
		},
		func() {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openLocal(t, dir, mem, store.Options{Nodes: 64})
		},
	} {
		path := fmt.Sprintf("/f%d", i)
		a := put(t, s, path, pattern(100_000, 1))
		h := open(t, s, path, true)
		if _, err := native(t, h).WriteAt([]byte("new"), 10); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond) // the kernel's clock ticks
		if _, err := s.SetAttr(ctx, a.Ino, store.SetAttr{Mtime: &want}); err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		later()
		if err := s.SealAll(ctx); err != nil {
			t.Fatal(err)
		}
		if got := time.Unix(0, lookup(s, path).Mtime).UTC(); got != want {
			t.Errorf("%d: the time is %v, was set to %v", i, got, want)
		}
	}
}

// syncsOfLocal counts the syncs of real files.
type syncsOfLocal struct {
	*local.Backend
	n atomic.Int64
}

func (l *syncsOfLocal) Open(id blob.ID, write bool) (blob.File, error) {
	f, err := l.Backend.Open(id, write)
	if err != nil {
		return nil, err
	}
	return syncOfLocal{f, f.(blob.OSFiler), f.(blob.Stater), l}, nil
}

type syncOfLocal struct {
	blob.File
	blob.OSFiler
	blob.Stater
	l *syncsOfLocal
}

func (f syncOfLocal) Sync() error { f.l.n.Add(1); return f.File.Sync() }

// TestSyncOfAMapping: content that was written natively is synced each time, as a mapping
// of it writes without a word.
func TestSyncOfAMapping(t *testing.T) {
	backend, err := local.Open(t.TempDir(), local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	blobs := &syncsOfLocal{Backend: backend}
	s := openTraced(t, vfs.NewMem(), blobs)
	t.Cleanup(func() { s.Close() })
	put(t, s, "/f", pattern(100_000, 1))
	w, r := open(t, s, "/f", true), open(t, s, "/f", false)
	m, err := unix.Mmap(int(native(t, w).Fd()), 0, 100_000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if i == 2 {
			if err := s.SealAll(ctx); err != nil {
				t.Fatal(err)
			}
		}
		m[50_000+i]++
		before := blobs.n.Load()
		if err := r.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		if blobs.n.Load() == before {
			t.Errorf("sync %d did nothing", i)
		}
	}
}

// TestResetTakesWhatProgramsWrote: the file grew past the store while its lock was poisoned.
func TestResetTakesWhatProgramsWrote(t *testing.T) {
	s := localStore(t, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	f := native(t, h)
	st := poisonFile(t, s, "/f")
	more := pattern(300_000, 2)
	if _, err := f.WriteAt(more, 100_000); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); !errors.Is(err, store.ErrPoisoned) {
		t.Errorf("Close: %v", err)
	}
	reset(t, s, st)
	if a := lookup(s, "/f"); a.Size != 400_000 {
		t.Errorf("size %d", a.Size)
	}
	if n := s.TotalSize(ctx); n != 400_000 {
		t.Errorf("%d bytes are counted", n)
	}
	if got := get(t, s, "/f"); !bytes.Equal(got[100_000:], more) {
		t.Error("content differs")
	}
}

// TestTimeThatIsSetDuringTheSealStays: the content is read meanwhile, which can take long.
func TestTimeThatIsSetDuringTheSealStays(t *testing.T) {
	b := newTraced(1)
	s := openTraced(t, vfs.NewMem(), b)
	defer s.Close()
	b.mu.Lock()
	b.at = -1
	b.mu.Unlock()
	a := sealedFile(t, s, "/f", pattern(200_000, 1))
	if err := s.Lent(a.Ino); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond) // the kernel's clock ticks
	b.Scribble(s.BlobOf(a.Ino), []byte("written late"), 100_000)
	get(t, s, "/f") // finds it out
	b.mu.Lock()
	clear(b.reads)
	b.at = 1
	b.mu.Unlock()
	sealed := make(chan error)
	go func() { sealed <- s.SealAll(ctx) }()
	<-b.here
	want := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	_, err := s.SetAttr(ctx, a.Ino, store.SetAttr{Mtime: &want})
	close(b.goOn)
	if err := errors.Join(err, <-sealed, s.Quiesce(ctx)); err != nil {
		t.Fatal(err)
	}
	if got := time.Unix(0, lookup(s, "/f").Mtime).UTC(); got != want {
		t.Errorf("the time is %v, was set to %v", got, want)
	}
}

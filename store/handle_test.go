package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/blob/local"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// localStore returns an empty store whose content is real files.
func localStore(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s := openLocal(t, t.TempDir(), vfs.NewMem(), o)
	t.Cleanup(func() {
		storetest.Check(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// openLocal opens the store with its content in dir and its metadata in mem.
func openLocal(t testing.TB, dir string, mem *vfs.MemFS, o store.Options) *store.Store {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := local.Open(dir, local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	o.Meta, o.Blobs, o.Reserve = db, blobs, -1
	s, err := store.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open opens the file at path and closes it at the end of the test.
func open(t testing.TB, s *store.Store, path string, write bool) *store.Handle {
	t.Helper()
	h, err := s.Open(ctx, lookup(s, path).Ino, write)
	if err != nil {
		t.Fatalf("Open(%s): %v", path, err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Close(%s): %v", path, err)
		}
	})
	return h
}

// write writes or fails the test.
func write(t testing.TB, h *store.Handle, p []byte, off int64) {
	t.Helper()
	if n, err := h.WriteAt(ctx, p, off); err != nil || n != len(p) {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
	}
}

// fileModel compares one file with a slice of bytes.
type fileModel struct {
	s       *store.Store
	ino     store.Ino
	a, b    *store.Handle // two writers
	want    []byte
	version uint64
}

// modelMax keeps the model's file between nothing and some blocks of checksums.
const modelMax = 200_000

func (m *fileModel) handle(t *rapid.T) *store.Handle {
	return []*store.Handle{m.a, m.b}[rapid.IntRange(0, 1).Draw(t, "handle")]
}

// where draws a range; small ones near the beginning are likely, where content is
// inline.
func (m *fileModel) where(t *rapid.T) (off, n int) {
	span := []int{100, 20_000, modelMax}[rapid.IntRange(0, 2).Draw(t, "scale")]
	off = rapid.IntRange(0, span-1).Draw(t, "off")
	return off, rapid.IntRange(1, min(span, modelMax-off)).Draw(t, "n")
}

func (m *fileModel) grow(size int) {
	if size > len(m.want) {
		m.want = append(m.want, make([]byte, size-len(m.want))...)
	}
}

func (m *fileModel) must(t *rapid.T, what string, err error) {
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (m *fileModel) write(t *rapid.T) {
	off, n := m.where(t)
	p := pattern(n, rapid.Byte().Draw(t, "seed"))
	_, err := m.handle(t).WriteAt(ctx, p, int64(off))
	m.must(t, "write", err)
	m.grow(off + n)
	copy(m.want[off:], p)
}

func (m *fileModel) truncate(t *rapid.T) {
	size, _ := m.where(t)
	m.must(t, "truncate", m.handle(t).Truncate(ctx, int64(size)))
	m.grow(size)
	m.want = m.want[:size:size]
}

func (m *fileModel) allocate(t *rapid.T) {
	off, n := m.where(t)
	a := []store.Allocation{
		{}, {KeepSize: true}, {PunchHole: true, KeepSize: true}, {PunchHole: true}, {ZeroRange: true}, {ZeroRange: true, KeepSize: true},
	}[rapid.IntRange(0, 5).Draw(t, "mode")]
	m.must(t, fmt.Sprintf("allocate %+v", a), m.handle(t).Allocate(ctx, a, int64(off), int64(n)))
	if !a.KeepSize && !a.PunchHole {
		m.grow(off + n)
	}
	if a.PunchHole || a.ZeroRange {
		clear(m.want[min(off, len(m.want)):min(off+n, len(m.want))])
	}
}

func (m *fileModel) copyRange(t *rapid.T) {
	from, n := m.where(t)
	to, _ := m.where(t)
	n = min(n, modelMax-to)
	got, err := m.s.CopyRange(ctx, m.a, int64(from), m.b, int64(to), int64(n))
	want := max(min(n, len(m.want)-from), 0)
	if want > 0 && from < to+want && to < from+want {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("copy %d+%d to %d of %d: %v, want %v", from, n, to, len(m.want), err, fs.ErrInvalid)
		}
		return
	}
	if err != nil || got != int64(want) {
		t.Fatalf("copy %d+%d to %d of %d = %d, %v, want %d", from, n, to, len(m.want), got, err, want)
	}
	if want > 0 {
		m.grow(to + want)
		copy(m.want[to:], m.want[from:from+want])
	}
}

func (m *fileModel) sync(t *rapid.T) {
	if rapid.Bool().Draw(t, "data") {
		m.must(t, "fdatasync", m.handle(t).SyncData(ctx))
		return
	}
	m.must(t, "fsync", m.handle(t).Sync(ctx))
}

// reopen closes both handles, has the file sealed, and opens it again.
func (m *fileModel) reopen(t *rapid.T) {
	m.close(t)
	m.must(t, "quiesce", m.s.Quiesce(ctx))
	m.open(t)
}

func (m *fileModel) close(t *rapid.T) {
	m.must(t, "close", errors.Join(m.a.Close(), m.b.Close()))
}

func (m *fileModel) open(t *rapid.T) {
	var err error
	m.a, err = m.s.Open(ctx, m.ino, true)
	m.must(t, "open", err)
	m.b, err = m.s.Open(ctx, m.ino, true)
	m.must(t, "open", err)
}

// seek checks that what is said to be a hole reads as zeros.
func (m *fileModel) seek(t *rapid.T) {
	off, _ := m.where(t)
	data, err := m.a.Seek(ctx, int64(off), store.SeekData)
	if errors.Is(err, store.ErrNoData) {
		data, err = int64(len(m.want)), nil
	}
	m.must(t, "seek data", err)
	for i := int64(off); i < data && i < int64(len(m.want)); i++ {
		if m.want[i] != 0 {
			t.Fatalf("data begins at %d, but %d is not zero", data, i)
		}
	}
	hole, err := m.a.Seek(ctx, int64(off), store.SeekHole)
	switch {
	case off >= len(m.want):
		if !errors.Is(err, store.ErrNoData) {
			t.Fatalf("hole from %d in a file of %d: %d, %v", off, len(m.want), hole, err)
		}
	case err != nil || hole < int64(off) || hole > int64(len(m.want)):
		t.Fatalf("hole from %d in a file of %d: %d, %v", off, len(m.want), hole, err)
	}
}

func (m *fileModel) read(t *rapid.T) {
	off, n := m.where(t)
	p := bytes.Repeat([]byte{0xee}, n)
	got, err := m.a.ReadAt(ctx, p, int64(off))
	want := max(min(n, len(m.want)-off), 0)
	if got != want || err != nil && err != io.EOF || (want < n) != (err == io.EOF) {
		t.Fatalf("ReadAt(%d, %d) of %d = %d, %v", n, off, len(m.want), got, err)
	}
	if want > 0 && !bytes.Equal(p[:want], m.want[off:off+want]) {
		t.Fatalf("ReadAt(%d, %d): content differs", n, off)
	}
}

func (m *fileModel) compare(t *rapid.T) {
	a, err := m.b.Attr(ctx)
	if err != nil || a.Size != int64(len(m.want)) {
		t.Fatalf("size %d, %v, want %d", a.Size, err, len(m.want))
	}
	if a.Version < m.version {
		t.Fatalf("version %d after %d", a.Version, m.version)
	}
	m.version = a.Version
	got := make([]byte, len(m.want))
	if n, err := m.b.ReadAt(ctx, got, 0); n != len(got) || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("read %d of %d bytes: %v", n, len(got), err)
	}
	if !bytes.Equal(got, m.want) {
		t.Fatal("content differs")
	}
	if m.s.TotalSize(ctx) != a.Size {
		t.Fatalf("total size %d, want %d", m.s.TotalSize(ctx), a.Size)
	}
}

// TestHandleModel does random things to one file through two handles, on a backend
// that knows holes and on one that does not.
func TestHandleModel(t *testing.T) {
	for name, newStore := range map[string]func() *store.Store{
		"memory": func() *store.Store { return storetest.New(t) },
		"local":  func() *store.Store { return localStore(t, store.Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			s, n := newStore(), 0
			rapid.Check(t, func(t *rapid.T) {
				n++
				a, err := s.Create(ctx, store.RootIno, fmt.Sprint("f", n), store.NewNode{})
				if err != nil {
					t.Fatal(err)
				}
				m := &fileModel{s: s, ino: a.Ino}
				m.open(t)
				t.Repeat(map[string]func(*rapid.T){
					"write": m.write, "truncate": m.truncate, "allocate": m.allocate, "copy": m.copyRange,
					"sync": m.sync, "reopen": m.reopen, "seek": m.seek, "read": m.read, "": m.compare,
				})
				m.close(t)
				m.must(t, "unlink", s.Unlink(ctx, store.RootIno, fmt.Sprint("f", n), nil))
				m.must(t, "quiesce", s.Quiesce(ctx))
				if problems, err := s.Check(ctx, store.CheckOptions{}); err != nil || len(problems) > 0 {
					t.Fatalf("check: %v %v", problems, err)
				}
			})
		})
	}
}

// countingBlobs counts what costs time.
type countingBlobs struct {
	*storetest.MemBlobs
	syncs, opens atomic.Int64
}

type countingFile struct {
	blob.File
	c *countingBlobs
}

func (c *countingBlobs) Create(id blob.ID) (blob.File, error) {
	f, err := c.MemBlobs.Create(id)
	return countingFile{f, c}, err
}

func (c *countingBlobs) Open(id blob.ID, write bool) (blob.File, error) {
	c.opens.Add(1)
	f, err := c.MemBlobs.Open(id, write)
	return countingFile{f, c}, err
}

func (f countingFile) Sync() error { f.c.syncs.Add(1); return f.File.Sync() }

func countingStore(t *testing.T) (*store.Store, *countingBlobs) {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c := &countingBlobs{MemBlobs: storetest.NewMemBlobs()}
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		storetest.Check(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, c
}

// TestSpillSyncsNothing writes a file that outgrows the engine, as tar(1) does, and
// expects nothing to wait for the disk; and fsync(2) to sync only what is new.
func TestSpillSyncsNothing(t *testing.T) {
	s, c := countingStore(t)
	put(t, s, "/f", []byte("small"))
	h := open(t, s, "/f", true)
	c.syncs.Store(0)
	before := s.EngineStats()
	for off := range int64(10) {
		write(t, h, pattern(10_000, 1), off*10_000)
	}
	if got := c.syncs.Load(); got != 0 {
		t.Errorf("%d syncs of content while it was written", got)
	}
	if st := s.EngineStats(); st.Syncs-st.SyncsSkipped != before.Syncs-before.SyncsSkipped {
		t.Errorf("the engine was synced while content was written")
	}
	if !s.HasBase(h.Ino()) {
		t.Error("the inline content is gone before the blob is durable")
	}
	for range 3 {
		if err := h.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.syncs.Load(); got != 1 {
		t.Errorf("%d syncs of content for three fsyncs of one write, want 1", got)
	}
	if s.HasBase(h.Ino()) {
		t.Error("the inline content is still there after fsync")
	}
	write(t, h, []byte("x"), 5)
	before = s.EngineStats()
	if err := h.SyncData(ctx); err != nil {
		t.Fatal(err)
	}
	if got := c.syncs.Load(); got != 2 {
		t.Errorf("%d syncs of content after fdatasync, want 2", got)
	}
	if st := s.EngineStats(); st.Syncs-st.SyncsSkipped != before.Syncs-before.SyncsSkipped {
		t.Error("fdatasync of bytes in place has synced the engine")
	}
	write(t, h, []byte("x"), 200_000)
	if err := h.SyncData(ctx); err != nil {
		t.Fatal(err)
	}
	if st := s.EngineStats(); st.Syncs-st.SyncsSkipped == before.Syncs-before.SyncsSkipped {
		t.Error("fdatasync of a larger file has not synced its size")
	}
}

// TestSyncAnywhereCountsForAll writes through one handle, closes it, and syncs
// through another that only reads.
func TestSyncAnywhereCountsForAll(t *testing.T) {
	s, c := countingStore(t)
	put(t, s, "/f", pattern(100_000, 1))
	w, r := open(t, s, "/f", true), open(t, s, "/f", false)
	write(t, w, []byte("new"), 0)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c.syncs.Store(0)
	if err := r.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if c.syncs.Load() != 1 {
		t.Errorf("%d syncs, want 1", c.syncs.Load())
	}
}

// TestHandlesShareOneFile expects writing to open the blob once, and once more to
// verify it before, however many write.
func TestHandlesShareOneFile(t *testing.T) {
	s, c := countingStore(t)
	put(t, s, "/f", pattern(100_000, 1))
	handles := make([]*store.Handle, 8)
	for i := range handles {
		handles[i] = open(t, s, "/f", true)
	}
	c.opens.Store(0)
	var wg sync.WaitGroup
	for i, h := range handles {
		wg.Go(func() {
			for k := range 20 {
				if _, err := h.WriteAt(ctx, []byte{byte(i)}, int64(1000*i+k)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := c.opens.Load(); got != 2 {
		t.Errorf("the blob was opened %d times, want 2", got)
	}
	data := get(t, s, "/f")
	for i := range handles {
		if !bytes.Equal(data[1000*i:1000*i+20], bytes.Repeat([]byte{byte(i)}, 20)) {
			t.Errorf("writes of handle %d are missing", i)
		}
	}
}

// TestFailedWriteStillChangesTheVersion has the disk fail in the middle of a write:
// the bytes may have changed, so the ETag must.
func TestFailedWriteStillChangesTheVersion(t *testing.T) {
	s, f := faultyStore(t)
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	write(t, h, []byte("x"), 0)
	before := lookup(s, "/f")
	broken := errors.New("disk is broken")
	f.writeErr.Store(&broken)
	n, err := h.WriteAt(ctx, bytes.Repeat([]byte{9}, 1000), 99_800)
	f.writeErr.Store(nil)
	if !errors.Is(err, broken) || n != 500 {
		t.Errorf("WriteAt = %d, %v, want 500, %v", n, err, broken)
	}
	after := lookup(s, "/f")
	if after.ETag() == before.ETag() {
		t.Error("the ETag is the same after half a write")
	}
	if after.Size != 100_300 {
		t.Errorf("size %d, want what was written", after.Size)
	}
	f.writeErr.Store(&broken)
	f.lies.Store(true) // half of it gets there, and the disk does not say so
	n, err = h.WriteAt(ctx, bytes.Repeat([]byte{9}, 1000), 100_300)
	f.writeErr.Store(nil)
	if !errors.Is(err, broken) || n != 0 || lookup(s, "/f").Size != 100_300 {
		t.Errorf("WriteAt = %d, %v, size %d", n, err, lookup(s, "/f").Size)
	}
	if err := h.Truncate(ctx, 100_500); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "/f"); !bytes.Equal(got[100_300:], make([]byte, 200)) {
		t.Error("the file has grown by what a failed write has left")
	}
}

// TestPinnedContentIsCut pins content that is then cut in place: the bytes that are
// gone are neither made up nor passed over.
func TestPinnedContentIsCut(t *testing.T) {
	s := storetest.New(t)
	put(t, s, "/f", pattern(100_000, 1))
	h := open(t, s, "/f", true)
	write(t, h, []byte("x"), 0)
	c, err := s.OpenContent(ctx, h.Ino())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := h.Truncate(ctx, 70_000); err != nil {
		t.Fatal(err)
	}
	if n, err := c.ReadAt(make([]byte, 20_000), 60_000); n != 10_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadAt = %d, %v, want 10000, %v", n, err, io.ErrUnexpectedEOF)
	}
	if n, err := c.WriteRange(io.Discard, 0, 100_000); n != 70_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("WriteRange = %d, %v, want 70000, %v", n, err, io.ErrUnexpectedEOF)
	}
}

// TestReadAtWhileFileIsCut never gets made-up bytes.
func TestReadAtWhileFileIsCut(t *testing.T) {
	s := localStore(t, store.Options{})
	full := bytes.Repeat([]byte{7}, 300_000)
	put(t, s, "/f", full)
	w, r := open(t, s, "/f", true), open(t, s, "/f", false)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for range 200 {
			if err := w.Truncate(ctx, 50_000); err != nil {
				t.Error(err)
			}
			if _, err := w.WriteAt(ctx, full[50_000:], 50_000); err != nil {
				t.Error(err)
			}
		}
	})
	p := make([]byte, 200_000)
	for ctx.Err() == nil {
		n, err := r.ReadAt(context.Background(), p, 20_000)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Errorf("ReadAt: %v", err)
		}
		if err == nil && n < len(p) {
			t.Fatalf("ReadAt = %d of %d bytes without an error", n, len(p))
		}
		if i := bytes.IndexByte(p[:n], 0); i >= 0 {
			t.Fatalf("byte %d of %d is a zero that nobody wrote", 20_000+i, n)
		}
	}
	wg.Wait()
}

// shortRead does while once, when the blob has been read and the bytes are not yet given
// away.
type shortRead struct {
	*storetest.MemBlobs
	while func(p []byte, off int64)
}

func (b *shortRead) Open(id blob.ID, write bool) (blob.File, error) {
	f, err := b.MemBlobs.Open(id, write)
	return &shortReadFile{f, b}, err
}

type shortReadFile struct {
	blob.File
	b *shortRead
}

func (f *shortReadFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if while := f.b.while; while != nil {
		f.b.while = nil
		while(p, off)
	}
	return n, err
}

// TestReadThatSawTheCut reads what a kernel gives that cuts the file, clears the rest of
// the last page, and lets it grow again, while it copies.
func TestReadThatSawTheCut(t *testing.T) {
	blobs := &shortRead{MemBlobs: storetest.NewMemBlobs()}
	s := openTraced(t, vfs.NewMem(), blobs)
	defer s.Close()
	full := bytes.Repeat([]byte{7}, 300_000)
	a := put(t, s, "/f", full)
	w, r := open(t, s, "/f", true), open(t, s, "/f", false)
	write(t, w, full, 0)
	cut := func(p []byte, off int64) {
		if err := w.Truncate(ctx, 50_000); err != nil {
			t.Error(err)
		}
		clear(p[50_000-off : 53_248-off])
		write(t, w, full[50_000:], 50_000)
	}
	c := pin(t, s, a.Ino)
	p := make([]byte, 200_000)
	blobs.while = cut
	if n, err := c.ReadAt(p, 0); n != 50_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("pinned content: ReadAt = %d, %v, want 50000, %v", n, err, io.ErrUnexpectedEOF)
	}
	blobs.while = cut
	if n, err := r.ReadAt(ctx, p, 0); n != len(p) || err != nil || !bytes.Equal(p, full[:n]) {
		t.Errorf("handle: ReadAt = %d, %v, byte 50000 is %d", n, err, p[50_000])
	}
	if n, err := c.WriteRange(io.Discard, 0, 300_000); n > 50_000 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("WriteRange of pinned content = %d, %v", n, err)
	}
	if n, err := pin(t, s, a.Ino).WriteRange(io.Discard, 0, 300_000); n != 300_000 || err != nil {
		t.Errorf("WriteRange of content that was pinned since = %d, %v", n, err)
	}
}

package blobtest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store/blob"
)

func testCreateWriteRead(t *testing.T, h Harness) {
	b := open(t, h)
	data := noise(1, 300_001)
	id, f := create(t, b, data)
	wantContent(t, f, data)
	sync(t, f)
	wantContent(t, openFile(t, b, id, false), data)

	p := make([]byte, 10)
	if n, err := f.ReadAt(p, 300_000); n != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt over the end = %d, %v, want 1, EOF", n, err)
	}
	if n, err := f.ReadAt(p, 400_000); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt past the end = %d, %v, want 0, EOF", n, err)
	}
	_, empty := create(t, b, nil)
	sync(t, empty)
	wantContent(t, empty, nil)
}

func testCreateIsExclusive(t *testing.T, h Harness) {
	b := open(t, h)
	id, f := create(t, b, []byte("first"))
	if _, err := b.Create(id); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create = %v, want fs.ErrExist", err)
	}
	wantContent(t, f, []byte("first"))
	sync(t, f)
}

func testCreateRaceHasOneWinner(t *testing.T, h Harness) {
	b := open(t, h)
	id := blob.NewID()
	var won atomic.Int32
	var wg gosync.WaitGroup
	for range 16 {
		wg.Go(func() {
			f, err := b.Create(id)
			switch {
			case err == nil:
				won.Add(1)
				f.Close()
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("Create = %v, want nil or fs.ErrExist", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 16 concurrent Creates succeeded, want 1", won.Load())
	}
}

func testOpenMissing(t *testing.T, h Harness) {
	b := open(t, h)
	for _, writable := range []bool{false, true} {
		if _, err := b.Open(blob.NewID(), writable); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(missing, %v) = %v, want fs.ErrNotExist", writable, err)
		}
	}
	if n := len(list(t, b)); n != 0 {
		t.Errorf("%d blobs after failed Opens, want 0", n)
	}
}

func testReadOnlyFileRefusesWrites(t *testing.T, h Harness) {
	b := open(t, h)
	id, _ := create(t, b, []byte("data"))
	f := openFile(t, b, id, false)
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("WriteAt on a read-only file succeeded")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("Truncate on a read-only file succeeded")
	}
	wantContent(t, f, []byte("data"))
}

func testWritePastEndLeavesZeros(t *testing.T, h Harness) {
	b := open(t, h)
	_, f := create(t, b, []byte("head"))
	write(t, f, []byte("tail"), 100_000)
	want := append(append([]byte("head"), make([]byte, 100_000-4)...), "tail"...)
	wantContent(t, f, want)
}

func testTruncate(t *testing.T, h Harness) {
	b := open(t, h)
	data := noise(2, 10_000)
	_, f := create(t, b, data)
	if err := f.Truncate(3000); err != nil {
		t.Fatal(err)
	}
	wantContent(t, f, data[:3000])
	if err := f.Truncate(8000); err != nil {
		t.Fatal(err)
	}
	wantContent(t, f, append(bytes.Clone(data[:3000]), make([]byte, 5000)...))
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	wantContent(t, f, nil)
}

func testTwoFilesSeeEachOther(t *testing.T, h Harness) {
	b := open(t, h)
	id, f := create(t, b, []byte("one"))
	g := openFile(t, b, id, true)
	r := openFile(t, b, id, false)
	write(t, g, []byte("TWO"), 0)
	wantContent(t, f, []byte("TWO"))
	wantContent(t, r, []byte("TWO"))
	if err := f.Truncate(1); err != nil {
		t.Fatal(err)
	}
	wantContent(t, r, []byte("T"))
}

func testReopenKeepsSynced(t *testing.T, h Harness) {
	b := open(t, h)
	data := noise(3, 100_000)
	id, f := create(t, b, data)
	sync(t, f)
	if err := errors.Join(f.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	b = open(t, h)
	f = openFile(t, b, id, true)
	wantContent(t, f, data)
	write(t, f, []byte("changed"), 50_000)
	sync(t, f)
	copy(data[50_000:], "changed")
	wantContent(t, f, data)
}

// A blob may be created by one File and synced by another.
func testSyncAfterReopeningFile(t *testing.T, h Harness) {
	b := open(t, h)
	id, f := create(t, b, []byte("data"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g := openFile(t, b, id, true)
	sync(t, g)
	sync(t, g)
	wantContent(t, g, []byte("data"))
}

func testDeleteIsIdempotent(t *testing.T, h Harness) {
	b := open(t, h)
	id, f := create(t, b, []byte("data"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Delete(id); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	if _, err := b.Open(id, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open after Delete = %v, want fs.ErrNotExist", err)
	}
}

func testDeletedFileStaysReadable(t *testing.T, h Harness) {
	b := open(t, h)
	data := noise(4, 70_000)
	id, f := create(t, b, data)
	r := openFile(t, b, id, false)
	if err := b.Delete(id); err != nil {
		t.Fatal(err)
	}
	wantContent(t, r, data)
	write(t, f, []byte("still"), 0)
	copy(data, "still")
	wantContent(t, r, data)
}

func testCreateAfterDelete(t *testing.T, h Harness) {
	b := open(t, h)
	id, f := create(t, b, []byte("old"))
	sync(t, f)
	if err := b.Delete(id); err != nil {
		t.Fatal(err)
	}
	g, err := b.Create(id)
	if err != nil {
		t.Fatalf("Create after Delete: %v", err)
	}
	closeLater(t, g)
	write(t, g, []byte("new"), 0)
	sync(t, g)
	wantContent(t, f, []byte("old"))
	wantContent(t, openFile(t, b, id, false), []byte("new"))
}

func testList(t *testing.T, h Harness) {
	b := open(t, h)
	if n := len(list(t, b)); n != 0 {
		t.Errorf("a new backend lists %d blobs", n)
	}
	start := time.Now().Add(-time.Minute)
	want := map[blob.ID]int64{}
	for i := range 600 {
		id := blob.NewID()
		f, err := b.Create(id)
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, make([]byte, i), 0)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		want[id] = int64(i)
	}
	got := list(t, b)
	for id, size := range want {
		info, ok := got[id]
		if !ok || info.Size != size {
			t.Errorf("List: blob %s has size %d (listed: %v), want %d", id, info.Size, ok, size)
		}
		if info.ModTime.Before(start) || info.ModTime.After(time.Now().Add(time.Minute)) {
			t.Errorf("List: blob %s has time %v", id, info.ModTime)
		}
	}
	if len(got) != len(want) {
		t.Errorf("List shows %d blobs, want %d", len(got), len(want))
	}
}

func testListStopsOnError(t *testing.T, h Harness) {
	b := open(t, h)
	for range 5 {
		create(t, b, nil)
	}
	stop, calls := errors.New("stop"), 0
	err := b.List(func(blob.Info) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("List = %v after %d calls, want the error of fn after 1", err, calls)
	}
}

func testListFnMayDelete(t *testing.T, h Harness) {
	b := open(t, h)
	for range 300 {
		_, f := create(t, b, nil)
		f.Close()
	}
	if err := b.List(func(i blob.Info) error { return b.Delete(i.ID) }); err != nil {
		t.Fatal(err)
	}
	if n := len(list(t, b)); n != 0 {
		t.Errorf("%d blobs are left, want 0", n)
	}
}

func testCloneIsIndependent(t *testing.T, h Harness) {
	b := open(t, h)
	data := noise(5, 1<<20+123)
	src, f := create(t, b, data)
	sync(t, f)
	dst := blob.NewID()
	g, err := b.Clone(src, dst)
	if err != nil {
		t.Fatalf("Clone: %v", err)
	}
	closeLater(t, g)
	wantContent(t, g, data)
	write(t, g, []byte("clone"), 500_000)
	write(t, f, []byte("source"), 100)
	sync(t, g)
	cloned, source := bytes.Clone(data), bytes.Clone(data)
	copy(cloned[500_000:], "clone")
	copy(source[100:], "source")
	wantContent(t, g, cloned)
	wantContent(t, f, source)
	if err := b.Delete(src); err != nil {
		t.Fatal(err)
	}
	wantContent(t, openFile(t, b, dst, true), cloned)
}

func testCloneErrorsLeaveNothing(t *testing.T, h Harness) {
	b := open(t, h)
	dst := blob.NewID()
	if _, err := b.Clone(blob.NewID(), dst); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Clone of a missing blob = %v, want fs.ErrNotExist", err)
	}
	if _, err := b.Open(dst, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed Clone left its target: %v", err)
	}
	src, _ := create(t, b, []byte("source"))
	other, f := create(t, b, []byte("other"))
	if _, err := b.Clone(src, other); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Clone over an existing blob = %v, want fs.ErrExist", err)
	}
	wantContent(t, f, []byte("other"))
}

func testCloneOfEmptyAndOfHoles(t *testing.T, h Harness) {
	b := open(t, h)
	const size = 8 << 20
	for name, fill := range map[string]func(blob.File) error{
		"empty": func(blob.File) error { return nil },
		"hole":  func(f blob.File) error { return f.Truncate(size) },
		"data in a hole": func(f blob.File) error {
			_, err := f.WriteAt([]byte("data"), size/2)
			return errors.Join(err, f.Truncate(size))
		},
		"data at the end": func(f blob.File) error {
			_, err := f.WriteAt([]byte("data"), size-4)
			return err
		},
	} {
		src, f := create(t, b, nil)
		if err := fill(f); err != nil {
			t.Fatal(err)
		}
		g, err := b.Clone(src, blob.NewID())
		if err != nil {
			t.Fatalf("%s: Clone: %v", name, err)
		}
		closeLater(t, g)
		n, err := f.Size()
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(io.NewSectionReader(f, 0, n))
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, g, want)
		wantSparse(t, name, g, size/8)
	}
}

// wantSparse checks that a file takes at most limit bytes, if it can tell.
func wantSparse(t *testing.T, name string, f blob.File, limit int64) {
	t.Helper()
	s, ok := f.(blob.Sparse)
	if !ok {
		return
	}
	if n, err := s.Allocated(); err != nil || n > limit {
		t.Errorf("%s: %d bytes allocated, %v, want at most %d", name, n, err, limit)
	}
}

func sparse(t *testing.T, f blob.File) blob.Sparse {
	t.Helper()
	s, ok := f.(blob.Sparse)
	if !ok {
		t.Skip("the backend has no holes")
	}
	return s
}

func testPunchHole(t *testing.T, h Harness) {
	b := open(t, h)
	data := noise(6, 4<<20)
	_, f := create(t, b, data)
	s := sparse(t, f)
	for _, r := range []struct{ off, n int64 }{{1 << 20, 2 << 20}, {5, 100}, {4<<20 - 10, 1000}, {8 << 20, 10}, {0, 0}} {
		if err := s.PunchHole(r.off, r.n); err != nil {
			t.Fatalf("PunchHole(%d, %d): %v", r.off, r.n, err)
		}
		if lo, hi := min(r.off, 4<<20), min(r.off+r.n, 4<<20); lo < hi {
			clear(data[lo:hi])
		}
	}
	wantContent(t, f, data)
	if err := s.PunchHole(0, -1); err == nil {
		t.Error("PunchHole of a negative length succeeded")
	}
}

func testSeekDataAndHole(t *testing.T, h Harness) {
	b := open(t, h)
	const unit = 1 << 20
	_, f := create(t, b, nil)
	s := sparse(t, f)
	write(t, f, noise(7, unit), 2*unit) // a hole of 2, data of 1, a hole of 1 unit
	if err := f.Truncate(4 * unit); err != nil {
		t.Fatal(err)
	}
	at, err := s.SeekData(0)
	if err != nil || at > 2*unit {
		t.Errorf("SeekData(0) = %d, %v, want at most %d", at, err, 2*unit)
	}
	if at, err := s.SeekData(2*unit + 5); err != nil || at != 2*unit+5 {
		t.Errorf("SeekData inside data = %d, %v, want %d", at, err, 2*unit+5)
	}
	if at, err := s.SeekHole(2 * unit); err != nil || at < 3*unit || at > 4*unit {
		t.Errorf("SeekHole(%d) = %d, %v, want the end of the data or of the blob", 2*unit, at, err)
	}
	for name, seek := range map[string]func(int64) (int64, error){"SeekData": s.SeekData, "SeekHole": s.SeekHole} {
		if _, err := seek(4 * unit); !errors.Is(err, io.EOF) {
			t.Errorf("%s at the end = %v, want EOF", name, err)
		}
	}
	// Walking must find every byte of data.
	var found int64
	for off := int64(0); ; {
		data, err := s.SeekData(off)
		if errors.Is(err, io.EOF) {
			break
		}
		hole, err2 := s.SeekHole(data)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		found += max(0, min(hole, 3*unit)-max(data, 2*unit))
		off = hole
	}
	if found != unit {
		t.Errorf("SeekData and SeekHole find %d bytes of the data, want %d", found, unit)
	}
}

func testOSFile(t *testing.T, h Harness) {
	b := open(t, h)
	_, f := create(t, b, []byte("through the system"))
	o, ok := f.(blob.OSFiler)
	if !ok {
		t.Skip("the backend has no files of the operating system")
	}
	p := make([]byte, 7)
	if _, err := o.OSFile().ReadAt(p, 0); err != nil || string(p) != "through" {
		t.Errorf("OSFile reads %q, %v", p, err)
	}
}

func testFree(t *testing.T, h Harness) {
	b := open(t, h)
	free, total, err := b.Free()
	if err != nil || free <= 0 || total < free {
		t.Errorf("Free = %d, %d, %v, want 0 < free <= total", free, total, err)
	}
}

func testClosedBackendRefuses(t *testing.T, h Harness) {
	b := open(t, h)
	id, f := create(t, b, nil)
	f.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second Close = %v, want nil", err)
	}
	_, createErr := b.Create(blob.NewID())
	_, openErr := b.Open(id, false)
	_, cloneErr := b.Clone(id, blob.NewID())
	_, _, freeErr := b.Free()
	for name, err := range map[string]error{"Create": createErr, "Open": openErr, "Clone": cloneErr, "Free": freeErr,
		"Delete": b.Delete(id), "List": b.List(func(blob.Info) error { return nil })} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close = %v, want fs.ErrClosed", name, err)
		}
	}
}

func testSecondOpenIsRefused(t *testing.T, h Harness) {
	if !h.Exclusive {
		t.Skip("the backend may be open twice")
	}
	b := open(t, h)
	if second, err := h.Open(); !errors.Is(err, blob.ErrInUse) {
		if err == nil {
			second.Close()
		}
		t.Errorf("second Open = %v, want ErrInUse", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, h)
}

// testConcurrentLife runs whole lives of blobs side by side.
func testConcurrentLife(t *testing.T, h Harness) {
	b := open(t, h)
	var wg gosync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				if err := oneLife(b, noise(uint64(w*100+i), 20_000)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := len(list(t, b)); n != 0 {
		t.Errorf("%d blobs are left, want 0", n)
	}
}

func oneLife(b blob.Backend, data []byte) error {
	id, copied := blob.NewID(), blob.NewID()
	f, err := b.Create(id)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	g, err := b.Clone(id, copied)
	if err != nil {
		return err
	}
	defer g.Close()
	if err := errors.Join(g.Sync(), b.Delete(id)); err != nil {
		return err
	}
	got := make([]byte, len(data))
	if _, err := g.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		return errors.Join(errors.New("clone has other content"), err)
	}
	return b.Delete(copied)
}

func testConcurrentWritesToOneBlob(t *testing.T, h Harness) {
	b := open(t, h)
	id, f := create(t, b, nil)
	const part, parts = 10_000, 16
	want := noise(8, part*parts)
	var wg gosync.WaitGroup
	for i := range parts {
		wg.Go(func() {
			off := int64(i * part)
			if _, err := f.WriteAt(want[off:off+part], off); err != nil {
				t.Error(err)
			}
			if err := f.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantContent(t, openFile(t, b, id, false), want)
}

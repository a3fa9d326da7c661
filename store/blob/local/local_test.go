package local

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"engramfs/store/blob"
	"engramfs/store/blob/blobtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blobtest.Harness {
		dir := filepath.Join(t.TempDir(), "blobs")
		return blobtest.Harness{Exclusive: true, Open: func() (blob.Backend, error) {
			b, err := Open(dir, Options{Create: true})
			if err != nil {
				return nil, err
			}
			return b, nil
		}}
	})
}

func mustOpen(t testing.TB, dir string, opts Options) *Backend {
	t.Helper()
	b, err := Open(dir, opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

func mustCreate(t testing.TB, b *Backend, id blob.ID) *file {
	t.Helper()
	f, err := b.create(id)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestOpenRefusesWhatIsNoBackend(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "missing"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a missing folder = %v, want fs.ErrNotExist", err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of an empty folder without Create = %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "holiday.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Create: true}); err == nil || !strings.Contains(err.Error(), "holiday.jpg") {
		t.Errorf("Open of somebody's folder = %v, want an error that names the file", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("Open left %d entries in somebody's folder, want 1", len(entries))
	}
}

func TestOpenRefusesUnknownFormat(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, Options{Create: true}).Close()
	path := filepath.Join(dir, formatName)
	if err := os.WriteFile(path, []byte("engramfs-blob local 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Create: true}); err == nil {
		t.Error("Open of an unknown format succeeded")
	}
}

func TestOpenRefusesBlobsWithoutFormat(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir, Options{Create: true})
	mustCreate(t, b, blob.NewID()).Close()
	b.Close()
	if err := os.Remove(filepath.Join(dir, formatName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Create: true}); err == nil {
		t.Error("Open made a new backend over existing blobs")
	}
}

func TestOpenMakesMissingFolders(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir, Options{Create: true})
	id := blob.ID{0x7f, 1}
	mustCreate(t, b, id).Close()
	b.Close()
	if err := os.RemoveAll(filepath.Join(dir, "7f")); err != nil { // as a backup tool may leave it out
		t.Fatal(err)
	}
	b = mustOpen(t, dir, Options{})
	if err := b.Delete(id); err != nil {
		t.Errorf("Delete in a missing folder = %v, want nil", err)
	}
	if err := mustCreate(t, b, id).Sync(); err != nil {
		t.Error(err)
	}
}

func TestLayoutAndPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "a", "b")
	b := mustOpen(t, dir, Options{Create: true})
	id := blob.ID{0xab, 0xcd}
	mustCreate(t, b, id)
	for path, want := range map[string]fs.FileMode{
		dir:                      fs.ModeDir | folderPerm,
		filepath.Join(dir, "ab"): fs.ModeDir | folderPerm,
		filepath.Join(dir, "ab", "abcd"+strings.Repeat("0", 28)): filePerm,
	} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("Stat(%s) = %v, %v, want %v", path, info, err, want)
		}
	}
}

func TestListSkipsAndReportsJunk(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	b := mustOpen(t, dir, Options{Create: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	id := blob.ID{0xab}
	mustCreate(t, b, id)
	junk := []string{
		"ab/notes.txt", "ab/ab", "ab/" + blob.ID{0xac}.String(), // an id that belongs elsewhere
		"00/" + strings.ToUpper(blob.ID{0, 0xff}.String()),
	}
	for _, name := range junk {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "01", blob.ID{1}.String()), 0o700); err != nil {
		t.Fatal(err)
	}
	var got []blob.ID
	if err := b.List(func(i blob.Info) error { got = append(got, i.ID); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] != id {
		t.Errorf("List = %v, want only %s", got, id)
	}
	if !strings.Contains(log.String(), "count=5") {
		t.Errorf("the log does not report 5 files: %s", log.String())
	}
}

// countFsyncs counts the syncs of a folder and makes each take a while.
func countFsyncs(b *Backend, id blob.ID) *atomic.Int64 {
	var n atomic.Int64
	dir := b.folder(id)
	fsync := dir.syncs.fsync
	dir.syncs.fsync = func() error {
		n.Add(1)
		time.Sleep(2 * time.Millisecond)
		return fsync()
	}
	return &n
}

func TestSyncSyncsFolderOfNewBlobOnce(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Create: true})
	id := blob.ID{1}
	n := countFsyncs(b, id)
	f := mustCreate(t, b, id)
	g, err := b.Open(id, true)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for range 3 {
		if err := g.Sync(); err != nil { // not the File that created it
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if n.Load() != 1 {
		t.Errorf("%d folder syncs, want 1", n.Load())
	}
	if err := b.Delete(id); err != nil {
		t.Fatal(err)
	}
	if err := mustCreate(t, b, id).Sync(); err != nil {
		t.Fatal(err)
	}
	if n.Load() != 2 {
		t.Errorf("%d folder syncs after a new creation, want 2", n.Load())
	}
}

func TestConcurrentSyncsShareFolderSync(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Create: true})
	n := countFsyncs(b, blob.ID{})
	const blobs = 64
	var wg sync.WaitGroup
	for i := range blobs {
		f := mustCreate(t, b, blob.ID{0, byte(i + 1)})
		wg.Go(func() {
			if err := f.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n.Load() == 0 || n.Load() > blobs/2 {
		t.Errorf("%d folder syncs for %d blobs, want some but far fewer", n.Load(), blobs)
	}
}

// TestGroupSyncBeginsAfterTheCall is the rule that makes sharing correct: the fsync that a
// caller relies on must have begun after the caller came.
func TestGroupSyncBeginsAfterTheCall(t *testing.T) {
	var clock atomic.Int64
	var lastBegin atomic.Int64
	var g groupSync
	g.init(func() error {
		lastBegin.Store(clock.Add(1))
		time.Sleep(100 * time.Microsecond)
		return nil
	})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				came := clock.Add(1)
				if err := g.sync(); err != nil {
					t.Error(err)
				}
				if begin := lastBegin.Load(); begin < came {
					t.Errorf("sync returned after an fsync that began at %d, the caller came at %d", begin, came)
				}
			}
		})
	}
	wg.Wait()
}

func TestFailedContentSyncIsSticky(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Create: true})
	id := blob.ID{9}
	f := mustCreate(t, b, id)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	broken := &file{f: r, fd: int(r.Fd()), id: id, backend: b} // fsync(2) of a pipe is EINVAL
	if err := broken.Sync(); !errors.Is(err, blob.ErrSyncFailed) || !errors.Is(err, unix.EINVAL) {
		t.Fatalf("Sync = %v, want ErrSyncFailed with EINVAL", err)
	}
	// The same blob through a File whose fsync would succeed.
	if err := f.Sync(); !errors.Is(err, blob.ErrSyncFailed) {
		t.Errorf("Sync after a failed one = %v, want ErrSyncFailed", err)
	}
	if err := mustCreate(t, b, blob.ID{9, 1}).Sync(); err != nil {
		t.Errorf("Sync of another blob = %v, want nil", err)
	}
	if err := b.Delete(id); err != nil {
		t.Fatal(err)
	}
	if err := mustCreate(t, b, id).Sync(); err != nil {
		t.Errorf("Sync of a new blob = %v, want nil", err)
	}
}

// TestFailedRootSyncRefusesCreate: a folder that may not survive must not take blobs.
func TestFailedRootSyncRefusesCreate(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Create: true})
	mustCreate(t, b, blob.ID{1})
	b.root.fsync = func() error { return syscall.EIO }
	for range 2 {
		if _, err := b.Create(blob.ID{2}); !errors.Is(err, syscall.EIO) {
			t.Errorf("Create in a new folder = %v, want EIO", err)
		}
	}
	if err := mustCreate(t, b, blob.ID{1, 1}).Sync(); err != nil {
		t.Errorf("a blob in a durable folder: %v", err)
	}
}

func TestFailedFolderSyncIsSticky(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Create: true})
	var calls atomic.Int64
	b.folder(blob.ID{}).syncs.fsync = func() error {
		calls.Add(1)
		return syscall.EIO
	}
	var wg sync.WaitGroup
	for i := range 8 {
		f := mustCreate(t, b, blob.ID{0, byte(i)})
		wg.Go(func() {
			if err := f.Sync(); !errors.Is(err, blob.ErrSyncFailed) || !errors.Is(err, syscall.EIO) {
				t.Errorf("Sync = %v, want ErrSyncFailed with EIO", err)
			}
		})
	}
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("the failed folder sync was tried %d times, want 1", calls.Load())
	}
	if err := mustCreate(t, b, blob.ID{1}).Sync(); err != nil {
		t.Errorf("Sync in another folder = %v, want nil", err)
	}
}

// TestCopySparse tests the copy also where the file system can share extents.
func TestCopySparse(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Create: true})
	from, to := mustCreate(t, b, blob.ID{1}), mustCreate(t, b, blob.ID{2})
	want := make([]byte, 40<<20+5)
	for i, off := range []int{0, 3<<20 + 1, 35 << 20} { // holes before, between and after
		n := copy(want[off:], bytes.Repeat([]byte{byte(i + 1)}, 1<<20+i))
		if _, err := from.WriteAt(want[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.Truncate(int64(len(want))); err != nil {
		t.Fatal(err)
	}
	if err := copySparse(from, to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to.f.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs (%v)", err)
	}
	if n, err := to.Allocated(); err != nil || n > 5<<20 {
		t.Errorf("the copy takes %d bytes, %v, want about 3 MiB", n, err)
	}
}

func TestWriteZerosKeepsSize(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Create: true})
	f := mustCreate(t, b, blob.ID{1})
	want := bytes.Repeat([]byte{7}, 200_000)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.writeZeros(100, 150_000); err != nil {
		t.Fatal(err)
	}
	clear(want[100:150_100])
	if err := f.writeZeros(199_990, 1000); err != nil {
		t.Fatal(err)
	}
	clear(want[199_990:])
	got, err := os.ReadFile(f.f.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("content has %d bytes and differs (%v)", len(got), err)
	}
}

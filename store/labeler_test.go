package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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

// blobPath returns the file of a blob.
func blobPath(dir string, id blob.ID) string {
	return filepath.Join(dir, id.String()[:2], id.String())
}

const labelXattr = "user.engramfs.label"

// labelText returns the label of a blob, "" if it has none.
func labelText(t testing.TB, dir string, id blob.ID) string {
	t.Helper()
	b := make([]byte, blob.MaxLabel)
	n, err := unix.Getxattr(blobPath(dir, id), labelXattr, b)
	if err == nil {
		return string(b[:n])
	}
	if b, err = os.ReadFile(blobPath(dir, id) + ".label"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// wantLabel waits for the labeler and compares the label of path's content.
func wantLabel(t testing.TB, s *store.Store, dir, path string) {
	t.Helper()
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	a := lookup(s, path)
	got := labelText(t, dir, s.BlobOf(a.Ino))
	want := fmt.Sprintf(" mode=%o uid=%d gid=%d size=%d mtime=%d sum=", a.Mode, a.UID, a.GID, a.Size, a.Mtime)
	if !strings.Contains(got, want) || !strings.HasSuffix(got, " path="+path) {
		t.Errorf("label of %s: %q, want %q", path, got, want)
	}
}

func renameTo(t testing.TB, s *store.Store, from, to string, o store.RenameOptions) {
	t.Helper()
	p, n, err := s.LookupParent(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	q, m, err := s.LookupParent(ctx, to)
	if err == nil {
		_, err = s.Rename(ctx, p, n, q, m, o)
	}
	if err != nil {
		t.Fatalf("rename %s to %s: %v", from, to, err)
	}
}

func localDirStore(t testing.TB, o store.Options) (*store.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s := openLocal(t, dir, vfs.NewMem(), o)
	t.Cleanup(func() {
		storetest.Check(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, dir
}

// TestLabelsFollowTheFile does everything to a file that changes what its label says.
func TestLabelsFollowTheFile(t *testing.T) {
	s, dir := localDirStore(t, store.Options{})
	for _, d := range []string{"/a", "/a/b", "/a/b/c", "/x"} {
		mkdir(t, s, d)
	}
	put(t, s, "/a/b/c/f", pattern(100_000, 1))
	put(t, s, "/x/g", pattern(50_000, 2))
	wantLabel(t, s, dir, "/a/b/c/f")
	ino := lookup(s, "/a/b/c/f").Ino
	renameTo(t, s, "/a/b/c/f", "/a/b/f", store.RenameOptions{})
	wantLabel(t, s, dir, "/a/b/f")
	mode, uid, gid, mtime := uint32(0o4711), uint32(12), uint32(34), time.Unix(1e9, 5)
	for _, a := range []store.SetAttr{{Mode: &mode}, {UID: &uid, GID: &gid}, {Mtime: &mtime}} {
		if _, err := s.SetAttr(ctx, ino, a); err != nil {
			t.Fatal(err)
		}
		wantLabel(t, s, dir, "/a/b/f")
	}
	renameTo(t, s, "/a/b/f", "/a/b/c/f", store.RenameOptions{})
	renameTo(t, s, "/a", "/x/moved", store.RenameOptions{}) // it is three folders down
	wantLabel(t, s, dir, "/x/moved/b/c/f")
	renameTo(t, s, "/x/moved/b/c/f", "/x/g", store.RenameOptions{Exchange: true})
	wantLabel(t, s, dir, "/x/g")
	wantLabel(t, s, dir, "/x/moved/b/c/f")
	if _, err := s.Link(ctx, ino, store.RootIno, "link"); err != nil {
		t.Fatal(err)
	}
	if err := unlink(s, "/x/g"); err != nil { // its home
		t.Fatal(err)
	}
	wantLabel(t, s, dir, "/link")
	h := open(t, s, "/link", true)
	write(t, h, []byte("in place"), 70_000)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	before := labelText(t, dir, s.BlobOf(ino))
	wantLabel(t, s, dir, "/link")
	if sum := regexp.MustCompile(`sum=\w+`); sum.FindString(before) == sum.FindString(labelText(t, dir, s.BlobOf(ino))) {
		t.Error("the label has the sum of the old content")
	}
	put(t, s, "/link", pattern(200_000, 3))
	wantLabel(t, s, dir, "/link")
}

// TestLabelOfInheritedGroup puts a file into a directory that gives it another group
// than the one that its label was made with.
func TestLabelOfInheritedGroup(t *testing.T) {
	s, dir := localDirStore(t, store.Options{})
	mkdir(t, s, "/d")
	mode, gid := uint32(0o2775), uint32(77)
	if _, err := s.SetAttr(ctx, lookup(s, "/d").Ino, store.SetAttr{Mode: &mode, GID: &gid}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetAttr(ctx, lookup(s, "/d").Ino, store.SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "/d/f", pattern(100_000, 1))
	if a := lookup(s, "/d/f"); a.GID != gid {
		t.Fatalf("group %d", a.GID)
	}
	wantLabel(t, s, dir, "/d/f")
}

// TestLabelsSurviveTheEnd ends the process after changes that the labeler has not got
// to, and lets the next run do it.
func TestLabelsSurviveTheEnd(t *testing.T) {
	dir, mem := t.TempDir(), vfs.NewCrashableMem()
	s := openLocal(t, dir, mem, store.Options{})
	mkdir(t, s, "/d")
	for i := range 200 { // more than are synced one by one
		put(t, s, fmt.Sprintf("/d/%d", i), pattern(20_000, byte(i)))
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	renameTo(t, s, "/d", "/e", store.RenameOptions{})
	renameTo(t, s, "/e/7", "/seven", store.RenameOptions{})
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	image := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	blobs, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s = openOn(t, image, blobs)
	defer s.Close()
	if got := labelText(t, dir, s.BlobOf(lookup(s, "/e/0").Ino)); !strings.HasSuffix(got, " path=/d/0") {
		t.Fatalf("the first run has renewed the label: %q", got)
	}
	wantLabel(t, s, dir, "/seven")
	for i := range 200 {
		if i != 7 {
			wantLabel(t, s, dir, fmt.Sprintf("/e/%d", i))
		}
	}
}

// TestLabelsOfCopiedTree copies files that are open natively, so that the copies get
// content of their own while the tree has no path yet.
func TestLabelsOfCopiedTree(t *testing.T) {
	s, dir := localDirStore(t, store.Options{})
	mkdir(t, s, "/d")
	put(t, s, "/d/f", pattern(100_000, 1))
	h := open(t, s, "/d/f", false)
	native(t, h)
	if _, _, err := s.Clone(ctx, lookup(s, "/d").Ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	wantLabel(t, s, dir, "/copy/f")
	wantLabel(t, s, dir, "/d/f")
}

// TestLabelOfPutOverExistingFile replaces a file that is open, so that another inode gets
// its name, and one by a name that is not its home.
func TestLabelOfPutOverExistingFile(t *testing.T) {
	s, dir := localDirStore(t, store.Options{})
	old := put(t, s, "/f", pattern(100_000, 1))
	open(t, s, "/f", false)
	fresh := put(t, s, "/f", pattern(100_000, 2))
	if fresh.Ino == old.Ino {
		t.Fatal("the open file was replaced")
	}
	wantLabel(t, s, dir, "/f")
	if got, want := labelText(t, dir, s.BlobOf(fresh.Ino)), fmt.Sprintf(" ino=%d ", fresh.Ino); !strings.Contains(got, want) {
		t.Errorf("label %q, want%s", got, want)
	}
	home := put(t, s, "/home", pattern(100_000, 3))
	if _, err := s.Link(ctx, home.Ino, store.RootIno, "second"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "/second", pattern(100_000, 4))
	wantLabel(t, s, dir, "/home")
}

// TestLabelerEndsInEmptyDirectories: a store does not wait with its end for a tree in which
// there is nothing to be labelled.
func TestLabelerEndsInEmptyDirectories(t *testing.T) {
	s := storetest.New(t)
	for i := range 10 {
		if _, err := s.EnsureDirectory(ctx, fmt.Sprintf("/d/%d/empty", i), store.NewNode{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	ended, end := context.WithCancel(ctx)
	end()
	if err := s.Relabel(ended, lookup(s, "/d").Ino); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v, want %v", err, context.Canceled)
	}
	if err := s.Relabel(ctx, lookup(s, "/d").Ino); err != nil {
		t.Error(err)
	}
}

// labelBlobs counts the blobs that are open, and panics when the last of left labels is set.
type labelBlobs struct {
	blob.Backend
	open, left atomic.Int64
}

type labelFile struct {
	blob.File
	blob.Labeler
	k *labelBlobs
}

func (k *labelBlobs) Open(id blob.ID, write bool) (blob.File, error) {
	f, err := k.Backend.Open(id, write)
	if err != nil {
		return nil, err
	}
	k.open.Add(1)
	return labelFile{f, f.(blob.Labeler), k}, nil
}

func (f labelFile) SetLabel(label []byte) error {
	if f.k.left.Add(-1) == 0 {
		panic("injected")
	}
	return f.Labeler.SetLabel(label)
}

func (f labelFile) Close() error {
	f.k.open.Add(-1)
	return f.File.Close()
}

// TestLabelerPanicLeavesNothingOpen panics in the middle of a round, and has the next one
// do what is left.
func TestLabelerPanicLeavesNothingOpen(t *testing.T) {
	dir, mem := t.TempDir(), vfs.NewMem()
	disk, err := local.Open(dir, local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	openMeta(t, mem).Close()
	blobs := &labelBlobs{Backend: disk}
	s := openOn(t, mem, blobs)
	defer s.Close()
	mkdir(t, s, "/d")
	for i := range 5 {
		put(t, s, fmt.Sprintf("/d/%d", i), pattern(20_000, byte(i)))
	}
	quiesce(t, s)
	renameTo(t, s, "/d", "/e", store.RenameOptions{})
	blobs.left.Store(3)
	quiesce(t, s)
	if left, open := blobs.left.Load(), blobs.open.Load(); left != 0 || open != 0 {
		t.Errorf("%d labels before the panic, %d blobs open after it", left, open)
	}
	for i := range 5 {
		wantLabel(t, s, dir, fmt.Sprintf("/e/%d", i))
	}
}

// TestScrubMendsLabels takes labels away, and removes the file whose label shared
// content has.
func TestScrubMendsLabels(t *testing.T) {
	s, dir := localDirStore(t, store.Options{Scrub: fast})
	lost := put(t, s, "/lost", pattern(100_000, 1))
	shared := put(t, s, "/shared", pattern(100_000, 2))
	mode := uint32(0o640)
	if _, err := s.SetAttr(ctx, shared.Ino, store.SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	wantLabel(t, s, dir, "/shared")
	if _, _, err := s.Clone(ctx, shared.Ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	copied := lookup(s, "/copy")
	uid := uint32(5)
	if _, err := s.SetAttr(ctx, copied.Ino, store.SetAttr{UID: &uid}); err != nil {
		t.Fatal(err)
	}
	wantLabel(t, s, dir, "/shared") // the copy does not take it over
	if err := unlink(s, "/shared"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Removexattr(blobPath(dir, s.BlobOf(lost.Ino)), labelXattr); err != nil {
		t.Fatal(err)
	}
	if run := scrub(t, s); run.Result != "clean" {
		t.Errorf("run: %+v", run)
	}
	wantLabel(t, s, dir, "/lost")
	wantLabel(t, s, dir, "/copy")
}

// TestSalvageFromLabelsAlone loses all metadata after files were moved about.
func TestSalvageFromLabelsAlone(t *testing.T) {
	dir := t.TempDir()
	s := openLocal(t, dir, vfs.NewMem(), store.Options{})
	mkdir(t, s, "/d")
	put(t, s, "/d/put", pattern(100_000, 1))
	sealedFile(t, s, "/d/written", pattern(300_000, 2))
	mode, uid, mtime := uint32(0o751), uint32(42), time.Unix(1e9, 0)
	for _, name := range []string{"/d/put", "/d/written"} {
		if _, err := s.SetAttr(ctx, lookup(s, name).Ino, store.SetAttr{Mode: &mode, UID: &uid, Mtime: &mtime}); err != nil {
			t.Fatal(err)
		}
	}
	renameTo(t, s, "/d", "/here", store.RenameOptions{})
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	want := map[string]store.Attr{"/here/put": lookup(s, "/here/put"), "/here/written": lookup(s, "/here/written")}
	data := map[string][]byte{"/here/put": get(t, s, "/here/put"), "/here/written": get(t, s, "/here/written")}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	blobs, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mem := vfs.NewMem()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r, err := store.Salvage(context.Background(), store.SalvageOptions{Meta: db, Blobs: blobs, Cause: "test"})
	if err != nil || len(r.Restored) != 2 || len(r.LostFound) != 0 {
		t.Fatalf("report %+v, %v", r, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, mem, blobs)
	defer s.Close()
	for path, a := range want {
		b := lookup(s, path)
		if b.Mode != a.Mode || b.UID != a.UID || b.GID != a.GID || b.Mtime != a.Mtime || !bytes.Equal(get(t, s, path), data[path]) {
			t.Errorf("%s: %+v, want %+v, or the content differs", path, b, a)
		}
	}
}

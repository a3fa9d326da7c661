package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

var ctx = context.Background()

// put uploads data to path, whose parent exists.
func put(t testing.TB, s *store.Store, path string, data []byte) store.Attr {
	t.Helper()
	a, err := tryPut(s, path, data)
	if err != nil {
		t.Fatalf("put %s: %v", path, err)
	}
	return a
}

func tryPut(s *store.Store, path string, data []byte) (store.Attr, error) {
	parent, name, err := s.LookupParent(ctx, path)
	if err != nil {
		return store.Attr{}, err
	}
	u, err := s.NewUpload(ctx, parent, name, int64(len(data)))
	if err != nil {
		return store.Attr{}, err
	}
	defer u.Abort()
	if _, err := u.ReadFrom(bytes.NewReader(data)); err != nil {
		return store.Attr{}, err
	}
	a, _, err := u.Commit(ctx, store.CommitOptions{Mode: 0o644})
	return a, err
}

// get returns the content of path.
func get(t testing.TB, s *store.Store, path string) []byte {
	t.Helper()
	b, err := tryGet(ctx, s, path)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	return b
}

func tryGet(ctx context.Context, s *store.Store, path string) ([]byte, error) {
	a, err := s.LookupPath(ctx, path)
	if err != nil {
		return nil, err
	}
	c, err := s.OpenContent(ctx, a.Ino)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var b bytes.Buffer
	_, err = c.WriteRange(&b, 0, c.Size())
	return b.Bytes(), err
}

func mkdir(t testing.TB, s *store.Store, path string) store.Attr {
	t.Helper()
	a, err := s.EnsureDirectory(ctx, path, store.NewNode{Mode: 0o755})
	if err != nil {
		t.Fatalf("mkdir %s: %v", path, err)
	}
	return a
}

// pattern returns n bytes that differ from block to block.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + byte(i>>8)*13 + byte(i>>16)*31 + seed
	}
	return b
}

func names(t testing.TB, s *store.Store, dir store.Ino) string {
	t.Helper()
	var list []string
	if err := s.ReadDir(ctx, dir, "", func(d store.Dirent) bool { list = append(list, d.Name); return true }); err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func TestPutGetSizes(t *testing.T) {
	s := storetest.New(t)
	var total int64
	for i, n := range []int{0, 1, 4096, 16<<10 - 1, 16 << 10, 16<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, 5<<20 + 3} {
		path := fmt.Sprintf("/file-%d", n)
		data := pattern(n, byte(i))
		a := put(t, s, path, data)
		if a.Size != int64(n) {
			t.Errorf("size of %s = %d, want %d", path, a.Size, n)
		}
		if got := get(t, s, path); !bytes.Equal(got, data) {
			t.Errorf("content of %s differs", path)
		}
		total += int64(n)
	}
	if got := s.TotalSize(ctx); got != total {
		t.Errorf("TotalSize = %d, want %d", got, total)
	}
	if got := s.FileCount(ctx); got != 11 {
		t.Errorf("FileCount = %d, want 11", got)
	}
}

func TestOverwriteKeepsInodeAndChangesETag(t *testing.T) {
	s := storetest.New(t)
	a := put(t, s, "/f", []byte("one"))
	b := put(t, s, "/f", []byte("two"))
	if a.Ino != b.Ino {
		t.Errorf("ino %d became %d", a.Ino, b.Ino)
	}
	if a.ETag() == b.ETag() {
		t.Errorf("ETag %s did not change", a.ETag())
	}
	big := put(t, s, "/f", pattern(1<<20, 1))
	small := put(t, s, "/f", []byte("small"))
	if big.ETag() == small.ETag() {
		t.Error("ETag did not change")
	}
	if got := get(t, s, "/f"); string(got) != "small" {
		t.Errorf("content %q", got)
	}
}

func TestReaderKeepsOldVersion(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	old := pattern(3<<20, 1)
	a := put(t, s, "/f", old)
	c, err := s.OpenContent(ctx, a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "/f", []byte("new"))
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(old))
	if _, err := c.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, old) {
		t.Error("old version changed under its reader")
	}
	c.Close()
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	if n := blobs.Len(); n != 0 {
		t.Errorf("%d blobs left, want 0", n)
	}
}

func TestAbortedUploadChangesNothing(t *testing.T) {
	for _, n := range []int{100, 1 << 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s, blobs := storetest.NewWith(t, store.Options{})
			before := put(t, s, "/f", []byte("old"))
			u, err := s.NewUpload(ctx, store.RootIno, "f", int64(n))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.ReadFrom(bytes.NewReader(pattern(n/2, 0))); err != nil {
				t.Fatal(err)
			}
			if _, _, err := u.Commit(ctx, store.CommitOptions{}); err == nil {
				t.Error("Commit of a short upload succeeded")
			}
			u.Abort()
			after, err := s.LookupPath(ctx, "/f")
			if err != nil || after != before {
				t.Errorf("attributes %+v, %v, want %+v", after, err, before)
			}
			if got := get(t, s, "/f"); string(got) != "old" {
				t.Errorf("content %q", got)
			}
			if blobs.Len() != 0 {
				t.Errorf("%d blobs left", blobs.Len())
			}
		})
	}
}

func TestNamespaceErrors(t *testing.T) {
	s := storetest.New(t)
	mkdir(t, s, "/d/e")
	put(t, s, "/f", nil)
	d, _ := s.LookupPath(ctx, "/d")
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"create existing", second(s.Create(ctx, store.RootIno, "d", store.NewNode{})), fs.ErrExist},
		{"create dot", second(s.Create(ctx, store.RootIno, ".", store.NewNode{})), store.ErrName},
		{"create slash", second(s.Create(ctx, store.RootIno, "a/b", store.NewNode{})), store.ErrName},
		{"create long", second(s.Create(ctx, store.RootIno, strings.Repeat("x", 256), store.NewNode{})), store.ErrNameTooLong},
		{"unlink directory", s.Unlink(ctx, store.RootIno, "d", nil), store.ErrIsDir},
		{"rmdir full", s.Rmdir(ctx, store.RootIno, "d", nil), store.ErrNotEmpty},
		{"rmdir file", s.Rmdir(ctx, store.RootIno, "f", nil), store.ErrNotDir},
		{"unlink missing", s.Unlink(ctx, store.RootIno, "x", nil), fs.ErrNotExist},
		{"lookup below file", second(s.LookupPath(ctx, "/f/x")), store.ErrNotDir},
		{"lookup below nothing", second(s.LookupPath(ctx, "/x/y")), store.ErrParentNotExist},
		{"lookup missing", second(s.LookupPath(ctx, "/x")), fs.ErrNotExist},
		{"put over directory", second(tryPut(s, "/d", nil)), store.ErrIsDir},
		{"link directory", second(s.Link(ctx, d.Ino, store.RootIno, "h")), fs.ErrPermission},
		{"stale inode", second(s.GetAttr(ctx, 999999)), store.ErrStale},
		{"set stale inode", second(s.SetAttr(ctx, 999999, store.SetAttr{})), store.ErrStale},
	} {
		wantErr(t, c.what, c.err, c.want)
	}
	if got := names(t, s, store.RootIno); got != "d f" {
		t.Errorf("names = %q, want %q", got, "d f")
	}
}

func second[T any](_ T, err error) error { return err }

func TestRename(t *testing.T) {
	const r = store.RootIno
	type step struct {
		from, to string
		o        store.RenameOptions
		want     error
		replaced bool
		left     string // names in the root afterwards
	}
	for name, c := range map[string]step{
		"plain":          {from: "f", to: "n", left: "d e g n"},
		"replace file":   {from: "f", to: "g", replaced: true, left: "d e g"},
		"onto itself":    {from: "f", to: "f", replaced: true, left: "d e f g"},
		"noreplace":      {from: "f", to: "g", o: store.RenameOptions{NoReplace: true}, want: fs.ErrExist, left: "d e f g"},
		"file onto dir":  {from: "f", to: "d", want: store.ErrIsDir, left: "d e f g"},
		"dir onto file":  {from: "d", to: "f", want: store.ErrNotDir, left: "d e f g"},
		"dir onto empty": {from: "d", to: "e", replaced: true, left: "e f g"},
		"dir onto full":  {from: "e", to: "d", want: store.ErrNotEmpty, left: "d e f g"},
		"tree replaced":  {from: "f", to: "d", o: store.RenameOptions{ReplaceTree: true}, replaced: true, left: "d e g"},
		"tree over file": {from: "d", to: "f", o: store.RenameOptions{ReplaceTree: true}, replaced: true, left: "e f g"},
		"missing":        {from: "x", to: "y", want: fs.ErrNotExist, left: "d e f g"},
		"exchange":       {from: "f", to: "d", o: store.RenameOptions{Exchange: true}, replaced: true, left: "d e f g"},
		"exchange none":  {from: "f", to: "x", o: store.RenameOptions{Exchange: true}, want: fs.ErrNotExist, left: "d e f g"},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			mkdir(t, s, "/d/sub")
			mkdir(t, s, "/e")
			put(t, s, "/f", []byte("f"))
			put(t, s, "/g", []byte("g"))
			put(t, s, "/d/inner", []byte("inner"))
			replaced, err := s.Rename(ctx, r, c.from, r, c.to, c.o)
			if !errors.Is(err, c.want) || replaced != c.replaced {
				t.Errorf("Rename = %v, %v, want %v, %v", replaced, err, c.replaced, c.want)
			}
			if got := names(t, s, r); got != c.left {
				t.Errorf("names = %q, want %q", got, c.left)
			}
		})
	}
}

func TestRenameDirectoryIntoItself(t *testing.T) {
	s := storetest.New(t)
	b := mkdir(t, s, "/a/b")
	a, _ := s.LookupPath(ctx, "/a")
	_, err := s.Rename(ctx, store.RootIno, "a", b.Ino, "a", store.RenameOptions{})
	wantErr(t, "into its child", err, store.ErrSubtree)
	_, err = s.Rename(ctx, store.RootIno, "a", a.Ino, "a", store.RenameOptions{})
	wantErr(t, "into itself", err, store.ErrSubtree)
	_, err = s.Rename(ctx, a.Ino, "b", store.RootIno, "a", store.RenameOptions{})
	wantErr(t, "over its parent", err, store.ErrNotEmpty)
	_, err = s.Rename(ctx, a.Ino, "b", store.RootIno, "a", store.RenameOptions{ReplaceTree: true})
	wantErr(t, "over its parent with replace", err, store.ErrSubtree)
	if p, err := s.PathOf(ctx, b.Ino); err != nil || p != "/a/b" {
		t.Errorf("PathOf = %q, %v", p, err)
	}
}

func TestRenameAcrossDirectories(t *testing.T) {
	s := storetest.New(t)
	x, y := mkdir(t, s, "/x"), mkdir(t, s, "/y")
	sub := mkdir(t, s, "/x/sub")
	put(t, s, "/x/sub/f", []byte("deep"))
	if _, err := s.Rename(ctx, x.Ino, "sub", y.Ino, "moved", store.RenameOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "/y/moved/f"); string(got) != "deep" {
		t.Errorf("content %q", got)
	}
	if p, _ := s.GetParent(ctx, sub.Ino); p != y.Ino {
		t.Errorf("GetParent = %d, want %d", p, y.Ino)
	}
	x, _ = s.GetAttr(ctx, x.Ino)
	y, _ = s.GetAttr(ctx, y.Ino)
	if x.Nlink != 2 || y.Nlink != 3 {
		t.Errorf("nlink %d and %d, want 2 and 3", x.Nlink, y.Nlink)
	}
}

func TestHardLinks(t *testing.T) {
	s := storetest.New(t)
	d := mkdir(t, s, "/d")
	a := put(t, s, "/f", []byte("x"))
	for _, n := range []string{"g", "h"} {
		if _, err := s.Link(ctx, a.Ino, d.Ino, n); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "/d/g", []byte("changed"))
	if got := get(t, s, "/f"); string(got) != "changed" {
		t.Errorf("content %q", got)
	}
	storetest.Check(t, s)
	if err := s.Unlink(ctx, store.RootIno, "f", nil); err != nil { // its home
		t.Fatal(err)
	}
	storetest.Check(t, s)
	if p, err := s.PathOf(ctx, a.Ino); err != nil || p != "/d/g" {
		t.Errorf("PathOf = %q, %v, want /d/g", p, err)
	}
	if _, err := s.Rename(ctx, d.Ino, "h", store.RootIno, "k", store.RenameOptions{}); err != nil {
		t.Fatal(err)
	}
	storetest.Check(t, s)
	if _, err := s.Rename(ctx, d.Ino, "g", store.RootIno, "k", store.RenameOptions{}); err != nil { // two names of one file
		t.Fatal(err)
	}
	if got := names(t, s, d.Ino); got != "g" {
		t.Errorf("names = %q: renaming one name of a file onto another must do nothing", got)
	}
	if err := s.RemoveAll(ctx, store.RootIno, "d", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	b, err := s.LookupPath(ctx, "/k")
	if err != nil || b.Nlink != 1 || b.Ino != a.Ino {
		t.Errorf("LookupPath = %+v, %v, want one link of %d", b, err, a.Ino)
	}
}

func TestUnlinkWhileOpenKeepsData(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	data := pattern(200<<10, 3)
	a := put(t, s, "/f", data)
	h, err := s.Open(ctx, a.Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unlink(ctx, store.RootIno, "f", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := h.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read of an unlinked file: %v", err)
	}
	if _, err := h.WriteAt(ctx, []byte("more"), 10); err != nil {
		t.Errorf("write to an unlinked file: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = s.GetAttr(ctx, a.Ino)
	wantErr(t, "after the last close", err, store.ErrStale)
	if blobs.Len() != 0 || s.FileCount(ctx) != 0 || s.TotalSize(ctx) != 0 {
		t.Errorf("left: %d blobs, %d files, %d bytes", blobs.Len(), s.FileCount(ctx), s.TotalSize(ctx))
	}
}

func TestRemoveAllIsOneBatchAndCollected(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	for i := range 300 {
		mkdir(t, s, fmt.Sprintf("/d/%d/x", i%7))
		put(t, s, fmt.Sprintf("/d/%d/f%d", i%7, i), pattern(i*100, byte(i)))
	}
	if err := s.RemoveAll(ctx, store.RootIno, "d", nil); err != nil {
		t.Fatal(err)
	}
	_, err := s.LookupPath(ctx, "/d")
	wantErr(t, "lookup", err, fs.ErrNotExist)
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	if s.FileCount(ctx) != 0 || s.DirCount(ctx) != 1 || s.TotalSize(ctx) != 0 || blobs.Len() != 0 {
		t.Errorf("left: %d files, %d directories, %d bytes, %d blobs", s.FileCount(ctx), s.DirCount(ctx), s.TotalSize(ctx), blobs.Len())
	}
}

func TestCloneSharesContent(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	data := pattern(1<<20, 5)
	a := put(t, s, "/f", data)
	if err := s.SetXattr(ctx, a.Ino, "user.k", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	b, replaced, err := s.Clone(ctx, a.Ino, store.RootIno, "g", store.CloneOptions{})
	if err != nil || replaced {
		t.Fatal(replaced, err)
	}
	if blobs.Len() != 1 {
		t.Errorf("%d blobs, want 1", blobs.Len())
	}
	if v, err := s.GetXattr(ctx, b.Ino, "user.k"); err != nil || string(v) != "v" {
		t.Errorf("xattr %q, %v", v, err)
	}
	h, err := s.Open(ctx, b.Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, []byte("HELLO"), 70_000); err != nil {
		t.Fatal(err)
	}
	h.Close()
	want := bytes.Clone(data)
	copy(want[70_000:], "HELLO")
	if !bytes.Equal(get(t, s, "/f"), data) {
		t.Error("a write to the clone changed the source")
	}
	if !bytes.Equal(get(t, s, "/g"), want) {
		t.Error("clone differs from what was written")
	}
	_, _, err = s.Clone(ctx, a.Ino, store.RootIno, "g", store.CloneOptions{})
	wantErr(t, "existing target", err, fs.ErrExist)
	if err := s.Unlink(ctx, store.RootIno, "f", nil); err != nil {
		t.Fatal(err)
	}
	storetest.Check(t, s)
	if !bytes.Equal(get(t, s, "/g"), want) {
		t.Error("removing the source changed the clone")
	}
}

func TestCloneTree(t *testing.T) {
	s := storetest.New(t)
	for i := range 600 {
		mkdir(t, s, fmt.Sprintf("/src/d%d", i%5))
		put(t, s, fmt.Sprintf("/src/d%d/f%d", i%5, i), pattern(i*60, byte(i)))
	}
	src, _ := s.LookupPath(ctx, "/src")
	put(t, s, "/dst", []byte("in the way"))
	_, replaced, err := s.Clone(ctx, src.Ino, store.RootIno, "dst", store.CloneOptions{Replace: true})
	if err != nil || !replaced {
		t.Fatal(replaced, err)
	}
	for i := range 600 {
		p := fmt.Sprintf("d%d/f%d", i%5, i)
		if !bytes.Equal(get(t, s, "/dst/"+p), pattern(i*60, byte(i))) {
			t.Fatalf("copy of %s differs", p)
		}
	}
	dst, _ := s.LookupPath(ctx, "/dst")
	if dst.Nlink != 7 || dst.Mtime != src.Mtime {
		t.Errorf("copy has %d links and mtime %d, want 7 and %d", dst.Nlink, dst.Mtime, src.Mtime)
	}
	d0, _ := s.LookupPath(ctx, "/src/d0")
	_, _, err = s.Clone(ctx, src.Ino, d0.Ino, "again", store.CloneOptions{})
	wantErr(t, "into itself", err, store.ErrSubtree)
	_, _, err = s.Clone(ctx, d0.Ino, store.RootIno, "src", store.CloneOptions{Replace: true})
	wantErr(t, "over an ancestor", err, store.ErrSubtree)
	if _, _, err = s.Clone(ctx, src.Ino, store.RootIno, "shallow", store.CloneOptions{Shallow: true}); err != nil {
		t.Fatal(err)
	}
	sh, _ := s.LookupPath(ctx, "/shallow")
	if got := names(t, s, sh.Ino); got != "" || sh.Nlink != 2 {
		t.Errorf("shallow copy has entries %q and %d links", got, sh.Nlink)
	}
}

func TestHandleWrites(t *testing.T) {
	s := storetest.New(t)
	for _, steps := range [][]struct{ off, n, trunc int }{
		{{0, 10, -1}, {5, 10, -1}, {100, 5, -1}},                           // inline with a gap
		{{0, 100, -1}, {16<<10 - 50, 100, -1}, {3, 3, -1}},                 // grows out of the engine
		{{0, 200 << 10, -1}, {0, 0, 100 << 10}, {150 << 10, 10, -1}},       // blob, cut, gap
		{{0, 200 << 10, -1}, {0, 0, 0}, {0, 5, -1}},                        // blob, emptied, inline again
		{{1 << 20, 1, -1}, {0, 0, 3 << 20}, {0, 0, 2<<20 + 1}, {7, 7, -1}}, // sparse
		{{0, 0, 5000}, {0, 0, 100}, {0, 0, 70000}, {0, 0, 69999}},
	} {
		a, err := s.Create(ctx, store.RootIno, "f", store.NewNode{Mode: 0o600})
		if err != nil {
			t.Fatal(err)
		}
		h, err := s.Open(ctx, a.Ino, true)
		if err != nil {
			t.Fatal(err)
		}
		var model []byte
		for i, st := range steps {
			if st.trunc >= 0 {
				err = h.Truncate(ctx, int64(st.trunc))
				model = append(model, make([]byte, max(st.trunc-len(model), 0))...)[:st.trunc]
			} else {
				p := pattern(st.n, byte(i))
				_, err = h.WriteAt(ctx, p, int64(st.off))
				model = append(model, make([]byte, max(st.off+st.n-len(model), 0))...)
				copy(model[st.off:], p)
			}
			if err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			if got := get(t, s, "/f"); !bytes.Equal(got, model) {
				t.Fatalf("step %d: content differs (%d bytes, want %d)", i, len(got), len(model))
			}
		}
		if err := h.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		storetest.Check(t, s)
		if got := get(t, s, "/f"); !bytes.Equal(got, model) {
			t.Fatal("content differs after it was sealed")
		}
		if err := s.Unlink(ctx, store.RootIno, "f", nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamagedBlockIsNeverServed(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	data := pattern(300<<10, 9)
	a := put(t, s, "/f", data)
	blobs.Flip(blobs.IDs()[0], 130<<10) // in the third block
	c, err := s.OpenContent(ctx, a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 10)
	for _, ok := range []int64{0, 127 << 10, 200 << 10} {
		if _, err := c.ReadAt(p, ok); err != nil || !bytes.Equal(p, data[ok:ok+10]) {
			t.Errorf("good block at %d: %v", ok, err)
		}
	}
	_, err = c.ReadAt(p, 150<<10)
	wantErr(t, "bad block", err, store.ErrDamaged)
	var out bytes.Buffer
	n, err := c.WriteRange(&out, 0, c.Size())
	wantErr(t, "stream", err, store.ErrDamaged)
	if n != 128<<10 || !bytes.Equal(out.Bytes(), data[:n]) {
		t.Errorf("stream gave %d bytes, want the %d good ones", n, 128<<10)
	}
	put(t, s, "/f", data) // a full overwrite heals
	if !bytes.Equal(get(t, s, "/f"), data) {
		t.Error("content differs after it was overwritten")
	}
}

func TestXattrs(t *testing.T) {
	s := storetest.New(t)
	a := put(t, s, "/f", nil)
	_, err := s.GetXattr(ctx, a.Ino, "user.a")
	wantErr(t, "missing", err, store.ErrNoXattr)
	wantErr(t, "replace missing", s.SetXattr(ctx, a.Ino, "user.a", nil, store.XattrReplace), store.ErrNoXattr)
	if err := s.SetXattr(ctx, a.Ino, "user.a", []byte("1"), store.XattrCreate); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "create existing", s.SetXattr(ctx, a.Ino, "user.a", nil, store.XattrCreate), fs.ErrExist)
	wantErr(t, "too big", s.SetXattr(ctx, a.Ino, "user.b", make([]byte, store.MaxXattrValue+1), 0), store.ErrTooBig)
	wantErr(t, "remove missing", s.RemoveXattr(ctx, a.Ino, "user.b"), store.ErrNoXattr)
	if _, err := s.PatchXattrs(ctx, a.Ino, map[string][]byte{"user.a": nil, "user.b": {}, "user.c": []byte("3")}, store.SetAttr{}, nil); err != nil {
		t.Fatal(err)
	}
	got, err := s.Xattrs(ctx, a.Ino)
	if err != nil || fmt.Sprint(got) != "map[user.b:[] user.c:[51]]" {
		t.Errorf("Xattrs = %v, %v", got, err)
	}
	b, _ := s.GetAttr(ctx, a.Ino)
	if b.ETag() != a.ETag() || b.Change == a.Change {
		t.Errorf("ETag %s became %s, change %d became %d", a.ETag(), b.ETag(), a.Change, b.Change)
	}
}

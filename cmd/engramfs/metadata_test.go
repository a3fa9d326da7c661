package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta/secondcopy"
)

// site is a data folder that a test serves without listeners.
type site struct {
	t    *testing.T
	dir  string
	copy string // "": none is kept
	meta *metadata
	s    *store.Store

	verify time.Duration // see metadataOptions
}

func newSite(t *testing.T, dir string) *site {
	return &site{t: t, dir: dir, copy: filepath.Join(dir, copyDir)}
}

// open opens the store as serve does.
func (x *site) open() error {
	x.t.Helper()
	d, err := openData(x.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := x.openStore(d); err != nil {
		return err
	}
	return d.finish()
}

func (x *site) openStore(d *dataFolder) error {
	blobs, err := local.Open(d.path(blobsDir), local.Options{Create: d.fresh})
	if err != nil {
		return err
	}
	o := metadataOptions{dir: d.dir, copy: x.copy, fresh: d.fresh, cache: 1 << 20, blobs: blobs, log: slog.New(slog.DiscardHandler), verify: x.verify}
	if x.meta, err = openMetadata(x.t.Context(), o); err != nil {
		return errors.Join(err, blobs.Close())
	}
	x.s, err = store.Open(x.t.Context(), store.Options{Meta: x.meta.engine, Blobs: blobs, Reserve: -1})
	if x.meta.suspect(err) {
		return x.openStore(d)
	}
	return err
}

func (x *site) mustOpen() {
	x.t.Helper()
	if err := x.open(); err != nil {
		x.t.Fatalf("open: %v", err)
	}
}

func (x *site) close() {
	x.t.Helper()
	if err := x.s.Close(); err != nil {
		x.t.Fatalf("close: %v", err)
	}
}

// waitCopied waits until the copy has all that was done before.
func (x *site) waitCopied() {
	x.t.Helper()
	now := time.Now()
	for end := now.Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		st := x.meta.copy.Status()
		if st.State == secondcopy.Current && st.Instant.After(now) {
			return
		}
		if time.Now().After(end) {
			x.t.Fatalf("the copy stays %+v", st)
		}
	}
}

func (x *site) put(path string, data []byte, mtime time.Time) {
	x.t.Helper()
	ctx := x.t.Context()
	parent, name, err := x.s.LookupParent(ctx, path)
	if err != nil {
		x.t.Fatal(err)
	}
	u, err := x.s.NewUpload(ctx, parent, name, int64(len(data)))
	if err != nil {
		x.t.Fatal(err)
	}
	if _, err = u.Write(data); err == nil {
		_, _, err = u.Commit(ctx, store.CommitOptions{Mtime: mtime, Mode: 0o640, UID: 1001, GID: 1002})
	}
	if err = errors.Join(err, x.s.Sync(ctx)); err != nil {
		x.t.Fatalf("put %s: %v", path, err)
	}
}

func (x *site) mkdir(path string) {
	x.t.Helper()
	if _, err := x.s.EnsureDirectory(x.t.Context(), path, store.NewNode{Mode: 0o750, UID: 7, GID: 8}); err != nil {
		x.t.Fatal(err)
	}
}

// tree describes everything in the store, a line for each path.
func (x *site) tree() map[string]string {
	x.t.Helper()
	all := map[string]string{}
	x.walk("/", store.RootIno, all)
	return all
}

func (x *site) walk(path string, dir store.Ino, all map[string]string) {
	x.t.Helper()
	ctx := context.Background()
	var entries []store.Dirent
	if err := x.s.ReadDir(ctx, dir, "", func(d store.Dirent) bool { entries = append(entries, d); return true }); err != nil {
		x.t.Fatalf("ReadDir(%s): %v", path, err)
	}
	for _, e := range entries {
		a, err := x.s.GetAttr(ctx, e.Ino)
		if err != nil {
			x.t.Fatalf("GetAttr(%s%s): %v", path, e.Name, err)
		}
		if a.IsDir() {
			all[path+e.Name] = fmt.Sprintf("%o %d:%d", a.Mode, a.UID, a.GID)
			x.walk(path+e.Name+"/", e.Ino, all)
			continue
		}
		all[path+e.Name] = fmt.Sprintf("%o %d:%d %d links=%d xattr=%v %s", a.Mode, a.UID, a.GID, a.Mtime, a.Nlink, a.HasXattrs, x.content(e.Ino))
	}
}

func (x *site) content(ino store.Ino) string {
	c, err := x.s.OpenContent(context.Background(), ino)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.NewSectionReader(c, 0, c.Size())); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d bytes %x", b.Len(), sha256.Sum256(b.Bytes()))
}

func (x *site) check() {
	x.t.Helper()
	problems, err := x.s.Check(context.Background(), store.CheckOptions{})
	if err != nil || len(problems) > 0 {
		x.t.Fatalf("check: %v %v", problems, err)
	}
}

func (x *site) report() salvageReport {
	x.t.Helper()
	names, _ := filepath.Glob(filepath.Join(x.dir, reportPrefix+"*.json"))
	if len(names) != 1 {
		x.t.Fatalf("reports: %v, want one", names)
	}
	b, err := os.ReadFile(names[0])
	var r salvageReport
	if err = errors.Join(err, json.Unmarshal(b, &r)); err != nil {
		x.t.Fatal(err)
	}
	return r
}

func same(t *testing.T, want, got map[string]string, about any) {
	t.Helper()
	for p, v := range want {
		if got[p] != v {
			t.Errorf("%s is %q, want %q (%v)", p, got[p], v, about)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s should not be there (%v)", p, about)
		}
	}
}

// populate makes a tree with all kinds of things in it.
func (x *site) populate(rnd *rand.Rand) {
	x.t.Helper()
	ctx := x.t.Context()
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	day := time.Unix(1_700_000_000, 123456789)
	for d := range 3 {
		dir := "/d" + strconv.Itoa(d)
		x.mkdir(dir + "/sub")
		for i := range 8 {
			size := []int{0, 10, 3000, 16 << 10, 17 << 10, 100_000, 5, 70_000}[i]
			x.put(fmt.Sprintf("%s/f%d", dir, i), bytesOf(size), day.Add(time.Duration(d*10+i)*time.Hour))
		}
	}
	look := func(p string) store.Attr {
		a, err := x.s.LookupPath(ctx, p)
		if err != nil {
			x.t.Fatal(err)
		}
		return a
	}
	do := func(err error) {
		x.t.Helper()
		if err != nil {
			x.t.Fatal(err)
		}
	}
	d0, d1 := look("/d0").Ino, look("/d1").Ino
	do(x.s.RemoveAll(ctx, d0, "f1", nil))
	do(x.s.RemoveAll(ctx, d0, "f4", nil))
	x.put("/d0/f5", bytesOf(120_000), day)
	x.put("/d0/f2", bytesOf(200), day)
	do(x.s.SetXattr(ctx, look("/d1/f2").Ino, "user.colour", []byte("blue"), 0))
	_, lerr := x.s.Link(ctx, look("/d1/f5").Ino, d0, "hard")
	do(lerr)
	_, serr := x.s.Create(ctx, d1, "link", store.NewNode{Mode: store.ModeSymlink | 0o777, Target: "f2"})
	do(serr)
	do(x.s.Sync(ctx))
}

// loseEngine deletes the folder of the engine.
func (x *site) loseEngine() {
	x.t.Helper()
	if err := os.RemoveAll(filepath.Join(x.dir, metaDir)); err != nil {
		x.t.Fatal(err)
	}
}

func TestEngineDeletedComesBackFromTheCopy(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.populate(rand.New(rand.NewPCG(1, 1)))
	want := x.tree()
	x.close()
	x.loseEngine()
	x.mustOpen()
	defer x.close()
	same(t, want, x.tree(), x.meta.salvaged)
	x.check()
	r := x.report()
	if r.Copy == nil || !r.Copy.Complete || len(r.Store.Missing)+len(r.Store.Restored)+len(r.Store.LostFound) > 0 {
		t.Errorf("report %+v %+v", r.Copy, r.Store)
	}
	history, err := x.s.History(0, 1)
	if err != nil || len(history) != 1 || history[0].Kind != store.SalvageEvent {
		t.Errorf("history: %+v %v", history, err)
	}
	if notes := x.meta.notes(); len(notes) == 0 || !strings.Contains(notes[0], "salvaged") {
		t.Errorf("notes %q", notes)
	}
}

// Blobs come back with path, mode, owner and time when engine and copy are both gone.
func TestContentComesBackAlone(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.populate(rand.New(rand.NewPCG(2, 2)))
	if err := x.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := x.tree()
	x.close()
	for _, dir := range []string{metaDir, copyDir} {
		if err := os.RemoveAll(filepath.Join(x.dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	x.mustOpen()
	defer x.close()
	after := x.tree()
	n := 0
	for _, p := range []string{"/d0/f5", "/d0/f7", "/d1/f4", "/d1/f7", "/d2/f4", "/d2/f5", "/d2/f7"} {
		if after[p] != before[p] {
			t.Errorf("%s is %q, want %q", p, after[p], before[p])
		}
		n++
	}
	for p := range after {
		if strings.HasPrefix(p, "/lost+found") {
			t.Errorf("%s in lost+found", p)
		}
	}
	x.check()
	if r := x.report(); r.Copy != nil || len(r.Store.Restored) != n+1 { // one file had two names
		t.Errorf("report: %d restored of %d: %+v", len(r.Store.Restored), n+1, r.Store)
	}
}

func TestNothingLeftIsRefused(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.put("/small", []byte("inline"), time.Time{})
	x.close()
	for _, dir := range []string{metaDir, copyDir} {
		if err := os.RemoveAll(filepath.Join(x.dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.open(); !errors.Is(err, errMetaLost) {
		t.Fatalf("open: %v, want errMetaLost", err)
	}
	if _, err := os.Stat(filepath.Join(x.dir, metaDir)); !errors.Is(err, os.ErrNotExist) {
		t.Error("an empty store was made")
	}
}

// What was put after the copy's last instant comes back from its content.
func TestPutAfterTheCopyComesBack(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.put("/kept", bytes.Repeat([]byte("old"), 30_000), time.Unix(1000, 0))
	x.waitCopied()
	x.close()
	x.copy = ""
	x.mustOpen() // a run without a copy
	x.put("/kept", bytes.Repeat([]byte("new!"), 30_000), time.Unix(2000, 0))
	x.put("/later", bytes.Repeat([]byte("later"), 30_000), time.Unix(3000, 0))
	if err := x.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := x.tree()
	x.close()
	x.loseEngine()
	x.copy = filepath.Join(x.dir, copyDir)
	x.mustOpen()
	defer x.close()
	same(t, want, x.tree(), x.meta.salvaged)
	x.check()
	if r := x.report(); len(r.Store.Restored) != 2 {
		t.Errorf("restored %v, want two files", r.Store.Restored)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wantSnapshot opens the site and checks that its second copy does not go on with what is
// in the folder, but begins with a snapshot.
func (x *site) wantSnapshot() {
	x.t.Helper()
	x.mustOpen()
	x.waitCopied()
	if x.meta.copy.Status().Snapshot.IsZero() {
		x.t.Error("the copy goes on with the log of another engine")
	}
	want := x.tree()
	x.close()
	x.loseEngine()
	x.mustOpen()
	defer x.close()
	same(x.t, want, x.tree(), x.meta.salvaged)
	if r := x.report(); r.Copy == nil || !r.Copy.Complete {
		x.t.Errorf("report: %+v", r.Copy)
	}
}

// The copy of another store, which was opened as often, is not taken for one's own.
func TestCopyOfAnotherStore(t *testing.T) {
	other, x := newSite(t, t.TempDir()), newSite(t, t.TempDir())
	for i, y := range []*site{other, x} {
		y.mustOpen()
		y.put("/name", bytes.Repeat([]byte{byte(i)}, 10), time.Time{})
		y.waitCopied()
		y.close()
	}
	x.copy = other.copy
	x.wantSnapshot()
}

// The data's disk is set back to what it was in the middle of a run, that of the copy is not.
func TestCopyOfARunThatIsUndone(t *testing.T) {
	x := newSite(t, filepath.Join(t.TempDir(), "data"))
	x.copy = filepath.Join(t.TempDir(), "copy")
	x.mustOpen()
	x.put("/kept", []byte("kept"), time.Time{})
	x.waitCopied()
	y := newSite(t, filepath.Join(t.TempDir(), "data"))
	copyTree(t, x.dir, y.dir)
	x.put("/undone", []byte("undone"), time.Time{})
	x.close()
	y.copy = x.copy
	y.wantSnapshot()
	y.mustOpen()
	defer y.close()
	if tree := y.tree(); tree["/undone"] != "" || tree["/kept"] == "" {
		t.Errorf("restored: %v", tree)
	}
}

// If the engine is gone, and so is the disk of the copy, nothing is made without it.
func TestCopyOnADiskThatIsNotMounted(t *testing.T) {
	x := newSite(t, filepath.Join(t.TempDir(), "data"))
	disk := filepath.Join(t.TempDir(), "disk")
	x.copy = filepath.Join(disk, "copy")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	x.mustOpen()
	x.populate(rand.New(rand.NewPCG(3, 3)))
	x.waitCopied()
	want := x.tree()
	x.close()
	x.loseEngine()
	if err := errors.Join(os.Rename(disk, disk+".away"), os.Mkdir(disk, 0o700)); err != nil {
		t.Fatal(err)
	}
	err := x.open()
	if h := (*hintError)(nil); !errors.As(err, &h) || !strings.Contains(h.hint, "--second-copy none") {
		t.Fatalf("open: %v, want a hint", err)
	}
	if _, err := os.Stat(filepath.Join(x.dir, metaDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("new metadata was made")
	}
	if err := errors.Join(os.Remove(disk), os.Rename(disk+".away", disk)); err != nil {
		t.Fatal(err)
	}
	x.mustOpen()
	defer x.close()
	same(t, want, x.tree(), x.meta.salvaged)
}

// A start that fails with the engine open gives it back.
func TestSuspicionThatCannotBeRemoved(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.close()
	note := filepath.Join(x.dir, suspectFile)
	if err := os.MkdirAll(filepath.Join(note, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := x.open(); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Fatalf("open: %v, want ENOTEMPTY", err)
	}
	if err := os.RemoveAll(note); err != nil {
		t.Fatal(err)
	}
	x.mustOpen()
	x.close()
}

// A sector that cannot be read may be one of the engine: the next start looks at all of it.
func TestBadSectorIsSuspected(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.close()
	x.mustOpen()
	x.waitCopied()
	defer x.close()
	bad := &fs.PathError{Op: "read", Path: "000004.sst", Err: syscall.EIO}
	if x.meta.suspect(bad) {
		t.Error("suspected, though all of the engine was read")
	}
	x.meta.whole = false
	if !x.meta.suspect(bad) {
		t.Error("not suspected")
	}
	if _, err := os.Stat(filepath.Join(x.dir, suspectFile)); err != nil {
		t.Error(err)
	}
}

package local

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"engramfs/store/blob"
)

func TestReadOnlyChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "blobs")
	b, err := Open(dir, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	id := blob.NewID()
	f, err := b.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("content"), 0)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{ReadOnly: true}); !errors.Is(err, blob.ErrInUse) {
		t.Errorf("Open of what is in use: %v, want ErrInUse", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}

	if b, err = Open(dir, Options{ReadOnly: true, Create: true}); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if f, err = b.Open(id, false); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, writing := b.Open(id, true)
	_, creating := b.Create(blob.NewID())
	_, cloning := b.Clone(id, blob.NewID())
	for name, err := range map[string]error{
		"open for writing": writing, "create": creating, "clone": cloning, "delete": b.Delete(id), "label": f.(blob.Labeler).SetLabel([]byte("x")),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, lockName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a lock file was made: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none"), Options{ReadOnly: true, Create: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v, want ErrNotExist", err)
	}
}

package local

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

// TestHasWriters looks at a blob that is open, mapped, and neither.
func TestHasWriters(t *testing.T) {
	b, err := Open(t.TempDir(), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	id := blob.NewID()
	f, err := b.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(8192); err != nil {
		t.Fatal(err)
	}
	has := func(what string, want bool) {
		t.Helper()
		if got, err := b.HasWriters(id); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	has("open for writing", true)
	path := f.(*file).f.Name()
	m, err := unix.Mmap(f.(*file).fd, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	has("mapped", true)
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	has("closed", false)
	r, err := b.Open(id, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	has("open for reading", false)
	w, err := os.OpenFile(path, os.O_WRONLY, 0) // no lease is left that it would wait for
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := b.HasWriters(blob.NewID()); err == nil {
		t.Error("a blob that does not exist has no error")
	}
}

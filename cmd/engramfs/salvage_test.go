package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"engramfs/store"
)

// What comes back from its content alone has digests again, and they are right.
func TestSalvagedContentHasDigests(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.populate(rand.New(rand.NewPCG(3, 3)))
	if err := x.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.close()
	if err := errors.Join(os.RemoveAll(filepath.Join(x.dir, metaDir)), os.RemoveAll(filepath.Join(x.dir, copyDir))); err != nil {
		t.Fatal(err)
	}
	x.mustOpen()
	defer x.close()
	a, err := x.s.LookupPath(t.Context(), "/d1/f7")
	if err != nil {
		t.Fatal(err)
	}
	c, err := x.s.OpenContent(t.Context(), a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Digests(store.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(c, 0, c.Size())); err != nil || !bytes.Equal(d[store.SHA256], h.Sum(nil)) {
		t.Errorf("digest %x, want %x, %v", d[store.SHA256], h.Sum(nil), err)
	}
}

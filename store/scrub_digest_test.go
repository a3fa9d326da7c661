package store_test

import (
	"bytes"
	"errors"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// TestScrubComputesMissingDigests takes the digests of some files away.
func TestScrubComputesMissingDigests(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{Scrub: fast})
	data := map[string][]byte{
		"/uploaded": pattern(100_000, 1), "/none": pattern(3<<20+17, 2), "/one": pattern(block, 3), "/written": pattern(200_000, 4),
	}
	for path, d := range data {
		if path == "/written" {
			sealedFile(t, s, path, d)
		} else {
			put(t, s, path, d)
		}
	}
	sparse := make([]byte, 2<<20)
	put(t, s, "/sparse", pattern(20_000, 5))
	copy(sparse, pattern(20_000, 5))
	h := open(t, s, "/sparse", true)
	write(t, h, []byte("end"), 2<<20-3)
	copy(sparse[2<<20-3:], "end")
	if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
		t.Fatal(err)
	}
	data["/sparse"] = sparse
	for _, path := range []string{"/none", "/one", "/sparse"} {
		if err := s.SetDigests(lookup(s, path).Ino, store.Digests{}); err != nil {
			t.Fatal(err)
		}
		if d, _ := digestsOf(t, s, path); d[store.SHA256] != nil {
			t.Fatalf("%s still has a digest", path)
		}
	}
	for range 2 {
		if run := scrub(t, s); run.Result != "clean" {
			t.Errorf("run: %+v", run)
		}
		for path, d := range data {
			got, _ := digestsOf(t, s, path)
			wantDigests(t, path, got, d, store.SHA256, store.SHA1, store.MD5)
		}
	}
}

// TestScrubFindsWrongDigest changes what the digest of a file is said to be.
func TestScrubFindsWrongDigest(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{Scrub: fast})
	a := put(t, s, "/f", pattern(200_000, 1))
	put(t, s, "/g", pattern(200_000, 2))
	right, _ := digestsOf(t, s, "/f")
	wrong := right
	wrong[store.SHA256] = bytes.Clone(right[store.SHA256])
	wrong[store.SHA256][7] ^= 1
	if err := s.SetDigests(a.Ino, wrong); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if run := scrub(t, s); run.Result != "damaged" || run.Damaged != 1 || len(run.Problems) != 1 {
			t.Errorf("run: %+v", run)
		}
		if d := s.Damaged(); len(d) != 1 || d[0].Path != "/f" || d[0].Length != 200_000 {
			t.Errorf("damaged: %+v", d)
		}
	}
	if err := s.SetDigests(a.Ino, right); err != nil {
		t.Fatal(err)
	}
	if run := scrub(t, s); run.Result != "clean" || len(s.Damaged()) != 0 {
		t.Errorf("after it was put right: %+v, damaged: %+v", run, s.Damaged())
	}
}

package store_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"engramfs/store"
	"engramfs/store/storetest"
)

// digestsOf returns what is known of the content of path, and its state.
func digestsOf(t testing.TB, s *store.Store, path string, want ...store.Hash) (store.Digests, store.FileState) {
	t.Helper()
	a, err := s.LookupPath(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	state, err := s.FileState(ctx, a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.OpenContent(ctx, a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Digests(want...)
	if err != nil {
		t.Fatalf("digests of %s: %v", path, err)
	}
	return d, state
}

// wantDigests checks that every digest is that of data, and which are known.
func wantDigests(t testing.TB, what string, d store.Digests, data []byte, known ...store.Hash) {
	t.Helper()
	s1, s5, s256, s512 := sha1.Sum(data), md5.Sum(data), sha256.Sum256(data), sha512.Sum512(data)
	want := store.Digests{store.SHA1: s1[:], store.MD5: s5[:], store.SHA256: s256[:], store.SHA512: s512[:]}
	for h, sum := range d {
		if sum != nil && !bytes.Equal(sum, want[h]) {
			t.Errorf("%s: digest %d of %d bytes is %x, want %x", what, h, len(data), sum, want[h])
		}
	}
	for _, h := range known {
		if d[h] == nil {
			t.Errorf("%s: digest %d is not known", what, h)
		}
	}
}

func TestDigestsOfUploads(t *testing.T) {
	s := storetest.New(t)
	for _, n := range []int{0, 1, 16 << 10, 16<<10 + 1, 256 << 10, 256<<10 + 1, 5<<20 + 3} {
		data := pattern(n, 7)
		u, err := s.NewUpload(ctx, store.RootIno, "f", -1)
		if err != nil {
			t.Fatal(err)
		}
		u.Want(store.MD5)
		if _, err := u.ReadFrom(bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		d, err := u.Digests()
		if err != nil {
			t.Fatal(err)
		}
		wantDigests(t, "upload", d, data, store.SHA256, store.MD5)
		if _, _, err := u.Commit(ctx, store.CommitOptions{Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		d, state := digestsOf(t, s, "/f", store.SHA256, store.MD5)
		wantDigests(t, "stored", d, data, store.SHA256, store.MD5)
		if state != store.StateOK {
			t.Errorf("state = %s", state)
		}
	}
}

// TestDigestsFollowClones: a copy has the digests of its source, and keeps them
// when the source gets other content.
func TestDigestsFollowClones(t *testing.T) {
	s := storetest.New(t)
	data := pattern(100_000, 1)
	a := put(t, s, "/f", data)
	if _, _, err := s.Clone(ctx, a.Ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	other := pattern(50_000, 2)
	put(t, s, "/f", other)
	d, _ := digestsOf(t, s, "/copy")
	wantDigests(t, "copy", d, data, store.SHA256)
	d, _ = digestsOf(t, s, "/f")
	wantDigests(t, "new content", d, other, store.SHA256)
}

// TestDigestsWhileWritten: content that is written in place has no digest until it
// is sealed, and who was told one before gets an error rather than other bytes.
func TestDigestsWhileWritten(t *testing.T) {
	s := storetest.New(t)
	data := pattern(300_000, 1)
	a := put(t, s, "/f", data)
	c, err := s.OpenContent(ctx, a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Digests()
	if err != nil {
		t.Fatal(err)
	}
	wantDigests(t, "before", d, data, store.SHA256)
	if n, err := c.WriteRange(io.Discard, 0, 65536); n != 65536 || err != nil {
		t.Fatal(n, err)
	}
	h, err := s.Open(ctx, a.Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, []byte("changed"), 200_000); err != nil {
		t.Fatal(err)
	}
	copy(data[200_000:], "changed")
	if n, err := c.WriteRange(io.Discard, 65536, 100_000); n != 0 || !errors.Is(err, store.ErrChanged) {
		t.Errorf("read of changed content = %d, %v, want ErrChanged", n, err)
	}
	if d, state := digestsOf(t, s, "/f"); d[store.SHA256] != nil || state != store.StateUnsealed {
		t.Errorf("while it is written: digest %x, state %s", d[store.SHA256], state)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	d, state := digestsOf(t, s, "/f")
	wantDigests(t, "sealed", d, data, store.SHA256, store.SHA1, store.MD5)
	if state != store.StateOK {
		t.Errorf("state = %s", state)
	}
}

// TestDigestsAreOfWhatIsServed does what people do to a file, in any order: what is
// read always hashes to the digest that was given before.
func TestDigestsAreOfWhatIsServed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := storetest.New(t)
		data := pattern(1000, 0)
		ino := put(t, s, "/f", data).Ino
		size := rapid.SampledFrom([]int{0, 10, 16 << 10, 16<<10 + 1, 70_000, 300_000})
		var open *store.Content
		var promised store.Digests
		handle := func(fn func(*store.Handle) error) {
			h, err := s.Open(ctx, ino, true)
			if err == nil {
				err = errors.Join(fn(h), h.Close())
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		read := func() {
			var b bytes.Buffer
			_, err := open.WriteRange(&b, 0, open.Size())
			switch {
			case err == nil:
				wantDigests(t, "read", promised, b.Bytes())
			case !errors.Is(err, store.ErrChanged) && (promised[store.SHA256] != nil || !errors.Is(err, io.ErrUnexpectedEOF)):
				rt.Fatal(err)
			}
			open.Close()
			open = nil
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				data = pattern(size.Draw(rt, "size"), byte(size.Draw(rt, "seed")))
				ino = put(t, s, "/f", data).Ino
			},
			"write": func(rt *rapid.T) {
				p := pattern(size.Draw(rt, "n"), 9)
				off := size.Draw(rt, "off")
				handle(func(h *store.Handle) error { _, err := h.WriteAt(ctx, p, int64(off)); return err })
				if len(p) > 0 {
					data = append(data, make([]byte, max(0, off+len(p)-len(data)))...)
					data = append(append(append([]byte(nil), data[:off]...), p...), data[off+len(p):]...)
				}
			},
			"truncate": func(rt *rapid.T) {
				n := size.Draw(rt, "n")
				n64 := int64(n)
				if _, err := s.SetAttr(ctx, ino, store.SetAttr{Size: &n64}); err != nil {
					rt.Fatal(err)
				}
				data = append(append([]byte(nil), data[:min(n, len(data))]...), make([]byte, max(0, n-len(data)))...)
			},
			"seal": func(rt *rapid.T) {
				if err := s.Quiesce(ctx); err != nil {
					rt.Fatal(err)
				}
				d, state := digestsOf(t, s, "/f", store.SHA256)
				wantDigests(t, "sealed", d, data)
				if d[store.SHA256] == nil && len(data) <= 16<<10 || state != store.StateOK {
					rt.Fatalf("digest %x, state %s of %d bytes", d[store.SHA256], state, len(data))
				}
			},
			"open": func(rt *rapid.T) {
				if open != nil {
					rt.Skip()
				}
				var err error
				if open, err = s.OpenContent(ctx, ino); err != nil {
					rt.Fatal(err)
				}
				if promised, err = open.Digests(store.SHA256, store.MD5); err != nil {
					rt.Fatal(err)
				}
				wantDigests(t, "promised", promised, data)
			},
			"read": func(rt *rapid.T) {
				if open == nil {
					rt.Skip()
				}
				read()
			},
		})
		if open != nil {
			read()
		}
	})
}

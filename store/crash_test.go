package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// machine is a store on a disk that can lose power.
type machine struct {
	t     *testing.T
	mem   *vfs.MemFS
	blobs *storetest.MemBlobs
	s     *store.Store
}

func boot(t *testing.T, mem *vfs.MemFS, blobs *storetest.MemBlobs) *machine {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20, MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs})
	if err != nil {
		t.Fatal(err)
	}
	return &machine{t: t, mem: mem, blobs: blobs, s: s}
}

// powerCut returns the machine after it has lost what was not synced and was
// started again.
func (m *machine) powerCut(rng *rand.Rand) *machine {
	m.t.Helper()
	// The collector goes on meanwhile. It removes a blob only after the engine's
	// sync, so blobs that are cut first can only be too many, not too few.
	blobs := m.blobs.PowerCut()
	mem := m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(2) * 50, RNG: rng})
	if err := m.s.Close(); err != nil {
		m.t.Fatal(err)
	}
	return boot(m.t, mem, blobs)
}

// TestPowerCut runs random changes, cuts the power at random instants, and
// verifies after each restart that everything acknowledged is there and
// every change is there as a whole or not at all.
func TestPowerCut(t *testing.T) {
	cuts := 40
	if v, err := strconv.Atoi(os.Getenv("ENGRAMFS_CUTS")); err == nil {
		cuts = v
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	model := map[string][]byte{} // acknowledged
	acked, unknown := 0, 0
	for cut := range cuts {
		pending := map[string][2][]byte{} // path -> old and new content of changes since the last Sync; nil: absent
		for op := range 5 + rng.IntN(60) {
			if powerOp(m, rng, model, pending, cut*1000+op) && rng.IntN(3) == 0 {
				if err := m.s.Sync(ctx); err != nil {
					t.Fatal(err)
				}
				for p, v := range pending {
					acked++
					if v[1] == nil {
						delete(model, p)
					} else {
						model[p] = v[1]
					}
				}
				clear(pending)
			}
		}
		m = m.powerCut(rng)
		storetest.Check(t, m.s)
		for p, v := range pending {
			unknown++
			got, err := tryGet(ctx, m.s, p)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				if v[0] != nil && v[1] != nil {
					t.Errorf("cut %d: %s is gone", cut, p)
				}
				delete(model, p)
			case err != nil:
				t.Errorf("cut %d: %s: %v", cut, p, err)
			default:
				model[p] = got // one of the contents that it had since the last Sync
			}
		}
		for p, want := range model {
			if got, err := tryGet(ctx, m.s, p); err != nil || !bytes.Equal(got, want) {
				t.Errorf("cut %d: %s: %v, %d bytes, want %d", cut, p, err, len(got), len(want))
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if err := m.s.Close(); err != nil {
		t.Error(err)
	}
	fmt.Printf("power cuts: %d cuts, %d acknowledged changes, %d unacknowledged, 0 lost\n", cuts, acked, unknown)
}

// powerOp makes one change and reports whether it did.
func powerOp(m *machine, rng *rand.Rand, model map[string][]byte, pending map[string][2][]byte, n int) bool {
	m.t.Helper()
	path := func() string { return fmt.Sprintf("/f%d", rng.IntN(12)) }
	now := func(p string) []byte {
		if v, ok := pending[p]; ok {
			return v[1]
		}
		return model[p]
	}
	note := func(p string, content []byte) {
		old := model[p]
		if v, ok := pending[p]; ok {
			old = v[0]
			if v[1] == nil || v[0] == nil {
				old = nil // it was absent at some instant
			}
		}
		pending[p] = [2][]byte{old, content}
	}
	p := path()
	switch rng.IntN(4) {
	case 0, 1:
		data := pattern([]int{10, 4000, 20_000, 100_000}[rng.IntN(4)], byte(n))
		put(m.t, m.s, p, data)
		note(p, data)
	case 2:
		if now(p) == nil {
			return false
		}
		if err := unlink(m.s, p); err != nil {
			m.t.Fatal(err)
		}
		note(p, nil)
	case 3:
		q := path()
		if now(p) == nil || p == q {
			return false
		}
		content := now(p)
		if _, err := m.s.Rename(ctx, store.RootIno, p[1:], store.RootIno, q[1:], store.RenameOptions{}); err != nil {
			m.t.Fatal(err)
		}
		note(q, content)
		note(p, nil)
	}
	return true
}

// TestRestartFindsEverything closes the store and opens it again.
func TestRestartFindsEverything(t *testing.T) {
	mem, blobs := vfs.NewCrashableMem(), storetest.NewMemBlobs()
	m := boot(t, mem, blobs)
	data := pattern(300<<10, 1)
	mkdir(t, m.s, "/d/e")
	put(t, m.s, "/d/big", data)
	a := put(t, m.s, "/d/small", []byte("small"))
	h, err := m.s.Open(ctx, lookup(m.s, "/d/big").Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, []byte("in place"), 1000); err != nil {
		t.Fatal(err)
	}
	copy(data[1000:], "in place")
	h.Close()
	files, bytesTotal := m.s.FileCount(ctx), m.s.TotalSize(ctx)
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.s.Create(ctx, store.RootIno, "x", store.NewNode{}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("create after Close: %v", err)
	}
	m = boot(t, mem, blobs)
	defer m.s.Close()
	storetest.Check(t, m.s)
	if got := get(t, m.s, "/d/big"); !bytes.Equal(got, data) {
		t.Error("content differs after the restart")
	}
	b := lookup(m.s, "/d/small")
	if b.ETag() != a.ETag() {
		t.Errorf("ETag %s became %s", a.ETag(), b.ETag())
	}
	if m.s.FileCount(ctx) != files || m.s.TotalSize(ctx) != bytesTotal {
		t.Errorf("%d files, %d bytes, want %d, %d", m.s.FileCount(ctx), m.s.TotalSize(ctx), files, bytesTotal)
	}
	c := put(t, m.s, "/d/new", nil)
	if c.Ino <= b.Ino {
		t.Errorf("inode %d was given again", c.Ino)
	}
}

func TestOpenRefusesUnknownFormat(t *testing.T) {
	mem := vfs.NewMem()
	for _, c := range []struct {
		key, value string
		want       any
	}{
		{"Mformat", "\x09", new(*meta.VersionError)},
		{"Istray", "", nil},
	} {
		db, err := pebble.Open("meta"+c.key, pebble.Options{Create: true, FS: mem})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx meta.Txn) error { tx.Put([]byte(c.key), []byte(c.value)); return nil }); err != nil {
			t.Fatal(err)
		}
		_, err = store.Open(ctx, store.Options{Meta: db, Blobs: storetest.NewMemBlobs()})
		if err == nil {
			t.Fatalf("%s: opened", c.key)
		}
		if c.want != nil && !errors.As(err, c.want) || c.want == nil && !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v", c.key, err)
		}
	}
}

// TestLeftoverContentIsKeptForADay starts on blobs that no file refers to: a young
// one may be all that is left of a file whose metadata was damaged.
func TestLeftoverContentIsKeptForADay(t *testing.T) {
	for _, c := range []struct {
		later time.Duration
		left  int
	}{{time.Hour, 1}, {25 * time.Hour, 0}} {
		blobs := storetest.NewMemBlobs()
		if _, err := blobs.Create(blob.NewID()); err != nil {
			t.Fatal(err)
		}
		db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(ctx, store.Options{Meta: db, Blobs: blobs, Now: func() time.Time { return time.Now().Add(c.later) }})
		if err != nil {
			t.Fatal(err)
		}
		storetest.Check(t, s)
		if n := blobs.Len(); n != c.left {
			t.Errorf("%v later %d blobs are left, want %d", c.later, n, c.left)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

package store_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/meta"
	"engramfs/store/storetest"
)

// TestSalvageMendsEveryBreakage salvages records that violate one invariant each, cycles of
// directories among them: what comes of it is sound, and opens.
func TestSalvageMendsEveryBreakage(t *testing.T) {
	for _, b := range store.Breakages() {
		t.Run(b.Code, func(t *testing.T) {
			sh := newShelf(t)
			if b.Code == "fact.format" {
				b.Break = func(tx meta.Txn, _ store.BrokenFiles) error { tx.Delete([]byte("Mformat")); return nil }
			}
			sh.engine(t, func(db meta.Engine) {
				if err := db.Update(func(tx meta.Txn) error { return b.Break(tx, sh.files) }); err != nil {
					t.Fatal(err)
				}
				r, err := store.Salvage(ctx, store.SalvageOptions{Meta: db, Blobs: sh.blobs})
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range checkShelf(t, db, sh) {
					t.Errorf("after the salvage: %s", f)
				}
				if b.Code == "tree.cycle" && (len(r.LostFound) != 1 || !strings.HasPrefix(r.LostFound[0], "/lost+found/")) {
					t.Errorf("lost+found: %v, want the directory", r.LostFound)
				}
			})
			m := boot(t, sh.mem, sh.blobs)
			if len(m.s.Damaged()) == 0 {
				storetest.Check(t, m.s)
			}
			if err := m.s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSalvageOfWhatIsWhole leaves the tree as it is, and begins its numbers anew.
func TestSalvageOfWhatIsWhole(t *testing.T) {
	sh := newShelf(t)
	m := boot(t, sh.mem, sh.blobs)
	want := contents(t, m.s)
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	sh.engine(t, func(db meta.Engine) {
		r, err := store.Salvage(ctx, store.SalvageOptions{Meta: db, Blobs: sh.blobs})
		if err != nil || r.Repaired > 0 || len(r.Restored)+len(r.LostFound)+len(r.Missing)+len(r.Unproven) > 0 || r.Files != int64(len(want)-1) { // one has two names
			t.Errorf("%+v, %v", r, err)
		}
	})
	m = boot(t, sh.mem, sh.blobs)
	defer m.s.Close()
	for path, hash := range contents(t, m.s) {
		if want[path] != hash {
			t.Errorf("%s is %s, want %s", path, hash, want[path])
		}
	}
	if a := put(t, m.s, "/new", []byte("new")); a.Ino < 1<<32 {
		t.Errorf("the next inode is %d, which may have been given before", a.Ino)
	}
}

// TestSalvagedContentIsSharedUntilWritten: a salvage finds two files with one blob that has
// changed since, so neither has checksums. A write to one must not show in the other.
func TestSalvagedContentIsSharedUntilWritten(t *testing.T) {
	sh := newShelf(t)
	m := boot(t, sh.mem, sh.blobs)
	if _, _, err := m.s.Clone(ctx, sh.files.Other, store.RootIno, "o2", store.CloneOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	old := sh.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	instant := time.Now()
	time.Sleep(50 * time.Millisecond)
	m = boot(t, sh.mem, sh.blobs)
	if err := m.s.Unlink(ctx, store.RootIno, "o2", nil); err != nil {
		t.Fatal(err)
	}
	_ = m.s.Quiesce(ctx)
	h, err := m.s.Open(ctx, sh.files.Other, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, []byte("changed"), 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	_ = m.s.Quiesce(ctx)
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	sh.mem = old
	sh.engine(t, func(db meta.Engine) {
		_, err := store.Salvage(ctx, store.SalvageOptions{Meta: db, Blobs: sh.blobs, Instant: instant})
		if err != nil {
			t.Fatal(err)
		}
	})
	m = boot(t, sh.mem, sh.blobs)
	defer m.s.Close()
	h, err = m.s.Open(ctx, sh.files.Other, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(ctx, []byte("ONLY IN O"), 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := m.s.LookupPath(ctx, "/o2")
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.s.OpenContent(ctx, a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 9)
	if _, err := c.ReadAt(b, 0); err != nil || string(b) == "ONLY IN O" {
		t.Errorf("the other file begins with %q, %v", b, err)
	}
	if problems, err := m.s.Check(ctx, store.CheckOptions{}); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}

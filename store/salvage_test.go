package store_test

import (
	"strings"
	"testing"

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

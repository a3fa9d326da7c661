package store_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/blob/local"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// shelf is a store that is closed: what Repair works on.
type shelf struct {
	mem   *vfs.MemFS
	blobs *storetest.MemBlobs
	files store.BrokenFiles
}

// newShelf returns a closed store with a little of everything.
func newShelf(t *testing.T) *shelf {
	t.Helper()
	sh := &shelf{mem: vfs.NewCrashableMem(), blobs: storetest.NewMemBlobs()}
	s := boot(t, sh.mem, sh.blobs).s
	f := &sh.files
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mkdir := func(p string) store.Ino {
		a, err := s.EnsureDirectory(ctx, p, store.NewNode{Mode: store.ModeDir | 0o755})
		must(err)
		return a.Ino
	}
	f.Dir, f.Sub = mkdir("/d"), mkdir("/d/s")
	f.Inline = put(t, s, "/d/i", []byte("inline")).Ino
	_, err := s.Link(ctx, f.Inline, store.RootIno, "l")
	must(err)
	f.Blob = put(t, s, "/d/b", pattern(200<<10, 1)).Ino
	f.Other = put(t, s, "/o", pattern(100<<10, 2)).Ino
	put(t, s, "/d/s/deep", pattern(70<<10, 3))
	f.Xattr = put(t, s, "/x", []byte("x")).Ino
	must(s.SetXattr(ctx, f.Xattr, "user.a", []byte("1"), 0))
	must(s.Quiesce(ctx))
	must(s.Close())
	return sh
}

// engine runs fn with the engine of the closed store.
func (sh *shelf) engine(t *testing.T, fn func(meta.Engine)) {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{FS: sh.mem, CacheSize: 1 << 20, MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	fn(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkShelf(t *testing.T, db meta.Engine, sh *shelf) []store.Finding {
	t.Helper()
	found, err := store.CheckEngine(ctx, db, sh.blobs, store.CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mustRepair repairs, and fails the test unless that leaves nothing, and a second
// repair has nothing to do.
func mustRepair(t *testing.T, db meta.Engine, sh *shelf) store.RepairReport {
	t.Helper()
	report, err := store.Repair(ctx, db, sh.blobs, store.RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Left {
		if f.Code != "content.unproven" { // a person is to know, once
			t.Errorf("left: %s", f)
		}
	}
	again, err := store.Repair(ctx, db, sh.blobs, store.RepairOptions{})
	if err != nil || len(again.Done) > 0 {
		t.Errorf("a second repair: %v, %v", again.Done, err)
	}
	return report
}

// contents returns the hash of every file's content, by path.
func contents(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(p string, dir store.Ino)
	walk = func(p string, dir store.Ino) {
		var entries []store.Dirent
		if err := s.ReadDir(ctx, dir, "", func(d store.Dirent) bool { entries = append(entries, d); return true }); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		for _, e := range entries {
			name := path.Join(p, e.Name)
			switch e.Type {
			case store.ModeDir:
				walk(name, e.Ino)
			case store.ModeRegular:
				all[name] = hashOf(s, e.Ino)
			}
		}
	}
	walk("/", store.RootIno)
	return all
}

func hashOf(s *store.Store, ino store.Ino) string {
	c, err := s.OpenContent(ctx, ino)
	if err != nil {
		return "unreadable"
	}
	defer c.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(c, 0, c.Attr().Size)); err != nil {
		return "unreadable"
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// TestCheckNamesWhatRepairMends breaks every invariant by itself.
func TestCheckNamesWhatRepairMends(t *testing.T) {
	missing := store.FixedCodes()
	for _, b := range store.Breakages() {
		missing = slices.DeleteFunc(missing, func(code string) bool { return code == b.Code })
		t.Run(b.Code, func(t *testing.T) {
			sh := newShelf(t)
			sh.engine(t, func(db meta.Engine) {
				if found := checkShelf(t, db, sh); len(found) > 0 {
					t.Fatalf("before: %v", found)
				}
				if err := db.Update(func(tx meta.Txn) error { return b.Break(tx, sh.files) }); err != nil {
					t.Fatal(err)
				}
				found := checkShelf(t, db, sh)
				if !slices.ContainsFunc(found, func(f store.Finding) bool { return f.Code == b.Code && f.Repairable }) {
					t.Fatalf("found %v", found)
				}
				for _, step := range mustRepair(t, db, sh).Done {
					t.Log(step)
				}
			})
			m := boot(t, sh.mem, sh.blobs)
			if len(m.s.Damaged()) == 0 { // else the check goes on to report that
				storetest.Check(t, m.s)
			}
			if err := m.s.Close(); err != nil {
				t.Error(err)
			}
			sh.engine(t, func(db meta.Engine) {
				for _, f := range checkShelf(t, db, sh) {
					t.Errorf("after a run: %s", f)
				}
			})
		})
	}
	if len(missing) > 0 {
		t.Errorf("no test breaks %q", missing)
	}
}

// TestRepairAfterRandomCorruption alters and deletes records at random, those
// of regular files apart: all of these are still there, with what was in them.
func TestRepairAfterRandomCorruption(t *testing.T) {
	rounds := 60
	if n, err := strconv.Atoi(os.Getenv("ENGRAMFS_CORRUPTIONS")); err == nil {
		rounds = n
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	records, steps := 0, 0
	for round := range rounds {
		rng := rand.New(rand.NewPCG(seed, uint64(round)))
		sh := newShelf(t)
		m := boot(t, sh.mem, sh.blobs)
		want := contents(t, m.s)
		if err := m.s.Close(); err != nil {
			t.Fatal(err)
		}
		var did []string
		sh.engine(t, func(db meta.Engine) {
			var err error
			if did, err = store.Corrupt(db, rng, 1+rng.IntN(12)); err != nil {
				t.Fatal(err)
			}
			steps += len(mustRepair(t, db, sh).Done)
		})
		records += len(did)
		m = boot(t, sh.mem, sh.blobs)
		storetest.Check(t, m.s)
		have := contents(t, m.s)
		for p, hash := range want {
			found := false
			for _, h := range have {
				found = found || h == hash
			}
			if !found {
				t.Errorf("round %d: %s is gone; there are %v", round, p, have)
			}
		}
		if err := m.s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("corrupted: %s", strings.Join(did, "\n"))
		}
	}
	t.Logf("%d rounds, %d records corrupted, %d repairs, 0 files lost", rounds, records, steps)
}

// TestRepairInterrupted ends a repair after each of its steps: the next one
// finishes it.
func TestRepairInterrupted(t *testing.T) {
	for n := 1; ; n++ {
		sh := newShelf(t)
		stopped := false
		sh.engine(t, func(db meta.Engine) {
			if _, err := store.Corrupt(db, rand.New(rand.NewPCG(7, 7)), 12); err != nil {
				t.Fatal(err)
			}
			_, err := store.Repair(ctx, &failingEngine{Engine: db, left: n}, sh.blobs, store.RepairOptions{})
			if stopped = errors.Is(err, errStop); !stopped && err != nil {
				t.Fatal(err)
			}
			mustRepair(t, db, sh)
		})
		if !stopped {
			if n < 5 {
				t.Errorf("only %d steps", n)
			}
			return
		}
	}
}

var errStop = errors.New("stopped")

// failingEngine fails after some updates.
type failingEngine struct {
	meta.Engine
	left int
}

func (e *failingEngine) Update(fn func(meta.Txn) error) error {
	if e.left--; e.left < 0 {
		return errStop
	}
	return e.Engine.Update(fn)
}

// TestCheckReadsContent finds a flipped bit if it is told to read.
func TestCheckReadsContent(t *testing.T) {
	sh := newShelf(t)
	sh.blobs.Flip(sh.blobs.IDs()[0], 5)
	sh.engine(t, func(db meta.Engine) {
		if found := checkShelf(t, db, sh); len(found) > 0 {
			t.Errorf("without reading: %v", found)
		}
		found, err := store.CheckEngine(ctx, db, sh.blobs, store.CheckOptions{Content: true})
		if err != nil || len(found) != 1 || found[0].Code != "content.damaged" || found[0].Repairable {
			t.Errorf("found %v, %v", found, err)
		}
	})
}

// TestRepairListsMissingContent keeps a file that has lost its content.
func TestRepairListsMissingContent(t *testing.T) {
	sh := newShelf(t)
	for _, id := range sh.blobs.IDs() {
		if err := sh.blobs.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	sh.engine(t, func(db meta.Engine) { mustRepair(t, db, sh) })
	m := boot(t, sh.mem, sh.blobs)
	defer m.s.Close()
	damaged := m.s.Damaged()
	if len(damaged) != 3 {
		t.Errorf("damaged: %v, want 3 files", damaged)
	}
	if a, err := m.s.LookupPath(ctx, "/d/b"); err != nil || a.Size != 200<<10 {
		t.Errorf("/d/b: %d bytes, %v", a.Size, err)
	}
	if _, err := m.s.LookupPath(ctx, "/lost+found"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lost+found: %v, want none", err)
	}
	if !bytes.Equal(get(t, m.s, "/d/i"), []byte("inline")) {
		t.Error("/d/i is not what it was")
	}
}

// TestOldLabelProvesNoSize cuts content to what it was before something was appended, of
// which its label, not yet renewed, is still that: the file has not become shorter.
func TestOldLabelProvesNoSize(t *testing.T) {
	dir, mem := t.TempDir(), vfs.NewMem()
	s := openLocal(t, dir, mem, store.Options{})
	put(t, s, "/f", pattern(100_000, 1))
	wantLabel(t, s, dir, "/f")
	id := blob.ID(s.BlobOf(lookup(s, "/f").Ino))
	before := labelText(t, dir, id)
	h := open(t, s, "/f", true)
	write(t, h, pattern(50_000, 2), 100_000)
	if err := errors.Join(h.Close(), s.Quiesce(ctx), s.Close()); err != nil {
		t.Fatal(err)
	}
	blobs, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	f, err := blobs.Open(id, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(100_000), f.(blob.Labeler).SetLabel([]byte(before)), f.Close()); err != nil {
		t.Fatal(err)
	}
	db := openMeta(t, mem)
	r, err := store.Repair(ctx, db, blobs, store.RepairOptions{})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if len(r.Done) != 1 || !strings.Contains(r.Done[0].Action, "damage") {
		t.Errorf("done: %v", r.Done)
	}
	s = openOn(t, mem, blobs)
	defer s.Close()
	if d := s.Damaged(); len(d) != 1 || d[0].Offset != 100_000 || d[0].Length != 50_000 || lookup(s, "/f").Size != 150_000 {
		t.Errorf("%+v, damaged: %+v", lookup(s, "/f"), d)
	}
}

// TestRepairTakesAsLongAsThereIsDamage repairs a store in which nearly everything is
// wrong: four times as much of it makes no more than about four times the work.
func TestRepairTakesAsLongAsThereIsDamage(t *testing.T) {
	work := func(n int) int64 {
		sh := &shelf{mem: vfs.NewCrashableMem(), blobs: storetest.NewMemBlobs()}
		s := boot(t, sh.mem, sh.blobs).s
		for i := range n {
			dir := fmt.Sprintf("/d%d", i)
			if _, err := s.EnsureDirectory(ctx, dir, store.NewNode{Mode: store.ModeDir | 0o755}); err != nil {
				t.Fatal(err)
			}
			a := put(t, s, dir+"/f", pattern(17<<10, byte(i)))
			if _, err := s.Link(ctx, a.Ino, store.RootIno, fmt.Sprint("l", i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var scanned int64
		sh.engine(t, func(db meta.Engine) {
			if err := store.Devastate(db); err != nil {
				t.Fatal(err)
			}
			report, err := store.Repair(ctx, &scanCounter{db, &scanned}, sh.blobs, store.RepairOptions{})
			if err != nil || len(report.Left) > 0 || len(report.Done) < 3*n {
				t.Fatalf("%d repairs, left %v, %v", len(report.Done), report.Left, err)
			}
		})
		return scanned
	}
	few, many := work(25), work(100)
	t.Logf("25 of each: %d records read, 100: %d", few, many)
	if many > 6*few {
		t.Errorf("%d records read for 4 times the damage of %d", many, few)
	}
}

// scanCounter counts the records that scans of an engine come across.
type scanCounter struct {
	meta.Engine
	n *int64
}

func (e *scanCounter) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	return scanCounting(e.Engine, e.n, lo, hi, fn)
}

func (e *scanCounter) View(fn func(meta.Reader) error) error {
	return e.Engine.View(func(r meta.Reader) error { return fn(&countingReader{r, e.n}) })
}

func (e *scanCounter) Update(fn func(meta.Txn) error) error {
	return e.Engine.Update(func(tx meta.Txn) error { return fn(&countingTxn{tx, e.n}) })
}

type countingReader struct {
	meta.Reader
	n *int64
}

func (r *countingReader) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	return scanCounting(r.Reader, r.n, lo, hi, fn)
}

type countingTxn struct {
	meta.Txn
	n *int64
}

func (t *countingTxn) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	return scanCounting(t.Txn, t.n, lo, hi, fn)
}

func scanCounting(r meta.Reader, n *int64, lo, hi []byte, fn func(key, value []byte) bool) error {
	return r.Scan(lo, hi, func(key, value []byte) bool {
		*n++
		return fn(key, value)
	})
}

// TestRepairGivesNoVersionTwice: no version of a repair is one that the store gives
// before or after it, so that no ETag ever means two contents.
func TestRepairGivesNoVersionTwice(t *testing.T) {
	sh := newShelf(t)
	seen := map[uint64]string{}
	look := func(when string) {
		t.Helper()
		m := boot(t, sh.mem, sh.blobs)
		a, err := m.s.LookupPath(ctx, "/d")
		if err != nil {
			t.Fatal(err)
		}
		if old := seen[a.Version]; old != "" {
			t.Errorf("version %d is that %s, and that %s", a.Version, old, when)
		}
		seen[a.Version] = when
		put(t, m.s, "/d/"+when, []byte(when))
		if a, err = m.s.LookupPath(ctx, "/d"); err != nil {
			t.Fatal(err)
		}
		if old := seen[a.Version]; old != "" {
			t.Errorf("version %d is that %s, and that of a write %s", a.Version, old, when)
		}
		seen[a.Version] = "of a write " + when
		if err := m.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	look("before")
	all := store.Breakages()
	links := all[slices.IndexFunc(all, func(b store.Breakage) bool { return b.Code == "inode.links" })]
	for i := range 3 {
		sh.engine(t, func(db meta.Engine) {
			if err := db.Update(func(tx meta.Txn) error { return links.Break(tx, sh.files) }); err != nil {
				t.Fatal(err)
			}
			mustRepair(t, db, sh)
		})
		look(fmt.Sprintf("after repair %d", i))
	}
}

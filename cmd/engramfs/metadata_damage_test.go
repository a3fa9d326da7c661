package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/meta"
)

// Damage that a start meets only when it has begun to serve, because the engine is large,
// is mended by the next one at the latest.
func TestDamageThatIsMetLateIsMended(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.populate(rand.New(rand.NewPCG(3, 3)))
	x.waitCopied()
	want := x.tree()
	x.close()
	now, later := 0, 0
	for _, pattern := range []string{"*.sst", "*.blob"} {
		names, err := filepath.Glob(filepath.Join(x.dir, metaDir, pattern))
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		for i := range 4 {
			if x.metLate(want, filepath.Base(names[0]), i*500+10) {
				later++
			} else {
				now++
			}
		}
	}
	if now == 0 || later == 0 {
		t.Errorf("%d flips were found by the start that met them, %d by the next: want some of both", now, later)
	}
}

// metLate flips a bit in a copy of the site, and starts it with no time to verify. It
// reports whether it took another start to mend that.
func (x *site) metLate(want map[string]string, table string, at int) (later bool) {
	t := x.t
	t.Helper()
	y := newSite(t, filepath.Join(t.TempDir(), "data"))
	copyTree(t, x.dir, y.dir)
	flipBit(t, filepath.Join(y.dir, metaDir, table), at, 4)
	y.verify = time.Nanosecond
	y.mustOpen()
	if y.meta.salvaged == "" {
		later = true
		for end := time.Now().Add(30 * time.Second); y.meta.damage.Load() == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("byte %d of %s: the flip is not found", at, table)
			}
		}
		y.close()
		y.mustOpen()
	}
	same(t, want, y.tree(), at)
	y.check()
	if y.meta.salvaged == "" {
		t.Errorf("byte %d of %s: the flip is not mended", at, table)
	}
	y.close()
	y.mustOpen()
	defer y.close()
	if _, err := os.Stat(filepath.Join(y.dir, suspectFile)); y.meta.salvaged != "" || err == nil {
		t.Errorf("byte %d of %s: still suspected: %q", at, table, y.meta.salvaged)
	}
	return later
}

// synced returns the newest log of the engine and how much of it is known to be synced.
func (x *site) synced() (name string, n int) {
	x.t.Helper()
	b, err := os.ReadFile(filepath.Join(x.dir, metaDir, "log.seal"))
	if err != nil {
		x.t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(b), "v1 %s %d", &name, &n); err != nil {
		x.t.Fatalf("log.seal %q: %v", b, err)
	}
	return name, n
}

// cutOff puts five small files, then five more, and returns a copy of the folder as a
// process that was killed leaves it, with a bad bit between the two in the engine's log.
func (x *site) cutOff() *site {
	x.t.Helper()
	put := func(from, to int) {
		for i := from; i < to; i++ {
			x.put(fmt.Sprintf("/late%d", i), fmt.Appendf(nil, "late %d", i), time.Unix(int64(5000+i), 0))
		}
	}
	put(0, 5)
	log, at := x.synced()
	put(5, 10)
	if now, end := x.synced(); now != log || end <= at+50 {
		x.t.Fatalf("synced: %d bytes of %s, then %d of %s", at, log, end, now)
	}
	y := newSite(x.t, filepath.Join(x.t.TempDir(), "cut"))
	copyTree(x.t, x.dir, y.dir)
	flipBit(x.t, filepath.Join(y.dir, metaDir, log), at+50, 3)
	return y
}

// cutOffWithoutCopy is cutOff of a site that keeps no second copy.
func cutOffWithoutCopy(t *testing.T) *site {
	t.Helper()
	x := newSite(t, t.TempDir())
	x.copy = ""
	x.mustOpen()
	defer x.close()
	y := x.cutOff()
	y.copy = ""
	return y
}

// wantLate checks that a site has what was put before the bad bit, and says what is lost.
func (x *site) wantLate() {
	x.t.Helper()
	x.check()
	tree := x.tree()
	for i := range 10 {
		if got := tree[fmt.Sprintf("/late%d", i)]; (got != "") != (i < 5) {
			x.t.Errorf("late%d is %q", i, got)
		}
	}
	r := x.report()
	if r.Engine == nil || r.Engine.Lost == 0 || time.Since(r.Engine.Instant) > time.Hour || r.Refused == "" {
		x.t.Errorf("report: %+v", r)
	}
	if len(x.meta.notes()) == 0 || !strings.Contains(x.meta.salvaged, "bytes are lost") {
		x.t.Errorf("notes: %q", x.meta.notes())
	}
	if history, err := x.s.History(0, 1); err != nil || len(history) != 1 || history[0].Kind != store.SalvageEvent {
		x.t.Errorf("history: %+v %v", history, err)
	}
}

// A store that keeps no copy, and is killed, loses no more than what follows a bad bit
// in its log, and says so.
func TestBadLogWithoutACopy(t *testing.T) {
	y := cutOffWithoutCopy(t)
	y.mustOpen()
	y.wantLate()
	y.close()
	y.mustOpen() // the next start has nothing to salvage
	defer y.close()
	if y.meta.salvaged != "" {
		t.Errorf("salvaged once more: %s", y.meta.salvaged)
	}
}

// A salvage that is cut off between putting the old engine aside and putting the new one
// in its place is begun anew.
func TestSalvageThatWasCutOff(t *testing.T) {
	y := cutOffWithoutCopy(t)
	y.mustOpen()
	y.close()
	reports, _ := filepath.Glob(filepath.Join(y.dir, reportPrefix+"*"))
	if len(reports) != 1 {
		t.Fatalf("reports: %v, want one", reports)
	}
	refused := y.report().Refused
	if err := errors.Join(os.Remove(reports[0]), os.Rename(filepath.Join(y.dir, metaDir), filepath.Join(y.dir, cutMetaDir)),
		os.Rename(filepath.Join(y.dir, refused), filepath.Join(y.dir, metaDir))); err != nil {
		t.Fatal(err)
	}
	if _, err := y.meta.putAside(refused); err != nil {
		t.Fatal(err)
	}
	y.mustOpen()
	defer y.close()
	y.wantLate()
	if _, err := os.Stat(filepath.Join(y.dir, asideFile)); err == nil {
		t.Errorf("%s is still there", asideFile)
	}
}

// What an earlier salvage has replaced is not put back when a later one, of an engine
// that is gone, is cut off.
func TestReplacedEngineStaysReplaced(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.copy = ""
	x.mustOpen()
	defer x.close()
	y := x.cutOff()
	y.mustOpen()
	y.put("/since", []byte("since"), time.Time{})
	y.waitCopied()
	y.close()
	if err := errors.Join(os.RemoveAll(filepath.Join(y.dir, metaDir)), os.Mkdir(filepath.Join(y.dir, newMetaDir), 0o700)); err != nil {
		t.Fatal(err)
	}
	y.mustOpen()
	defer y.close()
	if y.tree()["/since"] == "" {
		t.Errorf("what was put since the first salvage is gone: %s", y.meta.salvaged)
	}
}

// One bad block of an engine that can be read is no reason to take a copy that has not
// been written for long, whether it is met before the store is served or later.
func TestBadBlockWithAnOldCopy(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.populate(rand.New(rand.NewPCG(3, 3)))
	x.waitCopied()
	x.close()
	dir := x.copy
	x.copy = "" // it can no longer be written
	x.mustOpen()
	x.put("/mid", []byte("mid"), time.Time{})
	x.close()
	x.copy = dir
	values, err := filepath.Glob(filepath.Join(x.dir, metaDir, "*.blob"))
	if err != nil || len(values) == 0 {
		t.Fatal(values, err)
	}
	flipBit(t, values[0], 1510, 4)
	for _, verify := range []time.Duration{0, time.Nanosecond, 0} {
		x.verify = verify
		x.mustOpen()
		for end := time.Now().Add(30 * time.Second); x.meta.damage.Load() == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the flip is not found")
			}
		}
		if x.tree()["/mid"] == "" || x.meta.salvaged != "" {
			t.Errorf("/mid is gone: %s", x.meta.salvaged)
		}
		if _, err := os.Stat(filepath.Join(x.dir, suspectFile)); err == nil {
			t.Error("suspected, though no start can mend it")
		}
		if notes := x.meta.notes(); verify == 0 && (len(notes) != 1 || !strings.Contains(notes[0], "the second copy ")) {
			t.Errorf("notes: %q", notes)
		}
		x.close()
	}
}

// A copy with a gap is no match for the engine up to the damage in its log, though the
// copy's last change is newer.
func TestBadLogWithACopyThatHasAGap(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.put("/kept", []byte("kept"), time.Time{})
	x.waitCopied()
	x.close()
	dir := x.copy
	x.copy = ""
	x.mustOpen()
	x.put("/gap", []byte("gap"), time.Time{})
	x.close()
	x.copy = dir
	blockSnapshots(t, dir)
	x.mustOpen()
	defer x.close()
	y := x.cutOff()
	y.mustOpen()
	defer y.close()
	y.wantLate()
	if y.tree()["/gap"] == "" {
		t.Error("/gap is gone")
	}
}

// blockSnapshots makes every snapshot of the copy fail.
func blockSnapshots(t *testing.T, dir string) {
	t.Helper()
	for i := range 60 {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("snapshot-%016x.tmp", i), "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// An older copy is not taken because the engine cannot be read for another reason than
// damage.
func TestCutThatFailsIsNoDamage(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.close()
	if err := os.Symlink("000999.log", filepath.Join(x.dir, metaDir, "000999.log")); err != nil {
		t.Fatal(err)
	}
	_, err := x.meta.cut(t.Context(), &meta.CorruptError{}, nil, &salvageReport{})
	if !errors.Is(err, syscall.ELOOP) {
		t.Errorf("cut: %v, want ELOOP", err)
	}
}

// A copy that has not been written for long is worse than an engine without its end.
func TestBadLogWithAnOldCopy(t *testing.T) {
	x := newSite(t, t.TempDir())
	x.mustOpen()
	x.put("/kept", []byte("kept"), time.Time{})
	x.waitCopied()
	x.close()
	x.copy = "" // it can no longer be written
	x.mustOpen()
	defer x.close()
	y := x.cutOff()
	y.mustOpen()
	defer y.close()
	y.wantLate()
	if y.tree()["/kept"] == "" {
		t.Error("/kept is gone")
	}
}

// TestSalvageTrials deletes the engine, or flips one byte anywhere in it, and starts
// once. ENGRAMFS_SALVAGE_TRIALS says how often; a store that was closed and one that was
// cut off take turns.
func TestSalvageTrials(t *testing.T) {
	trials := 30
	if v := os.Getenv("ENGRAMFS_SALVAGE_TRIALS"); v != "" {
		var err error
		if trials, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(11, uint64(trials)))
	closed, cut := filepath.Join(t.TempDir(), "closed"), filepath.Join(t.TempDir(), "cut")
	x := newSite(t, filepath.Join(t.TempDir(), "data"))
	x.mustOpen()
	x.populate(rnd)
	if err := x.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := x.tree()
	x.waitCopied()
	copyTree(t, x.dir, cut)
	x.close()
	copyTree(t, x.dir, closed)
	salvaged, harmless := 0, 0
	for i := range trials {
		dir := filepath.Join(t.TempDir(), "trial")
		copyTree(t, []string{closed, cut}[i%2], dir)
		about := hurt(t, filepath.Join(dir, metaDir), i, rnd)
		y := newSite(t, dir)
		y.mustOpen()
		same(t, want, y.tree(), about)
		y.check()
		if y.meta.salvaged != "" {
			salvaged++
			if r := y.report(); len(r.Store.Missing) > 0 {
				t.Errorf("%s: missing %v", about, r.Store.Missing)
			}
		} else {
			harmless++
		}
		y.close()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("salvage: %d trials, %d salvaged, %d opened as they were, 0 files lost", trials, salvaged, harmless)
}

// hurt deletes the engine in every tenth trial, its logs in another, and otherwise flips
// one bit in it.
func hurt(t *testing.T, dir string, i int, rnd *rand.Rand) string {
	t.Helper()
	if i%10 == 9 {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		return "engine deleted"
	}
	if i%10 == 7 {
		logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		if len(logs) == 0 {
			t.Fatal("there are no logs")
		}
		for _, name := range logs {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		return "logs deleted"
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && fi.Size() > 0 {
			names = append(names, e.Name())
		}
	}
	name := filepath.Join(dir, names[rnd.IntN(len(names))])
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	at := rnd.IntN(int(fi.Size()))
	flipBit(t, name, at, rnd.IntN(8))
	return fmt.Sprintf("byte %d of %s", at, filepath.Base(name))
}

func flipBit(t *testing.T, name string, at, bit int) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1 << bit
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

package secondcopy_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"engramfs/store/meta"
	"engramfs/store/meta/metatest"
	"engramfs/store/meta/pebble"
	"engramfs/store/meta/secondcopy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var runKey = []byte("Mrun")

// place is an engine with a copy, in a folder each.
type place struct {
	t        *testing.T
	dir      string
	copy     string
	interval time.Duration
	buffer   int
	compact  int64
	retry    time.Duration
	now      func() time.Time // nil: time.Now
}

func newPlace(t *testing.T) *place {
	dir := t.TempDir()
	return &place{t: t, dir: filepath.Join(dir, "meta"), copy: filepath.Join(dir, "copy"), interval: time.Millisecond, retry: 5 * time.Millisecond}
}

func (p *place) inner() *pebble.DB {
	p.t.Helper()
	db, err := pebble.Open(p.dir, pebble.Options{Create: true, MemTableSize: 1 << 20, CacheSize: 1 << 20})
	if err != nil {
		p.t.Fatalf("open the engine: %v", err)
	}
	return db
}

// open opens both and begins a run, as the store does.
func (p *place) open() *secondcopy.Engine {
	p.t.Helper()
	e := secondcopy.Open(p.inner(), secondcopy.Options{
		Dir: p.copy, StateKey: runKey, Interval: p.interval, Buffer: p.buffer, CompactFrom: p.compact, Retry: p.retry, Now: p.now,
	})
	p.t.Cleanup(func() { _ = e.Close() })
	p.nextRun(e)
	return e
}

func (p *place) nextRun(e meta.Engine) {
	p.t.Helper()
	p.update(e, func(tx meta.Txn) {
		run, _ := tx.Get(runKey)
		n := uint64(0)
		if len(run) == 8 {
			n = binary.BigEndian.Uint64(run)
		}
		tx.Put(runKey, binary.BigEndian.AppendUint64(nil, n+1))
	})
}

func (p *place) update(e meta.Engine, fn func(meta.Txn)) {
	p.t.Helper()
	if err := e.Update(func(tx meta.Txn) error { fn(tx); return nil }); err != nil {
		p.t.Fatalf("Update: %v", err)
	}
}

// restored returns what the copy restores to.
func (p *place) restored() (map[string]string, secondcopy.Report) {
	p.t.Helper()
	db, err := pebble.Open(p.t.TempDir(), pebble.Options{Create: true, MemTableSize: 1 << 20, CacheSize: 1 << 20})
	if err != nil {
		p.t.Fatal(err)
	}
	defer db.Close()
	report, err := secondcopy.Restore(p.copy, db)
	if err != nil {
		p.t.Fatalf("Restore: %v", err)
	}
	return content(p.t, db), report
}

// content returns all keys but counters, which a copy may count twice.
func content(t *testing.T, r meta.Reader) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := r.Scan(nil, nil, func(key, value []byte) bool {
		if key[0] != 'c' {
			all[string(key)] = string(value)
		}
		return true
	}); err != nil {
		t.Fatalf("Scan: %v", err)
	}
	return all
}

func diff(want, got map[string]string) string {
	var b strings.Builder
	for k, v := range want {
		if g, ok := got[k]; !ok {
			fmt.Fprintf(&b, "%q is missing\n", k)
		} else if g != v {
			fmt.Fprintf(&b, "%q = %.40q, want %.40q\n", k, g, v)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			fmt.Fprintf(&b, "%q should not be there\n", k)
		}
	}
	return b.String()
}

// wait waits until the copy is Current as of now.
func wait(t *testing.T, e *secondcopy.Engine) {
	t.Helper()
	now := time.Now()
	for end := now.Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		st := e.Status()
		if st.State == secondcopy.Current && st.Instant.After(now) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the copy stays %+v", st)
		}
	}
}

func waitState(t *testing.T, e *secondcopy.Engine, want secondcopy.State) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); e.Status().State != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the copy stays %+v, want %s", e.Status(), want)
		}
	}
}

// mutate makes n random updates; values name their key, so that a mix-up shows.
func (p *place) mutate(e meta.Engine, rnd *rand.Rand, n int) {
	p.t.Helper()
	for range n {
		p.update(e, func(tx meta.Txn) {
			for range 1 + rnd.IntN(3) {
				key := fmt.Sprintf("k%04d", rnd.IntN(500))
				switch rnd.IntN(12) {
				case 0, 1:
					tx.Delete([]byte(key))
				case 2:
					lo := rnd.IntN(500)
					tx.DeleteRange(fmt.Appendf(nil, "k%04d", lo), fmt.Appendf(nil, "k%04d", lo+rnd.IntN(5)))
				case 3:
					tx.Add([]byte("counter"), int64(rnd.IntN(9)))
				default:
					tx.Put([]byte(key), fmt.Appendf(nil, "%s %d %s", key, rnd.Uint64(), strings.Repeat("x", rnd.IntN(3000))))
				}
			}
		})
	}
}

func TestEngineConformance(t *testing.T) {
	metatest.Run(t, func(t *testing.T) metatest.Harness {
		p := newPlace(t)
		return metatest.Harness{
			Open: func() (meta.Engine, error) {
				db, err := pebble.Open(p.dir, pebble.Options{Create: true, MemTableSize: 1 << 20, CacheSize: 1 << 20})
				if err != nil {
					return nil, err
				}
				return secondcopy.Open(db, secondcopy.Options{Dir: p.copy, StateKey: runKey, Interval: p.interval}), nil
			},
			OpenCheckpoint: func(dir string) (meta.Engine, error) { return pebble.Open(dir, pebble.Options{}) },
		}
	})
}

func TestRestoreEqualsEngine(t *testing.T) {
	p := newPlace(t)
	p.compact = 64 << 10 // many snapshots
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		e := p.open()
		p.mutate(e, rnd, 400)
		wait(t, e)
		p.mutate(e, rnd, 100)
		want := content(t, e)
		if err := e.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		got, report := p.restored()
		if d := diff(want, got); d != "" {
			t.Fatalf("restored:\n%s%+v", d, report)
		}
		if !report.Complete {
			t.Fatalf("report of an intact copy: %+v", report)
		}
	}
	e := p.open()
	defer e.Close()
	for end := time.Now().Add(20 * time.Second); ; {
		p.mutate(e, rnd, 100)
		left, _ := filepath.Glob(filepath.Join(p.copy, "snapshot-*[0-9]"))
		if len(left) == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("snapshots kept: %v, want 2", left)
		}
	}
}

func TestRestoreOfARunThatWasKilled(t *testing.T) {
	p := newPlace(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	e := p.open()
	p.mutate(e, rnd, 300)
	wait(t, e)
	want := content(t, e)
	// The process is gone: what is on the disk now is all there is.
	got, report := p.restored()
	if d := diff(want, got); d != "" {
		t.Fatalf("restored:\n%s%+v", d, report)
	}
	if time.Since(report.Instant) > time.Minute {
		t.Errorf("Instant = %s", report.Instant)
	}
}

func TestOrderlyRestartGoesOnWithTheLog(t *testing.T) {
	p := newPlace(t)
	e := p.open()
	wait(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	before, _ := filepath.Glob(filepath.Join(p.copy, "snapshot-*"))
	e = p.open()
	if st := e.Status(); st.State != secondcopy.Current {
		t.Fatalf("after an orderly restart the copy is %+v", st)
	}
	wait(t, e)
	after, _ := filepath.Glob(filepath.Join(p.copy, "snapshot-*"))
	if len(before) != 1 || len(after) != 1 {
		t.Errorf("snapshots: %v, then %v, want the same one", before, after)
	}
}

// A copy must not look as fresh as the future because the clock was set back.
func TestClockThatWasSetBack(t *testing.T) {
	p := newPlace(t)
	p.now = func() time.Time { return time.Now().Add(time.Hour) }
	e := p.open()
	wait(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, report := p.restored(); report.Instant.IsZero() || report.Instant.After(time.Now()) {
		t.Errorf("restored as of %s", report.Instant)
	}
	db := p.inner() // a run without a copy: the next one does not begin with a good one
	p.nextRun(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	p.now = nil
	e = p.open()
	if st := e.Status(); st.Instant.After(time.Now()) {
		t.Errorf("the copy is of %s, in %s", st.Instant, time.Until(st.Instant))
	}
	wait(t, e)
	if st := e.Status(); st.Instant.After(time.Now()) {
		t.Errorf("the copy is of %s, in %s", st.Instant, time.Until(st.Instant))
	}
}

func TestRunWithoutCopyIsNoticed(t *testing.T) {
	p := newPlace(t)
	e := p.open()
	wait(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	db := p.inner()
	p.nextRun(db)
	p.update(db, func(tx meta.Txn) { tx.Put([]byte("secret"), []byte("s")) })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	e = p.open()
	wait(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if got, report := p.restored(); got["secret"] != "s" {
		t.Errorf("what a run without a copy has written is missing: %+v", report)
	}
}

func TestCopyThatCannotKeepUpBeginsAnew(t *testing.T) {
	p := newPlace(t)
	p.buffer, p.interval = 4096, 5*time.Millisecond
	e := p.open()
	wait(t, e)
	before := e.Status().Snapshot
	p.update(e, func(tx meta.Txn) { tx.Put([]byte("big"), bytes.Repeat([]byte("b"), 8192)) })
	if st := e.Status(); st.State == secondcopy.Current && st.Snapshot.Equal(before) {
		t.Fatalf("an update was dropped and the copy is %+v", st)
	}
	p.update(e, func(tx meta.Txn) { tx.Put([]byte("small"), []byte("s")) })
	wait(t, e)
	want := content(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	got, report := p.restored()
	if d := diff(want, got); d != "" {
		t.Errorf("restored:\n%s%+v", d, report)
	}
}

func TestFailedFolderNeverFailsAnUpdate(t *testing.T) {
	p := newPlace(t)
	disk := filepath.Join(t.TempDir(), "disk")
	p.copy = filepath.Join(disk, "copy") // the disk is not mounted
	e := p.open()
	waitState(t, e, secondcopy.Failed)
	p.update(e, func(tx meta.Txn) { tx.Put([]byte("a"), []byte("1")) })
	if e.Status().Err == nil {
		t.Error("no reason is given")
	}
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	wait(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if got, _ := p.restored(); got["a"] != "1" {
		t.Errorf("restored %v", got)
	}
}

// TestRestoreAfterAnyFlip flips one byte anywhere in the copy. Whatever comes back
// was put once, and unless the report says that something is missing it is all there.
func TestRestoreAfterAnyFlip(t *testing.T) {
	p := newPlace(t)
	p.compact = 256 << 10
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 3 {
		e := p.open()
		p.mutate(e, rnd, 400)
		wait(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	want, _ := p.restored()
	files, _ := filepath.Glob(filepath.Join(p.copy, "*-*"))
	complete := 0
	for i := range 200 {
		name := files[i%len(files)]
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := rnd.IntN(len(b))
		bit := byte(1 << rnd.IntN(8))
		b[at] ^= bit
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, report := p.restored()
		if report.Complete {
			complete++
			if d := diff(want, got); d != "" {
				t.Fatalf("byte %d of %s flipped, nothing reported:\n%s%+v", at, name, d, report)
			}
		}
		for k, v := range got {
			if k[0] == 'k' && !strings.HasPrefix(v, k+" ") {
				t.Fatalf("byte %d of %s flipped: %q = %.40q", at, name, k, v)
			}
		}
		b[at] ^= bit
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if complete == 0 {
		t.Error("no flip was mended from an older snapshot")
	}
	t.Logf("200 flips in %d files: %d restored without a loss", len(files), complete)
}

func TestRestoreWithoutACopy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if secondcopy.Exists(dir) {
		t.Error("Exists of nothing")
	}
	if _, err := secondcopy.Restore(dir, nil); err == nil {
		t.Error("Restore of nothing succeeds")
	}
}

// The time of a copy ends where something is missing in it.
func TestInstantEndsAtAGap(t *testing.T) {
	p := newPlace(t)
	e := p.open()
	wait(t, e)
	before := time.Now()
	p.mutate(e, rand.New(rand.NewPCG(7, 8)), 100)
	wait(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, report := p.restored(); !report.Complete || report.Instant.Before(before) {
		t.Fatalf("report of an intact copy: %+v", report)
	}
	logs, _ := filepath.Glob(filepath.Join(p.copy, "log-*"))
	b, err := os.ReadFile(logs[len(logs)-1])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/4] ^= 1
	if err := os.WriteFile(logs[len(logs)-1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, report := p.restored(); report.Complete || report.Instant.After(before.Add(time.Since(before)/2)) {
		t.Errorf("bad from %s on: %+v", before, report)
	}
}

// A log is not stamped while what was written before it may be missing.
func TestNoStampWithoutASnapshot(t *testing.T) {
	p := newPlace(t)
	e := p.open()
	wait(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	db := p.inner() // a run without a copy
	p.nextRun(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	gap := time.Now()
	for i := range 60 { // no snapshot can be written
		if err := os.MkdirAll(filepath.Join(p.copy, fmt.Sprintf("snapshot-%016x.tmp", i), "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.retry = time.Hour
	for range 2 { // the second run reads how far the first one came
		e = p.open()
		p.update(e, func(tx meta.Txn) { tx.Put([]byte("late"), []byte("l")) })
		if st := e.Status(); st.State == secondcopy.Current || st.Instant.After(gap) {
			t.Errorf("something is missing since %s, and the copy is %+v", gap, st)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, report := p.restored(); report.Complete || report.Instant.After(gap) {
		t.Errorf("something is missing since %s: %+v", gap, report)
	}
}

// Updates of the time without stamps are stamped once a snapshot is there.
func TestStampsGoOnAfterASnapshot(t *testing.T) {
	p := newPlace(t)
	p.retry = 50 * time.Millisecond
	tmp := filepath.Join(p.copy, "snapshot-0000000000000002.tmp") // of the run's first snapshot
	if err := os.MkdirAll(filepath.Join(tmp, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	e := p.open()
	p.update(e, func(tx meta.Txn) { tx.Put([]byte("early"), []byte("e")) })
	written := time.Now()
	wait(t, e)
	time.Sleep(20 * time.Millisecond)
	if _, report := p.restored(); !report.Complete || report.Instant.Before(written) {
		t.Errorf("written before %s: %+v", written, report)
	}
}

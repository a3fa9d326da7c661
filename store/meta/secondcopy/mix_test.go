package secondcopy

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
)

var stateKey = []byte("Mrun")

func newPebble(t *testing.T) *pebble.DB {
	t.Helper()
	db, err := pebble.Open(filepath.Join(t.TempDir(), "meta"), pebble.Options{Create: true, MemTableSize: 1 << 20, CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func put(t *testing.T, e meta.Engine, key, value string) {
	t.Helper()
	if err := e.Update(func(tx meta.Txn) error { tx.Put([]byte(key), []byte(value)); return nil }); err != nil {
		t.Fatal(err)
	}
}

// stepped is a copy whose goroutines do not run: the test does what they do.
func stepped(t *testing.T, db meta.Engine, dir string) *Engine {
	t.Helper()
	e := &Engine{Engine: db, o: Options{Dir: dir, StateKey: stateKey, Buffer: 4096}.withDefaults(), run: rand.Uint64(), seq: 1}
	e.kick, e.snap = make(chan struct{}, 1), make(chan struct{}, 1)
	e.w = &writer{e: e}
	e.begin()
	if e.err != nil {
		t.Fatal(e.err)
	}
	t.Cleanup(e.w.close)
	return e
}

// rotatedWith begins a new log; meanwhile fn runs while the old one is written.
func rotatedWith(t *testing.T, e *Engine, fn func()) uint64 {
	t.Helper()
	e.w.settle()
	at := e.w.write(true)
	fn()
	n, err := e.w.next(at)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func takeSnapshot(t *testing.T, e *Engine, n uint64) {
	t.Helper()
	if _, err := e.writeSnapshot(t.Context(), n, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// restoredFrom returns what a copy has.
func restoredFrom(t *testing.T, dir string) (map[string]string, Report) {
	t.Helper()
	db := newPebble(t)
	report, err := Restore(dir, db)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := db.Scan(nil, nil, func(key, value []byte) bool { got[string(key)] = string(value); return true }); err != nil {
		t.Fatal(err)
	}
	return got, report
}

// When the disk is slow at the moment of a new log, and more comes in than the buffer
// takes, then what fits is not put over the snapshot, which has what follows it.
func TestLossWhileALogIsBegun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "copy")
	e := stepped(t, newPebble(t), dir)
	n := rotatedWith(t, e, func() {
		put(t, e, "a", "old")
		put(t, e, "big", string(bytes.Repeat([]byte("b"), 8000)))
		put(t, e, "a", "new")
	})
	takeSnapshot(t, e, n)
	put(t, e, "later", "l")
	e.w.finish()
	got, report := restoredFrom(t, dir)
	if got["a"] != "new" || got["later"] != "l" || !report.Complete {
		t.Errorf("a = %q, later = %q, %+v", got["a"], got["later"], report)
	}
}

// A log that breaks off behind a snapshot of its number, as after a power cut, does not
// put back what the snapshot has newer.
func TestLogThatBreaksOffBeforeItsSnapshot(t *testing.T) {
	for _, hole := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "copy")
		e := stepped(t, newPebble(t), dir)
		put(t, e, "z", "oldest")
		takeSnapshot(t, e, rotatedWith(t, e, func() {}))
		n := rotatedWith(t, e, func() {})
		put(t, e, "a", "old")
		put(t, e, "z", "old")
		e.w.write(false)
		if !hole {
			put(t, e, "a", "new") // never reaches the disk
		}
		takeSnapshot(t, e, n)
		if hole {
			damageBlock(t, filepath.Join(dir, snapshotName(n)))
		}
		want := map[bool]string{false: "new", true: "old"}[hole]
		got, report := restoredFrom(t, dir)
		if got["a"] != want || got["z"] != "old" || !report.Complete {
			t.Errorf("hole=%t: a = %q, want %q, z = %q, %+v", hole, got["a"], want, got["z"], report)
		}
	}
}

// damageBlock flips a bit of the first block of a snapshot.
func damageBlock(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[headerSize+frameSize+1] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A hole in the newest snapshot is not said to be filled if updates were lost between it
// and the one before, or if there is none before.
func TestHoleThatCannotBeFilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "copy")
	db := newPebble(t)
	put(t, db, "before", "the first copy")
	e := stepped(t, db, dir)
	n := rotatedWith(t, e, func() {})
	takeSnapshot(t, e, n)
	damageBlock(t, filepath.Join(dir, snapshotName(n)))
	if got, report := restoredFrom(t, dir); report.Complete {
		t.Errorf("hole in the only snapshot: %v, %+v", got, report)
	}
	takeSnapshot(t, e, n)
	put(t, e, "lost", string(bytes.Repeat([]byte("b"), 8000)))
	n = rotatedWith(t, e, func() {})
	takeSnapshot(t, e, n)
	if got, report := restoredFrom(t, dir); !report.Complete || got["lost"] == "" {
		t.Errorf("two good snapshots: %v, %+v", got, report)
	}
	damageBlock(t, filepath.Join(dir, snapshotName(n)))
	if _, report := restoredFrom(t, dir); report.Complete {
		t.Errorf("hole in the second snapshot: %+v", report)
	}
}

// A file that has the name of another one is not taken for it.
func TestFilesThatWereMixedUp(t *testing.T) {
	for _, name := range []func(uint64) string{logName, snapshotName} {
		dir := filepath.Join(t.TempDir(), "copy")
		e := stepped(t, newPebble(t), dir)
		var all []uint64
		for i := range 2 {
			put(t, e, "a", fmt.Sprint(i))
			all = append(all, rotatedWith(t, e, func() {}))
			takeSnapshot(t, e, all[i])
		}
		put(t, e, "a", "last")
		e.w.finish()
		if got, report := restoredFrom(t, dir); got["a"] != "last" || !report.Complete {
			t.Fatalf("as it was: %v, %+v", got, report)
		}
		old, newest := filepath.Join(dir, name(all[0])), filepath.Join(dir, name(all[1]))
		if err := errors.Join(os.Remove(newest), os.Link(old, newest)); err != nil {
			t.Fatal(err)
		}
		got, report := restoredFrom(t, dir)
		if report.Complete && got["a"] != "last" || len(report.Gaps) == 0 {
			t.Errorf("%s in the place of %s: %v, %+v", old, newest, got, report)
		}
		if tail, err := readTail(dir, all[1]); name(1) == logName(1) && err == nil {
			t.Errorf("the tail of another log is read: %+v", tail)
		}
	}
}

// An update of somebody who was cut off, which comes after the writer's end, is in the
// engine alone: the next run must know.
func TestUpdateAfterTheWritersEnd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "copy")
	db := newPebble(t)
	put(t, db, string(stateKey), "run 1")
	e := Open(db, Options{Dir: dir, StateKey: stateKey, Interval: time.Millisecond})
	for end := time.Now().Add(20 * time.Second); e.Status().State != Current; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the copy stays %+v", e.Status())
		}
	}
	e.cancel()
	e.done.Wait()
	put(t, e, "late", "l")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := readFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if tail, err := readTail(dir, f.last()); err != nil || tail.closed {
		t.Errorf("the log says that it is whole: %+v, %v", tail, err)
	}
}

// unread is an engine that cannot be read as a whole.
type unread struct {
	meta.Engine
	err   error // nil: it panics
	views atomic.Int64
}

func (u *unread) View(fn func(meta.Reader) error) error {
	return u.Engine.View(func(r meta.Reader) error { return fn(unreadView{r, u}) })
}

type unreadView struct {
	meta.Reader
	u *unread
}

func (v unreadView) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	v.u.views.Add(1)
	if v.u.err == nil {
		panic("block cannot be parsed")
	}
	return v.u.err
}

// An engine that cannot be read as a whole, or panics, ends nothing, and is read less and
// less often.
func TestEngineThatCannotBeRead(t *testing.T) {
	for _, bad := range []error{&meta.CorruptError{Err: errors.New("bad block")}, nil} {
		u := &unread{Engine: newPebble(t), err: bad}
		e := Open(u, Options{Dir: filepath.Join(t.TempDir(), "copy"), StateKey: stateKey, Interval: time.Hour, Retry: 10 * time.Millisecond})
		time.Sleep(400 * time.Millisecond)
		if st := e.Status(); st.State != Behind {
			t.Errorf("the copy is %+v", st)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if n := u.views.Load(); n < 2 || n > 8 { // after 0, 10, 30, 70, 150 and 310 ms
			t.Errorf("read %d times, want about 6", n)
		}
	}
}

// Two engines with one folder would remove each other's files: the second one waits.
func TestFolderOfAnotherEngine(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "copy"), StateKey: stateKey, Interval: time.Millisecond, Retry: 5 * time.Millisecond}
	waitFor := func(e *Engine, want State) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); e.Status().State != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the copy stays %+v, want %s", e.Status(), want)
			}
		}
	}
	first := Open(newPebble(t), o)
	waitFor(first, Current)
	second := Open(newPebble(t), o)
	defer second.Close()
	put(t, second, "mine", "m")
	time.Sleep(50 * time.Millisecond)
	waitFor(second, Failed)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(second, Current)
	if got, _ := restoredFrom(t, o.Dir); got["mine"] != "m" {
		t.Errorf("restored %v", got)
	}
}

// What a kill has left of a snapshot is removed by the next run.
func TestCutOffSnapshotIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "copy")
	name := filepath.Join(dir, snapshotName(7)+tmpSuffix)
	foreign := filepath.Join(dir, "thesis.tmp") // the folder may be one that others use, too
	err := os.Mkdir(dir, 0o700)
	for _, file := range []string{name, foreign} {
		err = errors.Join(err, os.WriteFile(file, []byte("half"), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	stepped(t, newPebble(t), dir)
	if f, err := readFolder(dir); err != nil || slices.Contains(f.cutOff, filepath.Base(name)) {
		t.Errorf("left: %v, %v", f.cutOff, err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("a file that is not the copy's is gone: %v", err)
	}
}

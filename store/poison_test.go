package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/internal/logbuf"
	"engramfs/store"
	"engramfs/store/poison"
	"engramfs/store/storetest"
)

// arm arms a drill or fails the test.
func arm(t testing.TB, s *store.Store, path, point, cause string) {
	t.Helper()
	if err := s.ArmFault(ctx, path, point, cause); err != nil {
		t.Fatalf("ArmFault(%s, %s, %s): %v", path, point, cause, err)
	}
}

// within runs fn on a goroutine of its own, which may exit, and fails the test if it hangs.
func within(t testing.TB, fn func()) (exited bool) {
	t.Helper()
	done := make(chan bool, 1)
	go func() {
		exited := true
		defer func() { done <- exited }()
		fn()
		exited = false
	}()
	select {
	case exited = <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("operation hangs")
	}
	return exited
}

// poisonFile poisons the inode of path by a write that dies.
func poisonFile(t testing.TB, s *store.Store, path string) store.LockStatus {
	t.Helper()
	a, err := s.LookupPath(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	arm(t, s, path, "", "panic")
	mode := a.Mode
	_, err = s.SetAttr(ctx, a.Ino, store.SetAttr{Mode: &mode})
	wantErr(t, "the change that panics", err, store.ErrPoisoned)
	st, err := s.LockStatus(store.InodeLock(a.Ino))
	if err != nil || st.State != "poisoned" {
		t.Fatalf("lock %+v, %v, want poisoned", st, err)
	}
	return st
}

func reset(t testing.TB, s *store.Store, st store.LockStatus) *store.ResetReport {
	t.Helper()
	r, err := s.ResetLock(ctx, st.Name, st.Gen, false)
	if err != nil {
		t.Fatalf("ResetLock(%s, %d): %v (report %+v)", st.Name, st.Gen, err, r)
	}
	return r
}

func TestPoisonedInodeRefusesWritesAndServesReads(t *testing.T) {
	var log logbuf.Buffer
	s, _ := storetest.NewWith(t, store.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	mkdir(t, s, "/photos")
	put(t, s, "/photos/a", []byte("alpha"))
	put(t, s, "/photos/b", []byte("beta"))
	st := poisonFile(t, s, "/photos/a")

	_, err := tryPut(s, "/photos/a", []byte("new"))
	wantErr(t, "write", err, store.ErrPoisoned)
	var pe *poison.Error
	if !errors.As(err, &pe) || pe.Ev.Lock != st.Name || pe.Ev.Gen != st.Gen {
		t.Errorf("error %v does not carry lock %s and generation %d", err, st.Name, st.Gen)
	}
	if strings.Contains(err.Error(), "goroutine ") {
		t.Error("the error shows a stack")
	}
	if now, _ := s.LockStatus(st.Name); now.WritesRejected != st.WritesRejected+1 {
		t.Errorf("%d writes refused, want %d", now.WritesRejected, st.WritesRejected+1)
	}
	tctx, trace := store.WithTrace(ctx)
	got, err := tryGet(tctx, s, "/photos/a")
	if err != nil || string(got) != "alpha" {
		t.Errorf("read %q, %v", got, err)
	}
	if ev := trace.Recovered(); len(ev) != 1 || ev[0].Lock != st.Name {
		t.Errorf("trace %v does not say that %s was recovered", ev, st.Name)
	}
	if out := log.String(); !strings.Contains(out, "lock poisoned") || !strings.Contains(out, "lock="+st.Name) || !strings.Contains(out, "op=get_attr") {
		t.Errorf("no warning with lock and op in the log:\n%s", out)
	}
	for _, p := range []string{"/photos/b", "/photos/new"} {
		if _, err := tryPut(s, p, []byte("x")); err != nil {
			t.Errorf("sibling %s: %v", p, err)
		}
	}
	tctx, trace = store.WithTrace(ctx)
	if _, err := tryGet(tctx, s, "/photos/b"); err != nil || trace.Recovered() != nil {
		t.Errorf("sibling read: %v, trace %v", err, trace.Recovered())
	}

	wantErr(t, "unlink", unlink(s, "/photos/a"), store.ErrPoisoned)
	wantErr(t, "remove the tree around it", s.RemoveAll(ctx, store.RootIno, "photos", nil), store.ErrPoisoned)
	if _, err := s.Rename(ctx, store.RootIno, "photos", store.RootIno, "pictures", store.RenameOptions{}); err != nil {
		t.Errorf("moving the tree around it: %v", err)
	}
	if st, _ := s.LockStatus(st.Name); st.Path != "/pictures/a" {
		t.Errorf("path of the lock = %q", st.Path)
	}

	if _, err := s.ResetLock(ctx, st.Name, st.Gen+1, false); !errors.Is(err, poison.ErrStale) {
		t.Errorf("stale reset: %v", err)
	}
	r, err := s.ResetLock(ctx, st.Name, st.Gen, true)
	if err != nil || !r.DryRun {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	if now, _ := s.LockStatus(st.Name); now.State != "poisoned" {
		t.Error("a dry run has cleared the lock")
	}
	reset(t, s, st)
	if _, err := tryPut(s, "/pictures/a", []byte("new")); err != nil {
		t.Errorf("write after reset: %v", err)
	}
	tctx, trace = store.WithTrace(ctx)
	if got, err := tryGet(tctx, s, "/pictures/a"); err != nil || string(got) != "new" || trace.Recovered() != nil {
		t.Errorf("read after reset: %q, %v, %v", got, err, trace.Recovered())
	}
	_, err = s.ResetLock(ctx, st.Name, st.Gen, false)
	wantErr(t, "reset of a healthy lock", err, poison.ErrNotPoisoned)
}

func unlink(s *store.Store, path string) error {
	parent, name, err := s.LookupParent(ctx, path)
	if err != nil {
		return err
	}
	return s.Unlink(ctx, parent, name, nil)
}

func TestPoisonedDirectoryLetsItsFilesBeWritten(t *testing.T) {
	s := storetest.New(t)
	mkdir(t, s, "/d/sub")
	put(t, s, "/d/f", []byte("old"))
	arm(t, s, "/d", "", "panic")
	_, err := tryPut(s, "/d/new", nil)
	wantErr(t, "create", err, store.ErrPoisoned)
	_, err = tryPut(s, "/d/other", nil)
	wantErr(t, "create again", err, store.ErrPoisoned)
	_, err = s.EnsureDirectory(ctx, "/d/x", store.NewNode{})
	wantErr(t, "ensure a missing directory", err, store.ErrPoisoned)
	if _, err = s.EnsureDirectory(ctx, "/d/sub", store.NewNode{}); err != nil {
		t.Errorf("ensure an existing directory: %v", err)
	}
	if _, err := tryPut(s, "/d/f", []byte("new")); err != nil {
		t.Errorf("overwrite: %v", err)
	}
	if _, err := tryPut(s, "/d/sub/f", nil); err != nil {
		t.Errorf("create below a healthy child: %v", err)
	}
	tctx, trace := store.WithTrace(ctx)
	if got, err := tryGet(tctx, s, "/d/f"); err != nil || string(got) != "new" || len(trace.Recovered()) == 0 {
		t.Errorf("read through the directory: %q, %v, trace %v", got, err, trace.Recovered())
	}
	d, _ := s.LookupPath(ctx, "/d")
	st, _ := s.LockStatus(store.InodeLock(d.Ino))
	reset(t, s, st)
	put(t, s, "/d/new", nil)
}

// matrixOp is an operation of the fault matrix.
type matrixOp struct {
	name string
	on   string // the path that the drill is armed on
	run  func(s *store.Store) error
	// done reports whether the operation's effect is there.
	done   func(s *store.Store) bool
	points []string
	steps  bool // it makes more than one change, so a late fault in the first leaves it undone
}

var (
	changePoints = []string{"change:locked", "change:computed", "change:appended", "change:publishing", "change:published", "change:unlocked"}
	uploadPoints = []string{"upload:write", "upload:sync"}
)

func lookup(s *store.Store, path string) store.Attr {
	a, _ := s.LookupPath(ctx, path)
	return a
}

func exists(s *store.Store, path string) bool {
	_, err := s.LookupPath(ctx, path)
	return err == nil
}

func content(s *store.Store, path, want string) bool {
	b, err := tryGet(ctx, s, path)
	return err == nil && string(b) == want
}

func matrixOps() []matrixOp {
	mode, size := uint32(0o711), int64(2)
	big := string(pattern(100<<10, 1))
	writeAt := func(s *store.Store, path, data string, off int64) error {
		h, err := s.Open(ctx, lookup(s, path).Ino, true)
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = h.WriteAt(ctx, []byte(data), off)
		return err
	}
	return []matrixOp{
		{"create", "/d", func(s *store.Store) error {
			return second(s.Create(ctx, lookup(s, "/d").Ino, "n", store.NewNode{}))
		}, func(s *store.Store) bool { return exists(s, "/d/n") }, changePoints, false},
		{"mkdir", "/d", func(s *store.Store) error {
			return second(s.EnsureDirectory(ctx, "/d/n", store.NewNode{}))
		}, func(s *store.Store) bool { return exists(s, "/d/n") }, changePoints, false},
		{"put new", "/d", func(s *store.Store) error { return second(tryPut(s, "/d/n", []byte("new"))) },
			func(s *store.Store) bool { return content(s, "/d/n", "new") }, append(uploadPoints, changePoints...), false},
		{"put over", "/d/f", func(s *store.Store) error { return second(tryPut(s, "/d/f", []byte(big))) },
			func(s *store.Store) bool { return content(s, "/d/f", big) }, append(uploadPoints, changePoints...), false},
		{"put over open", "/d/f", func(s *store.Store) error {
			h, err := s.Open(ctx, lookup(s, "/d/f").Ino, false)
			if err != nil {
				return err
			}
			defer h.Close()
			return second(tryPut(s, "/d/f", []byte(big)))
		}, func(s *store.Store) bool { return content(s, "/d/f", big) }, append(uploadPoints, changePoints...), false},
		{"tmpfile", "/d/f", func(s *store.Store) error {
			_, h, err := s.Tmpfile(ctx, lookup(s, "/d").Ino, store.NewNode{})
			if err != nil {
				return err
			}
			defer h.Close()
			return second(s.Link(ctx, h.Ino(), lookup(s, "/d").Ino, "n"))
		}, func(s *store.Store) bool { return exists(s, "/d/n") }, []string{"alloc:reserve"}, false},
		{"write inline", "/d/f", func(s *store.Store) error { return writeAt(s, "/d/f", "xx", 1) },
			func(s *store.Store) bool { return content(s, "/d/f", "fxx") }, changePoints, false},
		{"write blob", "/d/big", func(s *store.Store) error { return writeAt(s, "/d/big", "xx", 0) },
			func(s *store.Store) bool { return content(s, "/d/big", "xx"+big[2:]) }, append([]string{"write:content"}, changePoints...), true},
		{"truncate", "/d/big", func(s *store.Store) error {
			return second(s.SetAttr(ctx, lookup(s, "/d/big").Ino, store.SetAttr{Size: &size}))
		}, func(s *store.Store) bool { return content(s, "/d/big", big[:2]) }, append([]string{"write:content"}, changePoints...), true},
		{"chmod", "/d/f", func(s *store.Store) error {
			return second(s.SetAttr(ctx, lookup(s, "/d/f").Ino, store.SetAttr{Mode: &mode}))
		}, func(s *store.Store) bool { return lookup(s, "/d/f").Mode&store.ModePerm == mode }, changePoints, false},
		{"setxattr", "/d/f", func(s *store.Store) error {
			return s.SetXattr(ctx, lookup(s, "/d/f").Ino, "user.k", []byte("v"), 0)
		}, func(s *store.Store) bool {
			v, err := s.GetXattr(ctx, lookup(s, "/d/f").Ino, "user.k")
			return err == nil && string(v) == "v"
		}, changePoints, false},
		{"link", "/d/f", func(s *store.Store) error {
			return second(s.Link(ctx, lookup(s, "/d/f").Ino, lookup(s, "/d").Ino, "n"))
		}, func(s *store.Store) bool { return exists(s, "/d/n") }, changePoints, false},
		{"unlink", "/d/f", func(s *store.Store) error { return unlink(s, "/d/f") },
			func(s *store.Store) bool { return !exists(s, "/d/f") }, changePoints, false},
		{"rmdir", "/d/empty", func(s *store.Store) error { return s.Rmdir(ctx, lookup(s, "/d").Ino, "empty", nil) },
			func(s *store.Store) bool { return !exists(s, "/d/empty") }, changePoints, false},
		{"remove tree", "/d/tree", func(s *store.Store) error { return s.RemoveAll(ctx, lookup(s, "/d").Ino, "tree", nil) },
			func(s *store.Store) bool { return !exists(s, "/d/tree") }, changePoints, false},
		{"rename", "/d/tree", func(s *store.Store) error {
			return second(s.Rename(ctx, lookup(s, "/d").Ino, "tree", lookup(s, "/e").Ino, "moved", store.RenameOptions{}))
		}, func(s *store.Store) bool { return exists(s, "/e/moved/x") && !exists(s, "/d/tree") }, changePoints, false},
		{"rename over", "/d/f", func(s *store.Store) error {
			return second(s.Rename(ctx, lookup(s, "/d").Ino, "f", lookup(s, "/d").Ino, "big", store.RenameOptions{}))
		}, func(s *store.Store) bool { return content(s, "/d/big", "f") && !exists(s, "/d/f") }, changePoints, false},
		{"exchange", "/d/f", func(s *store.Store) error {
			return second(s.Rename(ctx, lookup(s, "/d").Ino, "f", lookup(s, "/e").Ino, "g", store.RenameOptions{Exchange: true}))
		}, func(s *store.Store) bool { return content(s, "/e/g", "f") && content(s, "/d/f", "g") }, changePoints, false},
		{"clone file", "/e", func(s *store.Store) error {
			_, _, err := s.Clone(ctx, lookup(s, "/d/big").Ino, lookup(s, "/e").Ino, "n", store.CloneOptions{})
			return err
		}, func(s *store.Store) bool { return content(s, "/e/n", big) }, changePoints, false},
		{"clone tree", "/d/tree", func(s *store.Store) error {
			_, _, err := s.Clone(ctx, lookup(s, "/d/tree").Ino, lookup(s, "/e").Ino, "n", store.CloneOptions{})
			return err
		}, func(s *store.Store) bool { return exists(s, "/e/n/x") }, []string{"clone:tree"}, false},
		{"alloc", "/d", func(s *store.Store) error {
			return second(s.Create(ctx, lookup(s, "/d").Ino, "n", store.NewNode{}))
		}, func(s *store.Store) bool { return exists(s, "/d/n") }, []string{"alloc:reserve"}, false},
		{"usage", "/d", func(s *store.Store) error {
			return second(s.Create(ctx, lookup(s, "/d").Ino, "n", store.NewNode{}))
		}, func(s *store.Store) bool { return exists(s, "/d/n") }, []string{"usage:add"}, false},
		{"dav lock", "/d", func(s *store.Store) error {
			return second(s.DAVLocks().Create(s.Now(), store.DAVLock{Path: "/d/f", Principal: "p"}))
		}, func(s *store.Store) bool {
			l, err := s.DAVLocks().Covering(s.Now(), "/d/f")
			return err == nil && len(l) == 1
		}, []string{"davlock:append", "davlock:publish"}, false},
		{"file lock", "/d/f", func(s *store.Store) error {
			return s.FileLocks().Lock(ctx, lookup(s, "/d/f").Ino, fileLock(1, true), false)
		}, func(s *store.Store) bool {
			_, held, err := s.FileLocks().Conflict(lookup(s, "/d/f").Ino, fileLock(2, false))
			return err == nil && held
		}, []string{"filelock:change"}, false},
	}
}

// matrixStore is the tree that the matrix works on.
func matrixStore(t *testing.T) *store.Store {
	s := storetest.New(t)
	mkdir(t, s, "/d/empty")
	mkdir(t, s, "/d/tree/x")
	mkdir(t, s, "/e")
	put(t, s, "/d/f", []byte("f"))
	put(t, s, "/d/big", pattern(100<<10, 1))
	put(t, s, "/e/g", []byte("g"))
	put(t, s, "/sibling", []byte("s"))
	return s
}

// TestFaultMatrix injects every cause at every fault point that every operation
// reaches: nothing may hang, be torn, or be read from recovered data without
// a mark; siblings stay writable; a reset restores all.
func TestFaultMatrix(t *testing.T) {
	reached := make(map[string]int)
	injected := 0
	for _, op := range matrixOps() {
		for _, point := range op.points {
			for _, cause := range []string{"panic", "goexit", "error"} {
				ok := t.Run(fmt.Sprintf("%s/%s/%s", op.name, point, cause), func(t *testing.T) {
					matrixCase(t, op, point, cause)
				})
				if ok {
					reached[point]++
				}
				injected++
			}
		}
	}
	for _, p := range store.FaultPoints() {
		if reached[p.Name] < 3 {
			t.Errorf("fault point %s was reached %d times", p.Name, reached[p.Name])
		}
	}
	t.Logf("fault matrix: %d faults injected at %d points through the Go API", injected, len(reached))
	fmt.Printf("fault matrix, Go API: %d faults injected, %d points, %d operations, 3 causes\n", injected, len(reached), len(matrixOps()))
}

func matrixCase(t *testing.T, op matrixOp, point, cause string) {
	s := matrixStore(t)
	var p store.FaultPoint
	for _, p = range store.FaultPoints() {
		if p.Name == point {
			break
		}
	}
	arm(t, s, op.on, point, cause)
	var err error
	exited := within(t, func() { err = op.run(s) })
	if n := s.FaultsFired(); n != 1 {
		t.Fatalf("%d faults fired, want 1 (err %v)", n, err)
	}
	switch {
	case exited != (cause == "goexit"):
		t.Errorf("goroutine exited: %v", exited)
	case cause == "goexit", point == "usage:add":
	case err == nil:
		t.Error("the operation succeeded")
	case p.Locked && cause == "panic", p.Locked && p.Late:
		wantErr(t, "operation", err, store.ErrPoisoned)
	case cause == "panic":
		wantErr(t, "operation", err, store.ErrPanic)
	default:
		wantErr(t, "operation", err, store.ErrFault)
	}

	poisoned := p.Locked && (cause != "error" || p.Late)
	if got := s.Registry().AnyPoisoned(); got != poisoned {
		t.Errorf("poisoned: %v, want %v", got, poisoned)
	}
	// What the engine has is all or nothing; memory must agree or be marked.
	done := op.done(s)
	if p.Name != "davlock:publish" && p.Name != "davlock:append" && !op.steps && done != p.Late {
		t.Errorf("the effect is there: %v, want %v", done, p.Late)
	}
	if _, err := tryPut(s, "/sibling", []byte("still")); err != nil {
		t.Errorf("sibling: %v", err)
	}
	if !p.Domain || point == "usage:add" {
		if _, err := tryPut(s, "/new-sibling", nil); err != nil {
			t.Errorf("new sibling: %v", err)
		}
	}
	for _, l := range s.Locks() {
		if l.State == "poisoned" {
			readsAreMarked(t, s, l)
			reset(t, s, l)
		}
	}
	if s.Registry().AnyPoisoned() {
		t.Error("still poisoned after the resets")
	}
	countsAreRight(t, s)
	storetest.Check(t, s)
	if !op.done(s) {
		if err := op.run(s); err != nil {
			t.Errorf("again after the reset: %v", err)
		}
	}
	if !op.done(s) {
		t.Error("the effect is not there after the second run")
	}
}

// countsAreRight compares the usage in memory with a walk of the tree.
func countsAreRight(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	files := map[store.Ino]bool{}
	var walk func(dir store.Ino)
	walk = func(dir store.Ino) {
		if err := s.ReadDir(ctx, dir, "", func(d store.Dirent) bool {
			if d.Type == store.ModeDir {
				walk(d.Ino)
			} else {
				files[d.Ino] = true
			}
			return true
		}); err != nil {
			t.Error(err)
		}
	}
	walk(store.RootIno)
	if n := s.FileCount(ctx); n != int64(len(files)) {
		t.Errorf("FileCount = %d, there are %d", n, len(files))
	}
}

// readsAreMarked checks that reading what l guards is recorded.
func readsAreMarked(t *testing.T, s *store.Store, l store.LockStatus) {
	t.Helper()
	tctx, trace := store.WithTrace(ctx)
	switch {
	case l.Name == "usage":
		s.FileCount(tctx)
	case strings.HasPrefix(l.Name, "inode:"):
		var ino store.Ino
		fmt.Sscanf(l.Name, "inode:%d", &ino)
		if _, err := s.GetAttr(tctx, ino); errors.Is(err, store.ErrStale) {
			return // the change removed it
		}
	case l.Name == "dav-locks":
		if _, err := s.DAVLocks().Covering(s.Now(), "/d/f"); !errors.Is(err, store.ErrPoisoned) {
			t.Errorf("a poisoned lock table was read: %v", err)
		}
		return
	case l.Name == "file-locks":
		if _, _, err := s.FileLocks().Conflict(lookup(s, "/d/f").Ino, fileLock(2, false)); !errors.Is(err, store.ErrPoisoned) {
			t.Errorf("a poisoned lock table was read: %v", err)
		}
		return
	default:
		return
	}
	if len(trace.Recovered()) == 0 {
		t.Errorf("a recovered read of %s was not recorded", l.Name)
	}
}

func TestResetReportsAndHistory(t *testing.T) {
	s := storetest.New(t)
	put(t, s, "/f", []byte("old"))
	h, err := s.Open(ctx, lookup(s, "/f").Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	arm(t, s, "/f", "change:appended", "panic")
	_, err = h.WriteAt(ctx, []byte("newer"), 0)
	wantErr(t, "write", err, store.ErrPoisoned)
	if got := get(t, s, "/f"); string(got) != "newer" {
		t.Errorf("recovered content %q, want the engine's", got)
	}
	st, _ := s.LockStatus(store.InodeLock(lookup(s, "/f").Ino))
	r, err := s.ResetLock(ctx, st.Name, st.Gen, true)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(r.Reloaded, ";"), "size: 5, was 3") || len(r.Kept) != 1 || r.Path != "/f" {
		t.Errorf("report %+v", r)
	}
	reset(t, s, st)
	if _, err := h.WriteAt(ctx, []byte("N"), 0); err != nil {
		t.Errorf("an open handle after the reset: %v", err)
	}
	var hist []store.HistoryEntry
	for range 100 { // the poisoning is recorded in the background
		if hist, err = s.History(0, 10); err != nil || len(hist) == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil || len(hist) != 2 {
		t.Fatalf("history %+v, %v, want two entries", hist, err)
	}
	for _, e := range hist {
		if e.Lock != st.Name || e.Path != "/f" || e.Kind == "poisoned" && len(e.Event.Stack) == 0 || e.Kind == "reset" && e.Report == nil {
			t.Errorf("entry %+v", e)
		}
	}
}

func TestResetKeepsDamagedInodePoisoned(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{})
	data := pattern(300<<10, 9)
	put(t, s, "/f", data)
	st := poisonFile(t, s, "/f")
	id := blobs.IDs()[0]
	blobs.Flip(id, 100)
	r, err := s.ResetLock(ctx, st.Name, st.Gen, false)
	wantErr(t, "reset", err, store.ErrDamaged)
	if len(r.Problems) == 0 {
		t.Error("the report names no problem")
	}
	if now, _ := s.LockStatus(st.Name); now.State != "poisoned" {
		t.Error("a damaged inode was cleared")
	}
	blobs.Flip(id, 100)
	now, _ := s.LockStatus(st.Name)
	reset(t, s, now)
}

func TestArmFaultRefusesUnknown(t *testing.T) {
	s := storetest.New(t)
	wantErr(t, "point", s.ArmFault(ctx, "/", "nowhere", "panic"), fs.ErrInvalid)
	wantErr(t, "cause", s.ArmFault(ctx, "/", "", "boredom"), fs.ErrInvalid)
	wantErr(t, "path", s.ArmFault(ctx, "/x", "", "panic"), fs.ErrNotExist)
}

// TestStorm runs changes, panics and resets at once: every read sees a whole
// state or is marked, siblings of poisoned files never fail.
func TestStorm(t *testing.T) {
	s := storetest.New(t)
	const files = 8
	for i := range files {
		put(t, s, fmt.Sprintf("/f%d", i), []byte("00000000"))
		put(t, s, fmt.Sprintf("/calm%d", i), []byte("00000000"))
	}
	deadline := time.Now().Add(1500 * time.Millisecond)
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	run := func(fn func(i int)) {
		wg.Go(func() {
			for i := 0; time.Now().Before(deadline) && sctx.Err() == nil; i++ {
				fn(i)
			}
		})
	}
	whole := func(b []byte) bool { return len(b) == 8 && bytes.Count(b, b[:1]) == 8 }
	for w := range 3 {
		run(func(i int) {
			path := fmt.Sprintf("/f%d", (i+w)%files)
			data := bytes.Repeat([]byte{byte('a' + i%26)}, 8)
			if _, err := tryPut(s, path, data); err != nil && !errors.Is(err, store.ErrPoisoned) {
				t.Errorf("put: %v", err)
			}
			if _, err := tryPut(s, fmt.Sprintf("/calm%d", (i+w)%files), data); err != nil {
				t.Errorf("calm put: %v", err)
			}
		})
		run(func(i int) {
			tctx, trace := store.WithTrace(ctx)
			b, err := tryGet(tctx, s, fmt.Sprintf("/f%d", i%files))
			if err != nil || !whole(b) && len(trace.Recovered()) == 0 {
				t.Errorf("get: %q, %v", b, err)
			}
		})
	}
	run(func(i int) {
		point := []string{"", "change:appended", "change:published"}[i%3]
		if err := s.ArmFault(ctx, fmt.Sprintf("/f%d", i%files), point, "panic"); err != nil {
			t.Errorf("arm: %v", err)
		}
		time.Sleep(time.Millisecond)
	})
	resets := 0
	run(func(int) {
		for _, l := range s.Locks() {
			if l.State != "poisoned" {
				continue
			}
			if _, err := s.ResetLock(ctx, l.Name, l.Gen, false); err == nil {
				resets++
			} else if !errors.Is(err, poison.ErrStale) && !errors.Is(err, poison.ErrNotPoisoned) && !errors.Is(err, poison.ErrHeld) {
				t.Errorf("reset: %v", err)
			}
		}
	})
	wg.Wait()
	if resets == 0 {
		t.Error("nothing was poisoned and reset")
	}
	for _, l := range s.Locks() {
		if l.State == "poisoned" {
			reset(t, s, l)
		}
	}
	t.Logf("%d faults, %d resets", s.FaultsFired(), resets)
}

// TestResetDoesNotReadAll: nobody may wait for an inode as long as reading a large file
// takes.
func TestResetDoesNotReadAll(t *testing.T) {
	b := newTraced(-1)
	s := openTraced(t, vfs.NewMem(), b)
	defer s.Close()
	put(t, s, "/f", pattern(20<<20, 1))
	st := poisonFile(t, s, "/f")
	b.mu.Lock()
	clear(b.reads)
	b.mu.Unlock()
	reset(t, s, st)
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.reads); n == 0 || n > 16 {
		t.Errorf("%d pieces of the content were read", n)
	}
}

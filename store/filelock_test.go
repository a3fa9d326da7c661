package store_test

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"engramfs/store"
	"engramfs/store/storetest"
)

// fileLock returns a flock of the whole file.
func fileLock(owner uint64, exclusive bool) store.FileLock {
	return store.FileLock{Origin: 1, Owner: owner, Flock: true, Exclusive: exclusive}
}

// recordLock returns a POSIX lock of bytes from to to.
func recordLock(owner uint64, exclusive bool, from, to uint64) store.FileLock {
	return store.FileLock{Origin: 1, Owner: owner, Exclusive: exclusive, Start: from, End: to, PID: uint32(owner)}
}

// byteLocks is what the table promises, byte by byte: who holds each byte and how.
type byteLocks struct {
	shared    [modelBytes]map[uint64]bool
	exclusive [modelBytes]uint64 // owner; 0: none
}

const modelBytes = 24

func (m *byteLocks) conflict(l *store.FileLock) bool {
	for i := l.Start; i <= l.End; i++ {
		if o := m.exclusive[i]; o != 0 && o != l.Owner {
			return true
		}
		for o := range m.shared[i] {
			if l.Exclusive && o != l.Owner {
				return true
			}
		}
	}
	return false
}

func (m *byteLocks) set(l *store.FileLock, take bool) {
	for i := l.Start; i <= l.End; i++ {
		delete(m.shared[i], l.Owner)
		if m.exclusive[i] == l.Owner {
			m.exclusive[i] = 0
		}
		switch {
		case take && l.Exclusive:
			m.exclusive[i] = l.Owner
		case take:
			if m.shared[i] == nil {
				m.shared[i] = map[uint64]bool{}
			}
			m.shared[i][l.Owner] = true
		}
	}
}

// TestRecordLocksAgainstBytes compares the table with an array of bytes: ranges
// that split, merge, replace one another and stand against each other.
func TestRecordLocksAgainstBytes(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	locks := s.FileLocks()
	rapid.Check(t, func(t *rapid.T) {
		var m byteLocks
		defer func() {
			if err := locks.ReleaseOrigin(1); err != nil {
				t.Fatal(err)
			}
		}()
		draw := func(t *rapid.T) store.FileLock {
			from := rapid.Uint64Range(0, modelBytes-1).Draw(t, "from")
			return recordLock(rapid.Uint64Range(1, 3).Draw(t, "owner"), rapid.Bool().Draw(t, "exclusive"),
				from, rapid.Uint64Range(from, modelBytes-1).Draw(t, "to"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"lock": func(t *rapid.T) {
				l := draw(t)
				var want error
				if m.conflict(&l) {
					want = store.ErrLocked
				}
				if err := locks.Lock(ctx, ino, l, false); !errors.Is(err, want) || (err == nil) != (want == nil) {
					t.Fatalf("Lock(%+v) = %v, want %v", l, err, want)
				}
				if want == nil {
					m.set(&l, true)
				}
			},
			"unlock": func(t *rapid.T) {
				l := draw(t)
				if err := locks.Unlock(ino, l); err != nil {
					t.Fatal(err)
				}
				m.set(&l, false)
			},
			"release": func(t *rapid.T) {
				l := recordLock(rapid.Uint64Range(1, 3).Draw(t, "owner"), false, 0, modelBytes-1)
				if err := locks.Release(ino, 1, l.Owner, false); err != nil {
					t.Fatal(err)
				}
				m.set(&l, false)
			},
			"": func(t *rapid.T) {
				for owner := range uint64(4) { // 0 holds nothing
					for i := range uint64(modelBytes) {
						for _, exclusive := range []bool{false, true} {
							l := recordLock(owner, exclusive, i, i)
							got, found, err := locks.Conflict(ino, l)
							if err != nil || found != m.conflict(&l) {
								t.Fatalf("Conflict(%+v) = %+v, %v, %v; want %v", l, got, found, err, m.conflict(&l))
							}
							if found && (got.Owner == owner || got.Start > i || got.End < i || uint64(got.PID) != got.Owner) {
								t.Fatalf("Conflict(%+v) = %+v", l, got)
							}
						}
					}
				}
				exclusive := false
				for i := range m.exclusive {
					exclusive = exclusive || m.exclusive[i] != 0
				}
				if got := s.LockedByFile(ino); got != exclusive {
					t.Fatalf("LockedByFile = %v, want %v", got, exclusive)
				}
			},
		})
	})
}

func TestRecordLocksMergeAndSplit(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	locks := s.FileLocks()
	lock := func(l store.FileLock) {
		t.Helper()
		if err := locks.Lock(ctx, ino, l, false); err != nil {
			t.Fatalf("Lock(%+v): %v", l, err)
		}
	}
	want := func(at, from, to uint64, exclusive bool) {
		t.Helper()
		got, ok, err := locks.Conflict(ino, recordLock(9, true, at, at))
		if err != nil || !ok || got.Start != from || got.End != to || got.Exclusive != exclusive {
			t.Errorf("lock on byte %d: %+v, %v, %v; want %d to %d, exclusive %v", at, got, ok, err, from, to, exclusive)
		}
	}
	lock(recordLock(1, true, 10, 19))
	lock(recordLock(1, true, 30, math.MaxUint64))
	lock(recordLock(1, true, 20, 29))
	want(25, 10, math.MaxUint64, true)
	lock(recordLock(1, false, 15, 17))
	want(12, 10, 14, true)
	want(15, 15, 17, false)
	want(18, 18, math.MaxUint64, true)
	if err := locks.Unlock(ino, recordLock(1, false, 0, 100)); err != nil {
		t.Fatal(err)
	}
	want(101, 101, math.MaxUint64, true)
	if _, ok, _ := locks.Conflict(ino, recordLock(9, true, 0, 100)); ok {
		t.Error("a lock is left where all were given up")
	}
	wantErr(t, "a range that ends before it begins", locks.Lock(ctx, ino, recordLock(1, true, 5, 4), false), fs.ErrInvalid)
}

func TestFlockAndRecordLocksDoNotSeeEachOther(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	locks := s.FileLocks()
	for _, l := range []store.FileLock{fileLock(1, true), recordLock(2, true, 0, 9)} {
		if err := locks.Lock(ctx, ino, l, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := locks.Release(ino, 1, 2, true); err != nil { // the owner's flocks, of which it has none
		t.Fatal(err)
	}
	wantErr(t, "another's flock", locks.Lock(ctx, ino, fileLock(2, false), false), store.ErrLocked)
	wantErr(t, "another's record lock", locks.Lock(ctx, ino, recordLock(1, false, 9, 9), false), store.ErrLocked)
	other := fileLock(1, true)
	other.Origin = 2
	wantErr(t, "another origin's owner of the same number", locks.Lock(ctx, ino, other, false), store.ErrLocked)
}

// A flock that cannot be converted at once is lost (flock(2)).
func TestFlockConversion(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	locks := s.FileLocks()
	for _, owner := range []uint64{1, 2} {
		if err := locks.Lock(ctx, ino, fileLock(owner, false), false); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "upgrade", locks.Lock(ctx, ino, fileLock(1, true), false), store.ErrLocked)
	if err := locks.Lock(ctx, ino, fileLock(2, true), false); err != nil {
		t.Errorf("upgrade of the only holder: %v", err)
	}
}

// waitFor starts a Lock that has to wait, and returns when it does.
func waitFor(t *testing.T, ctx context.Context, s *store.Store, ino store.Ino, l store.FileLock) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.FileLocks().Lock(ctx, ino, l, true) }()
	select {
	case err := <-done:
		t.Fatalf("Lock(%+v) = %v at once, want it to wait", l, err)
	case <-time.After(20 * time.Millisecond):
	}
	return done
}

// receive returns what comes within a few seconds.
func receive(t *testing.T, ch <-chan error) error {
	t.Helper()
	select {
	case err := <-ch:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came in 10 s")
		return nil
	}
}

func TestLockWaitsInOrder(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	locks := s.FileLocks()
	if err := locks.Lock(ctx, ino, fileLock(1, true), true); err != nil {
		t.Fatal(err)
	}
	second := waitFor(t, ctx, s, ino, fileLock(2, true))
	third := waitFor(t, ctx, s, ino, fileLock(3, false))
	fourth := waitFor(t, ctx, s, ino, fileLock(4, false))
	if err := locks.Release(ino, 1, 1, true); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, second); err != nil {
		t.Fatal(err)
	}
	select {
	case <-third:
		t.Fatal("a shared lock beside an exclusive one")
	case <-fourth:
		t.Fatal("a shared lock beside an exclusive one")
	default:
	}
	if err := locks.Lock(ctx, ino, fileLock(2, false), false); err != nil { // a downgrade lets both in
		t.Fatal(err)
	}
	if err := errors.Join(receive(t, third), receive(t, fourth)); err != nil {
		t.Fatal(err)
	}
}

func TestLockWaitEndsWithItsContext(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	locks := s.FileLocks()
	if err := locks.Lock(ctx, ino, recordLock(1, true, 0, 9), true); err != nil {
		t.Fatal(err)
	}
	cctx, cancel := context.WithCancel(ctx)
	w := waitFor(t, cctx, s, ino, recordLock(2, true, 5, 5))
	cancel()
	wantErr(t, "cancelled wait", receive(t, w), context.Canceled)
	if err := locks.Release(ino, 1, 1, false); err != nil {
		t.Fatal(err)
	}
	if _, found, _ := locks.Conflict(ino, recordLock(3, true, 0, 9)); found {
		t.Error("a request that was withdrawn was granted")
	}
}

func TestReleaseOriginRefusesWaiters(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", nil).Ino
	locks := s.FileLocks()
	theirs := recordLock(1, true, 0, 9)
	theirs.Origin = 2
	for _, l := range []store.FileLock{theirs, recordLock(1, true, 20, 29)} {
		if err := locks.Lock(ctx, ino, l, true); err != nil {
			t.Fatal(err)
		}
	}
	w := waitFor(t, ctx, s, ino, recordLock(1, true, 5, 5))
	if err := locks.ReleaseOrigin(1); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "wait of an origin that is gone", receive(t, w), store.ErrClosed)
	if _, found, _ := locks.Conflict(ino, recordLock(7, true, 20, 29)); found {
		t.Error("a lock of an origin that is gone")
	}
	if _, found, _ := locks.Conflict(ino, recordLock(7, true, 0, 9)); !found {
		t.Error("another origin's lock is gone")
	}
}

func TestDeadlockIsRefused(t *testing.T) {
	s := storetest.New(t)
	a, b, c := put(t, s, "/a", nil).Ino, put(t, s, "/b", nil).Ino, put(t, s, "/c", nil).Ino
	locks := s.FileLocks()
	whole := func(owner uint64) store.FileLock { return recordLock(owner, true, 0, math.MaxUint64) }
	for owner, ino := range map[uint64]store.Ino{1: a, 2: b, 3: c} {
		if err := locks.Lock(ctx, ino, whole(owner), true); err != nil {
			t.Fatal(err)
		}
	}
	one := waitFor(t, ctx, s, b, whole(1)) // 1 -> 2
	two := waitFor(t, ctx, s, c, whole(2)) // 2 -> 3
	wantErr(t, "3 -> 1", locks.Lock(ctx, a, whole(3), true), store.ErrDeadlock)
	wantErr(t, "3 -> 1 without waiting", locks.Lock(ctx, a, whole(3), false), store.ErrLocked)
	if err := locks.Release(c, 1, 3, false); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, two); err != nil {
		t.Fatal(err)
	}
	if err := locks.Release(b, 1, 2, false); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, one); err != nil {
		t.Fatal(err)
	}
}

// TestLocksExcludeUnderLoad lets many owners take and give up locks of a few
// ranges of a few files, some of them with a context that ends early, and counts
// in each range how many are in it.
func TestLocksExcludeUnderLoad(t *testing.T) {
	s := storetest.New(t)
	inos := []store.Ino{put(t, s, "/a", nil).Ino, put(t, s, "/b", nil).Ino}
	locks := s.FileLocks()
	var inside [2][3]atomic.Int32 // exclusive: +100, shared: +1
	var got atomic.Int64
	var wg sync.WaitGroup
	for owner := range uint64(8) {
		wg.Go(func() {
			for i := range uint64(300) {
				at, file := (owner+i)%3, (owner*i)%2
				l := recordLock(owner+1, (owner+i)%4 == 0, at*10, at*10+9)
				cctx, cancel := context.WithTimeout(ctx, time.Duration(i%5)*200*time.Microsecond+time.Microsecond)
				err := locks.Lock(cctx, inos[file], l, i%7 != 0)
				cancel()
				if err != nil {
					continue
				}
				n := &inside[file][at]
				if l.Exclusive {
					if n.Add(100) != 100 {
						t.Error("an exclusive lock beside another")
					}
					n.Add(-100)
				} else {
					if n.Add(1) >= 100 {
						t.Error("a shared lock beside an exclusive one")
					}
					n.Add(-1)
				}
				got.Add(1)
				if err := locks.Unlock(inos[file], l); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() < 300 {
		t.Errorf("only %d locks were had", got.Load())
	}
	for _, ino := range inos {
		if l, found, _ := locks.Conflict(ino, recordLock(99, true, 0, math.MaxUint64)); found {
			t.Errorf("a lock is left: %+v", l)
		}
	}
}

// poisonFileLocks lets a writer die inside the table.
func poisonFileLocks(t *testing.T, s *store.Store) store.LockStatus {
	t.Helper()
	arm(t, s, "/", "filelock:change", "panic")
	wantErr(t, "dying writer", s.FileLocks().Unlock(store.RootIno, fileLock(1, true)), store.ErrPoisoned)
	st, err := s.LockStatus("file-locks")
	if err != nil || st.State != "poisoned" || st.Class != "failclosed" {
		t.Fatalf("LockStatus = %+v, %v", st, err)
	}
	return st
}

func TestPoisonedFileLocksFailClosed(t *testing.T) {
	s := storetest.New(t)
	f, g := put(t, s, "/f", []byte("f")).Ino, put(t, s, "/g", nil).Ino
	locks := s.FileLocks()
	for _, l := range []store.FileLock{fileLock(1, true), recordLock(3, false, 0, 9)} {
		if err := locks.Lock(ctx, f, l, true); err != nil {
			t.Fatal(err)
		}
	}
	w := waitFor(t, ctx, s, f, fileLock(2, true))
	cctx, cancel := context.WithCancel(ctx)
	withdrawn := waitFor(t, cctx, s, f, fileLock(4, true))
	st := poisonFileLocks(t, s)

	wantErr(t, "Lock", locks.Lock(ctx, g, fileLock(1, true), false), store.ErrPoisoned)
	wantErr(t, "Unlock", locks.Unlock(f, fileLock(1, true)), store.ErrPoisoned)
	_, _, err := locks.Conflict(f, fileLock(9, true))
	wantErr(t, "Conflict", err, store.ErrPoisoned)
	if !s.LockedByFile(f) || s.LockedByFile(g) {
		t.Error("only the file with an exclusive lock is to be taken for locked")
	}
	_, err = tryPut(s, "/f", []byte("new"))
	wantErr(t, "PUT over a file that may be locked", err, store.ErrPoisoned)
	if _, err := tryPut(s, "/g", []byte("new")); err != nil {
		t.Errorf("PUT over a file without locks: %v", err)
	}
	cancel()
	wantErr(t, "withdrawn wait", receive(t, withdrawn), context.Canceled)
	if err := locks.Release(f, 1, 3, false); err != nil {
		t.Errorf("Release: %v", err)
	}

	r, err := s.ResetLock(ctx, st.Name, st.Gen, true)
	if err != nil || len(r.Kept) != 2 || len(r.Repaired)+len(r.Problems) != 0 {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	reset(t, s, st)
	if got, found, err := locks.Conflict(f, fileLock(9, true)); err != nil || !found || got.Owner != 1 {
		t.Errorf("after the reset: %+v, %v, %v; want owner 1's lock kept", got, found, err)
	}
	if got, found, _ := locks.Conflict(f, recordLock(9, true, 0, 9)); found {
		t.Errorf("a lock that was released meanwhile: %+v", got)
	}
	if err := locks.Release(f, 1, 1, true); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, w); err != nil {
		t.Errorf("who waited through the poisoning: %v", err)
	}
	if got, found, _ := locks.Conflict(f, fileLock(9, true)); !found || got.Owner != 2 || !strings.Contains(strings.Join(r.Kept, ";"), "exclusive flock on inode") {
		t.Errorf("holder %+v, report %v", got, r.Kept)
	}
}

func BenchmarkLockUnlock(b *testing.B) {
	s := storetest.New(b)
	ino := put(b, s, "/f", nil).Ino
	b.ReportAllocs()
	for b.Loop() {
		if err := s.FileLocks().Lock(ctx, ino, recordLock(1, true, 0, 9), false); err != nil {
			b.Fatal(err)
		}
		if err := s.FileLocks().Unlock(ino, recordLock(1, true, 0, 9)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReleaseOfUnlocked(b *testing.B) {
	s := storetest.New(b)
	for b.Loop() {
		if err := s.FileLocks().Release(store.RootIno, 1, 1, false); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLocksPerFileAreBounded: one file cannot make every request on it slow, and others
// have their own bound.
func TestLocksPerFileAreBounded(t *testing.T) {
	locks := storetest.New(t).FileLocks()
	for i := range uint64(store.MaxLocksPerFile) {
		if err := locks.Lock(ctx, 7, recordLock(i, true, 2*i, 2*i), false); err != nil {
			t.Fatalf("lock %d: %v", i, err)
		}
	}
	last := recordLock(1, true, 2*store.MaxLocksPerFile, 2*store.MaxLocksPerFile)
	wantErr(t, "one more", locks.Lock(ctx, 7, last, false), store.ErrLockLimit)
	if err := locks.Lock(ctx, 7, fileLock(1, true), false); err != nil {
		t.Errorf("of the other kind: %v", err)
	}
	if err := locks.Lock(ctx, 8, last, false); err != nil {
		t.Errorf("on another file: %v", err)
	}
	if err := locks.Unlock(7, recordLock(1, true, 2, 2)); err != nil {
		t.Fatal(err)
	}
	if err := locks.Lock(ctx, 7, last, false); err != nil {
		t.Errorf("after an unlock: %v", err)
	}
}

// TestDeadlockSearchMeetsEachOwnerOnce: what many wait for is not counted once for each of
// them, when each waits for the next as well.
func TestDeadlockSearchMeetsEachOwnerOnce(t *testing.T) {
	const waiters, owners, ino = 300, 3000, 7
	locks := storetest.New(t).FileLocks()
	hold := func(l store.FileLock) {
		t.Helper()
		if err := locks.Lock(ctx, ino, l, false); err != nil {
			t.Fatal(err)
		}
	}
	for o := range uint64(owners) {
		hold(recordLock(waiters+2+o, false, 0, 2*waiters))
	}
	waiting, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for w := range uint64(waiters) { // number w holds byte w and waits for byte w+1
		hold(recordLock(w+1, false, w, w))
		wg.Go(func() { _ = locks.Lock(waiting, ino, recordLock(w+1, true, w+1, w+1), true) })
	}
	eventually(t, "all wait", func() bool { return locks.Waiting(ino) == waiters })
	ended, end := context.WithCancel(ctx)
	end()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := locks.Lock(ended, ino, recordLock(waiters+1, true, 0, 0), true)
	runtime.ReadMemStats(&after)
	wantErr(t, "a wait that ended", err, context.Canceled)
	if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
		t.Errorf("%d owners and %d waiters cost %d bytes", owners, waiters, n)
	}
	cancel()
	wg.Wait()
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"sync"
	"sync/atomic"

	"engramfs/store/poison"
)

// FileLocks is the table of flock(2) and POSIX record locks that adapters take
// for their clients. It lives in memory: a lock goes with its owner. An
// exclusive lock makes changes of nobody in particular (Origin 0) to the file
// fail with ErrLocked; among those who lock, the locks are advisory.
//
// It is fail-closed: after a writer died inside it, the methods return an error
// matching ErrPoisoned until the lock "file-locks" is reset, and the files that
// have exclusive locks stay locked; all others can be changed. Who waits for a
// lock meanwhile waits on.
//
// A request that no held lock stands against is granted at once, as in Linux; those
// that wait are granted in the order they came.
type FileLocks struct {
	set   *poison.Guarded[fileLocks]
	fault func(point string) error
	// barrier returns once every change of the inode has ended that was under
	// way when it was called.
	barrier func(Ino)

	// marks count the locks by the hash of their inode. They never say fewer
	// than there are, so that a file without any costs one atomic load, also
	// while the table is poisoned.
	marks [1 << 10]lockMark

	// mu protects the field below.
	mu   sync.Mutex
	owed map[lockRelease]struct{} // releases that met a poisoned table
}

type lockMark struct{ all, exclusive atomic.Int32 }

// lockRelease names locks that are given up: an owner's of one kind on one
// inode, or with ino 0 an origin's.
type lockRelease struct {
	ino    Ino
	origin Origin
	owner  uint64
	flock  bool
}

// FileLock is one lock or a request for one.
type FileLock struct {
	Origin    Origin
	Owner     uint64 // of the origin's choosing: an open file description or a process
	Flock     bool   // flock(2); else fcntl(2). The two kinds do not see each other.
	Exclusive bool   // F_WRLCK, LOCK_EX; else shared
	Start     uint64 // first byte
	End       uint64 // last byte; math.MaxUint64: the end of the file, however it grows
	PID       uint32
}

// MaxFileLocks bounds the locks of all files together, and MaxLocksPerFile those of one
// kind on one file, all of which every request there has to look at while nobody else
// can lock anything. Beyond them Lock returns ErrLockLimit (ENOLCK).
const (
	MaxFileLocks    = 1_000_000
	MaxLocksPerFile = 10_000
)

// The table's lock comes after every other.
const (
	lockFileLocks = "file-locks"
	rankFileLocks = 60
)

func newFileLocks(s *Store) *FileLocks {
	t := &FileLocks{fault: s.lockFault, barrier: s.barrier}
	t.set = poison.New(s.registry, lockFileLocks, poison.LockOptions{Rank: rankFileLocks, Class: poison.FailClosed}, newFileLockSet())
	return t
}

// FileLocks returns the table of flock(2) and fcntl(2) locks.
func (s *Store) FileLocks() *FileLocks { return s.fileLocks }

// barrier waits for the changes of ino that are under way.
func (s *Store) barrier(ino Ino) {
	if n := s.nodes.peek(ino); n != nil { // without a node there is no change
		_, _ = n.guard.Read("file_lock", func(*inode) {})
		s.nodes.release(n)
	}
}

// check returns fs.ErrInvalid for a range that ends before it begins. A flock is
// of the whole file.
func (l *FileLock) check() error {
	if l.Flock {
		l.Start, l.End = 0, math.MaxUint64
	}
	if l.Start > l.End {
		return fmt.Errorf("%w: lock from %d to %d", fs.ErrInvalid, l.Start, l.End)
	}
	return nil
}

// Conflict returns a lock that stands against l, if there is one (F_GETLK): the
// one with the lowest first byte.
func (t *FileLocks) Conflict(ino Ino, l FileLock) (FileLock, bool, error) {
	if err := l.check(); err != nil {
		return FileLock{}, false, err
	}
	var found *FileLock
	_, err := t.set.Read("filelock_conflict", func(s *fileLocks) {
		if have := s.files[ino].conflict(&l); have != nil {
			other := *have
			found = &other
		}
	})
	if err != nil || found == nil {
		return FileLock{}, false, err
	}
	return *found, true, nil
}

// Lock takes l, replacing what its owner holds in the range. With wait it
// returns when it has it, or with ctx's error; else ErrLocked if another holds
// it. ErrDeadlock only for POSIX locks. ErrClosed: the origin is gone.
//
// A flock changes from shared to exclusive and back by being given up and taken
// again, as in flock(2): if Lock fails, the owner has none.
//
// Once an exclusive lock is returned, no change of the file by others that do
// not lock is under way any more.
func (t *FileLocks) Lock(ctx context.Context, ino Ino, l FileLock, wait bool) error {
	if err := l.check(); err != nil {
		return err
	}
	var (
		w       *lockWait
		outcome error
	)
	err := t.write("filelock_lock", func(s *fileLocks) {
		w, outcome = t.request(s, ino, l, wait)
	})
	if err == nil {
		err = outcome
	}
	if err == nil && w != nil {
		err = t.await(ctx, w)
	}
	if err == nil && l.Exclusive {
		t.barrier(ino)
	}
	return err
}

// request grants l, or returns the wait for it, or why it cannot be had.
func (t *FileLocks) request(s *fileLocks, ino Ino, l FileLock, wait bool) (*lockWait, error) {
	f := s.file(ino)
	defer s.tidy(ino)
	if have := f.flockOf(&l); have != nil && have.Exclusive != l.Exclusive {
		t.put(s, ino, &l, false)
		t.serve(s, ino)
	}
	switch {
	case f.conflict(&l) == nil:
		if s.count >= MaxFileLocks || len(f.held[kindOf(&l)]) >= MaxLocksPerFile {
			return nil, ErrLockLimit
		}
		t.put(s, ino, &l, true)
		t.serve(s, ino) // it may have replaced an exclusive lock by a shared one
		return nil, nil
	case !wait:
		return nil, ErrLocked
	case !l.Flock && s.deadlocks(ino, &l):
		return nil, ErrDeadlock
	}
	w := &lockWait{ino: ino, lock: l, done: make(chan struct{})}
	s.enqueue(w)
	return w, nil
}

// await returns when w is granted, or with ctx's error when it has been withdrawn.
func (t *FileLocks) await(ctx context.Context, w *lockWait) error {
	select {
	case <-w.done:
	case <-ctx.Done():
		if w.state.CompareAndSwap(waiting, withdrawn) {
			// If the table is poisoned, the reset takes it out.
			_ = t.write("filelock_withdraw", func(s *fileLocks) { s.dequeue(w) })
			return ctx.Err()
		}
		<-w.done
	}
	if w.state.Load() == refused {
		return ErrClosed
	}
	return nil
}

// Unlock gives up what l's owner holds in l's range.
func (t *FileLocks) Unlock(ino Ino, l FileLock) error {
	if err := l.check(); err != nil {
		return err
	}
	return t.write("filelock_unlock", func(s *fileLocks) { t.drop(s, ino, &l) })
}

// Release gives up all of the owner's locks of the kind on ino (close(2)). If
// the table is poisoned its reset does so, and Release returns nil. For most
// inodes without locks it costs one atomic load.
func (t *FileLocks) Release(ino Ino, origin Origin, owner uint64, flock bool) error {
	if t.mark(ino).all.Load() == 0 {
		return nil
	}
	return t.release("filelock_release", lockRelease{ino, origin, owner, flock})
}

// ReleaseOrigin gives up all locks of an origin, and refuses those that it waits
// for: its clients are gone. If the table is poisoned its reset does so, and
// ReleaseOrigin returns nil.
func (t *FileLocks) ReleaseOrigin(origin Origin) error {
	return t.release("filelock_release_origin", lockRelease{origin: origin})
}

// release does r now, or leaves it to the reset of a poisoned table.
func (t *FileLocks) release(op string, r lockRelease) error {
	err := t.write(op, func(s *fileLocks) { t.giveUp(s, r) })
	if !errors.Is(err, ErrPoisoned) {
		return err
	}
	t.mu.Lock()
	if t.owed == nil {
		t.owed = make(map[lockRelease]struct{})
	}
	t.owed[r] = struct{}{}
	t.mu.Unlock()
	return t.settle()
}

// settle does the releases that are owed, if the table is not poisoned any more.
func (t *FileLocks) settle() error {
	for t.set.Event() == nil {
		t.mu.Lock()
		owed := t.owed
		t.owed = nil
		t.mu.Unlock()
		if len(owed) == 0 {
			return nil
		}
		err := t.write("filelock_release", func(s *fileLocks) {
			for r := range owed {
				t.giveUp(s, r)
			}
		})
		if err == nil {
			return nil
		}
		t.mu.Lock()
		if t.owed == nil {
			t.owed = owed
		} else {
			maps.Copy(t.owed, owed)
		}
		t.mu.Unlock()
		if !errors.Is(err, ErrPoisoned) {
			return err
		}
	}
	return nil
}

// giveUp does one release.
func (t *FileLocks) giveUp(s *fileLocks, r lockRelease) {
	if r.ino != 0 {
		t.drop(s, r.ino, &FileLock{Origin: r.origin, Owner: r.owner, Flock: r.flock, End: math.MaxUint64})
		return
	}
	for ino, f := range s.files {
		for _, w := range f.queue {
			if w.lock.Origin == r.origin && w.state.CompareAndSwap(waiting, refused) {
				close(w.done)
			}
		}
		for _, l := range f.of(r.origin) {
			t.put(s, ino, &l, false)
		}
		t.serve(s, ino)
		s.tidy(ino)
	}
}

// write runs fn on the table.
func (t *FileLocks) write(op string, fn func(*fileLocks)) error {
	return t.set.Write(op, func(s *fileLocks) error {
		if err := t.fault(faultFileLockChange); err != nil {
			return err
		}
		fn(s)
		return nil
	})
}

// drop gives up a range and serves those who wait for it.
func (t *FileLocks) drop(s *fileLocks, ino Ino, l *FileLock) {
	if s.files[ino] == nil {
		return
	}
	t.put(s, ino, l, false)
	t.serve(s, ino)
	s.tidy(ino)
}

// put lets l's owner hold l, or with take false nothing in l's range, and reports
// whether that may let others in.
func (t *FileLocks) put(s *fileLocks, ino Ino, l *FileLock, take bool) (opened bool) {
	f := s.file(ino)
	held := &f.held[kindOf(l)]
	next := replaceRange(*held, *l, take)
	all, exclusive := len(next)-len(*held), exclusives(next)-exclusives(*held)
	m := t.mark(ino)
	m.all.Add(int32(max(all, 0)))
	m.exclusive.Add(int32(max(exclusive, 0)))
	s.count += all
	*held = next
	m.all.Add(int32(min(all, 0)))
	m.exclusive.Add(int32(min(exclusive, 0)))
	return !take || exclusive < 0
}

// serve grants what nothing stands against any more, in the order of the queue.
func (t *FileLocks) serve(s *fileLocks, ino Ino) {
	f := s.file(ino)
	for i := 0; i < len(f.queue); {
		w := f.queue[i]
		switch {
		case w.state.Load() != waiting:
			s.dequeue(w)
		case f.conflict(&w.lock) != nil:
			i++
		case w.state.CompareAndSwap(waiting, granted):
			opened := t.put(s, ino, &w.lock, true)
			close(w.done)
			s.dequeue(w)
			if opened {
				i = 0
			}
		}
	}
}

// bucket returns the index of the inode's mark.
func (t *FileLocks) bucket(ino Ino) int { return int((uint64(ino) * 0x9e3779b97f4a7c15) >> 54) }

func (t *FileLocks) mark(ino Ino) *lockMark { return &t.marks[t.bucket(ino)] }

// refuse returns ErrLocked if the inode has an exclusive lock, or an error
// matching ErrPoisoned if nobody can know.
func (t *FileLocks) refuse(ino Ino) error {
	if t.mark(ino).exclusive.Load() == 0 {
		return nil
	}
	locked := false
	if _, err := t.set.Read("filelock_refuse", func(s *fileLocks) { locked = s.files[ino].exclusive() }); err != nil {
		return err
	}
	if locked {
		return fmt.Errorf("%w: inode %d", ErrLocked, ino)
	}
	return nil
}

// locked returns the inodes that have an exclusive lock.
func (t *FileLocks) locked() (inos []Ino, err error) {
	marked := false
	for i := range t.marks {
		marked = marked || t.marks[i].exclusive.Load() != 0
	}
	if !marked {
		return nil, nil
	}
	_, err = t.set.Read("filelock_refuse", func(s *fileLocks) {
		for ino, f := range s.files {
			if f.exclusive() {
				inos = append(inos, ino)
			}
		}
	})
	return inos, err
}

// LockedByFile reports whether a client of an adapter holds an exclusive lock on
// the inode, or may hold one and the table of locks is poisoned. It costs one
// atomic load for most inodes.
func (s *Store) LockedByFile(ino Ino) bool { return s.fileLocks.refuse(ino) != nil }

// unlocked returns nil if the change may change the inode: it is an adapter's,
// whose clients lock by agreement, or nobody has locked the inode.
func (c *change) unlocked(ino Ino) error {
	if c.origin != 0 || c.locks.background {
		return nil
	}
	return c.s.fileLocks.refuse(ino)
}

// unlockedBelow returns nil if the change may remove the directory top with all
// below it.
func (c *change) unlockedBelow(top Ino) error {
	if c.origin != 0 || c.locks.background {
		return nil
	}
	inos, err := c.s.fileLocks.locked()
	if err != nil {
		return err
	}
	for _, ino := range inos {
		below, err := c.s.below(ino, top)
		if err != nil {
			return err
		}
		if below {
			return fmt.Errorf("%w: inode %d", ErrLocked, ino)
		}
	}
	return nil
}

// reset validates what a poisoned table holds, and does the releases it owes.
func (t *FileLocks) reset(wantGen uint64, o poison.ResetOptions) (kept, dropped []string, err error) {
	err = t.set.Reset(wantGen, o, func(old *fileLocks) (fileLocks, error) {
		fresh, k, d := old.validated()
		kept, dropped = k, d
		if !o.DryRun {
			t.adopt(&fresh, old)
		}
		return fresh, nil
	})
	if err == nil && !o.DryRun {
		err = t.settle()
	}
	return kept, dropped, err
}

// adopt goes on with a validated table instead of old.
func (t *FileLocks) adopt(fresh, old *fileLocks) {
	for i := range t.marks {
		t.marks[i].all.Add(1) // until they are counted, there may be any
		t.marks[i].exclusive.Add(1)
	}
	for ino, f := range old.files {
		for _, w := range f.queue {
			if w.state.Load() == granted && !isClosed(w.done) { // its turn had come, and nobody has told it
				w.state.Store(waiting)
				fresh.enqueue(w)
			}
		}
		t.serve(fresh, ino)
		fresh.tidy(ino)
	}
	var all, exclusive [len(t.marks)]int32
	for ino, f := range fresh.files {
		i := t.bucket(ino)
		all[i] += int32(len(f.held[0]) + len(f.held[1]))
		exclusive[i] += int32(exclusives(f.held[0]) + exclusives(f.held[1]))
	}
	for i := range t.marks {
		t.marks[i].all.Store(all[i])
		t.marks[i].exclusive.Store(exclusive[i])
	}
}

package store

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
)

// fileLocks is the table's content.
type fileLocks struct {
	files map[Ino]*lockedFile
	count int // locks held
	// waits are the requests of POSIX locks that wait, by owner: the edges of
	// the graph in which a deadlock is a circle.
	waits map[lockOwner][]*lockWait
}

// lockOwner is who holds a lock. One owner's locks never stand against each other.
type lockOwner struct {
	origin Origin
	owner  uint64
}

func (l *FileLock) owner() lockOwner { return lockOwner{l.Origin, l.Owner} }

// lockedFile is the locks of one inode. INVARIANT: one owner's locks of one kind
// do not overlap, those of one mode do not touch, and no two owners' stand
// against each other. Each kind is ordered by first byte.
type lockedFile struct {
	held  [2][]FileLock // by kindOf
	queue []*lockWait   // in order of arrival
}

// kindOf is the index of a lock's kind in lockedFile.held.
func kindOf(l *FileLock) int {
	if l.Flock {
		return 1
	}
	return 0
}

// lockWait is a request that waits.
type lockWait struct {
	ino   Ino
	lock  FileLock
	state atomic.Int32  // leaves waiting once, by whoever is first
	done  chan struct{} // closed when it was granted or refused
}

const (
	waiting int32 = iota
	granted
	refused   // the origin is gone
	withdrawn // the waiter's context has ended
)

func newFileLockSet() fileLocks {
	return fileLocks{files: map[Ino]*lockedFile{}, waits: map[lockOwner][]*lockWait{}}
}

// file returns the locks of ino, which are in the table until tidy.
func (s *fileLocks) file(ino Ino) *lockedFile {
	f := s.files[ino]
	if f == nil {
		f = &lockedFile{}
		s.files[ino] = f
	}
	return f
}

// tidy forgets ino if it has no locks and no requests.
func (s *fileLocks) tidy(ino Ino) {
	if f := s.files[ino]; f != nil && len(f.held[0])+len(f.held[1])+len(f.queue) == 0 {
		delete(s.files, ino)
	}
}

func (s *fileLocks) enqueue(w *lockWait) {
	f := s.file(w.ino)
	f.queue = append(f.queue, w)
	if !w.lock.Flock {
		o := w.lock.owner()
		s.waits[o] = append(s.waits[o], w)
	}
}

func (s *fileLocks) dequeue(w *lockWait) {
	is := func(other *lockWait) bool { return other == w }
	if f := s.files[w.ino]; f != nil {
		f.queue = slices.DeleteFunc(f.queue, is)
		s.tidy(w.ino)
	}
	o := w.lock.owner()
	if s.waits[o] = slices.DeleteFunc(s.waits[o], is); len(s.waits[o]) == 0 {
		delete(s.waits, o)
	}
}

// deadlocks reports whether l's owner would wait for itself: a holder of what
// stands against l waits, directly or through others, for l's owner.
func (s *fileLocks) deadlocks(ino Ino, l *FileLock) bool {
	seen := map[lockOwner]bool{}
	next := s.waitingFor(nil, s.files[ino], l, seen)
	for len(next) > 0 && !seen[l.owner()] {
		o := next[len(next)-1]
		next = next[:len(next)-1]
		for _, w := range s.waits[o] {
			if w.state.Load() == waiting {
				next = s.waitingFor(next, s.files[w.ino], &w.lock, seen)
			}
		}
	}
	return seen[l.owner()]
}

// waitingFor adds to seen the owners of the locks in f that stand against l, and appends
// those of them that were not in it and wait themselves.
func (s *fileLocks) waitingFor(to []lockOwner, f *lockedFile, l *FileLock, seen map[lockOwner]bool) []lockOwner {
	if f == nil {
		return to
	}
	held := f.held[kindOf(l)]
	for i := range held {
		o := held[i].owner()
		if !held[i].against(l) || seen[o] {
			continue
		}
		seen[o] = true
		if len(s.waits[o]) > 0 {
			to = append(to, o)
		}
	}
	return to
}

// against reports whether l, held, stands against other, of the same kind.
func (l *FileLock) against(other *FileLock) bool {
	return (l.Exclusive || other.Exclusive) && l.Start <= other.End && other.Start <= l.End && l.owner() != other.owner()
}

// conflict returns the first lock that stands against l, nil if there is none.
func (f *lockedFile) conflict(l *FileLock) *FileLock {
	if f == nil {
		return nil
	}
	held := f.held[kindOf(l)]
	for i := range held {
		if held[i].against(l) {
			return &held[i]
		}
	}
	return nil
}

// flockOf returns the flock that l's owner has if l is one too, else nil.
func (f *lockedFile) flockOf(l *FileLock) *FileLock {
	if !l.Flock {
		return nil
	}
	i := slices.IndexFunc(f.held[1], func(have FileLock) bool { return have.owner() == l.owner() })
	if i < 0 {
		return nil
	}
	return &f.held[1][i]
}

// of returns the locks of an origin.
func (f *lockedFile) of(origin Origin) (locks []FileLock) {
	for _, held := range f.held {
		for _, l := range held {
			if l.Origin == origin {
				locks = append(locks, l)
			}
		}
	}
	return locks
}

// exclusive reports whether any lock of the file is.
func (f *lockedFile) exclusive() bool {
	return f != nil && exclusives(f.held[0])+exclusives(f.held[1]) > 0
}

func exclusives(locks []FileLock) (n int) {
	for i := range locks {
		if locks[i].Exclusive {
			n++
		}
	}
	return n
}

// replaceRange returns held with l in place of what l's owner had in its range,
// or with take false with nothing there. What remains of a lock that reaches
// beyond the range stays; locks of one mode that touch become one.
func replaceRange(held []FileLock, l FileLock, take bool) []FileLock {
	next := make([]FileLock, 0, len(held)+2)
	var pieces []FileLock // at most one that reaches beyond each end, and l
	for _, have := range held {
		switch {
		case have.owner() != l.owner(), !take && !overlap(&have, &l), !overlap(&have, &l) && !touch(&have, &l):
			next = append(next, have)
		case take && have.Exclusive == l.Exclusive:
			l.Start, l.End = min(l.Start, have.Start), max(l.End, have.End)
		default:
			if have.Start < l.Start {
				left := have
				left.End = min(have.End, l.Start-1)
				pieces = append(pieces, left)
			}
			if have.End > l.End {
				right := have
				right.Start = max(have.Start, l.End+1)
				pieces = append(pieces, right)
			}
		}
	}
	if take {
		pieces = append(pieces, l)
	}
	for _, p := range pieces {
		i, _ := slices.BinarySearchFunc(next, p, compareLocks)
		next = slices.Insert(next, i, p)
	}
	if len(next) == 0 {
		return nil
	}
	return next
}

// compareLocks is the order of lockedFile.held.
func compareLocks(a, b FileLock) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Owner, b.Owner))
}

func overlap(a, b *FileLock) bool { return a.Start <= b.End && b.Start <= a.End }

// touch reports whether one of two ranges begins right after the other's end.
func touch(a, b *FileLock) bool {
	return a.End != math.MaxUint64 && a.End+1 == b.Start || b.End != math.MaxUint64 && b.End+1 == a.Start
}

// validated returns a table with what is consistent of s, which it does not
// change, and what it has kept and dropped in words. Of two locks that stand
// against each other the second is dropped.
func (s *fileLocks) validated() (fresh fileLocks, kept, dropped []string) {
	fresh = newFileLockSet()
	for _, ino := range slices.Sorted(maps.Keys(s.files)) {
		old := s.files[ino]
		if old == nil {
			continue
		}
		f := fresh.file(ino)
		add := func(l FileLock) {
			if l.check() != nil || f.conflict(&l) != nil {
				dropped = append(dropped, fmt.Sprintf("%s was dropped: it is not consistent", l.describe(ino)))
				return
			}
			next := replaceRange(f.held[kindOf(&l)], l, true)
			fresh.count += len(next) - len(f.held[kindOf(&l)])
			f.held[kindOf(&l)] = next
			kept = append(kept, l.describe(ino))
		}
		for kind, held := range old.held {
			for _, l := range held {
				l.Flock = kind == 1
				add(l)
			}
		}
		for _, w := range old.queue {
			if w.state.Load() == waiting {
				fresh.enqueue(w)
			}
		}
		fresh.tidy(ino)
	}
	return fresh, kept, dropped
}

func (l *FileLock) describe(ino Ino) string {
	kind, mode := "POSIX lock", "shared"
	if l.Flock {
		kind = "flock"
	}
	if l.Exclusive {
		mode = "exclusive"
	}
	return fmt.Sprintf("%s %s on inode %d, bytes %d to %d", mode, kind, ino, l.Start, l.End)
}

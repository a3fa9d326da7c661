package poison

import (
	"slices"
	"time"
)

// A Section is a running call of Atomically, and gives access to what it holds.
type Section struct {
	op    string
	began time.Duration // when all locks were held; 0: not timed
	holds []hold
	few   [4]hold // room for holds, for most operations
	ended bool
}

// hold is one lock of a Section.
type hold struct {
	l     Locker
	c     *core
	write bool
}

// Atomically runs f with all locks of write held for writing and all of read held
// for reading, and returns its error unchanged. It takes them in lock order: by
// ascending rank and, within a family, by ascending id. A lock given twice is taken
// once, for writing if any mention says so. Held gives f the values.
//
// All locks are checked before f runs. If one is poisoned, also one to be read, f
// does not run and Atomically returns an *Error with Refused set: a change must
// not build on recovered data, and a refusal must come before the first change.
//
// A panic, a Goexit or Fatal in f poisons every lock held for writing, all of them
// before any is released, each event naming the others in Also; Disposable ones
// are emptied. The locks held for reading stay healthy. What Atomically then
// returns is what Write would. When no lock is held for writing, a panic goes on
// unchanged as it does in Read.
func Atomically(op string, write, read []Locker, f func(*Section) error) (err error) {
	s := &Section{op: op}
	s.plan(write, read)
	if err := s.acquire(); err != nil {
		return err
	}
	how := running
	defer func() {
		switch {
		case how == returned:
			s.took()
			s.release()
		case s.writes():
			err = s.failed(how, recover(), err)
		default:
			s.release()
			s.countReadPanic(how)
		}
	}()
	err = f(s)
	how = end(err)
	return err
}

// Held returns the value of g, which s must hold; one held for reading must not be
// changed. The pointer is good until the section ends. Held panics when s does not
// hold g or has ended.
func Held[T any](s *Section, g *Guarded[T]) *T {
	if s.ended {
		panic("poison: Held(" + g.Name() + ") after the end of section " + s.op)
	}
	for i := range s.holds {
		if s.holds[i].c == &g.core {
			return &g.v
		}
	}
	panic("poison: section " + s.op + " does not hold " + g.Name())
}

// plan fills in holds: in lock order, each lock once.
func (s *Section) plan(write, read []Locker) {
	s.holds = s.few[:0]
	for _, l := range write {
		s.holds = append(s.holds, hold{l, l.lockCore(), true})
	}
	for _, l := range read {
		s.holds = append(s.holds, hold{l, l.lockCore(), false})
	}
	slices.SortStableFunc(s.holds, func(a, b hold) int { return a.c.compare(b.c) })
	// Stable: of two mentions the one for writing comes first, and stays.
	s.holds = slices.CompactFunc(s.holds, func(a, b hold) bool { return a.c == b.c })
}

// acquire takes all locks, or none when one of them is poisoned.
func (s *Section) acquire() error {
	if orderChecks {
		orderAcquireAll(s)
	}
	index := opIndex(s.op)
	for i := range s.holds {
		h := &s.holds[i]
		if h.write {
			h.c.lockExclusive()
			h.c.enter(index)
		} else {
			h.c.lockShared()
		}
	}
	for i := range s.holds {
		if p := s.holds[i].c.poisoned(); p != nil {
			s.release()
			s.holds[i].c.countRefusal(p)
			return p.refusal
		}
	}
	if len(s.holds) > 0 {
		s.began = s.holds[0].c.began()
	}
	return nil
}

// took counts the section for every lock that it holds for writing.
func (s *Section) took() {
	for i := range s.holds {
		if h := &s.holds[i]; h.write {
			h.c.took(s.began)
		}
	}
}

// release frees the locks in reverse order and ends s.
func (s *Section) release() {
	s.ended = true
	for i := len(s.holds) - 1; i >= 0; i-- {
		if h := &s.holds[i]; h.write {
			h.c.unlockExclusive()
		} else {
			h.c.unlockShared()
		}
	}
}

func (s *Section) writes() bool {
	return slices.ContainsFunc(s.holds, func(h hold) bool { return h.write })
}

// failed poisons or empties what s holds for writing, releases everything and
// returns the error for the caller.
func (s *Section) failed(how ending, r any, fault error) error {
	a := newAbandoned(s.op)
	for _, h := range s.holds {
		if h.write {
			a.locks = append(a.locks, h.l)
		}
	}
	defer func() { // as in writeFailed
		s.release()
		a.announce()
	}()
	a.abandon(how, r, fault)
	return a.err
}

// countReadPanic counts a section that held no lock for writing and ended with how.
func (s *Section) countReadPanic(how ending) {
	if how != running {
		return
	}
	for _, h := range s.holds {
		h.c.grp.n.readPanics.Add(1)
	}
}

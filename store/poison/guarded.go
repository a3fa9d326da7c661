package poison

import "fmt"

// Guarded is a value of type T behind a read-write lock that can be poisoned.
// The value is reached only inside the sections that Read, Write, Atomically and
// Reset run; a pointer into it must not outlive the section.
//
// A Guarded is made by New or NewIn and must not be copied. It costs 56 bytes
// more than T on a 64-bit machine.
type Guarded[T any] struct {
	core
	v T
}

// LockOptions describe a domain lock. The zero value is a Durable lock of rank 0.
type LockOptions struct {
	// Rank is the lock's place in the lock order: locks are taken by ascending
	// rank, and by ascending id within a family.
	Rank  int
	Class Class
	// Empty is a func() T that makes the empty value of a Disposable lock. Nil
	// means the zero value of T. It runs with the lock held.
	Empty any
}

// New returns a domain lock around v: one with a name of its own, listed in
// Health at all times. It panics when name is empty or taken in r, and when
// o.Empty is not a func() T.
func New[T any](r *Registry, name string, o LockOptions, v T) *Guarded[T] {
	checkEmpty[T](o.Empty)
	g := &Guarded[T]{v: v}
	g.grp = &group{
		reg: r, name: name, rank: o.Rank, class: o.Class, empty: o.Empty, seq: groupSeq.Add(1),
	}
	r.addDomain(g)
	return g
}

// NewIn returns the lock "<family>:<id>" around v. The registry keeps no record
// of it while it is healthy. It panics when the family's Empty is not a func() T.
func NewIn[T any](f *Family, id uint64, v T) *Guarded[T] {
	checkEmpty[T](f.empty)
	g := &Guarded[T]{v: v}
	g.grp, g.id = &f.group, id
	return g
}

func checkEmpty[T any](empty any) {
	if empty == nil {
		return
	}
	if _, ok := empty.(func() T); !ok {
		panic(fmt.Sprintf("poison: Empty is a %T, want a %T", empty, (func() T)(nil)))
	}
}

// Name returns the lock's name, "<family>:<id>" for a lock of a family.
func (g *Guarded[T]) Name() string { return g.name() }

// ID returns the id given to NewIn, 0 for a domain lock.
func (g *Guarded[T]) ID() uint64 { return g.id }

// Event returns the event g is poisoned by, or nil when g is healthy. It takes no
// lock, so what it says may be old by the time it returns: to act on it, run a
// section, or name its generation in Reset.
func (g *Guarded[T]) Event() *Event { return g.event() }

// Refuse returns the error of a Write that is refused because g is poisoned, and
// counts it as one; nil: g is healthy. It spares the work before a Write that cannot
// succeed, takes no lock, and is no promise for that Write.
func (g *Guarded[T]) Refuse() error {
	p := g.poisoned()
	if p == nil {
		return nil
	}
	g.countRefusal(p)
	return p.refusal
}

func (g *Guarded[T]) lockCore() *core { return &g.core }

func (g *Guarded[T]) discardLocked() {
	var v T
	if f, ok := g.grp.empty.(func() T); ok {
		isolate(func() { v = f() })
	}
	g.v = v
}

// Read runs f with g held for reading. f must not change the value.
//
// On a healthy lock Read returns nil, nil; a panic or Goexit in f releases the
// lock and goes on unchanged, and poisons nothing.
//
// On a poisoned lock f runs on the recovered data, which may be torn. Read
// returns the event, for the caller to mark its answer with, and logs the warning
// "lock poisoned, recovering" (rate-limited per lock and op). A panic in f is then
// an expected consequence and is returned as an *Error.
//
// On a poisoned FailClosed lock Read returns an *Error and f does not run.
func (g *Guarded[T]) Read(op string, f func(*T)) (*Event, error) {
	c := &g.core
	if orderChecks {
		orderAcquire(c, op, shared, nil)
	}
	c.lockShared()
	if p := c.poisoned(); p != nil {
		return g.readPoisoned(op, f, p)
	}
	done := false
	defer func() {
		c.mu.RUnlock()
		if orderChecks {
			orderRelease(c)
		}
		if !done {
			c.grp.n.readPanics.Add(1)
		}
	}()
	f(&g.v)
	done = true
	return nil, nil
}

// readPoisoned is Read from where the lock, held for reading, was found poisoned
// by p. It releases the lock.
func (g *Guarded[T]) readPoisoned(op string, f func(*T), p *poisoning) (ev *Event, err error) {
	c := &g.core
	if c.grp.class == FailClosed {
		c.unlockShared()
		c.grp.n.readsRejected.Add(1)
		return nil, p.refusal
	}
	if t := p.gate.Load(); t != nil {
		c.mu.RUnlock()
		<-t.open
		c.mu.RLock()
		p = c.poisoned() // nil: reset while this read waited
	}
	done := false
	defer func() {
		c.unlockShared()
		if p != nil {
			c.recovered(op, p)
		}
		if done {
			return
		}
		c.grp.n.readPanics.Add(1)
		if p == nil {
			return // the lock was healthy: the panic goes on unchanged
		}
		if r := recover(); r != nil {
			ev, err = nil, &Error{Ev: p.ev, cause: asError(r)}
		}
	}()
	f(&g.v)
	done = true
	if p != nil {
		ev = p.ev
	}
	return ev, nil
}

// How a write section has ended so far.
type ending uint8

const (
	running  ending = iota // or panicked, or exited
	returned               // with or without an error
	fatal                  // returned an error marked by Fatal
)

// end tells the two ways of returning apart. It is small enough to be inlined.
func end(err error) ending {
	if err == nil {
		return returned
	}
	return endWithError(err)
}

func endWithError(err error) ending {
	if fatalStack(err) != nil {
		return fatal
	}
	return returned
}

// Write runs f with g held for writing and returns its error unchanged. An error
// does not poison: f must have undone its changes before it returns one, or
// return Fatal of it.
//
// On a poisoned lock Write returns an *Error with Refused set, and f does not run.
//
// A panic in f poisons g before the lock is released and is returned as an
// *Error; the process lives. A Goexit in f poisons g, and the goroutine exits. On
// a Disposable lock the value is emptied instead and a panic is returned as a
// *DiscardedError.
//
// f must not recover a panic of its own (the lock would never learn of it),
// wait for a client, a channel or a callback, or take this lock again.
func (g *Guarded[T]) Write(op string, f func(*T) error) (err error) {
	c := &g.core
	index := opIndex(op)
	if orderChecks {
		orderAcquire(c, op, exclusive, nil)
	}
	c.lockExclusive()
	if p := c.poisoned(); p != nil {
		return c.refuse(p)
	}
	c.enter(index)
	began := c.began()
	how := running
	defer func() {
		if how != returned {
			err = g.writeFailed(op, how, recover(), err)
			return
		}
		c.took(began)
		c.leave()
		c.mu.Unlock()
		if orderChecks {
			orderRelease(c)
		}
	}()
	err = f(&g.v)
	how = end(err)
	return err
}

// refuse releases c, held for writing and poisoned by p.
func (c *core) refuse(p *poisoning) error {
	c.mu.Unlock()
	if orderChecks {
		orderRelease(c)
	}
	c.countRefusal(p)
	return p.refusal
}

// countRefusal counts a write section refused because of p.
func (c *core) countRefusal(p *poisoning) {
	p.rejected.Add(1)
	c.grp.n.writesRejected.Add(1)
}

// writeFailed poisons or empties g, held for writing by a section that ended
// with how, panic value r and error fault, releases it, and returns the error for
// the section's caller.
func (g *Guarded[T]) writeFailed(op string, how ending, r any, fault error) error {
	c := &g.core
	a := newAbandoned(op, g)
	// Deferred, because describing a panic value runs code of the value's type,
	// which may exit the goroutine: the lock must come free all the same.
	defer func() {
		c.unlockExclusive()
		a.announce()
	}()
	a.abandon(how, r, fault)
	return a.err
}

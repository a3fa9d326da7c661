package poison

import (
	"cmp"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"
)

// core is the part of a Guarded that does not depend on the type it guards.
type core struct {
	mu sync.RWMutex

	// st is nil until the first poisoning. It is stored only with mu held for
	// writing, and event and generation travel in the same store: an admin who
	// has seen one has seen the other.
	st   atomic.Pointer[state]
	hold uintptr // see hold.go

	// Immutable after New.
	grp *group
	id  uint64
}

// state is what one store to core.st publishes. Immutable but for the
// counters inside poison.
type state struct {
	gen    uint64
	poison *poisoning // nil: healthy
}

// poisoning is the time from one event to its reset or to the next event.
type poisoning struct {
	ev      *Event
	refusal *Error // shared by every refused section: refusing allocates nothing

	gate     atomic.Pointer[gate] // see reset.go
	rejected atomic.Uint64
	warnings warnLimit
	reads    atomic.Uint64
}

// group is what the locks of one family share. A domain lock is a group of one.
type group struct {
	reg    *Registry
	name   string
	rank   int
	seq    uint64 // order of creation in this process: breaks ties of rank
	class  Class
	family bool
	each   func(yield func(Locker) bool)
	detail func(id uint64) string
	empty  any // func() T or nil
	n      counters
}

// groupSeq numbers groups over all registries, so that the lock order is total.
var groupSeq atomic.Uint64

// Locker is a *Guarded of any type, for use in Atomically and in
// FamilyOptions.Each. Only Guarded implements it.
type Locker interface {
	// Name returns the lock's name, "<family>:<id>" for a lock of a family.
	Name() string
	// Event returns the event the lock is poisoned by, nil when it is healthy.
	Event() *Event

	lockCore() *core
	// discardLocked replaces the value by an empty one. The caller holds the
	// lock for writing.
	discardLocked()
}

func (c *core) name() string {
	if !c.grp.family {
		return c.grp.name
	}
	return c.grp.name + ":" + strconv.FormatUint(c.id, 10)
}

// poisoned returns the current poisoning, nil when c is healthy.
func (c *core) poisoned() *poisoning {
	if s := c.st.Load(); s != nil {
		return s.poison
	}
	return nil
}

func (c *core) event() *Event {
	if p := c.poisoned(); p != nil {
		return p.ev
	}
	return nil
}

// compare is the order in which locks are taken: rank, then group, then id. Two
// locks of one family and id (an old node and its successor) are told apart by
// address, which is stable: what a registry can reach does not move.
func (c *core) compare(d *core) int {
	if c == d {
		return 0
	}
	return cmp.Or(
		cmp.Compare(c.grp.rank, d.grp.rank),
		cmp.Compare(c.grp.seq, d.grp.seq),
		cmp.Compare(c.id, d.id),
		cmp.Compare(uintptr(unsafe.Pointer(c)), uintptr(unsafe.Pointer(d))),
	)
}

// unlockShared ends a read section outside the hot path.
func (c *core) unlockShared() {
	c.mu.RUnlock()
	if orderChecks {
		orderRelease(c)
	}
}

// unlockExclusive ends a write section that had entered, outside the hot path.
func (c *core) unlockExclusive() {
	c.leave()
	c.mu.Unlock()
	if orderChecks {
		orderRelease(c)
	}
}

// isolate calls f, ends a panic in it, and returns the panic value and whether f
// returned. A Goexit cannot be stopped; callers that must survive it run in a
// goroutine that starts itself again.
func isolate(f func()) (r any, ok bool) {
	defer func() {
		if !ok {
			r = recover()
		}
	}()
	f()
	return nil, true
}

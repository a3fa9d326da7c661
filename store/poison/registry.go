package poison

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// RegistryOptions configure a Registry. The zero value logs nothing.
type RegistryOptions struct {
	// Logger gets a line per poisoning, reset, discarded cache and stuck lock,
	// and the rate-limited warnings of recovered reads. Nil means none. Its
	// handler must not use a lock of the registry.
	Logger *slog.Logger
	// Now is the clock for events and warnings. Nil means time.Now.
	Now func() time.Time
	// Generation is the one to count on from. A program that keeps events
	// across restarts passes the highest it has seen, so that a page opened
	// before the restart cannot reset an event it never showed.
	Generation uint64
	// WarnEvery is the least time between two warnings of recovered reads for
	// one lock and op. Zero means a second, negative means no limit.
	WarnEvery time.Duration
	// HookQueue bounds the transitions that wait for the hooks. Zero means 1024.
	HookQueue int
	// CloseTimeout bounds the wait of Close for the hooks. Zero means 5 s.
	CloseTimeout time.Duration
	// Durations has write sections timed: see Counters.Writes. It costs each some
	// 50 ns.
	Durations bool
}

// A Registry knows the domain locks and families of a program, and which of their
// locks are poisoned or stuck. None of its methods takes a lock of the program, so
// they all work while any number of those is stuck.
type Registry struct {
	// Immutable after NewRegistry.
	log          *slog.Logger
	clock        func() time.Time
	warnEvery    time.Duration
	closeTimeout time.Duration
	durations    bool

	hooks     dispatcher
	watch     watchdog
	describer describer
	count     atomic.Int64 // len(poisoned)

	// mu protects the fields below. It is taken inside the locks of the program
	// and is a leaf: no lock is taken and no code of others is called under it.
	mu sync.Mutex

	gen      uint64
	poisoned map[*core]Locker
	names    map[string]bool
	domains  []Locker
	families []*Family
	closed   bool
}

// NewRegistry returns an empty registry. It runs no goroutine until OnTransition.
func NewRegistry(o RegistryOptions) *Registry {
	r := &Registry{
		log: o.Logger, clock: o.Now, warnEvery: o.WarnEvery, closeTimeout: o.CloseTimeout,
		durations: o.Durations, gen: o.Generation, poisoned: map[*core]Locker{}, names: map[string]bool{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.clock == nil {
		r.clock = time.Now
	}
	if r.warnEvery == 0 {
		r.warnEvery = time.Second
	}
	if r.closeTimeout == 0 {
		r.closeTimeout = 5 * time.Second
	}
	r.hooks.init(r, o.HookQueue)
	return r
}

// FamilyOptions describe a family: many locks of one kind, such as one per inode.
type FamilyOptions struct {
	Name  string // of the family; its locks are named "<Name>:<id>"
	Rank  int    // as LockOptions.Rank
	Class Class
	// Empty is as LockOptions.Empty.
	Empty any

	// Each calls yield with every live lock of the family until yield returns
	// false, for the watchdog. Nil means that it sees only the poisoned ones. It
	// is called with no lock held, and must not take a lock of the registry.
	Each func(yield func(Locker) bool)
	// Detail says in words that a person knows what the lock guards, such as a
	// path. It is called with no lock held, on a goroutine of the registry's, and
	// should not take a lock of the program, which may be stuck: who asks waits
	// 250 ms at most, and then goes by the last answer.
	Detail func(id uint64) string
}

// Family is a kind of locks, made by NewFamily and filled by NewIn.
type Family struct{ group }

// NewFamily adds a family. It panics when the name is empty or taken in r.
func (r *Registry) NewFamily(o FamilyOptions) *Family {
	f := &Family{group{
		reg: r, name: o.Name, rank: o.Rank, class: o.Class, empty: o.Empty,
		each: o.Each, detail: o.Detail, family: true, seq: groupSeq.Add(1),
	}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takeNameLocked(o.Name)
	r.families = append(r.families, f)
	return f
}

func (r *Registry) addDomain(l Locker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takeNameLocked(l.Name())
	r.domains = append(r.domains, l)
}

func (r *Registry) takeNameLocked(name string) {
	if name == "" {
		panic("poison: a lock needs a name")
	}
	if r.names[name] {
		panic("poison: the name " + name + " is taken in this registry")
	}
	r.names[name] = true
}

// publish marks l, held for writing, as poisoned by ev, which gets its generation
// here. Hooks run after released is closed.
func (r *Registry) publish(l Locker, ev *Event, released <-chan struct{}) {
	c := l.lockCore()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gen++
	ev.Gen = r.gen
	c.st.Store(&state{gen: ev.Gen, poison: &poisoning{ev: ev, refusal: &Error{Ev: ev, Refused: true}}})
	r.poisoned[c] = l
	r.count.Store(int64(len(r.poisoned)))
	c.grp.n.countEvent(ev.Cause)
	r.hooks.sendLocked(pending{
		Transition{Kind: TransitionPoisoned, Lock: ev.Lock, Event: ev, Gen: ev.Gen, At: ev.At}, c, released,
	})
}

// clear marks l, held for writing, as healthy and returns its new generation.
func (r *Registry) clear(l Locker, released <-chan struct{}) uint64 {
	c, now := l.lockCore(), r.now()
	ev := c.event()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gen++
	c.st.Store(&state{gen: r.gen})
	r.forgetLocked(c)
	r.hooks.sendLocked(pending{
		Transition{Kind: TransitionReset, Lock: ev.Lock, Event: ev, Gen: r.gen, At: now}, c, released,
	})
	return r.gen
}

func (r *Registry) forgetLocked(c *core) {
	delete(r.poisoned, c)
	r.count.Store(int64(len(r.poisoned)))
}

// Retire takes g off the registry's list of poisoned locks because what it guards
// is gone for good, such as a deleted inode. The lock itself stays poisoned. On a
// lock that is not listed Retire does nothing.
func (g *Guarded[T]) Retire() {
	r, c, now := g.grp.reg, &g.core, g.grp.reg.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.poisoned[c]; !ok {
		return
	}
	r.forgetLocked(c)
	r.describer.forget(c)
	ev := c.event()
	r.hooks.sendLocked(pending{
		Transition{Kind: TransitionRetired, Lock: ev.Lock, Event: ev, Gen: ev.Gen, At: now}, c, nil,
	})
}

// Generation returns the generation that the latest poisoning or reset was given.
func (r *Registry) Generation() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gen
}

// AnyPoisoned reports whether a lock of r is poisoned. It is one atomic load.
func (r *Registry) AnyPoisoned() bool { return r.count.Load() > 0 }

// OnTransition has fn called after each poisoning, reset and retirement from now
// on. All hooks run on one goroutine of the registry's own, one at a time, in order
// of generation, after the locks in question are free, so a hook may use any lock.
// A hook that panics or exits its goroutine is counted and called again next time.
// When hooks fall behind by more than the queue holds, transitions are dropped
// and counted (Transition.Dropped): a hook that sees the count rise should look
// at Health.
func (r *Registry) OnTransition(fn func(Transition)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hooks.addLocked(fn)
}

// Close runs the hooks for what has happened so far and stops their goroutine. It
// waits at most RegistryOptions.CloseTimeout. Locks go on working, without hooks.
func (r *Registry) Close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	done := r.hooks.closeLocked()
	r.mu.Unlock()
	if done == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.closeTimeout)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// now asks the clock, and the system's should the clock panic.
func (r *Registry) now() time.Time {
	t := time.Time{}
	if _, ok := isolate(func() { t = r.clock() }); !ok || t.IsZero() {
		t = time.Now()
	}
	return t
}

func (r *Registry) logReset(ev *Event, gen uint64) {
	r.log.Info("lock reset", "lock", ev.Lock, "gen", gen, "event_id", ev.ID)
}

package poison

import (
	"cmp"
	"log/slog"
	"runtime/debug"
	"time"
)

// abandoned is what a write section leaves behind that did not return normally:
// the locks it held for writing, and what became of them.
type abandoned struct {
	op    string
	locks []Locker // in lock order, all held for writing

	cause Cause
	value string
	stack []byte
	at    time.Time

	err error // for the section's caller
	// logs are the lines to write once the locks are free.
	logs []func()
	// released is closed once the locks are free; hooks wait for it.
	released chan struct{}
}

func newAbandoned(op string, locks ...Locker) *abandoned {
	return &abandoned{op: op, locks: locks, released: make(chan struct{})}
}

// abandon poisons every lock of a, or empties it if it is Disposable, before any
// of them is released. The section ended with how, panic value r, or error fault.
func (a *abandoned) abandon(how ending, r any, fault error) {
	var wrapped error
	// Deferred: whatever happens while the event is described, no lock may be
	// released with torn data that nothing marks.
	defer func() { a.publish(wrapped) }()
	switch {
	case how == fatal:
		a.cause, a.stack, wrapped = Invariant, fatalStack(fault), fault
		a.value = describe(fault)
	case r != nil:
		a.cause, a.stack, wrapped = Panic, debug.Stack(), asError(r)
		a.value = describe(r)
	default: // since Go 1.21 not even panic(nil) recovers as nil
		a.cause, a.stack = Goexit, debug.Stack()
	}
}

// publish marks the locks and makes the error for the section's caller: an *Error
// if any lock was poisoned, else a *DiscardedError. It calls no code of others but
// the registry's clock and the makers of empty values.
func (a *abandoned) publish(wrapped error) {
	var discarded error
	names := a.poisonable()
	for _, l := range a.locks {
		reg := l.lockCore().grp.reg
		if a.at.IsZero() {
			a.at = reg.now()
		}
		if l.lockCore().grp.class == Disposable {
			discarded = cmp.Or(discarded, a.discard(l, wrapped))
			continue
		}
		ev := a.poison(l, names)
		if a.err == nil {
			a.err = &Error{Ev: ev, cause: wrapped}
		}
	}
	a.err = cmp.Or(a.err, discarded)
}

func (a *abandoned) poison(l Locker, names []string) *Event {
	name, reg := l.Name(), l.lockCore().grp.reg
	ev := &Event{
		ID: newEventID(a.at), Lock: name, Op: a.op, Cause: a.cause,
		Value: a.value, Stack: a.stack, At: a.at, Also: without(names, name),
	}
	reg.publish(l, ev, a.released)
	withStack := len(a.logs) == 0 // the locks of one section share it
	a.logs = append(a.logs, func() { reg.logPoisoned(ev, withStack) })
	return ev
}

func (a *abandoned) discard(l Locker, wrapped error) error {
	c := l.lockCore()
	l.discardLocked()
	c.grp.n.discards.Add(1)
	d := &DiscardedError{
		Lock: c.name(), Op: a.op, Cause: a.cause, Value: a.value, Stack: a.stack, cause: wrapped,
	}
	withStack := len(a.logs) == 0
	a.logs = append(a.logs, func() { c.grp.reg.logDiscarded(d, withStack) })
	return d
}

// poisonable returns the names of the locks that are not Disposable.
func (a *abandoned) poisonable() []string {
	if len(a.locks) == 1 {
		return nil // no lock to name in Also
	}
	var names []string
	for _, l := range a.locks {
		if l.lockCore().grp.class != Disposable {
			names = append(names, l.Name())
		}
	}
	return names
}

// without returns a copy of names that lacks name.
func without(names []string, name string) []string {
	var rest []string
	for _, n := range names {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

// announce lets the hooks run and logs what happened. The locks are free.
func (a *abandoned) announce() {
	close(a.released)
	for _, log := range a.logs {
		isolate(log)
	}
}

// logPoisoned logs ev, its stack only if told to: the events of one section share it.
func (r *Registry) logPoisoned(ev *Event, stack bool) {
	args := []any{
		"lock", ev.Lock, "op", ev.Op, "cause", ev.Cause.String(),
		"value", ev.Value, "gen", ev.Gen, "event_id", ev.ID,
	}
	if len(ev.Also) > 0 {
		args = append(args, "also", ev.Also)
	}
	if stack {
		args = append(args, "stack", string(ev.Stack))
	}
	r.log.Error("lock poisoned", args...)
}

func (r *Registry) logDiscarded(d *DiscardedError, stack bool) {
	args := []any{"lock", d.Lock, "op", d.Op, "cause", d.Cause.String(), "value", d.Value}
	if stack {
		args = append(args, "stack", string(d.Stack))
	}
	r.log.Warn("lock contents discarded", args...)
}

// recovered counts and logs a read that was served from the poisoned value. The
// caller has released the lock.
func (c *core) recovered(op string, p *poisoning) {
	p.reads.Add(1)
	c.grp.n.recoveredReads.Add(1)
	r := c.grp.reg
	suppressed, ok := p.warnings.allow(op, r.now(), r.warnEvery)
	if !ok {
		return
	}
	args := []any{slog.String("lock", p.ev.Lock), slog.String("op", op), slog.Uint64("gen", p.ev.Gen)}
	if suppressed > 0 {
		args = append(args, slog.Uint64("suppressed", suppressed))
	}
	isolate(func() { r.log.Warn("lock poisoned, recovering", args...) })
}

// Poison poisons g by hand: a drill, or a check that found the value wrong. It
// takes the write lock and returns the event. When g is poisoned already the
// first cause stays, and Poison counts and returns the event that is there. A
// Disposable lock is emptied instead, and Poison returns nil.
func (g *Guarded[T]) Poison(op string, cause Cause, value string) *Event {
	c := &g.core
	a := newAbandoned(op, g)
	a.cause, a.value, a.stack = cause, value, debug.Stack()
	if orderChecks {
		orderAcquire(c, op, exclusive, nil)
	}
	c.mu.Lock()
	if p := c.poisoned(); p != nil {
		c.grp.n.repeats.Add(1)
		c.mu.Unlock()
		if orderChecks {
			orderRelease(c)
		}
		return p.ev
	}
	c.enter(opIndex(op))
	defer a.announce()
	defer c.unlockExclusive()
	a.publish(nil)
	return c.event() // nil when emptied
}

// asError returns a panic value that is an error, else nil.
func asError(r any) error {
	err, _ := r.(error)
	return err
}

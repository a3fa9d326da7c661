package poison

import (
	"fmt"
	"time"
)

// defaultResetWait is how long Reset waits for the lock when not told.
const defaultResetWait = time.Second

// ResetOptions tune a Reset. The zero value resets for good and waits a second
// for the lock.
type ResetOptions struct {
	// DryRun runs rebuild under the lock as a real reset would, and publishes
	// nothing, whatever comes of it.
	DryRun bool
	// Wait bounds the wait for the lock. Zero means one second, negative means
	// one try.
	Wait time.Duration
}

// gate holds recovered reads back while a Reset waits for the lock, so that a
// steady stream of readers cannot starve it. A pending Lock would do that too,
// but for ever if one reader is stuck; the gate opens when Reset gives up.
type gate struct{ open chan struct{} }

// Reset takes g out of poison by rebuilding its value: rebuild gets the recovered
// value, which it must not modify, and returns the value to go on with, validated.
// It runs with g held for writing: readers wait for it, and of other locks it may
// take those that come later in the lock order.
//
// Nothing changes unless rebuild returns a nil error: then its value, the healthy
// state and a new generation are published, and sections waiting for the lock go
// on with them. Otherwise g stays poisoned:
//
//   - wantGen is not the generation of the event (Event.Gen): ErrStale. The
//     caller has not seen what it would have cleared.
//   - g is healthy: ErrNotPoisoned.
//   - g could not be taken in time: ErrHeld.
//   - rebuild returned an error: that error, wrapped. The event stays.
//   - rebuild panicked or called Goexit: the *Error of a new event that takes the
//     old one's place, with a new generation.
func (g *Guarded[T]) Reset(wantGen uint64, o ResetOptions, rebuild func(old *T) (T, error)) (err error) {
	c := &g.core
	p, err := c.resettable(wantGen) // without the lock: a stale request need not wait
	if err != nil {
		return err
	}
	if orderChecks {
		orderAcquire(c, resetOp, exclusive, nil)
	}
	if !c.lockForReset(p, o.Wait) {
		if orderChecks {
			orderRelease(c)
		}
		return c.resetResult(resetHeld, ErrHeld)
	}
	c.enter(opIndex(resetOp))
	a := newAbandoned(resetOp, g)
	how := running
	defer func() {
		if how != returned {
			err = g.resetFailed(a, o, p, recover())
			return
		}
		c.unlockExclusive()
		a.announce()
	}()
	if p, err = c.resettable(wantGen); err == nil {
		err = g.rebuildLocked(a, o, p, rebuild)
	}
	how = returned
	return err
}

// resetOp is the op of a reset, as the watchdog and events name it.
const resetOp = "reset"

// resettable returns the poisoning of generation wantGen, or counts and returns
// why there is none. Without the lock a nil error is only a guess; an error is
// certain, because generations never come back.
func (c *core) resettable(wantGen uint64) (*poisoning, error) {
	p := c.poisoned()
	switch {
	case p == nil:
		return nil, c.resetResult(resetNotPoisoned, ErrNotPoisoned)
	case p.ev.Gen != wantGen:
		return nil, c.resetResult(resetStale, ErrStale)
	}
	return p, nil
}

// resetResult counts a reset's result and names the lock in its error.
func (c *core) resetResult(res resetOutcome, err error) error {
	c.grp.n.resets[res].Add(1)
	if err == nil {
		return nil
	}
	return fmt.Errorf("reset %s: %w", c.name(), err)
}

// rebuildLocked runs rebuild and publishes its value. The caller holds g, poisoned
// by p.
func (g *Guarded[T]) rebuildLocked(
	a *abandoned, o ResetOptions, p *poisoning, rebuild func(*T) (T, error),
) error {
	c := &g.core
	v, err := rebuild(&g.v)
	switch {
	case o.DryRun:
		return c.resetResult(resetDryRun, err)
	case err != nil:
		return c.resetResult(resetFailed, err)
	}
	g.v = v
	gen := c.grp.reg.clear(g, a.released)
	a.logs = append(a.logs, func() { c.grp.reg.logReset(p.ev, gen) })
	return c.resetResult(resetOK, nil)
}

// resetFailed ends a reset whose rebuild panicked with r or exited the goroutine
// (r is nil). The caller holds g, poisoned by p.
func (g *Guarded[T]) resetFailed(a *abandoned, o ResetOptions, p *poisoning, r any) error {
	c := &g.core
	defer func() {
		c.unlockExclusive()
		a.announce()
	}()
	if o.DryRun {
		return c.resetResult(resetDryRun, fmt.Errorf("rebuild panicked in a dry run: %s: %w", describe(r), p.refusal))
	}
	c.grp.n.resets[resetPanicked].Add(1)
	a.abandon(running, r, nil)
	return a.err
}

// lockForReset takes c for writing, in wait at most, and reports whether it did.
func (c *core) lockForReset(p *poisoning, wait time.Duration) bool {
	if c.mu.TryLock() {
		return true
	}
	if wait < 0 {
		return false
	}
	if wait == 0 {
		wait = defaultResetWait
	}
	t := &gate{open: make(chan struct{})}
	if p.gate.CompareAndSwap(nil, t) {
		defer func() {
			p.gate.Store(nil)
			close(t.open)
		}()
	}
	deadline := time.Now().Add(wait)
	for pause := time.Duration(0); time.Now().Before(deadline); pause = min(2*pause+time.Microsecond, 2*time.Millisecond) {
		time.Sleep(pause)
		if c.mu.TryLock() {
			return true
		}
	}
	return false
}

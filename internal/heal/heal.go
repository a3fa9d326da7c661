// Package heal resets poisoned locks without a person, where that is safe: when
// the dry run of the reset finds that what is durable is sound and needs no repair.
// Whatever else it meets it leaves to a person, and says so.
package heal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"engramfs/store"
	"engramfs/store/poison"
)

// Store is what a Healer needs of a *store.Store.
type Store interface {
	Registry() *poison.Registry
	ResetLock(ctx context.Context, name string, wantGen uint64, dryRun bool) (*store.ResetReport, error)
}

var _ Store = (*store.Store)(nil)

// Options of New. The zero value of all but Store is usable.
type Options struct {
	Store  Store            // required
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now

	// Limit is how often one lock is reset within Window. A fault that strikes more
	// often comes back after each reset, and healing it would only hide it. 0: 3
	// within 10 minutes.
	Limit  int
	Window time.Duration
	// TotalLimit is how often all locks together are reset within TotalWindow. 0: 10
	// within an hour.
	TotalLimit  int
	TotalWindow time.Duration
	// Every is the time between two looks at the locks that were held when they
	// were to be reset. 0: 5 seconds.
	Every time.Duration

	// Begin is called before every reset that is not a dry run, and its function
	// with what came of it. If it fails, there is no reset. nil: nobody is asked.
	Begin func(lock string, gen uint64) (end func(result string), err error)
}

// Escalation is a lock that stays poisoned until a person resets it.
type Escalation struct {
	Lock   string
	Gen    uint64
	Reason string
	Since  time.Time
}

// Healer resets poisoned locks while Run runs.
type Healer struct {
	// Immutable after New.
	o    Options
	log  *slog.Logger
	wake chan struct{}

	// mu protects the field below. The rest is Run's own.
	mu        sync.Mutex
	escalated map[string]Escalation // by lock

	resets map[string][]time.Time // by lock, within the longer window
}

// New returns a healer.
func New(o Options) *Healer {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Limit = cmp.Or(o.Limit, 3)
	o.Window = cmp.Or(o.Window, 10*time.Minute)
	o.TotalLimit = cmp.Or(o.TotalLimit, 10)
	o.TotalWindow = cmp.Or(o.TotalWindow, time.Hour)
	o.Every = cmp.Or(o.Every, 5*time.Second)
	h := &Healer{
		o: o, log: o.Logger, wake: make(chan struct{}, 1),
		escalated: map[string]Escalation{}, resets: map[string][]time.Time{},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

// Escalations returns the locks that are left to a person, by name.
func (h *Healer) Escalations() []Escalation {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]Escalation, 0, len(h.escalated))
	for _, e := range h.escalated {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b Escalation) int { return cmp.Compare(a.Lock, b.Lock) })
	return list
}

// Run heals until ctx ends. It is called once.
func (h *Healer) Run(ctx context.Context) {
	h.o.Store.Registry().OnTransition(func(poison.Transition) {
		select {
		case h.wake <- struct{}{}:
		default: // a look is due already
		}
	})
	tick := time.NewTicker(h.o.Every)
	defer tick.Stop()
	for {
		h.round(ctx)
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-tick.C:
		}
	}
}

// round looks at all poisoned locks once, the longest poisoned first.
func (h *Healer) round(ctx context.Context) {
	events := h.o.Store.Registry().Poisoned()
	h.forget(events)
	for _, ev := range events {
		if ctx.Err() != nil {
			return
		}
		h.heal(ctx, ev)
	}
}

// forget drops what is known of locks that are no longer poisoned, and of resets
// that count no more.
func (h *Healer) forget(events []*poison.Event) {
	gens := map[string]uint64{}
	for _, ev := range events {
		gens[ev.Lock] = ev.Gen
	}
	h.mu.Lock()
	for lock, e := range h.escalated {
		if gens[lock] != e.Gen {
			delete(h.escalated, lock)
		}
	}
	h.mu.Unlock()
	old := h.o.Now().Add(-max(h.o.Window, h.o.TotalWindow))
	for lock, times := range h.resets {
		times = slices.DeleteFunc(times, func(t time.Time) bool { return !t.After(old) })
		if h.resets[lock] = times; len(times) == 0 {
			delete(h.resets, lock)
		}
	}
}

// heal resets the lock of one event, if that is safe. A lock that somebody holds
// is left for a later round.
func (h *Healer) heal(ctx context.Context, ev *poison.Event) {
	h.mu.Lock()
	_, given := h.escalated[ev.Lock]
	h.mu.Unlock()
	if given || ev.Cause == poison.Manual { // somebody has taken it out of service
		return
	}
	if reason := h.exhausted(ev.Lock); reason != "" {
		h.escalate(ev, reason)
		return
	}
	ctx = store.WithResetSource(ctx, store.ResetByAuto)
	report, err := h.reset(ctx, ev, true)
	if err == nil {
		if reason := notClean(report); reason != "" {
			h.escalate(ev, reason)
			return
		}
		h.resets[ev.Lock] = append(h.resets[ev.Lock], h.o.Now()) // also if it fails
		report, err = h.audited(ctx, ev)
	}
	switch {
	case err == nil:
		h.log.Info("lock healed", "lock", ev.Lock, "gen", ev.Gen, "event_id", ev.ID, "took", report.Took)
	case overtaken(err), ctx.Err() != nil:
	default:
		h.escalate(ev, err.Error())
	}
}

// overtaken reports whether there is nothing to heal now: somebody was faster, or
// holds the lock.
func overtaken(err error) bool {
	return errors.Is(err, poison.ErrStale) || errors.Is(err, poison.ErrNotPoisoned) ||
		errors.Is(err, poison.ErrHeld) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrClosed)
}

// audited resets in earnest, between the two words of Options.Begin.
func (h *Healer) audited(ctx context.Context, ev *poison.Event) (report *store.ResetReport, err error) {
	if h.o.Begin == nil {
		return h.reset(ctx, ev, false)
	}
	end, err := h.o.Begin(ev.Lock, ev.Gen)
	if err != nil {
		return nil, fmt.Errorf("not begun: %w", err)
	}
	report, err = h.reset(ctx, ev, false)
	result := "done"
	if err != nil {
		result = "failed"
	}
	end(result)
	return report, err
}

// reset calls ResetLock. A panic of its own is an error: nothing that heals may
// end the process.
func (h *Healer) reset(ctx context.Context, ev *poison.Event, dryRun bool) (report *store.ResetReport, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("reset panicked: %v", v)
		}
	}()
	return h.o.Store.ResetLock(ctx, ev.Lock, ev.Gen, dryRun)
}

// notClean says why the report of a dry run is not clean; "": it is. A difference
// between memory and the engine is what a reset is for. What the engine itself has
// wrong is for a person to see first.
func notClean(r *store.ResetReport) string {
	switch {
	case len(r.Problems) > 0:
		return "the reset would fail: " + r.Problems[0]
	case len(r.Repaired) > 0:
		return "the reset would repair durable data: " + r.Repaired[0]
	}
	return ""
}

// exhausted says which limit of resets is used up; "": none.
func (h *Healer) exhausted(lock string) string {
	within := func(times []time.Time, window time.Duration) (n int) {
		for _, t := range times {
			if t.After(h.o.Now().Add(-window)) {
				n++
			}
		}
		return n
	}
	if n := within(h.resets[lock], h.o.Window); n >= h.o.Limit {
		return fmt.Sprintf("it was reset %d times within %v and is poisoned again", n, h.o.Window)
	}
	total := 0
	for _, times := range h.resets {
		total += within(times, h.o.TotalWindow)
	}
	if total >= h.o.TotalLimit {
		return fmt.Sprintf("%d locks were reset within %v", total, h.o.TotalWindow)
	}
	return ""
}

func (h *Healer) escalate(ev *poison.Event, reason string) {
	h.log.Error("lock not healed", "lock", ev.Lock, "gen", ev.Gen, "event_id", ev.ID, "reason", reason)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.escalated[ev.Lock] = Escalation{Lock: ev.Lock, Gen: ev.Gen, Reason: reason, Since: h.o.Now()}
}

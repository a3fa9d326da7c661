package poison

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// WatchOptions configure Registry.Watch. The zero value looks every second, with
// a soft limit of 5 s and a hard limit of 5 min.
type WatchOptions struct {
	// Interval is the time between two rounds. Zero means one second.
	Interval time.Duration
	// Soft is how long a lock may be held before it is reported as stuck, Hard
	// before only a restart can help. Zero means 5 s and 5 min.
	Soft, Hard time.Duration
	// OnSoft is called once per episode, from the watchdog's goroutine with no
	// lock held, with the stacks of all goroutines (at most 16 MiB, the same
	// for all locks found in one round). Nil means that the stacks, cut to 64 KiB,
	// are logged.
	OnSoft func(s Stuck, stacks []byte)
	// OnHard is called once per episode when the hard limit is passed. Nil means
	// that only Health tells.
	OnHard func(Stuck)
	// Ticks replaces the timer: a round is run for every time received, which is
	// taken as the time of the round.
	Ticks <-chan time.Time
}

// Stuck is a lock that has been held by one section for too long.
type Stuck struct {
	Lock   string `json:"lock"`
	Detail string `json:"detail,omitempty"` // FamilyOptions.Detail; filled in for OnSoft and OnHard
	// Op is the op of the write section that holds the lock. It is empty when
	// read sections hold it, which go unnoticed until a writer waits behind them.
	Op string `json:"op,omitempty"`
	// Mode is "write" or "read".
	Mode string `json:"mode"`
	// Since is when the watchdog first saw the section: at most one interval
	// after the section began.
	Since time.Time `json:"since"`
	Hard  bool      `json:"hard"` // past the hard limit

	locker Locker
}

const (
	// minProbes is how often in a row a lock must be seen held, by the same
	// section, before it can be called stuck.
	minProbes = 3
	maxStacks = 16 << 20
	maxLogged = 64 << 10
)

// watchdog holds what Watch has found.
type watchdog struct {
	// mu protects the fields below and is a leaf, as Registry.mu.
	mu sync.Mutex

	running  bool
	at       time.Time
	suspects map[*core]*suspect
	over     []Stuck // reported, and ended in this round
}

// suspect is a lock that was held at the last round.
type suspect struct {
	locker Locker
	word   uintptr // hold word: the same section as long as it stays the same
	since  time.Time
	round  time.Time // the last round that saw it held
	probes int
	soft   bool // reported
	hard   bool
}

// Watch looks at every domain lock, every poisoned lock and every lock that a
// FamilyOptions.Each yields, once per interval, and reports those that one section
// has held for too long. It returns when ctx is done. A second Watch on the same
// registry logs an error and returns at once.
//
// A look costs a section nothing but, now and then, the wait for a try-lock that
// is released at once. Watch cannot free a stuck lock, and neither can Reset.
func (r *Registry) Watch(ctx context.Context, o WatchOptions) {
	if !r.watch.start() {
		r.log.Error("watchdog runs already")
		return
	}
	defer r.watch.stop()
	o = o.withDefaults()
	if o.Ticks == nil {
		t := time.NewTicker(o.Interval)
		defer t.Stop()
		o.Ticks = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-o.Ticks:
			r.watchRound(now, o)
		}
	}
}

func (o WatchOptions) withDefaults() WatchOptions {
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&o.Interval, time.Second}, {&o.Soft, 5 * time.Second}, {&o.Hard, 5 * time.Minute}} {
		if *d.p <= 0 {
			*d.p = d.v
		}
	}
	return o
}

func (w *watchdog) start() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running {
		return false
	}
	w.running, w.suspects = true, map[*core]*suspect{}
	return true
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running, w.suspects, w.over, w.at = false, nil, nil, time.Time{}
}

// watchRound looks at all locks once and reports.
func (r *Registry) watchRound(now time.Time, o WatchOptions) {
	poisoned, domains, families := r.lists()
	probe := func(l Locker) bool {
		if !l.lockCore().free() {
			r.watch.suspect(l, now)
		}
		return true
	}
	for _, l := range append(domains, poisoned...) {
		probe(l)
	}
	for _, f := range families {
		if f.each == nil {
			continue
		}
		if v, ok := isolate(func() { f.each(probe) }); !ok {
			r.log.Error("lock enumeration panicked", "family", f.name, "value", describe(v))
		}
	}
	soft, hard, over := r.watch.finish(now, o)
	r.reportSoft(soft, now, o)
	for _, s := range hard {
		s.Detail = r.detail(s.locker)
		r.log.Error("lock stuck past the hard limit", s.attrs(now)...)
		if o.OnHard != nil {
			isolate(func() { o.OnHard(s) })
		}
	}
	for _, s := range over {
		r.log.Info("lock no longer stuck", s.attrs(now)...)
	}
}

// free reports whether no writer holds c or waits for it.
func (c *core) free() bool {
	if !c.mu.TryRLock() {
		return false
	}
	c.mu.RUnlock()
	return true
}

// suspect notes that l was held at now. A lock seen twice in a round counts once.
func (w *watchdog) suspect(l Locker, now time.Time) {
	c := l.lockCore()
	word := c.loadHold()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.suspects[c]
	if s != nil && s.word != word { // another section has it now
		w.endLocked(c)
		s = nil
	}
	if s == nil {
		s = &suspect{locker: l, word: word, since: now}
		w.suspects[c] = s
	}
	if !s.round.Equal(now) || s.probes == 0 {
		s.probes++
	}
	s.round = now
}

// endLocked ends the episode of c.
func (w *watchdog) endLocked(c *core) {
	if s := w.suspects[c]; s.soft {
		w.over = append(w.over, s.stuck())
	}
	delete(w.suspects, c)
}

// finish ends a round: it returns the locks that have just passed a limit, and
// the reported ones whose episode is over.
func (w *watchdog) finish(now time.Time, o WatchOptions) (soft, hard, over []Stuck) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = now
	for c, s := range w.suspects {
		if !s.round.Equal(now) {
			w.endLocked(c)
			continue
		}
		held := now.Sub(s.since)
		if s.probes < minProbes || held < o.Soft {
			continue
		}
		if !s.soft {
			s.soft = true
			soft = append(soft, s.stuck())
		}
		if held >= o.Hard && !s.hard {
			s.hard = true
			hard = append(hard, s.stuck())
		}
	}
	over, w.over = w.over, nil
	return soft, hard, over
}

func (s *suspect) stuck() Stuck {
	st := Stuck{Lock: s.locker.Name(), Mode: "read", Since: s.since, Hard: s.hard, locker: s.locker}
	if op, ok := writeOp(s.word); ok {
		st.Op, st.Mode = op, "write"
	}
	return st
}

func (s Stuck) attrs(now time.Time) []any {
	return []any{
		slog.String("lock", s.Lock), slog.String("op", s.Op), slog.String("mode", s.Mode),
		slog.Duration("held", now.Sub(s.Since)), slog.String("detail", s.Detail),
	}
}

// reportSoft logs each lock of found, and hands out one dump for all.
func (r *Registry) reportSoft(found []Stuck, now time.Time, o WatchOptions) {
	if len(found) == 0 {
		return
	}
	stacks := allStacks()
	for _, s := range found {
		s.Detail = r.detail(s.locker)
		args := s.attrs(now)
		if o.OnSoft == nil {
			args = append(args, slog.String("stacks", string(stacks[:min(len(stacks), maxLogged)])))
		}
		r.log.Warn("lock stuck", args...)
		if o.OnSoft != nil {
			isolate(func() { o.OnSoft(s, stacks) })
		}
	}
}

func (r *Registry) detail(l Locker) string {
	return r.describer.details(l.lockCore())[l.lockCore()]
}

// allStacks returns the stacks of all goroutines, at most maxStacks bytes of them.
func allStacks() []byte {
	for size := 64 << 10; ; size *= 4 {
		buf := make([]byte, min(size, maxStacks))
		if n := runtime.Stack(buf, true); n < len(buf) || len(buf) == maxStacks {
			return buf[:n]
		}
	}
}

// report fills in the watchdog's part of s and returns the stuck locks.
func (w *watchdog) report(s *Snapshot) map[*core]Stuck {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.WatchedAt = w.at
	stuck := map[*core]Stuck{}
	for c, sus := range w.suspects {
		if sus.soft {
			stuck[c] = sus.stuck()
			s.HardStuck = s.HardStuck || sus.hard
		}
	}
	s.Stuck = len(stuck)
	return stuck
}

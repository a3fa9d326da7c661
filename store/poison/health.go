package poison

import (
	"cmp"
	"slices"
	"time"
)

// A Snapshot is the health of all locks of a registry, taken without any of them.
type Snapshot struct {
	At       time.Time `json:"at"`
	Poisoned int       `json:"poisoned"` // locks that are poisoned now
	Stuck    int       `json:"stuck"`    // locks held past the soft limit
	// HardStuck is true while a lock is held past the hard limit: only a restart
	// helps.
	HardStuck bool `json:"hard_stuck"`
	// WatchedAt is the time of the watchdog's last round, zero when none runs. An
	// old time says that a FamilyOptions.Each does not return.
	WatchedAt time.Time `json:"watched_at,omitzero"`

	// Locks holds the domain locks in order of creation, then the locks of
	// families that are poisoned or stuck, by name of family and id.
	Locks []LockHealth `json:"locks"`
	// Families holds the families in order of creation.
	Families []FamilyHealth `json:"families"`

	HooksDropped uint64 `json:"hooks_dropped"` // transitions that hooks have missed
	HooksFailed  uint64 `json:"hooks_failed"`  // hooks that panicked or exited
}

// LockHealth is the health of one lock.
type LockHealth struct {
	Name   string `json:"name"`
	Family string `json:"family,omitempty"` // empty for a domain lock
	ID     uint64 `json:"id,omitempty"`
	Class  Class  `json:"class"`
	Rank   int    `json:"rank"`
	Detail string `json:"detail,omitempty"` // FamilyOptions.Detail, when poisoned or stuck
	Gen    uint64 `json:"gen"`              // 0: never poisoned
	Event  *Event `json:"event,omitempty"`  // a copy with Detail; nil: healthy

	// Of the current event.
	WritesRejected uint64 `json:"writes_rejected"`
	RecoveredReads uint64 `json:"recovered_reads"`

	// Writing is the op whose write section holds the lock at this moment, "" when
	// there is none.
	Writing string `json:"writing,omitempty"`
	Stuck   *Stuck `json:"stuck,omitempty"`

	// Counters of a domain lock; nil for a lock of a family, whose family counts.
	Counters *Counters `json:"counters,omitempty"`
}

// FamilyHealth is the health of a family.
type FamilyHealth struct {
	Name     string   `json:"name"`
	Class    Class    `json:"class"`
	Rank     int      `json:"rank"`
	Poisoned int      `json:"poisoned"` // of its locks, now
	Counters Counters `json:"counters"`
}

// Health returns the health of all locks. It waits for no lock of the program, so
// it works while any of them is stuck.
func (r *Registry) Health() Snapshot {
	poisoned, domains, families := r.lists()
	s := Snapshot{
		At: r.now(), Poisoned: len(poisoned),
		HooksDropped: r.hooks.dropped.Load(), HooksFailed: r.hooks.failed.Load(),
	}
	stuck := r.watch.report(&s)
	s.Locks = r.locksHealth(slices.Concat(domains, unhealthy(poisoned, stuck)), stuck)
	inFamily := map[*group]int{}
	for _, l := range poisoned {
		inFamily[l.lockCore().grp]++
	}
	for _, f := range families {
		s.Families = append(s.Families, FamilyHealth{
			Name: f.name, Class: f.class, Rank: f.rank,
			Poisoned: inFamily[&f.group], Counters: f.n.snapshot(),
		})
	}
	return s
}

// LockHealth returns the health of the lock with the given name. It knows the domain
// locks, and the locks of families that are poisoned or stuck.
func (r *Registry) LockHealth(name string) (LockHealth, bool) {
	l, stuck := r.find(name)
	if l == nil {
		return LockHealth{}, false
	}
	return r.locksHealth([]Locker{l}, stuck)[0], true
}

// Find returns the lock with the given name, as far as LockHealth knows it.
func (r *Registry) Find(name string) (Locker, bool) {
	l, _ := r.find(name)
	return l, l != nil
}

func (r *Registry) find(name string) (Locker, map[*core]Stuck) {
	poisoned, domains, _ := r.lists()
	stuck := r.watch.report(&Snapshot{})
	for _, l := range slices.Concat(domains, unhealthy(poisoned, stuck)) {
		if l.Name() == name {
			return l, stuck
		}
	}
	return nil, stuck
}

// Poisoned returns the events of the locks that are poisoned, oldest first, without
// Detail. It looks at no other lock and calls no code of others.
func (r *Registry) Poisoned() []*Event {
	if !r.AnyPoisoned() {
		return nil
	}
	poisoned, _, _ := r.lists()
	events := make([]*Event, 0, len(poisoned))
	for _, l := range poisoned {
		if ev := l.Event(); ev != nil { // nil: reset since
			events = append(events, ev)
		}
	}
	slices.SortFunc(events, func(a, b *Event) int { return cmp.Compare(a.Gen, b.Gen) })
	return events
}

// lists copies what Registry.mu protects.
func (r *Registry) lists() (poisoned, domains []Locker, families []*Family) {
	r.mu.Lock()
	defer r.mu.Unlock()
	poisoned = make([]Locker, 0, len(r.poisoned))
	for _, l := range r.poisoned {
		poisoned = append(poisoned, l)
	}
	return poisoned, slices.Clone(r.domains), slices.Clone(r.families)
}

// unhealthy returns the locks of families that are poisoned or stuck, each once.
func unhealthy(poisoned []Locker, stuck map[*core]Stuck) []Locker {
	listed := map[*core]bool{}
	var ls []Locker
	add := func(l Locker) {
		if c := l.lockCore(); c.grp.family && !listed[c] {
			listed[c] = true
			ls = append(ls, l)
		}
	}
	for _, l := range poisoned {
		add(l)
	}
	for _, s := range stuck {
		add(s.locker)
	}
	slices.SortFunc(ls, func(a, b Locker) int {
		c, d := a.lockCore(), b.lockCore()
		return cmp.Or(cmp.Compare(c.grp.name, d.grp.name), cmp.Compare(c.id, d.id))
	})
	return ls
}

// locksHealth returns the health of each of ls.
func (r *Registry) locksHealth(ls []Locker, stuck map[*core]Stuck) []LockHealth {
	var ask []*core
	for _, l := range ls {
		c := l.lockCore()
		if _, ok := stuck[c]; ok || c.poisoned() != nil {
			ask = append(ask, c)
		}
	}
	details := r.describer.details(ask...)
	hs := make([]LockHealth, 0, len(ls))
	for _, l := range ls {
		c := l.lockCore()
		h := lockHealth(c, details[c])
		if s, ok := stuck[c]; ok {
			s.Detail = h.Detail
			h.Stuck = &s
		}
		hs = append(hs, h)
	}
	return hs
}

// lockHealth returns the health of c, but for what the watchdog knows.
func lockHealth(c *core, detail string) LockHealth {
	h := LockHealth{
		Name: c.name(), Class: c.grp.class, Rank: c.grp.rank, Detail: detail,
	}
	if s := c.st.Load(); s != nil {
		h.Gen = s.gen
		if p := s.poison; p != nil {
			ev := *p.ev
			ev.Detail = detail
			h.Event = &ev
			h.WritesRejected, h.RecoveredReads = p.rejected.Load(), p.reads.Load()
		}
	}
	h.Writing, _ = writeOp(c.loadHold())
	if c.grp.family {
		h.Family, h.ID = c.grp.name, c.id
		return h
	}
	n := c.grp.n.snapshot()
	h.Counters = &n
	return h
}

package poison

import "sync/atomic"

// Counters count what happened to the locks of a family, or to a domain lock,
// since it was made.
type Counters struct {
	// Poisoned counts events by cause: "panic", "goexit", "invariant", "manual".
	Poisoned map[string]uint64 `json:"poisoned"`
	// Repeated counts calls of Poison on a lock that was poisoned already.
	Repeated uint64 `json:"repeated"`
	// WritesRejected counts write sections refused because of poison.
	WritesRejected uint64 `json:"writes_rejected"`
	// RecoveredReads counts read sections that ran on a poisoned value.
	RecoveredReads uint64 `json:"recovered_reads"`
	// ReadsRejected counts read sections refused by a FailClosed lock.
	ReadsRejected uint64 `json:"reads_rejected"`
	// ReadPanics counts read sections that panicked or exited their goroutine.
	ReadPanics uint64 `json:"read_panics"`
	// Discarded counts the times a Disposable value was emptied.
	Discarded uint64 `json:"discarded"`
	// Resets counts resets by result: "ok", "dry_run" (whatever came of it),
	// "failed", "panicked", "stale", "held", "not_poisoned".
	Resets map[string]uint64 `json:"resets"`

	// WritersWaiting and ReadersWaiting are the sections that wait for a lock at
	// this moment.
	WritersWaiting int64 `json:"writers_waiting"`
	ReadersWaiting int64 `json:"readers_waiting"`
	// Writes is how long write sections took, with RegistryOptions.Durations.
	Writes Durations `json:"writes"`
}

type resetOutcome uint8

const (
	resetOK resetOutcome = iota
	resetDryRun
	resetFailed
	resetPanicked
	resetStale
	resetHeld
	resetNotPoisoned
)

var resetNames = [...]string{"ok", "dry_run", "failed", "panicked", "stale", "held", "not_poisoned"}

// counters are the live form of Counters.
type counters struct {
	events         [len(causeNames)]atomic.Uint64
	repeats        atomic.Uint64
	writesRejected atomic.Uint64
	recoveredReads atomic.Uint64
	readsRejected  atomic.Uint64
	readPanics     atomic.Uint64
	discards       atomic.Uint64
	resets         [len(resetNames)]atomic.Uint64
	writersWaiting atomic.Int64
	readersWaiting atomic.Int64
	writes         durations
}

func (n *counters) countEvent(c Cause) {
	if int(c) >= len(n.events) {
		c = 0
	}
	n.events[c].Add(1)
}

// snapshot has an entry for every cause and result, zero or not, so that a
// monitor sees a series before its first increment.
func (n *counters) snapshot() Counters {
	s := Counters{
		Poisoned:       make(map[string]uint64, len(n.events)),
		Repeated:       n.repeats.Load(),
		WritesRejected: n.writesRejected.Load(),
		RecoveredReads: n.recoveredReads.Load(),
		ReadsRejected:  n.readsRejected.Load(),
		ReadPanics:     n.readPanics.Load(),
		Discarded:      n.discards.Load(),
		Resets:         make(map[string]uint64, len(n.resets)),
		WritersWaiting: n.writersWaiting.Load(),
		ReadersWaiting: n.readersWaiting.Load(),
		Writes:         n.writes.snapshot(),
	}
	for i := range n.events {
		if c := n.events[i].Load(); i > 0 || c > 0 {
			s.Poisoned[causeNames[i]] = c
		}
	}
	for i := range n.resets {
		s.Resets[resetNames[i]] = n.resets[i].Load()
	}
	return s
}

package store

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"engramfs/store/poison"
)

// ResetSource says who asks for a reset.
type ResetSource string

// The sources of resets.
const (
	ResetByAdmin ResetSource = "admin"
	ResetByAuto  ResetSource = "auto" // the server itself
)

type resetSourceKey struct{}

// WithResetSource marks the resets made with the context returned as from. A
// reset without a mark is ResetByAdmin.
func WithResetSource(ctx context.Context, from ResetSource) context.Context {
	return context.WithValue(ctx, resetSourceKey{}, from)
}

func resetSource(ctx context.Context) ResetSource {
	if from, ok := ctx.Value(resetSourceKey{}).(ResetSource); ok {
		return from
	}
	return ResetByAdmin
}

// LockFamily returns what kind a lock is of: "inode" for the lock of an inode,
// and the name itself for a domain lock.
func LockFamily(lock string) string {
	family, _, _ := strings.Cut(lock, ":")
	return family
}

// ResetKind tells resets apart that are counted on their own.
type ResetKind struct {
	Family string // LockFamily of the lock
	Source ResetSource
	Result string // "ok", "dry_run" (whatever came of it), "stale", "held", "not_poisoned" or "failed"
}

// Counters count what happened since Open. They only grow.
type Counters struct {
	// Panics counts those outside of every write section, which cost one operation
	// each and poison nothing.
	Panics uint64
	// Damages counts the places in which content was found damaged by reads.
	Damages uint64
	// ScrubDamages counts those found by scrubs.
	ScrubDamages uint64
	// Resets has an entry for each kind that there was.
	Resets map[ResetKind]uint64
}

// counters are the live form of Counters. Their zero value is ready.
type counters struct {
	panics atomic.Uint64

	// mu protects the field below.
	mu     sync.Mutex
	resets map[ResetKind]uint64
}

// Counters returns what was counted. It takes no lock that a change is made under.
func (s *Store) Counters() Counters {
	n := &s.counters
	n.mu.Lock()
	defer n.mu.Unlock()
	return Counters{Panics: n.panics.Load(), Damages: s.damages.noted[0].Load(), ScrubDamages: s.damages.noted[1].Load(), Resets: maps.Clone(n.resets)}
}

func (n *counters) countReset(r *ResetReport, from ResetSource, err error) {
	kind := ResetKind{Family: LockFamily(r.Lock), Source: from, Result: resetResult(r, err)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.resets == nil {
		n.resets = make(map[ResetKind]uint64)
	}
	n.resets[kind]++
}

func resetResult(r *ResetReport, err error) string {
	switch {
	case r.DryRun:
		return "dry_run"
	case err == nil:
		return "ok"
	case errors.Is(err, poison.ErrStale):
		return "stale"
	case errors.Is(err, poison.ErrHeld):
		return "held"
	case errors.Is(err, poison.ErrNotPoisoned):
		return "not_poisoned"
	}
	return "failed"
}

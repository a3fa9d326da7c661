package store

import (
	"context"
	"sync"

	"engramfs/store/poison"
)

// Trace records which poisoned locks a request has read through, so that its
// answer can be marked as made of recovered data and kept out of caches. It is
// safe for concurrent use; the zero value is ready.
type Trace struct {
	// mu protects the field below.
	mu     sync.Mutex
	events []*poison.Event
}

type traceKey struct{}

// WithTrace returns a context whose Trace records every recovered read that is
// made with it.
func WithTrace(ctx context.Context) (context.Context, *Trace) {
	t := new(Trace)
	return context.WithValue(ctx, traceKey{}, t), t
}

// Recovered returns the events of the poisoned locks that were read through,
// in the order of their first read; nil if there were none.
func (t *Trace) Recovered() []*poison.Event {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.events
}

func (t *Trace) add(ev *poison.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.events {
		if e.Lock == ev.Lock && e.Gen == ev.Gen {
			return
		}
	}
	// A new slice, so that one that Recovered has returned does not change.
	t.events = append(t.events[:len(t.events):len(t.events)], ev)
}

// traceEvent records ev, if there is one, in ctx's Trace, if there is one.
func traceEvent(ctx context.Context, ev *poison.Event) {
	if ev == nil {
		return
	}
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		t.add(ev)
	}
}

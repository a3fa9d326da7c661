package store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Origin names the adapter that makes a change, so that it can tell the events
// of its own changes from those of others. 0: nobody in particular.
type Origin uint64

var lastOrigin atomic.Uint64

// NewOrigin returns an Origin that nobody else has in this process.
func NewOrigin() Origin { return Origin(lastOrigin.Add(1)) }

type originKey struct{}

// WithOrigin returns a context whose changes carry o in their events.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// originOf returns the origin of ctx, 0 if it has none.
func originOf(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}

// Observer is told of every committed change.
type Observer interface {
	// Changed is called on the goroutine that made the change, after its locks
	// were released and before the operation returns. It must be quick, must
	// not block, and must not call the store.
	Changed(Event)
	// Settle returns once everything that Changed was told of before the call
	// has been dealt with, or when ctx ends.
	Settle(ctx context.Context)
}

// Observe makes o an observer until stop is called. A change that is just being
// made when stop returns may still be told.
func (s *Store) Observe(o Observer) (stop func()) { return s.events.observers.add(o) }

// observers is the list of observers, which is read by every change and hardly
// ever changed.
type observers struct {
	all atomic.Pointer[[]*observer]

	mu sync.Mutex // held to change all
}

// observer gives an Observer an identity of its own: one may observe twice.
type observer struct{ Observer }

func (os *observers) list() []*observer {
	if all := os.all.Load(); all != nil {
		return *all
	}
	return nil
}

func (os *observers) add(o Observer) (stop func()) {
	os.mu.Lock()
	defer os.mu.Unlock()
	added := &observer{o}
	all := append(slices.Clone(os.list()), added)
	os.all.Store(&all)
	return func() {
		os.mu.Lock()
		defer os.mu.Unlock()
		rest := slices.DeleteFunc(slices.Clone(os.list()), func(o *observer) bool { return o == added })
		os.all.Store(&rest)
	}
}

// tell hands events to o. The change is made whatever becomes of them.
func (s *Store) tell(o *observer, events []Event) {
	var err error
	defer s.contain("observer", &err)
	for _, e := range events {
		o.Changed(e)
	}
}

// settleWait bounds how long Sync waits for observers: long enough for a kernel
// to forget what it has cached, and short enough for a client not to notice.
const settleWait = 100 * time.Millisecond

// settle waits until the observers have dealt with what they were told.
func (s *Store) settle(ctx context.Context) {
	all := s.events.observers.list()
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	var err error
	defer s.contain("observer_settle", &err)
	for _, o := range all {
		o.Settle(ctx)
	}
}

package poison

import (
	"fmt"
	"sync/atomic"
	"time"
)

// TransitionKind is what became of a lock.
type TransitionKind uint8

// The kinds of Transition.
const (
	TransitionPoisoned TransitionKind = 1 + iota // also when a rebuild panicked: a new event
	TransitionReset
	TransitionRetired
)

// String returns "poisoned", "reset" or "retired".
func (k TransitionKind) String() string {
	switch k {
	case TransitionPoisoned:
		return "poisoned"
	case TransitionReset:
		return "reset"
	case TransitionRetired:
		return "retired"
	}
	return fmt.Sprintf("transition(%d)", uint8(k))
}

// MarshalText implements encoding.TextMarshaler with String.
func (k TransitionKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// A Transition tells a hook what became of a lock.
type Transition struct {
	Kind  TransitionKind `json:"kind"`
	Lock  string         `json:"lock"`
	Event *Event         `json:"event"` // a copy with Detail: the new event, or the one that is over
	Gen   uint64         `json:"gen"`   // the lock's generation from now on
	At    time.Time      `json:"at"`
	// Dropped counts the transitions that hooks have missed so far.
	Dropped uint64 `json:"dropped"`
}

// pending is a transition of a lock on its way to the hooks.
type pending struct {
	t        Transition
	c        *core
	released <-chan struct{} // closed when the lock is free; nil: it is not held
}

const defaultHookQueue = 1024

// dispatcher runs hooks on one goroutine, fed by a bounded queue. Methods named
// ...Locked need Registry.mu, which makes the queue's order the order of
// generations.
type dispatcher struct {
	reg     *Registry
	queue   chan pending
	hooks   atomic.Pointer[[]func(Transition)]
	dropped atomic.Uint64
	failed  atomic.Uint64 // hooks that panicked or exited
	done    chan struct{} // closed by the goroutine; nil: it was never started

	// Of the goroutine. They outlive it when a hook calls runtime.Goexit.
	current *pending
	next    int // hook to call next for current
}

func (d *dispatcher) init(r *Registry, size int) {
	if size == 0 {
		size = defaultHookQueue
	}
	d.reg, d.queue = r, make(chan pending, size)
}

func (d *dispatcher) addLocked(fn func(Transition)) {
	var hooks []func(Transition)
	if old := d.hooks.Load(); old != nil {
		hooks = append(hooks, *old...)
	}
	hooks = append(hooks, fn)
	d.hooks.Store(&hooks)
	if d.done == nil && !d.reg.closed {
		d.done = make(chan struct{})
		go d.run()
	}
}

// sendLocked queues p, or counts it as dropped. It never blocks: the caller holds
// locks of the program.
func (d *dispatcher) sendLocked(p pending) {
	if d.hooks.Load() == nil {
		return
	}
	if d.reg.closed {
		d.dropped.Add(1)
		return
	}
	select {
	case d.queue <- p:
	default:
		d.dropped.Add(1)
	}
}

func (d *dispatcher) closeLocked() (done <-chan struct{}) {
	close(d.queue)
	return d.done
}

// run calls the hooks until the queue is closed and empty. When a hook exits the
// goroutine, another takes over after that hook.
func (d *dispatcher) run() {
	finished := false
	defer func() {
		if !finished {
			d.failed.Add(1)
			go d.run()
		}
	}()
	for d.current != nil || d.receive() {
		d.deliver()
		d.current = nil
	}
	finished = true
	close(d.done)
}

func (d *dispatcher) receive() bool {
	p, ok := <-d.queue
	if !ok {
		return false
	}
	if p.released != nil {
		<-p.released
	}
	ev := *p.t.Event
	ev.Detail = d.reg.describer.details(p.c)[p.c]
	p.t.Event = &ev
	d.current, d.next = &p, 0
	return true
}

func (d *dispatcher) deliver() {
	p := d.current
	p.t.Dropped = d.dropped.Load()
	hooks := *d.hooks.Load()
	for d.next < len(hooks) {
		fn := hooks[d.next]
		d.next++
		if r, ok := isolate(func() { fn(p.t) }); !ok {
			d.failed.Add(1)
			isolate(func() {
				d.reg.log.Error("transition hook panicked", "lock", p.t.Lock, "value", describe(r))
			})
		}
	}
}

package store

import "sync"

// Event tells a listener that a committed change has touched a name or an
// inode. It is sent after the locks are released.
type Event struct {
	Op string
	// Parent and Name are the entry that was made or removed; zero for a change
	// of an inode alone.
	Parent Ino
	Name   string
	Ino    Ino
	// Removed: the entry is gone. Otherwise it now means Ino.
	Removed bool
	// Content: bytes of the file changed, not only attributes.
	Content bool
	// Lost: events before this one were dropped because the listener was slow;
	// it must forget all that it has cached.
	Lost bool
}

// hub hands events to subscribers. A slow subscriber loses events, and is told;
// it never blocks a change.
type hub struct {
	// mu protects the field below.
	mu   sync.RWMutex
	subs map[*subscription]struct{}
}

type subscription struct {
	ch chan Event

	// mu protects the field below.
	mu   sync.Mutex
	lost bool
}

// Subscribe returns a channel of all events from now on, with room for buffer
// of them, and a function that ends the subscription and closes the channel.
// Events arrive in commit order for one inode.
func (s *Store) Subscribe(buffer int) (<-chan Event, func()) {
	sub := &subscription{ch: make(chan Event, max(buffer, 1))}
	h := &s.events
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = make(map[*subscription]struct{})
	}
	h.subs[sub] = struct{}{}
	return sub.ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, ok := h.subs[sub]; ok {
			delete(h.subs, sub)
			close(sub.ch)
		}
	}
}

func (h *hub) emit(events []Event) {
	if len(events) == 0 {
		return
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for sub := range h.subs {
		sub.send(events)
	}
}

func (sub *subscription) send(events []Event) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for _, e := range events {
		e.Lost = sub.lost
		select {
		case sub.ch <- e:
			sub.lost = false
		default:
			sub.lost = true
		}
	}
}

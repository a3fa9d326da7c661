package store

import "sync"

// Event tells a listener that a committed change has touched a name or an
// inode. It is sent after the locks are released.
//
// The events of a change name all that a cache of the tree may have to forget:
// each entry whose meaning has changed, in an event with Parent and Name, and
// each inode whose attributes have changed and that still exists, as the Ino or
// the Parent of at least one event.
//
// Two changes of one inode at nearly the same time may be told in the other
// order than they were made in, so an event says what to look at again and not
// what is there now.
type Event struct {
	Op     string
	Origin Origin // of the change; 0: nobody in particular
	// Parent and Name are the entry that was made or removed; zero for a change
	// of an inode alone.
	Parent Ino
	Name   string
	Ino    Ino // what the entry means now, or meant before it was removed
	// Removed: the entry is gone. Otherwise it now means Ino.
	Removed bool
	// Content: bytes of the file changed, not only attributes.
	Content bool
	// Lost: events before this one were dropped because the listener was slow;
	// it must forget all that it has cached.
	Lost bool
}

// hub hands events to subscribers and observers. A slow subscriber loses
// events, and is told; it never blocks a change.
type hub struct {
	observers observers

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

// Subscribe returns a channel of the events from now on, with room for buffer
// of them, and a function that ends the subscription and closes the channel.
// What the collector does in the background is left out: nobody can see it but
// through what is open.
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

// emit hands out the events of one change, which nobody waits for if it is made
// in the background.
func (s *Store) emit(events []Event, background bool) {
	if len(events) == 0 {
		return
	}
	h := &s.events
	for _, o := range h.observers.list() {
		s.tell(o, events)
	}
	if background {
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

// addEvents makes the events that follow from the overlay: one for each entry
// that changes, and one for each inode whose attributes do and that no event
// names yet.
func (c *change) addEvents() {
	add := func(e Event) {
		e.Op, e.Origin = c.op, c.origin
		c.events = append(c.events, e)
	}
	if !c.quiet {
		for _, e := range c.entries {
			add(Event{Parent: e.parent, Name: e.name, Ino: e.ino, Removed: e.d.ino == 0})
		}
	}
	for i := range c.held {
		h := &c.held[i]
		if !h.edited || h.removed || h.next.Attr == h.cur.Attr {
			continue
		}
		content := h.next.IsRegular() && h.next.Version != h.cur.Version
		if content || !namesInode(c.events, h.node.ino) {
			add(Event{Ino: h.node.ino, Content: content})
		}
	}
}

func namesInode(events []Event, ino Ino) bool {
	for i := range events {
		if events[i].Ino == ino || events[i].Parent == ino {
			return true
		}
	}
	return false
}

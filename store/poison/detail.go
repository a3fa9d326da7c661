package poison

import (
	"slices"
	"sync"
	"time"
)

// detailWait bounds what a reader of health waits for the families' Detail
// functions, which may do I/O or, against the rules, wait for a stuck lock.
const detailWait = 250 * time.Millisecond

// describer asks families what their locks guard, on a goroutine of its own, at
// most one at a time. While that one is stuck the last answers are used.
type describer struct {
	mu sync.Mutex // protects the fields below; a leaf

	busy chan struct{} // closed when the goroutine ends; nil: there is none
	last map[*core]string
}

// details returns what the locks cs guard, as far as their families say so in
// time.
func (d *describer) details(cs ...*core) map[*core]string {
	var ask []*core
	for _, c := range cs {
		if c.grp.detail != nil {
			ask = append(ask, c)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	d.ask(ask)
	d.mu.Lock()
	defer d.mu.Unlock()
	answers := make(map[*core]string, len(ask))
	for _, c := range ask {
		answers[c] = d.last[c]
	}
	return answers
}

// ask waits until all of cs are answered, or detailWait has passed.
func (d *describer) ask(cs []*core) {
	timeout := time.NewTimer(detailWait)
	defer timeout.Stop()
	for {
		done, started := d.start(cs)
		select {
		case <-done:
			if started {
				return
			}
		case <-timeout.C:
			return
		}
	}
}

// start asks about cs, unless a goroutine is busy with other questions. It returns
// a channel that is closed when the one or the other is finished.
func (d *describer) start(cs []*core) (done <-chan struct{}, started bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy != nil {
		return d.busy, false
	}
	for c := range d.last {
		if c.poisoned() == nil && !slices.Contains(cs, c) {
			delete(d.last, c)
		}
	}
	d.busy = make(chan struct{})
	go func() {
		defer d.finish() // also when a Detail exits the goroutine
		for _, c := range cs {
			var s string
			isolate(func() { s = c.grp.detail(c.id) })
			d.keep(c, s)
		}
	}()
	return d.busy, true
}

func (d *describer) finish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.busy)
	d.busy = nil
}

func (d *describer) keep(c *core, s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == nil {
		d.last = map[*core]string{}
	}
	d.last[c] = s
}

// forget drops the answer for c.
func (d *describer) forget(c *core) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.last, c)
}

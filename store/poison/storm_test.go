package poison_test

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store/poison"
)

// storm is a crowd of readers, writers, panics and admins on a few locks.
type storm struct {
	r     *poison.Registry
	locks []*poison.Guarded[pair]

	sections, deaths, resets, stale, recovered, refused atomic.Int64
}

// TestStorm checks, with everything happening at once, that no read without an
// event sees torn data, that no write section runs on torn data, that no event is
// cleared which the admin has not seen, and that in the end all locks are free.
func TestStorm(t *testing.T) {
	r := poison.NewRegistry(poison.RegistryOptions{})
	s := &storm{r: r}
	f := r.NewFamily(poison.FamilyOptions{Name: "inode"})
	for id := range uint64(4) {
		s.locks = append(s.locks, poison.NewIn(f, id, pair{}))
	}
	var last [4]poison.Transition // per lock, by the hooks' goroutine until Close
	r.OnTransition(func(tr poison.Transition) { last[tr.Lock[len(tr.Lock)-1]-'0'] = tr })
	length := 500 * time.Millisecond
	if testing.Short() {
		length = 100 * time.Millisecond
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, act := range []func(*testing.T){
		s.write, s.write, s.link, s.link, s.read, s.read, s.admin, s.admin, s.health,
	} {
		wg.Go(func() {
			for !stop.Load() {
				act(t)
			}
		})
	}
	time.Sleep(length)
	for patience := 0; !s.reachedAll() && patience < 1000; patience++ {
		time.Sleep(10 * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	for _, g := range s.locks {
		free(t, g)
	}
	r.Close()
	t.Logf("%d sections, %d deaths, %d resets, %d stale, %d recovered reads, %d refusals",
		s.sections.Load(), s.deaths.Load(), s.resets.Load(), s.stale.Load(), s.recovered.Load(), s.refused.Load())
	if !s.reachedAll() {
		t.Error("the storm did not reach every kind of event")
	}
	if r.Health().HooksDropped > 0 {
		return
	}
	for i, g := range s.locks {
		ev := g.Event()
		if open := last[i].Kind == poison.TransitionPoisoned; open != (ev != nil) || open && last[i].Gen != ev.Gen {
			t.Errorf("%s: event %+v, but the last transition is %+v", g.Name(), ev, last[i])
		}
	}
}

func (s *storm) reachedAll() bool {
	return s.deaths.Load() > 0 && s.resets.Load() > 0 && s.recovered.Load() > 0 && s.refused.Load() > 0
}

func (s *storm) any() *poison.Guarded[pair] { return s.locks[rand.IntN(len(s.locks))] }

// change keeps the invariant of p, or dies half-way.
func (s *storm) change(t *testing.T, p *pair) {
	s.sections.Add(1)
	if p.a != p.b {
		t.Errorf("a write section runs on torn data %v", *p)
	}
	p.a++
	switch rand.IntN(200) {
	case 0:
		s.deaths.Add(1)
		panic("storm")
	case 1:
		s.deaths.Add(1)
		runtime.Goexit()
	}
	p.b++
}

func (s *storm) count(err error) {
	var pe *poison.Error
	if errors.As(err, &pe) && pe.Refused {
		s.refused.Add(1)
	}
}

func (s *storm) write(t *testing.T) {
	exit(func() {
		s.count(s.any().Write("write", func(p *pair) error { s.change(t, p); return nil }))
	})
}

// link changes two locks and looks at a third.
func (s *storm) link(t *testing.T) {
	exit(func() {
		a, b, c := s.any(), s.any(), s.any()
		s.count(poison.Atomically("link", lockers(a, b), lockers(c), func(sec *poison.Section) error {
			if p := poison.Held(sec, c); p.a != p.b {
				t.Errorf("a section reads torn data %v", *p)
			}
			s.change(t, poison.Held(sec, a))
			if a != b {
				s.change(t, poison.Held(sec, b))
			}
			return nil
		}))
	})
}

func (s *storm) read(t *testing.T) {
	var got pair
	ev, err := s.any().Read("read", func(p *pair) { got = *p })
	switch {
	case err != nil:
		t.Errorf("Read = %v", err)
	case ev != nil:
		s.recovered.Add(1)
	case got.a != got.b:
		t.Errorf("a read without an event saw torn data %v", got)
	}
	runtime.Gosched()
}

// admin resets what it sees, after a while, in which others may have been faster.
func (s *storm) admin(t *testing.T) {
	g := s.any()
	ev := g.Event()
	if ev == nil {
		runtime.Gosched()
		return
	}
	if rand.IntN(2) == 0 {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
	}
	var inside *poison.Event
	err := g.Reset(ev.Gen, poison.ResetOptions{}, func(old *pair) (pair, error) {
		inside = g.Event()
		switch rand.IntN(10) {
		case 0:
			return pair{}, errRebuild
		case 1:
			panic("rebuild")
		}
		return repair(old)
	})
	if inside != nil && inside != ev {
		t.Errorf("a reset of event %d ran on event %d", ev.Gen, inside.Gen)
	}
	switch {
	case err == nil:
		s.resets.Add(1)
	case errors.Is(err, poison.ErrStale):
		s.stale.Add(1)
	}
}

func (s *storm) health(t *testing.T) {
	h := s.r.Health()
	for _, l := range h.Locks {
		if l.Event != nil && l.Event.Gen != l.Gen {
			t.Errorf("%s shows generation %d and event %d", l.Name, l.Gen, l.Event.Gen)
		}
	}
	runtime.Gosched()
}

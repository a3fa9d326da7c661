package poison_test

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"testing"

	"engramfs/store/poison"

	"pgregory.net/rapid"
)

// model is what one lock should be: its value, and the event it is poisoned by.
type model struct {
	v        pair
	ev       *poison.Event // nil: healthy
	poisoned map[string]uint64
	rejected uint64
	reads    uint64 // recovered
	panics   uint64 // of reads
	resets   map[string]uint64
}

// machine runs a registry of locks against models of them.
type machine struct {
	r      *poison.Registry
	locks  []*poison.Guarded[pair]
	models []*model
	gen    uint64 // the highest generation given so far
	kinds  []poison.TransitionKind
	want   []poison.TransitionKind
}

func newMachine(t *rapid.T) *machine {
	m := &machine{r: poison.NewRegistry(poison.RegistryOptions{WarnEvery: -1})}
	m.r.OnTransition(func(tr poison.Transition) { m.kinds = append(m.kinds, tr.Kind) })
	n := rapid.IntRange(1, 4).Draw(t, "locks")
	for i := range n {
		g := poison.New(m.r, string(rune('a'+i)), poison.LockOptions{Rank: i}, pair{})
		m.locks = append(m.locks, g)
		m.models = append(m.models, &model{poisoned: map[string]uint64{}, resets: map[string]uint64{}})
	}
	return m
}

// pick draws a lock and returns it with its model.
func (m *machine) pick(t *rapid.T) (*poison.Guarded[pair], *model) {
	i := rapid.IntRange(0, len(m.locks)-1).Draw(t, "lock")
	return m.locks[i], m.models[i]
}

// poisoned takes over g's new event, after checking that it is one.
func (m *machine) poisoned(t *rapid.T, g *poison.Guarded[pair], mo *model, cause poison.Cause) {
	ev := g.Event()
	if ev == nil || ev == mo.ev || ev.Cause != cause || ev.Gen <= m.gen {
		t.Fatalf("event of %s = %+v after generation %d, want a new one by %v", g.Name(), ev, m.gen, cause)
	}
	m.gen = ev.Gen
	mo.ev = ev
	mo.poisoned[cause.String()]++
	m.want = append(m.want, poison.TransitionPoisoned)
}

// write runs a write section that changes a, then calls mid, then changes b.
func (m *machine) write(t *rapid.T, mid func() error, cause poison.Cause) {
	g, mo := m.pick(t)
	ran, healthy := false, mo.ev == nil
	var err error
	returned := exit(func() {
		err = g.Write("write", func(p *pair) error {
			ran = true
			p.a++
			if err := mid(); err != nil {
				return err
			}
			p.b++
			return nil
		})
	})
	if ran != healthy {
		t.Fatalf("section ran: %v, lock healthy: %v", ran, healthy)
	}
	switch {
	case !healthy:
		var pe *poison.Error
		if !errors.As(err, &pe) || pe.Ev != mo.ev || !pe.Refused {
			t.Fatalf("Write of a poisoned lock = %v", err)
		}
		mo.rejected++
	case cause == 0:
		if err != nil {
			t.Fatalf("Write = %v", err)
		}
		mo.v.a++
		mo.v.b++
	default:
		if returned != (cause != poison.Goexit) || returned && !errors.Is(err, poison.ErrPoisoned) {
			t.Fatalf("Write = %v, returned %v, want poison by %v", err, returned, cause)
		}
		mo.v.a++
		m.poisoned(t, g, mo, cause)
	}
}

// read runs a read section that ends with end.
func (m *machine) read(t *rapid.T, end func()) {
	g, mo := m.pick(t)
	var got pair
	var ev *poison.Event
	var err error
	finished := false
	thrown := panics(func() {
		ev, err = g.Read("read", func(p *pair) { got = *p; end() })
		finished = true
	})
	if got != mo.v {
		t.Fatalf("Read saw %v, want %v", got, mo.v)
	}
	if mo.ev == nil && got.a != got.b {
		t.Fatalf("unlabelled read of torn data %v", got)
	}
	panicked := thrown != nil || err != nil
	switch {
	case mo.ev == nil && panicked != (thrown == "reader"):
		t.Fatalf("healthy Read: panic %v, error %v", thrown, err)
	case mo.ev == nil && finished && ev != nil:
		t.Fatalf("healthy Read returned event %+v", ev)
	case mo.ev != nil && thrown != nil:
		t.Fatalf("poisoned Read panicked with %v, want an *Error", thrown)
	case mo.ev != nil && err == nil && ev != mo.ev:
		t.Fatalf("poisoned Read returned event %+v, want %+v", ev, mo.ev)
	}
	if mo.ev != nil {
		mo.reads++
	}
	if panicked {
		mo.panics++
	}
}

// reset runs a reset with generation gen and checks that it gives want, and that
// it makes a new event when cause is not zero.
func (m *machine) reset(
	t *rapid.T, stale bool, o poison.ResetOptions, rebuild func(*pair) (pair, error),
	result string, cause poison.Cause,
) {
	g, mo := m.pick(t)
	o.Wait = -1
	gen := m.gen + 1
	if mo.ev != nil && !stale {
		gen = mo.ev.Gen
	}
	var err error
	ran := false
	returned := exit(func() {
		err = g.Reset(gen, o, func(p *pair) (pair, error) {
			ran = true
			if *p != mo.v {
				t.Errorf("rebuild got %v, want %v", *p, mo.v)
			}
			return rebuild(p)
		})
	})
	switch {
	case mo.ev == nil:
		result = "not_poisoned"
	case stale:
		result = "stale"
	}
	mo.resets[result]++
	if mustRun := result != "not_poisoned" && result != "stale"; ran != mustRun {
		t.Fatalf("rebuild ran: %v, want %v (%s)", ran, mustRun, result)
	}
	switch result {
	case "not_poisoned", "stale":
		want := map[string]error{"stale": poison.ErrStale, "not_poisoned": poison.ErrNotPoisoned}[result]
		if !errors.Is(err, want) {
			t.Fatalf("Reset = %v, want %v", err, want)
		}
	case "ok":
		if err != nil {
			t.Fatalf("Reset = %v", err)
		}
		mo.v, mo.ev = pair{mo.v.a, mo.v.a}, nil
		m.gen++ // a reset takes one
		m.want = append(m.want, poison.TransitionReset)
	case "failed":
		if !errors.Is(err, errRebuild) {
			t.Fatalf("Reset = %v", err)
		}
	case "panicked":
		if returned != (cause == poison.Panic) {
			t.Fatalf("Reset returned: %v", returned)
		}
		m.poisoned(t, g, mo, cause)
	}
}

// atomically runs a section over a drawn choice of locks, some of them for reading.
func (m *machine) atomically(t *rapid.T, end func() error, cause poison.Cause) {
	var w, r []int
	for i := range m.locks {
		switch rapid.IntRange(0, 2).Draw(t, "hold") {
		case 1:
			w = append(w, i)
		case 2:
			r = append(r, i)
		}
	}
	if len(w) == 0 {
		return // a read; its panic would go on
	}
	refused := slices.ContainsFunc(append(slices.Clone(w), r...), func(i int) bool { return m.models[i].ev != nil })
	ran := false
	err := poison.Atomically("atomically", m.lockers(w), m.lockers(r), func(s *poison.Section) error {
		ran = true
		for _, i := range r {
			if *poison.Held(s, m.locks[i]) != m.models[i].v {
				t.Errorf("Held(%s) = %v", m.locks[i].Name(), *poison.Held(s, m.locks[i]))
			}
		}
		for _, i := range w {
			poison.Held(s, m.locks[i]).a++
		}
		if err := end(); err != nil {
			return err
		}
		for _, i := range w {
			poison.Held(s, m.locks[i]).b++
		}
		return nil
	})
	if ran == refused {
		t.Fatalf("section ran: %v, refused: %v", ran, refused)
	}
	if refused {
		m.refusedOne(t, err, append(w, r...))
		return
	}
	for _, i := range w {
		m.models[i].v.a++
		if cause == 0 {
			m.models[i].v.b++
			continue
		}
		m.poisoned(t, m.locks[i], m.models[i], cause)
		if n := len(m.models[i].ev.Also); n != len(w)-1 {
			t.Fatalf("event of %s names %d others, want %d", m.locks[i].Name(), n, len(w)-1)
		}
	}
	if (cause == 0) != (err == nil) || err != nil && !errors.Is(err, poison.ErrPoisoned) {
		t.Fatalf("Atomically = %v, cause %v", err, cause)
	}
}

// refusedOne checks that err is the refusal of the first poisoned lock.
func (m *machine) refusedOne(t *rapid.T, err error, held []int) {
	slices.Sort(held)
	for _, i := range held {
		if mo := m.models[i]; mo.ev != nil {
			var pe *poison.Error
			if !errors.As(err, &pe) || pe.Ev != mo.ev || !pe.Refused {
				t.Fatalf("Atomically = %v, want the refusal of %s", err, m.locks[i].Name())
			}
			mo.rejected++
			return
		}
	}
}

func (m *machine) lockers(is []int) []poison.Locker {
	var ls []poison.Locker
	for _, i := range is {
		ls = append(ls, m.locks[i])
	}
	return ls
}

// check compares everything that can be seen from outside with the models.
func (m *machine) check(t *rapid.T) {
	s := m.r.Health()
	var poisoned []*poison.Event
	for i, mo := range m.models {
		l := s.Locks[i]
		if mo.ev != nil {
			poisoned = append(poisoned, mo.ev)
		}
		if m.locks[i].Event() != mo.ev || (l.Event == nil) != (mo.ev == nil) || l.Event != nil && l.Gen != l.Event.Gen {
			t.Fatalf("health = %+v, want event %+v", l, mo.ev)
		}
		c := l.Counters
		if c.WritesRejected != mo.rejected || c.RecoveredReads != mo.reads || c.ReadPanics != mo.panics {
			t.Fatalf("counters of %s = %+v, want %+v", l.Name, c, mo)
		}
		for kind, pair := range map[string][2]map[string]uint64{
			"poisoned": {c.Poisoned, mo.poisoned}, "resets": {c.Resets, mo.resets},
		} {
			maps.DeleteFunc(pair[0], func(_ string, n uint64) bool { return n == 0 })
			if !maps.Equal(pair[0], pair[1]) {
				t.Fatalf("%s of %s = %v, want %v", kind, l.Name, pair[0], pair[1])
			}
		}
	}
	slices.SortFunc(poisoned, func(a, b *poison.Event) int { return int(a.Gen) - int(b.Gen) })
	if !slices.Equal(m.r.Poisoned(), poisoned) || m.r.AnyPoisoned() != (len(poisoned) > 0) || m.r.Generation() != m.gen {
		t.Fatalf("registry: %v poisoned at generation %d, want %v at %d", m.r.Poisoned(), m.r.Generation(), poisoned, m.gen)
	}
}

var errRebuild = errors.New("rebuild")

// TestStateMachine runs drawn sequences of all that can happen to locks against a
// model, and compares all that can be seen after each step.
func TestStateMachine(t *testing.T) {
	fail := func() { panic("writer") }
	ok := func() error { return nil }
	rebuildPanic := func(*pair) (pair, error) { panic("rebuild") }
	rebuildExit := func(*pair) (pair, error) { runtime.Goexit(); return pair{}, nil }
	rebuildError := func(*pair) (pair, error) { return pair{}, errRebuild }
	dry := poison.ResetOptions{DryRun: true}
	var real poison.ResetOptions
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		t.Repeat(map[string]func(*rapid.T){
			"write":       func(t *rapid.T) { m.write(t, ok, 0) },
			"writePanic":  func(t *rapid.T) { m.write(t, func() error { fail(); return nil }, poison.Panic) },
			"writeGoexit": func(t *rapid.T) { m.write(t, func() error { runtime.Goexit(); return nil }, poison.Goexit) },
			"writeFatal":  func(t *rapid.T) { m.write(t, func() error { return poison.Fatal(errRebuild) }, poison.Invariant) },
			"poison": func(t *rapid.T) {
				g, mo := m.pick(t)
				healthy := mo.ev == nil
				if ev := g.Poison("drill", poison.Manual, ""); !healthy && ev != mo.ev {
					t.Fatalf("Poison = %+v, want the first event", ev)
				}
				if healthy {
					m.poisoned(t, g, mo, poison.Manual)
				}
			},
			"read":      func(t *rapid.T) { m.read(t, func() {}) },
			"readPanic": func(t *rapid.T) { m.read(t, func() { panic("reader") }) },

			"reset":       func(t *rapid.T) { m.reset(t, false, real, repair, "ok", 0) },
			"resetStale":  func(t *rapid.T) { m.reset(t, true, real, repair, "ok", 0) },
			"resetFails":  func(t *rapid.T) { m.reset(t, false, real, rebuildError, "failed", 0) },
			"resetPanics": func(t *rapid.T) { m.reset(t, false, real, rebuildPanic, "panicked", poison.Panic) },
			"resetExits":  func(t *rapid.T) { m.reset(t, false, real, rebuildExit, "panicked", poison.Goexit) },
			"dryRun":      func(t *rapid.T) { m.reset(t, false, dry, repair, "dry_run", 0) },
			"dryRunPanics": func(t *rapid.T) {
				m.reset(t, false, dry, rebuildPanic, "dry_run", 0)
			},

			"atomically":      func(t *rapid.T) { m.atomically(t, ok, 0) },
			"atomicallyPanic": func(t *rapid.T) { m.atomically(t, func() error { fail(); return nil }, poison.Panic) },
			"atomicallyFatal": func(t *rapid.T) {
				m.atomically(t, func() error { return poison.Fatal(errRebuild) }, poison.Invariant)
			},
			"": m.check,
		})
		m.r.Close()
		if !slices.Equal(m.kinds, m.want) {
			t.Fatalf("transitions = %v, want %v", m.kinds, m.want)
		}
	})
}

package poison_test

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store/poison"
)

// once is a reset that tries for the lock once.
var once = poison.ResetOptions{Wait: -1}

func TestResetRebuildsAndClears(t *testing.T) {
	g, logs := newPair(t)
	_ = g.Write("tear", tear)
	gen := g.Event().Gen
	if err := g.Reset(gen, once, repair); err != nil {
		t.Fatalf("Reset = %v", err)
	}
	ev, err := g.Read("read", func(p *pair) {
		if *p != (pair{1, 1}) {
			t.Errorf("value = %v, want the rebuilt {1 1}", *p)
		}
	})
	if ev != nil || err != nil || g.Event() != nil {
		t.Errorf("Read after the reset = %v, %v", ev, err)
	}
	if err := g.Write("write", bump); err != nil {
		t.Errorf("Write after the reset = %v", err)
	}
	_ = g.Write("tear", tear)
	if g.Event().Gen != gen+2 {
		t.Errorf("generation = %d, want %d: a reset takes one too", g.Event().Gen, gen+2)
	}
	if n := len(logs.lines("lock reset")); n != 1 {
		t.Errorf("%d log lines, want 1", n)
	}
}

func TestResetGetsTheRecoveredValueAndHoldsTheLock(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	var inside atomic.Bool
	read := make(chan struct{})
	err := g.Reset(g.Event().Gen, once, func(old *pair) (pair, error) {
		if *old != (pair{1, 0}) {
			t.Errorf("old = %v, want the torn {1 0}", *old)
		}
		inside.Store(true)
		go func() {
			defer close(read)
			_, _ = g.Read("read", func(*pair) {
				if inside.Load() {
					t.Error("a read ran during the rebuild")
				}
			})
		}()
		runtime.Gosched()
		time.Sleep(time.Millisecond)
		inside.Store(false)
		return repair(old)
	})
	if err != nil {
		t.Errorf("Reset = %v", err)
	}
	wait(t, "the read behind the reset", read)
}

func TestResetOfAStaleGenerationIsRefused(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	seen := g.Event().Gen
	for _, gen := range []uint64{0, seen - 1, seen + 1} {
		err := g.Reset(gen, once, func(*pair) (pair, error) {
			t.Error("rebuild ran")
			return pair{}, nil
		})
		if !errors.Is(err, poison.ErrStale) {
			t.Errorf("Reset(%d) = %v, want ErrStale", gen, err)
		}
	}
	if ev := g.Event(); ev == nil || ev.Gen != seen {
		t.Errorf("event = %+v", ev)
	}
}

// The generation is checked again under the lock: another admin may have reset the
// lock, and a writer poisoned it anew, while this one waited.
func TestResetThatBecomesStaleWhileItWaitsIsRefused(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	seen := g.Event().Gen
	held, release := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		first <- g.Reset(seen, once, func(old *pair) (pair, error) {
			close(held)
			<-release
			return repair(old)
		})
	}()
	<-held
	second := make(chan error)
	go func() {
		second <- g.Reset(seen, poison.ResetOptions{Wait: 10 * time.Second}, func(*pair) (pair, error) {
			t.Error("the second rebuild ran")
			return pair{}, nil
		})
	}()
	time.Sleep(2 * time.Millisecond)
	close(release)
	if err := <-first; err != nil {
		t.Errorf("first Reset = %v", err)
	}
	if err := <-second; !errors.Is(err, poison.ErrNotPoisoned) {
		t.Errorf("second Reset = %v, want ErrNotPoisoned", err)
	}
}

func TestResetOfAHealthyLockIsRefused(t *testing.T) {
	g, _ := newPair(t)
	if err := g.Reset(0, once, repair); !errors.Is(err, poison.ErrNotPoisoned) {
		t.Errorf("Reset = %v, want ErrNotPoisoned", err)
	}
}

func TestResetOfAHeldLockIsRefused(t *testing.T) {
	for name, hold := range map[string]func(g *poison.Guarded[pair], f func()){
		"ByReader": func(g *poison.Guarded[pair], f func()) {
			_, _ = g.Read("slow", func(*pair) { f() })
		},
		"ByReset": func(g *poison.Guarded[pair], f func()) {
			_ = g.Reset(g.Event().Gen, once, func(*pair) (pair, error) { f(); return pair{}, errors.New("no") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newPair(t)
			_ = g.Write("tear", tear)
			held, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				hold(g, func() { close(held); <-release })
			}()
			<-held
			for _, w := range []time.Duration{-1, 20 * time.Millisecond} {
				if err := g.Reset(g.Event().Gen, poison.ResetOptions{Wait: w}, repair); !errors.Is(err, poison.ErrHeld) {
					t.Errorf("Reset with Wait %v = %v, want ErrHeld", w, err)
				}
			}
			close(release)
			wait(t, "the holder", done)
			if err := g.Reset(g.Event().Gen, once, repair); err != nil {
				t.Errorf("Reset of the free lock = %v", err)
			}
		})
	}
}

// A reset that waits behind a stuck reader must not keep the other readers out
// for longer than it waits, as a pending Lock would.
func TestResetThatGivesUpLetsReadersGoOn(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	held, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_, _ = g.Read("stuck", func(*pair) { close(held); <-release })
	}()
	<-held
	reset := make(chan error)
	go func() { reset <- g.Reset(g.Event().Gen, poison.ResetOptions{Wait: 50 * time.Millisecond}, repair) }()
	time.Sleep(5 * time.Millisecond) // the reset waits by now
	read := make(chan struct{})
	go func() {
		defer close(read)
		if ev, err := g.Read("other", func(*pair) {}); ev == nil || err != nil {
			t.Errorf("Read = %v, %v, want the event", ev, err)
		}
	}()
	wait(t, "a read beside the stuck one", read)
	if err := <-reset; !errors.Is(err, poison.ErrHeld) {
		t.Errorf("Reset = %v, want ErrHeld", err)
	}
	close(release)
	wait(t, "the stuck read", done)
}

// Without the gate, readers that overlap all the time keep a try-lock from ever
// succeeding.
func TestResetIsNotStarvedByReaders(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = g.Read("read", func(*pair) { time.Sleep(200 * time.Microsecond) })
				}
			}
		})
	}
	time.Sleep(2 * time.Millisecond)
	for range 20 { // each must get its turn, not only the first
		err := g.Reset(g.Event().Gen, poison.ResetOptions{Wait: 5 * time.Second}, func(*pair) (pair, error) {
			return pair{}, errRebuild
		})
		if !errors.Is(err, errRebuild) {
			t.Fatalf("Reset = %v, want the rebuild's error", err)
		}
	}
	close(stop)
	wg.Wait()
}

// A read that made way for a reset finds the lock healthy afterwards, and is then a
// read of a healthy lock in every respect.
func TestReadThatMadeWayForAResetIsHealthy(t *testing.T) {
	for name, end := range map[string]func(){"Returns": func() {}, "Panics": func() { panic("reader") }} {
		t.Run(name, func(t *testing.T) {
			g, _ := newPair(t)
			_ = g.Write("tear", tear)
			held, release := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = g.Read("slow", func(*pair) { close(held); <-release }) })
			<-held
			reset := make(chan error, 1)
			wg.Go(func() { reset <- g.Reset(g.Event().Gen, poison.ResetOptions{Wait: 10 * time.Second}, repair) })
			time.Sleep(5 * time.Millisecond) // the reset waits by now, and the read will
			wg.Go(func() {
				var ev *poison.Event
				var err error
				thrown := panics(func() {
					ev, err = g.Read("late", func(p *pair) {
						if *p != (pair{1, 1}) {
							t.Errorf("value = %v, want the rebuilt one", *p)
						}
						end()
					})
				})
				if ev != nil || err != nil || (thrown != nil) != (name == "Panics") {
					t.Errorf("Read = %v, %v, panic %v", ev, err, thrown)
				}
			})
			time.Sleep(5 * time.Millisecond)
			close(release)
			if err := <-reset; err != nil {
				t.Errorf("Reset = %v", err)
			}
			wg.Wait()
			free(t, g)
		})
	}
}

func TestResetWithRebuildErrorStaysPoisoned(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	before := g.Event()
	want := errors.New("orphans found")
	err := g.Reset(before.Gen, once, func(*pair) (pair, error) { return pair{9, 9}, want })
	if !errors.Is(err, want) || errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("Reset = %v, want the rebuild's error", err)
	}
	if g.Event() != before {
		t.Errorf("event = %+v, want the one before", g.Event())
	}
	_, _ = g.Read("read", func(p *pair) {
		if *p != (pair{1, 0}) {
			t.Errorf("value = %v, want it untouched", *p)
		}
	})
}

func TestResetWithRebuildPanicIsANewEvent(t *testing.T) {
	ends := map[string]struct {
		f     func(*pair) (pair, error)
		cause poison.Cause
	}{
		"Panic":  {func(*pair) (pair, error) { panic("rebuild") }, poison.Panic},
		"Goexit": {func(*pair) (pair, error) { runtime.Goexit(); return pair{}, nil }, poison.Goexit},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			g, _ := newPair(t)
			_ = g.Write("tear", tear)
			before := g.Event()
			var err error
			returned := exit(func() { err = g.Reset(before.Gen, once, end.f) })
			if returned != (name == "Panic") {
				t.Errorf("Reset returned: %v", returned)
			}
			ev := g.Event()
			if ev == nil || ev == before || ev.Gen <= before.Gen || ev.Cause != end.cause || ev.Op != "reset" {
				t.Fatalf("event = %+v, want a new one", ev)
			}
			var pe *poison.Error
			if returned && (!errors.As(err, &pe) || pe.Ev != ev) {
				t.Errorf("Reset = %v, want the new event", err)
			}
			if err := g.Reset(before.Gen, once, repair); !errors.Is(err, poison.ErrStale) {
				t.Errorf("Reset with the old generation = %v, want ErrStale", err)
			}
			free(t, g)
		})
	}
}

func TestDryRunPublishesNothing(t *testing.T) {
	refused := errors.New("not clean")
	for name, rebuild := range map[string]func(*pair) (pair, error){
		"OK":     repair,
		"Error":  func(*pair) (pair, error) { return pair{}, refused },
		"Panic":  func(*pair) (pair, error) { panic("rebuild") },
		"Goexit": func(*pair) (pair, error) { runtime.Goexit(); return pair{}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := newRegistry(t, poison.RegistryOptions{})
			g := poison.New(r, "pair", poison.LockOptions{}, pair{})
			_ = g.Write("tear", tear)
			before := g.Event()
			var err error
			returned := exit(func() { err = g.Reset(before.Gen, poison.ResetOptions{DryRun: true}, rebuild) })
			switch name {
			case "OK":
				if err != nil {
					t.Errorf("dry run = %v", err)
				}
			case "Error":
				if !errors.Is(err, refused) {
					t.Errorf("dry run = %v, want the rebuild's error", err)
				}
			case "Panic":
				if !errors.Is(err, poison.ErrPoisoned) {
					t.Errorf("dry run = %v, want ErrPoisoned", err)
				}
			case "Goexit":
				if returned {
					t.Error("dry run returned after Goexit")
				}
			}
			if g.Event() != before || r.Generation() != before.Gen {
				t.Errorf("event = %+v, want the one before", g.Event())
			}
			_, _ = g.Read("read", func(p *pair) {
				if *p != (pair{1, 0}) {
					t.Errorf("value = %v, want it untouched", *p)
				}
			})
			if n := r.Health().Locks[0].Counters.Resets["dry_run"]; n != 1 {
				t.Errorf("dry runs counted: %d", n)
			}
			free(t, g)
		})
	}
}

func TestWaitingSectionsGoOnAfterAReset(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	var wg sync.WaitGroup
	err := g.Reset(g.Event().Gen, once, func(old *pair) (pair, error) {
		for range 4 {
			wg.Go(func() {
				if err := g.Write("write", bump); err != nil {
					t.Errorf("waiting Write = %v", err)
				}
			})
			wg.Go(func() {
				if ev, err := g.Read("read", func(*pair) {}); ev != nil || err != nil {
					t.Errorf("waiting Read = %v, %v", ev, err)
				}
			})
		}
		time.Sleep(2 * time.Millisecond)
		return repair(old)
	})
	if err != nil {
		t.Errorf("Reset = %v", err)
	}
	wg.Wait()
}

func TestResetResultsAreCounted(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "pair", poison.LockOptions{}, pair{})
	_ = g.Reset(0, once, repair)
	_ = g.Write("tear", tear)
	gen := g.Event().Gen
	_ = g.Reset(gen+1, once, repair)
	_ = g.Reset(gen, once, func(*pair) (pair, error) { return pair{}, errors.New("no") })
	_ = g.Reset(gen, once, func(*pair) (pair, error) {
		_ = g.Event() // needs no lock
		panic("no")
	})
	_ = g.Reset(g.Event().Gen, poison.ResetOptions{DryRun: true}, repair)
	_ = g.Reset(g.Event().Gen, once, repair)
	got := r.Health().Locks[0].Counters
	for _, res := range []string{"ok", "dry_run", "failed", "panicked", "stale", "not_poisoned"} {
		if got.Resets[res] != 1 {
			t.Errorf("resets %q = %d, want 1", res, got.Resets[res])
		}
	}
	if n, ok := got.Resets["held"]; n != 0 || !ok {
		t.Errorf(`resets "held" = %d, %v, want a series at 0`, n, ok)
	}
	if got.Poisoned["panic"] != 2 {
		t.Errorf("poisoned by panic = %d, want 2", got.Poisoned["panic"])
	}
}

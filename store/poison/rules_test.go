package poison_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"engramfs/store/poison"
)

func TestWritePanicBecomesError(t *testing.T) {
	g, logs := newPair(t)
	before := time.Now()
	err := g.Write("rename", tear)
	var pe *poison.Error
	if !errors.As(err, &pe) || !errors.Is(err, poison.ErrPoisoned) {
		t.Fatalf("Write = %v, want an *Error that is ErrPoisoned", err)
	}
	ev := pe.Ev
	if ev != g.Event() {
		t.Errorf("the error's event is %p, the lock's %p", ev, g.Event())
	}
	if ev.Lock != "pair" || ev.Op != "rename" || ev.Cause != poison.Panic || ev.Value != "torn" || ev.Gen == 0 {
		t.Errorf("event = %+v", ev)
	}
	if ev.At.Before(before) || ev.At.After(time.Now()) || len(ev.ID) != 36 || ev.ID[14] != '7' {
		t.Errorf("event at %v with id %q", ev.At, ev.ID)
	}
	if pe.Refused {
		t.Error("Refused is set, but the section ran")
	}
	if !strings.Contains(string(ev.Stack), "poison_test.tear") {
		t.Errorf("the stack does not name the function that panicked:\n%s", ev.Stack)
	}
	for _, secret := range []string{"torn", "goroutine", ".go:"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("Error() = %q, must not hold the value or the stack", err)
		}
	}
	for _, fact := range []string{"pair", "rename", "panic", fmt.Sprint(ev.Gen)} {
		if !strings.Contains(err.Error(), fact) {
			t.Errorf("Error() = %q lacks %q", err, fact)
		}
	}
	lines := logs.lines("lock poisoned")
	if len(lines) != 1 || lines[0].attrs["op"].String() != "rename" || lines[0].attrs["lock"].String() != "pair" {
		t.Errorf("log = %+v", lines)
	}
	free(t, g)
}

// A section that waits for the lock while the holder panics must see the poison:
// the lock is poisoned before it is released.
func TestWritePanicPoisonsBeforeTheLockIsReleased(t *testing.T) {
	for range 50 {
		g, _ := newPair(t)
		held, waiting := make(chan struct{}), make(chan struct{}, 2)
		type seen struct {
			ev  *poison.Event
			err error
			ran bool
		}
		reads, writes := make(chan seen, 1), make(chan seen, 1)
		go func() {
			<-held
			waiting <- struct{}{}
			var s seen
			s.ev, s.err = g.Read("read", func(p *pair) { s.ran = true })
			reads <- s
		}()
		go func() {
			<-held
			waiting <- struct{}{}
			var s seen
			s.err = g.Write("write", func(p *pair) error { s.ran = true; return nil })
			writes <- s
		}()
		err := g.Write("tear", func(p *pair) error {
			close(held)
			<-waiting
			<-waiting
			runtime.Gosched()
			return tear(p)
		})
		if !errors.Is(err, poison.ErrPoisoned) {
			t.Fatalf("Write = %v", err)
		}
		if s := <-reads; s.ev == nil || s.err != nil || !s.ran {
			t.Fatalf("waiting read: %+v, want the event and recovered data", s)
		}
		if s := <-writes; !errors.Is(s.err, poison.ErrPoisoned) || s.ran {
			t.Fatalf("waiting write: %+v, want a refusal", s)
		}
	}
}

func TestWriteGoexitPoisonsAndTheGoroutineExits(t *testing.T) {
	g, _ := newPair(t)
	returned := exit(func() {
		_ = g.Write("exit", func(p *pair) error { p.a++; runtime.Goexit(); return nil })
	})
	if returned {
		t.Error("Write returned after Goexit")
	}
	if ev := g.Event(); ev == nil || ev.Cause != poison.Goexit || ev.Op != "exit" {
		t.Errorf("event = %+v, want cause goexit", ev)
	}
	free(t, g)
}

func TestPanicWithNilPoisons(t *testing.T) {
	g, _ := newPair(t)
	err := g.Write("nil", func(*pair) error { panic(nil) })
	var nilErr *runtime.PanicNilError
	if !errors.Is(err, poison.ErrPoisoned) || !errors.As(err, &nilErr) || g.Event().Cause != poison.Panic {
		t.Errorf("Write = %v, event %+v", err, g.Event())
	}
}

func TestRuntimePanicPoisons(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "map", poison.LockOptions{}, map[string]int(nil))
	err := g.Write("put", func(m *map[string]int) error { (*m)["x"] = 1; return nil })
	var re runtime.Error
	if !errors.Is(err, poison.ErrPoisoned) || !errors.As(err, &re) {
		t.Errorf("Write = %v, want an *Error that wraps a runtime.Error", err)
	}
}

func TestPanicValueThatIsAnErrorStaysReachable(t *testing.T) {
	g, _ := newPair(t)
	err := g.Write("serve", func(*pair) error { panic(http.ErrAbortHandler) })
	if !errors.Is(err, http.ErrAbortHandler) || !errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("Write = %v, want both ErrAbortHandler and ErrPoisoned", err)
	}
	// Whoever comes later was not aborted, only refused.
	err = g.Write("later", bump)
	if errors.Is(err, http.ErrAbortHandler) || !errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("later Write = %v, want ErrPoisoned alone", err)
	}
}

func TestWriteErrorIsReturnedUnchangedAndDoesNotPoison(t *testing.T) {
	g, _ := newPair(t)
	want := errors.New("no space")
	if err := g.Write("grow", func(*pair) error { return want }); err != want {
		t.Errorf("Write = %v, want the very error", err)
	}
	if g.Event() != nil {
		t.Errorf("poisoned by an error: %+v", g.Event())
	}
	if err := g.Write("grow", bump); err != nil {
		t.Errorf("next Write = %v", err)
	}
}

func TestFatalPoisonsAsInvariant(t *testing.T) {
	for name, mark := range map[string]func(error) error{
		"Bare":    poison.Fatal,
		"Wrapped": func(err error) error { return fmt.Errorf("publish: %w", poison.Fatal(err)) },
		"Joined":  func(err error) error { return errors.Join(errors.New("x"), poison.Fatal(err)) },
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newPair(t)
			cause := errors.New("half done")
			err := g.Write("publish", func(p *pair) error { p.a++; return mark(cause) })
			if !errors.Is(err, poison.ErrPoisoned) || !errors.Is(err, cause) {
				t.Errorf("Write = %v, want ErrPoisoned that wraps the cause", err)
			}
			ev := g.Event()
			if ev == nil || ev.Cause != poison.Invariant || !strings.Contains(ev.Value, "half done") {
				t.Fatalf("event = %+v", ev)
			}
			if !strings.Contains(string(ev.Stack), "TestFatalPoisonsAsInvariant") {
				t.Errorf("the stack is not that of Fatal's caller:\n%s", ev.Stack)
			}
			free(t, g)
		})
	}
	if poison.Fatal(nil) != nil {
		t.Error("Fatal(nil) is not nil")
	}
}

func TestPoisonedWriteIsRefusedWithoutRunning(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	ran := false
	err := g.Write("write", func(*pair) error { ran = true; return nil })
	var pe *poison.Error
	if !errors.As(err, &pe) || !pe.Refused || pe.Ev != g.Event() {
		t.Errorf("Write = %#v, want a refusal with the lock's event", err)
	}
	if ran {
		t.Error("the section ran on a poisoned lock")
	}
	free(t, g)
}

func TestRefuse(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "pair", poison.LockOptions{}, pair{})
	if err := g.Refuse(); err != nil {
		t.Errorf("a healthy lock refuses: %v", err)
	}
	_ = g.Write("tear", tear)
	var pe *poison.Error
	if err := g.Refuse(); !errors.As(err, &pe) || !pe.Refused || pe.Ev != g.Event() {
		t.Errorf("Refuse = %#v, want a refusal with the lock's event", err)
	}
	if n := r.Health().Locks[0].WritesRejected; n != 1 {
		t.Errorf("%d writes refused, want 1", n)
	}
}

func TestFirstCauseWins(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("first", tear)
	first := g.Event()
	if ev := g.Poison("second", poison.Manual, "drill"); ev != first || g.Event() != first {
		t.Errorf("Poison on a poisoned lock gave %+v, want the first event", ev)
	}
	_ = g.Write("third", tear)
	if g.Event() != first {
		t.Errorf("event = %+v, want the first", g.Event())
	}
}

func TestManualPoison(t *testing.T) {
	g, logs := newPair(t)
	ev := g.Poison("scrub", poison.Invariant, "nlink is 3, want 2")
	if ev == nil || ev != g.Event() || ev.Cause != poison.Invariant || ev.Value != "nlink is 3, want 2" || ev.Op != "scrub" {
		t.Fatalf("event = %+v", ev)
	}
	if err := g.Write("write", bump); !errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("Write = %v", err)
	}
	if n := len(logs.lines("lock poisoned")); n != 1 {
		t.Errorf("%d log lines, want 1", n)
	}
}

func TestReadPanicOnHealthyLockGoesOnUnchangedAndDoesNotPoison(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "pair", poison.LockOptions{}, pair{})
	v := panics(func() { _, _ = g.Read("read", func(*pair) { panic(http.ErrAbortHandler) }) })
	if v != http.ErrAbortHandler {
		t.Errorf("Read panicked with %v, want the same value", v)
	}
	if exit(func() { _, _ = g.Read("exit", func(*pair) { runtime.Goexit() }) }) {
		t.Error("Read returned after Goexit")
	}
	if g.Event() != nil {
		t.Errorf("poisoned by a read: %+v", g.Event())
	}
	free(t, g)
	if n := r.Health().Locks[0].Counters.ReadPanics; n != 2 {
		t.Errorf("ReadPanics = %d, want 2", n)
	}
}

func TestReadPanicOnPoisonedLockBecomesError(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	cause := errors.New("index out of range")
	ev, err := g.Read("list", func(*pair) { panic(cause) })
	if ev != nil || !errors.Is(err, poison.ErrPoisoned) || !errors.Is(err, cause) {
		t.Errorf("Read = %v, %v, want an *Error that wraps the cause", ev, err)
	}
	var pe *poison.Error
	if errors.As(err, &pe) && (pe.Refused || pe.Ev != g.Event()) {
		t.Errorf("error = %+v", pe)
	}
	if exit(func() { _, _ = g.Read("exit", func(*pair) { runtime.Goexit() }) }) {
		t.Error("Read returned after Goexit")
	}
	free(t, g)
}

func TestPoisonedReadRunsOnRecoveredDataAndSaysSo(t *testing.T) {
	g, logs := newPair(t)
	_ = g.Write("tear", tear)
	var got pair
	ev, err := g.Read("lookup_path", func(p *pair) { got = *p })
	if err != nil || ev == nil || ev != g.Event() {
		t.Errorf("Read = %v, %v, want the event", ev, err)
	}
	if got != (pair{1, 0}) {
		t.Errorf("read %v, want the recovered {1 0}", got)
	}
	lines := logs.lines("lock poisoned, recovering")
	if len(lines) != 1 || lines[0].attrs["lock"].String() != "pair" || lines[0].attrs["op"].String() != "lookup_path" {
		t.Errorf("warnings = %+v, want one with lock and op", lines)
	}
}

func TestRecoveredReadWarningsAreLimitedPerOp(t *testing.T) {
	now := time.Unix(1000, 0)
	r, logs := newRegistry(t, poison.RegistryOptions{Now: func() time.Time { return now }})
	g := poison.New(r, "pair", poison.LockOptions{}, pair{})
	g.Poison("drill", poison.Manual, "")
	read := func(op string, n int) {
		for range n {
			if ev, _ := g.Read(op, func(*pair) {}); ev == nil {
				t.Fatal("a recovered read does not say so")
			}
		}
	}
	read("readdir", 100)
	read("getattr", 100)
	now = now.Add(time.Second)
	read("readdir", 1)
	lines := logs.lines("lock poisoned, recovering")
	if len(lines) != 3 {
		t.Fatalf("%d warnings, want one per op and one after a second", len(lines))
	}
	if n := lines[2].attrs["suppressed"].Uint64(); n != 99 {
		t.Errorf("suppressed = %d, want 99", n)
	}
	if n := r.Health().Locks[0].Counters.RecoveredReads; n != 201 {
		t.Errorf("RecoveredReads = %d, want 201: the counter is not limited", n)
	}
	for i := range 1000 { // made-up ops must not grow the memory without bound
		read(fmt.Sprint("op", i), 1)
	}
	if n := len(logs.lines("lock poisoned, recovering")); n > 3+64 {
		t.Errorf("%d warnings for 1000 ops, want at most 64 more", n)
	}
}

func TestFailClosedReadIsRefused(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "sessions", poison.LockOptions{Class: poison.FailClosed}, pair{})
	if ev, err := g.Read("read", func(*pair) {}); ev != nil || err != nil {
		t.Fatalf("healthy Read = %v, %v", ev, err)
	}
	_ = g.Write("tear", tear)
	ran := false
	ev, err := g.Read("read", func(*pair) { ran = true })
	var pe *poison.Error
	if ev != nil || !errors.As(err, &pe) || !pe.Refused || ran {
		t.Errorf("Read = %v, %v, ran %v; want a refusal", ev, err, ran)
	}
	free(t, g)
	c := r.Health().Locks[0].Counters
	if c.ReadsRejected != 1 || c.RecoveredReads != 0 {
		t.Errorf("counters = %+v", c)
	}
}

func TestDisposableIsEmptiedAndNeverPoisoned(t *testing.T) {
	ends := map[string]struct {
		f     func(m *map[string]int) error
		cause poison.Cause
	}{
		"Panic": {func(m *map[string]int) error { (*m)["x"] = 1; panic(http.ErrAbortHandler) }, poison.Panic},
		"Fatal": {func(m *map[string]int) error { return poison.Fatal(http.ErrAbortHandler) }, poison.Invariant},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			r, logs := newRegistry(t, poison.RegistryOptions{})
			g := poison.New(r, "cache", poison.LockOptions{
				Class: poison.Disposable, Empty: func() map[string]int { return map[string]int{} },
			}, map[string]int{"old": 1})
			err := g.Write("fill", end.f)
			var de *poison.DiscardedError
			if !errors.As(err, &de) || !errors.Is(err, poison.ErrDiscarded) || errors.Is(err, poison.ErrPoisoned) {
				t.Fatalf("Write = %v, want a *DiscardedError", err)
			}
			if want := "poison: value of cache was discarded after fill (" + end.cause.String() + ")"; err.Error() != want {
				t.Errorf("Error() = %q, want %q", err, want)
			}
			if !errors.Is(err, http.ErrAbortHandler) || de.Cause != end.cause || de.Op != "fill" || len(de.Stack) == 0 {
				t.Errorf("error = %+v", de)
			}
			if err := g.Write("put", func(m *map[string]int) error { (*m)["new"] = 1; return nil }); err != nil {
				t.Errorf("next Write = %v", err)
			}
			ev, err := g.Read("get", func(m *map[string]int) {
				if len(*m) != 1 || (*m)["new"] != 1 {
					t.Errorf("value = %v, want it emptied", *m)
				}
			})
			if ev != nil || err != nil {
				t.Errorf("Read = %v, %v", ev, err)
			}
			if n := r.Health().Locks[0].Counters.Discarded; n != 1 {
				t.Errorf("Discarded = %d, want 1", n)
			}
			if n := len(logs.lines("lock contents discarded")); n != 1 {
				t.Errorf("%d log lines, want 1", n)
			}
		})
	}
}

func TestDisposableGoexitAndPoisonEmpty(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "cache", poison.LockOptions{Class: poison.Disposable}, pair{5, 5})
	if exit(func() { _ = g.Write("exit", func(p *pair) error { runtime.Goexit(); return nil }) }) {
		t.Error("Write returned after Goexit")
	}
	check := func() {
		t.Helper()
		if ev, err := g.Read("read", func(p *pair) {
			if *p != (pair{}) {
				t.Errorf("value = %v, want zero", *p)
			}
		}); ev != nil || err != nil {
			t.Errorf("Read = %v, %v", ev, err)
		}
	}
	check()
	_ = g.Write("fill", bump)
	if ev := g.Poison("drill", poison.Manual, ""); ev != nil {
		t.Errorf("Poison = %+v, want nil", ev)
	}
	check()
	if err := g.Reset(1, poison.ResetOptions{}, repair); !errors.Is(err, poison.ErrNotPoisoned) {
		t.Errorf("Reset = %v, want ErrNotPoisoned", err)
	}
}

func TestEmptyThatPanicsLeavesTheZeroValue(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "cache", poison.LockOptions{
		Class: poison.Disposable, Empty: func() pair { panic("no") },
	}, pair{1, 2})
	if err := g.Write("fill", tear); !errors.Is(err, poison.ErrDiscarded) {
		t.Errorf("Write = %v", err)
	}
	if _, err := g.Read("read", func(p *pair) {
		if *p != (pair{}) {
			t.Errorf("value = %v", *p)
		}
	}); err != nil {
		t.Error(err)
	}
}

// Panic values are code of others: whatever their methods do, the lock must be
// poisoned and come free.
type rudeError func() string

func (r rudeError) Error() string { return r() }

func TestHostilePanicValues(t *testing.T) {
	values := map[string]any{
		"ErrorPanics":   rudeError(func() string { panic("again") }),
		"ErrorExits":    rudeError(func() string { runtime.Goexit(); return "" }),
		"Huge":          strings.Repeat("é", 1<<20),
		"NotComparable": []int{1},
		"NilError":      (*poison.OrderError)(nil),
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			g, _ := newPair(t)
			exit(func() { _ = g.Write("op", func(*pair) error { panic(v) }) })
			ev := g.Event()
			if ev == nil || ev.Cause != poison.Panic {
				t.Fatalf("event = %+v, want cause panic", ev)
			}
			if len(ev.Value) > 9<<10 || len(ev.Stack) == 0 {
				t.Errorf("value of %d bytes, stack of %d", len(ev.Value), len(ev.Stack))
			}
			free(t, g)
		})
	}
}

func TestHostileClockAndLogger(t *testing.T) {
	r := poison.NewRegistry(poison.RegistryOptions{Now: func() time.Time { panic("clock") }})
	g := poison.New(r, "pair", poison.LockOptions{}, pair{})
	if err := g.Write("tear", tear); !errors.Is(err, poison.ErrPoisoned) || g.Event().At.IsZero() {
		t.Errorf("Write = %v, event %+v", err, g.Event())
	}
	free(t, g)
}

// A generation is never given twice in a registry, so that a reset meant for one
// event cannot hit another, even if the lock was dropped and made again.
func TestGenerationsAreNeverReused(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{Generation: 41})
	f := r.NewFamily(poison.FamilyOptions{Name: "inode"})
	old := poison.NewIn(f, 7, pair{})
	_ = old.Write("tear", tear)
	seen := old.Event().Gen
	if seen != 42 {
		t.Errorf("first generation = %d, want 42", seen)
	}
	if err := old.Reset(seen, poison.ResetOptions{}, repair); err != nil {
		t.Fatal(err)
	}
	again := poison.NewIn(f, 7, pair{})
	_ = again.Write("tear", tear)
	if again.Event().Gen <= seen+1 {
		t.Errorf("generation %d after %d and its reset", again.Event().Gen, seen)
	}
	if err := again.Reset(seen, poison.ResetOptions{}, repair); !errors.Is(err, poison.ErrStale) {
		t.Errorf("Reset with the old generation = %v, want ErrStale", err)
	}
	if r.Generation() != again.Event().Gen {
		t.Errorf("Generation() = %d, want %d", r.Generation(), again.Event().Gen)
	}
}

func TestEventSurvivesJSON(t *testing.T) {
	g, _ := newPair(t)
	_ = g.Write("tear", tear)
	b, err := json.Marshal(g.Event())
	if err != nil {
		t.Fatal(err)
	}
	var ev poison.Event
	if err := json.Unmarshal(b, &ev); err != nil {
		t.Fatal(err)
	}
	want := g.Event()
	if ev.ID != want.ID || ev.Cause != want.Cause || ev.Gen != want.Gen || string(ev.Stack) != string(want.Stack) || !ev.At.Equal(want.At) {
		t.Errorf("after JSON: %+v, want %+v", ev, want)
	}
	if !strings.Contains(string(b), `"cause":"panic"`) {
		t.Errorf("cause is not a word in %s", b[:200])
	}
	if err := json.Unmarshal([]byte(`{"cause":"rust"}`), &ev); err == nil {
		t.Error("an unknown cause was read")
	}
}

func TestClassesAndKindsAreWordsInJSON(t *testing.T) {
	for _, c := range []poison.Class{poison.Durable, poison.Disposable, poison.FailClosed} {
		b, err := json.Marshal(c)
		var back poison.Class
		if err != nil || string(b) != `"`+c.String()+`"` || json.Unmarshal(b, &back) != nil || back != c {
			t.Errorf("%v is %s in JSON, and %v after it", c, b, back)
		}
	}
	if err := json.Unmarshal([]byte(`"precious"`), new(poison.Class)); err == nil {
		t.Error("an unknown class was read")
	}
	if b, err := json.Marshal(poison.TransitionReset); err != nil || string(b) != `"reset"` {
		t.Errorf("a kind of transition is %s in JSON", b)
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		poison.Panic.String(): "panic", poison.Goexit.String(): "goexit",
		poison.Invariant.String(): "invariant", poison.Manual.String(): "manual",
		poison.Durable.String(): "durable", poison.Disposable.String(): "disposable",
		poison.FailClosed.String():         "failclosed",
		poison.Cause(77).String():          "cause(77)",
		poison.Class(77).String():          "class(77)",
		poison.TransitionPoisoned.String(): "poisoned",
		poison.TransitionReset.String():    "reset",
		poison.TransitionRetired.String():  "retired",
		poison.TransitionKind(77).String(): "transition(77)",
	} {
		if got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}

func TestNamesAndOptionsAreChecked(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	poison.New(r, "taken", poison.LockOptions{}, 0)
	for name, f := range map[string]func(){
		"EmptyName":   func() { poison.New(r, "", poison.LockOptions{}, 0) },
		"TakenName":   func() { poison.New(r, "taken", poison.LockOptions{}, 0) },
		"TakenFamily": func() { r.NewFamily(poison.FamilyOptions{Name: "taken"}) },
		"WrongEmpty":  func() { poison.New(r, "x", poison.LockOptions{Empty: func() string { return "" }}, 0) },
	} {
		if panics(f) == nil {
			t.Errorf("%s: no panic", name)
		}
	}
}

package heal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"engramfs/store"
	"engramfs/store/poison"
	"engramfs/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// die poisons the lock of /d, which it makes if need be, and returns its name.
func die(t *testing.T, s *store.Store) string {
	t.Helper()
	a, err := s.EnsureDirectory(t.Context(), "/d", store.NewNode{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ArmFault(t.Context(), "/d", "", "panic"); err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o700)
	if _, err := s.SetAttr(t.Context(), a.Ino, store.SetAttr{Mode: &mode}); !errors.Is(err, store.ErrPoisoned) {
		t.Fatalf("SetAttr: %v, want poisoned", err)
	}
	return store.InodeLock(a.Ino)
}

// run lets h run until the test ends.
func run(t *testing.T, h *Healer) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { h.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestHealsUpToItsLimitAndThenEscalates(t *testing.T) {
	s := storetest.New(t)
	var mu sync.Mutex
	var audit []string
	h := New(Options{Store: s, Begin: func(lock string, gen uint64) (func(string), error) {
		return func(result string) {
			mu.Lock()
			defer mu.Unlock()
			audit = append(audit, lock+" "+result)
		}, nil
	}})
	run(t, h)
	var lock string
	for range 3 {
		lock = die(t, s)
		await(t, "the lock is healed", func() bool { return !s.AnyPoisoned() })
	}
	if e := h.Escalations(); len(e) != 0 {
		t.Errorf("escalations before the limit: %+v", e)
	}

	die(t, s)
	await(t, "an escalation", func() bool { return len(h.Escalations()) == 1 })
	entries, err := s.History(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	resets := 0
	for _, e := range entries {
		if e.Kind == "reset" && e.Source == store.ResetByAuto && e.Lock == lock {
			resets++
		}
	}
	if resets != 3 {
		t.Errorf("%d resets by auto in the history, want 3", resets)
	}
	e := h.Escalations()[0]
	st, err := s.LockStatus(lock)
	if err != nil || st.State != "poisoned" || e.Lock != lock || e.Gen != st.Gen || !strings.Contains(e.Reason, "3 times within 10m") {
		t.Errorf("the fourth time: lock %+v (%v), escalation %+v; want it poisoned and left to a person", st, err, e)
	}
	if _, err := s.ResetLock(t.Context(), lock, st.Gen, false); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of the escalation", func() bool { return len(h.Escalations()) == 0 })
	mu.Lock()
	defer mu.Unlock()
	if want := lock + " done"; len(audit) != 3 || audit[0] != want {
		t.Errorf("audit %q, want three times %q", audit, want)
	}
}

func TestWhatIsNotAuditedIsNotReset(t *testing.T) {
	s := storetest.New(t)
	h := New(Options{Store: s, Begin: func(string, uint64) (func(string), error) { return nil, errors.New("disk full") }})
	run(t, h)
	die(t, s)
	await(t, "an escalation", func() bool { return len(h.Escalations()) == 1 })
	if r := h.Escalations()[0].Reason; !strings.Contains(r, "disk full") || !s.AnyPoisoned() {
		t.Errorf("reason %q, poisoned %t; want the audit's error and a lock that stays poisoned", r, s.AnyPoisoned())
	}
}

// scripted answers resets as a test says.
type scripted struct {
	registry *poison.Registry
	answer   func(dryRun bool) (*store.ResetReport, error)
	calls    []bool // dry or not
}

func (s *scripted) Registry() *poison.Registry { return s.registry }

func (s *scripted) ResetLock(_ context.Context, _ string, _ uint64, dryRun bool) (*store.ResetReport, error) {
	s.calls = append(s.calls, dryRun)
	return s.answer(dryRun)
}

// poisoned returns n poisoned locks of a registry.
func poisoned(t *testing.T, n int, cause poison.Cause) *poison.Registry {
	t.Helper()
	r := poison.NewRegistry(poison.RegistryOptions{})
	t.Cleanup(r.Close)
	for i := range n {
		g := poison.New(r, fmt.Sprintf("lock-%02d", i), poison.LockOptions{}, 0)
		if cause == poison.Manual {
			g.Poison("test", cause, "by hand")
			continue
		}
		_ = g.Write("test", func(*int) error { panic("boom") })
	}
	return r
}

func TestOnlyACleanReportIsHealed(t *testing.T) {
	clean := &store.ResetReport{Reloaded: []string{"size: 1, was 2"}}
	for name, c := range map[string]struct {
		dry    *store.ResetReport
		err    error
		wet    int // resets in earnest
		reason string
	}{
		"Clean":     {dry: clean, wet: 1},
		"Repair":    {dry: &store.ResetReport{Repaired: []string{"links: 3, were 2"}}, reason: "repair durable data: links"},
		"Problem":   {dry: &store.ResetReport{Problems: []string{"checksum"}}, err: store.ErrDamaged, reason: "damaged"},
		"Held":      {dry: clean, err: poison.ErrHeld},
		"Overtaken": {dry: clean, err: poison.ErrStale},
	} {
		t.Run(name, func(t *testing.T) {
			s := &scripted{registry: poisoned(t, 1, poison.Panic)}
			s.answer = func(dryRun bool) (*store.ResetReport, error) {
				if dryRun {
					return c.dry, c.err
				}
				return clean, nil
			}
			h := New(Options{Store: s})
			h.round(t.Context())
			wet := len(slices.DeleteFunc(slices.Clone(s.calls), func(dry bool) bool { return dry }))
			if wet != c.wet {
				t.Errorf("%d resets, want %d", wet, c.wet)
			}
			reason := ""
			if e := h.Escalations(); len(e) > 0 {
				reason = e[0].Reason
			}
			if !strings.Contains(reason, c.reason) || (reason == "") != (c.reason == "") {
				t.Errorf("escalated because %q, want %q", reason, c.reason)
			}
		})
	}
}

func TestAPanicOfTheResetIsAnEscalation(t *testing.T) {
	s := &scripted{registry: poisoned(t, 1, poison.Panic), answer: func(bool) (*store.ResetReport, error) { panic("boom") }}
	h := New(Options{Store: s})
	h.round(t.Context())
	if e := h.Escalations(); len(e) != 1 || !strings.Contains(e[0].Reason, "boom") {
		t.Errorf("escalations %+v, want one", e)
	}
}

func TestWhatWasTakenOutOfServiceStaysSo(t *testing.T) {
	s := &scripted{registry: poisoned(t, 1, poison.Manual), answer: func(bool) (*store.ResetReport, error) { return &store.ResetReport{}, nil }}
	h := New(Options{Store: s})
	h.round(t.Context())
	if len(s.calls) != 0 || len(h.Escalations()) != 0 {
		t.Errorf("resets %v, escalations %v, want none", s.calls, h.Escalations())
	}
}

func TestLimitOfAllLocksAndItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{registry: poisoned(t, 12, poison.Panic), answer: func(bool) (*store.ResetReport, error) { return &store.ResetReport{}, nil }}
		h := New(Options{Store: s})
		h.round(t.Context()) // the scripted resets clear nothing
		if n := len(h.Escalations()); n != 2 {
			t.Errorf("%d escalations, want 2: 10 locks may be reset within an hour", n)
		}
		time.Sleep(time.Hour)
		h.round(t.Context())
		if n := len(h.Escalations()); n != 2 {
			t.Errorf("%d escalations an hour later, want 2: what was given up stays so", n)
		}
		s.registry.Close()
	})
}

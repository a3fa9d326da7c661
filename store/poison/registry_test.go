package poison_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store/poison"
)

func TestHealthListsDomainLocksAlwaysAndFamilyLocksWhenPoisoned(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	alloc := poison.New(r, "alloc", poison.LockOptions{Rank: 20}, pair{})
	poison.New(r, "dav-locks", poison.LockOptions{Rank: 30, Class: poison.FailClosed}, pair{})
	f := r.NewFamily(poison.FamilyOptions{
		Name: "inode", Rank: 10,
		Detail: func(id uint64) string { return fmt.Sprint("/photos/", id) },
	})
	healthy, torn := poison.NewIn(f, 1, pair{}), poison.NewIn(f, 12, pair{})
	names := func(s poison.Snapshot) (ns []string) {
		for _, l := range s.Locks {
			ns = append(ns, l.Name)
		}
		return ns
	}
	s := r.Health()
	if got := names(s); !slices.Equal(got, []string{"alloc", "dav-locks"}) || s.Poisoned != 0 || r.AnyPoisoned() {
		t.Errorf("healthy: %v, %d poisoned", got, s.Poisoned)
	}
	if n, ok := s.Locks[0].Counters.Poisoned["panic"]; n != 0 || !ok {
		t.Error("a healthy lock lacks its counters at 0")
	}
	_ = torn.Write("tear", tear)
	_ = torn.Write("refused", bump)
	_, _ = torn.Read("read", func(*pair) {})
	_ = healthy.Write("write", bump)
	s = r.Health()
	if got := names(s); !slices.Equal(got, []string{"alloc", "dav-locks", "inode:12"}) || s.Poisoned != 1 || !r.AnyPoisoned() {
		t.Fatalf("poisoned: %v, %d poisoned", got, s.Poisoned)
	}
	l := s.Locks[2]
	if l.Detail != "/photos/12" || l.Event == nil || l.Event.Detail != "/photos/12" || l.Gen != l.Event.Gen ||
		l.WritesRejected != 1 || l.RecoveredReads != 1 || l.Family != "inode" || l.ID != 12 || l.Counters != nil {
		t.Errorf("health of inode:12 = %+v", l)
	}
	if torn.Event().Detail != "" {
		t.Error("the shared event was written to")
	}
	fam := s.Families[0]
	if fam.Name != "inode" || fam.Poisoned != 1 || fam.Counters.Poisoned["panic"] != 1 || fam.Counters.WritesRejected != 1 {
		t.Errorf("family = %+v", fam)
	}
	if err := torn.Reset(torn.Event().Gen, once, repair); err != nil {
		t.Fatal(err)
	}
	if got := names(r.Health()); !slices.Equal(got, []string{"alloc", "dav-locks"}) || r.AnyPoisoned() {
		t.Errorf("after the reset: %v", got)
	}
	_ = alloc.Write("tear", tear)
	if l, ok := r.LockHealth("alloc"); !ok || l.Event == nil || l.Gen != l.Event.Gen {
		t.Errorf("health of alloc = %+v, %v", l, ok)
	}
}

func TestFindByName(t *testing.T) {
	r, gs := inodes(t, 3)
	dom := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	if l, ok := r.Find("alloc"); !ok || l != poison.Locker(dom) {
		t.Errorf("Find(alloc) = %v, %v", l, ok)
	}
	if _, ok := r.Find("inode:1"); ok {
		t.Error("Find knows a healthy lock of a family")
	}
	gs[1].Poison("drill", poison.Manual, "")
	if l, ok := r.Find("inode:1"); !ok || l != poison.Locker(gs[1]) {
		t.Errorf("Find(inode:1) = %v, %v", l, ok)
	}
	if _, ok := r.LockHealth("inode:2"); ok {
		t.Error("LockHealth knows a healthy lock of a family")
	}
}

func TestPoisonedListsEventsOldestFirst(t *testing.T) {
	r, gs := inodes(t, 10)
	if r.Poisoned() != nil {
		t.Error("Poisoned is not empty")
	}
	for _, i := range []int{7, 2, 9, 4} {
		gs[i].Poison("drill", poison.Manual, "")
	}
	if err := gs[2].Reset(gs[2].Event().Gen, once, repair); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, ev := range r.Poisoned() {
		names = append(names, ev.Lock)
	}
	if !slices.Equal(names, []string{"inode:7", "inode:9", "inode:4"}) {
		t.Errorf("Poisoned = %v", names)
	}
}

func TestRetireTakesALockOffTheList(t *testing.T) {
	r, gs := inodes(t, 2)
	kinds := make(chan poison.TransitionKind, 4)
	r.OnTransition(func(tr poison.Transition) { kinds <- tr.Kind })
	gs[0].Retire() // healthy: nothing
	gs[0].Poison("drill", poison.Manual, "")
	gs[0].Retire()
	gs[0].Retire()
	if r.AnyPoisoned() || len(r.Poisoned()) != 0 {
		t.Error("a retired lock is listed")
	}
	if err := gs[0].Write("write", bump); !errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("Write = %v: a retired lock is still poisoned", err)
	}
	r.Close()
	close(kinds)
	var got []poison.TransitionKind
	for k := range kinds {
		got = append(got, k)
	}
	if !slices.Equal(got, []poison.TransitionKind{poison.TransitionPoisoned, poison.TransitionRetired}) {
		t.Errorf("transitions = %v", got)
	}
}

// Health is for the moment when something hangs: it must need none of the locks.
func TestHealthWorksWhileLocksAreStuck(t *testing.T) {
	r, gs := inodes(t, 2)
	dom := poison.New(r, "alloc", poison.LockOptions{Rank: 20}, pair{})
	gs[1].Poison("drill", poison.Manual, "")
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = poison.Atomically("stuck", []poison.Locker{gs[0], dom}, nil, func(*poison.Section) error {
			close(held)
			<-release
			return nil
		})
	})
	<-held
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := r.Health()
		if s.Poisoned != 1 || s.Locks[0].Writing != "stuck" {
			t.Errorf("health = %+v", s)
		}
		if _, ok := r.LockHealth("alloc"); !ok || len(r.Poisoned()) != 1 {
			t.Error("LockHealth or Poisoned do not see the locks")
		}
	}()
	wait(t, "Health", done)
	close(release)
	wg.Wait()
	if w := r.Health().Locks[0].Writing; w != "" {
		t.Errorf("Writing = %q after the section", w)
	}
}

func TestHealthDoesNotWaitForAStuckDetail(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	var stuck atomic.Bool
	release := make(chan struct{})
	var answers atomic.Int32
	f := r.NewFamily(poison.FamilyOptions{Name: "inode", Detail: func(uint64) string {
		if stuck.Load() {
			<-release
		}
		answers.Add(1)
		return "/a"
	}})
	poison.NewIn(f, 1, pair{}).Poison("drill", poison.Manual, "")
	if d := r.Health().Locks[0].Detail; d != "/a" {
		t.Errorf("Detail = %q", d)
	}
	stuck.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 {
			if d := r.Health().Locks[0].Detail; d != "/a" {
				t.Errorf("Detail = %q, want the last answer", d)
			}
		}
	}()
	wait(t, "Health beside a stuck Detail", done)
	close(release)
	eventually(t, "the stuck Detail ends", func() bool { return answers.Load() == 2 })
}

func TestDetailThatPanicsOrExitsCostsOnlyTheAnswer(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	f := r.NewFamily(poison.FamilyOptions{Name: "inode", Detail: func(id uint64) string {
		switch id {
		case 1:
			panic("no path")
		case 2:
			runtime.Goexit()
		}
		return "/c"
	}})
	for id := range uint64(4) {
		poison.NewIn(f, id, pair{}).Poison("drill", poison.Manual, "")
	}
	for range 2 {
		s := r.Health()
		if len(s.Locks) != 4 || s.Locks[0].Detail != "/c" || s.Locks[1].Detail != "" {
			t.Errorf("health = %+v", s.Locks)
		}
	}
}

func TestHooksRunInOrderAfterTheLockIsFree(t *testing.T) {
	r, gs := inodes(t, 4)
	var got []poison.Transition
	r.OnTransition(func(tr poison.Transition) {
		got = append(got, tr)
		for _, g := range gs { // must not deadlock
			_, _ = g.Read("hook", func(*pair) {})
		}
	})
	for _, g := range gs {
		_ = g.Write("tear", tear)
		if err := g.Reset(g.Event().Gen, poison.ResetOptions{Wait: time.Minute}, repair); err != nil {
			t.Fatal(err)
		}
	}
	_ = poison.Atomically("rename", lockers(gs...), nil, func(*poison.Section) error { panic("x") })
	r.Close()
	if len(got) != 12 {
		t.Fatalf("%d transitions, want 12", len(got))
	}
	for i, tr := range got {
		if i > 0 && tr.Gen != got[i-1].Gen+1 {
			t.Errorf("generation %d after %d", tr.Gen, got[i-1].Gen)
		}
		want := poison.TransitionPoisoned
		if i < 8 && i%2 == 1 {
			want = poison.TransitionReset
		}
		if tr.Kind != want || tr.Event == nil || tr.Event.Lock != tr.Lock || tr.At.IsZero() || tr.Dropped != 0 {
			t.Errorf("transition %d = %+v, want %v", i, tr, want)
		}
	}
}

// A hook may take the locks it is told about at once, without waiting.
func TestHooksFindTheLocksFree(t *testing.T) {
	r, gs := inodes(t, 8)
	results := make(chan error, 1000)
	r.OnTransition(func(tr poison.Transition) {
		if tr.Kind != poison.TransitionPoisoned {
			return
		}
		for _, g := range gs {
			if g.Name() == tr.Lock {
				results <- g.Reset(tr.Gen, once, repair)
			}
		}
	})
	for range 100 {
		_ = poison.Atomically("rename", lockers(gs...), nil, func(*poison.Section) error { panic("x") })
		for range gs {
			if err := <-results; err != nil {
				t.Fatalf("Reset in a hook = %v", err)
			}
		}
	}
}

func TestHookThatPanicsOrExitsDoesNotStopTheOthers(t *testing.T) {
	r, gs := inodes(t, 5)
	var before, after atomic.Int32
	r.OnTransition(func(poison.Transition) { before.Add(1) })
	r.OnTransition(func(tr poison.Transition) {
		if tr.Gen%2 == 0 {
			panic("hook")
		}
		runtime.Goexit()
	})
	r.OnTransition(func(poison.Transition) { after.Add(1) })
	for _, g := range gs {
		g.Poison("drill", poison.Manual, "")
	}
	r.Close()
	if before.Load() != 5 || after.Load() != 5 {
		t.Errorf("the other hooks ran %d and %d times, want 5", before.Load(), after.Load())
	}
	if n := r.Health().HooksFailed; n != 5 {
		t.Errorf("HooksFailed = %d, want 5", n)
	}
}

func TestHookQueueOverflowIsCountedAndNeverBlocks(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{HookQueue: 2})
	f := r.NewFamily(poison.FamilyOptions{Name: "inode"})
	release := make(chan struct{})
	var seen, dropped atomic.Uint64
	r.OnTransition(func(tr poison.Transition) {
		<-release
		seen.Add(1)
		dropped.Store(tr.Dropped)
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := range uint64(10) {
			poison.NewIn(f, id, pair{}).Poison("drill", poison.Manual, "")
		}
	}()
	wait(t, "poisoning past a full queue", done)
	close(release)
	r.Close()
	h := r.Health()
	if h.Poisoned != 10 || h.HooksDropped < 7 || seen.Load()+h.HooksDropped != 10 || dropped.Load() != h.HooksDropped {
		t.Errorf("%d poisoned, %d dropped, %d seen, hook was told %d", h.Poisoned, h.HooksDropped, seen.Load(), dropped.Load())
	}
}

func TestCloseStopsHooksAndNotLocks(t *testing.T) {
	r, gs := inodes(t, 2)
	var n atomic.Int32
	r.OnTransition(func(poison.Transition) { n.Add(1) })
	gs[0].Poison("drill", poison.Manual, "")
	r.Close()
	r.Close()
	if n.Load() != 1 {
		t.Errorf("%d hooks before Close returned, want 1", n.Load())
	}
	gs[1].Poison("drill", poison.Manual, "")
	if err := gs[1].Reset(gs[1].Event().Gen, once, repair); err != nil {
		t.Errorf("Reset after Close = %v", err)
	}
	r.OnTransition(func(poison.Transition) { n.Add(1) })
	if h := r.Health(); n.Load() != 1 || h.HooksDropped != 2 {
		t.Errorf("%d hooks, %d dropped after Close", n.Load(), h.HooksDropped)
	}
}

func TestCloseDoesNotWaitForAStuckHook(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{CloseTimeout: 20 * time.Millisecond})
	release := make(chan struct{})
	r.OnTransition(func(poison.Transition) { <-release })
	poison.New(r, "alloc", poison.LockOptions{}, pair{}).Poison("drill", poison.Manual, "")
	done := make(chan struct{})
	go func() { defer close(done); r.Close() }()
	wait(t, "Close", done)
	close(release)
}

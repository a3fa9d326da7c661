package poison_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"engramfs/store/poison"
)

// watched starts a watchdog that is driven by hand, and returns the hand.
func watched(t *testing.T, r *poison.Registry, o poison.WatchOptions) (tick func(time.Duration)) {
	t.Helper()
	ticks := make(chan time.Time)
	o.Ticks = ticks
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Watch(ctx, o) }()
	t.Cleanup(func() { cancel(); wait(t, "Watch ends", done) })
	now := time.Unix(1000, 0)
	return func(d time.Duration) {
		now = now.Add(d)
		at := now
		ticks <- at
		eventually(t, "the round", func() bool { return r.Health().WatchedAt.Equal(at) })
	}
}

// stuckLock holds a lock until released.
func stuckLock(g *poison.Guarded[pair], op string) (release func()) {
	held, stop, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Write(op, func(*pair) error { close(held); <-stop; return nil })
	}()
	<-held
	return func() { close(stop); <-done }
}

func TestWatchdogReportsAStuckWriterOncePerEpisode(t *testing.T) {
	r, logs := newRegistry(t, poison.RegistryOptions{})
	var nodes []poison.Locker
	f := r.NewFamily(poison.FamilyOptions{
		Name: "inode", Detail: func(uint64) string { return "/photos" },
		Each: func(yield func(poison.Locker) bool) {
			for _, l := range nodes {
				if !yield(l) {
					return
				}
			}
		},
	})
	g := poison.NewIn(f, 7, pair{})
	nodes = append(nodes, poison.NewIn(f, 6, pair{}), g)
	var soft, hard []poison.Stuck
	var dump string
	tick := watched(t, r, poison.WatchOptions{
		Soft: 5 * time.Second, Hard: time.Minute,
		OnSoft: func(s poison.Stuck, stacks []byte) { soft = append(soft, s); dump = string(stacks) },
		OnHard: func(s poison.Stuck) { hard = append(hard, s) },
	})
	// The callbacks run after the round is visible; the next round orders them.
	settle := func() { tick(0) }

	release := stuckLock(g, "rename")
	for range 5 {
		tick(time.Second)
	}
	settle()
	if len(soft) != 0 || r.Health().Stuck != 0 {
		t.Fatalf("reported before the limit: %+v", soft)
	}
	for range 10 {
		tick(time.Second)
	}
	settle()
	if len(soft) != 1 || len(hard) != 0 {
		t.Fatalf("%d soft and %d hard reports, want 1 and 0", len(soft), len(hard))
	}
	want := time.Unix(1001, 0)
	if s := soft[0]; s.Lock != "inode:7" || s.Op != "rename" || s.Mode != "write" || !s.Since.Equal(want) || s.Detail != "/photos" {
		t.Errorf("report = %+v", s)
	}
	if !containsAll(dump, "stuckLock", "goroutine") {
		t.Error("the stacks do not show the holder")
	}
	h := r.Health()
	if h.Stuck != 1 || h.HardStuck || len(h.Locks) != 1 || h.Locks[0].Stuck == nil || h.Locks[0].Detail != "/photos" {
		t.Errorf("health = %+v", h)
	}
	if l, ok := r.Find("inode:7"); !ok || l != poison.Locker(g) {
		t.Error("a stuck lock is not found by name")
	}
	tick(time.Minute)
	tick(time.Second)
	settle()
	if len(soft) != 1 || len(hard) != 1 || !r.Health().HardStuck {
		t.Errorf("%d soft, %d hard, HardStuck %v", len(soft), len(hard), r.Health().HardStuck)
	}
	release()
	tick(time.Second)
	settle()
	if h := r.Health(); h.Stuck != 0 || h.HardStuck {
		t.Errorf("after the release: %+v", h)
	}
	release = stuckLock(g, "rename")
	for range 8 {
		tick(time.Second)
	}
	settle()
	release()
	if len(soft) != 2 {
		t.Errorf("%d soft reports, want one per episode", len(soft))
	}
	if n := len(logs.lines("lock stuck")); n != 2 {
		t.Errorf("%d log lines, want 2", n)
	}
	if n := len(logs.lines("lock stuck past the hard limit")); n != 1 {
		t.Errorf("%d hard log lines, want 1", n)
	}
}

func TestWatchdogDumpsToTheLogWhenNobodyTakesTheStacks(t *testing.T) {
	r, logs := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	tick := watched(t, r, poison.WatchOptions{})
	release := stuckLock(g, "alloc_ino")
	for range 8 {
		tick(time.Second)
	}
	tick(0)
	release()
	lines := logs.lines("lock stuck")
	if len(lines) != 1 || !containsAll(lines[0].attrs["stacks"].String(), "stuckLock") {
		t.Errorf("log = %+v", lines)
	}
}

// A reader alone goes unnoticed: it stops nobody. With a writer behind it, it stops
// everybody.
func TestWatchdogReportsAStuckReaderOnceAWriterWaits(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	_ = g.Write("earlier", bump)
	tick := watched(t, r, poison.WatchOptions{})
	held, stop := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = g.Read("slow", func(*pair) { close(held); <-stop }) })
	<-held
	for range 10 {
		tick(time.Second)
	}
	if n := r.Health().Stuck; n != 0 {
		t.Errorf("%d stuck locks, want none while nobody waits", n)
	}
	wg.Go(func() { _ = g.Write("behind", bump) })
	eventually(t, "the stuck reader is reported", func() bool {
		tick(time.Second)
		return r.Health().Stuck == 1
	})
	if s := r.Health().Locks[0].Stuck; s == nil || s.Mode != "read" || s.Op != "" {
		t.Errorf("stuck = %+v, want mode read", s)
	}
	close(stop)
	wg.Wait()
}

// A lock that is busy all the time is not stuck: every look finds another section.
func TestWatchdogDoesNotReportABusyLock(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	tick := watched(t, r, poison.WatchOptions{})
	for range 30 {
		release := stuckLock(g, "busy") // held at every look
		tick(time.Second)
		release()
	}
	if h := r.Health(); h.Stuck != 0 {
		t.Errorf("health = %+v", h)
	}
}

// Another section in the place of a stuck one is another episode.
func TestWatchdogEndsAnEpisodeWhenTheNextSectionBegins(t *testing.T) {
	r, logs := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	tick := watched(t, r, poison.WatchOptions{})
	for range 2 {
		release := stuckLock(g, "alloc_ino")
		for range 7 {
			tick(time.Second)
		}
		if r.Health().Stuck != 1 {
			t.Error("the stuck section is not reported")
		}
		release()
	}
	release := stuckLock(g, "alloc_ino")
	tick(time.Second)
	tick(0)
	if r.Health().Stuck != 0 {
		t.Error("a section that has just begun is reported")
	}
	release()
	if soft, over := len(logs.lines("lock stuck")), len(logs.lines("lock no longer stuck")); soft != 2 || over != 2 {
		t.Errorf("%d reported and %d ended, want 2 of each", soft, over)
	}
}

// After a pause of the whole machine two looks can be far apart: that is no proof.
func TestWatchdogNeedsSeveralLooks(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	tick := watched(t, r, poison.WatchOptions{})
	release := stuckLock(g, "alloc_ino")
	tick(time.Second)
	tick(time.Hour)
	if r.Health().Stuck != 0 {
		t.Error("reported after two looks")
	}
	tick(time.Second)
	if r.Health().Stuck != 1 {
		t.Error("not reported after three looks")
	}
	release()
}

func TestWatchdogSeesAtomicallyAndReset(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	a := poison.New(r, "a", poison.LockOptions{}, pair{})
	b := poison.New(r, "b", poison.LockOptions{}, pair{})
	b.Poison("drill", poison.Manual, "")
	tick := watched(t, r, poison.WatchOptions{})
	stop := make(chan struct{})
	var in, wg sync.WaitGroup
	in.Add(2)
	wg.Go(func() {
		_ = poison.Atomically("link", []poison.Locker{a}, nil, func(*poison.Section) error { in.Done(); <-stop; return nil })
	})
	wg.Go(func() {
		_ = b.Reset(b.Event().Gen, once, func(old *pair) (pair, error) { in.Done(); <-stop; return repair(old) })
	})
	in.Wait()
	for range 7 {
		tick(time.Second)
	}
	h := r.Health()
	if h.Stuck != 2 || h.Locks[0].Stuck.Op != "link" || h.Locks[1].Stuck.Op != "reset" {
		t.Errorf("health = %+v", h)
	}
	close(stop)
	wg.Wait()
}

func TestWatchdogSurvivesHostileCallbacks(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	r.NewFamily(poison.FamilyOptions{Name: "bad", Each: func(func(poison.Locker) bool) { panic("each") }})
	g := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	tick := watched(t, r, poison.WatchOptions{
		Hard:   6 * time.Second,
		OnSoft: func(poison.Stuck, []byte) { panic("soft") },
		OnHard: func(poison.Stuck) { panic("hard") },
	})
	release := stuckLock(g, "alloc_ino")
	for range 9 {
		tick(time.Second)
	}
	if h := r.Health(); h.Stuck != 1 || !h.HardStuck {
		t.Errorf("health = %+v", h)
	}
	release()
}

func TestSecondWatchIsRefused(t *testing.T) {
	r, logs := newRegistry(t, poison.RegistryOptions{})
	tick := watched(t, r, poison.WatchOptions{})
	tick(time.Second)
	r.Watch(context.Background(), poison.WatchOptions{}) // returns
	if n := len(logs.lines("watchdog runs already")); n != 1 {
		t.Errorf("%d log lines, want 1", n)
	}
}

func TestWatchdogWithItsOwnTimer(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	g := poison.New(r, "alloc", poison.LockOptions{}, pair{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Watch(ctx, poison.WatchOptions{Interval: time.Millisecond, Soft: 5 * time.Millisecond})
	}()
	release := stuckLock(g, "alloc_ino")
	eventually(t, "the stuck lock is seen", func() bool { return r.Health().Stuck == 1 })
	release()
	eventually(t, "the freed lock is seen", func() bool { return r.Health().Stuck == 0 })
	cancel()
	wait(t, "Watch ends", done)
	if !r.Health().WatchedAt.IsZero() {
		t.Error("WatchedAt is set with no watchdog")
	}
}

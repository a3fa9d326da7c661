package poison

import (
	"testing"
	"time"
)

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

func TestWaitersAndDurationsAreCounted(t *testing.T) {
	r := NewRegistry(RegistryOptions{Durations: true})
	g := New(r, "l", LockOptions{}, 0)
	counters := func() Counters { return *r.Health().Locks[0].Counters }

	held, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Write("slow", func(*int) error { close(held); <-release; return nil })
	}()
	<-held
	finished := make(chan struct{}, 3)
	go func() { _ = g.Write("w1", func(*int) error { return nil }); finished <- struct{}{} }()
	go func() {
		_ = Atomically("w2", []Locker{g}, nil, func(*Section) error { return nil })
		finished <- struct{}{}
	}()
	go func() { _, _ = g.Read("r", func(*int) {}); finished <- struct{}{} }()
	waitFor(t, "two writers and a reader wait", func() bool {
		n := counters()
		return n.WritersWaiting == 2 && n.ReadersWaiting == 1
	})
	time.Sleep(20 * time.Millisecond)
	close(release)
	<-done
	for range 3 {
		<-finished
	}
	n := counters()
	if n.WritersWaiting != 0 || n.ReadersWaiting != 0 {
		t.Errorf("%d writers and %d readers wait for a free lock", n.WritersWaiting, n.ReadersWaiting)
	}
	if n.Writes.Count != 3 || n.Writes.Sum < 20*time.Millisecond || n.Writes.Buckets[len(n.Writes.Buckets)-1].Count != 3 {
		t.Errorf("durations %+v, want 3 sections and more than 20ms", n.Writes)
	}
}

func TestDurationsAreOffByDefault(t *testing.T) {
	r := NewRegistry(RegistryOptions{})
	g := New(r, "l", LockOptions{}, 0)
	if err := g.Write("w", func(*int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if n := r.Health().Locks[0].Counters.Writes; n.Count != 0 {
		t.Errorf("%d sections timed, want none", n.Count)
	}
}

package fuse

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"engramfs/internal/logbuf"
	"engramfs/store"
)

// fakeKernel records what it is told. InodeNotify answers ENOENT for inodes in absent.
type fakeKernel struct {
	mu     sync.Mutex
	told   map[notice]int
	pages  map[store.Ino]int // content notifications
	absent map[store.Ino]int // how many times more
	stuck  chan struct{}     // not nil: every call waits for it
	log    logbuf.Buffer
}

func (k *fakeKernel) EntryNotify(parent uint64, name string) gofuse.Status {
	return k.tell(notice{store.Ino(parent), name}, -1)
}

func (k *fakeKernel) InodeNotify(node uint64, off, _ int64) gofuse.Status {
	return k.tell(notice{ino: store.Ino(node)}, off)
}

func (k *fakeKernel) tell(what notice, off int64) gofuse.Status {
	k.mu.Lock()
	stuck := k.stuck
	k.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.absent[what.ino] > 0 {
		k.absent[what.ino]--
		return gofuse.ENOENT
	}
	k.told[what]++
	if off >= 0 {
		k.pages[what.ino]++
	}
	return gofuse.OK
}

// newFakeNotifier returns a notifier of a kernel that knows the inodes. It is
// stopped when the test ends.
func newFakeNotifier(t *testing.T, knows ...store.Ino) (*notifier, *fakeKernel) {
	t.Helper()
	k := &fakeKernel{told: map[notice]int{}, pages: map[store.Ino]int{}, absent: map[store.Ino]int{}}
	n := &notifier{
		kernel: k, table: newTable(), origin: 7, log: slog.New(slog.NewTextHandler(&k.log, nil)),
		epoch: func() error { k.tell(everything, -1); return nil }, quit: make(chan struct{}),
		stopObserve: func() {},
	}
	for _, ino := range knows {
		n.table.remember(ino)
	}
	n.run()
	t.Cleanup(n.stop)
	return n, k
}

func (k *fakeKernel) want(t *testing.T, want ...notice) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range want {
		if k.told[w] == 0 {
			t.Errorf("the kernel was not told of %v", w)
		}
	}
	if len(k.told) != len(want) {
		t.Errorf("the kernel was told of %v, want %v", slices.Collect(maps.Keys(k.told)), want)
	}
}

func TestNotifierTellsWhatTheKernelKnows(t *testing.T) {
	for _, c := range []struct {
		name  string
		event store.Event
		want  []notice
	}{
		{"Entry", store.Event{Parent: 1, Name: "a", Ino: 2}, []notice{{1, "a"}, {1, ""}, {2, ""}}},
		{"EntryOfUnknownInode", store.Event{Parent: 2, Name: "a", Ino: 99}, []notice{{2, "a"}, {2, ""}}},
		{"UnknownParent", store.Event{Parent: 98, Name: "a", Ino: 2, Removed: true}, []notice{{2, ""}}},
		{"Inode", store.Event{Ino: 2}, []notice{{2, ""}}},
		{"Own", store.Event{Ino: 2, Origin: 7}, nil},
		{"OtherMount", store.Event{Ino: 2, Origin: 8}, []notice{{2, ""}}},
		{"Unknown", store.Event{Ino: 99}, nil},
		{"Lost", store.Event{Ino: 99, Lost: true}, []notice{everything, {1, ""}, {2, ""}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, k := newFakeNotifier(t, 2)
			n.Changed(c.event)
			n.Settle(t.Context())
			k.want(t, c.want...)
		})
	}
}

func TestNotifierDropsPagesOnlyForContent(t *testing.T) {
	n, k := newFakeNotifier(t, 2, 3)
	n.Changed(store.Event{Ino: 2})
	n.Changed(store.Event{Ino: 3, Content: true})
	n.Changed(store.Event{Ino: 3}) // must not take the content back
	n.Settle(t.Context())
	if k.pages[2] != 0 || k.pages[3] == 0 {
		t.Errorf("pages dropped = %v, want those of 3", k.pages)
	}
}

// A reply is on its way that will make the kernel know the inode.
func TestNotifierRepeatsUntilTheKernelKnowsTheInode(t *testing.T) {
	n, k := newFakeNotifier(t, 2)
	k.absent[2] = 4
	n.Changed(store.Event{Ino: 2})
	n.Settle(t.Context())
	k.want(t, notice{ino: 2})
	if s := n.Stats(); s.Retried != 4 || s.Waiting != 0 {
		t.Errorf("stats = %+v, want 4 retried", s)
	}
}

func TestNotifierGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, k := newFakeNotifier(t, 2)
		k.absent[2] = 1 << 30
		begin := time.Now()
		n.Changed(store.Event{Ino: 2})
		n.Settle(t.Context())
		if took := time.Since(begin); took < time.Second || took > 2*time.Second {
			t.Errorf("gave up after %v, want about a second", took)
		}
		if s := n.Stats(); s.Abandoned != 1 || s.Waiting != 0 {
			t.Errorf("stats = %+v, want 1 abandoned", s)
		}
	})
}

func TestNotifierForgottenInodeIsNotRepeated(t *testing.T) {
	n, k := newFakeNotifier(t, 2)
	k.absent[2] = 1 << 30
	n.Changed(store.Event{Ino: 2})
	n.table.forget(2, 1)
	n.Settle(t.Context())
	if s := n.Stats(); s.Absent != 1 || s.Abandoned != 0 {
		t.Errorf("stats = %+v, want 1 absent", s)
	}
}

// Whatever the kernel does, a change is never held up, memory is bounded, and the
// log says what is going on.
func TestNotifierStuckKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, k := newFakeNotifier(t, 2)
		k.mu.Lock()
		k.stuck = make(chan struct{})
		k.mu.Unlock()
		for i := range notifyLimit * 3 {
			n.Changed(store.Event{Parent: 1, Name: string(rune('a'+i%26)) + string(rune(i+1000)), Ino: 99})
		}
		if s := n.Stats(); s.Waiting > notifyLimit+2 || s.Overflows == 0 {
			t.Errorf("stats = %+v, want at most %d waiting", s, notifyLimit+2)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.Settle(ctx)
		if ctx.Err() == nil {
			t.Error("settled while the kernel is stuck")
		}
		time.Sleep(lagLimit + 2*time.Second)
		if s := n.Stats(); s.Lag < lagLimit {
			t.Errorf("lag = %v, want more than %v", s.Lag, lagLimit)
		}
		wantLog(t, &k.log, "cache notifications wait in the kernel")
		close(k.stuck)
		k.mu.Lock()
		k.stuck = nil
		k.mu.Unlock()
		n.Settle(t.Context())
		time.Sleep(2 * time.Second)
		wantLog(t, &k.log, "delivered again")
		if k.told[everything] == 0 || n.Stats().Waiting != 0 {
			t.Errorf("everything told %d times, stats %+v", k.told[everything], n.Stats())
		}
	})
}

// Settle waits for what was queued before it, not for what comes after.
func TestSettleWaitsForWhatCameBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q notifyQueue
		q.init()
		quit := make(chan struct{})
		if q.settled() != nil {
			t.Error("an empty queue is not settled")
		}
		q.add(notice{2, "a"}, false, time.Now())
		q.add(notice{2, "b"}, false, time.Now())
		first := q.settled()
		q.add(notice{2, "c"}, false, time.Now())
		second := q.settled()
		var taken []waitingNotice
		for _, name := range []string{"a", "b", "c"} {
			what, w, ok := q.take(quit)
			if !ok || what.name != name {
				t.Fatalf("take = %v, %t, want %s", what, ok, name)
			}
			taken = append(taken, w)
		}
		check := func(when string, wantFirst, wantSecond bool) {
			t.Helper()
			if isClosed(first) != wantFirst || isClosed(second) != wantSecond {
				t.Errorf("%s: settled %t, %t, want %t, %t", when, isClosed(first), isClosed(second), wantFirst, wantSecond)
			}
		}
		q.done(taken[2])
		check("only the last done", false, false)
		q.done(taken[0])
		check("one of the first done", false, false)
		q.again(notice{2, "b"}, taken[1], time.Now())
		check("the other to be repeated", false, false)
		_, w, _ := q.take(quit)
		q.done(w)
		check("all done", true, true)
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// What replaces others is waited for by those who waited for the others.
func TestSettleWaitsForReplacement(t *testing.T) {
	var q notifyQueue
	q.init()
	q.add(notice{2, "a"}, false, time.Now())
	settled := q.settled()
	q.add(notice{2, "b"}, false, time.Now())
	q.replace(time.Now())
	if isClosed(settled) || q.len() != 1 {
		t.Fatalf("settled %t with %d waiting, want 1", isClosed(settled), q.len())
	}
	if !q.add(notice{2, "c"}, true, time.Now()) || q.len() != 1 {
		t.Errorf("a notice waits beside everything: %d", q.len())
	}
	what, w, _ := q.take(nil)
	if what != everything {
		t.Fatalf("take = %v, want everything", what)
	}
	q.done(w)
	if !isClosed(settled) || q.settled() != nil {
		t.Error("not settled after everything was dropped")
	}
}

func TestNotifierSurvivesPanic(t *testing.T) {
	n, k := newFakeNotifier(t, 2)
	panics := 1
	n.epoch = func() error {
		if panics > 0 {
			panics--
			panic("drill")
		}
		return nil
	}
	n.Changed(store.Event{Lost: true})
	n.Settle(t.Context())
	n.Changed(store.Event{Ino: 2})
	n.Settle(t.Context())
	k.want(t, notice{ino: 2})
}

func wantLog(t *testing.T, log *logbuf.Buffer, text string) {
	t.Helper()
	if !strings.Contains(log.String(), text) {
		t.Errorf("the log does not say %q:\n%s", text, log)
	}
}

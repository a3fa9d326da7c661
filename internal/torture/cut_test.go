package torture

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// long reports whether the long forms of the tests were asked for.
func long() bool { return os.Getenv("ENGRAMFS_LONG") == "1" }

// count returns the number in an environment variable, or what a form has without.
func count(t testing.TB, name string, short, inLong int) int {
	t.Helper()
	n := short
	if long() {
		n = inLong
	}
	if v := os.Getenv(name); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 1 {
			t.Fatalf("%s=%q is no count", name, v)
		}
	}
	return n
}

// cut is a disk as a power cut has left it.
type cut struct {
	disk
	before   Call
	from, to int // the steps that may be the last one
}

// TestCutAtEveryCall runs each scenario once and cuts the power before every
// system call that changes something, of the engine and of the blobs: once so that
// nothing unsynced gets through, and again so that some of it does. Each time the
// store must come back in a state that a legal history explains.
func TestCutAtEveryCall(t *testing.T) {
	torn := count(t, "ENGRAMFS_TORN", 1, 20)
	calls, cuts := 0, 0
	begin := time.Now()
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			history, all, n := cutEverywhere(t, sc, torn)
			for _, c := range all {
				within(t, sc.name, func() { c.judge(t, sc, history) })
				if t.Failed() {
					t.FailNow()
				}
			}
			calls, cuts = calls+n, cuts+len(all)
		})
	}
	fmt.Printf("cuts at every call: %d scenarios, %d calls, %d cuts, every one recovers to a legal state, check clean (%v)\n",
		len(scenarios), calls, cuts, time.Since(begin).Round(time.Millisecond))
}

// TestCutWhileStarting cuts the power at every call of a start: the first one of a
// new store, and those that recover from an earlier cut.
func TestCutWhileStarting(t *testing.T) {
	depth := count(t, "ENGRAMFS_TORN", 1, 20)
	starts, cuts := 0, 0
	rng := rand.New(rand.NewPCG(rand.Uint64(), 7))
	again := func(t *testing.T, sc scenario, h History, c cut) {
		all := cutStart(t, c, rng)
		starts, cuts = starts+1, cuts+len(all)
		for _, c := range all {
			within(t, sc.name, func() { c.judge(t, sc, h) })
		}
	}
	t.Run("first", func(t *testing.T) {
		again(t, scenario{name: "first start"}, History{{}}, cut{disk: newDisk()})
	})
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			history, all, _ := cutEverywhere(t, sc, 1)
			for range min(depth, len(all)) {
				again(t, sc, history, all[rng.IntN(len(all))])
			}
		})
	}
	fmt.Printf("cuts while starting: %d starts, %d cuts, every one recovers to a legal state, check clean\n", starts, cuts)
}

// cutStart starts a store on a disk and cuts the power at every call of that.
func cutStart(t *testing.T, c cut, rng *rand.Rand) (cuts []cut) {
	t.Helper()
	var mu sync.Mutex // protects rng and cuts
	m, err := bootWatched(c.disk, func(m *machine, call Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		for _, random := range []*rand.Rand{nil, rng} {
			cuts = append(cuts, cut{m.powerCut(random), call, c.from, c.to})
		}
		return Fault{}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.s.Close(); err != nil {
		t.Error(err)
	}
	return cuts
}

// cutEverywhere runs a scenario and returns what clients saw after each step, the
// disks that the cuts have left, and the number of calls.
func cutEverywhere(t *testing.T, sc scenario, torn int) (history History, cuts []cut, calls int) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	m := mustBoot(t, newDisk())
	r := newRun(m.s)
	prepare(t, r, sc)
	history = History{mustSee(t, r)}
	var mu sync.Mutex // protects rng, cuts and the next two
	durable, now := 0, 0
	m.Watch(func(c Call) Fault {
		mu.Lock()
		defer mu.Unlock()
		calls++
		for i := range torn + 1 {
			random := rng
			if i == 0 {
				random = nil
			}
			cuts = append(cuts, cut{m.powerCut(random), c, durable, min(now+1, len(sc.steps))})
		}
		return Fault{}
	})
	for i, step := range sc.steps {
		if err := step.do(r); err != nil {
			t.Fatalf("step %d: %v", i+1, err)
		}
		history = append(history, mustSee(t, r))
		mu.Lock()
		now = i + 1
		if step.durable {
			durable = now
		}
		mu.Unlock()
	}
	m.Watch(nil)
	mu.Lock() // a call of the collector may still be under way
	all, n := append(cuts, cut{m.powerCut(nil), Call{Name: "end"}, durable, now}, cut{m.powerCut(rng), Call{Name: "end"}, durable, now}), calls
	mu.Unlock()
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	m.mustBeSound(t)
	if n == 0 {
		t.Fatal("no call was seen")
	}
	return history, all, n
}

// prepare brings a store to where a scenario begins, durably.
func prepare(t testing.TB, r *run, sc scenario) {
	t.Helper()
	if sc.setup == nil {
		return
	}
	if err := then(sc.setup, seal)(r); err != nil {
		t.Fatal(err)
	}
	if err := r.s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
}

func mustSee(t testing.TB, r *run) Tree {
	t.Helper()
	tree, err := See(ctx, r.s)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// judge starts a store on what a cut has left.
func (c cut) judge(t testing.TB, sc scenario, h History) {
	t.Helper()
	m, err := boot(c.disk)
	if err != nil {
		t.Errorf("cut before %+v between steps %d and %d: %v", c.before, c.from, c.to, err)
		return
	}
	got, err := See(ctx, m.s)
	if err == nil {
		err = h.Explain(got, c.from, c.to, sc.blend)
	}
	if err != nil {
		t.Errorf("cut before %+v between steps %d and %d:\n%v", c.before, c.from, c.to, err)
	}
	m.mustBeSound(t)
}

// TestExplainKnowsLegalFromIllegal checks the judge.
func TestExplainKnowsLegalFromIllegal(t *testing.T) {
	h := History{
		{"/f": {Ino: 5, Data: []byte("aaaa")}},
		{"/f": {Ino: 5, Data: []byte("bbbbbb")}, "/g": {Ino: 6}},
	}
	for name, c := range map[string]struct {
		tree     Tree
		from, to int
		blend    bool
		legal    bool
	}{
		"first":            {h[0], 0, 1, false, true},
		"second":           {h[1], 0, 1, false, true},
		"undone":           {h[0], 1, 1, false, false},
		"not yet done":     {h[1], 0, 0, false, false},
		"half":             {Tree{"/f": {Ino: 5, Data: []byte("aaaa")}, "/g": {Ino: 6}}, 0, 1, false, false},
		"mixture":          {Tree{"/f": {Ino: 5, Data: []byte("abba")}}, 0, 1, true, true},
		"mixture, synced":  {Tree{"/f": {Ino: 5, Data: []byte("abba")}}, 0, 1, false, false},
		"wrong byte":       {Tree{"/f": {Ino: 5, Data: []byte("abca")}}, 0, 1, true, false},
		"too long":         {Tree{"/f": {Ino: 5, Data: []byte("abbabbb")}}, 0, 1, true, false},
		"too short":        {Tree{"/f": {Ino: 5, Data: []byte("abb")}}, 0, 1, true, false},
		"unreadable":       {Tree{"/f": {Ino: 5, Data: []byte("aaaa"), Err: os.ErrInvalid}}, 0, 1, true, false},
		"wrong facts":      {Tree{"/f": {Ino: 5, Data: []byte("aaaa"), Facts: "mode 0"}}, 0, 1, true, false},
		"resurrected name": {Tree{"/f": {Ino: 5, Data: []byte("aaaa")}, "/x": {Ino: 7}}, 0, 1, true, false},
	} {
		if err := h.Explain(c.tree, c.from, c.to, c.blend); (err == nil) != c.legal {
			t.Errorf("%s: %v, want legal %t", name, err, c.legal)
		}
	}
}

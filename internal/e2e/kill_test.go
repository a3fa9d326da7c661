package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const killWriters = 4

// writer is one client of the kill test. It has a folder of its own and sends
// one request after the other, so that at a kill at most one of its requests
// is in doubt. Its model is the log of what was acknowledged, and lives in
// this process: no crash of the server can touch it.
type writer struct {
	author
	state model
	// doubt is the state if the request without an answer took effect.
	doubt model
	log   []string

	acked, unknown, landed int
}

// work sends operations until the server is gone. It returns an error if the
// server answers one with anything but success.
func (w *writer) work(addr string) error {
	d := NewDAV(addr, "", time.Minute)
	defer d.Close()
	w.log = w.log[:0]
	for {
		o := w.next(w.state)
		w.log = append(w.log, o.String())
		code, err := o.send(d)
		if err != nil {
			w.doubt = o.next
			w.unknown++
			return nil
		}
		if !o.succeeded(code) {
			return fmt.Errorf("%s = %d on a server in good order", o, code)
		}
		w.state = o.next
		w.acked++
	}
}

// verify reads the writer's folder back. It must be in the state of the last
// acknowledged operation, or in that of the one in doubt; it goes on from there.
func (w *writer) verify(addr string) error {
	d := NewDAV(addr, "", time.Minute)
	defer d.Close()
	may := []model{w.state}
	if w.doubt != nil {
		may = append(may, w.doubt)
	}
	got, err := observe(d, w.root, may...)
	if err != nil {
		return fmt.Errorf("%w\nlast operations:\n%s", err, w.recent())
	}
	for i, m := range may {
		if maps.Equal(m, got) {
			w.landed += i
			w.state, w.doubt = m, nil
			return nil
		}
	}
	return fmt.Errorf("%s is in no state it may be in\n%slast operations:\n%s", w.root, w.state.diff(got), w.recent())
}

// recent returns the last operations, the one in doubt last.
func (w *writer) recent() string { return strings.Join(w.log[max(0, len(w.log)-12):], "\n") }

// each runs f for all writers at once and returns the first error.
func each(ws []*writer, f func(*writer) error) error {
	var wg sync.WaitGroup
	errs := make(chan error, len(ws))
	for _, w := range ws {
		wg.Go(func() { errs <- f(w) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func kills(t *testing.T) int {
	t.Helper()
	v := os.Getenv("ENGRAMFS_KILLS")
	if v == "" {
		return 200
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("ENGRAMFS_KILLS=%q is no count", v)
	}
	return n
}

// TestKillLosesNothingAcknowledged kills the server under load again and again
// on one data folder, and reads everything back after each restart.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	cycles := kills(t)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	s := start(t)
	d := connect(t, s)
	var ws []*writer
	for i := range killWriters {
		w := &writer{author: author{root: fmt.Sprintf("/w%d", i), rng: rand.New(rand.NewPCG(seed, uint64(i)+1))}, state: model{}}
		must(t, d, "MKCOL", w.root, nil, nil, 201)
		ws = append(ws, w)
	}
	d.Close() // The writers' connections are the only ones from here on.

	var restarts []time.Duration
	for cycle := range cycles {
		loaded := make(chan error, 1)
		go func() { loaded <- each(ws, func(w *writer) error { return w.work(s.Addr) }) }()
		time.Sleep(time.Duration(5+rng.IntN(196)) * time.Millisecond)
		s.Kill()
		if err := <-loaded; err != nil {
			t.Fatalf("cycle %d (seed %d): %v", cycle, seed, err)
		}
		if cycle%checkEvery == 0 {
			mustBeClean(t, s)
		}
		t0 := time.Now()
		s.Restart()
		restarts = append(restarts, time.Since(t0))
		if err := verifyAll(s, ws); err != nil {
			t.Fatalf("cycle %d (seed %d): %v", cycle, seed, err)
		}
	}
	s.Stop()
	s.Restart()
	if err := verifyAll(s, ws); err != nil {
		t.Fatalf("after a clean restart (seed %d): %v", seed, err)
	}
	s.Stop()
	mustBeClean(t, s)
	report(t, ws, restarts)
}

// checkEvery is how many kills come between two checks of the whole store.
const checkEvery = 10

// mustBeClean checks the data folder of a server that is down.
func mustBeClean(t *testing.T, s *Server) {
	t.Helper()
	problems, err := checkData(s.Data)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	for _, p := range problems {
		t.Errorf("check: %s", p)
	}
	if len(problems) > 0 {
		t.FailNow()
	}
}

// verifyAll checks every writer's folder, and that there is nothing else.
func verifyAll(s *Server, ws []*writer) error {
	if err := each(ws, func(w *writer) error { return w.verify(s.Addr) }); err != nil {
		return err
	}
	d := NewDAV(s.Addr, "", time.Minute)
	defer d.Close()
	roots, err := d.List("/")
	if err == nil && len(roots) != len(ws) {
		err = fmt.Errorf("the root has %d members, want the %d writers' folders: %v", len(roots), len(ws), roots)
	}
	return err
}

func report(t *testing.T, ws []*writer, restarts []time.Duration) {
	t.Helper()
	var acked, unknown, landed int
	for _, w := range ws {
		acked, unknown, landed = acked+w.acked, unknown+w.unknown, landed+w.landed
	}
	if acked == 0 || unknown == 0 {
		t.Errorf("%d operations acknowledged and %d cut off: the load never ran into a kill", acked, unknown)
	}
	slices.Sort(restarts)
	t.Logf("kill -9: %d cycles, %d operations acknowledged, 0 lost, 0 torn, check clean; %d without an answer, %d of them took effect; restart median %v, worst %v",
		len(restarts), acked, unknown, landed, restarts[len(restarts)/2].Round(time.Millisecond), restarts[len(restarts)-1].Round(time.Millisecond))
}

// TestModelFollowsItsOwnOperations checks the checker: the states that the
// operations promise are consistent, and a difference is seen.
func TestModelFollowsItsOwnOperations(t *testing.T) {
	a := author{root: "/w0", rng: rand.New(rand.NewPCG(1, 2))}
	m, seen := model{}, map[string]int{}
	for range 3000 {
		o := a.next(m)
		seen[o.method]++
		if maps.Equal(o.next, m) {
			t.Fatalf("%s changes nothing", o)
		}
		for p := range o.next {
			parent := p[:strings.LastIndex(p, "/")]
			if parent != a.root && !o.next[parent].dir {
				t.Fatalf("%s leaves %s without a parent", o, p)
			}
		}
		m = o.next
	}
	for _, method := range []string{"PUT", "MKCOL", "MOVE", "COPY", "DELETE", "PROPPATCH"} {
		if seen[method] < 100 {
			t.Errorf("%d of 3000 operations are %s", seen[method], method)
		}
	}
	lost := m.without(m.list(false)[0])
	if m.diff(lost) == "" || m.diff(m) != "" {
		t.Errorf("diff of a lost file %q, of nothing %q", m.diff(lost), m.diff(m))
	}
}

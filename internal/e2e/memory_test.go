package e2e

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/internal/bench/httpwire"
	"engramfs/internal/bench/proc"
)

const (
	memoryLimit = 300 << 20
	memoryConns = 16
	// costLimit is how much dearer a create may be at the end than at the
	// start. Only the long form asserts it: a short one on a shared machine
	// measures its neighbours.
	costLimit = 1.3
)

// layout is how many files to make, and where: folders of perFolder files, and
// one large one in the middle, so that the first and the last files are made
// under the same conditions.
type layout struct {
	name                    string // what every path starts with
	files, perFolder, large int
}

func (l layout) folder(i int) string {
	start := (l.files - l.large) / 2 / l.perFolder * l.perFolder
	switch {
	case i < start:
		return fmt.Sprintf("%s/before-%04d", l.name, i/l.perFolder)
	case i < start+l.large:
		return l.name + "/large"
	default:
		return fmt.Sprintf("%s/after-%04d", l.name, (i-start-l.large)/l.perFolder)
	}
}

func TestMemoryIsBoundedHoweverManyFiles(t *testing.T) {
	l := layout{name: "/all", files: 50_000, perFolder: 1000, large: 10_000}
	if long() {
		l = layout{name: "/all", files: 1_000_000, perFolder: 1000, large: 100_000}
	}
	s := start(t)
	// The first requests of a process cost more than any later ones.
	createAll(t, s, layout{files: 2000, perFolder: 1000, name: "/warm"})
	t0 := time.Now()
	costs := createAll(t, s, l)
	created := time.Since(t0)
	afterCreate := peak(t, s)
	t0 = time.Now()
	listAll(t, s, l)
	listed := time.Since(t0)
	afterList := peak(t, s)

	edge := len(costs) / 20
	first, last := medianCost(costs[:edge]), medianCost(costs[len(costs)-edge:])
	ratio := float64(last) / float64(first)
	t.Logf("%d files created in %v (%.0f/s) and listed in %v; peak memory %d MiB, then %d MiB; cost of a create: first 5%% %v, last 5%% %v, ratio %.2f",
		l.files, created.Round(time.Second), float64(l.files)/created.Seconds(), listed.Round(time.Millisecond),
		afterCreate>>20, afterList>>20, first, last, ratio)
	if afterList >= memoryLimit {
		t.Errorf("peak resident memory %d MiB, want less than %d", afterList>>20, memoryLimit>>20)
	}
	if long() && ratio > costLimit {
		t.Errorf("a create costs %.2f times as much at the end as at the start, want at most %.2f", ratio, costLimit)
	}
}

func peak(t *testing.T, s *Server) int64 {
	t.Helper()
	m, err := proc.Mem(s.Pid())
	if err != nil {
		t.Fatal(err)
	}
	return m.Peak
}

// createAll makes the files over several connections, in order, and returns
// what each create took.
func createAll(t *testing.T, s *Server, l layout) []time.Duration {
	t.Helper()
	made := map[string]bool{}
	d := connect(t, s)
	must(t, d, "MKCOL", l.name, nil, nil, 201)
	for i := range l.files {
		if f := l.folder(i); !made[f] {
			made[f] = true
			must(t, d, "MKCOL", f, nil, nil, 201)
		}
	}
	costs := make([]time.Duration, l.files)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, memoryConns)
	for range memoryConns {
		wg.Go(func() {
			c := httpwire.NewClient(s.Addr, time.Minute)
			defer c.Close()
			for {
				i := int(next.Add(1)) - 1
				if i >= l.files {
					return
				}
				p := fmt.Sprintf("%s/file-%07d", l.folder(i), i)
				t0 := time.Now()
				r, err := c.Do(&httpwire.Request{Method: "PUT", Path: p, Body: []byte(p)}, nil)
				costs[i] = time.Since(t0)
				if err != nil || r.Status != 201 {
					errs <- fmt.Errorf("PUT %s: %v, status %d, want 201", p, err, status(r))
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	return costs
}

// listAll lists every folder and counts what it finds.
func listAll(t *testing.T, s *Server, l layout) {
	t.Helper()
	d := connect(t, s)
	want := map[string]int{}
	for i := range l.files {
		want[l.folder(i)]++
	}
	for f, n := range want {
		got, err := d.List(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != n {
			t.Fatalf("%s lists %d files, want %d", f, len(got), n)
		}
	}
}

func medianCost(costs []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(costs))[len(costs)/2]
}

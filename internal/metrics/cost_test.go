package metrics

import (
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"engramfs/internal/bench/httpwire"
	"engramfs/store/storetest"
)

// costLimit is what counting may cost of the throughput at full load.
const costLimit = 0.02

// cpu returns the processor time of this process. Unlike the time on the wall it is
// not changed by what else runs on the machine.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestCostOfCounting measures small answers over a connection, where counting costs
// most, with it and without it in turns. At full load the throughput is the
// processor's time by what a request takes of it.
func TestCostOfCounting(t *testing.T) {
	if testing.Short() || raceEnabled() {
		t.Skip("measures, which the race detector would distort")
	}
	body := []byte(strings.Repeat("x", 4096))
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "4096")
		_, _ = w.Write(body)
	})
	m := newMetrics(t, storetest.New(t))
	servers := [2]*httptest.Server{httptest.NewServer(next), httptest.NewServer(m.WebDAV(next))}
	var clients [2]*httpwire.Client
	for i, s := range servers {
		defer s.Close()
		clients[i] = httpwire.NewClient(s.Listener.Addr().String(), time.Minute)
		defer clients[i].Close()
	}
	requests, rounds := 500, 21
	long := os.Getenv("ENGRAMFS_LONG") != ""
	if long {
		requests, rounds = 4000, 41
	}
	run := func(i int) time.Duration {
		begin := cpu(t)
		for range requests {
			if r, err := clients[i].Do(&httpwire.Request{Method: "GET", Path: "/f"}, nil); err != nil || !r.OK() {
				t.Fatalf("GET: %v, %v", r, err)
			}
		}
		return (cpu(t) - begin) / time.Duration(requests)
	}
	run(0)
	run(1)
	var without, with, extra []time.Duration
	for i := range rounds {
		first := i % 2 // which goes first would otherwise decide
		took := [2]time.Duration{}
		took[first] = run(first)
		took[1-first] = run(1 - first)
		a, b := took[0], took[1]
		without, with, extra = append(without, a), append(with, b), append(extra, b-a)
	}
	slices.Sort(without)
	slices.Sort(with)
	slices.Sort(extra)
	cost := float64(extra[rounds/2]) / float64(without[rounds/2])
	t.Logf("processor time of a GET of 4 KiB: %v without counting, %v with it; in pairs %+.2f %%", without[rounds/2], with[rounds/2], 100*cost)
	if long && cost > costLimit { // the short form is too short to tell 2 % from noise
		t.Errorf("counting costs %.2f %%, want at most %.0f %%", 100*cost, 100*costLimit)
	}
}

// raceEnabled reports whether the test was built with the race detector.
func raceEnabled() bool {
	b, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(b.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

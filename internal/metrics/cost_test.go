package metrics

import (
	"math"
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
// most. At full load, with the clients on the same machine, the throughput is the
// processor's time by what a request takes of it. A round is without counting, with it,
// with it, and without it: short, so that whatever else goes on weighs on both alike.
// The cost is the median over many rounds, and has an interval that it lies in with a
// probability of 95 %.
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
	const requests = 200
	run := func(i int) float64 {
		begin := cpu(t)
		for range requests {
			if r, err := clients[i].Do(&httpwire.Request{Method: "GET", Path: "/f"}, nil); err != nil || !r.OK() {
				t.Fatalf("GET: %v, %v", r, err)
			}
		}
		return float64(cpu(t)-begin) / requests
	}
	rounds := 60
	long := os.Getenv("ENGRAMFS_LONG") != ""
	if long {
		rounds = 1000
	}
	run(0)
	run(1)
	var without, ratios []float64
	for range rounds {
		a, b := run(0), run(1)
		b += run(1)
		a += run(0)
		without, ratios = append(without, a/2), append(ratios, b/a-1)
	}
	slices.Sort(without)
	slices.Sort(ratios)
	spread := int(math.Ceil(math.Sqrt(float64(rounds)))) // ranks around the median: 1.96 times half the root of rounds
	cost, low, high := ratios[rounds/2], ratios[rounds/2-spread], ratios[rounds/2+spread]
	t.Logf("a GET of 4 KiB takes %v of a processor, client and server; counting adds %+.2f %% (95 %%: %+.2f to %+.2f)",
		time.Duration(without[rounds/2]), 100*cost, 100*low, 100*high)
	sure := high-low < costLimit // otherwise the machine has too much else to do
	if low > costLimit || long && sure && cost > costLimit {
		t.Errorf("counting costs %.2f %%, at least %.2f %%; want at most %.0f %%", 100*cost, 100*low, 100*costLimit)
	}
}

// raceEnabled reports whether the test was built with the race detector.
func raceEnabled() bool {
	b, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(b.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

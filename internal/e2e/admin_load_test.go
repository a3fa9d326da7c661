package e2e

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// adminLimit is the bar for the median answer of the admin API under full load.
const adminLimit = 50 * time.Millisecond

// askHealth returns how long the health took, of n requests.
func askHealth(t *testing.T, admin *DAV, n int) (took []time.Duration) {
	t.Helper()
	for range n {
		begin := time.Now()
		must(t, admin, "GET", "/api/v1/health", nil, nil, 200)
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took
}

func checkMedian(t *testing.T, when string, took []time.Duration) {
	t.Helper()
	median := took[len(took)/2]
	t.Logf("health %s: median %v, slowest of %d %v", when, median, len(took), took[len(took)-1])
	if median > adminLimit {
		t.Errorf("health %s: median %v, want at most %v", when, median, adminLimit)
	}
}

// TestStuckLockIsReported: a request that hangs with a lock is named, with its
// operation and since when, and the admin surface answers all the same.
func TestStuckLockIsReported(t *testing.T) {
	s := start(t, "--enable-drills", "--stuck-after=1s")
	d, admin := connect(t, s), adminOf(t, s)
	must(t, d, "PUT", "/f", nil, []byte("old"), 201)
	must(t, admin, "POST", "/api/v1/drills", nil, []byte(`{"path":"/f","cause":"hold"}`), 200)
	var writers sync.WaitGroup
	for range 2 { // one hangs, the other waits for it
		writers.Go(func() {
			w := NewDAV(s.Addr, "", time.Minute)
			defer w.Close()
			if r, _, err := w.Do("PUT", "/f", nil, []byte("new")); err != nil || r.Status != 204 {
				t.Errorf("PUT that hung or waited: %v, %v", r, err)
			}
		})
	}
	type health struct {
		Status, Problem string
	}
	var h health
	text := ""
	state := func() string {
		text = string(must(t, admin, "GET", "/api/v1/health", nil, nil, 200))
		h = health{}
		if err := json.Unmarshal([]byte(text), &h); err != nil {
			t.Fatal(err)
		}
		return h.Status
	}
	eventually(t, "the health is stuck", 15*time.Second, func() bool { return state() == "stuck" })
	if !strings.Contains(text, "/f") || !strings.Contains(text, "(put)") || !strings.Contains(text, `"since"`) {
		t.Errorf("the health does not tell path, operation and since when:\n%s", text)
	}
	checkMedian(t, "while a lock is stuck", askHealth(t, admin, 50))
	metrics := string(must(t, admin, "GET", "/metrics", nil, nil, 200))
	if !strings.Contains(metrics, `engramfs_lock_waiters{lock="inode",mode="read"} 1`) ||
		strings.Contains(metrics, `engramfs_lock_hold_seconds{lock="inode",mode="write"} 0`+"\n") {
		t.Errorf("the metrics show no holder, or nobody who waits")
	}
	if stacks := string(must(t, admin, "GET", "/api/v1/debug/goroutines", nil, nil, 200)); !strings.Contains(stacks, "store.(*faults).hit") {
		t.Error("the stacks on demand do not show the holder")
	}
	if kept, err := filepath.Glob(filepath.Join(s.Data, "stuck-*.log")); err != nil || len(kept) == 0 {
		t.Errorf("no stacks kept in the data folder: %v", err)
	}
	writers.Wait()
	eventually(t, "the server is whole again", 10*time.Second, func() bool { return state() == "online" })
}

// TestAdminAnswersUnderFullLoad: as many clients as keep every core busy must not
// keep an administrator waiting.
func TestAdminAnswersUnderFullLoad(t *testing.T) {
	s := start(t)
	admin := adminOf(t, s)
	connect(t, s)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() {
			d := NewDAV(s.Addr, "", time.Minute)
			defer d.Close()
			name, body := "/load-"+string(rune('a'+i%26)), make([]byte, 4096)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				method := "GET"
				if n%4 == 0 {
					method = "PUT"
				}
				if r, _, err := d.Do(method, name, nil, body[:len(body)*(1-min(n%4, 1))]); err != nil || r.Status >= 500 {
					t.Errorf("%s %s under load: %v, %v", method, name, r, err)
					return
				}
			}
		})
	}
	time.Sleep(time.Second)
	n := 100
	if long() {
		n = 1000
	}
	took := askHealth(t, admin, n)
	close(stop)
	clients.Wait()
	checkMedian(t, "under full load", took)
}

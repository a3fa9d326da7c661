package metrics

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"engramfs/store"
	"engramfs/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exposition returns what Prometheus reads.
func exposition(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET /metrics = %d\n%s", w.Code, w.Body)
	}
	return w.Body.String()
}

// scrape returns the value of every series, by name and labels as they are written.
func scrape(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(exposition(t, m)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			all[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return all
}

func want(t *testing.T, got map[string]string, series, value string) {
	t.Helper()
	if v, ok := got[series]; !ok || v != value {
		t.Errorf("%s = %q (there: %t), want %s", series, v, ok, value)
	}
}

func newMetrics(t *testing.T, s *store.Store) *Metrics {
	return New(Options{Store: s, Version: "v1", MountPanics: func() uint64 { return 2 }, DAVPanics: func() uint64 { return 3 }})
}

func TestEverySeriesOfALockIsThereFromTheStart(t *testing.T) {
	s := storetest.New(t)
	got := scrape(t, newMetrics(t, s))
	for _, lock := range []string{"inode", "alloc", "usage", "dav-locks", "file-locks"} {
		want(t, got, `engramfs_lock_poisoned{lock="`+lock+`"}`, "0")
		want(t, got, `engramfs_poisoned_locks{lock="`+lock+`"}`, "0")
		for _, cause := range []string{"panic", "goexit", "invariant", "manual"} {
			want(t, got, `engramfs_lock_poison_events_total{cause="`+cause+`",lock="`+lock+`"}`, "0")
		}
		for _, name := range []string{"writes_rejected", "recovered_reads", "reads_rejected", "read_panics"} {
			want(t, got, `engramfs_lock_`+name+`_total{lock="`+lock+`"}`, "0")
		}
		for _, source := range []string{"admin", "auto"} {
			want(t, got, `engramfs_lock_resets_total{lock="`+lock+`",result="ok",source="`+source+`"}`, "0")
		}
		for _, mode := range []string{"read", "write"} {
			want(t, got, `engramfs_lock_hold_seconds{lock="`+lock+`",mode="`+mode+`"}`, "0")
			want(t, got, `engramfs_lock_waiters{lock="`+lock+`",mode="`+mode+`"}`, "0")
		}
		if _, ok := got[`engramfs_lock_write_duration_seconds_bucket{lock="`+lock+`",le="+Inf"}`]; !ok {
			t.Errorf("engramfs_lock_write_duration_seconds of %s is missing", lock)
		}
	}
	for _, name := range []string{"degraded", "read_only", "lock_stuck_hard", `damaged_objects{kind="file"}`, `checksum_errors_total{kind="block",source="read"}`} {
		want(t, got, "engramfs_"+name, "0")
	}
	want(t, got, `engramfs_panics_total{source="webdav"}`, "3")
	want(t, got, `engramfs_panics_total{source="fuse"}`, "2")
	want(t, got, `engramfs_panics_total{source="store"}`, "0")
	want(t, got, `engramfs_build_info{goversion="`+runtime.Version()+`",version="v1"}`, "1")
	want(t, got, `engramfs_requests_total{door="webdav",op="PUT",status="5xx"}`, "0")
	want(t, got, `engramfs_requests_total{door="fuse",op="write",status="EIO"}`, "0")
	for _, name := range []string{"go_goroutines", "process_open_fds", "engramfs_journal_fsync_duration_seconds_count", "engramfs_files"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestPoisonAndResetAreCounted(t *testing.T) {
	s := storetest.New(t)
	m := newMetrics(t, s)
	a, err := s.EnsureDirectory(t.Context(), "/d", store.NewNode{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	chmod := func() error {
		mode := uint32(0o700)
		_, err := s.SetAttr(t.Context(), a.Ino, store.SetAttr{Mode: &mode})
		return err
	}
	if err := s.ArmFault(t.Context(), "/d", "", "panic"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // one poisons, one is refused
		if err := chmod(); !errors.Is(err, store.ErrPoisoned) {
			t.Fatalf("SetAttr: %v, want poisoned", err)
		}
	}
	got := scrape(t, m)
	want(t, got, `engramfs_lock_poisoned{lock="inode"}`, "1")
	want(t, got, `engramfs_poisoned_locks{lock="inode"}`, "1")
	want(t, got, `engramfs_lock_poison_events_total{cause="panic",lock="inode"}`, "1")
	want(t, got, `engramfs_lock_writes_rejected_total{lock="inode"}`, "1")
	want(t, got, `engramfs_lock_poisoned{lock="alloc"}`, "0")
	want(t, got, "engramfs_degraded", "1")
	for series := range got {
		if strings.Contains(series, "inode:") {
			t.Errorf("%s names one inode: there can be any number of them", series)
		}
	}
	lock := store.InodeLock(a.Ino)
	st, err := s.LockStatus(lock)
	if err != nil {
		t.Fatal(err)
	}
	auto := store.WithResetSource(t.Context(), store.ResetByAuto)
	if _, err := s.ResetLock(auto, lock, st.Gen, false); err != nil {
		t.Fatal(err)
	}
	got = scrape(t, m)
	want(t, got, `engramfs_lock_poisoned{lock="inode"}`, "0")
	want(t, got, "engramfs_degraded", "0")
	want(t, got, `engramfs_lock_resets_total{lock="inode",result="ok",source="auto"}`, "1")
	want(t, got, `engramfs_lock_resets_total{lock="inode",result="ok",source="admin"}`, "0")
}

func TestReadOnlyStore(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{ReadOnly: errors.New("as a test")})
	got := scrape(t, New(Options{Store: s}))
	want(t, got, "engramfs_read_only", "1")
	want(t, got, "engramfs_degraded", "1")
	if _, ok := got[`engramfs_panics_total{source="fuse"}`]; ok {
		t.Error("a server without a mount has series of one")
	}
}

// Damage that is not told in time is neither none nor forgotten.
func TestDamageThatIsNotToldInTime(t *testing.T) {
	s := storetest.New(t)
	c := newStoreCollector(Options{Store: s})
	told := make(chan int)
	defer close(told)
	ask := func() { _, _ = c.damaged.Ask(func() (int, error) { return <-told, nil }) } // comes back without an answer
	series := func() map[string]float64 {
		t.Helper()
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(c)
		all, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range all {
			if f.Metric[0].Gauge != nil {
				got[f.GetName()] = f.Metric[0].Gauge.GetValue()
			}
		}
		return got
	}
	ask()
	got := series()
	if v, ok := got["engramfs_degraded"]; ok {
		t.Errorf("engramfs_degraded = %v while it cannot be told", v)
	}
	if v, ok := got["engramfs_damaged_objects"]; ok {
		t.Errorf("engramfs_damaged_objects = %v while it cannot be told", v)
	}
	told <- 3
	if n, err := c.damaged.Ask(func() (int, error) { return 3, nil }); n != 3 || err != nil {
		t.Fatalf("Ask = %d, %v", n, err)
	}
	ask()
	if got = series(); got["engramfs_degraded"] != 1 || got["engramfs_damaged_objects"] != 3 {
		t.Errorf("told before: %v", got)
	}
}

func TestRequestsOverHTTP(t *testing.T) {
	m := newMetrics(t, storetest.New(t))
	h := m.WebDAV(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/put":
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusCreated)
		case "/get":
			_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader("content")}) // through ReadFrom
			_, _ = io.WriteString(w, "more")
		case "/hint":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNotFound)
		case "/silent":
		case "/cut":
			panic(http.ErrAbortHandler)
		}
	}))
	srv := httptest.NewServer(h)
	defer srv.Close()
	ask := func(method, path, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := srv.Client().Do(r); err == nil {
			_, _ = io.Copy(io.Discard, a.Body)
			a.Body.Close()
		}
	}
	ask("PUT", "/put", "12345")
	ask("GET", "/get", "")
	ask("GET", "/hint", "")
	ask("DELETE", "/silent", "")
	ask("MOVE", "/cut", "")
	ask("BREW", "/silent", "")
	srv.Close()
	got := scrape(t, m)
	for series, n := range map[string]string{
		`op="PUT",status="2xx"`: "1", `op="GET",status="2xx"`: "1", `op="GET",status="4xx"`: "1",
		`op="DELETE",status="2xx"`: "1", `op="MOVE",status="aborted"`: "1", `op="other",status="2xx"`: "1",
	} {
		want(t, got, `engramfs_requests_total{door="webdav",`+series+`}`, n)
	}
	want(t, got, `engramfs_request_bytes_total{direction="in",door="webdav"}`, "5")
	want(t, got, `engramfs_request_bytes_total{direction="out",door="webdav"}`, "11")
	want(t, got, `engramfs_request_duration_seconds_count{door="webdav",op="GET"}`, "2")
}

// sendfileProbe is a ResponseWriter that can take from a reader, as net/http's can.
type sendfileProbe struct {
	http.ResponseWriter
	got io.Reader
}

func (p *sendfileProbe) ReadFrom(src io.Reader) (int64, error) {
	p.got = src
	return io.Copy(io.Discard, src)
}

func TestSendfileIsKept(t *testing.T) {
	p := &sendfileProbe{ResponseWriter: httptest.NewRecorder()}
	x := &exchange{ResponseWriter: p}
	src := strings.NewReader("bytes")
	if n, err := x.ReadFrom(src); n != 5 || err != nil || p.got != src || x.out != 5 {
		t.Errorf("ReadFrom = %d, %v, out %d; the writer below has got %v", n, err, x.out, p.got)
	}
}

func TestOperationsOfTheMount(t *testing.T) {
	var log bytes.Buffer
	m := New(Options{
		Store: storetest.New(t), Logger: slog.New(slog.NewTextHandler(&log, nil)),
		MountPanics: func() uint64 { return 0 }, SlowAfter: 100 * time.Millisecond,
	})
	observe := m.Mount()
	observe("write", time.Millisecond, 4096, 0)
	observe("read", time.Millisecond, 100, 0)
	observe("lookup", time.Microsecond, 0, syscall.ENOENT)
	observe("made_up", time.Microsecond, 0, syscall.Errno(4000))
	observe("getattr", time.Second, 0, syscall.EIO)
	observe("getattr", time.Second, 0, 0)
	observe("read", time.Second, 10<<20, 0) // its bytes may take that long
	observe("setlkw", time.Hour, 0, 0)      // waits for somebody by design
	got := scrape(t, m)
	for series, n := range map[string]string{
		`requests_total{door="fuse",op="write",status="ok"}`: "1", `requests_total{door="fuse",op="lookup",status="ENOENT"}`: "1",
		`requests_total{door="fuse",op="other",status="other"}`: "1", `requests_total{door="fuse",op="getattr",status="EIO"}`: "1",
		`request_bytes_total{direction="in",door="fuse"}`: "4096", `slow_operations_total{door="fuse",op="getattr"}`: "2",
		`slow_operations_total{door="fuse",op="read"}`: "0", `slow_operations_total{door="fuse",op="setlkw"}`: "0",
	} {
		want(t, got, "engramfs_"+series, n)
	}
	if n := strings.Count(log.String(), "slow operation"); n != 1 || !strings.Contains(log.String(), "op=getattr") {
		t.Errorf("%d lines of slow operations, want 1 for two in a row\n%s", n, &log)
	}
	traffic := m.Traffic()
	if traffic.Requests != 8 || traffic.Failed != 1 || traffic.BytesIn != 4096 || traffic.BytesOut != 100+10<<20 {
		t.Errorf("Traffic() = %+v", traffic)
	}
	if last := traffic.Latency[len(traffic.Latency)-1]; last.Seconds != 60 || last.Count != 7 || !slices.IsSortedFunc(traffic.Latency, func(a, b LatencyBucket) int { return int(int64(a.Count) - int64(b.Count)) }) {
		t.Errorf("latency %+v, want 7 up to 60 s and all ascending", traffic.Latency)
	}
}

// TestEveryOperationOfTheMountIsKnown compares the list with what package fuse
// calls its operations.
func TestEveryOperationOfTheMountIsKnown(t *testing.T) {
	files, err := filepath.Glob("../../fuse/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("sources of package fuse: %v, %v", files, err)
	}
	named := map[string]bool{}
	call := regexp.MustCompile(`fs\.begin\("([a-z_]+)"`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, "_test.go") || strings.HasSuffix(f, "guard.go") { // guard.go shows how to
			continue
		}
		for _, match := range call.FindAllStringSubmatch(string(text), -1) {
			named[match[1]] = true
		}
	}
	for op := range named {
		if !slices.Contains(mountOps, op) {
			t.Errorf("operation %s of the mount has no series", op)
		}
	}
	for _, op := range mountOps {
		if !named[op] {
			t.Errorf("there is no operation %s", op)
		}
	}
}

// nothing is the cheapest ResponseWriter there can be.
type nothing struct{ h http.Header }

func (n nothing) Header() http.Header       { return n.h }
func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) WriteHeader(int)             {}

func BenchmarkWebDAV(b *testing.B) {
	m := New(Options{Store: storetest.New(b)})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) })
	for name, handler := range map[string]http.Handler{"Bare": h, "Counted": m.WebDAV(h)} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequestWithContext(context.Background(), "GET", "/f", nil)
			w := nothing{http.Header{}}
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					handler.ServeHTTP(w, r)
				}
			})
		})
	}
}

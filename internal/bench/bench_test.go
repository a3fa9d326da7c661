package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/internal/bench/httpwire"
)

// TestMain lets the test binary be the x/net peer and the load generator of the
// mount rows, as the real binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "xnet" || os.Args[1] == "fsload") {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestRunMeasuresAndVerifiesXNet(t *testing.T) {
	for _, gen := range []string{"go", "wrk"} {
		t.Run(gen, func(t *testing.T) {
			if _, err := exec.LookPath("wrk"); gen == "wrk" && err != nil {
				t.Skip("wrk is not installed")
			}
			var out, log bytes.Buffer
			rows := "range4k,put4k1,put1g,allprop,propmem,copydir,movedir,deldir"
			code := run(t.Context(), []string{"-peers", "xnet", "-rows", rows, "-gen", gen, "-dir", t.TempDir(),
				"-size", "2MiB", "-entries", "30", "-secs", "1s", "-rounds", "1"}, &out, &log)
			if code != 0 || strings.Contains(out.String(), "error") || strings.Contains(out.String(), "note:") {
				t.Fatalf("run = %d\n%s%s", code, &out, &log)
			}
			for _, title := range []string{"PUT 4 KiB new, 1", "PUT the big file", "DELETE the folder"} {
				if !strings.Contains(out.String(), title) {
					t.Errorf("no row %q in\n%s", title, &out)
				}
			}
		})
	}
}

func TestBadUsageIsExit2(t *testing.T) {
	for _, args := range [][]string{
		{"-rows", "nosuch"}, {"-size", "7"}, {"-size", "0MiB"}, {"-rounds", "0"}, {"-secs", "10ms"}, {"-nosuch"}, {"stray"},
		{"-group", "nosuch"}, {"-rows", "get4k,("}, {"-peers", "nosuch"}, {"-group", "mount", "-peers", "nginx"}, {"-group", "dav", "-rows", "create1"},
	} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code != 2 {
			t.Errorf("run(%q) = %d, want 2", args, code)
		}
	}
}

// liar serves what checks must see through.
func liar(t *testing.T, h http.HandlerFunc) *server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	s := &server{process: &process{}, http: httpwire.NewClient(strings.TrimPrefix(srv.URL, "http://"), 10*time.Second), ready: map[fixture]bool{}}
	t.Cleanup(s.http.Close)
	return s
}

func TestChecksSeeWrongContent(t *testing.T) {
	b := &bench{settings: settings{size: 1 << 20, entries: 3, rounds: 1}}
	zeros := func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) }
	partial := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusPartialContent)
		w.Write(make([]byte, 4096))
	}
	short := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusMultiStatus)
		io.WriteString(w, strings.Repeat(`<href>/d/file-00000.txt</href><getcontentlength>16</getcontentlength>`, 3))
	}
	for name, c := range map[string]struct {
		h     http.HandlerFunc
		check func(*server) error
	}{
		"BigFile":      {zeros, func(s *server) error { return checkContent("/x")(b, s) }},
		"SmallFiles":   {zeros, func(s *server) error { return checkPuts("new32")(b, s) }},
		"Range":        {partial, func(s *server) error { return checkRanges(b, s) }},
		"WholeOnRange": {zeros, func(s *server) error { return checkRanges(b, s) }},
		"Listing":      {short, func(s *server) error { return s.checkEntries(b, "/d/", namedProps) }},
		"Deleted":      {zeros, func(s *server) error { return s.absent("/x") }},
		"Prepare":      {zeros, func(s *server) error { return s.prepare(b, bigFile) }},
		"CopyRefused": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(207) },
			func(s *server) error { return s.transfer("COPY", "/a", "/b") }},
	} {
		t.Run(name, func(t *testing.T) {
			if c.check(liar(t, c.h)) == nil {
				t.Error("check passed")
			}
		})
	}
}

func TestGoLoadCountsErrorsApart(t *testing.T) {
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if n.Add(1)%4 == 0 {
			w.WriteHeader(http.StatusLocked)
		}
	}))
	defer srv.Close()
	r, err := goLoad{}.run(strings.TrimPrefix(srv.URL, "http://"), load{Method: "PUT", Target: "/f", Conns: 4, For: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if total := n.Load(); r.Requests+r.Errors != total || r.Errors < total/5 || r.P99 < r.P50 || r.P50 == 0 {
		t.Errorf("result %+v of %d requests, a quarter of which failed", r, total)
	}
}

func withValue(v float64) *cell { return &cell{samples: []sample{{Value: v}}} }

func TestVerdicts(t *testing.T) {
	rateRow := goal{name: "r", against: "nginx", reach: 0.7, next: 1}
	timeRow := goal{name: "t", less: true, against: "nginx", reach: 1, next: 2}
	limitRow := goal{name: "l", less: true, reach: 10, next: 2}
	for name, c := range map[string]struct {
		goal         goal
		ours, theirs float64
		want         string
	}{
		"RateShort": {rateRow, 69, 100, "short"}, "RateOK": {rateRow, 70, 100, "ok"}, "RateNext": {rateRow, 100, 100, "next"},
		"TimeShort": {timeRow, 11, 10, "short"}, "TimeOK": {timeRow, 10, 10, "ok"}, "TimeNext": {timeRow, 5, 10, "next"},
		"LimitShort": {limitRow, 10, 0, "short"}, "LimitOK": {limitRow, 9.9, 0, "ok"}, "LimitNext": {limitRow, 1.9, 0, "next"},
		"NoGoal": {goal{}, 1, 1, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &result{goal: c.goal, cells: map[string]*cell{"engramfs": withValue(c.ours), "nginx": withValue(c.theirs)}}
			if got := r.verdict(); got != c.want {
				t.Errorf("verdict = %q, want %q", got, c.want)
			}
		})
	}
	absent := &result{goal: rateRow, cells: map[string]*cell{"engramfs": withValue(1)}}
	if got := absent.verdict(); got != "-" {
		t.Errorf("verdict without the peer = %q, want -", got)
	}
}

func TestWrongIsAboutOurServerOnly(t *testing.T) {
	failing := &cell{err: errors.New("wrong content")}
	if wrong([]*result{{cells: map[string]*cell{"nginx": failing, "engramfs": withValue(1)}}}) {
		t.Error("a peer's fault failed the run")
	}
	for _, name := range []string{"engramfs", "strict"} {
		if !wrong([]*result{{cells: map[string]*cell{name: failing}}}) {
			t.Errorf("the fault of %s did not fail the run", name)
		}
	}
	if !wrong([]*result{{cells: map[string]*cell{"engramfs": {samples: []sample{{Errors: 1}}}}}}) {
		t.Error("failed requests of our server did not fail the run")
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestYardsticksMeasureAndCleanUp(t *testing.T) {
	dir := t.TempDir()
	if v, err := fsyncRate(dir, 50*time.Millisecond); err != nil || v <= 0 {
		t.Errorf("fsyncRate = %v, %v", v, err)
	}
	if v, err := writeRate(dir, 1<<20); err != nil || v <= 0 {
		t.Errorf("writeRate = %v, %v", v, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCancelledRunStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := run(ctx, []string{"-peers", "xnet", "-dir", t.TempDir()}, io.Discard, io.Discard); code != 1 {
		t.Errorf("run = %d, want 1", code)
	}
}

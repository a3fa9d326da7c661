package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"engramfs/store"
	"engramfs/store/poison"
)

func serve(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func decode[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("answer %d is no JSON: %v\n%s", w.Code, err, w.Body)
	}
	return v
}

// wantProblem checks an error's status, code and media type.
func wantProblem(t *testing.T, w *httptest.ResponseRecorder, status int, code string) problem {
	t.Helper()
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type = %q\n%s", ct, w.Body)
	}
	p := decode[problem](t, w)
	if w.Code != status || p.Status != status || p.Code != code {
		t.Errorf("answer %d with status %d, code %q; want %d, %q", w.Code, p.Status, p.Code, status, code)
	}
	return p
}

func TestHealth(t *testing.T) {
	full := errors.New("no space for the journal")
	stuck := store.LockStatus{Name: "inode:8", State: lockStuck, Path: "/b"}
	for _, c := range []struct {
		name     string
		change   func(*fake)
		status   Status
		problem  string
		action   string
		poisoned int
		stuck    int
	}{
		{"Online", func(f *fake) { f.locks = f.locks[:1] }, Online, "", "", 0, 0},
		{"Poisoned", func(*fake) {}, Degraded, "/photos/2024) is poisoned since 2026-03-04 14:02:11 UTC (panic in rename)", `/api/v1/locks/inode:7/reset with If-Match: "3"`, 1, 0},
		{"Stuck", func(f *fake) { f.locks = append(f.locks, stuck) }, Stuck, "inode:8 (/b) has been held too long by one request (and 1 more)", "restart", 1, 1},
		{"ReadOnly", func(f *fake) { f.readOnly = full }, ReadOnly, "no space for the journal", "restart", 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			c.change(f)
			w := serve(New(Options{Store: f, Build: Build{Version: "v1"}}), "GET", "/api/v1/health", "")
			h := decode[Health](t, w)
			if w.Code != 200 || h.Status != c.status || !strings.Contains(h.Problem, c.problem) || !strings.Contains(h.Action, c.action) {
				t.Errorf("health = %d %+v", w.Code, h)
			}
			if c.status == Online && (h.Problem != "" || h.Action != "") {
				t.Errorf("an online server has problem %q, action %q", h.Problem, h.Action)
			}
			if h.HealthDetails == nil || h.Locks == nil || h.Locks.Poisoned != c.poisoned || h.Locks.Stuck != c.stuck || h.Build == nil || h.Build.Version != "v1" {
				t.Errorf("locks = %+v, build = %+v", h.Locks, h.Build)
			}
		})
	}
}

func TestHungServerFailsItsHealth(t *testing.T) {
	h := New(Options{Store: newFake(), Hung: func() bool { return true }})
	if w := serve(h, "GET", "/api/v1/health", ""); w.Code != 503 || decode[Health](t, w).Status != Degraded {
		t.Errorf("health = %d %s", w.Code, w.Body)
	}
}

func TestHealthWithoutCredentialsHidesPaths(t *testing.T) {
	o := Options{Store: newFake()}
	gate(&o)
	h := New(o)
	w := serve(h, "GET", "/api/v1/health", "")
	if got := strings.Join(strings.Fields(w.Body.String()), ""); got != `{"status":"degraded"}` {
		t.Errorf("without credentials: %s", got)
	}
	if w = serve(h, "GET", "/api/v1/health", "", "Authorization", basicAnn); !strings.Contains(w.Body.String(), "/photos/2024") {
		t.Errorf("with credentials: %s", w.Body)
	}
	wantProblem(t, serve(h, "GET", "/api/v1/health", "", "Authorization", basicWrong), 401, "unauthorized")
}

func TestLocks(t *testing.T) {
	w := serve(New(Options{Store: newFake()}), "GET", "/api/v1/locks", "")
	got := decode[struct{ Locks []Lock }](t, w)
	if w.Code != 200 || len(got.Locks) != 2 {
		t.Fatalf("locks = %d %s", w.Code, w.Body)
	}
	l := got.Locks[1]
	if l.Name != "inode:7" || l.Path != "/photos/2024" || l.Gen != 3 || l.Op != "rename" || l.Cause != "panic" || !l.Since.Equal(poisonedAt) {
		t.Errorf("lock = %+v", l)
	}
	if strings.Contains(w.Body.String(), "goroutine") {
		t.Error("the list shows stacks")
	}
}

func TestNoLocksIsAnEmptyList(t *testing.T) {
	w := serve(New(Options{Store: &fake{}}), "GET", "/api/v1/locks", "")
	if !strings.Contains(w.Body.String(), `"locks": []`) {
		t.Errorf("locks = %s", w.Body)
	}
}

func TestLock(t *testing.T) {
	h := New(Options{Store: newFake()})
	for _, target := range []string{"/api/v1/locks/inode:7", "/api/v1/locks/inode%3A7", "/api/v1/locks/inode%3a7"} {
		w := serve(h, "GET", target, "")
		if w.Code != 200 || w.Header().Get("ETag") != `"3"` {
			t.Fatalf("%s = %d, ETag %s\n%s", target, w.Code, w.Header().Get("ETag"), w.Body)
		}
		l := decode[Lock](t, w)
		if l.Detail == nil || l.Detail.ID != "e1" || l.Detail.Value != "boom" || len(l.Detail.Stack) != 2 || len(l.Detail.Also) != 1 {
			t.Errorf("event = %+v", l.Detail)
		}
	}
	if p := wantProblem(t, serve(h, "GET", "/api/v1/locks/inode:99", ""), 404, "not_found"); p.Lock != "inode:99" {
		t.Errorf("lock = %q", p.Lock)
	}
	wantProblem(t, serve(h, "GET", "/api/v1/locks/a%2Fb", ""), 404, "not_found")
}

func TestReset(t *testing.T) {
	f := newFake()
	h := New(Options{Store: f})
	for query, dry := range map[string]bool{"": false, "?dry_run=0": false, "?dry_run=1": true, "?dry_run=true": true} {
		w := serve(h, "POST", "/api/v1/locks/inode%3A7/reset"+query, "", "If-Match", ` "3" `)
		if want := fmt.Sprintf("reset inode:7 gen=3 dry=%t", dry); w.Code != 200 || f.calls() != want {
			t.Errorf("reset%s = %d, called %q, want %q", query, w.Code, f.calls(), want)
		}
		if r := decode[store.ResetReport](t, w); len(r.Kept) != 1 {
			t.Errorf("report = %+v", r)
		}
	}
}

func TestResetNeedsTheGeneration(t *testing.T) {
	for _, c := range []struct {
		ifMatch string
		status  int
		code    string
	}{
		{"", 428, "generation_required"},
		{"*", 428, "generation_required"},
		{"3", 400, "bad_request"},
		{`W/"3"`, 400, "bad_request"},
		{`"3", "4"`, 400, "bad_request"},
		{`"-3"`, 400, "bad_request"},
		{`"3`, 400, "bad_request"},
		{`"99999999999999999999"`, 400, "bad_request"},
	} {
		f := newFake()
		var header []string
		if c.ifMatch != "" {
			header = []string{"If-Match", c.ifMatch}
		}
		wantProblem(t, serve(New(Options{Store: f}), "POST", "/api/v1/locks/inode:7/reset", "", header...), c.status, c.code)
		if f.calls() != "" {
			t.Errorf("If-Match %q: the store was called", c.ifMatch)
		}
	}
	f := newFake()
	wantProblem(t, serve(New(Options{Store: f}), "POST", "/api/v1/locks/inode:7/reset?dry_run=perhaps", "", "If-Match", `"3"`), 400, "bad_request")
	if f.calls() != "" {
		t.Error("dry_run=perhaps: the store was called")
	}
}

func TestResetErrors(t *testing.T) {
	poisoned := &poison.Error{Ev: &poison.Event{Lock: "inode:7", Stack: []byte("goroutine 1 secret")}}
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{poison.ErrStale, 412, "generation_stale"},
		{poison.ErrHeld, 409, "lock_held"},
		{poison.ErrNotPoisoned, 409, "lock_healthy"},
		{fs.ErrNotExist, 404, "not_found"},
		{store.ErrReadOnly, 503, "store_read_only"},
		{store.ErrNoSpace, 507, "no_space"},
		{store.ErrDamaged, 409, "damaged"},
		{poisoned, 409, "reset_failed"},
		{errors.New("secret"), 500, "internal"},
	} {
		f := newFake()
		f.err = fmt.Errorf("reset inode:7: %w", c.err)
		w := serve(New(Options{Store: f}), "POST", "/api/v1/locks/inode:7/reset", "", "If-Match", `"3"`)
		p := wantProblem(t, w, c.status, c.code)
		if p.Lock != "inode:7" || p.Gen != 3 || p.Detail == "" || p.Title == "" || !strings.HasPrefix(p.Type, "urn:engramfs:problem:") {
			t.Errorf("problem = %+v", p)
		}
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: the answer shows it: %s", c.err, w.Body)
		}
	}
}

func TestFailedResetShowsItsProblems(t *testing.T) {
	f := newFake()
	f.err = store.ErrDamaged
	f.report.Problems = []string{"block 3 of /a is damaged"}
	w := serve(New(Options{Store: f}), "POST", "/api/v1/locks/inode:7/reset", "", "If-Match", `"3"`)
	if p := wantProblem(t, w, 409, "damaged"); p.Report == nil || len(p.Report.Problems) != 1 {
		t.Errorf("problem = %+v", p)
	}
}

func TestDrills(t *testing.T) {
	f := newFake()
	h := New(Options{Store: f, Drills: true, Points: []store.FaultPoint{{Name: "change:locked", Doc: "d"}}})
	w := serve(h, "GET", "/api/v1/drills", "")
	got := decode[struct{ Points []store.FaultPoint }](t, w)
	if w.Code != 200 || len(got.Points) != 1 || got.Points[0].Name != "change:locked" {
		t.Errorf("points = %d %s", w.Code, w.Body)
	}
	w = serve(h, "POST", "/api/v1/drills", `{"path": "/photos", "point": "change:locked", "cause": "goexit"}`)
	if w.Code != 200 || f.calls() != `arm /photos "change:locked" goexit` {
		t.Errorf("drill = %d, called %q", w.Code, f.calls())
	}
}

func TestDrillErrors(t *testing.T) {
	const good = `{"path":"/a","point":"","cause":"panic"}`
	for _, c := range []struct {
		name, body string
		err        error
		status     int
		code       string
	}{
		{"Empty", ``, nil, 400, "bad_request"},
		{"NotJSON", `path=/a`, nil, 400, "bad_request"},
		{"UnknownField", `{"path":"/a","pint":""}`, nil, 400, "bad_request"},
		{"Trailing", good + `x`, nil, 400, "bad_request"},
		{"Two", good + good, nil, 400, "bad_request"},
		{"Relative", `{"path":"a","cause":"panic"}`, nil, 400, "bad_request"},
		{"NoPath", `{"cause":"panic"}`, nil, 400, "bad_request"},
		{"TooLarge", `{"path":"/` + strings.Repeat("a", maxBody) + `"}`, nil, 413, "too_large"},
		{"UnknownPoint", good, fmt.Errorf("%w: unknown fault point", fs.ErrInvalid), 400, "bad_request"},
		{"NoSuchPath", good, fs.ErrNotExist, 404, "not_found"},
		{"NotADirectory", good, store.ErrNotDir, 404, "path_not_found"},
		{"LongName", good, store.ErrNameTooLong, 400, "bad_path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			f.err = c.err
			wantProblem(t, serve(New(Options{Store: f, Drills: true}), "POST", "/api/v1/drills", c.body), c.status, c.code)
			if c.err == nil && f.calls() != "" {
				t.Errorf("the store was called: %s", f.calls())
			}
		})
	}
}

func TestDrillsAreOffUnlessEnabled(t *testing.T) {
	f := newFake()
	h := New(Options{Store: f})
	wantProblem(t, serve(h, "GET", "/api/v1/drills", ""), 403, "drills_disabled")
	wantProblem(t, serve(h, "POST", "/api/v1/drills", `{"path":"/a","cause":"panic"}`), 403, "drills_disabled")
	if f.calls() != "" {
		t.Errorf("the store was called: %s", f.calls())
	}
}

func TestCrossOriginChangesAreRefused(t *testing.T) {
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
	} {
		f := newFake()
		h := New(Options{Store: f, Drills: true})
		wantProblem(t, serve(h, "POST", "/api/v1/drills", `{"path":"/a","cause":"panic"}`, header...), 403, "cross_origin")
		wantProblem(t, serve(h, "POST", "/api/v1/locks/inode:7/reset", "", append(header, "If-Match", `"3"`)...), 403, "cross_origin")
		if f.calls() != "" {
			t.Errorf("%v: the store was called: %s", header, f.calls())
		}
	}
	h := New(Options{Store: newFake()})
	if w := serve(h, "POST", "/api/v1/locks/inode:7/reset", "", "If-Match", `"3"`, "Sec-Fetch-Site", "same-origin"); w.Code != 200 {
		t.Errorf("same origin = %d, want 200", w.Code)
	}
}

func TestRoutes(t *testing.T) {
	f := newFake()
	h := New(Options{Store: f, Drills: true})
	wantProblem(t, serve(h, "GET", "/nonsense", ""), 404, "not_found")
	wantProblem(t, serve(h, "GET", "/api/v1/nonsense", ""), 404, "not_found")
	w := serve(h, "DELETE", "/api/v1/locks", "")
	wantProblem(t, w, 405, "method_not_allowed")
	if got := strings.Join(w.Header()["Allow"], ","); got != "GET,HEAD" {
		t.Errorf("Allow = %q, want GET,HEAD", got)
	}
	wantProblem(t, serve(h, "GET", "/api/v1/locks/inode:7/reset", "", "If-Match", `"3"`), 405, "method_not_allowed")
	if w := serve(h, "HEAD", "/api/v1/health", ""); w.Code != 200 {
		t.Errorf("HEAD health = %d", w.Code)
	}
	if f.calls() != "" {
		t.Errorf("the store was called: %s", f.calls())
	}
}

func TestEveryAnswerIsUncachedAndInert(t *testing.T) {
	h := New(Options{Store: newFake()})
	for _, target := range []string{"/api/v1/health", "/api/v1/locks", "/nonsense"} {
		w := serve(h, "GET", target, "")
		for header, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s = %q, want %q", target, header, got, want)
			}
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
			t.Errorf("%s: Content-Security-Policy = %q", target, csp)
		}
	}
}

func TestHandlerPanicIsAnswered500WithoutTheStack(t *testing.T) {
	o := richOptions(newRich())
	o.Config = func() []Setting { panic("boom") }
	w := serve(New(o), "GET", "/api/v1/config", "")
	wantProblem(t, w, 500, "internal")
	if strings.Contains(w.Body.String(), "boom") || strings.Contains(w.Body.String(), ".go:") {
		t.Errorf("the answer shows the panic: %s", w.Body)
	}
}

// What has been sent of an answer must not pass for all of it.
func TestHandlerPanicCutsTheAnswer(t *testing.T) {
	o := richOptions(newRich())
	o.MetricsPublic = true
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic("boom")
	})
	told := make(chan error, 1)
	o.Failed = func(_ context.Context, err error) { told <- err }
	r, err := http.Get(listen(t, New(o)) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); string(b) != "half" || err == nil {
		t.Errorf("got %q, %v, want half and an error", b, err)
	}
	var died *store.PanicError
	if err := <-told; !errors.As(err, &died) || died.Value != "boom" || len(died.Stack) == 0 {
		t.Errorf("told of %v", err)
	}
}

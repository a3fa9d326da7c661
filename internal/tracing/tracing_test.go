package tracing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"engramfs/internal/logbuf"
	"engramfs/internal/tracing/otlptest"
	"engramfs/store"
	"engramfs/store/storetest"
	"engramfs/web"
	"engramfs/webdav"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// rig is a traced WebDAV server and its collector.
type rig struct {
	*Tracer
	t         *testing.T
	collector *otlptest.Collector
	store     *store.Store
	handler   http.Handler
}

func newTracer(t *testing.T, o Options) *Tracer {
	t.Helper()
	tr, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeTracer(t, tr) })
	return tr
}

func closeTracer(t *testing.T, tr *Tracer) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{t: t, collector: otlptest.New(t)}
	o.Endpoint, o.Version, o.Instance = r.collector.URL, "v1.2.3", "here:8081"
	r.Tracer = newTracer(t, o)
	r.store, _ = storetest.NewWith(t, store.Options{Began: r.Store()})
	r.handler = r.HTTP(WebDAV, webdav.New(webdav.Options{Store: r.store, Failed: r.Failed()}))
	return r
}

// do serves a request and returns the status.
func (r *rig) do(method, path, body string, header ...string) int {
	r.t.Helper()
	q := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, q)
	return w.Code
}

// flush waits until the collector has everything.
func (r *rig) flush() {
	r.t.Helper()
	if err := r.provider.ForceFlush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func names(spans []otlptest.Span) (list []string) {
	for _, s := range spans {
		list = append(list, s.Name)
	}
	return list
}

func find(t *testing.T, spans []otlptest.Span, name string) otlptest.Span {
	t.Helper()
	i := slices.IndexFunc(spans, func(s otlptest.Span) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no span %s among %q", name, names(spans))
	}
	return spans[i]
}

func wantAttrs(t *testing.T, s otlptest.Span, want map[string]any) {
	t.Helper()
	for key, v := range want {
		if got := s.Attr(key); got != v {
			t.Errorf("%s: %s = %v, want %v", s.Name, key, got, v)
		}
	}
}

func TestRequestsHaveTheirOperationsBeneath(t *testing.T) {
	r := newRig(t, Options{Ratio: 1})
	if code := r.do("PUT", "/secret.txt", "hello", "User-Agent", "Probe/1", "X-Request-Id", "r-1"); code != 201 {
		t.Fatalf("PUT = %d", code)
	}
	if code := r.do("GET", "/secret.txt", ""); code != 200 {
		t.Fatalf("GET = %d", code)
	}
	if code := r.do("GET", "/secret-too.txt", ""); code != 404 {
		t.Fatalf("GET of nothing = %d", code)
	}
	if code := r.do("BREW", "/", ""); code != 501 {
		t.Fatalf("BREW = %d", code)
	}
	r.flush()
	put := find(t, r.collector.Roots("PUT"), "PUT")
	wantAttrs(t, put, map[string]any{
		"engramfs.door": "webdav", "http.request.method": "PUT", "http.response.status_code": int64(201), "url.scheme": "http",
		"user_agent.original": "Probe/1", "http.request.body.size": int64(5), "url.path": nil, "http.route": nil, "error.type": nil,
	})
	if id := fmt.Sprint(put.Attr("http.request.header.x-request-id")); !strings.Contains(id, "r-1") {
		t.Errorf("the request's own id is %s", id)
	}
	for key, v := range map[string]string{"service.name": "engramfs", "service.version": "v1.2.3", "service.instance.id": "here:8081"} {
		if put.Resource[key] != v {
			t.Errorf("%s = %v, want %s", key, put.Resource[key], v)
		}
	}
	children := r.collector.Children(t, put)
	change := find(t, children, "store.put")
	find(t, children, "store.sync")
	if change.Attr("engramfs.ino") == nil || put.Failed() || change.Failed() {
		t.Errorf("PUT: %v", change)
	}
	if n := put.Attr("engramfs.store.operations"); n != int64(len(children)) {
		t.Errorf("PUT has %v operations and %d spans beneath", n, len(children))
	}
	gets := r.collector.Roots("GET")
	if len(gets) != 2 {
		t.Fatalf("%d spans of 2 GETs", len(gets))
	}
	find(t, r.collector.Children(t, gets[0]), "store.read_data")
	wantAttrs(t, gets[0], map[string]any{"http.response.status_code": int64(200), "http.response.body.size": int64(5)})
	missing := find(t, r.collector.Children(t, gets[1]), "store.lookup_entry")
	wantAttrs(t, missing, map[string]any{"error.type": "not_found"})
	if gets[1].Failed() || missing.Failed() {
		t.Error("a 404 is an error of the server")
	}
	wantAttrs(t, find(t, r.collector.Roots("HTTP"), "HTTP"), map[string]any{
		"http.request.method": "_OTHER", "http.request.method_original": "BREW",
	})
	for _, s := range r.collector.Spans() {
		if strings.Contains(s.String(), "secret") {
			t.Errorf("a span names a file: %v", s)
		}
	}
	if sent, dropped := r.Stats(); sent != uint64(len(r.collector.Spans())) || dropped != 0 {
		t.Errorf("%d sent, %d dropped, and %d received", sent, dropped, len(r.collector.Spans()))
	}
}

func TestPathsByOption(t *testing.T) {
	r := newRig(t, Options{Ratio: 1, Paths: true})
	r.do("GET", "/a/b", "")
	r.flush()
	wantAttrs(t, find(t, r.collector.Roots("GET"), "GET"), map[string]any{"url.path": "/a/b"})
}

func TestPanicInAChange(t *testing.T) {
	r := newRig(t, Options{Ratio: 1})
	r.do("PUT", "/f", "one")
	if err := r.store.ArmFault(t.Context(), "/f", "change:computed", "panic"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{503, 503} { // one dies, one is refused
		if code := r.do("PUT", "/f", "two"); code != want {
			t.Fatalf("PUT = %d, want %d", code, want)
		}
	}
	if code := r.do("GET", "/f", ""); code != 200 {
		t.Fatalf("GET = %d", code)
	}
	r.flush()
	puts := r.collector.Roots("PUT")
	if len(puts) != 3 {
		t.Fatalf("%d spans of 3 PUTs", len(puts))
	}
	died, refused := puts[1], puts[2]
	for _, s := range []otlptest.Span{died, refused} {
		wantAttrs(t, s, map[string]any{
			"http.response.status_code": int64(503), "error.type": "store_poisoned", "engramfs.poisoned": true, "engramfs.lock.generation": int64(1),
		})
		if !s.Failed() {
			t.Errorf("503 is no error: %v", s)
		}
	}
	wantAttrs(t, refused, map[string]any{"engramfs.refused": true})
	change := find(t, r.collector.Children(t, died), "store.put")
	wantAttrs(t, change, map[string]any{"error.type": "store_poisoned", "engramfs.refused": false})
	exceptions := change.Exceptions()
	if len(exceptions) != 1 || !change.Failed() {
		t.Fatalf("the change that died tells of %d exceptions", len(exceptions))
	}
	e := exceptions[0]
	if e["exception.type"] != "panic" || e["exception.message"] != nil || !strings.Contains(fmt.Sprint(e["exception.stacktrace"]), "faults).hit") {
		t.Errorf("exception = %v", e)
	}
	for _, s := range append(r.collector.Children(t, refused), refused) {
		if s.Exceptions() != nil {
			t.Errorf("%s was refused and tells of an exception", s.Name)
		}
	}
	wantAttrs(t, find(t, r.collector.Roots("GET"), "GET"), map[string]any{"engramfs.degraded": true, "error.type": nil})
}

func TestGoroutineThatExitsInAChange(t *testing.T) {
	r := newRig(t, Options{Ratio: 1})
	r.do("PUT", "/f", "one")
	if err := r.store.ArmFault(t.Context(), "/f", "change:computed", "goexit"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.do("PUT", "/f", "two") })
	wg.Wait()
	r.flush()
	put := r.collector.Roots("PUT")[1]
	change := find(t, r.collector.Children(t, put), "store.put")
	e := change.Exceptions()
	if !put.Failed() || !change.Failed() || len(e) != 1 || e[0]["exception.type"] != "goexit" {
		t.Errorf("PUT: %v\nchange: %v", put, change)
	}
}

func TestPanicOfAHandler(t *testing.T) {
	r := newRig(t, Options{Ratio: 1, Paths: true})
	r.handler = r.HTTP(WebDAV, webdav.New(webdav.Options{Store: r.store, Failed: r.Failed(), Principal: func(*http.Request) string {
		panic(io.ErrShortWrite)
	}}))
	if code := r.do("GET", "/", ""); code != 500 {
		t.Fatalf("GET = %d", code)
	}
	r.handler = r.HTTP(Admin, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	func() {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("recovered %v: the connection is not cut", v)
			}
		}()
		r.do("GET", "/page", "")
	}()
	r.flush()
	gets := r.collector.Roots("GET")
	wantAttrs(t, gets[0], map[string]any{"error.type": "panic", "http.response.status_code": int64(500)})
	e := gets[0].Exceptions()
	if len(e) != 1 || e[0]["exception.type"] != "*errors.errorString" || e[0]["exception.message"] != "short write" ||
		!strings.Contains(fmt.Sprint(e[0]["exception.stacktrace"]), "TestPanicOfAHandler") {
		t.Errorf("exceptions = %v", e)
	}
	wantAttrs(t, gets[1], map[string]any{"engramfs.door": "admin", "url.path": "/page", "error.type": "aborted", "http.response.status_code": nil})
}

// A request of the admin surface that dies says why, however far its answer is.
func TestPanicInTheAdminSurface(t *testing.T) {
	r := newRig(t, Options{Ratio: 1})
	admin := web.New(web.Options{
		Store: r.store, Failed: r.Failed(), Config: func() []web.Setting { panic("hunter2") },
		Principal: func(*http.Request) string { panic("of a page") }, Require: func(next http.Handler) http.Handler { return next },
		Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runtime.Goexit() }), MetricsPublic: true,
		Token: "open",
	})
	t.Cleanup(admin.Close)
	r.handler = r.HTTP(Admin, admin)
	if code := r.do("GET", "/api/v1/config", "", "Authorization", "Bearer open"); code != 500 {
		t.Errorf("GET of the configuration = %d", code)
	}
	if code := r.do("GET", "/events", "", "Authorization", "Basic YTpi"); code != 500 {
		t.Errorf("GET of a page = %d", code)
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.do("GET", "/metrics", "") })
	wg.Wait()
	if code := r.do("GET", "/api/v1/locks/none", "", "Authorization", "Bearer open"); code != 404 {
		t.Errorf("GET of no lock = %d", code)
	}
	r.flush()
	for route, kind := range map[string]string{"/api/v1/config": "string", "/events": "string", "/metrics": "goexit"} {
		s := find(t, r.collector.Roots("GET "+route), "GET "+route)
		wantAttrs(t, s, map[string]any{"http.route": route, "engramfs.door": "admin"})
		e := s.Exceptions()
		if len(e) != 1 || !s.Failed() || e[0]["exception.type"] != kind || e[0]["exception.message"] != nil ||
			!strings.Contains(fmt.Sprint(e[0]["exception.stacktrace"]), "TestPanicInTheAdminSurface") {
			t.Errorf("%s: exceptions = %v", route, e)
		}
	}
	missing := find(t, r.collector.Roots("GET /api/v1/locks/{name}"), "GET /api/v1/locks/{name}")
	if missing.Failed() || missing.Exceptions() != nil {
		t.Errorf("a 404 is an error of the server: %v", missing)
	}
}

// A client that is traced itself decides what is followed.
func TestTraceOfAClient(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
	r := newRig(t, Options{Ratio: 0})
	r.do("GET", "/", "", "Traceparent", parent+"1")
	r.do("GET", "/", "", "Traceparent", parent+"0")
	r.do("GET", "/", "")
	r.flush()
	spans := r.collector.Spans()
	s := find(t, spans, "GET")
	if fmt.Sprintf("%x %x", s.TraceId, s.ParentSpanId) != "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331" {
		t.Errorf("trace %x, parent %x", s.TraceId, s.ParentSpanId)
	}
	if n := 1 + len(r.collector.Children(t, s)); n != len(spans) {
		t.Errorf("%d spans, and %d of the request that was to be followed", len(spans), n)
	}
}

func TestRatio(t *testing.T) {
	r := newRig(t, Options{Ratio: 0.25})
	const requests = 2000
	for range requests {
		r.do("OPTIONS", "/", "")
	}
	r.flush()
	if n := len(r.collector.Spans()); n < requests/5 || n > requests*3/10 { // 5 standard deviations
		t.Errorf("%d of %d requests followed, want a quarter", n, requests)
	}
}

func TestMount(t *testing.T) {
	r := newRig(t, Options{Ratio: 1})
	began := r.Mount()
	ctx, ended := began(t.Context(), "getattr", store.RootIno, 7)
	if _, err := r.store.GetAttr(ctx, store.RootIno); err != nil {
		t.Fatal(err)
	}
	ended(0, 0, nil)
	_, ended = began(t.Context(), "write", 9, 8)
	ended(0, syscall.EIO, &store.PanicError{Op: "write", Value: "oh", Stack: []byte("stack")})
	_, ended = began(t.Context(), "lookup", 9, 9)
	ended(0, syscall.ENOENT, nil)
	_, ended = began(t.Context(), "read", 9, 10)
	ended(4096, 0, nil)
	r.flush()
	spans := r.collector.Spans()
	get := find(t, spans, "fuse.getattr")
	wantAttrs(t, get, map[string]any{"engramfs.door": "fuse", "engramfs.op": "getattr", "engramfs.ino": int64(1), "fuse.unique": int64(7), "error.type": nil})
	find(t, r.collector.Children(t, get), "store.get_attr")
	write := find(t, spans, "fuse.write")
	wantAttrs(t, write, map[string]any{"error.type": "panic", "engramfs.errno": "EIO"})
	if !write.Failed() || len(write.Exceptions()) != 1 {
		t.Errorf("write: %v", write)
	}
	lookup := find(t, spans, "fuse.lookup")
	wantAttrs(t, lookup, map[string]any{"error.type": "ENOENT"})
	if lookup.Failed() {
		t.Error("that a name does not exist is an error")
	}
	wantAttrs(t, find(t, spans, "fuse.read"), map[string]any{"engramfs.bytes": int64(4096)})
}

// A request of very many operations does not fill the queue: what stands out among
// them is there all the same.
func TestOperationsOfARequestAreBounded(t *testing.T) {
	r := newRig(t, Options{Ratio: 1})
	ctx, ended := r.Mount()(t.Context(), "readdirplus", 1, 1)
	began := r.Store()
	for range 1000 {
		began(ctx, "quick", 2)(nil)
	}
	for range maxSpans {
		began(ctx, "fails", 2)(store.ErrDamaged)
	}
	ended(0, 0, nil)
	r.flush()
	root := find(t, r.collector.Roots("fuse.readdirplus"), "fuse.readdirplus")
	wantAttrs(t, root, map[string]any{"engramfs.store.operations": int64(1000 + maxSpans)})
	n := map[string]int{}
	for _, s := range r.collector.Children(t, root) {
		n[s.Name]++
	}
	if quick := n["store.quick"]; quick < firstSpans || quick+n["store.fails"] != maxSpans {
		t.Errorf("spans: %v, want %d in all and at least %d quick ones", n, maxSpans, firstSpans)
	}
}

func TestCollectorThatRefusesAndComesBack(t *testing.T) {
	log := &logbuf.Buffer{}
	r := newRig(t, Options{Ratio: 1, Logger: slog.New(slog.NewTextHandler(log, nil))})
	r.collector.Refuse.Store(true)
	for range 3 {
		if code := r.do("OPTIONS", "/", ""); code != 200 {
			t.Errorf("OPTIONS = %d", code)
		}
		r.flush()
	}
	if sent, dropped := r.Stats(); sent != 0 || dropped != 3 {
		t.Errorf("%d sent, %d dropped, want 3 dropped", sent, dropped)
	}
	if n := strings.Count(log.String(), "traces are not sent"); n != 1 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("want one line in the log:\n%s", log)
	}
	r.collector.Refuse.Store(false)
	r.do("OPTIONS", "/", "")
	r.flush()
	if sent, dropped := r.Stats(); sent != 1 || dropped != 3 {
		t.Errorf("%d sent, %d dropped, want 1 and 3", sent, dropped)
	}
	if !strings.Contains(log.String(), "traces are sent again") {
		t.Errorf("the log does not say that it is over:\n%s", log)
	}
}

// A collector that takes the connection and never answers must not hold up a
// request, nor the end of the server.
func TestCollectorThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tr, err := New(t.Context(), Options{Ratio: 1, Endpoint: "http://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	h := tr.HTTP(WebDAV, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	const requests = 3 * queueSize
	begin := time.Now()
	for range requests {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("%d requests took %v", requests, took)
	}
	if sent, dropped := tr.Stats(); sent != 0 || dropped != requests-queueSize {
		t.Errorf("%d sent, %d dropped, want %d", sent, dropped, requests-queueSize)
	}
	begin = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := tr.Close(ctx); err == nil {
		t.Error("Close has sent spans to nobody")
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("Close took %v", took)
	}
	otlptest.Await(t, "the sender ends", func() bool {
		stacks := make([]byte, 1<<20)
		return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("batchSpanProcessor"))
	})
}

func TestOff(t *testing.T) {
	var off *Tracer
	next := http.NewServeMux()
	if off.HTTP(WebDAV, next) != http.Handler(next) {
		t.Error("a handler is wrapped")
	}
	if off.Store() != nil || off.Mount() != nil || off.Failed() != nil {
		t.Error("something is to be told of requests")
	}
	if err := off.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// What is not followed costs the store nothing but a look: no allocation more than
// without a tracer.
func TestUnfollowedOperationCostsNoAllocation(t *testing.T) {
	r := newRig(t, Options{Ratio: 0})
	ctx, ended := r.Mount()(t.Context(), "getattr", 1, 1)
	if ended != nil {
		t.Fatal("followed")
	}
	allocations := func(s *store.Store) float64 {
		return testing.AllocsPerRun(100, func() {
			if _, err := s.GetAttr(ctx, store.RootIno); err != nil {
				t.Fatal(err)
			}
		})
	}
	if with, without := allocations(r.store), allocations(storetest.New(t)); with != without {
		t.Errorf("%v allocations, without a tracer %v", with, without)
	}
}

func TestEndpoint(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://127.0.0.1:4318":               "http://127.0.0.1:4318/v1/traces",
		"https://otel.example/":               "https://otel.example/v1/traces",
		"https://otel.example/team":           "https://otel.example/team/v1/traces",
		"https://otel.example/team/v1/traces": "https://otel.example/team/v1/traces",
		"127.0.0.1:4318":                      "",
		"ftp://otel.example":                  "",
		"http://":                             "",
		"https://u:hunter2@otel.example":      "",
		"https://otel.example?key=hunter2":    "",
		"https://otel.example:\x7f":           "",
	} {
		got, err := tracesURL(endpoint)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("tracesURL(%q) = %q, %v, want %q", endpoint, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

// The variables of the OpenTelemetry specification are honoured.
func TestEnvironment(t *testing.T) {
	for _, v := range os.Environ() {
		if k, _, _ := strings.Cut(v, "="); strings.HasPrefix(k, "OTEL_") {
			t.Setenv(k, "")
		}
	}
	if Wanted("") {
		t.Error("traces are wanted without a collector")
	}
	c := otlptest.New(t)
	for k, v := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_SERVICE_NAME": "attic", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
		"OTEL_TRACES_SAMPLER": "always_off",
	} {
		t.Setenv(k, v)
	}
	if !Wanted("") {
		t.Error("no traces to the collector of the environment")
	}
	get := func() {
		tr, err := New(t.Context(), Options{Ratio: 1})
		if err != nil {
			t.Fatal(err)
		}
		h := tr.HTTP(WebDAV, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		closeTracer(t, tr)
	}
	get()
	if n := len(c.Spans()); n != 0 {
		t.Errorf("%d spans with OTEL_TRACES_SAMPLER=always_off", n)
	}
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	get()
	spans := c.Spans()
	if len(spans) != 1 || spans[0].Resource["service.name"] != "attic" || spans[0].Resource["deployment.environment.name"] != "test" {
		t.Errorf("spans = %v", spans)
	}
	t.Setenv("OTEL_SDK_DISABLED", "true")
	if Wanted(c.URL) {
		t.Error("OTEL_SDK_DISABLED is ignored")
	}
}

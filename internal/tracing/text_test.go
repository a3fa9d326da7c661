package tracing

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"

	"engramfs/internal/logbuf"
	"engramfs/internal/tracing/otlptest"
	"engramfs/store"
)

func TestCut(t *testing.T) {
	for _, c := range []struct {
		s, want string
		limit   int
	}{
		{"abc", "abc", 3}, {"abcd", "abc", 3}, {"aé", "a", 2}, {"\xff", "\ufffd", 3}, {"a\xffb\xffc", "a\ufffdb", 5}, {"\xff", "", 2}, {"", "", 0},
	} {
		if got := cut(c.s, c.limit); got != c.want || !utf8.ValidString(got) || len(got) > c.limit {
			t.Errorf("cut(%q, %d) = %q, want %q", c.s, c.limit, got, c.want)
		}
	}
}

// One text that is no UTF-8 would cost all the spans that are sent with it.
func TestTextsThatAreNotUTF8AreSent(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "rack=%ff")
	r := newRig(t, Options{Ratio: 1, Paths: true})
	r.do("GET", "/%ff", "", "User-Agent", "\xfe", "X-Request-Id", "\xfd")
	_, ended := r.Mount()(t.Context(), "write", 9, 8)
	ended(0, 0, &store.PanicError{Op: "write", Value: "open /\xff", Stack: []byte("stack\xff")})
	r.flush()
	get, write := find(t, r.collector.Spans(), "GET"), find(t, r.collector.Spans(), "fuse.write")
	wantAttrs(t, get, map[string]any{"url.path": "/\ufffd", "user_agent.original": "\ufffd"})
	if e := write.Exceptions(); len(e) != 1 || e[0]["exception.message"] != "open /\ufffd" || e[0]["exception.stacktrace"] != "stack\ufffd" {
		t.Errorf("exceptions = %q", e)
	}
	if get.Resource["rack"] != "\ufffd" {
		t.Errorf("rack = %q", get.Resource["rack"])
	}
	if _, dropped := r.Stats(); dropped != 0 {
		t.Errorf("%d dropped", dropped)
	}
}

func TestTextsAreBounded(t *testing.T) {
	r := newRig(t, Options{Ratio: 1, Paths: true})
	long := strings.Repeat("x", 1<<20)
	r.do("GET", "/"+long, "")
	ctx, ended := r.Mount()(t.Context(), "write", 9, 8)
	requestOf(ctx).span.SetAttributes(attribute.String("long", long))
	ended(0, 0, &store.PanicError{Op: "write", Value: long, Stack: []byte(long)})
	r.flush()
	get, write := find(t, r.collector.Spans(), "GET"), find(t, r.collector.Spans(), "fuse.write")
	if n := len(get.Attr("url.path").(string)); n != maxPath {
		t.Errorf("a path of %d bytes", n)
	}
	if n := len(write.Attr("long").(string)); n != maxValue {
		t.Errorf("an attribute of %d bytes", n)
	}
	e := write.Exceptions()[0]
	if m, s := len(e["exception.message"].(string)), len(e["exception.stacktrace"].(string)); m != maxMessage || s != maxValue {
		t.Errorf("a message of %d bytes, a stack of %d", m, s)
	}
	t.Setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100")
	if n := limits().AttributeValueLengthLimit; n != 100 {
		t.Errorf("the limit of the environment is %d, want 100", n)
	}
}

// routes is a handler that knows its routes and panics.
type routes struct{}

func (routes) Route(*http.Request) string { return "/locks/{name}" }

func (routes) ServeHTTP(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// No door and no panic names a file unless it shall.
func TestNoNameLeavesWithoutPaths(t *testing.T) {
	for _, paths := range []bool{false, true} {
		r := newRig(t, Options{Ratio: 1, Paths: paths})
		r.handler = r.HTTP(Admin, routes{})
		func() {
			defer func() { _ = recover() }() // the connection is cut
			r.do("GET", "/locks/secret.doc", "")
		}()
		_, ended := r.Mount()(t.Context(), "write", 9, 8)
		ended(0, 0, &store.PanicError{Op: "write", Value: "open /secret.doc: x", Stack: []byte("stack")})
		r.flush()
		spans := r.collector.Spans()
		wantAttrs(t, find(t, spans, "GET /locks/{name}"), map[string]any{"http.route": "/locks/{name}"})
		if e := find(t, spans, "fuse.write").Exceptions(); len(e) != 1 || e[0]["exception.type"] != "string" || e[0]["exception.stacktrace"] != "stack" {
			t.Errorf("exceptions = %v", e)
		}
		for _, s := range spans {
			if strings.Contains(s.String(), "secret") != paths {
				t.Errorf("paths %t: %v", paths, s)
			}
		}
	}
}

// A trace is never worth a server that does not start.
func TestEnvironmentThatMakesNoSense(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment,rack=7")
	log := &logbuf.Buffer{}
	r := newRig(t, Options{Ratio: 1, Logger: slog.New(slog.NewTextHandler(log, nil))})
	r.do("OPTIONS", "/", "")
	r.flush()
	if s := find(t, r.collector.Spans(), "OPTIONS"); s.Resource["service.name"] != "engramfs" || s.Resource["rack"] != "7" {
		t.Errorf("resource = %v", s.Resource)
	}
	if !strings.Contains(log.String(), "deployment.environment") {
		t.Errorf("the log does not name the variable's fault:\n%s", log)
	}
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	if Wanted(r.collector.URL) {
		t.Error("OTEL_TRACES_EXPORTER=none is ignored")
	}
}

// A collector may take a batch and say something, or take a part of it.
func TestPartialSuccess(t *testing.T) {
	for _, rejected := range []int{0, 2} {
		log := &logbuf.Buffer{}
		r := newRig(t, Options{Ratio: 1, Logger: slog.New(slog.NewTextHandler(log, nil))})
		r.collector.Answer.Store(&otlptest.Partial{Rejected: int64(rejected), Message: "a word\nto (7 spans rejected)" + strings.Repeat("!", 1<<16)})
		for range 5 {
			r.HTTP(Admin, http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}
		r.flush()
		if sent, dropped := r.Stats(); int(sent) != 5-rejected || int(dropped) != rejected {
			t.Errorf("%d sent, %d dropped, want %d dropped", sent, dropped, rejected)
		}
		if said := strings.Contains(log.String(), "traces are not sent"); said != (rejected > 0) || len(log.String()) > 4096 {
			t.Errorf("%d rejected: %d bytes in the log: %.300s", rejected, len(log.String()), fmt.Sprint(log))
		}
	}
}

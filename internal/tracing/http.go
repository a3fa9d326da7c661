package tracing

import (
	"cmp"
	"io"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// The doors, as spans have them.
const (
	WebDAV = "webdav"
	Admin  = "admin"
	mount  = "fuse"
)

func doorIs(name string) attribute.KeyValue { return attribute.String("engramfs.door", name) }

// methods are those that a span may be named after: what a client may send as a
// method is not bounded.
//
// A span that waits must hold none of the request's own strings: net/http cuts method,
// path and protocol out of one line of up to a megabyte.
var methods = map[string]string{}

func init() {
	for _, m := range []string{
		"OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "MKCOL", "COPY", "MOVE", "PROPFIND", "PROPPATCH", "LOCK", "UNLOCK",
	} {
		methods[m] = m
	}
}

// router is a handler that knows the patterns of its paths.
type router interface {
	// Route returns the pattern that r matches, which is one of few; "": none.
	Route(r *http.Request) string
}

// HTTP follows the requests that next serves. A request with the header
// traceparent (W3C Trace Context) becomes part of its client's trace. If next has a
// method Route(*http.Request) string, the span has the route, and its name too.
// WebDAV has none: its paths are all names of files, and http.route must be left out
// where there are no routes (OpenTelemetry semantic conventions, HTTP).
func (t *Tracer) HTTP(door string, next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	routes, _ := next.(router)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if r.Header["Traceparent"] != nil {
			ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
		}
		name := cmp.Or(methods[r.Method], "HTTP")
		ctx, q := t.begin(ctx, name)
		if q == nil {
			next.ServeHTTP(w, r)
			return
		}
		q.span.SetAttributes(t.describeRequest(door, r)...)
		if routes != nil {
			if route := routes.Route(r); route != "" {
				q.span.SetName(name + " " + route)
				q.span.SetAttributes(semconv.HTTPRoute(route))
			}
		}
		a := &answer{ResponseWriter: w}
		done := false
		defer func() { q.answered(a, done) }()
		next.ServeHTTP(a, r.WithContext(ctx))
		done = true // not reached when next panics or ends its goroutine
	})
}

// Bounds of what a client says of itself, and of a path, in bytes.
const (
	maxHeader = 256
	maxPath   = 4096
)

// describeRequest returns the attributes of a request. Whatever its path is, even at
// the admin surface, it may be the name of a file.
func (t *Tracer) describeRequest(door string, r *http.Request) []attribute.KeyValue {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	attrs := append(make([]attribute.KeyValue, 0, 12), doorIs(door), semconv.URLScheme(scheme),
		semconv.NetworkProtocolVersion(cut(strings.TrimPrefix(strings.TrimSuffix(r.Proto, ".0"), "HTTP/"), maxHeader)))
	if m := methods[r.Method]; m != "" {
		attrs = append(attrs, semconv.HTTPRequestMethodKey.String(m))
	} else {
		attrs = append(attrs, semconv.HTTPRequestMethodOther, semconv.HTTPRequestMethodOriginal(cut(r.Method, maxHeader)))
	}
	if t.paths {
		attrs = append(attrs, semconv.URLPath(cut(r.URL.Path, maxPath)))
	}
	if agent := r.UserAgent(); agent != "" {
		attrs = append(attrs, semconv.UserAgentOriginal(cut(agent, maxHeader)))
	}
	if id := r.Header.Get("X-Request-Id"); id != "" {
		attrs = append(attrs, semconv.HTTPRequestHeader("x-request-id", cut(id, maxHeader)))
	}
	if r.ContentLength > 0 {
		attrs = append(attrs, semconv.HTTPRequestBodySize(int(r.ContentLength)))
	}
	return attrs
}

// answered ends q with its answer. done: the handler has returned.
func (q *request) answered(a *answer, done bool) {
	attrs := make([]attribute.KeyValue, 0, 4)
	if n, err := strconv.Atoi(a.Header().Get("Content-Length")); err == nil {
		attrs = append(attrs, semconv.HTTPResponseBodySize(n))
	}
	if a.Header()["Engramfs-Degraded"] != nil {
		attrs = append(attrs, attribute.Bool("engramfs.degraded", true))
	}
	code := a.code
	if code == 0 && done {
		code = http.StatusOK
	}
	if code != 0 {
		attrs = append(attrs, semconv.HTTPResponseStatusCode(code))
	}
	switch {
	case !done: // the connection is cut
		attrs = append(attrs, errorType("aborted"))
		q.span.SetStatus(codes.Error, "")
	case code >= 500 && !q.faulty.Load():
		attrs = append(attrs, errorType(strconv.Itoa(code)))
		q.span.SetStatus(codes.Error, "")
	}
	q.end(attrs...)
}

// answer notes the status of an answer.
type answer struct {
	http.ResponseWriter
	code int // 0: not yet, or 200 if something was written
}

var _ io.ReaderFrom = (*answer)(nil)

func (a *answer) WriteHeader(code int) {
	if a.code == 0 && code >= 200 { // the others are not final
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// ReadFrom keeps net/http's sendfile path open.
func (a *answer) ReadFrom(src io.Reader) (int64, error) { return io.Copy(a.ResponseWriter, src) }

// Unwrap serves http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

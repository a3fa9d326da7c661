package tracing

import (
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
var methods = map[string]bool{
	"OPTIONS": true, "GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "MKCOL": true, "COPY": true,
	"MOVE": true, "PROPFIND": true, "PROPPATCH": true, "LOCK": true, "UNLOCK": true,
}

// HTTP follows the requests that next serves. A request with the header
// traceparent (W3C Trace Context) becomes part of its client's trace.
func (t *Tracer) HTTP(door string, next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if r.Header["Traceparent"] != nil {
			ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
		}
		name := r.Method
		if !methods[name] {
			name = "HTTP"
		}
		ctx, q := t.begin(ctx, name)
		if q == nil {
			next.ServeHTTP(w, r)
			return
		}
		q.span.SetAttributes(t.describeRequest(door, r)...)
		a := &answer{ResponseWriter: w}
		done := false
		defer func() { q.answered(a, done) }()
		next.ServeHTTP(a, r.WithContext(ctx))
		done = true // not reached when next panics or ends its goroutine
	})
}

// maxHeader bounds what a client says of itself, in bytes.
const maxHeader = 256

// describeRequest returns the attributes of a request. The admin surface has no
// path that names a file.
func (t *Tracer) describeRequest(door string, r *http.Request) []attribute.KeyValue {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	attrs := append(make([]attribute.KeyValue, 0, 12), doorIs(door), semconv.URLScheme(scheme),
		semconv.NetworkProtocolVersion(strings.TrimPrefix(strings.TrimSuffix(r.Proto, ".0"), "HTTP/")))
	if methods[r.Method] {
		attrs = append(attrs, semconv.HTTPRequestMethodKey.String(r.Method))
	} else {
		attrs = append(attrs, semconv.HTTPRequestMethodOther, semconv.HTTPRequestMethodOriginal(cut(r.Method)))
	}
	if t.paths || door == Admin {
		attrs = append(attrs, semconv.URLPath(r.URL.Path))
	}
	if agent := r.UserAgent(); agent != "" {
		attrs = append(attrs, semconv.UserAgentOriginal(cut(agent)))
	}
	if id := r.Header.Get("X-Request-Id"); id != "" {
		attrs = append(attrs, semconv.HTTPRequestHeader("x-request-id", cut(id)))
	}
	if r.ContentLength > 0 {
		attrs = append(attrs, semconv.HTTPRequestBodySize(int(r.ContentLength)))
	}
	return attrs
}

// cut returns text that is fit for a span: bounded, and UTF-8 as OTLP demands.
func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxHeader)], "\ufffd") }

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

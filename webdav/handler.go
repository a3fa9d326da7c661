package webdav

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"engramfs/store"
)

// DefaultMaxXMLBody is the size limit, in bytes, of the bodies of PROPFIND,
// PROPPATCH and LOCK.
const DefaultMaxXMLBody = 1 << 20

// Options of New.
type Options struct {
	Store *store.Store
	// Prefix is the path under which the tree appears, "/dav/files" for
	// instance. Empty: the tree is served at "/".
	Prefix string
	// Logger receives state changes at Info and above and one line per
	// request at Debug. Nil: nothing is logged.
	Logger *slog.Logger
	// Principal names the authenticated user of a request, "" for an
	// anonymous one. Locks belong to the principal that took them. Nil: every
	// request is anonymous.
	Principal func(*http.Request) string
	// Failed, if not nil, is told why a request is answered with an error; of a panic
	// it gets a *store.PanicError. The context is the request's.
	Failed func(ctx context.Context, err error)
	// MaxXMLBody limits the body of PROPFIND, PROPPATCH and LOCK, in bytes
	// (413 beyond it). Zero: DefaultMaxXMLBody.
	MaxXMLBody int64
}

// Handler serves a store over WebDAV (RFC 4918, classes 1, 2 and 3). It holds
// no state of its own: every answer comes from the store.
type Handler struct {
	store      *store.Store
	locks      *store.LockTable
	prefix     string // "" or "/a/b", without a trailing slash
	logger     *slog.Logger
	principal  func(*http.Request) string
	failed     func(context.Context, error)
	maxXMLBody int64
	uid, gid   uint32 // owner of what is created

	panics atomic.Int64
}

var _ http.Handler = (*Handler)(nil)

// New returns a handler that serves o.Store. Authentication is the caller's:
// every request that arrives here is allowed.
func New(o Options) *Handler {
	h := &Handler{
		store:      o.Store,
		logger:     o.Logger,
		principal:  o.Principal,
		failed:     o.Failed,
		maxXMLBody: o.MaxXMLBody,
		uid:        uint32(os.Getuid()),
		gid:        uint32(os.Getgid()),
	}
	if p := path.Clean("/" + o.Prefix); p != "/" {
		h.prefix = p
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	if h.principal == nil {
		h.principal = func(*http.Request) string { return "" }
	}
	if h.failed == nil {
		h.failed = func(context.Context, error) {}
	}
	if h.maxXMLBody <= 0 {
		h.maxXMLBody = DefaultMaxXMLBody
	}
	if o.Store != nil {
		h.locks = o.Store.DAVLocks()
	}
	return h
}

// Panics returns how many requests ended in a panic or runtime.Goexit that
// reached this handler.
func (h *Handler) Panics() int64 { return h.panics.Load() }

// request is one request on its way through the handler.
type request struct {
	*http.Request
	ctx       context.Context // carries trace
	path      string          // cleaned, absolute, without prefix; a trailing slash only at the root
	slash     bool            // the path was sent with a trailing slash
	now       time.Time
	principal string
	trace     *store.Trace
	ifs       ifHeader
	logger    *slog.Logger
}

// Context returns the request's context, which carries the trace of recovered
// reads. It hides http.Request.Context, which does not.
func (r *request) Context() context.Context { return r.ctx }

// method is how one HTTP method is served.
type method struct {
	serve func(h *Handler, w http.ResponseWriter, r *request) error
	xml   bool // the body is XML: limited in size
	read  bool // changes nothing: the If header is evaluated before serve
}

var methods = map[string]*method{
	"GET":       {serve: (*Handler).get, read: true},
	"HEAD":      {serve: (*Handler).get, read: true},
	"PUT":       {serve: (*Handler).put},
	"DELETE":    {serve: (*Handler).remove},
	"MKCOL":     {serve: (*Handler).mkcol},
	"COPY":      {serve: (*Handler).copyMove},
	"MOVE":      {serve: (*Handler).copyMove},
	"PROPFIND":  {serve: (*Handler).propfind, xml: true, read: true},
	"PROPPATCH": {serve: (*Handler).proppatch, xml: true},
	"LOCK":      {serve: (*Handler).lock, xml: true},
	"UNLOCK":    {serve: (*Handler).unlock},
}

// ServeHTTP implements http.Handler. A panic below it becomes 500, or a cut
// connection once the answer has begun; http.ErrAbortHandler passes through.
func (h *Handler) ServeHTTP(hw http.ResponseWriter, hr *http.Request) {
	x := &struct { // one allocation
		w response
		r request
	}{response{ResponseWriter: hw}, request{Request: hr, logger: h.logger}}
	w, r := &x.w, &x.r
	done := false
	defer func() {
		if !done {
			h.caught(w, hr, recover())
		}
	}()
	if hr.Method == "OPTIONS" {
		h.options(w)
		done = true // not reached when options panics
		return
	}
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
	if h.logger.Enabled(hr.Context(), slog.LevelDebug) {
		h.logger.Debug("webdav request", "method", hr.Method, "path", r.path, "status", w.code, "principal", r.principal)
	}
	done = true // not reached when serve or fail panics
}

// serve parses what all methods share and runs the method.
func (h *Handler) serve(w *response, r *request) error {
	m := methods[r.Method]
	if m == nil {
		return unsupported(w, r.Method)
	}
	r.now = h.store.Now()
	h.locks.Prune(r.now)
	r.principal = h.principal(r.Request)
	r.ctx, r.trace = store.WithTrace(r.Request.Context())
	var err error
	if r.path, r.slash, err = h.cleanPath(r.URL.Path, r.URL.RawPath); errors.Is(err, errOutsidePrefix) {
		return h.ancestor(w, r)
	}
	if err != nil {
		return err
	}
	if r.ifs, err = h.parseIfHeader(r.Request); err != nil {
		return err
	}
	if m.xml {
		r.Request = r.Request.WithContext(r.ctx)
		r.Request.Body = http.MaxBytesReader(w, r.Request.Body, h.maxXMLBody)
	}
	if m.read && r.ifs.present() {
		if err := h.confirm(r); err != nil {
			return err
		}
	}
	return m.serve(h, w, r)
}

// caught ends a request that did not return: v is the panic's value, nil for
// runtime.Goexit, after which net/http closes the connection by itself.
func (h *Handler) caught(w *response, hr *http.Request, v any) {
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	h.panics.Add(1)
	died := &store.PanicError{Op: hr.Method, Value: v, Stack: debug.Stack()}
	h.failed(hr.Context(), died)
	if v == nil {
		h.logger.Error("webdav handler exited", "method", hr.Method, "path", hr.URL.Path)
		return
	}
	h.logger.Error("webdav handler panicked", "method", hr.Method, "path", hr.URL.Path,
		"panic", v, "stack", string(died.Stack))
	if w.code != 0 {
		panic(http.ErrAbortHandler) // the answer has begun: cut it, so that nobody takes it for whole
	}
	uncork(hr)
	http.Error(w, "internal error", http.StatusInternalServerError)
}

// sync makes every change of the request durable. Changing methods call it
// after the change and before their answer: a 2xx survives a power loss.
func (h *Handler) sync(r *request) error { return h.store.Sync(r.Context()) }

// degraded marks an answer that rests on recovered data: it must not be
// cached, and it names the poisoned locks. It reports whether it did, and must
// be called before the header goes out. A marked answer has no validators.
func (h *Handler) degraded(w http.ResponseWriter, r *request) bool {
	events := r.trace.Recovered()
	if len(events) == 0 {
		return false
	}
	hd := w.Header()
	hd["Cache-Control"] = valNoStore
	delete(hd, "Etag")
	delete(hd, "Last-Modified")
	hd["Engramfs-Degraded"] = []string{degradedValue(events)}
	return true
}

// cleanPath turns the request's decoded path into a path of the store. The
// result is the only path that is looked at afterwards: what is checked is
// what is used. Errors are *statusError: 400 for a path that no resource can
// have, 404 outside the prefix.
func (h *Handler) cleanPath(p, raw string) (cleaned string, slash bool, err error) {
	if raw != "" && containsEncodedSlash(raw) {
		return "", false, badRequest("encoded slash in the path")
	}
	if p == "" || p[0] != '/' {
		return "", false, badRequest("path is not absolute")
	}
	if !utf8.ValidString(p) {
		return "", false, badRequest("path is not valid UTF-8")
	}
	if strings.IndexByte(p, 0) >= 0 {
		return "", false, badRequest("NUL in the path")
	}
	slash = p[len(p)-1] == '/'
	p = path.Clean(p)
	if h.prefix != "" {
		rest, ok := strings.CutPrefix(p, h.prefix)
		if !ok || rest != "" && rest[0] != '/' {
			return "", false, errOutsidePrefix
		}
		if p = rest; p == "" {
			p = "/"
		}
	}
	if len(p) > store.MaxName && hasLongName(p) {
		return "", false, badRequest("name longer than 255 bytes")
	}
	return p, slash, nil
}

// containsEncodedSlash reports whether a raw path has "%2F" in it: a slash
// inside a name, which cleaning would turn into a separator.
func containsEncodedSlash(raw string) bool {
	for i := 0; i+2 < len(raw); i++ {
		if raw[i] == '%' && raw[i+1] == '2' && raw[i+2]|0x20 == 'f' {
			return true
		}
	}
	return false
}

func hasLongName(p string) bool {
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > store.MaxName {
			return true
		}
	}
	return false
}

// href returns the URL path of a resource: prefix and path, escaped, with a
// trailing slash for a collection.
func (h *Handler) href(p string, isDir bool) string {
	return string(h.appendHref(nil, p, isDir))
}

// appendHref appends href's result to b.
func (h *Handler) appendHref(b []byte, p string, isDir bool) []byte {
	b = appendEscaped(b, h.prefix)
	if p != "/" {
		b = appendEscaped(b, p)
	}
	if isDir || p == "/" {
		b = append(b, '/')
	}
	return b
}

const upperHex = "0123456789ABCDEF"

// appendEscaped percent-encodes everything but RFC 3986's unreserved
// characters and "/": clients compare hrefs as strings, and some do not
// decode the rest (sub-delimiters, ":" and "@") before they do.
func appendEscaped(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '/' || isUnreserved(c) {
			b = append(b, c)
			continue
		}
		b = append(b, '%', upperHex[c>>4], upperHex[c&15])
	}
	return b
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// parentOf returns the path of the collection that p is a member of; the
// root's is the root.
func parentOf(p string) string {
	i := strings.LastIndexByte(p, '/')
	if i <= 0 {
		return "/"
	}
	return p[:i]
}

// isAncestor reports whether a is a proper ancestor of p; both cleaned.
func isAncestor(a, p string) bool {
	if a == "/" {
		return p != "/"
	}
	return len(p) > len(a) && p[len(a)] == '/' && p[:len(a)] == a
}

// response notes whether the answer has begun, and with which status.
type response struct {
	http.ResponseWriter
	code int // 0: not yet
	// pending is the status that the first byte of the body sends; 0 is 200.
	// Until then a handler can still fail with a proper answer.
	pending int
}

func (w *response) begin() {
	if w.code != 0 {
		return
	}
	if w.pending != 0 {
		w.WriteHeader(w.pending)
		return
	}
	w.code = http.StatusOK
}

func (w *response) WriteHeader(code int) {
	if w.code == 0 && code >= 200 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps net/http's sendfile path open.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	return io.Copy(w.ResponseWriter, src)
}

// Unwrap serves http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

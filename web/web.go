// Package web serves the admin surface of a store: a health page for people and
// an API for programs, with what is poisoned, stuck or damaged, and the actions
// that heal it. It adapts chi to the store.
//
// Health takes none of the store's locks, so the page and the API answer while
// the store is stuck. What can only be had with a lock, such as the number of
// files, is asked for a moment and otherwise unknown: null in the API, the word
// "unknown" on the page, never 0. A GET changes nothing. Every action is a POST
// and leaves two lines in the audit log, one before and one after. Whoever may
// use the admin surface may see stacks; the other doors never show one.
package web

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"engramfs/store"
	"engramfs/store/poison"
)

// Store is what the admin surface needs of a *store.Store. What a store has
// besides, of the interfaces below, is used too.
type Store interface {
	Locks() []store.LockStatus
	LockStatus(name string) (store.LockStatus, error)
	ResetLock(ctx context.Context, name string, wantGen uint64, dryRun bool) (*store.ResetReport, error)
	ReadOnly() error
	ArmFault(ctx context.Context, path, point, cause string) error
}

// What a store may have besides; what it lacks is not offered.
type (
	historian interface {
		History(before uint64, limit int) ([]store.HistoryEntry, error)
	}
	checker interface {
		Check(context.Context, store.CheckOptions) ([]store.Finding, error)
	}
	meter interface {
		StatFS(context.Context) (store.StatFS, error)
		FileCount(context.Context) int64
		DirCount(context.Context) int64
	}
	davLocker interface{ DAVLocks() *store.LockTable }
	damager   interface{ Damaged() []store.Damage }
	registrar interface{ Registry() *poison.Registry }
)

var _ interface {
	Store
	historian
	checker
	meter
	davLocker
	damager
	registrar
} = (*store.Store)(nil)

// Build names the running program.
type Build struct {
	Version string `json:"version"`
	Go      string `json:"go"` // version of the compiler
}

// Options of New. Everything but Store may be left out; what is left out is not
// shown.
type Options struct {
	Store  Store        // required
	Logger *slog.Logger // nil: nothing is logged
	Build  Build
	Now    func() time.Time // nil: time.Now

	// Hung reports that a lock has been held so long that only a restart can
	// help: the health is then answered with 503. nil: never.
	Hung func() bool
	// Snapshot is the health of all locks, taken without any of them. nil: that
	// of the store's registry, if it has one.
	Snapshot func() poison.Snapshot

	// Metrics serves GET /metrics, to those who may see the health's details, and
	// with MetricsPublic to everybody. nil: there are none.
	Metrics       http.Handler
	MetricsPublic bool
	// DegradedNotReady makes /readyz fail while a lock is poisoned or content is
	// damaged. Without it that is a warning, because reads are served.
	DegradedNotReady bool

	// Drills lets POST /api/v1/drills arm faults at Points. Without it drills
	// are refused with 403.
	Drills bool
	Points []store.FaultPoint

	// Require admits requests with a user's name and password (HTTP Basic) and
	// refuses others with 401, or 429 and Retry-After. nil: everybody is admitted
	// and sees all. The login of the page asks it, too.
	Require func(http.Handler) http.Handler
	// Optional says that a request without credentials may see the status, and
	// nothing else, of the health. nil: it may not.
	Optional func(http.Handler) http.Handler
	// Principal names the user whom Require has admitted; nil: nobody has a name.
	Principal func(*http.Request) string
	// Token admits requests that carry it (Authorization: Bearer), beside those
	// that Require admits. See LoadToken. "": no token.
	Token string

	// HostAllowed says whether a request with this Host header is answered; others are
	// refused with 421, because a page from elsewhere may have given its own host name
	// the address of this server (DNS rebinding). nil: every host.
	HostAllowed func(host string) bool

	// Failed, if not nil, is told why a request is answered with 5xx, or not at all; of
	// a panic it gets a *store.PanicError. The context is the request's.
	Failed func(ctx context.Context, err error)

	// Audit gets a line before and after every action. An action that it cannot
	// take is refused. nil: actions are only logged.
	Audit *Audit

	Engine    func() EngineStats  // figures of the metadata engine
	Traffic   func() Traffic      // figures of the requests that the doors serve
	Handles   func() []OpenHandle // files that clients hold open
	Copy      func() MetadataCopy // the second copy of the metadata
	Mounts    func() []Mount      // mount points of this process
	Listeners func() []Listener   // addresses that this process listens on
	Config    func() []Setting    // the configuration in force
	Jobs      []JobSpec           // long work besides the store's own check
	Notes     func() []string     // what an operator should know, such as a crash before this start
}

// Server is the handler of the admin listener. Its methods may be called by
// several goroutines at once.
type Server struct {
	// Immutable after New.
	o         Options
	store     Store
	log       *slog.Logger
	now       func() time.Time
	snapshot  func() poison.Snapshot // nil: not known
	private   bool                   // requests without credentials are refused
	table     []operation
	openAPI   []byte
	handler   http.Handler
	sessions  *sessions
	audit     *Audit // nil: none
	jobs      *jobs
	samples   *samples
	resets    resets
	streams   chan struct{} // a slot for each open stream
	ctx       context.Context
	cancel    context.CancelFunc
	started   time.Time
	probes    probes
	closeOnce sync.Once
}

// maxStreams bounds the streams that are open at the same time: each looks at
// the locks a few times a second.
const maxStreams = 32

// New returns the admin surface. Run it to have samples; Close it in the end.
func New(o Options) *Server {
	o.setDefaults()
	a := &Server{
		o: o, store: o.Store, log: o.Logger, now: o.Now, audit: o.Audit, snapshot: o.Snapshot, private: o.Require != nil,
		started: o.Now(), sessions: newSessions(o.Now), samples: &samples{}, streams: make(chan struct{}, maxStreams),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.jobs = newJobs(a.ctx, a.now, a.log, a.jobSpecs(), a.jobEnded)
	a.table = a.operations()
	a.openAPI = describeAPI(a.table, o.Build.Version)
	a.handler = a.routes()
	return a
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Hung == nil {
		o.Hung = func() bool { return false }
	}
	if o.Principal == nil {
		o.Principal = func(*http.Request) string { return "" }
	}
	if o.HostAllowed == nil {
		o.HostAllowed = func(string) bool { return true }
	}
	if o.Failed == nil {
		o.Failed = func(context.Context, error) {}
	}
	if o.Points == nil {
		o.Points = []store.FaultPoint{}
	}
	if r, ok := o.Store.(registrar); ok && o.Snapshot == nil {
		o.Snapshot = r.Registry().Health
	}
}

// ServeHTTP implements http.Handler.
func (a *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Run samples the figures for the plots until ctx ends, and then ends streams
// and jobs as Close does. A server that is to stop calls it with a context that
// ends before it waits for its requests, because a stream is a request that does
// not end by itself.
func (a *Server) Run(ctx context.Context) {
	defer a.Close()
	a.runSampler(ctx)
}

// Close ends the streams and the jobs, and waits for the jobs. The handler goes on
// answering requests.
func (a *Server) Close() {
	a.closeOnce.Do(a.cancel)
	a.jobs.wait()
}

// EndSessions logs everybody out of the page, for after the users have changed. A login
// whose password was looked at before counts no more either.
func (a *Server) EndSessions() { a.sessions.endAll() }

// Route returns the pattern of the route that r takes, such as /locks/{name}, for
// what may not know names; "": there is no such route.
func (a *Server) Route(r *http.Request) string {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	return a.handler.(chi.Routes).Find(chi.NewRouteContext(), method, cmp.Or(r.URL.RawPath, r.URL.Path))
}

func (a *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(a.catch, a.headers, a.rightHost, a.sameOrigin, middleware.GetHead)
	r.NotFound(a.handle(func(http.ResponseWriter, *http.Request) error { return errNoRoute }))
	r.MethodNotAllowed(a.handle(func(w http.ResponseWriter, req *http.Request) error {
		setAllow(w, r, req.URL.EscapedPath())
		return errMethod
	}))
	for _, op := range a.table {
		r.Method(op.method, op.path, a.admit(op.open, a.handle(op.serve)))
	}
	a.pageRoutes(r)
	return r
}

// setAllow lists the methods of a path, which a 405 owes (RFC 9110 section 15.5.6).
func setAllow(w http.ResponseWriter, routes chi.Routes, path string) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		match := method
		if match == http.MethodHead {
			match = http.MethodGet
		}
		if routes.Match(chi.NewRouteContext(), match, path) {
			w.Header().Add("Allow", method)
		}
	}
}

// handle turns a handler that returns an error into one that answers it.
func (a *Server) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			a.writeError(w, r, err)
		}
	}
}

// catch is the last net under the handlers: a panic is logged and answered 500, or
// with a cut connection once the answer has begun.
func (a *Server) catch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(hw http.ResponseWriter, r *http.Request) {
		w := middleware.NewWrapResponseWriter(hw, r.ProtoMajor)
		done := false
		defer func() {
			if !done {
				a.caught(w, r, recover())
			}
		}()
		next.ServeHTTP(w, r)
		done = true // not reached when next panics or ends its goroutine
	})
}

// caught deals with a handler that has panicked with v, or has ended its goroutine
// (nil), of which net/http cuts the connection.
func (a *Server) caught(w middleware.WrapResponseWriter, r *http.Request, v any) {
	if v == http.ErrAbortHandler {
		panic(v)
	}
	died := &store.PanicError{Op: r.Method, Value: v, Stack: debug.Stack()}
	err := fmt.Errorf("%w\n%s", died, died.Stack)
	if v != nil && w.Status() == 0 {
		a.writeError(w, r, err)
		return
	}
	a.noteFailure(r, http.StatusInternalServerError, err)
	if v != nil {
		panic(http.ErrAbortHandler) // so that nobody takes the answer for whole
	}
}

// contentPolicy lets the page load its own files and talk to this server, and
// nothing else. No script and no style is inline.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// headers sets what every answer carries: nothing is cached, sniffed, framed
// or loaded from elsewhere.
func (a *Server) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		// Not no-referrer: with it a browser sends "Origin: null" with the page's own
		// forms (Fetch standard, section 3.1), and sameOrigin could not tell.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// rightHost refuses requests to a name that is not this server's.
func (a *Server) rightHost(next http.Handler) http.Handler {
	refuse := a.handle(func(http.ResponseWriter, *http.Request) error { return errHost })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.o.HostAllowed(r.Host) {
			refuse(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses changes that a page of another origin asks a browser for.
func (a *Server) sameOrigin(next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(a.handle(func(http.ResponseWriter, *http.Request) error { return errCrossOrigin }))
	return p.Handler(next)
}

// Package web serves the admin API over a store: its health, its locks, the
// reset of a poisoned lock, and drills. It adapts chi to the store.
//
// A GET changes nothing and takes none of the store's locks, so the API answers
// while the store is stuck. Whoever may use it may see stacks; the WebDAV side
// never shows one.
package web

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"engramfs/store"
)

// Store is what the admin API needs of a *store.Store.
type Store interface {
	Locks() []store.LockStatus
	LockStatus(name string) (store.LockStatus, error)
	ResetLock(ctx context.Context, name string, wantGen uint64, dryRun bool) (*store.ResetReport, error)
	ReadOnly() error
	ArmFault(ctx context.Context, path, point, cause string) error
}

var _ Store = (*store.Store)(nil)

// Build names the running program.
type Build struct {
	Version string `json:"version"`
	Go      string `json:"go"` // version of the compiler
}

// Options of New.
type Options struct {
	Store  Store        // required
	Logger *slog.Logger // nil: nothing is logged
	Build  Build

	// Hung reports that a lock has been held so long that only a restart can
	// help: the health is then answered with 503. nil: never.
	Hung func() bool

	// Drills lets POST /api/v1/drills arm faults at Points. Without it both
	// methods are refused with 403.
	Drills bool
	Points []store.FaultPoint

	// Require admits authenticated requests only; Optional admits those
	// without credentials too, which then see of the health only its status.
	// nil: everybody is admitted and sees all.
	Require  func(http.Handler) http.Handler
	Optional func(http.Handler) http.Handler
	// Principal names the user who sent the request; nil: nobody has a name.
	Principal func(*http.Request) string
}

// admin holds the handlers. All fields are immutable after New.
type admin struct {
	store     Store
	log       *slog.Logger
	build     Build
	hung      func() bool
	drills    bool
	points    []store.FaultPoint
	private   bool // requests without a principal see less
	principal func(*http.Request) string
}

// New returns the handler of the admin listener.
func New(o Options) http.Handler {
	a := &admin{
		store: o.Store, log: o.Logger, build: o.Build,
		hung: o.Hung, drills: o.Drills, points: o.Points,
		private: o.Optional != nil, principal: o.Principal,
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.principal == nil {
		a.principal = func(*http.Request) string { return "" }
	}
	if a.hung == nil {
		a.hung = func() bool { return false }
	}
	if a.points == nil {
		a.points = []store.FaultPoint{}
	}
	require, optional := orAll(o.Require), orAll(o.Optional)

	r := chi.NewRouter()
	r.Use(a.catch, headers, a.sameOrigin, middleware.GetHead)
	r.NotFound(a.handle(func(http.ResponseWriter, *http.Request) error { return errNoRoute }))
	r.MethodNotAllowed(a.handle(func(w http.ResponseWriter, req *http.Request) error {
		setAllow(w, r, req.URL.EscapedPath())
		return errMethod
	}))
	r.With(optional).Get("/api/v1/health", a.handle(a.getHealth))
	r.Group(func(r chi.Router) {
		r.Use(require)
		r.Get("/api/v1/locks", a.handle(a.getLocks))
		r.Get("/api/v1/locks/{name}", a.handle(a.getLock))
		r.Post("/api/v1/locks/{name}/reset", a.handle(a.postReset))
		r.Get("/api/v1/drills", a.handle(a.getDrills))
		r.Post("/api/v1/drills", a.handle(a.postDrill))
	})
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

func orAll(m func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	if m == nil {
		return func(next http.Handler) http.Handler { return next }
	}
	return m
}

// handle turns a handler that returns an error into one that answers it.
func (a *admin) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			a.writeError(w, r, err)
		}
	}
}

// catch is the last net under the handlers: a panic is logged and answered 500.
func (a *admin) catch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				panic(v)
			default:
				a.writeError(w, r, panicError(v))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// headers sets what every answer carries: nothing is cached, sniffed, framed
// or run.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses changes that a page of another origin asks a browser for.
func (a *admin) sameOrigin(next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(a.handle(func(http.ResponseWriter, *http.Request) error { return errCrossOrigin }))
	return p.Handler(next)
}

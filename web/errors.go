package web

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"runtime/debug"
	"strings"

	"engramfs/store"
	"engramfs/store/poison"
)

// problem is the body of an error (RFC 9457). Code is the stable name that
// programs may compare; Detail is for people.
type problem struct {
	Type   string             `json:"type"`
	Title  string             `json:"title"`
	Status int                `json:"status"`
	Code   string             `json:"code"`
	Detail string             `json:"detail,omitempty"`
	Lock   string             `json:"lock,omitempty"`
	Gen    uint64             `json:"gen,omitempty"`
	Report *store.ResetReport `json:"report,omitempty"`
}

// apiError is an error that a handler answers with a status and code of its
// own. The rest is mapped by the table below.
type apiError struct {
	status int
	code   string
	detail string
}

func (e *apiError) Error() string { return e.code + ": " + e.detail }

var (
	errNoRoute     = &apiError{http.StatusNotFound, "not_found", "there is nothing here"}
	errMethod      = &apiError{http.StatusMethodNotAllowed, "method_not_allowed", "the method does not apply here"}
	errHost        = &apiError{http.StatusMisdirectedRequest, "wrong_host", "this server does not answer to that host name: use its address, or start it with --allow-host"}
	errCrossOrigin = &apiError{http.StatusForbidden, "cross_origin", "a page of another origin may not change anything here"}
	errNoDrills    = &apiError{http.StatusForbidden, "drills_disabled", "start the server with --enable-drills"}
	errNoBody      = &apiError{http.StatusBadRequest, "bad_request", "want a JSON value as the body"}
	errBlind       = &apiError{http.StatusServiceUnavailable, "unknown", "the locks cannot be read: see the server's log"}
	errBusy        = &apiError{http.StatusServiceUnavailable, "busy", "the store does not answer in time: a lock may be stuck, see the health"}
	errAudit       = &apiError{http.StatusServiceUnavailable, "audit_failed", "the audit log cannot be written: nothing was done"}
	errStreams     = &apiError{http.StatusServiceUnavailable, "too_many_streams", "too many streams are open: close one"}
	errNotHere     = &apiError{http.StatusNotFound, "not_available", "this server does not have that"}
	errNoEvent     = &apiError{http.StatusNotFound, "not_found", "there is no such event: only the newest are kept"}
	errSound       = &apiError{http.StatusNotFound, "not_found", "the file is not known to be damaged: somebody may have replaced it"}
	errNoJob       = &apiError{http.StatusNotFound, "not_found", "there is no such job"}
	errJobRunning  = &apiError{http.StatusConflict, "job_running", "it is running already"}
	errJobIdle     = &apiError{http.StatusConflict, "job_not_running", "it is not running"}
	errClosing     = &apiError{http.StatusServiceUnavailable, "closing", "the server is stopping"}
	errNoLogin     = &apiError{http.StatusUnauthorized, "unauthorized", "log in, or send credentials: Basic with a user's password, or Bearer with the token"}
	errTooMany     = &apiError{http.StatusTooManyRequests, "too_many_attempts", "too many wrong passwords: wait a little"}
	errNoGen       = &apiError{http.StatusPreconditionRequired, "generation_required",
		`send If-Match with the generation you saw, such as If-Match: "3"`}
)

func badRequest(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, "bad_request", fmt.Sprintf(format, args...)}
}

// lockError says which lock an error is about, and what the failed reset found.
type lockError struct {
	lock   string
	gen    uint64
	report *store.ResetReport
	err    error
}

func (e *lockError) Error() string { return fmt.Sprintf("lock %s: %v", e.lock, e.err) }
func (e *lockError) Unwrap() error { return e.err }

// waitError says when to try again.
type waitError struct {
	retryAfter string // seconds
	err        error
}

func (e *waitError) Error() string { return e.err.Error() }
func (e *waitError) Unwrap() error { return e.err }

// panicError turns the value of a handler's panic into an error with its stack.
func panicError(v any) error {
	return fmt.Errorf("handler panicked: %v\n%s", v, debug.Stack())
}

// statuses maps errors of the store. The first match counts: the errors of a
// reset come before ErrPoisoned, which a failed reset matches as well.
var statuses = []struct {
	err    error
	status int
	code   string
	detail string
}{
	{poison.ErrStale, http.StatusPreconditionFailed, "generation_stale", "the lock was poisoned again or reset since it was looked at: nothing was changed, look at it first"},
	{poison.ErrHeld, http.StatusConflict, "lock_held", "a request still holds the lock: nothing can take it away, try again later"},
	{poison.ErrNotPoisoned, http.StatusConflict, "lock_healthy", "the lock is not poisoned: there is nothing to reset, somebody may have done it before"},
	{store.ErrReadOnly, http.StatusServiceUnavailable, "store_read_only", "the store is read-only: remove the cause and restart the server"},
	{store.ErrNoSpace, http.StatusInsufficientStorage, "no_space", "the disk is full: free space and try again"},
	{store.ErrDamaged, http.StatusConflict, "damaged", "the durable data does not pass its checks: restore or overwrite it"},
	{poison.ErrPoisoned, http.StatusConflict, "reset_failed", "the rebuild failed: the lock stays poisoned"},
	{store.ErrName, http.StatusBadRequest, "bad_path", "the path cannot exist in a store"},
	{store.ErrNameTooLong, http.StatusBadRequest, "bad_path", "the path cannot exist in a store"},
	{store.ErrNotDir, http.StatusNotFound, "path_not_found", "no such path"},
	{store.ErrIsDir, http.StatusConflict, "is_directory", "it is a folder: only files have content"},
	{store.ErrNoLock, http.StatusNotFound, "not_found", "there is no such lock: it may have expired"},
	{store.ErrClosed, http.StatusServiceUnavailable, "closing", "the server is stopping"},
	{fs.ErrInvalid, http.StatusBadRequest, "bad_request", ""},
	{fs.ErrNotExist, http.StatusNotFound, "not_found", "it does not exist"},
}

// problemOf returns the answer to an error. Unknown errors say nothing of
// their cause: it is in the log.
func problemOf(err error) problem {
	p := problem{Status: http.StatusInternalServerError, Code: "internal", Detail: "see the server's log"}
	var api *apiError
	if errors.As(err, &api) {
		p.Status, p.Code, p.Detail = api.status, api.code, api.detail
	} else {
		for _, s := range statuses {
			if errors.Is(err, s.err) {
				p.Status, p.Code, p.Detail = s.status, s.code, s.detail
				break
			}
		}
		if p.Detail == "" {
			p.Detail = err.Error()
		}
	}
	var lock *lockError
	if errors.As(err, &lock) {
		p.Lock, p.Gen = lock.lock, lock.gen
		if lock.report != nil && len(lock.report.Problems) > 0 {
			p.Report = lock.report
		}
	}
	p.Type = "urn:engramfs:problem:" + strings.ReplaceAll(p.Code, "_", "-")
	p.Title = http.StatusText(p.Status)
	return p
}

// writeError is the one place where an error becomes an answer.
func (a *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	a.noteFailure(r, p.Status, err)
	errorHeaders(w, r, p, err)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	writeBody(w, p)
}

// errorHeaders adds what an error's answer owes besides its body.
func errorHeaders(w http.ResponseWriter, r *http.Request, p problem, err error) {
	if wait := (*waitError)(nil); errors.As(err, &wait) {
		w.Header().Set("Retry-After", wait.retryAfter)
	}
	if p.Status == http.StatusUnauthorized {
		challenge(w, r)
	}
}

// noteFailure logs an error whose cause the answer does not tell, and tells of
// every one that is the server's fault.
func (a *Server) noteFailure(r *http.Request, status int, err error) {
	if status == http.StatusInternalServerError {
		a.log.Error("admin request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if status >= 500 {
		a.o.Failed(r.Context(), err)
	}
}

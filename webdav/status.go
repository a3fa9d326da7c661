package webdav

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"

	"engramfs/store"
	"engramfs/store/poison"
)

// retryAfter is sent with 503, in seconds: an admin needs about as long to
// look at a poisoned lock and reset it.
const retryAfter = "30"

// Shared header values. A header map holds slices, and one slice per constant
// saves an allocation per header and request.
var (
	valNoStore = []string{"no-store"}
	valNoCache = []string{"no-cache"}
	valNoSniff = []string{"nosniff"}
	valBytes   = []string{"bytes"}
	valXML     = []string{`application/xml; charset="utf-8"`}
	valProblem = []string{"application/problem+json"}
	valText    = []string{"text/plain; charset=utf-8"}
	valSandbox = []string{"sandbox"}
	valZero    = []string{"0"}
)

// statusError is an error whose HTTP status the handler chose itself.
type statusError struct {
	code      int
	condition string   // local name of the DAV: element of the body (RFC 4918 section 16), "" for none
	hrefs     []string // escaped URL paths inside that element
	err       error    // the cause, may be nil
}

func (e *statusError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	if e.condition != "" {
		return e.condition
	}
	return http.StatusText(e.code)
}

func (e *statusError) Unwrap() error { return e.err }

func badRequest(detail string) error {
	return &statusError{code: http.StatusBadRequest, err: errors.New(detail)}
}

var (
	errOutsidePrefix error = &statusError{code: http.StatusNotFound, err: errors.New("outside of the served tree")}
	errPrecondition        = &statusError{code: http.StatusPreconditionFailed, err: store.ErrPrecondition}
)

// statusRow is one line of the table of statuses.
type statusRow struct {
	err       error
	code      int
	condition string
	problem   string // the problem's code in a JSON body
}

// statusTable maps the store's errors to statuses; the first line that the
// error matches counts. Methods with an own idea (PUT on a collection is 405)
// return a *statusError instead. What no line matches is 500.
var statusTable = []statusRow{
	{err: store.ErrPoisoned, code: http.StatusServiceUnavailable, problem: "store_poisoned"},
	{err: store.ErrDamaged, code: http.StatusServiceUnavailable, problem: "content_damaged"},
	{err: store.ErrChanged, code: http.StatusServiceUnavailable},
	{err: store.ErrReadOnly, code: http.StatusServiceUnavailable, problem: "store_read_only"},
	{err: store.ErrClosed, code: http.StatusServiceUnavailable, problem: "store_closed"},
	{err: store.ErrLocked, code: http.StatusLocked, condition: "lock-token-submitted"},
	{err: store.ErrPrecondition, code: http.StatusPreconditionFailed},
	{err: store.ErrParentNotExist, code: http.StatusConflict},
	{err: fs.ErrNotExist, code: http.StatusNotFound},
	{err: store.ErrNoXattr, code: http.StatusNotFound},
	{err: fs.ErrExist, code: http.StatusPreconditionFailed},
	{err: store.ErrNotDir, code: http.StatusConflict},
	{err: store.ErrIsDir, code: http.StatusConflict},
	{err: store.ErrNotEmpty, code: http.StatusConflict},
	{err: store.ErrSubtree, code: http.StatusForbidden},
	{err: store.ErrTooManyLinks, code: http.StatusForbidden},
	{err: fs.ErrPermission, code: http.StatusForbidden},
	{err: store.ErrName, code: http.StatusBadRequest},
	{err: store.ErrNameTooLong, code: http.StatusBadRequest},
	{err: fs.ErrInvalid, code: http.StatusBadRequest},
	{err: store.ErrTooBig, code: http.StatusRequestEntityTooLarge},
	{err: syscall.ENOSPC, code: http.StatusInsufficientStorage, condition: "sufficient-disk-space"},
	{err: syscall.EDQUOT, code: http.StatusInsufficientStorage, condition: "quota-not-exceeded"},
	{err: io.ErrUnexpectedEOF, code: http.StatusBadRequest},
	{err: os.ErrDeadlineExceeded, code: http.StatusRequestTimeout},
	{err: context.Canceled, code: http.StatusServiceUnavailable, problem: "canceled"},
	{err: context.DeadlineExceeded, code: http.StatusServiceUnavailable, problem: "timeout"},
}

// statusOf finds the line of an error. An explicit *statusError wins, unless
// its cause makes the store unavailable: 503 says more than any other status.
func statusOf(err error) statusRow {
	row := statusRow{code: http.StatusInternalServerError}
	for _, line := range statusTable {
		if errors.Is(err, line.err) {
			row = line
			break
		}
	}
	if row.problem != "" {
		return row
	}
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return statusRow{code: http.StatusRequestEntityTooLarge}
	}
	var se *statusError
	if errors.As(err, &se) {
		return statusRow{code: se.code, condition: se.condition}
	}
	return row
}

// fail answers with the status of err. When the answer has already begun the
// connection is cut instead, so that nobody takes what was sent for whole.
func (h *Handler) fail(hw http.ResponseWriter, r *request, err error) {
	h.failed(r.Request.Context(), err)
	row := statusOf(err)
	var digest *digestError
	if errors.As(err, &digest) {
		row.code = http.StatusBadRequest
	}
	if row.code == http.StatusInternalServerError && !clientGone(r, err) {
		h.logger.Error("webdav request failed", "method", r.Method, "path", r.path, "err", err)
	} else if h.logger.Enabled(r.Request.Context(), slog.LevelDebug) {
		h.logger.Debug("webdav request refused", "method", r.Method, "path", r.path, "status", row.code, "err", err)
	}
	if w, ok := hw.(*response); ok && w.code != 0 {
		panic(http.ErrAbortHandler)
	}
	uncork(r.Request)
	if r.Method == "PUT" {
		drain(r)
	}
	hd := hw.Header()
	for _, k := range [...]string{"Etag", "Last-Modified", "Accept-Ranges", "Content-Range", "Content-Length", "Location", "Lock-Token", "Repr-Digest", "X-Oc-Mtime"} {
		delete(hd, k)
	}
	hd["Cache-Control"] = valNoStore
	hd["X-Content-Type-Options"] = valNoSniff
	if r.trace != nil {
		h.degraded(hw, r)
	}
	if row.code == http.StatusServiceUnavailable {
		hd["Retry-After"] = []string{retryAfter}
		if strings.HasPrefix(r.UserAgent(), "WebDAVFS/") {
			// Finder shows every 5xx but 507 as "file not found".
			row.code = http.StatusInsufficientStorage
		}
	}
	switch {
	case digest != nil:
		writeDigestProblem(hw, digest)
	case row.problem != "":
		writeProblem(hw, row, err)
	case row.condition != "":
		writeCondition(hw, row, err)
	default:
		writeText(hw, row.code, err)
	}
}

// maxDrain is how much of a refused upload is read before the answer.
const maxDrain = 32 << 20

// drain reads the rest of a refused upload. Clients that do not wait for 100
// Continue (gvfs, davfs2 and Finder among them) look for an answer only when
// they have sent everything, and a connection closed earlier reaches them as a
// reset, not as the status.
func drain(r *request) {
	if r.Body == nil || r.ContentLength > maxDrain || r.Header["Expect"] != nil {
		return
	}
	io.CopyN(io.Discard, r.Body, maxDrain) // best effort: the answer is an error already
}

// problem is an RFC 9457 body.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Lock   string `json:"lock,omitempty"`
	Gen    uint64 `json:"gen,omitempty"`
	Code   string `json:"code"`
}

var problemTitles = map[string][2]string{
	"store_poisoned":  {"The resource is poisoned", "A writer died while it changed this resource. Reads go on, writes are refused until an administrator resets the lock."},
	"content_damaged": {"The content is damaged", "The stored content failed its checksum."},
	"store_read_only": {"The store is read-only", "The store could not write its journal and refuses changes."},
	"store_closed":    {"The store is closed", "The server is shutting down."},
	"canceled":        {"The request was cancelled", "The request ended before the answer was ready."},
	"timeout":         {"The request took too long", "The request ran out of time."},
}

// writeProblem writes an RFC 9457 body. It names the lock, never a stack or
// the panic's value: those are the administrator's.
func writeProblem(w http.ResponseWriter, row statusRow, err error) {
	text := problemTitles[row.problem]
	p := problem{
		Type:   "urn:engramfs:problem:" + strings.ReplaceAll(row.problem, "_", "-"),
		Title:  text[0],
		Status: row.code,
		Detail: text[1],
		Code:   row.problem,
	}
	var pe *poison.Error
	if errors.As(err, &pe) && pe.Ev != nil {
		p.Lock, p.Gen = pe.Ev.Lock, pe.Ev.Gen
	}
	body, jerr := json.Marshal(&p)
	if jerr != nil {
		body = []byte("{}") // cannot happen: strings and numbers only
	}
	w.Header()["Content-Type"] = valProblem
	writeBody(w, row.code, body)
}

// writeCondition writes a DAV:error body (RFC 4918 section 16).
func writeCondition(w http.ResponseWriter, row statusRow, err error) {
	b := append([]byte(xml.Header), `<D:error xmlns:D="DAV:"><D:`...)
	b = append(b, row.condition...)
	var hrefs []string
	var se *statusError
	if errors.As(err, &se) {
		hrefs = se.hrefs
	}
	if len(hrefs) == 0 {
		b = append(b, "/></D:error>\n"...)
	} else {
		b = append(b, '>')
		for _, href := range hrefs { // escaped: nothing in it is markup
			b = append(append(append(b, "<D:href>"...), href...), "</D:href>"...)
		}
		b = append(append(append(b, "</D:"...), row.condition...), "></D:error>\n"...)
	}
	w.Header()["Content-Type"] = valXML
	writeBody(w, row.code, b)
}

// writeText answers with a line of text. Only errors that were made for the
// client say more than the status does.
func writeText(w http.ResponseWriter, code int, err error) {
	text := http.StatusText(code)
	var se *statusError
	if errors.As(err, &se) && se.err != nil && code < 500 {
		text = se.err.Error()
	}
	w.Header()["Content-Type"] = valText
	writeBody(w, code, append([]byte(text), '\n'))
}

func writeBody(w http.ResponseWriter, code int, body []byte) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(code)
	w.Write(body) // an error is the connection's: nobody is left to tell
}

// writeEmpty answers with a status and no body.
func writeEmpty(w http.ResponseWriter, code int) {
	if code != http.StatusNoContent {
		w.Header()["Content-Length"] = valZero
	}
	w.WriteHeader(code)
}

// degradedValue is the value of EngramFS-Degraded: the poisoned locks whose
// recovered data was read, "<lock>; gen=<n>" each.
func degradedValue(events []*poison.Event) string {
	var b strings.Builder
	for i, ev := range events {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s; gen=%d", ev.Lock, ev.Gen)
	}
	return b.String()
}

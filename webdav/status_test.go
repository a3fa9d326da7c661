package webdav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"engramfs/store"
	"engramfs/store/poison"
)

// TestStatusTable has a row per line of the table, bare and wrapped.
func TestStatusTable(t *testing.T) {
	rows := []struct {
		err  error
		code int
	}{
		{store.ErrPoisoned, 503},
		{store.ErrDamaged, 503},
		{store.ErrChanged, 503},
		{store.ErrReadOnly, 503},
		{store.ErrClosed, 503},
		{store.ErrLocked, 423},
		{store.ErrPrecondition, 412},
		{store.ErrParentNotExist, 409},
		{fs.ErrNotExist, 404},
		{store.ErrNoXattr, 404},
		{fs.ErrExist, 412},
		{store.ErrNotDir, 409},
		{store.ErrIsDir, 409},
		{store.ErrNotEmpty, 409},
		{store.ErrSubtree, 403},
		{store.ErrTooManyLinks, 403},
		{fs.ErrPermission, 403},
		{store.ErrName, 400},
		{store.ErrNameTooLong, 400},
		{fs.ErrInvalid, 400},
		{store.ErrTooBig, 413},
		{syscall.ENOSPC, 507},
		{syscall.EDQUOT, 507},
		{io.ErrUnexpectedEOF, 400},
		{os.ErrDeadlineExceeded, 408},
		{context.Canceled, 503},
		{context.DeadlineExceeded, 503},
	}
	if len(rows) != len(statusTable) {
		t.Errorf("%d rows for %d lines", len(rows), len(statusTable))
	}
	rows = append(rows, []struct {
		err  error
		code int
	}{
		{store.ErrNoSpace, 507},
		{store.ErrStale, 404},
		{store.ErrFault, 500},
		{store.ErrPanic, 500},
		{errors.New("unknown"), 500},
		{&poison.Error{Ev: &poison.Event{Lock: "inode:7", Gen: 3}}, 503},
		{&http.MaxBytesError{Limit: 1}, 413},
		{badRequest("x"), 400},
		{&statusError{code: 405, err: fs.ErrExist}, 405},
		{&statusError{code: 403, err: store.ErrPoisoned}, 503}, // unavailable says more
	}...)
	for _, row := range rows {
		wrapped := fmt.Errorf("rename: %w", &fs.PathError{Op: "rename", Path: "/f", Err: row.err})
		for _, err := range []error{row.err, wrapped} {
			if got := statusOf(err).code; got != row.code {
				t.Errorf("statusOf(%v) = %d, want %d", err, got, row.code)
			}
		}
	}
}

// TestFailHeaders: an error carries no validator of the answer that it
// replaces, and Finder gets 507 for 503.
func TestFailHeaders(t *testing.T) {
	h := New(Options{})
	fail := func(err error, agent string) *http.Response {
		w := httptest.NewRecorder()
		w.Header().Set("Etag", `"x"`)
		w.Header().Set("Last-Modified", "now")
		r := httptest.NewRequest("DELETE", "/f", nil)
		r.Header.Set("User-Agent", agent)
		h.fail(&response{ResponseWriter: w}, &request{Request: r}, err)
		return w.Result()
	}
	poisoned := &poison.Error{Ev: &poison.Event{Lock: "inode:7", Gen: 3, Value: "secret", Stack: []byte("goroutine 1")}}
	resp := fail(poisoned, "")
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "30" || resp.Header.Get("Etag") != "" || resp.Header.Get("Last-Modified") != "" ||
		resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if s := string(body); !strings.Contains(s, `"lock":"inode:7"`) || !strings.Contains(s, `"gen":3`) || strings.Contains(s, "secret") || strings.Contains(s, "goroutine") {
		t.Errorf("body %s", s)
	}
	for err, code := range map[error]int{poisoned: 507, store.ErrReadOnly: 507, fs.ErrNotExist: 404, errors.New("x"): 500} {
		if got := fail(err, "WebDAVFS/3.0.0 (03008000) Darwin/23.0.0").StatusCode; got != code {
			t.Errorf("WebDAVFS: %v = %d, want %d", err, got, code)
		}
	}
}

// TestFailAfterHeader: an answer that has begun is cut.
func TestFailAfterHeader(t *testing.T) {
	h := New(Options{})
	w := &response{ResponseWriter: httptest.NewRecorder()}
	io.WriteString(w, "partial")
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("panic %v, want http.ErrAbortHandler", v)
		}
	}()
	h.fail(w, &request{Request: httptest.NewRequest("GET", "/f", nil)}, errors.New("x"))
}

func TestConditionBody(t *testing.T) {
	h := New(Options{})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("PUT", "/f", nil)
	h.fail(&response{ResponseWriter: w}, &request{Request: r}, store.ErrNoSpace)
	if got, want := w.Body.String(), `<D:error xmlns:D="DAV:"><D:sufficient-disk-space/></D:error>`; w.Code != 507 || !strings.Contains(got, want) {
		t.Errorf("%d %s, want %s", w.Code, got, want)
	}
}

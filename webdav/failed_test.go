package webdav

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// TestFailedIsToldWhy asks for the reason of an answer, which says less than it, and
// for the request's own context.
func TestFailedIsToldWhy(t *testing.T) {
	type key struct{}
	var why error
	principal := func(*http.Request) string { return "" }
	h := New(Options{
		Store:     storetest.New(t),
		Principal: func(r *http.Request) string { return principal(r) },
		Failed: func(ctx context.Context, err error) {
			if ctx.Value(key{}) == nil {
				t.Error("not the context of the request")
			}
			why = err
		},
	})
	serve := func(method, path string) int {
		why = nil
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, path, nil)
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, true)))
		return w.Code
	}
	if code := serve("OPTIONS", "/"); code != 200 || why != nil {
		t.Errorf("OPTIONS = %d, because of %v", code, why)
	}
	if code := serve("DELETE", "/a/b"); code != 404 || !errors.Is(why, fs.ErrNotExist) {
		t.Errorf("DELETE = %d, because of %v", code, why)
	}
	principal = func(*http.Request) string { panic("who?") }
	var died *store.PanicError
	if code := serve("GET", "/"); code != 500 || !errors.As(why, &died) || died.Value != "who?" || len(died.Stack) == 0 {
		t.Errorf("GET = %d, because of %v", code, why)
	}
}

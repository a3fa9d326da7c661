package webdav

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// davBench is a handler over a store of its own.
type davBench struct {
	*Handler
	t  testing.TB
	st *store.Store
}

// newDAVBench opens a store. The principal of a request is its user name.
func newDAVBench(t testing.TB, prefix string) *davBench {
	t.Helper()
	st := storetest.New(t)
	h := New(Options{Store: st, Prefix: prefix, Principal: func(r *http.Request) string {
		user, _, _ := r.BasicAuth()
		return user
	}})
	return &davBench{h, t, st}
}

// in returns b for a sub-test.
func (b *davBench) in(t testing.TB) *davBench { return &davBench{b.Handler, t, b.st} }

// do sends a request without a network. headers are name, value pairs.
func (b *davBench) do(method, target, body string, headers ...string) *http.Response {
	b.t.Helper()
	r := httptest.NewRequest(method, target, bytes.NewReader([]byte(body)))
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "user" {
			r.SetBasicAuth(headers[i+1], "x")
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Result()
}

// want sends a request and checks its status; it returns the body.
func (b *davBench) want(status int, method, target, body string, headers ...string) string {
	b.t.Helper()
	resp := b.do(method, target, body, headers...)
	got, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != status {
		b.t.Fatalf("%s %s %v = %d, want %d\n%s", method, target, headers, resp.StatusCode, status, got)
	}
	return string(got)
}

// token takes a lock and returns its token.
func (b *davBench) token(status int, target, scope string, headers ...string) string {
	b.t.Helper()
	resp := b.do("LOCK", target, lockBody(scope), headers...)
	if resp.StatusCode != status {
		got, _ := io.ReadAll(resp.Body)
		b.t.Fatalf("LOCK %s = %d, want %d\n%s", target, resp.StatusCode, status, got)
	}
	token, ok := parseCodedURL(resp.Header.Get("Lock-Token"))
	if !ok {
		b.t.Fatalf("LOCK %s: Lock-Token %q", target, resp.Header.Get("Lock-Token"))
	}
	return token
}

func lockBody(scope string) string {
	return `<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:` + scope +
		`/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>`
}

func stringBody(s string) io.Reader { return bytes.NewReader([]byte(s)) }

package webdav

import (
	"errors"
	"net/http"
	"path"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzDestination: what a Destination header leads to is a clean path of this
// server, or a refusal that says so.
func FuzzDestination(f *testing.F) {
	for _, s := range []string{"http://host/p/a%20b", "/p/../p/x", "https://host:443/p/", "http://other/p/x", "//host/p/x", "/p/%2e%2e/%2Fx", "mailto:x"} {
		f.Add(s)
	}
	h := New(Options{Prefix: "/p"})
	f.Fuzz(func(t *testing.T, s string) {
		r := &request{Request: &http.Request{Host: "host", Header: http.Header{"Destination": {s}}}}
		p, err := h.destination(r)
		if err != nil {
			var refusal *statusError
			if !errors.As(err, &refusal) || refusal.code < 400 || refusal.code > 502 {
				t.Fatalf("Destination %q: %v, want a status", s, err)
			}
			return
		}
		if path.Clean(p) != p || p[0] != '/' || !utf8.ValidString(p) || strings.ContainsRune(p, 0) {
			t.Fatalf("Destination %q is %q", s, p)
		}
	})
}

// FuzzDepth: the two readings of the Depth header agree on what infinity is.
func FuzzDepth(f *testing.F) {
	for _, s := range []string{"0", "1", "infinity", "Infinity", "2", "-1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		header := http.Header{"Depth": {s}}
		depth, ok := parseDepth(header)
		if ok && depth != 0 && depth != 1 && depth != depthInfinity || !ok && depth != 0 {
			t.Fatalf("Depth %q is %d, %t", s, depth, ok)
		}
		if depthIsInfinity(header) && (!ok || depth != depthInfinity) {
			t.Fatalf("Depth %q is infinity to DELETE, %d, %t to PROPFIND", s, depth, ok)
		}
	})
}

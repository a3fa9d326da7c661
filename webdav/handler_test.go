package webdav

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"

	"engramfs/store"
)

func TestCleanPath(t *testing.T) {
	long := strings.Repeat("n", 255)
	for _, tc := range []struct {
		prefix, in string
		want       string
		slash      bool
		code       int
	}{
		{"", "/", "/", true, 0},
		{"", "/a/b", "/a/b", false, 0},
		{"", "/a/b/", "/a/b", true, 0},
		{"", "//a///b", "/a/b", false, 0},
		{"", "/a/./b/../c", "/a/c", false, 0},
		{"", "/../../a", "/a", false, 0},
		{"", "/a/%2e%2e/b", "/b", false, 0},
		{"", "/%C3%A4%20b", "/ä b", false, 0},
		{"", "/a%5cb", `/a\b`, false, 0},
		{"", "/" + long, "/" + long, false, 0},
		{"", "/" + long + "n", "", false, 400},
		{"", "/" + long + "/" + long, "/" + long + "/" + long, false, 0},
		{"", "/a%2fb", "", false, 400},
		{"", "/a%2Fb", "", false, 400},
		{"", "/%2e%2e%2fb", "", false, 400},
		{"", "/a%00b", "", false, 400},
		{"", "/%ff", "", false, 400},
		{"", "/%c0%ae", "", false, 400}, // an overlong "."
		{"", "*", "", false, 400},
		{"/dav", "/dav", "/", false, 0},
		{"/dav", "/dav/", "/", true, 0},
		{"/dav", "/dav/a", "/a", false, 0},
		{"/dav", "/x/../dav/a", "/a", false, 0},
		{"/dav", "/davfoo", "", false, 404},
		{"/dav", "/dav/../a", "", false, 404},
		{"/dav", "/DAV/a", "", false, 404},
		{"/dav", "/", "", false, 404},
		{"/a b/ä", "/a%20b/%C3%A4/f", "/f", false, 0},
	} {
		h := New(Options{Prefix: tc.prefix})
		u := &url.URL{Path: tc.in}
		if strings.HasPrefix(tc.in, "/") {
			var err error
			if u, err = url.ParseRequestURI(tc.in); err != nil {
				t.Fatal(err)
			}
		}
		got, slash, err := h.cleanPath(u.Path, u.RawPath)
		code := 0
		if err != nil {
			code = statusOf(err).code
		}
		if got != tc.want || slash != tc.slash || code != tc.code {
			t.Errorf("prefix %q: cleanPath(%q) = %q, %v, %d; want %q, %v, %d", tc.prefix, tc.in, got, slash, code, tc.want, tc.slash, tc.code)
		}
	}
}

// FuzzCleanPath: what comes out is clean, and its href leads back to it.
func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e%2e/", "/dav/ä b/", "//"} {
		f.Add(s)
	}
	h := New(Options{Prefix: "/p q"})
	f.Fuzz(func(t *testing.T, s string) {
		p, _, err := h.cleanPath("/p q/"+s, "")
		if err != nil {
			return
		}
		if path.Clean(p) != p || p[0] != '/' || !utf8.ValidString(p) || strings.ContainsRune(p, 0) {
			t.Fatalf("cleanPath(%q) = %q", s, p)
		}
		u, err := url.ParseRequestURI(h.href(p, false))
		if err != nil {
			t.Fatal(err)
		}
		if again, _, err := h.cleanPath(u.Path, u.RawPath); err != nil || again != p {
			t.Fatalf("href of %q leads to %q, %v", p, again, err)
		}
	})
}

// TestPrefixAncestors: the collections above the prefix can be walked through,
// and nothing else of them exists.
func TestPrefixAncestors(t *testing.T) {
	s := newServer(t, "/a b/dav/files")
	s.url = "http://" + s.host
	for target, want := range map[string]string{
		"/":           "<D:href>/a%20b/</D:href>",
		"/a%20b":      "<D:href>/a%20b/dav/</D:href>",
		"/a%20b/dav/": "<D:href>/a%20b/dav/files/</D:href>",
	} {
		got := s.want(207, "PROPFIND", target, "", "Depth: 1")
		if !strings.Contains(got.body, want) || strings.Count(got.body, "<D:collection/>") != 2 {
			t.Errorf("PROPFIND %s lacks %s\n%s", target, want, got.body)
		}
		got = s.want(207, "PROPFIND", target, `<propfind xmlns="DAV:"><prop><resourcetype/><getetag/></prop></propfind>`, "Depth: 0")
		if strings.Count(got.body, "<D:response>") != 1 {
			t.Errorf("PROPFIND %s with Depth 0:\n%s", target, got.body)
		}
		s.want(403, "PROPFIND", target, "", "Depth: infinity")
		s.want(200, "HEAD", target, "")
		s.want(200, "GET", target, "")
		for _, method := range []string{"PUT", "DELETE", "MKCOL", "MOVE", "PROPPATCH", "LOCK"} {
			s.want(404, method, target, "")
		}
	}
	for _, target := range []string{"/other", "/a%20b/davx", "/a%20b/dav/filesx", "/a"} {
		s.want(404, "PROPFIND", target, "", "Depth: 0")
		s.want(404, "GET", target, "")
	}
}

// TestHostilePaths sends what no client library would, byte by byte.
func TestHostilePaths(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/secret", "s3cret")
	for target, want := range map[string]string{
		"/public/../secret":                 "200",
		"/%2e%2e/%2e%2e/secret":             "200",
		"/..%2f..%2fetc%2fpasswd":           "400",
		"/a%00b":                            "400",
		"/%ff%fe":                           "400",
		"/secret%2f":                        "400",
		"/..%5c..%5csecret":                 "404",
		"//secret":                          "200",
		"/secret/../../../secret/./":        "200",
		"/missing/../../etc/passwd":         "404",
		"http://other.example/x/..//secret": "200",
	} {
		got := s.raw("GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+want+" ") {
			t.Errorf("GET %s: %.40q, want %s", target, got, want)
		}
	}
}

func TestMethods(t *testing.T) {
	for _, prefix := range []string{"", "/dav"} {
		s := newServer(t, prefix)
		s.want(201, "PUT", "/f", "x")
		for method, code := range map[string]int{
			"POST": 405, "PATCH": 405, "TRACE": 405, "SEARCH": 501, "REPORT": 501, "propfind": 501, "BREW": 501, "get": 501,
		} {
			got := s.do(method, "/f", "", "X-HTTP-Method-Override: DELETE")
			if got.code != code || got.header.Get("Allow") == "" {
				t.Errorf("%s = %d %v, want %d", method, got.code, got.header, code)
			}
		}
		s.want(200, "GET", "/f", "")
		for _, target := range []string{"/", "/f", "/missing", "/a/b"} {
			got := s.want(200, "OPTIONS", target, "")
			if got.header.Get("Dav") != "1, 2, 3" || got.header.Get("Ms-Author-Via") != "DAV" || !strings.Contains(got.header.Get("Allow"), "PROPPATCH") {
				t.Errorf("OPTIONS %s: %v", target, got.header)
			}
		}
	}
	s := newServer(t, "/dav")
	got := s.raw("OPTIONS / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "MS-Author-Via") && !strings.Contains(got, "Ms-Author-Via") {
		t.Errorf("OPTIONS outside the prefix: %q", got)
	}
}

func TestMkcolStatuses(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "x")
	s.want(201, "MKCOL", "/d", "")
	for _, tc := range []struct {
		target, body string
		chunked      bool
		code         int
	}{
		{"/", "", false, 405},
		{"/d", "", false, 405},
		{"/f", "", false, 405},
		{"/f/x", "", false, 409},
		{"/missing/x", "", false, 409},
		{"/e", "<x/>", false, 415},
		{"/e", "<x/>", true, 415},
		{"/e", "", true, 201},
	} {
		r, err := http.NewRequest("MKCOL", s.url+tc.target, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		if tc.chunked {
			r.Body, r.ContentLength = http.NoBody, -1
			if tc.body != "" {
				r.Body = struct{ bodyReader }{bodyReader{strings.NewReader(tc.body)}}
			}
			r.TransferEncoding = []string{"chunked"}
		}
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.code {
			t.Errorf("MKCOL %s, body %q, chunked %v = %d, want %d", tc.target, tc.body, tc.chunked, resp.StatusCode, tc.code)
		}
	}
}

type bodyReader struct{ *strings.Reader }

func (bodyReader) Close() error { return nil }

func TestDeleteStatuses(t *testing.T) {
	s := newServer(t, "")
	s.make("/d", "tree", "x")
	s.want(403, "DELETE", "/", "")
	s.want(404, "DELETE", "/missing", "")
	s.want(404, "DELETE", "/missing/x", "")
	s.want(404, "DELETE", "/d/f/x", "")
	s.want(400, "DELETE", "/d", "", "Depth: 0")
	s.want(412, "DELETE", "/d", "", `If-Match: "x"`)
	s.want(204, "DELETE", "/d/", "", "Depth: Infinity")
	s.want(404, "DELETE", "/d", "")
	if got := s.tree("/"); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestXMLBodyLimit: a body beyond the limit is refused before it is all read.
func TestXMLBodyLimit(t *testing.T) {
	s := newServer(t, "")
	pad := strings.Repeat(" ", DefaultMaxXMLBody)
	for method, body := range map[string]string{
		"PROPFIND":  `<propfind xmlns="DAV:">` + pad + `<allprop/></propfind>`,
		"PROPPATCH": `<propertyupdate xmlns="DAV:">` + pad + `<set><prop><x xmlns="u:"/></prop></set></propertyupdate>`,
		"LOCK":      `<lockinfo xmlns="DAV:">` + pad + `<lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`,
	} {
		target := "/" + method
		s.want(201, "PUT", target, "x")
		if got := s.do(method, target, body, "Depth: 0"); got.code != 413 {
			t.Errorf("%s with %d bytes = %d, want 413", method, len(body), got.code)
		}
		if got := s.do(method, target, strings.Replace(body, pad, "", 1), "Depth: 0"); got.code >= 300 {
			t.Errorf("%s without padding = %d", method, got.code)
		}
	}
}

// TestSymlinks: links are what they point to inside the tree, and nothing
// otherwise.
func TestSymlinks(t *testing.T) {
	s := newServer(t, "")
	s.make("/d", "tree", "x")
	link := func(name, target string) {
		if _, err := s.store.Create(context.Background(), store.RootIno, name, store.NewNode{Mode: store.ModeSymlink | 0o777, Target: target}); err != nil {
			t.Fatal(err)
		}
	}
	link("file", "d/f")
	link("dir", "./d")
	link("chain", "dir/x-sub/../f")
	link("up", "d/../d/f")
	link("dangling", "nothing")
	link("absolute", "/d/f")
	link("escape", "../../etc/passwd")
	link("loop", "loop")
	link("ping", "pong")
	link("pong", "ping")
	link("root", ".")
	for target, code := range map[string]int{
		"/file": 200, "/dir": 200, "/dir/f": 200, "/dir/x-sub/f": 200, "/chain": 200, "/up": 200, "/root/d/f": 200, "/root/root/file": 200,
		"/dangling": 404, "/absolute": 404, "/escape": 404, "/escape/x": 404, "/loop": 404, "/ping": 404, "/ping/x": 404, "/file/x": 404,
	} {
		if got := s.do("GET", target, ""); got.code != code {
			t.Errorf("GET %s = %d, want %d", target, got.code, code)
		}
		if got := s.do("PROPFIND", target, "", "Depth: 0"); got.code != code && got.code != code+7 {
			t.Errorf("PROPFIND %s = %d, want %d", target, got.code, code)
		}
	}
	listing := s.want(200, "GET", "/", "").body
	for name, shown := range map[string]bool{"file": true, "dir/": true, "dangling": false, "absolute": false, "escape": false, "loop": false} {
		if strings.Contains(listing, ">"+name+"</a>") != shown {
			t.Errorf("listing shows %s: want %v\n%s", name, shown, listing)
		}
	}

	s.want(204, "PUT", "/file", "through the link")
	s.want(201, "PUT", "/dir/new", "below a link")
	s.want(403, "PUT", "/dangling", "x")
	s.want(403, "PUT", "/escape", "x")
	if got := s.content("/d/f"); got != "through the link" {
		t.Errorf("/d/f = %q", got)
	}
	if got := s.content("/d/new"); got != "below a link" {
		t.Errorf("/d/new = %q", got)
	}

	token := s.lock("/d/f")
	s.want(423, "PUT", "/file", "the lock is on what the link points to")
	s.want(423, "PUT", "/dir/f", "x")
	s.want(204, "PUT", "/dir/f", "x", "If: (<"+token+">)")
	s.want(204, "UNLOCK", "/d/f", "", "Lock-Token: <"+token+">")

	s.want(403, "COPY", "/d", "", "Destination: /dir/inside")
	s.want(403, "MOVE", "/d", "", "Destination: /root/d")
	s.want(204, "DELETE", "/file", "")
	s.want(200, "GET", "/d/f", "")
	s.want(201, "MOVE", "/dir", "", "Destination: /renamed")
	s.want(200, "GET", "/renamed/f", "")
}

func TestLinkTarget(t *testing.T) {
	for _, tc := range []struct {
		dir, target, want string
		ok                bool
	}{
		{"/", "a", "a", true},
		{"/", ".", "", true},
		{"/", ".hidden", ".hidden", true},
		{"/", "..", "", false},
		{"/", "..a", "..a", true},
		{"/a/b", "../c", "a/c", true},
		{"/a/b", "../..", "", true},
		{"/a/b", "../../../c", "", false},
		{"/a", "/a/b", "", false},
	} {
		got, ok := linkTarget(tc.dir, tc.target)
		if got != tc.want && ok || ok != tc.ok {
			t.Errorf("linkTarget(%q, %q) = %q, %v; want %q, %v", tc.dir, tc.target, got, ok, tc.want, tc.ok)
		}
	}
}

func TestPaths(t *testing.T) {
	if !isAncestor("/", "/a") || isAncestor("/", "/") || !isAncestor("/a", "/a/b") || isAncestor("/a", "/ab") || isAncestor("/a", "/a") {
		t.Error("isAncestor")
	}
	for p, want := range map[string]string{"/": "/", "/a": "/", "/a/b": "/a"} {
		if got := parentOf(p); got != want {
			t.Errorf("parentOf(%q) = %q, want %q", p, got, want)
		}
	}
	h := New(Options{Prefix: "/a b/"})
	for p, want := range map[string]string{"/": "/a%20b/", "/x": "/a%20b/x", "/ä;,=@:$&'(+)": "/a%20b/%C3%A4%3B%2C%3D%40%3A%24%26%27%28%2B%29"} {
		if got := h.href(p, false); got != want {
			t.Errorf("href(%q) = %q, want %q", p, got, want)
		}
	}
	if got := h.href("/x", true); got != "/a%20b/x/" {
		t.Errorf("href of a collection: %q", got)
	}
}

func TestResponse(t *testing.T) {
	var _ interface{ Unwrap() http.ResponseWriter } = &response{}
	if err := error(&statusError{err: store.ErrName}); !errors.Is(err, store.ErrName) {
		t.Errorf("%v is not its cause", err)
	}
	for _, tc := range []struct {
		e    *statusError
		want string
	}{
		{&statusError{code: 404}, "Not Found"},
		{&statusError{code: 423, condition: "lock-token-submitted"}, "lock-token-submitted"},
		{&statusError{code: 404, err: store.ErrName}, store.ErrName.Error()},
	} {
		if got := tc.e.Error(); got != tc.want {
			t.Errorf("Error() = %q, want %q", got, tc.want)
		}
	}
}

// TestNoGoroutineLeaks: requests that ended badly leave nothing running.
func TestNoGoroutineLeaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("requests", func(t *testing.T) {
		for _, cause := range []string{"panic", "goexit"} {
			s := newServer(t, "")
			s.want(201, "PUT", "/f", "x")
			if err := s.store.ArmFault(context.Background(), "/f", "upload:write", cause); err != nil {
				t.Fatal(err)
			}
			s.try("PUT", "/f", strings.NewReader(strings.Repeat("x", 1<<20)))
			s.want(204, "PUT", "/f", "y")
		}
	})
	goleak.VerifyNone(t, before)
}

package webdav

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// TestHostileMoves is trace T11: moves and copies that would destroy a tree are
// refused and leave both ends as they were.
func TestHostileMoves(t *testing.T) {
	for _, prefix := range []string{"", "/dav"} {
		s := newServer(t, prefix)
		for _, dir := range []string{"/a", "/a/b", "/a/b/c", "/other", "/full"} {
			s.want(201, "MKCOL", dir, "")
		}
		for _, file := range []string{"/a/f", "/a/b/f", "/a/b/c/f", "/other/f", "/full/f"} {
			s.want(201, "PUT", file, file)
		}
		before := s.tree("/")
		tests := []struct {
			name, src, dst string
			code           int
			headers        []string
		}{
			{"MissingSource", "/missing", "/other/f", 404, nil},
			{"MissingSourceInMissing", "/missing/x", "/other/f", 404, nil},
			{"SourceBelowFile", "/a/f/x", "/other/f", 404, nil},
			{"OntoParent", "/a/b", "/a", 403, nil},
			{"OntoGrandparent", "/a/b/c", "/a", 403, nil},
			{"FileOntoParent", "/a/f", "/a", 403, nil},
			{"OntoRoot", "/a", "/", 403, nil},
			{"Root", "/", "/other/x", 403, nil},
			{"Itself", "/a", "/a", 403, nil},
			{"ItselfSlash", "/a/", "/a", 403, nil},
			{"SlashItself", "/a", "/a/", 403, nil},
			{"ItselfDots", "/a", "/other/../a", 403, nil},
			{"ItselfEncodedDots", "/a/b", "/a/%2e%2e/a/b/", 403, nil},
			{"ItselfDoubleSlash", "/a", "//a//", 403, nil},
			{"FileItself", "/a/f", "/a/./f", 403, nil},
			{"IntoItself", "/a", "/a/b/x", 403, nil},
			{"IntoItselfDeep", "/a", "/a/b/c", 403, nil},
			{"MissingParent", "/a", "/missing/x", 409, nil},
			{"BelowFile", "/a", "/other/f/x", 409, nil},
			{"NoOverwriteFile", "/a/f", "/other/f", 412, []string{"Overwrite: F"}},
			{"NoOverwriteTree", "/a", "/full", 412, []string{"Overwrite: F"}},
			{"NoOverwriteTreeByFile", "/a/f", "/full", 412, []string{"overwrite: f"}},
			{"BadOverwrite", "/a", "/full", 400, []string{"Overwrite: yes"}},
			{"DepthOne", "/a", "/full", 400, []string{"Depth: 1"}},
			{"IfMatch", "/a/f", "/other/f", 412, []string{`If-Match: "x"`}},
		}
		for _, method := range []string{"MOVE", "COPY"} {
			for _, tc := range tests {
				t.Run(method+tc.name+prefix, func(t *testing.T) {
					s.t = t
					s.want(tc.code, method, tc.src, "", append(tc.headers, "Destination: "+s.url+tc.dst)...)
					if after := s.tree("/"); !maps.Equal(before, after) {
						t.Fatalf("the tree has changed:\n%v\n%v", before, after)
					}
				})
			}
		}
	}
}

func TestDestination(t *testing.T) {
	s := newServer(t, "/dav")
	s.want(201, "PUT", "/f", "text")
	for _, tc := range []struct {
		destination string
		code        int
	}{
		{"/dav/g", 204},
		{"http://" + s.host + "/dav/g", 204},
		{"https://" + s.host + "/dav/g", 204}, // a proxy ends TLS
		{"http://elsewhere.example/dav/g", 502},
		{"http://" + s.host + "/davg", 502},
		{"http://" + s.host + "/g", 502},
		{"/", 502},
		{"/dav/../secret", 502},
		{"dav/g", 400},
		{"mailto:someone", 400},
		{"http://[bad/dav/g", 400},
		{"/dav/%zz", 400},
		{"/dav/a%2fb", 400},
		{"/dav/a%00b", 400},
		{"/dav/%ff", 400},
		{"", 400},
	} {
		s.do("PUT", "/g", "old")
		if got := s.do("COPY", "/f", "", "Destination: "+tc.destination); got.code != tc.code {
			t.Errorf("COPY to %q = %d, want %d", tc.destination, got.code, tc.code)
		}
	}
	s.want(400, "COPY", "/f", "")
}

func TestSameHost(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"h", "h", true},
		{"H", "h", true},
		{"h:80", "h", true},
		{"h:443", "h", true},
		{"h:", "h", true},
		{"h:8080", "h", false},
		{"h:8080", "h:8080", true},
		{"h", "g", false},
		{"[::1]:443", "[::1]", true},
		{"[::1]:8080", "[::1]", false},
	} {
		if got := sameHost(tc.a, tc.b); got != tc.want {
			t.Errorf("sameHost(%q, %q) = %v, want %v", tc.a, tc.b, got, tc.want)
		}
	}
}

// TestReplaceByMove: the target is whatever it was, and what replaces it is
// whole.
func TestReplaceByMove(t *testing.T) {
	for _, method := range []string{"MOVE", "COPY"} {
		for _, src := range []string{"file", "tree"} {
			for _, dst := range []string{"file", "tree", "nothing"} {
				t.Run(fmt.Sprintf("%s/%s/%s", method, src, dst), func(t *testing.T) {
					s := newServer(t, "")
					s.make("/src", src, "new")
					s.make("/dst", dst, "old")
					want := map[string]string{}
					for p, text := range s.tree("/") {
						rest, ok := strings.CutPrefix(p, "/src")
						if !ok {
							continue
						}
						want["/dst"+rest] = text
						if method == "COPY" {
							want[p] = text
						}
					}
					code := 204
					if dst == "nothing" {
						code = 201
					}
					s.want(code, method, "/src", "", "Destination: /dst")
					if got := s.tree("/"); !maps.Equal(got, want) {
						t.Errorf("tree is\n%v, want\n%v", got, want)
					}
				})
			}
		}
	}
}

// make creates a file, a tree or nothing.
func (s *server) make(p, kind, text string) {
	s.t.Helper()
	switch kind {
	case "file":
		s.want(201, "PUT", p, text)
	case "tree":
		s.want(201, "MKCOL", p, "")
		s.want(201, "MKCOL", p+"/"+text+"-sub", "")
		s.want(201, "PUT", p+"/"+text+"-sub/f", text)
		s.want(201, "PUT", p+"/f", text)
	}
}

func TestCopyShallow(t *testing.T) {
	s := newServer(t, "")
	s.make("/src", "tree", "x")
	s.want(201, "COPY", "/src", "", "Destination: /dst", "Depth: 0")
	if got := s.tree("/dst"); len(got) != 0 {
		t.Errorf("COPY with Depth 0 copied members: %v", got)
	}
	s.want(400, "MOVE", "/src", "", "Destination: /dst2", "Depth: 0")
}

func TestCopyKeepsPropertiesAndTime(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "x", "X-OC-Mtime: 1600000000")
	s.want(207, "PROPPATCH", "/f", `<propertyupdate xmlns="DAV:"><set><prop><color xmlns="u:">red</color></prop></set></propertyupdate>`)
	s.want(201, "COPY", "/f", "", "Destination: /g")
	s.want(201, "MOVE", "/g", "", "Destination: /h")
	got := s.want(207, "PROPFIND", "/h", "", "Depth: 0")
	for _, want := range []string{">red<", "Sun, 13 Sep 2020 12:26:40 GMT"} {
		if !contains(got.body, want) {
			t.Errorf("PROPFIND of the copy lacks %q\n%s", want, got.body)
		}
	}
	a := s.want(201, "COPY", "/f", "", "Destination: /i", "X-OC-Mtime: 1700000000")
	if a.header.Get("X-OC-Mtime") != "accepted" {
		t.Errorf("X-OC-Mtime: %q", a.header.Get("X-OC-Mtime"))
	}
	if got := s.want(200, "HEAD", "/i", "").header.Get("Last-Modified"); got != "Tue, 14 Nov 2023 22:13:20 GMT" {
		t.Errorf("Last-Modified %q", got)
	}
}

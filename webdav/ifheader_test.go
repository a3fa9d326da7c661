package webdav

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"engramfs/store"
)

func TestParseIfLine(t *testing.T) {
	tok := func(s string) ifCondition { return ifCondition{token: s} }
	etag := func(s string) ifCondition { return ifCondition{etag: s} }
	not := func(c ifCondition) ifCondition { c.not = true; return c }
	list := func(c ...ifCondition) ifList { return ifList{conds: c} }
	tagged := func(tag string, c ...ifCondition) ifList { return ifList{tagged: true, path: tag, conds: c} }
	for _, tc := range []struct {
		in   string
		want []ifList // nil: malformed
	}{
		{"(<urn:a>)", []ifList{list(tok("urn:a"))}},
		{`(["e"])`, []ifList{list(etag(`"e"`))}},
		{`([W/"e"])`, []ifList{list(etag(`W/"e"`))}},
		{`(["]"])`, []ifList{list(etag(`"]"`))}},
		{"([unquoted])", []ifList{list(etag("unquoted"))}},
		{"(Not <urn:a>)", []ifList{list(not(tok("urn:a")))}},
		{"(not<urn:a>)", []ifList{list(not(tok("urn:a")))}},
		{`(<urn:a> ["e"]) (Not <DAV:no-lock>)`, []ifList{list(tok("urn:a"), etag(`"e"`)), list(not(tok("DAV:no-lock")))}},
		{"(<urn:a>)(<urn:b>)", []ifList{list(tok("urn:a")), list(tok("urn:b"))}},
		{" \t( <urn:a>\t) ", []ifList{list(tok("urn:a"))}},
		{"<http://h/f> (<urn:a>) (<urn:b>) </g> (<urn:c>)", []ifList{
			tagged("http://h/f", tok("urn:a")), tagged("http://h/f", tok("urn:b")), tagged("/g", tok("urn:c"))}},
		{"", nil},
		{"   ", nil},
		{"()", nil},
		{"(", nil},
		{"(<urn:a>", nil},
		{"(<urn:a)", nil},
		{"(<>)", nil},
		{"([])", nil},
		{`(["e"`, nil},
		{"(Not)", nil},
		{"(Not Not <urn:a>)", nil},
		{"(urn:a)", nil},
		{"<urn:a>", nil},
		{"<http://h/f>", nil},
		{"</f> </g> (<urn:a>)", nil},
		{"(<urn:a>) </f>", nil},
		{"(<urn:a>) x", nil},
		{")", nil},
	} {
		got, ok := parseIfLine(tc.in)
		if ok != (tc.want != nil) || ok && !reflect.DeepEqual(got, tc.want) {
			t.Errorf("parseIfLine(%q) = %+v, %v; want %+v", tc.in, got, ok, tc.want)
		}
	}
}

func TestParseIfHeaderTags(t *testing.T) {
	h := New(Options{Prefix: "/dav"})
	for _, tc := range []struct {
		tag     string
		path    string
		foreign bool
	}{
		{"/dav/f", "/f", false},
		{"http://h/dav/f", "/f", false},
		{"http://other.example:8443/dav/f", "/f", false},
		{"/dav/%C3%A4%20b.txt", "/ä b.txt", false},
		{"/dav/a/../f/", "/f", false},
		{"/dav", "/", false},
		{"/davx/f", "", true},
		{"/f", "", true},
		{"/dav/a%2fb", "", true},
		{"urn:uuid:1", "", true},
		{"http://[x/dav/f", "", true},
	} {
		f, err := h.parseIfHeader(&http.Request{Header: http.Header{"If": {"<" + tc.tag + "> (<urn:a>)"}}})
		if err != nil {
			t.Errorf("%q: %v", tc.tag, err)
			continue
		}
		if l := f.lists[0]; l.path != tc.path || l.foreign != tc.foreign {
			t.Errorf("tag %q: %q, foreign %v; want %q, %v", tc.tag, l.path, l.foreign, tc.path, tc.foreign)
		}
	}
	f, err := h.parseIfHeader(&http.Request{Header: http.Header{"If": {"</dav/f> (<urn:a>)", "(<urn:b>)"}}})
	if err != nil || len(f.lists) != 2 || f.lists[1].tagged {
		t.Errorf("a tag of one line reaches into the next: %+v, %v", f, err)
	}
	if got := f.tokens(); !slices.Equal(got, []string{"urn:a", "urn:b"}) {
		t.Errorf("submitted tokens %q of %+v", got, f)
	}
}

// FuzzParseIfLine: the parser ends, never panics, and what it took apart means
// the same when it is put together again.
func FuzzParseIfLine(f *testing.F) {
	for _, s := range []string{"(<urn:a>)", `</f> (Not ["e"] <urn:b>) (<c>)`, `([W/"]"])`, "(Not", "<<>>(("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		lists, ok := parseIfLine(s)
		if !ok {
			return
		}
		again, ok := parseIfLine(renderIf(lists))
		if !ok || !reflect.DeepEqual(lists, again) {
			t.Fatalf("%q: %+v, then %+v", s, lists, again)
		}
	})
}

func renderIf(lists []ifList) string {
	var b strings.Builder
	tag := ""
	for _, l := range lists {
		if l.tagged && l.path != tag {
			fmt.Fprintf(&b, "<%s> ", l.path)
			tag = l.path
		}
		b.WriteByte('(')
		for _, c := range l.conds {
			if c.not {
				b.WriteString("Not ")
			}
			if c.token != "" {
				fmt.Fprintf(&b, "<%s> ", c.token)
			} else {
				fmt.Fprintf(&b, "[%s] ", c.etag)
			}
		}
		b.WriteString(") ")
	}
	return b.String()
}

// TestIfHeader evaluates whole headers against a locked and an unlocked file.
func TestIfHeader(t *testing.T) {
	s := newServer(t, "")
	etag := s.want(201, "PUT", "/locked", "x").header.Get("Etag")
	freeTag := s.want(201, "PUT", "/free", "x").header.Get("Etag")
	token := s.lock("/locked")
	r := strings.NewReplacer("T", "<"+token+">", "E", "["+etag+"]", "F", "["+freeTag+"]", "N", "<DAV:no-lock>", "X", `["x"]`, "!", "Not ")
	for _, tc := range []struct {
		method, target, header string
		code                   int
	}{
		{"PUT", "/locked", "(T)", 204},
		{"PUT", "/locked", "(!N)", 423},
		{"PUT", "/locked", "(N)", 412},
		{"PUT", "/locked", "(N) (T)", 204},
		{"PUT", "/locked", "(T X)", 412},
		{"PUT", "/locked", "(T !X)", 204},
		{"PUT", "/locked", "(T X) (!N)", 204}, // submitted, though its list is false
		{"PUT", "/locked", "(!T)", 412},
		{"PUT", "/locked", "</free> (T)", 412},
		{"PUT", "/locked", "</free> (F) </locked> (T)", 204},
		{"PUT", "/free", "(F)", 204},
		{"PUT", "/free", "(T)", 412},
		{"PUT", "/free", "(X)", 412},
		{"PUT", "/free", "(!X)", 204},
		{"PUT", "/free", "(!N)", 204},
		{"PUT", "/free", "</locked> (T)", 204},
		{"PUT", "/free", "</locked> (!T)", 412},
		{"PUT", "/free", "<http://other.example/locked> (T)", 204},
		{"PUT", "/new", "(X)", 412},
		{"PUT", "/new", "(!X !T)", 201},
		{"GET", "/free", "(X)", 412},
		{"GET", "/locked", "(T)", 200},
		{"GET", "/free", "(<", 400},
		{"PROPFIND", "/free", "(X)", 412},
		{"MKCOL", "/col", "(X)", 412},
		{"DELETE", "/free", "(X)", 412},
	} {
		header := r.Replace(tc.header)
		if got := s.do(tc.method, tc.target, "", "If: "+header, "Depth: 0"); got.code != tc.code {
			t.Errorf("%s %s If: %s = %d, want %d", tc.method, tc.target, tc.header, got.code, tc.code)
		}
		etag = s.want(200, "HEAD", "/locked", "").header.Get("Etag")
		freeTag = s.want(200, "HEAD", "/free", "").header.Get("Etag")
		r = strings.NewReplacer("T", "<"+token+">", "E", "["+etag+"]", "F", "["+freeTag+"]", "N", "<DAV:no-lock>", "X", `["x"]`, "!", "Not ")
	}
}

// TestIfETagAtCommit: an entity tag in an If header is asked again under the
// change's locks.
func TestIfETagAtCommit(t *testing.T) {
	h := New(Options{})
	old := &store.Attr{Ino: 2, Gen: 1, Version: 1, Mode: store.ModeRegular}
	now := &store.Attr{Ino: 2, Gen: 1, Version: 2, Mode: store.ModeRegular}
	r := &request{Request: &http.Request{Header: http.Header{"If": {"([" + old.ETag() + "])"}}}, path: "/f"}
	var err error
	if r.ifs, err = h.parseIfHeader(r.Request); err != nil {
		t.Fatal(err)
	}
	r.ifs.lists[0].tokensOK, r.ifs.lists[0].held = true, true // as confirm found it
	cond := h.writeCond(r)
	if err := cond(old); err != nil {
		t.Errorf("unchanged file: %v", err)
	}
	if err := cond(now); err == nil {
		t.Error("changed file passes")
	}
	if err := cond(nil); err == nil {
		t.Error("removed file passes")
	}
	// A list whose token did not match stays false, whatever its tag says now.
	r.Header.Set("If", "(<urn:other> ["+now.ETag()+"]) (["+old.ETag()+"])")
	if r.ifs, err = h.parseIfHeader(r.Request); err != nil {
		t.Fatal(err)
	}
	r.ifs.lists[1].tokensOK, r.ifs.lists[1].held = true, true
	cond = h.writeCond(r)
	if err := cond(old); err != nil {
		t.Errorf("unchanged file: %v", err)
	}
	if err := cond(now); err == nil {
		t.Error("a list without its token passes")
	}
}

// TestIfOfTwoResources: a header that holds for one of its two resources is true,
// and one that held for both at the start, and for none under the change's locks, is not.
func TestIfOfTwoResources(t *testing.T) {
	h := New(Options{})
	attr := func(version uint64) *store.Attr {
		return &store.Attr{Ino: 2, Gen: 1, Version: version, Mode: store.ModeRegular}
	}
	header := "</src> ([" + attr(1).ETag() + "]) </dst> ([" + attr(2).ETag() + "])"
	for _, c := range []struct {
		src, dst uint64
		want     bool
	}{{1, 2, true}, {9, 2, true}, {1, 9, true}, {9, 9, false}} {
		r := &request{Request: &http.Request{Header: http.Header{"If": {header}}}, path: "/src"}
		var err error
		if r.ifs, err = h.parseIfHeader(r.Request); err != nil {
			t.Fatal(err)
		}
		for i := range r.ifs.lists {
			r.ifs.lists[i].tokensOK, r.ifs.lists[i].held = true, true // as confirm found it
		}
		got := h.writeCond(r)(attr(c.src)) == nil && ifCond(r, "/dst")(attr(c.dst)) == nil
		if got != c.want {
			t.Errorf("source version %d, destination version %d: %v, want %v", c.src, c.dst, got, c.want)
		}
	}
}

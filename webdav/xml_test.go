package webdav

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// innerOf returns the content of the root's first child.
func innerOf(doc string) (string, error) {
	p := newXMLParser(strings.NewReader(doc))
	if _, err := p.root(); err != nil {
		return "", err
	}
	if _, _, err := p.child(); err != nil {
		return "", err
	}
	b, err := p.inner()
	if err == nil {
		err = p.skip()
	}
	if err == nil {
		err = p.finish()
	}
	return string(b), err
}

func TestXMLInnerStandsOnItsOwn(t *testing.T) {
	tests := []struct{ name, doc, want string }{
		{"Text", `<a><b>x &lt; y &amp; z</b></a>`, `x &lt; y &amp; z`},
		{"Empty", `<a><b/></a>`, ``},
		{"EmptyElement", `<a><b><c></c></b></a>`, `<c/>`},
		{"SpaceKept", "<a><b> x\n<c/> </b></a>", " x\n<c/> "},
		{"CDATA", `<a><b><![CDATA[<i>&]]></b></a>`, `&lt;i&gt;&amp;`},
		{"CarriageReturn", `<a><b>&#13;</b></a>`, `&#13;`},
		{"CommentsDropped", `<a><b>x<!-- c --><?pi d?>y</b></a>`, `xy`},
		{"PrefixFromAbove", `<a xmlns:n="urn:n"><b><n:c n:d="1"><n:e/></n:c></b></a>`, `<n:c n:d="1" xmlns:n="urn:n"><n:e/></n:c>`},
		{"DefaultFromAbove", `<a xmlns="urn:n"><b><c><d/></c><e/></b></a>`, `<c xmlns="urn:n"><d/></c><e xmlns="urn:n"/>`},
		{"DeclaredInside", `<a xmlns:n="urn:n"><b><n:c xmlns:n="urn:m"/><n:d/></b></a>`, `<n:c xmlns:n="urn:m"/><n:d xmlns:n="urn:n"/>`},
		{"NoNamespaceInsideDefault", `<a xmlns="urn:n"><b><c xmlns=""><d/></c></b></a>`, `<c xmlns=""><d/></c>`},
		{"AttributePrefix", `<a xmlns:n="urn:n"><b><c n:d="&quot;&#10;"/></b></a>`, `<c n:d="&#34;&#10;" xmlns:n="urn:n"/>`},
		{"XMLPrefix", `<a><b><c xml:lang="de"/></b></a>`, `<c xml:lang="de"/>`},
		{"HighUnicode", "<a><b>\U00010000</b></a>", "\U00010000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := innerOf(tt.doc)
			if err != nil || got != tt.want {
				t.Errorf("inner(%s) = %q, %v, want %q", tt.doc, got, err, tt.want)
			}
			again, err := innerOf("<r><v>" + got + "</v></r>")
			if err != nil || again != got {
				t.Errorf("inner of its own output = %q, %v, want %q", again, err, got)
			}
		})
	}
}

func TestXMLRefused(t *testing.T) {
	tests := []struct{ name, doc string }{
		{"Empty root only text", `x`},
		{"Unclosed", `<a><b>`},
		{"Crossed", `<a><b></a></b>`},
		{"EndWithoutStart", `</a>`},
		{"TwoRoots", `<a><b/></a><c/>`},
		{"TextAfterRoot", `<a><b/></a>x`},
		{"UndeclaredPrefix", `<a><n:b/></a>`},
		{"UndeclaredAttributePrefix", `<a><b n:c="1"/></a>`},
		{"PrefixUndeclared", `<a xmlns:n=""><b/></a>`},
		{"XMLRebound", `<a xmlns:xml="urn:x"><b/></a>`},
		{"XMLNamespaceRebound", `<a xmlns:n="http://www.w3.org/XML/1998/namespace"><b/></a>`},
		{"XMLNSDeclared", `<a xmlns:xmlns="urn:x"><b/></a>`},
		{"AttributeTwice", `<a c="1" c="2"><b/></a>`},
		{"Doctype", `<!DOCTYPE a SYSTEM "http://evil/"><a><b/></a>`},
		{"Entity", `<a><b>&e;</b></a>`},
		{"TwoColons", `<a xmlns:n="urn:n"><n:b:c/></a>`},
		{"UTF16", "\xff\xfe<\x00a\x00"},
		{"Latin1", `<?xml version="1.0" encoding="iso-8859-1"?><a><b/></a>`},
		{"NotUTF8", "<a><b>\xff</b></a>"},
		{"Control", "<a><b>\x01</b></a>"},
		{"TooDeep", strings.Repeat("<a>", maxXMLDepth+1) + strings.Repeat("</a>", maxXMLDepth+1)},
		{"TooManyAttributes", "<a " + manyAttrs(maxXMLAttrs+1) + "><b/></a>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := innerOf(tt.doc); !errors.Is(err, errXML) {
				t.Errorf("inner = %q, %v, want errXML", got, err)
			}
		})
	}
	if _, err := innerOf(" \n"); !errors.Is(err, errNoXML) {
		t.Errorf("blank body: %v, want errNoXML", err)
	}
}

func manyAttrs(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("a" + strings.Repeat("x", i) + `="" `)
	}
	return b.String()
}

func TestXMLDepthLimitHoldsAtItsEdge(t *testing.T) {
	doc := strings.Repeat("<a>", maxXMLDepth) + strings.Repeat("</a>", maxXMLDepth)
	if _, err := innerOf(doc); err != nil {
		t.Errorf("%d open elements: %v", maxXMLDepth, err)
	}
}

func TestAppendXMLEscaped(t *testing.T) {
	tests := []struct{ in, text, attr string }{
		{"plain", "plain", "plain"},
		{`<a href="x">&'`, `&lt;a href="x"&gt;&amp;'`, `&lt;a href=&#34;x&#34;&gt;&amp;'`},
		{"a\tb\nc\rd", "a\tb\nc&#13;d", "a&#9;b&#10;c&#13;d"},
		{"\x00\x1f\xff\ufffe", "\ufffd\ufffd\ufffd\ufffd", "\ufffd\ufffd\ufffd\ufffd"},
		{"ä€\U0001F600", "ä€\U0001F600", "ä€\U0001F600"},
	}
	for _, tt := range tests {
		if got := string(appendText(nil, tt.in)); got != tt.text {
			t.Errorf("appendText(%q) = %q, want %q", tt.in, got, tt.text)
		}
		if got := string(appendAttr(nil, tt.in)); got != tt.attr {
			t.Errorf("appendAttr(%q) = %q, want %q", tt.in, got, tt.attr)
		}
	}
}

// wellFormed checks a document with the standard library's parser.
func wellFormed(doc []byte) error {
	d := xml.NewDecoder(bytes.NewReader(doc))
	for {
		if _, err := d.Token(); err != nil {
			if err.Error() == "EOF" {
				return nil
			}
			return err
		}
	}
}

// FuzzXMLInner: whatever is accepted comes out as well-formed XML that stands on
// its own and comes out the same when it is read again.
func FuzzXMLInner(f *testing.F) {
	for _, s := range []string{
		`<a><b>x</b></a>`, `<a xmlns:n="urn:n"><b><n:c n:d="1"/></b></a>`, `<a xmlns="u"><b><c xmlns=""/></b></a>`,
		`<a><b><![CDATA[x]]></b></a>`, `<a xmlns:n=""><b/></a>`, `<a><b xml:lang="x"><c/></b></a>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		got, err := innerOf(doc)
		if err != nil {
			return
		}
		wrapped := "<r><v>" + got + "</v></r>"
		if err := wellFormed([]byte(wrapped)); err != nil {
			t.Fatalf("inner(%q) = %q is not well-formed: %v", doc, got, err)
		}
		again, err := innerOf(wrapped)
		if err != nil || again != got {
			t.Fatalf("inner(%q) = %q, and of that %q, %v", doc, got, again, err)
		}
	})
}

// FuzzRequestBodies: no body panics a parser, and each parser's answer is an
// error of its own or something it can act on.
func FuzzRequestBodies(f *testing.F) {
	for _, s := range []string{
		``, namedProps, lockBody("exclusive"),
		`<D:propfind xmlns:D="DAV:"><D:allprop/><D:include><D:x/></D:include></D:propfind>`,
		`<D:propfind xmlns:D="DAV:"><D:propname/></D:propfind>`,
		`<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><x xmlns="u">v</x></D:prop></D:set><D:remove><D:prop><D:y/></D:prop></D:remove></D:propertyupdate>`,
		`<D:lockinfo xmlns:D="DAV:"><D:locktype><D:write/></D:locktype><D:lockscope><D:shared/></D:lockscope><D:owner><D:href>x</D:href></D:owner></D:lockinfo>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		ok := func(err error) bool {
			return err == nil || errors.Is(err, errXML) || errors.Is(err, errNoXML)
		}
		q, err := parsePropfind(newXMLParser(strings.NewReader(body)))
		if !ok(err) || err == nil && q == nil {
			t.Fatalf("parsePropfind(%q) = %v", body, err)
		}
		ops, err := parsePropertyUpdate(newXMLParser(strings.NewReader(body)))
		if !ok(err) || err == nil && len(ops) == 0 {
			t.Fatalf("parsePropertyUpdate(%q) = %d, %v", body, len(ops), err)
		}
		for _, op := range ops {
			if err := wellFormed(appendDead([]byte{}, op.deadProp)); err != nil {
				t.Fatalf("property %+v of %q: %v", op, body, err)
			}
		}
		if _, err := parseLockInfo(newXMLParser(strings.NewReader(body))); !ok(err) {
			t.Fatalf("parseLockInfo(%q) = %v", body, err)
		}
	})
}

func TestDeadPropertyAttrNames(t *testing.T) {
	long := strings.Repeat("n", 300)
	tests := []struct {
		name xml.Name
		want string
	}{
		{xml.Name{Space: "http://example.com/ns", Local: "color"}, "user.dav.{http://example.com/ns}color"},
		{xml.Name{Local: "bare"}, "user.dav.{}bare"},
		{xml.Name{Space: "a}b%c d?\x7f", Local: "ä"}, "user.dav.{a%7Db%25c%20d%3F%7F}ä"},
		{xml.Name{Space: long, Local: "x"}, "user.dav.#"},
	}
	for _, tt := range tests {
		p := deadProp{name: tt.name, lang: "de", value: []byte("<v/>")}
		attr, value := encodeDead(p)
		if attr != tt.want && !(strings.HasSuffix(tt.want, "#") && strings.HasPrefix(attr, tt.want)) {
			t.Errorf("attribute of %q = %q, want %q", tt.name, attr, tt.want)
		}
		got, ok := decodeDead(attr, value)
		if !ok || got.name != p.name || got.lang != p.lang || string(got.value) != string(p.value) {
			t.Errorf("decodeDead(%q, %q) = %+v, %v, want %+v", attr, value, got, ok, p)
		}
	}
}

func TestOtherAttributesAreNoDeadProperties(t *testing.T) {
	hashed, value := encodeDead(deadProp{name: xml.Name{Space: strings.Repeat("n", 300), Local: "x"}})
	tests := []struct{ attr, value string }{
		{"user.other", "x"},
		{"user.dav.", "x"},
		{"user.dav.color", "x"},
		{"user.dav.{ns", "x"},
		{"user.dav.{ns}", "x"},
		{"user.dav.{ns}not a name", "x"},
		{"user.dav.{ns}%61", "x"},  // another spelling of {ns}a
		{"user.dav.{n%7}a", "x"},   // broken escape
		{"user.dav.{n%00}a", "x"},  // XML cannot hold it
		{"user.dav.{n\xff}a", "x"}, // neither this
		{hashed, "no name"},
		{hashed[:len(hashed)-1] + "!", string(value)},
	}
	for _, tt := range tests {
		if p, ok := decodeDead(tt.attr, []byte(tt.value)); ok {
			t.Errorf("decodeDead(%q) = %+v, want none", tt.attr, p)
		}
	}
}

func TestDeadPropertyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		valid := func(s string) bool { return isXMLText(s) }
		p := deadProp{
			name: xml.Name{
				Space: rapid.String().Filter(valid).Draw(t, "space"),
				Local: rapid.StringMatching(`[A-Za-z_ä][A-Za-z0-9._ä-]{0,300}`).Draw(t, "local"),
			},
			lang:  rapid.StringMatching(`[a-z?> -]{0,8}`).Draw(t, "lang"),
			value: appendText(nil, rapid.String().Draw(t, "value")),
		}
		attr, value := encodeDead(p)
		if len(attr) > 255 {
			t.Fatalf("attribute name of %d bytes", len(attr))
		}
		got, ok := decodeDead(attr, value)
		if !ok || got.name != p.name || got.lang != p.lang || !bytes.Equal(got.value, p.value) {
			t.Fatalf("decodeDead(encodeDead(%+v)) = %+v, %v", p, got, ok)
		}
	})
}

// FuzzDeadAttr: any attribute that counts as a dead property is the only one
// that can hold it, and shows as well-formed XML whatever its value is.
func FuzzDeadAttr(f *testing.F) {
	f.Add("user.dav.{ns}a", []byte("v"))
	f.Add("user.dav.{a%20b}ä", []byte("<?lang de?><x>"))
	f.Add("user.dav.#00", []byte("<?name {}a?>v"))
	f.Add("user.dav.{}a", []byte("<a xmlns:n=''/>&amp;"))
	f.Fuzz(func(t *testing.T, attr string, value []byte) {
		p, ok := decodeDead(attr, value)
		if !ok {
			return
		}
		if again, _ := encodeDead(p); again != attr {
			t.Fatalf("property %q is in %q and in %q", p.name, attr, again)
		}
		doc := append([]byte(`<D:prop xmlns:D="DAV:">`), appendDead(nil, p)...)
		doc = append(doc, "</D:prop>"...)
		if err := wellFormed(doc); err != nil || !utf8.Valid(doc) {
			t.Fatalf("attribute %q = %q shows as %q: %v", attr, value, doc, err)
		}
	})
}

// TestXMLBindingsAreBounded: each name is looked up in all declarations in scope.
func TestXMLBindingsAreBounded(t *testing.T) {
	doc := func(n int) string {
		var b strings.Builder
		b.WriteString("<a><b>")
		for i := range n {
			if i%32 == 0 {
				b.WriteString("<c")
			}
			fmt.Fprintf(&b, ` xmlns:n%d="urn:%d"`, i, i)
			if i%32 == 31 || i == n-1 {
				b.WriteString(">")
			}
		}
		b.WriteString("<n0:x/>")
		b.WriteString(strings.Repeat("</c>", (n+31)/32))
		b.WriteString("</b></a>")
		return b.String()
	}
	if _, err := innerOf(doc(maxXMLBound)); err != nil {
		t.Errorf("%d declarations: %v", maxXMLBound, err)
	}
	if _, err := innerOf(doc(maxXMLBound + 1)); !errors.Is(err, errXML) {
		t.Errorf("%d declarations: %v, want errXML", maxXMLBound+1, err)
	}
}

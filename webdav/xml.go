package webdav

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Limits on the XML of a request. Its size is limited by the dispatch.
const (
	maxXMLDepth = 64  // open elements
	maxXMLAttrs = 256 // attributes of one element
	maxXMLBound = 256 // namespace declarations in scope: each name is looked up in them
)

const (
	davNS   = "DAV:"
	xmlNS   = "http://www.w3.org/XML/1998/namespace"
	xmlnsNS = "http://www.w3.org/2000/xmlns/"
)

// errXML is wrapped around every fault in a request's XML (400).
var errXML = errors.New("malformed XML body")

// errNoXML is returned by xmlParser.root for an empty body, which PROPFIND and
// LOCK give a meaning.
var errNoXML = errors.New("empty XML body")

// xmlElement is an open element with its namespace resolved.
type xmlElement struct {
	Name xml.Name
	Lang string // xml:lang in scope
	raw  xml.Name
	attr []xml.Attr // as sent: Name.Space is the prefix
	mark int        // len(xmlParser.bound) before the element's own declarations
}

// xmlBinding is a namespace declaration in scope; prefix "" is the default.
type xmlBinding struct{ prefix, uri string }

// xmlParser reads the elements of a request body one after the other, never
// recursively and never with more than maxXMLDepth open. Unlike a plain
// encoding/xml.Decoder it is strict about namespaces: an undeclared prefix, the
// undeclaring of one (xmlns:x="", not allowed in Namespaces in XML 1.0 section
// 2.2) and document type declarations are errors.
//
// The caller holds at most one element at a time: root opens the first, child
// the next inside it, and skip, text or inner read it to its end.
type xmlParser struct {
	dec   *xml.Decoder
	open  []xmlElement
	bound []xmlBinding
}

func newXMLParser(r io.Reader) *xmlParser {
	return &xmlParser{dec: xml.NewDecoder(r)}
}

// bad returns an errXML with the position.
func (p *xmlParser) bad(format string, args ...any) error {
	line, _ := p.dec.InputPos()
	return fmt.Errorf("%w: line %d: %s", errXML, line, fmt.Sprintf(format, args...))
}

// next returns the next xml.StartElement, xml.EndElement or xml.CharData;
// comments and processing instructions are dropped. io.EOF comes only outside
// the root element.
func (p *xmlParser) next() (xml.Token, error) {
	for {
		tok, err := p.dec.RawToken()
		if errors.Is(err, io.EOF) && len(p.open) > 0 {
			return nil, p.bad("unexpected end")
		}
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errXML, err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			return tok, p.push(tok)
		case xml.EndElement:
			return tok, p.pop(tok.Name)
		case xml.CharData:
			return tok, nil
		case xml.Directive:
			return nil, p.bad("document type declarations are not accepted")
		}
	}
}

// push opens an element.
func (p *xmlParser) push(s xml.StartElement) error {
	if len(p.open) >= maxXMLDepth {
		return p.bad("elements are nested deeper than %d", maxXMLDepth)
	}
	if len(s.Attr) > maxXMLAttrs {
		return p.bad("element with more than %d attributes", maxXMLAttrs)
	}
	e := xmlElement{raw: s.Name, attr: s.Attr, mark: len(p.bound)}
	if len(p.open) > 0 {
		e.Lang = p.top().Lang
	}
	for i, a := range s.Attr {
		for _, b := range s.Attr[:i] {
			if a.Name == b.Name {
				return p.bad("attribute %s twice", a.Name.Local)
			}
		}
		if a.Name == (xml.Name{Space: "xml", Local: "lang"}) {
			e.Lang = a.Value
		}
		if err := p.declare(a); err != nil {
			return err
		}
	}
	if len(p.bound) > maxXMLBound {
		return p.bad("more than %d namespace declarations in scope", maxXMLBound)
	}
	for _, a := range s.Attr {
		if _, err := p.resolve(a.Name, false); err != nil {
			return err
		}
	}
	var err error
	e.Name, err = p.resolve(s.Name, true)
	p.open = append(p.open, e)
	return err
}

// declare adds a to the bindings when it is a namespace declaration.
func (p *xmlParser) declare(a xml.Attr) error {
	switch {
	case a.Name == xml.Name{Local: "xmlns"}:
		p.bound = append(p.bound, xmlBinding{"", a.Value})
	case a.Name.Space != "xmlns":
	case a.Value == "":
		return p.bad("prefix %q is bound to no namespace", a.Name.Local)
	case (a.Name.Local == "xml") != (a.Value == xmlNS), a.Name.Local == "xmlns", a.Value == xmlnsNS:
		return p.bad("prefix %q is bound to %q", a.Name.Local, a.Value)
	default:
		p.bound = append(p.bound, xmlBinding{a.Name.Local, a.Value})
	}
	return nil
}

// resolve translates a prefixed name. The default namespace applies to
// elements only.
func (p *xmlParser) resolve(n xml.Name, element bool) (xml.Name, error) {
	if !isNCName(n.Local) {
		return n, p.bad("invalid name %q", n.Local)
	}
	switch {
	case n.Space == "xml":
		return xml.Name{Space: xmlNS, Local: n.Local}, nil
	case n.Space == "xmlns" && !element, n.Space == "" && !element:
		return n, nil
	}
	if uri, ok := lookupBinding(p.bound, n.Space); ok {
		return xml.Name{Space: uri, Local: n.Local}, nil
	}
	if n.Space == "" {
		return n, nil
	}
	return n, p.bad("prefix %q is not declared", n.Space)
}

// lookupBinding returns what prefix means, innermost declaration first.
func lookupBinding(bound []xmlBinding, prefix string) (uri string, ok bool) {
	for i := len(bound) - 1; i >= 0; i-- {
		if bound[i].prefix == prefix {
			return bound[i].uri, true
		}
	}
	return "", false
}

// pop closes the innermost element, which must have been opened as raw.
func (p *xmlParser) pop(raw xml.Name) error {
	if len(p.open) == 0 || p.top().raw != raw {
		return p.bad("unexpected </%s>", raw.Local)
	}
	p.bound = p.bound[:p.top().mark]
	p.open = p.open[:len(p.open)-1]
	return nil
}

func (p *xmlParser) top() *xmlElement { return &p.open[len(p.open)-1] }

// root opens the root element, or returns errNoXML when there is none.
func (p *xmlParser) root() (xmlElement, error) {
	for {
		tok, err := p.next()
		if errors.Is(err, io.EOF) {
			return xmlElement{}, errNoXML
		}
		if err != nil {
			return xmlElement{}, err
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			return *p.top(), nil
		case xml.CharData:
			if !isXMLSpace(tok) {
				return xmlElement{}, p.bad("text outside the root element")
			}
		}
	}
}

// finish checks that nothing follows the closed root element.
func (p *xmlParser) finish() error {
	_, err := p.root()
	if errors.Is(err, errNoXML) {
		return nil
	}
	if err == nil {
		err = p.bad("more than one root element")
	}
	return err
}

// child opens the next element inside the innermost one. It reports false
// after closing the innermost element instead.
func (p *xmlParser) child() (xmlElement, bool, error) {
	for {
		tok, err := p.next()
		if err != nil {
			return xmlElement{}, false, err
		}
		switch tok.(type) {
		case xml.StartElement:
			return *p.top(), true, nil
		case xml.EndElement:
			return xmlElement{}, false, nil
		}
	}
}

// skip reads the innermost element to its end.
func (p *xmlParser) skip() error {
	for depth := len(p.open); len(p.open) >= depth; {
		if _, err := p.next(); err != nil {
			return err
		}
	}
	return nil
}

// inner reads the innermost element to its end and returns its content as XML
// that stands on its own: every prefix is declared where it is first needed, text
// is escaped, comments and processing instructions are gone (RFC 4918 section 4.3).
func (p *xmlParser) inner() ([]byte, error) {
	b := []byte{}
	var declared []xmlBinding // in scope within what was written
	var marks []int           // len(declared) before each open element
	depth := len(p.open)
	for {
		tok, err := p.next()
		if err != nil {
			return nil, err
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			marks = append(marks, len(declared))
			b, declared = p.appendStart(b, tok, declared)
		case xml.EndElement:
			if len(p.open) < depth {
				return b, nil
			}
			declared = declared[:marks[len(marks)-1]]
			marks = marks[:len(marks)-1]
			if b[len(b)-1] == openTag {
				b = append(b[:len(b)-1], "/>"...)
				continue
			}
			b = append(b, '<', '/')
			b = appendRawName(b, tok.Name)
			b = append(b, '>')
		case xml.CharData:
			if len(tok) > 0 {
				b = appendText(closeTag(b), string(tok))
			}
		}
	}
}

// openTag stands for the '>' of a start tag whose element may yet turn out to be
// empty. It is no character of XML, so it cannot come from the request.
const openTag = 0

func closeTag(b []byte) []byte {
	if len(b) > 0 && b[len(b)-1] == openTag {
		b[len(b)-1] = '>'
	}
	return b
}

// appendStart appends a start tag with the declarations that declared lacks.
func (p *xmlParser) appendStart(b []byte, s xml.StartElement, declared []xmlBinding) ([]byte, []xmlBinding) {
	b = append(closeTag(b), '<')
	b = appendRawName(b, s.Name)
	for _, a := range s.Attr {
		if a.Name.Space == "xmlns" {
			declared = append(declared, xmlBinding{a.Name.Local, a.Value})
		} else if a.Name == (xml.Name{Local: "xmlns"}) {
			declared = append(declared, xmlBinding{"", a.Value})
		}
		b = append(b, ' ')
		b = appendRawName(b, a.Name)
		b = append(b, '=', '"')
		b = appendAttr(b, a.Value)
		b = append(b, '"')
	}
	need := func(prefix string) {
		uri, _ := lookupBinding(p.bound, prefix)
		if have, _ := lookupBinding(declared, prefix); have == uri {
			return
		}
		declared = append(declared, xmlBinding{prefix, uri})
		b = append(b, " xmlns"...)
		if prefix != "" {
			b = append(b, ':')
			b = append(b, prefix...)
		}
		b = append(b, '=', '"')
		b = appendAttr(b, uri)
		b = append(b, '"')
	}
	need(s.Name.Space)
	for _, a := range s.Attr {
		if a.Name.Space != "" && a.Name.Space != "xmlns" {
			need(a.Name.Space)
		}
	}
	return append(b, openTag), declared
}

func appendRawName(b []byte, n xml.Name) []byte {
	if n.Space != "" {
		b = append(b, n.Space...)
		b = append(b, ':')
	}
	return append(b, n.Local...)
}

// appendText appends s as character data. What XML cannot hold becomes U+FFFD.
func appendText(b []byte, s string) []byte { return appendXMLEscaped(b, s, false) }

// appendAttr appends s as an attribute value in double quotes.
func appendAttr(b []byte, s string) []byte { return appendXMLEscaped(b, s, true) }

func appendXMLEscaped(b []byte, s string, attr bool) []byte {
	plain := 0 // s[plain:i] needs no escape
	for i := 0; i < len(s); {
		c := s[i]
		size := 1
		esc := ""
		switch {
		case c == '<':
			esc = "&lt;"
		case c == '>':
			esc = "&gt;"
		case c == '&':
			esc = "&amp;"
		case c == '\r':
			esc = "&#13;"
		case attr && c == '"':
			esc = "&#34;"
		case attr && c == '\n':
			esc = "&#10;"
		case attr && c == '\t':
			esc = "&#9;"
		case c == '\n', c == '\t', c >= ' ' && c < utf8.RuneSelf:
		default:
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r == utf8.RuneError && size == 1 || !isXMLChar(r) {
				esc = "\uFFFD"
			}
		}
		if esc != "" {
			b = append(b, s[plain:i]...)
			b = append(b, esc...)
			plain = i + size
		}
		i += size
	}
	return append(b, s[plain:]...)
}

// isXMLChar is the production Char of XML 1.0 section 2.2.
func isXMLChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xD7FF ||
		r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 && r <= utf8.MaxRune
}

func isXMLSpace(b []byte) bool {
	for _, c := range b {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return false
		}
	}
	return true
}

// isNCName reports whether s is a name without a colon (Namespaces in XML 1.0,
// production NCName).
func isNCName(s string) bool {
	for i, r := range s {
		if !isNameStart(r) && (i == 0 || !isNameRest(r)) {
			return false
		}
	}
	return s != ""
}

func isNameStart(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '_':
		return true
	case r < 0xC0, r == 0xD7, r == 0xF7, r == utf8.RuneError:
		return false
	}
	return r <= 0x2FF || r >= 0x370 && r <= 0x1FFF && r != 0x37E || r == 0x200C || r == 0x200D ||
		r >= 0x2070 && r <= 0x218F || r >= 0x2C00 && r <= 0x2FEF || r >= 0x3001 && r <= 0xD7FF ||
		r >= 0xF900 && r <= 0xFDCF || r >= 0xFDF0 && r < 0xFFFD || r >= 0x10000 && r <= 0xEFFFF
}

func isNameRest(r rune) bool {
	return r >= '0' && r <= '9' || r == '-' || r == '.' || r == 0xB7 ||
		r >= 0x300 && r <= 0x36F || r == 0x203F || r == 0x2040
}

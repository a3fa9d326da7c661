package webdav

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"engramfs/store"
)

// A dead property is an extended attribute, so that both doors see it and it
// follows its inode through MOVE, COPY and hard links. The attribute's name is
//
//	user.dav.{namespace}local
//
// with control characters, space, '%', '?' and '}' percent-encoded; its value is the
// property's content as XML that stands on its own. A name that would pass the
// limit of an attribute's name is "user.dav.#" and the SHA-256 of the above, and
// the value then begins with the processing instruction <?name {namespace}local?>.
// A value in a language begins with <?lang en?>. What a property contains
// never has processing instructions, so that these cannot be mistaken.
const (
	deadPrefix       = "user.dav."
	deadHashedPrefix = deadPrefix + "#"
	deadNamePI       = "<?name "
	deadLangPI       = "<?lang "
	endPI            = "?>"
)

// deadProp is one dead property.
type deadProp struct {
	name  xml.Name
	lang  string // xml:lang, "" for none
	value []byte // content as XML that stands on its own
}

// deadAttrName returns the name of the extended attribute that holds the dead
// property n, and whether that is a hash of it.
func deadAttrName(n xml.Name) (attr string, hashed bool) {
	long := string(appendClark([]byte(deadPrefix), n))
	if len(long) <= store.MaxXattrName {
		return long, false
	}
	sum := sha256.Sum256([]byte(long[len(deadPrefix):]))
	return deadHashedPrefix + hex.EncodeToString(sum[:]), true
}

// appendClark appends {namespace}local, escaped.
func appendClark(b []byte, n xml.Name) []byte {
	b = append(b, '{')
	b = appendAttrEscaped(b, n.Space)
	b = append(b, '}')
	return appendAttrEscaped(b, n.Local)
}

func appendAttrEscaped(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ', c == 0x7f, c == '%', c == '}', c == '?':
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

// parseClark reads what appendClark wrote. It takes other spellings of the
// escapes too; decodeDead refuses those.
func parseClark(s string) (n xml.Name, ok bool) {
	rest, ok := strings.CutPrefix(s, "{")
	if !ok {
		return n, false
	}
	space, local, ok := strings.Cut(rest, "}")
	if !ok {
		return n, false
	}
	var okSpace, okLocal bool
	n.Space, okSpace = unescapeAttr(space)
	n.Local, okLocal = unescapeAttr(local)
	return n, okSpace && okLocal && isNCName(n.Local) && isXMLText(n.Space)
}

func unescapeAttr(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b = append(b, c[0])
		i += 2
	}
	return string(b), true
}

// isXMLText reports whether XML can hold s.
func isXMLText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !isXMLChar(r) })
}

// encodeDead returns the extended attribute of p.
func encodeDead(p deadProp) (attr string, value []byte) {
	attr, hashed := deadAttrName(p.name)
	value = []byte{}
	if hashed {
		value = append(value, deadNamePI...)
		value = appendClark(value, p.name)
		value = append(value, endPI...)
	}
	if p.lang != "" {
		value = append(value, deadLangPI...)
		value = appendAttrEscaped(value, p.lang)
		value = append(value, endPI...)
	}
	return attr, append(value, p.value...)
}

// decodeDead returns the dead property that an extended attribute holds; ok is
// false for every other attribute. The value may be anything that a program
// wrote through the mount.
func decodeDead(attr string, value []byte) (p deadProp, ok bool) {
	clark, ok := strings.CutPrefix(attr, deadPrefix)
	if !ok {
		return p, false
	}
	if strings.HasPrefix(clark, "#") {
		if clark, value, ok = cutPI(value, deadNamePI); !ok {
			return p, false
		}
	}
	if p.name, ok = parseClark(clark); !ok {
		return p, false
	}
	if want, _ := deadAttrName(p.name); want != attr {
		return p, false // another spelling would be a second attribute for one property
	}
	if lang, rest, ok := cutPI(value, deadLangPI); ok {
		p.lang, _ = unescapeAttr(lang)
		value = rest
	}
	p.value = value
	return p, true
}

// cutPI splits a processing instruction off value.
func cutPI(value []byte, pi string) (text string, rest []byte, ok bool) {
	rest, ok = bytes.CutPrefix(value, []byte(pi))
	if !ok {
		return "", value, false
	}
	t, rest, ok := bytes.Cut(rest, []byte(endPI))
	if !ok {
		return "", value, false
	}
	return string(t), rest, true
}

// appendDead appends the property as an element.
func appendDead(b []byte, p deadProp) []byte {
	b = append(b, '<')
	b = appendPropTag(b, p.name)
	b = appendPropNS(b, p.name)
	if p.lang != "" {
		b = append(b, ` xml:lang="`...)
		b = appendAttr(b, p.lang)
		b = append(b, '"')
	}
	if len(p.value) == 0 {
		return append(b, "/>"...)
	}
	b = append(b, '>')
	b = appendFragment(b, p.value)
	b = append(b, "</"...)
	b = appendPropTag(b, p.name)
	return append(b, '>')
}

// appendFragment appends value as XML, or as text when it is not well-formed: a
// program may have set it through the mount, and nothing may cut a listing.
func appendFragment(b, value []byte) []byte {
	if bytes.IndexByte(value, '<') < 0 && bytes.IndexByte(value, '&') < 0 {
		return appendText(b, string(value))
	}
	doc := make([]byte, 0, len(value)+len("<v></v>"))
	doc = append(append(append(doc, "<v>"...), value...), "</v>"...)
	p := newXMLParser(bytes.NewReader(doc))
	if _, err := p.root(); err == nil {
		inner, err := p.inner()
		if err == nil && p.finish() == nil {
			return append(b, inner...)
		}
	}
	return appendText(b, string(value))
}

// appendPropName appends the property's empty element.
func appendPropName(b []byte, n xml.Name) []byte {
	b = append(b, '<')
	b = appendPropTag(b, n)
	b = appendPropNS(b, n)
	return append(b, "/>"...)
}

// appendPropTag appends the property's qualified name. Windows ignores
// elements in a default namespace, so every namespace has a prefix.
func appendPropTag(b []byte, n xml.Name) []byte {
	switch n.Space {
	case "":
	case davNS:
		b = append(b, "D:"...)
	case xmlNS:
		b = append(b, "xml:"...)
	default:
		b = append(b, "p:"...)
	}
	return append(b, n.Local...)
}

// appendPropNS appends the declaration that appendPropTag's prefix needs.
func appendPropNS(b []byte, n xml.Name) []byte {
	if n.Space == "" || n.Space == davNS || n.Space == xmlNS {
		return b
	}
	b = append(b, ` xmlns:p="`...)
	b = appendAttr(b, n.Space)
	return append(b, '"')
}

// sortedKeys returns the names of extended attributes in a stable order.
func sortedKeys(attrs map[string][]byte) []string {
	if len(attrs) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(attrs))
}

package webdav

import (
	"net/http"
	"net/url"
	"strings"
)

// ifHeader is a parsed If header (RFC 4918 section 10.4). It is true when one
// of its lists is true, or when there are none.
type ifHeader struct {
	lists []ifList
}

// ifList is true when all of its conditions are true for its resource.
type ifList struct {
	tagged  bool   // names a resource of its own; otherwise the request's
	foreign bool   // the tag names nothing of this tree: the list is false
	path    string // of a tagged list, cleaned, without prefix
	conds   []ifCondition

	// Set by evalIf, before the change. What the change's own locks cover is judged
	// again under them: see ifStillTrue.
	held     bool // all conditions
	tokensOK bool // the state tokens' conditions
}

// about returns the path that the list is about, in a request for the path own; ""
// if it names nothing of this tree.
func (l *ifList) about(own string) string {
	if l.tagged {
		return l.path
	}
	return own
}

// ifCondition is one state token or one entity tag.
type ifCondition struct {
	not   bool
	token string // "" when it is an entity tag
	etag  string // as sent, quotes included
}

// present reports whether the request carried an If header.
func (f *ifHeader) present() bool { return len(f.lists) > 0 }

// tokens returns the submitted tokens, each once, in the header's order. To appear
// anywhere in the header submits a token, whatever its list evaluates to (RFC 4918
// section 10.4.1).
func (f *ifHeader) tokens() []string {
	var all []string
	seen := map[string]bool{}
	for _, l := range f.lists {
		for _, c := range l.conds {
			if c.token != "" && !seen[c.token] {
				seen[c.token] = true
				all = append(all, c.token)
			}
		}
	}
	return all
}

// hasETags reports whether a condition depends on a resource's content.
func (f *ifHeader) hasETags() bool {
	for i := range f.lists {
		for j := range f.lists[i].conds {
			if f.lists[i].conds[j].token == "" {
				return true
			}
		}
	}
	return false
}

// parseIfHeader parses every If line of a request: Finder sends one per
// token, and together they mean what one line with all their lists would. A
// header that does not follow the grammar is a 400.
func (h *Handler) parseIfHeader(r *http.Request) (ifHeader, error) {
	var f ifHeader
	for _, line := range r.Header["If"] {
		lists, ok := parseIfLine(line)
		if !ok {
			return ifHeader{}, badRequest("malformed If header")
		}
		for i := range lists {
			if l := &lists[i]; l.tagged {
				l.path, l.foreign = h.tagPath(l.path)
			}
		}
		f.lists = append(f.lists, lists...)
	}
	return f, nil
}

// tagPath returns the path of the tree that a resource tag names. The tag is
// a URL or only its path (Cyberduck). Its host is not compared: behind a proxy
// it is one that this server never sees, and a condition about a path of this
// tree can harm nobody but its sender.
func (h *Handler) tagPath(tag string) (p string, foreign bool) {
	u, err := url.Parse(tag)
	if err != nil || u.Opaque != "" {
		return "", true
	}
	if p, _, err = h.cleanPath(u.Path, u.RawPath); err != nil {
		return "", true
	}
	return p, false
}

// parseIfLine parses one header line. The path of a tagged list is the tag as
// it was sent.
func parseIfLine(s string) (lists []ifList, ok bool) {
	var tag string
	var tagged, pending bool // pending: the tag has no list yet
	for s = skipSpace(s); s != ""; s = skipSpace(s) {
		switch s[0] {
		case '<':
			if pending {
				return nil, false
			}
			if tag, s, ok = cutBetween(s, '>'); !ok {
				return nil, false
			}
			tagged, pending = true, true
		case '(':
			var conds []ifCondition
			if conds, s, ok = parseIfList(s[1:]); !ok {
				return nil, false
			}
			lists = append(lists, ifList{tagged: tagged, path: tag, conds: conds})
			pending = false
		default:
			return nil, false
		}
	}
	return lists, len(lists) > 0 && !pending
}

// parseIfList parses the conditions behind "(" and the closing ")".
func parseIfList(s string) (conds []ifCondition, rest string, ok bool) {
	for {
		var c ifCondition
		s = skipSpace(s)
		if len(s) >= 3 && strings.EqualFold(s[:3], "not") {
			c.not = true
			s = skipSpace(s[3:])
		}
		if s == "" {
			return nil, "", false
		}
		switch {
		case s[0] == ')' && !c.not && len(conds) > 0:
			return conds, s[1:], true
		case s[0] == '<':
			c.token, s, ok = cutBetween(s, '>')
		case s[0] == '[':
			c.etag, s, ok = cutETag(s[1:])
		default:
			ok = false
		}
		if !ok {
			return nil, "", false
		}
		conds = append(conds, c)
	}
}

// cutBetween returns what is between the first byte of s and the byte end,
// which must not be nothing.
func cutBetween(s string, end byte) (in, rest string, ok bool) {
	i := strings.IndexByte(s, end)
	if i < 2 {
		return "", "", false
	}
	return s[1:i], s[i+1:], true
}

// cutETag returns the entity tag before "]", which may occur inside its
// quotes. A tag without quotes is let through: it matches nothing.
func cutETag(s string) (etag, rest string, ok bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ']' && !quoted:
			etag = strings.TrimSpace(s[:i])
			return etag, s[i+1:], etag != ""
		}
	}
	return "", "", false
}

func skipSpace(s string) string { return strings.TrimLeft(s, " \t\r\n") }

package webdav

import (
	"net/http"
	"strings"
	"time"

	"engramfs/store"
)

// noTag is the entity tag of a resource that has none: no header can have a NUL, so
// that nothing but "*" matches it.
const noTag = "\x00"

// tagOf returns the strong entity tag of a resource, "" for none. A file that a
// program has open for writing past the store has no validator at all: neither its
// version nor its mtime is sure to change with its bytes. The kernel takes mtime
// before it copies the bytes, from a clock that ticks some 100 times a second, and
// leaves it as it is when a page is stored to that is mapped and dirty already. So
// even a weak tag made of them could keep a stale copy valid.
func tagOf(cur *store.Attr) string {
	switch {
	case cur == nil:
		return ""
	case cur.Native:
		return noTag
	}
	return cur.ETag()
}

// writeCond returns the condition under which the request may change the
// resource that its path names, nil when the request has none. The store asks
// it again under the change's locks, so that of two clients with the same
// If-Match exactly one wins. confirm must have been called before.
func (h *Handler) writeCond(r *request) store.Cond {
	hd := r.Header
	if hd["If-Match"] == nil && hd["If-None-Match"] == nil && hd["If-Unmodified-Since"] == nil && !r.ifs.hasETags() {
		return nil
	}
	return func(cur *store.Attr) error {
		if !writeAllowed(hd, cur) || !r.ifStillTrue(r.path, cur) {
			return errPrecondition
		}
		return nil
	}
}

// ifCond is writeCond for the other resource that a request changes, of which only
// the If header speaks.
func ifCond(r *request, path string) store.Cond {
	if !r.ifs.hasETags() {
		return nil
	}
	return func(cur *store.Attr) error {
		if !r.ifStillTrue(path, cur) {
			return errPrecondition
		}
		return nil
	}
}

// precheck evaluates a condition before the change, which saves the client an
// upload. A resource behind a poisoned lock is left to the store: there the
// answer is 503, not what recovered data happens to say.
func (r *request) precheck(cond store.Cond, cur *store.Attr) error {
	if cond == nil || r.trace.Recovered() != nil {
		return nil
	}
	return cond(cur)
}

// writeAllowed evaluates If-Match, If-Unmodified-Since and If-None-Match for a
// change (RFC 9110 section 13.2.2); cur is nil when there is no resource.
func writeAllowed(hd http.Header, cur *store.Attr) bool {
	etag := tagOf(cur)
	if tags := parseTags(hd["If-Match"]); tags.present {
		if !tags.matches(etag, false) {
			return false
		}
	} else if since, ok := headerTime(hd["If-Unmodified-Since"]); ok && cur != nil && modifiedSince(cur, since) {
		return false
	}
	tags := parseTags(hd["If-None-Match"])
	return !tags.present || !tags.matches(etag, true)
}

// ifStillTrue evaluates again what the If header says of the content of one
// resource, and notes it: where two are asked about, the second is judged with what
// was found of the first. All else in it was judged by confirm, before the change.
func (r *request) ifStillTrue(path string, cur *store.Attr) bool {
	any := !r.ifs.present()
	for i := range r.ifs.lists {
		l := &r.ifs.lists[i]
		if about := l.about(r.path); about == path {
			l.held = l.tokensOK && l.etagsHold(tagOf(cur))
		}
		any = any || l.held
	}
	return any
}

// readStatus evaluates the conditional headers of GET and HEAD: 200 to go on,
// 304 or 412.
func readStatus(hd http.Header, a *store.Attr, etag string) int {
	if tags := parseTags(hd["If-Match"]); tags.present {
		if !tags.matches(etag, false) {
			return http.StatusPreconditionFailed
		}
	} else if since, ok := headerTime(hd["If-Unmodified-Since"]); ok && modifiedSince(a, since) {
		return http.StatusPreconditionFailed
	}
	if tags := parseTags(hd["If-None-Match"]); tags.present {
		if tags.matches(etag, true) {
			return http.StatusNotModified
		}
		return http.StatusOK
	}
	if since, ok := headerTime(hd["If-Modified-Since"]); ok && !modifiedSince(a, since) {
		return http.StatusNotModified
	}
	return http.StatusOK
}

// modifiedSince reports whether a resource may have another content than at a time
// in Unix seconds. See tagOf for what mtime does not tell.
func modifiedSince(a *store.Attr, since int64) bool {
	return a.Native || unixSeconds(a.Mtime) > since
}

// rangeAllowed evaluates If-Range: a Range header counts only while the
// representation is the one that the client has a part of. A date must match
// exactly (RFC 9110 section 13.1.5).
func rangeAllowed(hd http.Header, a *store.Attr, etag string) bool {
	v := hd["If-Range"]
	if len(v) == 0 {
		return true
	}
	if s := strings.TrimSpace(v[0]); strings.HasPrefix(s, `"`) {
		return s == etag
	}
	since, ok := headerTime(v)
	return ok && !a.Native && unixSeconds(a.Mtime) == since
}

// entityTags is the value of If-Match or If-None-Match.
type entityTags struct {
	present bool // has "*" or at least one valid tag
	any     bool // "*"
	tags    []string
}

// parseTags parses a list of entity tags. What is not one is skipped, and a
// header of nothing else counts as absent: clients send such things as cache
// busters on PUT (Joplin's "If-None-Match: JoplinIgnore-1").
func parseTags(lines []string) entityTags {
	var t entityTags
	for _, s := range lines {
		for s != "" {
			s = strings.TrimLeft(s, " \t,")
			tag, rest, ok := cutEntityTag(s)
			if ok {
				t.tags = append(t.tags, tag)
				s = rest
				continue
			}
			item, after, _ := strings.Cut(s, ",")
			if strings.TrimSpace(item) == "*" {
				t.any = true
			}
			s = after
		}
	}
	t.present = t.any || len(t.tags) > 0
	return t
}

// cutEntityTag cuts a valid entity tag, weak or strong, from the start of s.
func cutEntityTag(s string) (tag, rest string, ok bool) {
	start := 0
	if strings.HasPrefix(s, "W/") {
		start = 2
	}
	if len(s) < start+2 || s[start] != '"' {
		return "", "", false
	}
	for i := start + 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			rest = strings.TrimLeft(s[i+1:], " \t")
			return s[:i+1], rest, rest == "" || rest[0] == ','
		case c < 0x21 || c == 0x7f:
			return "", "", false
		}
	}
	return "", "", false
}

// matches reports whether the tags name a resource with this tag, as tagOf returns
// it; "" is no resource, which not even "*" names.
func (t *entityTags) matches(etag string, weak bool) bool {
	if etag == "" {
		return false
	}
	if t.any {
		return true
	}
	for _, tag := range t.tags {
		if weak {
			tag = strings.TrimPrefix(tag, "W/")
		}
		if tag == etag {
			return true
		}
	}
	return false
}

// headerTime parses a header with an HTTP date, in Unix seconds. A date that
// does not parse counts as absent.
func headerTime(v []string) (sec int64, ok bool) {
	if len(v) == 0 {
		return 0, false
	}
	// Old browsers append "; length=n".
	s, _, _ := strings.Cut(v[0], ";")
	t, err := http.ParseTime(s)
	return t.Unix(), err == nil
}

// unixSeconds cuts a time in nanoseconds to the precision of HTTP dates.
func unixSeconds(ns int64) int64 { return time.Unix(0, ns).Unix() }

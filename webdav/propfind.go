package webdav

import (
	"encoding/xml"
	"errors"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"engramfs/store"
)

// propfindKind is what a PROPFIND asks for.
type propfindKind uint8

const (
	propfindNamed propfindKind = iota // the values of the named properties
	propfindAll                       // the values of all that are worth showing, and of the named
	propfindNames                     // only which properties there are
)

// maxPropNames bounds the properties of one request.
const maxPropNames = 1024

// wantedProp is a property that the request names.
type wantedProp struct {
	name xml.Name
	live liveProp // notLive: a dead property
	attr string   // extended attribute of a dead property
}

// propfindQuery is the parsed body of a PROPFIND.
type propfindQuery struct {
	kind  propfindKind
	props []wantedProp
	dead  bool // a dead property is among props
	// minimal: properties that a resource does not have are left out instead
	// of reported with 404 (RFC 8144 section 2.1, and "Brief: t" of Microsoft).
	minimal bool
}

// parsePropfind parses a PROPFIND body (RFC 4918 section 14.20); an empty one
// means allprop.
func parsePropfind(p *xmlParser) (*propfindQuery, error) {
	root, err := p.root()
	if errors.Is(err, errNoXML) {
		return newPropfindQuery(propfindAll, nil), nil
	}
	if err != nil {
		return nil, err
	}
	if root.Name != (xml.Name{Space: davNS, Local: "propfind"}) {
		return nil, p.bad("root element is not DAV:propfind")
	}
	kinds, names, err := p.propfindBody()
	if err == nil {
		err = p.finish()
	}
	if err != nil {
		return nil, err
	}
	switch strings.Join(kinds, " ") {
	case "prop":
		return newPropfindQuery(propfindNamed, names), nil
	case "allprop", "allprop include":
		return newPropfindQuery(propfindAll, names), nil
	case "propname":
		return newPropfindQuery(propfindNames, nil), nil
	}
	return nil, p.bad("want one of prop, allprop and propname")
}

// propfindBody reads the children of a propfind element: which of the known ones
// there are, and the properties named inside them. Unknown ones are skipped
// (RFC 4918 section 17).
func (p *xmlParser) propfindBody() (kinds []string, names []xml.Name, err error) {
	for {
		e, ok, err := p.child()
		if err != nil || !ok {
			return kinds, names, err
		}
		kind := ""
		if e.Name.Space == davNS {
			kind = e.Name.Local
		}
		switch kind {
		case "prop", "include":
			kinds = append(kinds, kind)
			names, err = p.propNames(names)
		case "allprop", "propname":
			kinds = append(kinds, kind)
			err = p.skip()
		default:
			err = p.skip()
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// propNames reads the children of the innermost element as property names.
func (p *xmlParser) propNames(names []xml.Name) ([]xml.Name, error) {
	for {
		e, ok, err := p.child()
		if err != nil || !ok {
			return names, err
		}
		if len(names) >= maxPropNames {
			return nil, p.bad("more than %d properties", maxPropNames)
		}
		names = append(names, e.Name)
		if err := p.skip(); err != nil {
			return nil, err
		}
	}
}

// newPropfindQuery sorts names into live and dead properties; one that comes
// twice counts once.
func newPropfindQuery(kind propfindKind, names []xml.Name) *propfindQuery {
	q := &propfindQuery{kind: kind}
	if kind == propfindAll {
		for i, rule := range liveRules {
			if rule.allprop {
				q.props = append(q.props, wantedProp{name: rule.name, live: liveProp(i)})
			}
		}
	}
	seen := map[xml.Name]bool{}
	for _, w := range q.props {
		seen[w.name] = true
	}
	for _, n := range names {
		if seen[n] {
			continue
		}
		seen[n] = true
		w := wantedProp{name: n, live: livePropOf(n)}
		if w.live == notLive {
			if kind == propfindAll {
				continue // all dead properties come anyway
			}
			w.attr, _ = deadAttrName(n)
			q.dead = true
		}
		q.props = append(q.props, w)
	}
	return q
}

// propfind serves PROPFIND with Depth 0 and 1. The listing of a collection is
// streamed while the directory is read: neither its entries nor the answer are
// ever in memory as a whole. Depth infinity, also by default, is refused for a
// collection (RFC 4918 section 9.1.1).
func (h *Handler) propfind(w http.ResponseWriter, r *request) error {
	depth, ok := parseDepth(r.Header)
	if !ok {
		return badRequest("malformed Depth header")
	}
	q, err := parsePropfind(newXMLParser(r.Body))
	if err != nil {
		return xmlError(err)
	}
	q.minimal = wantsMinimal(r.Header)
	real, a, err := h.lookup(r.ctx, r.path)
	if err != nil {
		return noResource(err)
	}
	if a.IsDir() && depth == depthInfinity {
		return &statusError{code: http.StatusForbidden, condition: "propfind-finite-depth"}
	}
	m := newMultistatus(h, w, r)
	defer m.release()
	e := propEntry{attr: &a, real: real, recovered: m.isRecovered(a.Ino)}
	if r.path != "/" {
		e.name = path.Base(r.path)
	}
	m.begin()
	m.b = append(m.b, "<D:response><D:href>"...)
	m.b = h.appendHref(m.b, r.path, a.IsDir())
	m.entry(q, &e)
	if a.IsDir() && depth == 1 {
		if err := m.members(q, a.Ino, real); err != nil {
			return err
		}
	}
	return m.end()
}

// noResource turns the errors of a path whose parent is missing or no collection
// into that of a missing name: 409 is for methods that would create it.
func noResource(err error) error {
	if errors.Is(err, store.ErrParentNotExist) || errors.Is(err, store.ErrNotDir) {
		return fs.ErrNotExist
	}
	return err
}

// Depths of a request.
const depthInfinity = -1

// parseDepth reads the Depth header: 0, 1 or depthInfinity, which is also what
// its absence means.
func parseDepth(hd http.Header) (depth int, ok bool) {
	switch v := strings.TrimSpace(hd.Get("Depth")); {
	case v == "", strings.EqualFold(v, "infinity"):
		return depthInfinity, true
	case v == "0":
		return 0, true
	case v == "1":
		return 1, true
	}
	return 0, false
}

// wantsMinimal reports whether the client can do without the 404 of properties
// that a resource does not have.
func wantsMinimal(hd http.Header) bool {
	if strings.EqualFold(hd.Get("Brief"), "t") {
		return true
	}
	for _, line := range hd["Prefer"] {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), "return=minimal") {
				return true
			}
		}
	}
	return false
}

// xmlError gives a malformed body its status. A body that is too large, or that
// could not be read, keeps its own.
func xmlError(err error) error {
	var tooBig *http.MaxBytesError
	if errors.Is(err, errXML) && !errors.As(err, &tooBig) {
		return &statusError{code: http.StatusBadRequest, err: err}
	}
	return err
}

// flushAt is how much of an answer is gathered before it is written, and
// bufferSize what fits one more entry.
const (
	flushAt    = 32 << 10
	bufferSize = 40 << 10
	maxPooled  = 256 << 10 // larger buffers (huge dead properties) are not kept
)

// multistatus renders a 207 answer.
type multistatus struct {
	propRenderer
	w    http.ResponseWriter
	b    []byte
	sent bool  // a part was written
	err  error // of the client's connection or of the store, ends the answer

	base        []byte // escaped path of the collection
	miss, fault []int  // indexes of propfindQuery.props, per entry
	link        store.Attr
}

var multistatusPool = sync.Pool{New: func() any {
	return &multistatus{b: make([]byte, 0, bufferSize)}
}}

func newMultistatus(h *Handler, w http.ResponseWriter, r *request) *multistatus {
	m := multistatusPool.Get().(*multistatus)
	m.propRenderer.reset(h, r)
	m.w, m.b, m.sent, m.err = w, m.b[:0], false, nil
	return m
}

func (m *multistatus) release() {
	m.w, m.h, m.r = nil, nil, nil
	if cap(m.b) <= maxPooled {
		multistatusPool.Put(m)
	}
}

func (m *multistatus) begin() {
	m.b = append(m.b, xml.Header+`<D:multistatus xmlns:D="DAV:">`...)
}

// end completes the answer.
func (m *multistatus) end() error {
	m.b = append(m.b, "</D:multistatus>\n"...)
	if !m.sent {
		m.w.Header()["Content-Length"] = []string{strconv.Itoa(len(m.b))}
	}
	m.flush()
	return m.err
}

// flush writes what was gathered.
func (m *multistatus) flush() {
	if m.err != nil {
		return
	}
	if !m.sent {
		m.sent = true
		m.h.degraded(m.w, m.r)
		m.w.Header()["Content-Type"] = valXML
		m.w.WriteHeader(http.StatusMultiStatus)
	}
	_, m.err = m.w.Write(m.b)
	m.b = m.b[:0]
}

// members appends an entry for every member of the collection dir, whose path
// without links is real. A member that vanishes meanwhile is left out; any other
// error ends the answer, and what was not yet sent is replaced by its status.
func (m *multistatus) members(q *propfindQuery, dir store.Ino, real string) error {
	m.base = m.h.appendHref(m.base[:0], m.r.path, true)
	var e propEntry
	err := m.h.store.ReadDirPlus(m.r.ctx, dir, "", func(name string, a *store.Attr) bool {
		if !utf8.ValidString(name) {
			return true // made through the mount; no URL leads to it
		}
		e = propEntry{attr: a, name: name, dir: real}
		if a.IsSymlink() {
			var err error
			if e.real, m.link, err = m.h.lookup(m.r.ctx, path.Join(real, name)); err != nil {
				return true // it leads nowhere, or out of the store
			}
			e.attr = &m.link
		}
		e.recovered = m.isRecovered(e.attr.Ino)
		m.b = append(m.b, "<D:response><D:href>"...)
		m.b = append(m.b, m.base...)
		m.b = appendEscaped(m.b, name)
		if e.attr.IsDir() {
			m.b = append(m.b, '/')
		}
		m.entry(q, &e)
		if len(m.b) >= flushAt {
			m.flush()
		}
		return m.err == nil
	})
	if m.err != nil {
		return m.err
	}
	return err
}

// isRecovered reports whether the inode was read through its poisoned lock.
func (m *multistatus) isRecovered(ino store.Ino) bool {
	events := m.r.trace.Recovered()
	if len(events) == 0 {
		return false
	}
	lock := "inode:" + strconv.FormatUint(uint64(ino), 10)
	for _, ev := range events {
		if ev.Lock == lock {
			return true
		}
	}
	return false
}

// entry appends the rest of a response element, behind the text of its href.
func (m *multistatus) entry(q *propfindQuery, e *propEntry) {
	m.b = append(m.b, "</D:href>"...)
	switch q.kind {
	case propfindNames:
		m.names(e)
	default:
		m.values(q, e)
	}
	m.b = append(m.b, "</D:response>"...)
}

const (
	propstatOpen  = "<D:propstat><D:prop>"
	propstatOK    = "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>"
	propstat404   = "</D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>"
	propstat503   = "</D:prop><D:status>HTTP/1.1 503 Service Unavailable</D:status></D:propstat>"
	propstatNoOne = propstatOpen + propstatOK
)

// values appends the wanted properties, grouped by status.
func (m *multistatus) values(q *propfindQuery, e *propEntry) {
	start := len(m.b)
	m.b = append(m.b, propstatOpen...)
	open := len(m.b)
	m.miss, m.fault = m.miss[:0], m.fault[:0]
	var attrs map[string][]byte
	if e.attr.HasXattrs && (q.dead || q.kind == propfindAll) {
		attrs = m.xattrs(e)
	}
	for i := range q.props {
		res := propMissing
		if w := &q.props[i]; w.live != notLive {
			m.b, res = m.append(m.b, w.live, e)
		} else if p, ok := decodeDeadIn(attrs, w.attr); ok {
			m.b, res = appendDead(m.b, p), propFound
		}
		switch res {
		case propMissing:
			m.miss = append(m.miss, i)
		case propUnavailable:
			m.fault = append(m.fault, i)
		}
	}
	if q.kind == propfindAll {
		m.allDead(attrs)
	}
	if len(m.b) == open {
		m.b = m.b[:start]
	} else {
		m.b = append(m.b, propstatOK...)
	}
	if q.kind == propfindNamed && !q.minimal {
		m.without(q, m.miss, propstat404)
	}
	m.without(q, m.fault, propstat503)
	if len(m.b) == start {
		m.b = append(m.b, propstatNoOne...)
	}
}

// without appends a propstat of properties that have no value.
func (m *multistatus) without(q *propfindQuery, which []int, status string) {
	if len(which) == 0 {
		return
	}
	m.b = append(m.b, propstatOpen...)
	for _, i := range which {
		m.b = appendPropName(m.b, q.props[i].name)
	}
	m.b = append(m.b, status...)
}

// xattrs returns the extended attributes of an entry; one that has vanished
// meanwhile has none.
func (m *multistatus) xattrs(e *propEntry) map[string][]byte {
	attrs, err := m.h.store.Xattrs(m.r.ctx, e.attr.Ino)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && m.err == nil {
		m.err = err
	}
	return attrs
}

func decodeDeadIn(attrs map[string][]byte, attr string) (deadProp, bool) {
	value, ok := attrs[attr]
	if !ok {
		return deadProp{}, false
	}
	return decodeDead(attr, value)
}

// allDead appends every dead property, in the order of the attributes' names.
func (m *multistatus) allDead(attrs map[string][]byte) {
	for _, attr := range sortedKeys(attrs) {
		if p, ok := decodeDead(attr, attrs[attr]); ok {
			m.b = appendDead(m.b, p)
		}
	}
}

// names appends the names of the properties that the resource has.
func (m *multistatus) names(e *propEntry) {
	m.b = append(m.b, propstatOpen...)
	for i, rule := range liveRules {
		mark := len(m.b)
		var res propResult
		m.b, res = m.append(m.b, liveProp(i), e)
		m.b = m.b[:mark]
		if res != propMissing {
			m.b = appendPropName(m.b, rule.name)
		}
	}
	if e.attr.HasXattrs {
		attrs := m.xattrs(e)
		for _, attr := range sortedKeys(attrs) {
			if p, ok := decodeDead(attr, attrs[attr]); ok {
				m.b = appendPropName(m.b, p.name)
			}
		}
	}
	m.b = append(m.b, propstatOK...)
}

package webdav

import (
	"encoding/xml"
	"errors"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"engramfs/store"
)

// maxOwner bounds the owner element that a lock keeps, in bytes.
const maxOwner = 4096

// lockInfo is the parsed body of a LOCK (RFC 4918 section 14.11).
type lockInfo struct {
	shared bool
	owner  []byte // content, XML that stands on its own
}

// parseLockInfo parses a LOCK body; errNoXML for an empty one, which asks for
// a refresh.
func parseLockInfo(p *xmlParser) (info lockInfo, err error) {
	root, err := p.root()
	if err != nil {
		return info, err
	}
	if root.Name != (xml.Name{Space: davNS, Local: "lockinfo"}) {
		return info, p.bad("root element is not DAV:lockinfo")
	}
	var scope, kind string
	for {
		e, ok, err := p.child()
		if err != nil {
			return info, err
		}
		if !ok {
			break
		}
		switch e.Name {
		case xml.Name{Space: davNS, Local: "lockscope"}:
			scope, err = p.onlyChild()
		case xml.Name{Space: davNS, Local: "locktype"}:
			kind, err = p.onlyChild()
		case xml.Name{Space: davNS, Local: "owner"}:
			info.owner, err = p.inner()
		default:
			err = p.skip()
		}
		if err != nil {
			return info, err
		}
	}
	info.shared = scope == "shared"
	switch {
	case kind != "write":
		return info, p.bad("locktype is not write")
	case scope != "exclusive" && scope != "shared":
		return info, p.bad("lockscope is neither exclusive nor shared")
	case len(info.owner) > maxOwner:
		return info, p.bad("owner is longer than %d bytes", maxOwner)
	}
	return info, p.finish()
}

// onlyChild returns the local name of the first DAV: child of the innermost
// element, "" for none, and reads the element to its end.
func (p *xmlParser) onlyChild() (name string, err error) {
	for {
		e, ok, err := p.child()
		if err != nil || !ok {
			return name, err
		}
		if name == "" && e.Name.Space == davNS {
			name = e.Name.Local
		}
		if err := p.skip(); err != nil {
			return "", err
		}
	}
}

// lock serves LOCK: it takes a lock, creating an empty file under a name that
// has none, or refreshes one when the body is empty (RFC 4918 section 9.10).
func (h *Handler) lock(w http.ResponseWriter, r *request) error {
	depth, ok := parseDepth(r.Header)
	if !ok || depth == 1 {
		return badRequest("Depth of a lock is 0 or infinity")
	}
	timeout := parseTimeout(r.Header["Timeout"])
	info, err := parseLockInfo(newXMLParser(r.Body))
	if errors.Is(err, errNoXML) {
		return h.refreshLock(w, r, timeout)
	}
	if err != nil {
		return xmlError(err)
	}
	return h.takeLock(w, r, store.DAVLock{
		Infinite:  depth == depthInfinity,
		Shared:    info.shared,
		Owner:     string(info.owner),
		Principal: r.principal,
		Timeout:   timeout,
	})
}

// takeLock takes the lock l on the request's resource. The lock comes before the
// file that it may have to create, so that nobody writes to the file in between.
func (h *Handler) takeLock(w http.ResponseWriter, r *request, l store.DAVLock) error {
	t, err := h.lockTarget(r)
	if err != nil {
		return err
	}
	if err := h.confirmNewLock(r, t); err != nil {
		return err
	}
	if err := r.precheck(h.writeCond(r), t.cur); err != nil {
		return err
	}
	if t.cur != nil && h.store.LockedByFile(t.cur.Ino) {
		return &statusError{code: http.StatusLocked, condition: "no-conflicting-lock", hrefs: []string{h.href(t.real, false)}, err: store.ErrLocked}
	}
	l.Path = t.real
	l, err = h.locks.Create(r.now, l)
	var conflict *store.LockConflictError
	if errors.As(err, &conflict) {
		return h.lockConflict(w, r, t, conflict.Locks)
	}
	if err != nil {
		return lockError(err)
	}
	created, err := h.lockUnmapped(r, t)
	if err != nil {
		h.abandonLock(r, l.Token)
		return err
	}
	if err := h.sync(r); err != nil {
		return err
	}
	w.Header()["Lock-Token"] = []string{"<" + l.Token + ">"}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	h.answerLock(w, r, code, &l)
	return nil
}

// lockTarget finds what is to be locked; cur is nil for an unmapped name.
func (h *Handler) lockTarget(r *request) (t target, err error) {
	real, a, err := h.lookup(r.ctx, r.path)
	if err == nil {
		return target{real: real, cur: &a}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	t.parent, t.name, t.real, err = h.lookupParent(r.ctx, r.path)
	return t, err
}

// confirmNewLock evaluates the If header and asks for the locks that creating
// the name needs. An exclusive lock that covers the name already is left to the
// conflict rules: no token helps against it.
func (h *Handler) confirmNewLock(r *request, t target) error {
	if t.cur != nil {
		return h.confirm(r)
	}
	locks, err := h.locks.Covering(r.now, t.real)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(locks, func(l store.DAVLock) bool { return !l.Shared }) {
		return h.confirm(r)
	}
	return h.confirm(r, lockNeed{path: t.real, entry: true})
}

// lockUnmapped creates the empty file of a lock on an unmapped name
// (RFC 4918 section 7.3). One that another client created meanwhile will do.
func (h *Handler) lockUnmapped(r *request, t target) (created bool, err error) {
	if t.cur != nil {
		return false, nil
	}
	_, err = h.store.Create(r.ctx, t.parent, t.name, store.NewNode{Mode: newFileMode, UID: h.uid, GID: h.gid})
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, store.ErrParentNotExist // it went away meanwhile
	}
	return err == nil, err
}

// abandonLock removes a lock whose request failed. If that fails too, the lock
// ends with its timeout.
func (h *Handler) abandonLock(r *request, token string) {
	if err := h.locks.Unlock(r.now, token); err != nil {
		h.logger.Warn("lock of a failed request remains", "path", r.path, "err", err)
	}
}

// lockError gives the lock table's refusals their status.
func lockError(err error) error {
	switch {
	case errors.Is(err, store.ErrLockLimit):
		return &statusError{code: http.StatusInsufficientStorage, err: err}
	case errors.Is(err, store.ErrNoLock):
		return &statusError{code: http.StatusPreconditionFailed, condition: "lock-token-matches-request-uri", err: err}
	}
	return err
}

// lockConflict answers a LOCK that other locks stand against: 423, or 207 when
// only members of the collection are locked (RFC 4918 section 9.10.3).
func (h *Handler) lockConflict(w http.ResponseWriter, r *request, t target, locks []store.DAVLock) error {
	within := !slices.ContainsFunc(locks, func(l store.DAVLock) bool { return !isAncestor(t.real, l.Path) })
	if !within {
		return &statusError{code: http.StatusLocked, condition: "no-conflicting-lock", hrefs: h.lockRoots(locks), err: store.ErrLocked}
	}
	m := newMultistatus(h, w, r)
	defer m.release()
	m.begin()
	for i := range locks {
		m.b = append(m.b, "<D:response><D:href>"...)
		m.b = h.appendHref(m.b, locks[i].Path, false)
		m.b = append(m.b, "</D:href><D:status>HTTP/1.1 423 Locked</D:status></D:response>"...)
	}
	m.b = append(m.b, "<D:response><D:href>"...)
	m.b = h.appendHref(m.b, r.path, t.cur != nil && t.cur.IsDir())
	m.b = append(m.b, "</D:href><D:status>HTTP/1.1 424 Failed Dependency</D:status></D:response>"...)
	return m.end()
}

// refreshLock serves a LOCK without a body: the If header names one lock, which
// must cover the request's path and belong to the principal (RFC 4918 section
// 9.10.2). A lock is refreshed also while an upload under it is running.
func (h *Handler) refreshLock(w http.ResponseWriter, r *request, timeout time.Duration) error {
	tokens := r.ifs.tokens()
	if len(tokens) != 1 {
		return badRequest("LOCK without a body needs an If header with one lock token")
	}
	if err := h.confirm(r); err != nil {
		return err
	}
	real := h.realPath(r)
	l, err := h.locks.Get(r.now, tokens[0])
	if err == nil && !l.Covers(real) {
		err = store.ErrNoLock
	}
	if err != nil {
		return lockError(err)
	}
	if l.Principal != r.principal {
		return errNotYourLock
	}
	if timeout == 0 {
		timeout = l.Timeout
	}
	if l, err = h.locks.Refresh(r.now, l.Token, timeout); err != nil {
		return lockError(err)
	}
	if err := h.sync(r); err != nil {
		return err
	}
	h.answerLock(w, r, http.StatusOK, &l)
	return nil
}

var errNotYourLock = &statusError{code: http.StatusForbidden, err: errors.New("the lock belongs to another principal")}

// realPath returns the request's path without links, also of a name that does
// not exist.
func (h *Handler) realPath(r *request) string {
	real, _, err := h.lookup(r.ctx, r.path)
	if err != nil {
		return h.unmappedPath(r.ctx, r.path)
	}
	return real
}

// unlock serves UNLOCK (RFC 4918 section 9.11).
func (h *Handler) unlock(w http.ResponseWriter, r *request) error {
	token, ok := parseCodedURL(r.Header.Get("Lock-Token"))
	if !ok {
		return badRequest("UNLOCK needs a Lock-Token header")
	}
	if err := h.confirm(r); err != nil {
		return err
	}
	l, err := h.locks.Get(r.now, token)
	if err == nil && !l.Covers(h.realPath(r)) {
		err = store.ErrNoLock
	}
	if err == nil && l.Principal != r.principal {
		return errNotYourLock
	}
	if err == nil {
		err = h.locks.Unlock(r.now, token)
	}
	if errors.Is(err, store.ErrNoLock) {
		return &statusError{code: http.StatusConflict, condition: "lock-token-matches-request-uri", err: err}
	}
	if err != nil {
		return err
	}
	if err := h.sync(r); err != nil {
		return err
	}
	writeEmpty(w, http.StatusNoContent)
	return nil
}

// parseCodedURL parses "<token>".
func parseCodedURL(s string) (token string, ok bool) {
	s = strings.TrimSpace(s)
	if len(s) < 3 || s[0] != '<' || s[len(s)-1] != '>' {
		return "", false
	}
	return s[1 : len(s)-1], true
}

// parseTimeout returns the first timeout of a Timeout header that makes sense:
// negative for an infinite one, 0 when there is none. The table clamps it.
func parseTimeout(lines []string) time.Duration {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.ToLower(strings.TrimSpace(item))
			if item == "infinite" {
				return -1
			}
			digits, ok := strings.CutPrefix(item, "second-")
			if !ok {
				continue
			}
			n, err := strconv.ParseUint(digits, 10, 32) // RFC 4918 section 10.7
			if errors.Is(err, strconv.ErrRange) {
				return -1
			}
			if err == nil {
				return max(time.Duration(n)*time.Second, 1) // 0 asks for the least, not for the default
			}
		}
	}
	return 0
}

// answerLock writes the lock as the value of lockdiscovery.
func (h *Handler) answerLock(w http.ResponseWriter, r *request, code int, l *store.DAVLock) {
	b := append([]byte(nil), xml.Header+`<D:prop xmlns:D="DAV:"><D:lockdiscovery>`...)
	b = h.appendActiveLock(b, l, r.now)
	b = append(b, "</D:lockdiscovery></D:prop>\n"...)
	hd := w.Header()
	hd["Content-Type"] = valXML
	hd["Cache-Control"] = valNoStore
	writeBody(w, code, b)
}

// appendActiveLock appends an activelock element (RFC 4918 section 14.1). The
// lock root is an escaped URL path with the prefix: neon refuses a lock whose
// root it cannot parse.
func (h *Handler) appendActiveLock(b []byte, l *store.DAVLock, now time.Time) []byte {
	scope, depth := "exclusive", "0"
	if l.Shared {
		scope = "shared"
	}
	if l.Infinite {
		depth = "infinity"
	}
	b = append(b, "<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope><D:"...)
	b = append(b, scope...)
	b = append(b, "/></D:lockscope><D:depth>"...)
	b = append(b, depth...)
	b = append(b, "</D:depth>"...)
	if l.Owner != "" {
		b = append(b, "<D:owner>"...)
		b = append(b, l.Owner...) // parsed and written anew by inner
		b = append(b, "</D:owner>"...)
	}
	b = append(b, "<D:timeout>Second-"...)
	left := l.Expires.Sub(now).Round(time.Second)
	b = strconv.AppendInt(b, int64(max(left, 0)/time.Second), 10)
	b = append(b, "</D:timeout><D:locktoken><D:href>"...)
	b = append(b, l.Token...)
	b = append(b, "</D:href></D:locktoken><D:lockroot><D:href>"...)
	b = h.appendHref(b, path.Clean(l.Path), false)
	return append(b, "</D:href></D:lockroot></D:activelock>"...)
}

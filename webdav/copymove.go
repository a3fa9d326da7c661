package webdav

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	"engramfs/store"
)

// transfer is a COPY or MOVE whose headers are parsed and whose two ends are
// looked up.
type transfer struct {
	move      bool
	overwrite bool
	shallow   bool // COPY with Depth: 0

	src       store.Attr
	srcParent store.Ino
	srcName   string
	srcReal   string
	dstPath   string // as the request names it
	dstParent store.Ino
	dstName   string
	dstReal   string
	dst       *store.Attr // what is at the destination now, nil for nothing
}

// copyMove serves COPY and MOVE. Each is one atomic change of the store, also
// over an existing tree: whoever looks sees all of it or nothing.
func (h *Handler) copyMove(w http.ResponseWriter, r *request) error {
	t := &transfer{move: r.Method == "MOVE"}
	if err := t.parseHeaders(r); err != nil {
		return err
	}
	var err error
	if t.dstPath, err = h.destination(r); err != nil {
		return err
	}
	if err := h.findEnds(r, t); err != nil {
		return err
	}
	if err := h.confirm(r, t.needs()...); err != nil {
		return err
	}
	cond := h.writeCond(r)
	if err := r.precheck(cond, &t.src); err != nil {
		return err
	}
	if t.dst != nil && !t.overwrite {
		return errPrecondition
	}
	replaced, err := h.transfer(r, t, cond)
	if err != nil {
		return err
	}
	if t.move {
		h.dropLocks(r, t.srcReal)
	}
	if t.dst != nil && t.dst.IsDir() {
		h.dropVanished(r, t.dstReal)
	}
	if err := h.sync(r); err != nil {
		return err
	}
	if _, ok := ocMtime(r.Header); ok {
		w.Header()["X-Oc-Mtime"] = valAccepted
	}
	writeEmpty(w, createdStatus(!replaced))
	return nil
}

// transfer makes the change.
func (h *Handler) transfer(r *request, t *transfer, cond store.Cond) (replaced bool, err error) {
	mtime, _ := ocMtime(r.Header)
	target := h.withLocks(r, ifCond(r, t.dstPath), t.dstReal, entryNeed)
	if t.move {
		return h.store.Rename(r.ctx, t.srcParent, t.srcName, t.dstParent, t.dstName, store.RenameOptions{
			NoReplace:   !t.overwrite,
			ReplaceTree: t.overwrite,
			Source:      h.withLocks(r, cond, t.srcReal, entryNeed),
			Target:      target,
			Mtime:       mtime,
		})
	}
	_, replaced, err = h.store.Clone(r.ctx, t.src.Ino, t.dstParent, t.dstName, store.CloneOptions{
		Replace: t.overwrite,
		Shallow: t.shallow,
		Source:  cond,
		Target:  target,
		Mtime:   mtime,
		UID:     h.uid,
		GID:     h.gid,
	})
	return replaced, err
}

// parseHeaders parses Overwrite, whose default is T for both methods, and
// Depth.
func (t *transfer) parseHeaders(r *request) error {
	t.overwrite = true
	if v := r.Header["Overwrite"]; len(v) > 0 {
		switch strings.TrimSpace(v[0]) {
		case "T", "t":
		case "F", "f":
			t.overwrite = false
		default:
			return badRequest("malformed Overwrite header")
		}
	}
	if depthIsInfinity(r.Header) {
		return nil
	}
	if r.Header["Depth"][0] == "0" && !t.move {
		t.shallow = true
		return nil
	}
	return badRequest("COPY takes Depth 0 or infinity, MOVE infinity only")
}

// destination parses the Destination header: a URL of this server or a path.
func (h *Handler) destination(r *request) (string, error) {
	v := r.Header["Destination"]
	if len(v) == 0 || v[0] == "" {
		return "", badRequest("Destination header is missing")
	}
	u, err := url.Parse(v[0])
	if err != nil || u.Opaque != "" || u.Path == "" {
		return "", badRequest("malformed Destination header")
	}
	if u.Host != "" && !sameHost(u.Host, r.Host) {
		return "", errOtherServer
	}
	p, _, err := h.cleanPath(u.Path, u.RawPath)
	if errors.Is(err, errOutsidePrefix) {
		return "", errOtherServer
	}
	return p, err
}

var errOtherServer = &statusError{code: http.StatusBadGateway, err: errors.New("the destination is not on this server")}

// sameHost compares two hosts, with or without port. The default ports of
// both schemes count as none: behind a proxy that ends TLS the schemes differ.
func sameHost(a, b string) bool {
	return strings.EqualFold(trimDefaultPort(a), trimDefaultPort(b))
}

func trimDefaultPort(hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || port != "" && port != "80" && port != "443" {
		return hostport
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// findEnds looks both ends up and refuses what would destroy a tree: a
// resource onto itself, into its own subtree, or onto its own ancestor.
func (h *Handler) findEnds(r *request, t *transfer) (err error) {
	if r.path == "/" || t.dstPath == "/" {
		return errRoot
	}
	if t.srcParent, t.srcName, t.srcReal, t.src, err = h.lookupEntry(r, r.path); err != nil {
		return err
	}
	if !t.move && t.src.IsSymlink() { // COPY copies what GET shows
		if t.srcReal, t.src, err = h.walk(r.ctx, t.srcReal, true); err != nil {
			return err
		}
	}
	if t.dstParent, t.dstName, t.dstReal, err = h.lookupParent(r.ctx, t.dstPath); err != nil {
		return err
	}
	a, err := h.store.Lookup(r.ctx, t.dstParent, t.dstName)
	switch {
	case err == nil:
		t.dst = &a
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if overlap(t.srcReal, t.dstReal) || t.dst != nil && t.dst.Ino == t.src.Ino {
		return errOverlap
	}
	return nil
}

var errOverlap = &statusError{code: http.StatusForbidden, err: errors.New("source and destination overlap")}

func overlap(a, b string) bool { return a == b || isAncestor(a, b) || isAncestor(b, a) }

// needs lists the locks that the transfer asks for: at the destination always,
// at the source only when it goes away. A copy reads its source, and locks do
// not keep readers out.
func (t *transfer) needs() []lockNeed {
	need := []lockNeed{entryNeed(t.dstReal, t.dst)}
	if t.move {
		need = append(need, entryNeed(t.srcReal, &t.src))
	}
	return need
}

// dropVanished removes the locks inside a replaced collection whose resource
// the replacement does not have. The lock on the destination itself stays: its
// URL was mapped all the time (RFC 4918 section 6.1).
func (h *Handler) dropVanished(r *request, real string) {
	if h.locks.Len() == 0 {
		return
	}
	locks, err := h.locks.Within(r.now, real)
	for i := 0; err == nil && i < len(locks); i++ {
		if locks[i].Path == real {
			continue
		}
		// Any other error says nothing of the resource: its lock stays.
		_, lerr := h.store.LookupPath(r.ctx, locks[i].Path)
		if errors.Is(lerr, fs.ErrNotExist) || errors.Is(lerr, store.ErrNotDir) {
			err = h.locks.Unlock(r.now, locks[i].Token)
		}
	}
	if err != nil && !errors.Is(err, store.ErrNoLock) {
		h.logger.Warn("locks of a replaced tree remain", "path", real, "err", err)
	}
}

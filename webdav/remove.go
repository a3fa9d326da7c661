package webdav

import (
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"engramfs/store"
)

// remove serves DELETE. A collection goes with all its members in one step:
// there is no partial success, hence no 207.
func (h *Handler) remove(w http.ResponseWriter, r *request) error {
	if r.path == "/" {
		return errRoot
	}
	parent, name, real, a, err := h.lookupEntry(r, r.path)
	if err != nil {
		return err
	}
	if a.IsDir() && !depthIsInfinity(r.Header) {
		return badRequest("DELETE of a collection takes Depth: infinity only")
	}
	if err := h.confirm(r, entryNeed(real, &a)); err != nil {
		return err
	}
	cond := h.writeCond(r)
	if err := r.precheck(cond, &a); err != nil {
		return err
	}
	cond = h.withLocks(r, cond, real, entryNeed)
	if a.IsDir() {
		err = h.store.RemoveAll(r.ctx, parent, name, cond)
	} else {
		err = h.store.Unlink(r.ctx, parent, name, cond)
	}
	if err != nil {
		return err
	}
	h.dropLocks(r, real)
	if err := h.sync(r); err != nil {
		return err
	}
	writeEmpty(w, http.StatusNoContent)
	return nil
}

var errRoot = &statusError{code: http.StatusForbidden, err: errors.New("the root cannot be moved or removed")}

// lookupEntry finds an existing name, links before it followed and a link
// itself not: the entry that DELETE and MOVE act on. A missing parent is
// fs.ErrNotExist like a missing name.
func (h *Handler) lookupEntry(r *request, p string) (parent store.Ino, name, real string, a store.Attr, err error) {
	parent, name, real, err = h.lookupParent(r.ctx, p)
	if err == nil {
		a, err = h.store.Lookup(r.ctx, parent, name)
	}
	if errors.Is(err, store.ErrParentNotExist) || errors.Is(err, store.ErrNotDir) {
		err = fs.ErrNotExist
	}
	return parent, name, real, a, err
}

// depthIsInfinity reports whether the Depth header is absent or "infinity".
func depthIsInfinity(hd http.Header) bool {
	v := hd["Depth"]
	return len(v) == 0 || strings.EqualFold(v[0], "infinity")
}

// dropLocks removes the locks of a tree that is gone (RFC 4918 sections 6.1
// and 9.6). The change is made already: a lock table that refuses is for the
// log, and for the lock's timeout.
func (h *Handler) dropLocks(r *request, real string) {
	if h.locks.Len() == 0 {
		return
	}
	if err := h.locks.DropUnder(real); err != nil {
		h.logger.Warn("locks of a removed tree remain", "path", real, "err", err)
	}
}

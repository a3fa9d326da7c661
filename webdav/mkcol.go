package webdav

import (
	"errors"
	"io/fs"
	"net/http"

	"engramfs/store"
)

// mkcol creates an empty collection: 201, 405 when the name is taken, 409
// when the parent is missing, 415 with a body of any kind (RFC 4918 section
// 9.3.1).
func (h *Handler) mkcol(w http.ResponseWriter, r *request) error {
	if hasBody(r) {
		return &statusError{code: http.StatusUnsupportedMediaType, err: errors.New("MKCOL takes no body")}
	}
	if r.path == "/" {
		return errTaken
	}
	parent, name, real, err := h.lookupParent(r.ctx, r.path)
	if err != nil {
		return err
	}
	var cur *store.Attr
	if a, err := h.store.Lookup(r.ctx, parent, name); err == nil {
		cur = &a
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if cur != nil {
		return errTaken
	}
	if err := h.confirm(r, lockNeed{path: real, entry: true}); err != nil {
		return err
	}
	if err := r.precheck(h.writeCond(r), nil); err != nil {
		return err
	}
	mtime, hasMtime := ocMtime(r.Header)
	_, err = h.store.Create(r.ctx, parent, name, store.NewNode{Mode: newDirMode, UID: h.uid, GID: h.gid, Mtime: mtime})
	if errors.Is(err, fs.ErrExist) {
		return errTaken
	}
	if err != nil {
		return err
	}
	if err := h.sync(r); err != nil {
		return err
	}
	if hasMtime {
		w.Header()["X-Oc-Mtime"] = valAccepted
	}
	writeEmpty(w, http.StatusCreated)
	return nil
}

var errTaken = &statusError{code: http.StatusMethodNotAllowed, err: errors.New("resource exists")}

// hasBody reports whether the request has a body of at least one byte, also a
// chunked one.
func hasBody(r *request) bool {
	if r.ContentLength >= 0 {
		return r.ContentLength > 0
	}
	var b [1]byte
	n, _ := r.Body.Read(b[:])
	return n > 0
}

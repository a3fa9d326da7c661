package webdav

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"engramfs/store"
)

// Permissions of what WebDAV creates, as a mount shows them.
const (
	newFileMode = store.ModeRegular | 0o644
	newDirMode  = store.ModeDir | 0o755
)

var valAccepted = []string{"accepted"}

// target is where a PUT writes: a name in a collection.
type target struct {
	parent store.Ino
	name   string
	real   string      // its path without links
	cur    *store.Attr // what has the name now, nil for nothing
}

// put replaces or creates a file. The body is staged beside the tree and
// swapped in whole: an upload that breaks off changes nothing, and readers of
// the old content finish on the old content.
func (h *Handler) put(hw http.ResponseWriter, r *request) error {
	if r.Header["Content-Range"] != nil {
		// RFC 9110 section 14.4: a server that does not write parts must
		// refuse one, or it would replace the file with a fragment.
		return badRequest("Content-Range is not supported on PUT")
	}
	t, err := h.putTarget(r)
	if err != nil {
		return err
	}
	if err := h.confirm(r, contentNeed(t.real, t.cur)); err != nil {
		return err
	}
	cond := h.writeCond(r)
	if err := r.precheck(cond, t.cur); err != nil {
		return err
	}
	digests, err := parseClaims(r.Header)
	if err != nil {
		return err
	}
	mtime, hasMtime := ocMtime(r.Header)
	a, created, err := h.upload(r, t, digests, store.CommitOptions{
		Cond:  h.withLocks(r, cond, t.real, contentNeed),
		Mtime: mtime,
		Mode:  newFileMode,
		UID:   h.uid,
		GID:   h.gid,
	})
	if err != nil {
		return putError(err)
	}
	if err := h.sync(r); err != nil {
		return err
	}
	vals := [2]string{a.ETag(), httpTime(a.Mtime)}
	hd := hw.Header()
	hd["Etag"] = vals[0:1:1]
	hd["Last-Modified"] = vals[1:2:2]
	if hasMtime {
		hd["X-Oc-Mtime"] = valAccepted
	}
	writeEmpty(hw, createdStatus(created))
	return nil
}

// createdStatus is 201 for a new resource, 204 for a replaced one.
func createdStatus(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusNoContent
}

// putTarget finds where the request writes. A link is followed, as open(2)
// would; one that leads out of the store is refused.
func (h *Handler) putTarget(r *request) (t target, err error) {
	if r.path == "/" {
		return t, errPutCollection
	}
	t.parent, t.name, t.real, err = h.lookupParent(r.ctx, r.path)
	if err != nil {
		return t, err
	}
	cur, err := h.store.Lookup(r.ctx, t.parent, t.name)
	if err == nil && cur.IsSymlink() {
		if t.real, cur, err = h.walk(r.ctx, t.real, true); err != nil {
			return t, &statusError{code: http.StatusForbidden, err: errors.New("symbolic link leads nowhere")}
		}
		if t.parent, t.name, _, err = h.lookupParent(r.ctx, t.real); err != nil {
			return t, err
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if r.slash {
			return t, &statusError{code: http.StatusConflict, err: errors.New("a path that ends in a slash names a collection")}
		}
		return t, nil
	case err != nil:
		return t, err
	case cur.IsDir():
		return t, errPutCollection
	case !cur.IsRegular():
		return t, &statusError{code: http.StatusForbidden, err: errors.New("not a regular file")}
	}
	t.cur = &cur
	return t, nil
}

var errPutCollection = &statusError{code: http.StatusMethodNotAllowed, err: errors.New("PUT on a collection")}

// upload takes the body in and commits it, if it is what the client says it is.
func (h *Handler) upload(r *request, t target, digests claims, o store.CommitOptions) (a store.Attr, created bool, err error) {
	size, err := expectedSize(r)
	if err != nil {
		return a, false, err
	}
	u, err := h.store.NewUpload(r.ctx, t.parent, t.name, size)
	if err != nil {
		return a, false, err
	}
	defer u.Abort()
	wantDigests(u, r, digests)
	if _, err := u.ReadFrom(r.Body); err != nil {
		return a, false, err
	}
	if err := verifyDigests(u, r, digests); err != nil {
		return a, false, err
	}
	return u.Commit(r.ctx, o) // compares the length with the announced one
}

// wantDigests asks for the digests that the upload is held against, and for those
// that the client is going to compare later: ownCloud's clients and rclone know
// SHA-1 and MD5 only.
func wantDigests(u *store.Upload, r *request, digests claims) {
	for _, c := range digests {
		u.Want(c.hash)
	}
	if len(r.Trailer) > 0 { // it may have digests of any kind
		u.Want(store.SHA512, store.SHA1, store.MD5)
	}
	if r.Header["Oc-Checksum"] != nil || r.Header["X-Oc-Mtime"] != nil {
		u.Want(store.SHA1, store.MD5)
	}
}

// verifyDigests holds the body, all of which has come in, against the digests of
// the header and of the trailer.
func verifyDigests(u *store.Upload, r *request, digests claims) error {
	late, err := parseClaims(r.Trailer)
	if err != nil {
		return err
	}
	digests = append(digests, late...)
	if len(digests) == 0 {
		return nil
	}
	d, err := u.Digests()
	if err != nil {
		return err
	}
	return digests.verify(&d)
}

// expectedSize is the length of the body that the client announced, -1 when
// it did not. Finder sends its chunked bodies with a header of its own.
func expectedSize(r *request) (int64, error) {
	if r.ContentLength >= 0 {
		return r.ContentLength, nil
	}
	v := r.Header["X-Expected-Entity-Length"]
	if len(v) == 0 {
		return -1, nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(v[0]), 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("malformed X-Expected-Entity-Length")
	}
	return n, nil
}

// putError turns errors that mean something else for PUT than in general.
func putError(err error) error {
	switch {
	case errors.Is(err, store.ErrIsDir):
		return errPutCollection
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &statusError{code: http.StatusBadRequest, err: fmt.Errorf("body broke off or is not as long as announced: %w", err)}
	}
	return err
}

// ocMtime parses X-OC-Mtime, the modification time that ownCloud's clients
// and rclone send: decimal Unix seconds, with or without a fraction. What does
// not parse is ignored, and then not "accepted".
func ocMtime(hd http.Header) (t time.Time, ok bool) {
	v := hd["X-Oc-Mtime"]
	if len(v) == 0 {
		return t, false
	}
	const maxSeconds = 1<<63/1_000_000_000 - 1 // what nanoseconds can hold
	whole, frac, _ := strings.Cut(strings.TrimSpace(v[0]), ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec < 0 || sec > maxSeconds || len(frac) > 9 {
		return t, false
	}
	var ns int64
	if frac != "" {
		u, err := strconv.ParseUint(frac+"000000000"[len(frac):], 10, 32)
		if err != nil {
			return t, false
		}
		ns = int64(u)
	}
	return time.Unix(sec, ns), true
}

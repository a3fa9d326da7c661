package webdav

import (
	"net/http"
	"path"
	"strings"

	"engramfs/store"
)

// ancestor serves the collections above the prefix, "/" and "/dav" for the
// prefix "/dav/files". They are read-only and have one member, the next segment.
// Windows walks down from the site's root with PROPFIND before it believes in a
// share, and gvfs walks up from it. Everything else about such a path is outside
// of the tree.
func (h *Handler) ancestor(w http.ResponseWriter, r *request) error {
	p := path.Clean(r.URL.Path)
	if !isAncestor(p, h.prefix) {
		return errOutsidePrefix
	}
	rest := strings.TrimPrefix(h.prefix[len(p):], "/")
	next, _, _ := strings.Cut(rest, "/")
	a, err := h.store.GetAttr(r.ctx, store.RootIno)
	if err != nil {
		return err
	}
	switch r.Method {
	case "GET", "HEAD":
		hd := w.Header()
		hd["Content-Type"] = valHTML
		hd["Content-Security-Policy"] = valListingCSP
		b := append([]byte("<!doctype html>\n<title>EngramFS</title>\n<a href=\""), appendCollectionHref(nil, path.Join(p, next))...)
		writeBody(w, http.StatusOK, append(b, "\">Files</a>\n"...))
		return nil
	case "PROPFIND":
		return h.propfindAncestor(w, r, p, next, &a)
	}
	return errOutsidePrefix
}

// propfindAncestor answers for p, and with Depth 1 for its member next too. What
// they look like is taken from the tree's root.
func (h *Handler) propfindAncestor(w http.ResponseWriter, r *request, p, next string, a *store.Attr) error {
	depth, ok := parseDepth(r.Header)
	if !ok {
		return badRequest("malformed Depth header")
	}
	r.Body = http.MaxBytesReader(w, r.Body, h.maxXMLBody)
	q, err := parsePropfind(newXMLParser(r.Body))
	if err != nil {
		return xmlError(err)
	}
	if depth == depthInfinity {
		return &statusError{code: http.StatusForbidden, condition: "propfind-finite-depth"}
	}
	paths := []string{p}
	if depth == 1 {
		paths = append(paths, path.Join(p, next))
	}
	m := newMultistatus(h, w, r)
	defer m.release()
	m.begin()
	for _, p := range paths {
		m.b = append(m.b, "<D:response><D:href>"...)
		m.b = appendCollectionHref(m.b, p)
		m.entry(q, &propEntry{attr: a, name: strings.TrimPrefix(path.Base(p), "/"), real: "/"})
	}
	return m.end()
}

// appendCollectionHref appends the URL path of a collection given with its
// prefix.
func appendCollectionHref(b []byte, p string) []byte {
	b = appendEscaped(b, p)
	if p != "/" {
		b = append(b, '/')
	}
	return b
}

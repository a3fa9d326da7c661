package webdav

import (
	"errors"
	"net/http"
)

var (
	valDAV   = []string{"1, 2, 3"}
	valMS    = []string{"DAV"}
	valAllow = []string{"OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"}
)

// options answers every OPTIONS alike, also outside the prefix and for
// "OPTIONS *": clients probe the site's root first, and an answer that depends
// on the path would tell strangers what exists.
func (h *Handler) options(w http.ResponseWriter) {
	hd := w.Header()
	hd["Dav"] = valDAV
	hd["Ms-Author-Via"] = valMS
	hd["Allow"] = valAllow
	hd["Content-Length"] = valZero
	w.WriteHeader(http.StatusOK)
}

// unsupported refuses a method that the handler does not have: 405 for
// methods of HTTP itself, 501 for unknown ones (RFC 9110 sections 15.5.6 and
// 15.6.2).
func unsupported(w http.ResponseWriter, method string) error {
	w.Header()["Allow"] = valAllow
	code := http.StatusNotImplemented
	switch method {
	case "POST", "PATCH", "TRACE", "CONNECT", "QUERY":
		code = http.StatusMethodNotAllowed
	}
	return &statusError{code: code, err: errors.New("method not supported")}
}

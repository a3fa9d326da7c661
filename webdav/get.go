package webdav

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"path"
	"strconv"
	"time"

	"engramfs/store"
)

const octetStream = "application/octet-stream"

// contentType returns the media type that a name stands for. Content is never
// looked at: a listing would have to open every file, and a type that depends
// on bytes is one that an uploader can choose.
func contentType(name string) string {
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return octetStream
}

// get serves GET and HEAD: files with ranges and conditions, collections as a
// plain HTML listing.
func (h *Handler) get(hw http.ResponseWriter, r *request) error {
	w := hw.(*response)
	_, a, err := h.lookup(r.ctx, r.path)
	if err != nil {
		return err
	}
	if a.IsDir() {
		return h.listing(w, r, &a)
	}
	if !a.IsRegular() {
		return &statusError{code: http.StatusForbidden, err: errors.New("not a regular file")}
	}
	for range maxServes {
		if err = h.serveContent(w, r, a.Ino); !errors.Is(err, store.ErrChanged) || w.code != 0 {
			return err
		}
		delete(w.Header(), "Repr-Digest")
		delete(w.Header(), "Content-Range")
		delete(w.Header(), "Etag")
		delete(w.Header(), "Last-Modified")
		w.pending = 0
		uncork(r.Request) // the next answer may be one that leaves in one write
	}
	return err
}

// maxServes is how often an answer whose first byte was not yet sent is begun anew
// because the file was changed in place. The second one promises no digest unless
// the file was sealed again meanwhile.
const maxServes = 3

// serveContent answers with the present content of a file.
func (h *Handler) serveContent(w *response, r *request, ino store.Ino) error {
	c, err := h.store.OpenContent(r.ctx, ino)
	if err != nil {
		return err
	}
	defer c.Close()
	a := c.Attr()
	return h.serveFile(w, r, &a, c)
}

// serveFile answers for one version of a file.
func (h *Handler) serveFile(w *response, r *request, a *store.Attr, c *store.Content) error {
	vals := fileValues(a)
	hd := w.Header()
	hd["Accept-Ranges"] = valBytes
	hd["X-Content-Type-Options"] = valNoSniff
	hd["Content-Security-Policy"] = valSandbox
	ranged := r.Header["Range"]
	if h.degraded(w, r) {
		if r.Header["If-Range"] != nil {
			ranged = nil // nothing vouches for the part that the client has
		}
	} else {
		if a.Native {
			vals[0] = noTag
		} else {
			hd["Etag"] = vals[0:1:1]
			hd["Last-Modified"] = vals[1:2:2]
		}
		hd["Cache-Control"] = valNoCache
		if code := readStatus(r.Header, a, vals[0]); code != http.StatusOK {
			return notNeeded(w, code)
		}
		if ranged != nil && !rangeAllowed(r.Header, a, vals[0]) {
			ranged = nil
		}
		digest, err := reprDigest(r.Header, c)
		if err != nil {
			return err
		}
		if digest != "" {
			hd["Repr-Digest"] = []string{digest}
		}
	}
	vals[2] = contentType(r.path)
	hd["Content-Type"] = vals[2:3:3]
	if ranged != nil && r.Method == "GET" {
		ranges, ok := parseRange(ranged[0], a.Size)
		switch {
		case ok && len(ranges) == 0:
			return unsatisfiable(w, a.Size)
		case ok && len(ranges) == 1:
			hd["Content-Range"] = []string{ranges[0].contentRange(a.Size)}
			w.pending = http.StatusPartialContent
			return h.sendRange(w, r, c, ranges[0], vals)
		case ok:
			return h.sendMultipart(w, r, c, ranges, vals[2], a.Size)
		}
	}
	w.pending = http.StatusOK
	return h.sendRange(w, r, c, byteRange{0, a.Size}, vals)
}

// fileValues returns the values of a file's headers: entity tag, modification
// time, room for the type, and length. They cost two allocations: this is the
// path of every small GET.
func fileValues(a *store.Attr) *[4]string {
	var buf [128]byte
	b := a.AppendETag(buf[:0])
	tag := len(b)
	b = time.Unix(0, a.Mtime).UTC().AppendFormat(b, http.TimeFormat)
	date := len(b)
	s := string(strconv.AppendInt(b, a.Size, 10))
	return &[4]string{0: s[:tag], 1: s[tag:date], 3: s[date:]}
}

// notNeeded answers a condition: 304 without a body, or 412.
func notNeeded(w *response, code int) error {
	if code == http.StatusNotModified {
		w.WriteHeader(code)
		return nil
	}
	return errPrecondition
}

func unsatisfiable(w *response, size int64) error {
	hd := w.Header()
	hd["Content-Range"] = []string{"bytes */" + strconv.FormatInt(size, 10)}
	delete(hd, "Etag")
	delete(hd, "Last-Modified")
	hd["Content-Type"] = valText
	writeBody(w, http.StatusRequestedRangeNotSatisfiable, []byte("requested range not satisfiable\n"))
	return nil
}

// sendRange writes the header, whose status is pending, and one range.
func (h *Handler) sendRange(w *response, r *request, c *store.Content, br byteRange, vals *[4]string) error {
	if w.pending == http.StatusPartialContent {
		vals[3] = strconv.FormatInt(br.n, 10)
	}
	w.Header()["Content-Length"] = vals[3:4:4]
	if r.Method == "HEAD" || br.n == 0 {
		w.WriteHeader(w.pending)
		return nil
	}
	corkAnswer(r.Request, br.n)
	return h.copyRange(w, r, c, w, br)
}

// copyRange streams a range of the content to dst. The header goes out with
// the first byte, so damage that is found before it is still a 503; later, the
// connection is cut.
func (h *Handler) copyRange(w *response, r *request, c *store.Content, dst io.Writer, br byteRange) error {
	var err error
	if b, ok := c.Inline(); ok {
		_, err = dst.Write(b[br.off : br.off+br.n])
	} else {
		_, err = c.WriteRange(dst, br.off, br.n)
	}
	if err != nil && w.code != 0 && clientGone(r, err) {
		panic(http.ErrAbortHandler)
	}
	return err
}

// clientGone reports whether an error is the connection's.
func clientGone(r *request, err error) bool {
	var ne *net.OpError
	return errors.As(err, &ne) || r.Request.Context().Err() != nil
}

// sendMultipart answers several ranges at once (RFC 9110 section 14.6).
func (h *Handler) sendMultipart(w *response, r *request, c *store.Content, ranges []byteRange, ctype string, size int64) error {
	var length countWriter
	mw := multipart.NewWriter(&length)
	for _, br := range ranges {
		if _, err := mw.CreatePart(br.partHeader(ctype, size)); err != nil {
			return err
		}
		length += countWriter(br.n)
	}
	if err := mw.Close(); err != nil {
		return err
	}
	boundary := mw.Boundary()
	hd := w.Header()
	hd["Content-Type"] = []string{"multipart/byteranges; boundary=" + boundary}
	hd["Content-Length"] = []string{strconv.FormatInt(int64(length), 10)}
	w.pending = http.StatusPartialContent
	mw = multipart.NewWriter(w)
	if err := mw.SetBoundary(boundary); err != nil {
		return err
	}
	for _, br := range ranges {
		part, err := mw.CreatePart(br.partHeader(ctype, size))
		if err == nil {
			err = h.copyRange(w, r, c, part, br)
		}
		if err != nil {
			return err
		}
	}
	return mw.Close()
}

// countWriter counts the bytes written to it.
type countWriter int64

func (c *countWriter) Write(p []byte) (int, error) {
	*c += countWriter(len(p))
	return len(p), nil
}

// byteRange is n bytes from off on.
type byteRange struct{ off, n int64 }

func (b byteRange) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", b.off, b.off+b.n-1, size)
}

func (b byteRange) partHeader(ctype string, size int64) textproto.MIMEHeader {
	return textproto.MIMEHeader{"Content-Range": {b.contentRange(size)}, "Content-Type": {ctype}}
}

// httpTime formats nanoseconds since the epoch as an HTTP date.
func httpTime(ns int64) string { return time.Unix(0, ns).UTC().Format(http.TimeFormat) }

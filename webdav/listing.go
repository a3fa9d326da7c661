package webdav

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"net/http"
	"path"
	"strconv"
	"time"
	"unicode/utf8"

	"engramfs/store"
)

const listingStyle = `body{font:14px/1.5 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:.1em 1.2em .1em 0;text-align:left;white-space:nowrap}td.n{text-align:right;font-variant-numeric:tabular-nums}.recovered{color:#b00}`

// valListingCSP allows the page its own style and nothing else.
var valListingCSP = func() []string {
	sum := sha256.Sum256([]byte(listingStyle))
	return []string{"default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
}()

var valHTML = []string{"text/html; charset=utf-8"}

// listingChunk is how many bytes of a page are collected before they are
// sent: memory stays flat however many members the collection has.
const listingChunk = 32 << 10

// listing answers GET and HEAD of a collection: 200 and an HTML page, in name
// order. It has no validators, because the page shows sizes and times of the
// members, which change without the collection.
func (h *Handler) listing(w *response, r *request, dir *store.Attr) error {
	hd := w.Header()
	hd["Content-Type"] = valHTML
	hd["Cache-Control"] = valNoStore
	hd["X-Content-Type-Options"] = valNoSniff
	hd["Content-Security-Policy"] = valListingCSP
	if r.Method == "HEAD" {
		h.degraded(w, r)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	p := &page{h: h, w: w, r: r, buf: make([]byte, 0, listingChunk+4096)}
	p.open()
	p.known = len(r.trace.Recovered())
	err := h.store.ReadDirPlus(r.ctx, dir.Ino, "", p.member)
	if err == nil {
		err = p.err
	}
	if err != nil {
		return err
	}
	p.buf = append(p.buf, "</table>\n"...)
	p.flush()
	return p.err
}

// page writes a listing piece by piece.
type page struct {
	h     *Handler
	w     *response
	r     *request
	buf   []byte
	known int // recovered reads of which the reader was told
	err   error
}

func (p *page) open() {
	title := html.EscapeString(p.h.prefix + p.r.path)
	p.buf = append(p.buf, "<!doctype html>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>"...)
	p.buf = append(p.buf, title...)
	p.buf = append(p.buf, "</title>\n<style>"+listingStyle+"</style>\n<h1>"...)
	p.buf = append(p.buf, title...)
	p.buf = append(p.buf, "</h1>\n<table>\n<tr><th>Name<th>Size<th>Modified (UTC)\n"...)
	if p.r.path != "/" {
		p.buf = append(p.buf, `<tr><td><a href="`...)
		p.buf = p.h.appendHref(p.buf, parentOf(p.r.path), true)
		p.buf = append(p.buf, "\">../</a><td><td>\n"...)
	}
}

// member adds one row; false ends the listing, because the client is gone.
func (p *page) member(name string, a *store.Attr) bool {
	if !utf8.ValidString(name) {
		return true // made through a mount; no URL leads to it
	}
	full := path.Join(p.r.path, name)
	target, ok := p.h.follow(p.r.ctx, full, a)
	if !ok {
		return true // a link that leads nowhere or out of the store
	}
	shown := name
	if target.IsDir() {
		shown += "/"
	}
	p.buf = append(p.buf, `<tr><td><a href="`...)
	p.buf = p.h.appendHref(p.buf, full, target.IsDir())
	p.buf = append(p.buf, `">`...)
	p.buf = append(p.buf, html.EscapeString(shown)...)
	p.buf = append(p.buf, `</a><td class="n">`...)
	if !target.IsDir() {
		p.buf = strconv.AppendInt(p.buf, target.Size, 10)
	}
	p.buf = append(p.buf, "<td>"...)
	p.buf = time.Unix(0, target.Mtime).UTC().AppendFormat(p.buf, time.DateTime)
	if n := len(p.r.trace.Recovered()); n != p.known {
		// The header may be out already, so the row says it itself.
		p.known = n
		p.buf = append(p.buf, ` <span class="recovered">recovered data</span>`...)
	}
	p.buf = append(p.buf, '\n')
	if len(p.buf) >= listingChunk {
		p.flush()
	}
	return p.err == nil
}

func (p *page) flush() {
	if p.w.code == 0 {
		p.h.degraded(p.w, p.r)
	}
	if _, err := p.w.Write(p.buf); err != nil {
		p.err = err
		if clientGone(p.r, err) {
			panic(http.ErrAbortHandler)
		}
	}
	p.buf = p.buf[:0]
}

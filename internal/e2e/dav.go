package e2e

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"engramfs/internal/bench/httpwire"
)

// DAV is a WebDAV client on one connection. It never repeats a request: an
// error means that nobody knows whether the request took effect.
type DAV struct {
	addr, prefix string
	c            *httpwire.Client
}

// Entry is a resource as PROPFIND describes it.
type Entry struct {
	// Path is unescaped, without the prefix and without a slash at the end.
	Path string
	Dir  bool
	Size string // getcontentlength, "" if the server gave none
	ETag string
	Note string // the dead property that Annotate sets
}

// NewDAV returns a client of the server at addr whose paths lie under prefix.
// Every exchange fails after timeout.
func NewDAV(addr, prefix string, timeout time.Duration) *DAV {
	return &DAV{addr: addr, prefix: prefix, c: httpwire.NewClient(addr, timeout)}
}

// Close closes the connection.
func (d *DAV) Close() { d.c.Close() }

func (d *DAV) escape(p string) string { return (&url.URL{Path: d.prefix + p}).EscapedPath() }

// Do sends a request for an unescaped path and returns the answer with its
// body. Header holds whole lines: "Depth: 1".
func (d *DAV) Do(method, p string, header []string, body []byte) (*httpwire.Response, []byte, error) {
	var got bytes.Buffer
	r, err := d.c.Do(&httpwire.Request{Method: method, Path: d.escape(p), Header: header, Body: body}, &got)
	return r, got.Bytes(), err
}

// Transfer sends COPY or MOVE with Overwrite: T.
func (d *DAV) Transfer(method, from, to string) (*httpwire.Response, error) {
	r, _, err := d.Do(method, from, []string{"Destination: http://" + d.addr + d.escape(to), "Overwrite: T"}, nil)
	return r, err
}

// Annotate sets the dead property urn:e2e note by PROPPATCH. It returns 207 if
// the property was set. The property's own status, which is part of the
// multistatus body, takes the place of a 207 that refuses it; it is 0 if the
// body cannot be understood.
func (d *DAV) Annotate(p, note string) (int, error) {
	body := `<?xml version="1.0"?><D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><n:note xmlns:n="urn:e2e">` +
		note + `</n:note></D:prop></D:set></D:propertyupdate>`
	r, text, err := d.Do("PROPPATCH", p, []string{"Content-Type: application/xml"}, []byte(body))
	if err != nil || r.Status != 207 {
		return status(r), err
	}
	var ms multistatus
	if xml.Unmarshal(text, &ms) != nil || len(ms.Responses) != 1 || len(ms.Responses[0].Propstats) != 1 {
		return 0, nil
	}
	_, line, _ := strings.Cut(ms.Responses[0].Propstats[0].Status, " ")
	code, _ := strconv.Atoi(line[:min(3, len(line))]) // Nonsense is 0 as well.
	if code == 200 {
		return 207, nil
	}
	return code, nil
}

type multistatus struct {
	XMLName   xml.Name   `xml:"DAV: multistatus"`
	Responses []response `xml:"DAV: response"`
}

type response struct {
	Href      string     `xml:"DAV: href"`
	Propstats []propstat `xml:"DAV: propstat"`
}

type propstat struct {
	Status string `xml:"DAV: status"`
	Prop   struct {
		Length string `xml:"DAV: getcontentlength"`
		ETag   string `xml:"DAV: getetag"`
		Type   struct {
			Collection *struct{} `xml:"DAV: collection"`
		} `xml:"DAV: resourcetype"`
		Note string `xml:"urn:e2e note"`
	} `xml:"DAV: prop"`
}

const listProps = `<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getcontentlength/><D:getetag/><n:note xmlns:n="urn:e2e"/></D:prop></D:propfind>`

// List returns the members of a collection, without the collection itself.
func (d *DAV) List(p string) ([]Entry, error) {
	r, body, err := d.Do("PROPFIND", p, []string{"Depth: 1", "Content-Type: application/xml"}, []byte(listProps))
	if err != nil {
		return nil, err
	}
	if r.Status != 207 {
		return nil, fmt.Errorf("PROPFIND %s: status %d", p, r.Status)
	}
	var ms multistatus
	if err := xml.Unmarshal(body, &ms); err != nil {
		return nil, fmt.Errorf("PROPFIND %s: %w", p, err)
	}
	var entries []Entry
	self := false
	for _, resp := range ms.Responses {
		e, err := d.entry(resp)
		if err != nil {
			return nil, fmt.Errorf("PROPFIND %s: %w", p, err)
		}
		if e.Path == path.Clean(p) {
			self = true
			continue
		}
		if path.Dir(e.Path) != path.Clean(p) {
			return nil, fmt.Errorf("PROPFIND %s: %q is no member of it", p, e.Path)
		}
		entries = append(entries, e)
	}
	if !self {
		return nil, fmt.Errorf("PROPFIND %s: the collection itself is missing", p)
	}
	return entries, nil
}

func (d *DAV) entry(resp response) (Entry, error) {
	u, err := url.Parse(resp.Href)
	if err != nil {
		return Entry{}, err
	}
	rest, ok := strings.CutPrefix(u.Path, d.prefix)
	if !ok {
		return Entry{}, fmt.Errorf("href %q is outside %q", resp.Href, d.prefix)
	}
	e := Entry{Path: path.Clean("/" + rest)}
	for _, ps := range resp.Propstats {
		if !strings.Contains(ps.Status, " 200") {
			continue
		}
		e.Dir = e.Dir || ps.Prop.Type.Collection != nil
		e.Size += ps.Prop.Length
		e.ETag += ps.Prop.ETag
		e.Note += ps.Prop.Note
	}
	return e, nil
}

// Walk calls visit for everything below a collection, parents first.
func (d *DAV) Walk(p string, visit func(Entry) error) error {
	entries, err := d.List(p)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := visit(e); err != nil {
			return err
		}
		if e.Dir {
			if err := d.Walk(e.Path, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// status returns the status of an answer that may be missing.
func status(r *httpwire.Response) int {
	if r == nil {
		return 0
	}
	return r.Status
}

// query sends a request without a body to a path with a query string.
func (d *DAV) query(method, p, query string, header []string) (*httpwire.Response, []byte, error) {
	var got bytes.Buffer
	r, err := d.c.Do(&httpwire.Request{Method: method, Path: d.escape(p) + "?" + query, Header: header}, &got)
	return r, got.Bytes(), err
}

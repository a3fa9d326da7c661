package webdav

import (
	"encoding/xml"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"engramfs/store"
)

// win32NS is the namespace of the properties that Windows sets after a copy.
const win32NS = "urn:schemas-microsoft-com:"

// ocNS is the namespace of ownCloud's properties, which rclone reads, too.
const ocNS = "http://owncloud.org/ns"

// liveProp is a property that the server computes.
type liveProp uint8

const (
	propResourceType liveProp = iota
	propContentLength
	propLastModified
	propETag
	propCreationDate
	propContentType
	propDisplayName
	propSupportedLock
	propLockDiscovery
	propQuotaAvailable
	propQuotaUsed
	propOCChecksums
	propLastModifiedUnix // what rclone and ownCloud's clients set
	propWin32CreationTime
	propWin32LastAccessTime
	propWin32LastModifiedTime
	numLiveProps
	notLive = numLiveProps
)

// liveRule says how one live property behaves.
type liveRule struct {
	name xml.Name
	// allprop: part of a PROPFIND without names. The rest is left out because
	// it repeats the href (displayname), is the same for every resource, must
	// not be there (quota, RFC 4331 section 2) or belongs to a vendor; Windows
	// gives up on a listing of more than 1 MB.
	allprop bool
	// settable: PROPPATCH may set it. Others are protected.
	settable bool
}

var liveRules = [numLiveProps]liveRule{
	propResourceType:          {name: xml.Name{Space: davNS, Local: "resourcetype"}, allprop: true},
	propContentLength:         {name: xml.Name{Space: davNS, Local: "getcontentlength"}, allprop: true},
	propLastModified:          {name: xml.Name{Space: davNS, Local: "getlastmodified"}, allprop: true, settable: true},
	propETag:                  {name: xml.Name{Space: davNS, Local: "getetag"}, allprop: true},
	propCreationDate:          {name: xml.Name{Space: davNS, Local: "creationdate"}, allprop: true, settable: true},
	propContentType:           {name: xml.Name{Space: davNS, Local: "getcontenttype"}, allprop: true},
	propDisplayName:           {name: xml.Name{Space: davNS, Local: "displayname"}},
	propSupportedLock:         {name: xml.Name{Space: davNS, Local: "supportedlock"}},
	propLockDiscovery:         {name: xml.Name{Space: davNS, Local: "lockdiscovery"}},
	propQuotaAvailable:        {name: xml.Name{Space: davNS, Local: "quota-available-bytes"}},
	propQuotaUsed:             {name: xml.Name{Space: davNS, Local: "quota-used-bytes"}},
	propOCChecksums:           {name: xml.Name{Space: ocNS, Local: "checksums"}},
	propLastModifiedUnix:      {name: xml.Name{Space: davNS, Local: "lastmodified"}, settable: true},
	propWin32CreationTime:     {name: xml.Name{Space: win32NS, Local: "Win32CreationTime"}, settable: true},
	propWin32LastAccessTime:   {name: xml.Name{Space: win32NS, Local: "Win32LastAccessTime"}, settable: true},
	propWin32LastModifiedTime: {name: xml.Name{Space: win32NS, Local: "Win32LastModifiedTime"}, settable: true},
}

// liveTags are the start and end tags of the live properties.
var liveTags = func() (tags [numLiveProps]struct{ start, end string }) {
	for i, rule := range liveRules {
		qname := string(appendPropTag(nil, rule.name))
		tags[i].start = "<" + qname + string(appendPropNS(nil, rule.name)) + ">"
		tags[i].end = "</" + qname + ">"
	}
	return tags
}()

var livePropsByName = func() map[xml.Name]liveProp {
	m := make(map[xml.Name]liveProp, numLiveProps)
	for i, rule := range liveRules {
		m[rule.name] = liveProp(i)
	}
	return m
}()

// livePropOf returns the live property of that name, or notLive.
func livePropOf(n xml.Name) liveProp {
	if p, ok := livePropsByName[n]; ok {
		return p
	}
	return notLive
}

// propResult says what became of a property of one resource.
type propResult uint8

const (
	propFound       propResult = iota
	propMissing                // 404
	propUnavailable            // 503: its lock is poisoned
)

const supportedLock = `<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>` +
	`<D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>`

// propEntry is one resource of a listing.
type propEntry struct {
	attr      *store.Attr
	name      string // last element of the path, "" for the root
	dir       string // path without links of the collection it was listed from, "" when name stands for real
	real      string // path without links, "" until it is needed
	recovered bool   // attr was read through a poisoned lock
}

// realPath returns the resource's path without links, which locks are on.
func (e *propEntry) realPath() string {
	if e.real == "" {
		e.real = path.Join(e.dir, e.name)
	}
	return e.real
}

// propRenderer appends live properties. It keeps what does not change within
// one request, so that rendering an entry allocates nothing.
type propRenderer struct {
	h     *Handler
	r     *request
	types map[string]string // content type by extension
	fs    store.StatFS
	fsErr error
	hasFS bool

	dateSec int64 // the second that date shows
	date    []byte
}

// reset prepares the renderer for a request.
func (p *propRenderer) reset(h *Handler, r *request) {
	p.h, p.r, p.hasFS = h, r, false
	if p.types == nil {
		p.types = map[string]string{}
	}
}

// append appends a live property as an element.
func (p *propRenderer) append(b []byte, prop liveProp, e *propEntry) ([]byte, propResult) {
	mark := len(b)
	b = append(b, liveTags[prop].start...)
	b, res := p.appendValue(b, prop, e)
	if res != propFound {
		return b[:mark], res
	}
	return append(b, liveTags[prop].end...), propFound
}

// appendValue appends the property's content.
func (p *propRenderer) appendValue(b []byte, prop liveProp, e *propEntry) ([]byte, propResult) {
	a := e.attr
	if a.IsDir() && (prop == propContentLength || prop == propContentType || prop == propETag) {
		return b, propMissing
	}
	switch prop {
	case propResourceType:
		if a.IsDir() {
			b = append(b, "<D:collection/>"...)
		}
	case propContentLength:
		b = strconv.AppendInt(b, a.Size, 10)
	case propLastModified, propWin32LastModifiedTime:
		b = p.appendHTTPDate(b, a.Mtime)
	case propWin32LastAccessTime:
		b = p.appendHTTPDate(b, a.Atime)
	case propWin32CreationTime:
		b = p.appendHTTPDate(b, a.Btime)
	case propLastModifiedUnix:
		b = strconv.AppendInt(b, shownSeconds(a.Mtime), 10)
	case propCreationDate:
		b = time.Unix(shownSeconds(a.Btime), 0).UTC().AppendFormat(b, time.RFC3339)
	case propETag:
		if e.recovered || a.Native {
			return b, propMissing
		}
		b = a.AppendETag(b)
	case propContentType:
		b = appendText(b, p.typeOf(e.name))
	case propDisplayName:
		b = appendText(b, e.name)
	case propSupportedLock:
		b = append(b, supportedLock...)
	case propLockDiscovery:
		return p.appendLocks(b, e)
	case propQuotaAvailable, propQuotaUsed:
		return p.appendQuota(b, prop, a)
	case propOCChecksums:
		return p.appendChecksums(b, e)
	}
	return b, propFound
}

// appendLocks appends the locks that apply to the resource.
func (p *propRenderer) appendLocks(b []byte, e *propEntry) ([]byte, propResult) {
	if p.h.locks.Len() == 0 {
		// Spares the path of every entry; a poisoned table still refuses.
		if _, err := p.h.locks.Covering(p.r.now, "/"); err != nil {
			return b, propUnavailable
		}
		return b, propFound
	}
	locks, err := p.h.locks.Covering(p.r.now, e.realPath())
	if err != nil {
		return b, propUnavailable
	}
	for i := range locks {
		b = p.h.appendActiveLock(b, &locks[i], p.r.now)
	}
	return b, propFound
}

// appendQuota appends the space of the whole store: bytes free for users or
// used by them. Only collections have it (RFC 4331 section 3).
func (p *propRenderer) appendQuota(b []byte, prop liveProp, a *store.Attr) ([]byte, propResult) {
	if !a.IsDir() {
		return b, propMissing
	}
	if !p.hasFS {
		p.fs, p.fsErr = p.h.store.StatFS(p.r.ctx)
		p.hasFS = true
	}
	if p.fsErr != nil {
		return b, propUnavailable
	}
	if prop == propQuotaUsed {
		return strconv.AppendInt(b, p.fs.Used, 10), propFound
	}
	return strconv.AppendInt(b, p.fs.Free, 10), propFound
}

// appendChecksums appends the digests of a file. Recovered data has none, nor has
// a file that is being written, or was since its attributes were read.
func (p *propRenderer) appendChecksums(b []byte, e *propEntry) ([]byte, propResult) {
	if !e.attr.IsRegular() || e.recovered {
		return b, propMissing
	}
	c, err := p.h.store.OpenContent(p.r.ctx, e.attr.Ino)
	if err != nil {
		return b, propMissing
	}
	defer c.Close()
	if c.Attr().Version != e.attr.Version {
		return b, propMissing
	}
	d, err := c.Digests(store.SHA1, store.MD5, store.SHA256)
	if err != nil {
		return b, propMissing
	}
	b, ok := appendOCChecksums(b, &d)
	if !ok {
		return b, propMissing
	}
	return b, propFound
}

// appendHTTPDate appends a time in ns as an HTTP date. Neighbours in a listing
// often share their second.
func (p *propRenderer) appendHTTPDate(b []byte, ns int64) []byte {
	sec := shownSeconds(ns)
	if len(p.date) == 0 || sec != p.dateSec {
		p.date = time.Unix(sec, 0).UTC().AppendFormat(p.date[:0], http.TimeFormat)
		p.dateSec = sec
	}
	return append(b, p.date...)
}

// shownSeconds cuts ns to seconds, at least 0: Finder refuses to mount a server
// that shows a date before 1970.
func shownSeconds(ns int64) int64 { return max(0, unixSeconds(ns)) }

// maxKnownTypes bounds propRenderer.types, which outlives its request.
const maxKnownTypes = 512

// typeOf returns what GET sends for a file of that name.
func (p *propRenderer) typeOf(name string) string {
	ext := path.Ext(name)
	if t, ok := p.types[ext]; ok {
		return t
	}
	t := contentType(name)
	if len(p.types) < maxKnownTypes {
		p.types[strings.Clone(ext)] = t
	}
	return t
}

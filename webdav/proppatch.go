package webdav

import (
	"bytes"
	"encoding/xml"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"engramfs/store"
)

// propOp is one instruction of a PROPPATCH.
type propOp struct {
	deadProp
	remove bool
}

// parsePropertyUpdate parses a PROPPATCH body (RFC 4918 section 14.19) into its
// instructions, in document order.
func parsePropertyUpdate(p *xmlParser) ([]propOp, error) {
	root, err := p.root()
	if errors.Is(err, errNoXML) {
		return nil, p.bad("empty body")
	}
	if err != nil {
		return nil, err
	}
	if root.Name != (xml.Name{Space: davNS, Local: "propertyupdate"}) {
		return nil, p.bad("root element is not DAV:propertyupdate")
	}
	var ops []propOp
	for {
		e, ok, err := p.child()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		switch e.Name {
		case xml.Name{Space: davNS, Local: "set"}:
			ops, err = p.propOps(ops, false)
		case xml.Name{Space: davNS, Local: "remove"}:
			ops, err = p.propOps(ops, true)
		default:
			err = p.skip()
		}
		if err != nil {
			return nil, err
		}
	}
	if len(ops) == 0 {
		return nil, p.bad("no property to set or remove")
	}
	return ops, p.finish()
}

// propOps reads the prop elements of the innermost set or remove element.
func (p *xmlParser) propOps(ops []propOp, remove bool) ([]propOp, error) {
	for {
		e, ok, err := p.child()
		if err != nil || !ok {
			return ops, err
		}
		if e.Name != (xml.Name{Space: davNS, Local: "prop"}) {
			if err := p.skip(); err != nil {
				return nil, err
			}
			continue
		}
		for {
			e, ok, err := p.child()
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			if len(ops) >= maxPropNames {
				return nil, p.bad("more than %d properties", maxPropNames)
			}
			op := propOp{remove: remove, deadProp: deadProp{name: e.Name, lang: e.Lang}}
			if remove {
				err = p.skip()
			} else {
				op.value, err = p.inner()
			}
			if err != nil {
				return nil, err
			}
			ops = append(ops, op)
		}
	}
}

// propStatus is what became of one property of a PROPPATCH.
type propStatus struct {
	name      xml.Name
	code      int    // 0: can be done
	condition string // local name of a DAV: precondition
}

// propPlan is a PROPPATCH as one change of the store.
type propPlan struct {
	attrs  map[string][]byte // extended attributes to set, or to remove where nil
	set    store.SetAttr
	status []propStatus // each property once, in document order
	failed bool
}

// planPropPatch translates instructions. A later one for the same property wins,
// as if they were carried out in order.
func planPropPatch(ops []propOp) *propPlan {
	plan := &propPlan{attrs: map[string][]byte{}}
	for _, op := range ops {
		st := plan.add(op)
		plan.failed = plan.failed || st.code != 0
		i := slices.IndexFunc(plan.status, func(s propStatus) bool { return s.name == op.name })
		switch {
		case i < 0:
			plan.status = append(plan.status, st)
		case plan.status[i].code == 0:
			plan.status[i] = st
		}
	}
	if plan.failed {
		for i := range plan.status {
			if plan.status[i].code == 0 {
				plan.status[i].code = http.StatusFailedDependency
			}
		}
	}
	return plan
}

// add adds one instruction and returns its status.
func (plan *propPlan) add(op propOp) propStatus {
	live := livePropOf(op.name)
	if live == notLive {
		attr, value := encodeDead(op.deadProp)
		if op.remove {
			value = nil
		}
		if len(value) > store.MaxXattrValue {
			return propStatus{name: op.name, code: http.StatusInsufficientStorage}
		}
		plan.attrs[attr] = value
		return propStatus{name: op.name}
	}
	if op.remove || !liveRules[live].settable {
		return propStatus{name: op.name, code: http.StatusForbidden, condition: "cannot-modify-protected-property"}
	}
	t, ok := parsePropTime(live, op.value)
	if !ok {
		return propStatus{name: op.name, code: http.StatusConflict}
	}
	if t.IsZero() {
		return propStatus{name: op.name} // Windows has no such time: leave it
	}
	switch live {
	case propCreationDate, propWin32CreationTime:
		plan.set.Btime = &t
	case propWin32LastAccessTime:
		plan.set.Atime = &t
	default:
		plan.set.Mtime = &t
	}
	return propStatus{name: op.name}
}

// parsePropTime parses the value of a settable time in any form that clients
// send: an HTTP date (Windows, and what getlastmodified has), RFC 3339
// (creationdate) or decimal Unix seconds (rclone and ownCloud's clients). Zero
// stands for Windows' "no time", which it sends as the year 1601.
func parsePropTime(live liveProp, value []byte) (t time.Time, ok bool) {
	s := string(bytes.TrimSpace(value))
	if sec, err := strconv.ParseFloat(s, 64); err == nil {
		if win32 := liveRules[live].name.Space == win32NS; win32 || !(sec >= 0 && sec <= 1<<33) {
			return t, false
		}
		whole, frac, _ := strings.Cut(s, ".")
		return parseDecimalTime(whole, frac)
	}
	t, err := http.ParseTime(s)
	if err != nil {
		t, err = time.Parse(time.RFC3339Nano, s)
	}
	if err != nil {
		return t, false
	}
	if t.Year() == 1601 && liveRules[live].name.Space == win32NS {
		return time.Time{}, true
	}
	return t, t.Unix() >= 0 && t.Year() < 2200 // what nanoseconds can hold
}

// parseDecimalTime parses Unix seconds with up to nine decimals.
func parseDecimalTime(whole, frac string) (time.Time, bool) {
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	frac = (frac + "000000000")[:9]
	ns, err := strconv.ParseUint(frac, 10, 32)
	return time.Unix(sec, int64(ns)), err == nil
}

// proppatch serves PROPPATCH: all instructions in one batch, or none
// (RFC 4918 section 9.2).
func (h *Handler) proppatch(w http.ResponseWriter, r *request) error {
	ops, err := parsePropertyUpdate(newXMLParser(r.Body))
	if err != nil {
		return xmlError(err)
	}
	real, a, err := h.lookup(r.ctx, r.path)
	if err != nil {
		return noResource(err)
	}
	if err := h.confirmPropPatch(r, ops, real); err != nil {
		return err
	}
	cond := h.writeCond(r)
	if err := r.precheck(cond, &a); err != nil {
		return err
	}
	plan := planPropPatch(ops)
	if !plan.failed {
		if _, err := h.store.PatchXattrs(r.ctx, a.Ino, plan.attrs, plan.set, cond); err != nil {
			return err
		}
		if err := h.sync(r); err != nil {
			return err
		}
	}
	return plan.answer(h, w, r, a.IsDir())
}

// confirmPropPatch asks for the resource's locks. Office sets the Win32 times
// of a file that it has locked without the lock's token; those it may.
func (h *Handler) confirmPropPatch(r *request, ops []propOp, real string) error {
	foreign := slices.ContainsFunc(ops, func(op propOp) bool { return op.name.Space != win32NS })
	if !foreign {
		locks, err := h.locks.Covering(r.now, real)
		if err != nil {
			return err
		}
		theirs := slices.ContainsFunc(locks, func(l store.DAVLock) bool { return l.Principal != r.principal })
		if !theirs {
			return h.confirm(r)
		}
	}
	return h.confirm(r, lockNeed{path: real})
}

// answer writes the 207: one propstat for each different outcome.
func (plan *propPlan) answer(h *Handler, w http.ResponseWriter, r *request, isDir bool) error {
	m := newMultistatus(h, w, r)
	defer m.release()
	m.begin()
	m.b = append(m.b, "<D:response><D:href>"...)
	m.b = h.appendHref(m.b, r.path, isDir)
	m.b = append(m.b, "</D:href>"...)
	for len(plan.status) > 0 {
		first := plan.status[0]
		same := func(s propStatus) bool { return s.code == first.code && s.condition == first.condition }
		m.b = append(m.b, propstatOpen...)
		for _, s := range plan.status {
			if same(s) {
				m.b = appendPropName(m.b, s.name)
			}
		}
		m.b = append(m.b, "</D:prop><D:status>HTTP/1.1 "...)
		m.b = appendStatus(m.b, first.code)
		m.b = append(m.b, "</D:status>"...)
		if first.condition != "" {
			m.b = append(m.b, "<D:error><D:"+first.condition+"/></D:error>"...)
		}
		m.b = append(m.b, "</D:propstat>"...)
		plan.status = slices.DeleteFunc(plan.status, same)
	}
	m.b = append(m.b, "</D:response>"...)
	return m.end()
}

// appendStatus appends a status code with its text; 0 is 200.
func appendStatus(b []byte, code int) []byte {
	if code == 0 {
		code = http.StatusOK
	}
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(b, ' ')
	return append(b, http.StatusText(code)...)
}

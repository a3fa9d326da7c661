package webdav

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"time"

	"engramfs/store"
)

// lockNeed says which locks a change has to hold the tokens of.
type lockNeed struct {
	path string // the changed resource's path without links
	// entry: the collection's member of that name appears, vanishes or is
	// replaced, so that a lock on the collection itself, of any depth,
	// protects it too (RFC 4918 section 7.4).
	entry bool
	// tree: everything below changes too, so that locks within count
	// (RFC 4918 section 9.6.1).
	tree bool
}

// confirm evaluates the If header and checks that the tokens of all needed
// locks were submitted by the principal that took them. It returns 412 when
// the header is false, 423 with the locked resources' hrefs when a token is
// missing, and the lock table's own error when that refuses to answer.
func (h *Handler) confirm(r *request, need ...lockNeed) error {
	if r.ifs.present() {
		ok, err := h.evalIf(r)
		if err != nil {
			return err
		}
		if !ok {
			return errPrecondition
		}
	}
	return h.confirmLocks(r, r.now, need...)
}

// entryNeed is the need of a change by which an entry appears, vanishes or is
// replaced; cur is what it names now, nil for nothing.
func entryNeed(path string, cur *store.Attr) lockNeed {
	return lockNeed{path: path, entry: true, tree: cur != nil && cur.IsDir()}
}

// contentNeed is the need of a change of a file's content; cur is nil if that
// creates the file.
func contentNeed(path string, cur *store.Attr) lockNeed {
	return lockNeed{path: path, entry: cur == nil}
}

// withLocks adds to a condition, which may be nil, that the locks are asked for
// that need says. It is for the store to ask under the change's own locks: a lock
// that was taken since confirm, while a body came in or a tree was copied, counts.
// Who gets a lock after that reads what the change has made.
func (h *Handler) withLocks(r *request, cond store.Cond, path string, need func(string, *store.Attr) lockNeed) store.Cond {
	return func(cur *store.Attr) error {
		if err := h.confirmLocks(r, h.store.Now(), need(path, cur)); err != nil || cond == nil {
			return err
		}
		return cond(cur)
	}
}

// confirmLocks is confirm without the If header, which may have been true at the
// start because of a lock that has ended meanwhile. It looks up nothing, so that it
// can be called inside a change.
func (h *Handler) confirmLocks(r *request, now time.Time, need ...lockNeed) error {
	for _, n := range need {
		if err := h.confirmResource(r, now, n.path); err != nil {
			return err
		}
		if n.entry && n.path != "/" {
			if err := h.confirmResource(r, now, parentOf(n.path)); err != nil {
				return err
			}
		}
		if n.tree {
			if err := h.confirmTree(r, now, n.path); err != nil {
				return err
			}
		}
	}
	return nil
}

// confirmResource asks for the locks that apply to one resource. Of several,
// which are shared then, one token is enough (RFC 4918 section 7).
func (h *Handler) confirmResource(r *request, now time.Time, p string) error {
	locks, err := h.locks.Covering(now, p)
	if err != nil || len(locks) == 0 || len(r.heldLocks(locks)) > 0 {
		return err
	}
	return h.lockedBy(locks)
}

// confirmTree asks for the locks below p: for each locked resource, one of
// the locks that cover it.
func (h *Handler) confirmTree(r *request, now time.Time, p string) error {
	locks, err := h.locks.Within(now, p)
	if err != nil {
		return err
	}
	held := r.heldLocks(locks)
	var missing []store.DAVLock
	for i := range locks {
		if locks[i].Path != p && !held.cover(locks[i].Path) { // of p itself confirmResource asked
			missing = append(missing, locks[i])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return h.lockedBy(missing)
}

// heldLocks are the roots of locks that a request holds, and whether they are infinite.
// A principal may have thousands: comparing each with each would take too long.
type heldLocks map[string]bool

// heldLocks returns those of the locks whose token the request submitted and that its
// principal took. A token that leaked opens nothing (RFC 4918 section 6.4).
func (r *request) heldLocks(locks []store.DAVLock) heldLocks {
	tokens := map[string]bool{}
	for _, token := range r.ifs.tokens() {
		tokens[token] = true
	}
	held := heldLocks{}
	for i := range locks {
		if l := &locks[i]; l.Principal == r.principal && tokens[l.Token] {
			held[l.Path] = held[l.Path] || l.Infinite
		}
	}
	return held
}

// cover reports whether one of the locks applies to p.
func (held heldLocks) cover(p string) bool {
	if _, ok := held[p]; ok {
		return true
	}
	for len(held) > 0 && p != "/" {
		if p = parentOf(p); held[p] {
			return true
		}
	}
	return false
}

// lockedBy is the 423 that names the roots of the locks in the way.
func (h *Handler) lockedBy(locks []store.DAVLock) error {
	return &statusError{code: http.StatusLocked, condition: "lock-token-submitted", hrefs: h.lockRoots(locks), err: store.ErrLocked}
}

// lockRoots returns the hrefs of the locks' roots, each once.
func (h *Handler) lockRoots(locks []store.DAVLock) []string {
	var hrefs []string
	seen := make(map[string]bool, len(locks))
	for i := range locks {
		if p := locks[i].Path; !seen[p] {
			seen[p] = true
			hrefs = append(hrefs, h.href(p, false))
		}
	}
	return hrefs
}

// ifState is what the conditions of an If header are about.
type ifState struct {
	etag  string // as tagOf returns it
	locks []store.DAVLock
}

// evalIf evaluates the If header against the store, and notes in every list
// how it fared.
func (h *Handler) evalIf(r *request) (bool, error) {
	states := map[string]ifState{}
	any := false
	for i := range r.ifs.lists {
		l := &r.ifs.lists[i]
		if l.foreign {
			continue
		}
		p := l.about(r.path)
		s, ok := states[p]
		if !ok {
			var err error
			if s, err = h.ifStateOf(r.ctx, r.now, p); err != nil {
				return false, err
			}
			states[p] = s
		}
		l.tokensOK = l.tokensHold(s)
		l.held = l.tokensOK && l.etagsHold(s.etag)
		any = any || l.held
	}
	return any, nil
}

// ifStateOf looks up what a list's conditions are compared with.
func (h *Handler) ifStateOf(ctx context.Context, now time.Time, p string) (ifState, error) {
	var s ifState
	real, a, err := h.lookup(ctx, p)
	switch {
	case err == nil:
		s.etag = tagOf(&a)
	case errors.Is(err, fs.ErrNotExist):
		real = h.unmappedPath(ctx, p)
	default:
		return s, err
	}
	s.locks, err = h.locks.Covering(now, real)
	return s, err
}

// unmappedPath returns the path without links of a name that does not exist.
func (h *Handler) unmappedPath(ctx context.Context, p string) string {
	if _, _, real, err := h.lookupParent(ctx, p); err == nil {
		return real
	}
	return path.Clean(p)
}

// tokensHold reports whether the list's conditions on state tokens hold.
func (l *ifList) tokensHold(s ifState) bool {
	for i := range l.conds {
		c := &l.conds[i]
		if c.token == "" {
			continue
		}
		locked := slices.ContainsFunc(s.locks, func(k store.DAVLock) bool { return k.Token == c.token })
		if locked == c.not {
			return false
		}
	}
	return true
}

// etagsHold reports whether the list's conditions on entity tags hold for a
// resource with this tag, "" for none. Tags compare strongly (RFC 4918
// section 10.4.4).
func (l *ifList) etagsHold(etag string) bool {
	for i := range l.conds {
		c := &l.conds[i]
		if c.token == "" && (etag != "" && c.etag == etag) == c.not {
			return false
		}
	}
	return true
}

package webdav

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/webdav"

	"engramfs/store"
)

// temporaryToken is what Create returns for a lock that x/net's Handler takes
// around one request without an If header.
const temporaryToken = "engramfs:temporary"

// lockSystem is the store's lock table as x/net/webdav knows one.
type lockSystem struct {
	h         *Handler
	principal string
}

var _ webdav.LockSystem = lockSystem{}

// LockSystem returns the store's locks for x/net/webdav's Handler. Its interface
// knows no users, so the locks made through it belong to principal, and no others
// can be used through it.
//
// x/net's Handler guards a request without an If header by a lock of depth 0,
// without owner and without end. Such a Create only checks that nobody's lock
// covers the resource, so that two uploads to one name do not refuse each other.
// A wrapper must therefore give LOCK requests without a Timeout header one.
func (h *Handler) LockSystem(principal string) webdav.LockSystem {
	return lockSystem{h, principal}
}

// Confirm implements webdav.LockSystem. The conditions hold when each does for
// one of the two resources; then every resource that is locked must be so by a
// token among them. A resource that nobody locks needs none: Windows saves by a
// MOVE with the token of the source alone.
func (ls lockSystem) Confirm(now time.Time, name0, name1 string, conditions ...webdav.Condition) (release func(), err error) {
	var states []lockSystemState
	for _, name := range []string{name0, name1} {
		if name == "" {
			continue
		}
		s, err := ls.state(now, path.Clean("/"+name))
		if err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	for _, c := range conditions {
		holds := func(s lockSystemState) bool { return s.holds(c) }
		if slices.ContainsFunc(states, holds) == c.Not {
			return nil, webdav.ErrConfirmationFailed
		}
	}
	for _, s := range states {
		held := func(l store.DAVLock) bool {
			return l.Principal == ls.principal && slices.ContainsFunc(conditions, func(c webdav.Condition) bool {
				return !c.Not && c.Token == l.Token
			})
		}
		if len(s.locks) > 0 && !slices.ContainsFunc(s.locks, held) {
			return nil, webdav.ErrConfirmationFailed
		}
	}
	return func() {}, nil
}

// lockSystemState is what conditions on a resource are compared with.
type lockSystemState struct {
	etag  string // "" when there is no resource
	locks []store.DAVLock
}

// holds evaluates a condition without its Not.
func (s lockSystemState) holds(c webdav.Condition) bool {
	if c.Token == "" {
		return s.etag != "" && s.etag == c.ETag
	}
	return slices.ContainsFunc(s.locks, func(l store.DAVLock) bool { return l.Token == c.Token })
}

func (ls lockSystem) state(now time.Time, name string) (s lockSystemState, err error) {
	a, err := ls.h.store.LookupPath(context.Background(), name)
	switch {
	case err == nil:
		s.etag = tagOf(&a)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, store.ErrNotDir):
		return s, err
	}
	s.locks, err = ls.h.locks.Covering(now, name)
	return s, err
}

// Create implements webdav.LockSystem.
func (ls lockSystem) Create(now time.Time, d webdav.LockDetails) (token string, err error) {
	root := path.Clean("/" + d.Root)
	if d.Duration < 0 && d.ZeroDepth && d.OwnerXML == "" {
		locks, err := ls.h.locks.Covering(now, root)
		if err == nil && len(locks) > 0 {
			err = webdav.ErrLocked
		}
		return temporaryToken, err
	}
	l, err := ls.h.locks.Create(now, store.DAVLock{
		Path:      root,
		Infinite:  !d.ZeroDepth,
		Owner:     string(appendFragment(nil, []byte(d.OwnerXML))), // as sent: its prefixes may be undeclared
		Principal: ls.principal,
		Timeout:   d.Duration,
	})
	if errors.Is(err, store.ErrLocked) {
		return "", webdav.ErrLocked
	}
	if err == nil {
		err = ls.h.store.Sync(context.Background())
	}
	return l.Token, err
}

// Refresh implements webdav.LockSystem. It works also while a request under the
// lock is running.
func (ls lockSystem) Refresh(now time.Time, token string, duration time.Duration) (webdav.LockDetails, error) {
	l, err := ls.h.locks.Get(now, token)
	if err == nil && l.Principal != ls.principal {
		err = store.ErrNoLock
	}
	if err == nil {
		l, err = ls.h.locks.Refresh(now, token, duration)
	}
	if errors.Is(err, store.ErrNoLock) {
		return webdav.LockDetails{}, webdav.ErrNoSuchLock
	}
	if err != nil {
		return webdav.LockDetails{}, err
	}
	return webdav.LockDetails{Root: l.Path, Duration: l.Timeout, OwnerXML: l.Owner, ZeroDepth: !l.Infinite}, nil
}

// Unlock implements webdav.LockSystem.
func (ls lockSystem) Unlock(now time.Time, token string) error {
	if token == temporaryToken {
		return nil
	}
	l, err := ls.h.locks.Get(now, strings.TrimSpace(token))
	if err == nil && l.Principal != ls.principal {
		return webdav.ErrForbidden
	}
	if err == nil {
		err = ls.h.locks.Unlock(now, l.Token)
	}
	if errors.Is(err, store.ErrNoLock) {
		return webdav.ErrNoSuchLock
	}
	return err
}

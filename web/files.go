package web

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"engramfs/store"
)

// OpenHandle is a file that clients hold open.
type OpenHandle struct {
	Path  string     `json:"path"`
	Ino   uint64     `json:"ino"`
	Door  string     `json:"door"` // webdav or fuse
	Opens int        `json:"opens"`
	Write bool       `json:"write"` // at least one may write
	Since *time.Time `json:"since"` // of the first; null: unknown
	// Openers are the processes that have opened it through the mount, as far as the
	// kernel tells of them. They may have handed it on.
	Openers []Opener `json:"openers"`
}

// Opener is a process of this machine.
type Opener struct {
	PID  int    `json:"pid"`
	Name string `json:"name,omitempty"` // of the program that has this pid now; absent: none does
}

// String returns what people call it.
func (o Opener) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s pid %d", o.Name, o.PID))
}

// DAVLock is a WebDAV lock of a client. Its id stands for its token, which is
// the client's secret.
type DAVLock struct {
	ID        string    `json:"id"`
	Path      string    `json:"path"`
	Depth     string    `json:"depth"` // 0 or infinity
	Scope     string    `json:"scope"` // exclusive or shared
	Principal string    `json:"principal,omitempty"`
	Owner     string    `json:"owner,omitempty"` // as the client gave it, XML
	Expires   time.Time `json:"expires"`
}

// Answers of the lists of files.
type (
	// DamageList is the answer of GET /api/v1/damaged.
	DamageList struct {
		Damaged []store.Damage `json:"damaged"`
	}
	// HandleList is the answer of GET /api/v1/handles.
	HandleList struct {
		Handles []OpenHandle `json:"handles"`
	}
	// DAVLockList is the answer of GET /api/v1/davlocks.
	DAVLockList struct {
		Locks []DAVLock `json:"locks"`
	}
	// BreakRequest is the body of the breaking of a WebDAV lock; it may be left out.
	BreakRequest struct {
		Reason string `json:"reason,omitempty"` // for the audit log
	}
)

func (a *Server) fileOperations() []operation {
	return []operation{
		get("/api/v1/damaged", "listDamaged", "files", "Content that failed its checks", a.getDamaged),
		get("/api/v1/handles", "listHandles", "files", "Files that clients hold open", a.getHandles),
		get("/api/v1/davlocks", "listDAVLocks", "files", "WebDAV locks of clients", a.getDAVLocks),
		postOptional("/api/v1/davlocks/{id}/break", "breakDAVLock", "files", "Take a WebDAV lock from its client", a.postBreak),
	}
}

func (a *Server) getDamaged(http.ResponseWriter, *http.Request) (DamageList, error) {
	list, err := a.damaged()
	return DamageList{append([]store.Damage{}, list...)}, err
}

// damaged returns the places with damaged content, by file.
func (a *Server) damaged() ([]store.Damage, error) { return a.askDamaged(a.probes.damaged.ask) }

// knownDamage is damaged as far as it was told: with an error there may be more.
func (a *Server) knownDamage() ([]store.Damage, error) {
	return a.askDamaged(a.probes.damaged.askOrLast)
}

func (a *Server) askDamaged(ask func(func() ([]store.Damage, error)) ([]store.Damage, error)) ([]store.Damage, error) {
	d, ok := a.store.(damager)
	if !ok {
		return nil, errNotHere
	}
	return ask(func() ([]store.Damage, error) { return d.Damaged(), nil })
}

func (a *Server) getHandles(http.ResponseWriter, *http.Request) (HandleList, error) {
	if a.o.Handles == nil {
		return HandleList{}, errNotHere
	}
	list, err := a.probes.handles.ask(func() ([]OpenHandle, error) { return a.o.Handles(), nil })
	list = append([]OpenHandle{}, list...)
	for i := range list {
		list[i].Openers = append([]Opener{}, list[i].Openers...)
	}
	return HandleList{list}, err
}

func (a *Server) getDAVLocks(http.ResponseWriter, *http.Request) (DAVLockList, error) {
	locks, err := a.davLocks()
	if err != nil {
		return DAVLockList{}, err
	}
	list := DAVLockList{Locks: []DAVLock{}}
	for _, l := range locks {
		list.Locks = append(list.Locks, davLockOf(l))
	}
	return list, nil
}

// davLocks returns the live WebDAV locks, by path.
func (a *Server) davLocks() ([]store.DAVLock, error) {
	d, ok := a.store.(davLocker)
	if !ok {
		return nil, errNotHere
	}
	return a.probes.davLocks.ask(func() ([]store.DAVLock, error) {
		locks, err := d.DAVLocks().Within(a.now(), "/")
		slices.SortFunc(locks, func(x, y store.DAVLock) int { return strings.Compare(x.Path+x.Token, y.Path+y.Token) })
		return locks, err
	})
}

func davLockOf(l store.DAVLock) DAVLock {
	d := DAVLock{
		ID: davLockID(l.Token), Path: l.Path, Depth: "0", Scope: "exclusive",
		Principal: l.Principal, Owner: l.Owner, Expires: l.Expires.UTC(),
	}
	if l.Infinite {
		d.Depth = "infinity"
	}
	if l.Shared {
		d.Scope = "shared"
	}
	return d
}

func davLockID(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}

func (a *Server) postBreak(_ http.ResponseWriter, r *http.Request, in BreakRequest) (DAVLock, error) {
	id, err := pathParam(r, "id")
	if err != nil {
		return DAVLock{}, err
	}
	return a.breakDAVLock(r, id, in.Reason)
}

// breakDAVLock removes a WebDAV lock, for the API and the page alike. The client
// is told when it uses the lock the next time.
func (a *Server) breakDAVLock(r *http.Request, id, reason string) (DAVLock, error) {
	locks, err := a.davLocks()
	if err != nil {
		return DAVLock{}, err
	}
	i := slices.IndexFunc(locks, func(l store.DAVLock) bool { return davLockID(l.Token) == id })
	if i < 0 {
		return DAVLock{}, store.ErrNoLock
	}
	l := locks[i]
	act := action{name: "davlock.break", target: l.Path, reason: reason, facts: map[string]any{"id": id, "principal": l.Principal}}
	err = a.do(r, act, func(*action) error {
		return a.store.(davLocker).DAVLocks().Unlock(a.now(), l.Token)
	})
	return davLockOf(l), err
}

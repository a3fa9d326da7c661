// Package auth is HTTP Basic authentication (RFC 7617) with argon2id hashes
// that costs a verified client no hashing on its later requests, and the check
// of host names that keeps web pages away from a server without passwords.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxVerified = 1024    // credentials remembered as right
	maxHeader   = 4 << 10 // bytes of an Authorization header
	challenge   = `Basic realm="EngramFS", charset="UTF-8"`
	kdfSlots    = 2 // hashes computed at the same time
)

// Options of New.
type Options struct {
	Users  Users
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Authenticator checks credentials against a set of users. Its methods may be
// called by several goroutines at once.
type Authenticator struct {
	// Immutable after New.
	logger *slog.Logger
	now    func() time.Time
	dummy  Hash          // hashed against for unknown names, so that they take as long
	slots  chan struct{} // bounds the memory and CPU that logins take
	macs   sync.Pool     // of *mac

	table   atomic.Pointer[table]
	backoff backoff
	kdfs    atomic.Int64 // hashes computed
}

// table is one set of users with the credentials that were verified against
// it. A new set of users is a new table, so a removed user is out at once.
type table struct {
	users Users // immutable

	// mu protects the field below.
	mu sync.RWMutex

	// verified maps the keyed hash of an Authorization header to the user's
	// name. Looking up a keyed hash leaks nothing through its timing: whoever
	// does not know the key cannot choose it.
	verified map[[sha256.Size]byte]string
}

// New returns an Authenticator. With no users it refuses everybody.
func New(o Options) *Authenticator {
	a := &Authenticator{logger: o.Logger, now: o.Now, dummy: NewHash(NewPassword()), slots: make(chan struct{}, kdfSlots)}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails, see crypto/rand
	a.macs.New = func() any { return &mac{hash: hmac.New(sha256.New, key)} }
	a.SetUsers(o.Users)
	return a
}

// SetUsers replaces the users. Credentials of the old set are verified again.
func (a *Authenticator) SetUsers(u Users) {
	a.table.Store(&table{users: maps.Clone(u), verified: map[[sha256.Size]byte]string{}})
}

// Require lets only authenticated requests reach next, and hands the user's
// name on: see Principal. Others are answered 401, or 429 with Retry-After
// after too many wrong passwords from one address.
func (a *Authenticator) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header["Authorization"]
		if len(header) != 1 {
			refuse(w)
			return
		}
		a.serve(w, r, header[0], next)
	})
}

// RequireDAV is Require for a WebDAV server: OPTIONS passes without
// credentials, because clients ask for it before they know that they need
// any (RFC 4918 section 10.1). Its answer must not depend on the resource.
func (a *Authenticator) RequireDAV(next http.Handler) http.Handler {
	require := a.Require(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions && len(r.Header["Authorization"]) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		require.ServeHTTP(w, r)
	})
}

// Optional hands a request without credentials to next with no principal, and
// one with credentials as Require does.
func (a *Authenticator) Optional(next http.Handler) http.Handler {
	require := a.Require(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Authorization"]) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		require.ServeHTTP(w, r)
	})
}

func (a *Authenticator) serve(w http.ResponseWriter, r *http.Request, header string, next http.Handler) {
	t := a.table.Load()
	mac := a.mac(header)
	name, ok := t.lookup(mac)
	if !ok {
		if name, ok = a.login(w, r, t, header, mac); !ok {
			return
		}
	}
	next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, name)))
}

// login verifies a header that is not known to be right, and answers the
// request itself if it is wrong.
func (a *Authenticator) login(w http.ResponseWriter, r *http.Request, t *table, header string, mac [sha256.Size]byte) (string, bool) {
	name, password, ok := parseBasic(header)
	if !ok {
		refuse(w)
		return "", false
	}
	addr := remoteAddr(r)
	if a.tooMany(w, addr) {
		return "", false
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-r.Context().Done(): // the client may still read, and nothing would be a 200
		http.Error(w, "too many logins at once", http.StatusServiceUnavailable)
		return "", false
	}
	// A client opens many connections at once: one of them has paid by now.
	if known, ok := t.lookup(mac); ok {
		return known, true
	}
	// Asked again, or guesses sent all at once would pass all at once.
	if a.tooMany(w, addr) {
		return "", false
	}
	if !a.verify(t, name, password) {
		a.backoff.fail(addr, a.now())
		a.logger.Warn("login refused", "user", name, "remote", r.RemoteAddr)
		refuse(w)
		return "", false
	}
	t.remember(mac, name)
	return name, true
}

// tooMany answers 429 if addr has to wait before its next attempt.
func (a *Authenticator) tooMany(w http.ResponseWriter, addr netip.Addr) bool {
	wait := a.backoff.wait(addr, a.now())
	if wait == 0 {
		return false
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
	http.Error(w, "too many wrong passwords", http.StatusTooManyRequests)
	return true
}

func (a *Authenticator) verify(t *table, name, password string) bool {
	h, known := t.users[name]
	if !known {
		h = a.dummy
	}
	a.kdfs.Add(1)
	return h.Matches(password) && known
}

// mac computes keyed hashes without allocating.
type mac struct {
	hash hash.Hash // keyed with this process's secret
	in   []byte
	out  []byte
}

func (a *Authenticator) mac(header string) (sum [sha256.Size]byte) {
	if len(header) > maxHeader {
		return sum // never a key of verified: parseBasic refuses it too
	}
	m := a.macs.Get().(*mac)
	m.hash.Reset()
	m.in = append(m.in[:0], header...)
	m.hash.Write(m.in)
	m.out = m.hash.Sum(m.out[:0])
	copy(sum[:], m.out)
	clear(m.in)
	a.macs.Put(m)
	return sum
}

func (t *table) lookup(mac [sha256.Size]byte) (string, bool) {
	t.mu.RLock()
	name, ok := t.verified[mac]
	t.mu.RUnlock()
	return name, ok
}

func (t *table) remember(mac [sha256.Size]byte, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.verified) >= maxVerified {
		for old := range t.verified { // any one: it is verified again when it returns
			delete(t.verified, old)
			break
		}
	}
	t.verified[mac] = name
}

// parseBasic splits a Basic header into name and password. A Windows domain
// before the name is dropped: Explorer sends DOMAIN\name for whatever was
// typed.
func parseBasic(header string) (name, password string, ok bool) {
	const scheme = "basic "
	if len(header) > maxHeader || len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return "", "", false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(header[len(scheme):]))
	if err != nil {
		return "", "", false
	}
	name, password, ok = strings.Cut(string(raw), ":")
	if i := strings.LastIndexByte(name, '\\'); i >= 0 {
		name = name[i+1:]
	}
	return name, password, ok && name != "" && len(name) <= MaxName && len(password) <= MaxPassword
}

func refuse(w http.ResponseWriter) {
	h := w.Header()
	h.Set("WWW-Authenticate", challenge)
	h.Set("Cache-Control", "no-store")
	http.Error(w, "authentication required", http.StatusUnauthorized)
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}

type principalKey struct{}

// Principal returns the name of the user who sent the request, "" if it was
// not authenticated.
func Principal(r *http.Request) string {
	name, _ := r.Context().Value(principalKey{}).(string)
	return name
}

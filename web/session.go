package web

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"sync"
	"time"
)

// How long a login on the page lasts, and how many there may be.
const (
	sessionIdle = 2 * time.Hour  // without a request
	sessionLife = 12 * time.Hour // in all
	maxSessions = 1000
)

// sessionKey is the hash of a session's cookie: looking it up says nothing of
// the cookie through its timing, and the memory of the server holds no cookie.
type sessionKey [sha256.Size]byte

func keyOf(cookie string) sessionKey { return sha256.Sum256([]byte(cookie)) }

// sessions are the logins on the page. They live in memory: a restart ends them.
type sessions struct {
	now func() time.Time

	// mu protects the fields below.
	mu sync.Mutex

	byKey map[sessionKey]*session
	// generation grows when all sessions end.
	generation uint64
}

type session struct {
	user          string
	begun, lastly time.Time
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, byKey: map[sessionKey]*session{}}
}

// current returns the generation of the sessions that begin now.
func (s *sessions) current() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}

// begin returns the cookie of a new session of user, whose password was looked at
// in a generation. If all sessions have ended since then, because the users have
// changed, there is none. Expired sessions make room for it, or else the one that was
// not used for the longest time.
func (s *sessions) begin(user string, generation uint64) (cookie string, ok bool) {
	b := make([]byte, 32)
	rand.Read(b) // never fails, see crypto/rand
	cookie = base64.RawURLEncoding.EncodeToString(b)
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if generation != s.generation {
		return "", false
	}
	if len(s.byKey) >= maxSessions {
		s.makeRoomLocked(now)
	}
	s.byKey[keyOf(cookie)] = &session{user: user, begun: now, lastly: now}
	return cookie, true
}

func (s *sessions) makeRoomLocked(now time.Time) {
	var oldest sessionKey
	var at time.Time
	for key, v := range s.byKey {
		if v.expired(now) {
			delete(s.byKey, key)
		} else if at.IsZero() || v.lastly.Before(at) {
			oldest, at = key, v.lastly
		}
	}
	if len(s.byKey) >= maxSessions {
		delete(s.byKey, oldest)
	}
}

func (v *session) expired(now time.Time) bool {
	return now.Sub(v.lastly) >= sessionIdle || now.Sub(v.begun) >= sessionLife
}

// use returns whose session it is, and counts as a request of it.
func (s *sessions) use(key sessionKey) (user string, ok bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byKey[key]
	if v == nil {
		return "", false
	}
	if v.expired(now) {
		delete(s.byKey, key)
		return "", false
	}
	v.lastly = now
	return v.user, true
}

// live reports whether the session has not ended. It does not count as a request.
func (s *sessions) live(key sessionKey) bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byKey[key]
	return v != nil && !v.expired(now)
}

// endOf ends all sessions of user, in whatever browser.
func (s *sessions) endOf(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byKey, func(_ sessionKey, v *session) bool { return v.user == user })
}

// endAll ends all sessions, also those that are about to begin.
func (s *sessions) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.byKey)
	s.generation++
}

// cookieName binds the cookie to this host and to TLS where there is TLS
// (RFC 6265bis section 4.1.3.2).
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-engramfs"
	}
	return "engramfs"
}

// setCookie hands a session to the browser; an empty value takes it back.
func setCookie(w http.ResponseWriter, r *http.Request, value string) {
	c := &http.Cookie{
		Name: cookieName(r), Value: value, Path: "/", MaxAge: int(sessionLife / time.Second),
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

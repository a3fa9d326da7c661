package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// identity is who sent a request.
type identity struct {
	name string
	via  string // password, token, session or open; "": nobody
	key  sessionKey
}

type identityKey struct{}

func whoIs(r *http.Request) identity {
	id, _ := r.Context().Value(identityKey{}).(identity)
	return id
}

// tokenActor is the name of whoever sends the token.
const tokenActor = "token"

// minToken is the shortest token that is accepted, in bytes.
const minToken = 32

// LoadToken returns the token in the file at path, and makes the file with a
// random token and mode 0600 if it does not exist. A file that others may read,
// or whose token is short, is refused.
func LoadToken(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeToken(path)
	}
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("admin token: %s has mode %04o: others may read it, want 0600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < minToken {
		return "", fmt.Errorf("admin token: %s has %d characters, want at least %d", path, len(token), minToken)
	}
	return token, nil
}

// makeToken writes a new token beside path and renames it, so that no half of
// one is ever read.
func makeToken(path string) (_ string, err error) {
	b := make([]byte, 32)
	rand.Read(b) // never fails, see crypto/rand
	token := base64.RawURLEncoding.EncodeToString(b)
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // with mode 0600
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what matters is the error before
			err = fmt.Errorf("admin token: %w", err)
		}
	}()
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return "", err
	}
	return token, syncDir(filepath.Dir(path))
}

// admit lets requests reach next that may, and says who they are of. Requests
// without any credentials reach it only if open.
func (a *Server) admit(open bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := a.identify(r)
		if err == nil && id.via == "" && !open {
			err = errNoLogin
		}
		if err != nil {
			a.writeError(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, id)))
	})
}

// identify returns who sent r: nobody, if it has no credentials, and an error
// if they are wrong. A header wins over a cookie.
func (a *Server) identify(r *http.Request) (identity, error) {
	header := r.Header["Authorization"]
	if len(header) == 1 && a.o.Token != "" && isBearer(header[0]) {
		if !sameSecret(strings.TrimSpace(header[0][len(bearer):]), a.o.Token) {
			a.log.Warn("admin token refused", "remote", r.RemoteAddr)
			return identity{}, errNoLogin
		}
		return identity{name: tokenActor, via: "token"}, nil
	}
	if !a.private {
		return identity{name: a.o.Principal(r), via: "open"}, nil
	}
	if len(header) > 0 {
		name, err := a.verify(r)
		return identity{name: name, via: "password"}, err
	}
	return a.sessionOf(r)
}

const bearer = "bearer "

func isBearer(header string) bool {
	return len(header) > len(bearer) && strings.EqualFold(header[:len(bearer)], bearer)
}

// sameSecret compares in time that says nothing of how much is alike.
func sameSecret(x, y string) bool {
	hx, hy := sha256.Sum256([]byte(x)), sha256.Sum256([]byte(y))
	return subtle.ConstantTimeCompare(hx[:], hy[:]) == 1
}

// sessionOf returns the identity that r's cookie stands for. A browser adds the
// cookie to a request by itself, so a change with it needs the browser's word,
// which sameOrigin has checked, that one of our pages asked for it.
func (a *Server) sessionOf(r *http.Request) (identity, error) {
	c, err := r.Cookie(cookieName(r))
	if err != nil {
		return identity{}, nil
	}
	key := keyOf(c.Value)
	user, ok := a.sessions.use(key)
	if !ok {
		return identity{}, nil
	}
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !safe && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return identity{}, errCrossOrigin
	}
	return identity{name: user, via: "session", key: key}, nil
}

// verify asks Options.Require about the credentials in r's header.
func (a *Server) verify(r *http.Request) (name string, err error) {
	var admitted *http.Request
	answer := &statusRecorder{header: http.Header{}}
	a.o.Require(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { admitted = r })).ServeHTTP(answer, r)
	switch {
	case admitted != nil:
		return a.o.Principal(admitted), nil
	case answer.status == http.StatusTooManyRequests:
		return "", &waitError{answer.header.Get("Retry-After"), errTooMany}
	}
	return "", errNoLogin
}

// statusRecorder keeps the header of an answer that nobody is to see.
type statusRecorder struct {
	header http.Header
	status int
}

func (s *statusRecorder) Header() http.Header         { return s.header }
func (s *statusRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (s *statusRecorder) WriteHeader(status int)      { s.status = status }

// challenge says how to log in (RFC 9110 section 11.6.1). A browser is not
// offered Basic: it would open a window of its own over our login.
func challenge(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Sec-Fetch-Mode") == "" && r.Header.Get("Origin") == "" {
		w.Header().Add("WWW-Authenticate", `Basic realm="EngramFS", charset="UTF-8"`)
	}
	w.Header().Add("WWW-Authenticate", `Bearer realm="EngramFS"`)
}

package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func newTest(t testing.TB) (*Authenticator, *time.Time) {
	t.Helper()
	now := time.Unix(1_700_000_000, 0)
	a := New(Options{
		Users: Users{"ann": NewHash("secret"), "bob": NewHash("pass:word")},
		Now:   func() time.Time { return now },
	})
	return a, &now
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func send(h http.Handler, method, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/x", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "user=%s", Principal(r)) })

func TestRequire(t *testing.T) {
	a, _ := newTest(t)
	h := a.Require(echo)
	for _, c := range []struct {
		name, header string
		want         int
		user         string
	}{
		{"None", "", 401, ""},
		{"Right", basic("ann", "secret"), 200, "ann"},
		{"ColonInPassword", basic("bob", "pass:word"), 200, "bob"},
		{"WindowsDomain", basic(`DESKTOP\ann`, "secret"), 200, "ann"},
		{"SchemeAnyCase", strings.Replace(basic("ann", "secret"), "Basic", "bAsIc", 1), 200, "ann"},
		{"WrongPassword", basic("ann", "Secret"), 401, ""},
		{"EmptyPassword", basic("ann", ""), 401, ""},
		{"OtherUsersPassword", basic("ann", "pass:word"), 401, ""},
		{"UnknownUser", basic("eve", "secret"), 401, ""},
		{"NoName", basic("", "secret"), 401, ""},
		{"NotBase64", "Basic !!!", 401, ""},
		{"NoColon", "Basic " + base64.StdEncoding.EncodeToString([]byte("ann")), 401, ""},
		{"OtherScheme", "Bearer abc", 401, ""},
		{"SchemeOnly", "Basic", 401, ""},
		{"TooLong", basic("ann", strings.Repeat("x", MaxPassword+1)), 401, ""},
		{"FarTooLong", basic("ann", strings.Repeat("x", 1<<20)), 401, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := send(h, http.MethodGet, c.header)
			if w.Code != c.want {
				t.Fatalf("status = %d, want %d", w.Code, c.want)
			}
			if c.want == 401 && w.Header().Get("WWW-Authenticate") != challenge {
				t.Errorf("WWW-Authenticate = %q", w.Header().Get("WWW-Authenticate"))
			}
			if c.want == 200 && w.Body.String() != "user="+c.user {
				t.Errorf("body = %q, want user=%s", w.Body, c.user)
			}
		})
	}
}

func TestTwoAuthorizationHeadersAreRefused(t *testing.T) {
	a, _ := newTest(t)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Authorization"] = []string{basic("ann", "secret"), basic("ann", "secret")}
	w := httptest.NewRecorder()
	a.Require(echo).ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("status = %d, want 401", w.Code)
	}
}

func TestEveryMethodNeedsCredentials(t *testing.T) {
	a, _ := newTest(t)
	for _, m := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "JUNK"} {
		if w := send(a.RequireDAV(echo), m, ""); w.Code != 401 {
			t.Errorf("RequireDAV %s = %d, want 401", m, w.Code)
		}
		if w := send(a.Require(echo), m, ""); w.Code != 401 {
			t.Errorf("Require %s = %d, want 401", m, w.Code)
		}
	}
	if w := send(a.RequireDAV(echo), "OPTIONS", ""); w.Code != 200 {
		t.Errorf("RequireDAV OPTIONS = %d, want 200", w.Code)
	}
	if w := send(a.RequireDAV(echo), "OPTIONS", basic("ann", "wrong")); w.Code != 401 {
		t.Errorf("RequireDAV OPTIONS with a wrong password = %d, want 401", w.Code)
	}
	if w := send(a.Require(echo), "OPTIONS", ""); w.Code != 401 {
		t.Errorf("Require OPTIONS = %d, want 401", w.Code)
	}
}

func TestOptional(t *testing.T) {
	a, _ := newTest(t)
	h := a.Optional(echo)
	if w := send(h, "GET", ""); w.Code != 200 || w.Body.String() != "user=" {
		t.Errorf("no credentials: %d %q", w.Code, w.Body)
	}
	if w := send(h, "GET", basic("ann", "secret")); w.Body.String() != "user=ann" {
		t.Errorf("right credentials: %d %q", w.Code, w.Body)
	}
	if w := send(h, "GET", basic("ann", "wrong")); w.Code != 401 {
		t.Errorf("wrong credentials = %d, want 401", w.Code)
	}
}

func TestVerifiedPasswordIsNotHashedAgain(t *testing.T) {
	a, _ := newTest(t)
	h := a.Require(echo)
	for range 50 {
		if w := send(h, "GET", basic("ann", "secret")); w.Code != 200 {
			t.Fatalf("status = %d", w.Code)
		}
	}
	if n := a.kdfs.Load(); n != 1 {
		t.Errorf("hashes computed = %d, want 1", n)
	}
}

func TestConcurrentFirstRequestsHashOnce(t *testing.T) {
	a, _ := newTest(t)
	h := a.Require(echo)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if w := send(h, "GET", basic("ann", "secret")); w.Code != 200 {
				t.Errorf("status = %d", w.Code)
			}
		})
	}
	wg.Wait()
	if n := a.kdfs.Load(); n > kdfSlots {
		t.Errorf("hashes computed = %d, want at most %d", n, kdfSlots)
	}
}

func TestWrongPasswordIsNeverRemembered(t *testing.T) {
	a, _ := newTest(t)
	h := a.Require(echo)
	for range 3 {
		if w := send(h, "GET", basic("ann", "wrong")); w.Code != 401 {
			t.Fatalf("status = %d, want 401", w.Code)
		}
	}
	if n := a.kdfs.Load(); n != 3 {
		t.Errorf("hashes computed = %d, want 3", n)
	}
}

func TestUnknownUserCostsAHash(t *testing.T) {
	a, _ := newTest(t)
	send(a.Require(echo), "GET", basic("eve", "secret"))
	if n := a.kdfs.Load(); n != 1 {
		t.Errorf("hashes computed = %d, want 1", n)
	}
}

func TestSetUsersForgetsVerified(t *testing.T) {
	a, _ := newTest(t)
	h := a.Require(echo)
	send(h, "GET", basic("ann", "secret"))
	a.SetUsers(Users{"ann": NewHash("changed")})
	if w := send(h, "GET", basic("ann", "secret")); w.Code != 401 {
		t.Errorf("old password = %d, want 401", w.Code)
	}
	if w := send(h, "GET", basic("ann", "changed")); w.Code != 200 {
		t.Errorf("new password = %d, want 200", w.Code)
	}
}

func TestVerifiedIsBounded(t *testing.T) {
	tb := &table{verified: map[[32]byte]string{}}
	for i := range 3 * maxVerified {
		tb.remember([32]byte{byte(i), byte(i >> 8)}, "x")
	}
	if n := len(tb.verified); n != maxVerified {
		t.Errorf("remembered = %d, want %d", n, maxVerified)
	}
}

func TestGuessingIsSlowedDown(t *testing.T) {
	a, now := newTest(t)
	h := a.Require(echo)
	if w := send(h, "GET", basic("bob", "pass:word")); w.Code != 200 {
		t.Fatalf("status = %d", w.Code)
	}
	for i := range failureBurst {
		if w := send(h, "GET", basic("ann", fmt.Sprint(i))); w.Code != 401 {
			t.Fatalf("guess %d = %d, want 401", i, w.Code)
		}
	}
	w := send(h, "GET", basic("ann", "secret"))
	if w.Code != 429 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("after %d guesses = %d, want 429 with Retry-After", failureBurst, w.Code)
	}
	if w := send(h, "GET", basic("bob", "pass:word")); w.Code != 200 {
		t.Errorf("a verified client = %d, want 200", w.Code)
	}
	*now = now.Add(failureRefill)
	if w := send(h, "GET", basic("ann", "secret")); w.Code != 200 {
		t.Errorf("after the wait = %d, want 200", w.Code)
	}
}

func TestBackoffIsBoundedAndFoldsIPv6(t *testing.T) {
	var b backoff
	now := time.Unix(0, 0)
	for i := range maxAddresses + 100 {
		b.fail(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if n := len(b.full); n > maxAddresses {
		t.Errorf("addresses = %d, want at most %d", n, maxAddresses)
	}
	for range failureBurst {
		b.fail(netip.MustParseAddr("2001:db8::1"), now)
	}
	if b.wait(netip.MustParseAddr("2001:db8::ffff"), now) == 0 {
		t.Error("another address of the same /64 need not wait")
	}
	if b.wait(netip.MustParseAddr("2001:db8:0:1::1"), now) != 0 {
		t.Error("an address of another /64 has to wait")
	}
}

func TestHashRoundTrip(t *testing.T) {
	h := NewHash("pässwörd")
	again, err := ParseHash(h.String())
	if err != nil {
		t.Fatal(err)
	}
	if !again.Matches("pässwörd") || again.Matches("passwort") {
		t.Error("the parsed hash does not decide like the original")
	}
	if (Hash{}).Matches("") {
		t.Error("the zero Hash matches")
	}
	if again := NewHash("pässwörd"); again.String() == h.String() {
		t.Error("two hashes of one password are equal: the salt is not random")
	}
}

func TestParseHashRefuses(t *testing.T) {
	good := NewHash("x").String()
	for _, s := range []string{
		"", "$", "plain", strings.Replace(good, "argon2id", "argon2i", 1), strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=19456", "m=99999999", 1), strings.Replace(good, "t=2", "t=0", 1),
		strings.Replace(good, "p=1", "p=0", 1), good[:len(good)-30], good + "!", good + "$",
	} {
		if _, err := ParseHash(s); !errors.Is(err, errHash) {
			t.Errorf("ParseHash(%q) = %v, want errHash", s, err)
		}
	}
}

func TestUsersFileRoundTrip(t *testing.T) {
	in := Users{"ann": NewHash("a"), "zoë": NewHash("z")}
	var b bytes.Buffer
	if _, err := in.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	out, err := ReadUsers(&b)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 2 || !out["ann"].Matches("a") || !out["zoë"].Matches("z") {
		t.Errorf("read back %d users", len(out))
	}
}

func TestReadUsersNamesTheLine(t *testing.T) {
	h := NewHash("a").String()
	for _, c := range []struct{ file, want string }{
		{"# comment\n\nann:topsecret\n", "line 3"},
		{"ann:" + h + "\nann:" + h + "\n", "line 2"},
		{"a b:" + h, "line 1"},
		{"ann", "line 1"},
	} {
		_, err := ReadUsers(strings.NewReader(c.file))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ReadUsers(%q) = %v, want it to name %s", c.file, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestParseUser(t *testing.T) {
	name, h, err := ParseUser("ann:a:b")
	if err != nil || name != "ann" || !h.Matches("a:b") {
		t.Errorf("ParseUser = %q, %v", name, err)
	}
	if _, h, err = ParseUser("ann:" + NewHash("q").String()); err != nil || !h.Matches("q") {
		t.Errorf("ParseUser of a hash: %v", err)
	}
	for _, s := range []string{"", "ann", "ann:", ":x", "a\\b:x", "a b:x", "ann:a\nb", "ann:$argon2id$nonsense", "a\xff:x", "#a:x"} {
		if _, _, err := ParseUser(s); err == nil {
			t.Errorf("ParseUser(%q) was accepted", s)
		}
	}
}

func TestNewPasswordIsRandom(t *testing.T) {
	if p := NewPassword(); len(p) != 20 || p == NewPassword() {
		t.Errorf("NewPassword = %q", p)
	}
}

func TestHosts(t *testing.T) {
	h := Hosts([]string{"nas.lan", "Files.Example.com."}, echo)
	for host, want := range map[string]int{
		"localhost":              200,
		"localhost:8081":         200,
		"LOCALHOST":              200,
		"a.localhost:1":          200,
		"127.0.0.1:8081":         200,
		"127.0.0.1":              200,
		"[::1]:8081":             200,
		"[::1]":                  200,
		"192.168.1.5:8081":       200,
		"nas.lan:8081":           200,
		"NAS.LAN.":               200,
		"files.example.com":      200,
		"evil.example":           421,
		"evil.example:8081":      421,
		"localhost.evil.example": 421,
		"127.0.0.1.evil.example": 421,
		"evillocalhost":          421,
		"":                       421,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Host %q = %d, want %d", host, w.Code, want)
		}
	}
}

func BenchmarkRequireVerified(b *testing.B) {
	a, _ := newTest(b)
	h := a.Require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Authorization", basic("ann", "secret"))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

// TestLoginThatIsGivenUp: a client that no longer sends may still read, and an answer that
// nobody writes is a 200.
func TestLoginThatIsGivenUp(t *testing.T) {
	a, _ := newTest(t)
	for range kdfSlots {
		a.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	r.SetBasicAuth("ann", "secret")
	w := httptest.NewRecorder()
	a.Require(echo).ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "user=") {
		t.Errorf("%d %q, want 503", w.Code, w.Body)
	}
}

package web

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"engramfs/internal/auth"
)

const testToken = "0123456789abcdef0123456789abcdef"

// guarded returns a server that asks for credentials, its store, and its audit log.
func guarded(t *testing.T, change ...func(*Options)) (*Server, *rich, *Audit) {
	t.Helper()
	f := newRich()
	o := richOptions(f)
	gate(&o)
	o.Token = testToken
	audit, err := OpenAudit(filepath.Join(t.TempDir(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	o.Audit = audit
	for _, c := range change {
		c(&o)
	}
	a := New(o)
	t.Cleanup(func() {
		a.Close()
		_ = audit.Close() // a test may have closed it
	})
	return a, f, audit
}

// logIn returns the cookie of a session of ann.
func logIn(t *testing.T, h http.Handler) *http.Cookie {
	t.Helper()
	w := serve(h, "POST", "/login", "user=ann&password=right&next=/events", formHeader...)
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/events" {
		t.Fatalf("login = %d to %q\n%s", w.Code, w.Header().Get("Location"), w.Body)
	}
	cookies := w.Result().Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies = %v", cookies)
	}
	return cookies[0]
}

var formHeader = []string{"Content-Type", "application/x-www-form-urlencoded"}

func TestReadsNeedCredentials(t *testing.T) {
	a, _, _ := guarded(t)
	for _, op := range a.table {
		if op.method != http.MethodGet || op.open {
			continue
		}
		target, _, _ := callOf("get", op.path)
		if w := serve(a, "GET", target, ""); w.Code != 401 {
			t.Errorf("GET %s = %d, want 401", target, w.Code)
		}
	}
	for _, path := range []string{"/", "/events", "/events/3", "/locks/inode:7"} {
		w := serve(a, "GET", path, "")
		if w.Code != 303 || !strings.HasPrefix(w.Header().Get("Location"), "/login?next=") {
			t.Errorf("GET %s = %d to %q, want the login", path, w.Code, w.Header().Get("Location"))
		}
	}
}

func TestWaysIn(t *testing.T) {
	a, _, audit := guarded(t)
	cookie := logIn(t, a)
	for _, c := range []struct {
		name, actor, via string
		header           []string
	}{
		{"Password", "ann", "password", []string{"Authorization", basicAnn}},
		{"Token", tokenActor, "token", []string{"Authorization", "Bearer " + testToken}},
		{"TokenAnyCase", tokenActor, "token", []string{"Authorization", "bearer " + testToken}},
		{"Session", "ann", "session", []string{"Cookie", cookie.Name + "=" + cookie.Value, "Sec-Fetch-Site", "same-origin"}},
		{"HeaderBeforeCookie", tokenActor, "token", []string{"Authorization", "Bearer " + testToken, "Cookie", cookie.Name + "=" + cookie.Value}},
	} {
		w := serve(a, "POST", "/api/v1/drills", `{"path": "/photos/2024", "cause": "panic"}`, c.header...)
		lines, err := audit.last(1)
		if w.Code != 200 || err != nil || lines[0].Actor != c.actor || lines[0].Via != c.via || lines[0].Action != "drill.arm" {
			t.Errorf("%s = %d, audit %+v, %v", c.name, w.Code, lines, err)
		}
	}
}

// A browser says with every POST where it comes from; a cookie without that is
// of no browser that we know.
func TestSessionNeedsTheBrowsersWord(t *testing.T) {
	a, f, _ := guarded(t)
	cookie := logIn(t, a)
	w := serve(a, "POST", "/drills", "path=/photos/2024&cause=panic", append(formHeader, "Cookie", cookie.Name+"="+cookie.Value)...)
	if w.Code != 403 || f.calls() != "" {
		t.Errorf("POST = %d, called %q", w.Code, f.calls())
	}
	if w := serve(a, "GET", "/", "", "Cookie", cookie.Name+"="+cookie.Value); w.Code != 200 {
		t.Errorf("GET = %d", w.Code)
	}
}

func TestSessionEnds(t *testing.T) {
	clock := now
	a, _, _ := guarded(t, func(o *Options) { o.Now = func() time.Time { return clock } })
	in := func(c *http.Cookie) bool {
		return serve(a, "GET", "/", "", "Cookie", c.Name+"="+c.Value).Code == 200
	}
	idle := logIn(t, a)
	clock = clock.Add(sessionIdle - time.Second)
	if !in(idle) {
		t.Error("the session has ended too soon")
	}
	clock = clock.Add(sessionIdle)
	if in(idle) {
		t.Error("an idle session goes on")
	}
	busy := logIn(t, a)
	for range 23 {
		clock = clock.Add(time.Hour / 2)
		if !in(busy) {
			t.Fatal("a used session has ended")
		}
	}
	clock = clock.Add(time.Hour)
	if in(busy) {
		t.Error("a session goes on for ever")
	}
	out := logIn(t, a)
	w := serve(a, "POST", "/logout", "", "Cookie", out.Name+"="+out.Value, "Sec-Fetch-Site", "same-origin")
	if w.Code != 303 || in(out) || w.Result().Cookies()[0].MaxAge >= 0 {
		t.Errorf("logout = %d, still in: %t", w.Code, in(out))
	}
	all := logIn(t, a)
	if a.EndSessions(); in(all) {
		t.Error("EndSessions ends none")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	clock := now
	s := newSessions(func() time.Time { clock = clock.Add(time.Millisecond); return clock })
	begin := func(user string) string {
		cookie, ok := s.begin(user, s.current())
		if !ok {
			t.Fatalf("no session for %s", user)
		}
		return cookie
	}
	first, second := begin("first"), begin("second")
	s.use(keyOf(first))
	for range maxSessions - 1 {
		begin("x")
	}
	if len(s.byKey) != maxSessions {
		t.Errorf("%d sessions", len(s.byKey))
	}
	if _, ok := s.use(keyOf(second)); ok {
		t.Error("the session that was not used for the longest time is still there")
	}
	if user, _ := s.use(keyOf(first)); user != "first" {
		t.Error("a used session is gone")
	}
}

func TestCookieIsOutOfReach(t *testing.T) {
	a, _, _ := guarded(t)
	c := logIn(t, a)
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || len(c.Value) < 40 {
		t.Errorf("cookie = %+v", c)
	}
	server := httptest.NewTLSServer(a)
	defer server.Close()
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	answer, err := client.PostForm(server.URL+"/login", url.Values{"user": {"ann"}, "password": {"right"}})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if c := answer.Cookies(); len(c) != 1 || !c[0].Secure || c[0].Name != "__Host-engramfs" {
		t.Errorf("over TLS: %+v", c)
	}
}

func TestLogin(t *testing.T) {
	a, _, audit := guarded(t)
	for _, c := range []struct {
		form   string
		status int
		says   string
	}{
		{"user=ann&password=wrong", 401, "is wrong"},
		{"user=nobody&password=right", 401, "is wrong"},
		{"", 401, "is wrong"},
		{"user=eve&password=right", 429, "Try again in 7 s"},
	} {
		w := serve(a, "POST", "/login", c.form, formHeader...)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) || len(w.Result().Cookies()) != 0 {
			t.Errorf("%q = %d", c.form, w.Code)
		}
		if strings.Contains(w.Body.String(), "right") || strings.Contains(w.Body.String(), "wrong\"") {
			t.Errorf("%q: the page shows the password", c.form)
		}
	}
	if w := serve(a, "POST", "/login", "user=ann&password=right", append(formHeader, "Sec-Fetch-Site", "cross-site")...); w.Code != 403 {
		t.Errorf("a login from another site = %d", w.Code)
	}
	if lines, _ := audit.last(10); len(lines) != 0 {
		t.Errorf("audit log: %+v", lines)
	}
}

func TestLoginLeadsNowhereElse(t *testing.T) {
	for next, want := range map[string]string{
		"/": "/", "/events?before=3": "/events?before=3", "": "/", "events": "/", "//evil.example": "/", "https://evil.example/": "/",
		`/\evil.example`: "/", "/\t/evil.example": "/", "javascript:alert(1)": "/", "/%2f/evil": "/%2f/evil",
	} {
		if got := localPath(next); got != want {
			t.Errorf("localPath(%q) = %q, want %q", next, got, want)
		}
	}
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.token")
	token, err := LoadToken(path)
	if err != nil || len(token) < minToken {
		t.Fatalf("LoadToken = %q, %v", token, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if again, err := LoadToken(path); err != nil || again != token {
		t.Errorf("again: %q, %v", again, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadToken(path); err == nil || !strings.Contains(err.Error(), "0640") {
		t.Errorf("readable by the group: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("short\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadToken(path); err == nil || strings.Contains(err.Error(), "short") {
		t.Errorf("a short token: %v", err)
	}
}

// As the program wires it: users with hashed passwords, and a limit of guesses.
func TestWithTheRealAuthentication(t *testing.T) {
	real := auth.New(auth.Options{Users: auth.Users{"ann": auth.NewHash("right")}})
	o := richOptions(newRich())
	o.Require, o.Optional, o.Principal = real.Require, real.Optional, auth.Principal
	a := New(o)
	defer a.Close()
	w := serve(a, "POST", "/login", "user=ann&password=right", formHeader...)
	if w.Code != 303 || len(w.Result().Cookies()) != 1 {
		t.Errorf("login = %d", w.Code)
	}
	for range 15 {
		if serve(a, "POST", "/login", "user=ann&password=wrong", formHeader...).Code == 429 {
			return
		}
	}
	t.Error("15 wrong passwords may be tried in a row")
}

// A login that was looked at before the users changed must not outlive the change.
func TestLoginAcrossAChangeOfUsers(t *testing.T) {
	var a *Server
	a, _, audit := guarded(t, func(o *Options) {
		require := o.Require
		o.Require = func(next http.Handler) http.Handler {
			return require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r)
				a.EndSessions() // the password is right, and then it is changed
			}))
		}
	})
	w := serve(a, "POST", "/login", "user=ann&password=right", formHeader...)
	if w.Code != 401 || len(w.Result().Cookies()) != 0 || len(a.sessions.byKey) != 0 {
		t.Errorf("login = %d, cookies %v, %d sessions", w.Code, w.Result().Cookies(), len(a.sessions.byKey))
	}
	if lines, err := audit.last(1); err != nil || lines[0].Action != "login" || lines[0].Result != "unauthorized" {
		t.Errorf("audit log: %+v, %v", lines, err)
	}
}

func TestLogoutEndsAllSessionsOfTheUser(t *testing.T) {
	a, _, _ := guarded(t)
	bob := serve(a, "POST", "/login", "user=bob&password=right", formHeader...).Result().Cookies()[0]
	here, elsewhere := logIn(t, a), logIn(t, a)
	in := func(c *http.Cookie) bool {
		return serve(a, "GET", "/", "", "Cookie", c.Name+"="+c.Value).Code == 200
	}
	serve(a, "POST", "/logout", "", "Cookie", here.Name+"="+here.Value, "Sec-Fetch-Site", "same-origin")
	if in(here) || in(elsewhere) || !in(bob) {
		t.Errorf("after the logout of ann: here %t, elsewhere %t, bob %t", in(here), in(elsewhere), in(bob))
	}
}

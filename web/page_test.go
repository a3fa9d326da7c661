package web

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"engramfs/store"
	"engramfs/store/poison"
)

// Without a browser: every state has its word, its headline and its action.
func TestEveryStateIsRendered(t *testing.T) {
	headlines := map[string]string{
		"online": "All is well", "degraded": "Changes to /photos/2024 are refused", "rebuilding": "/photos/2024 is being rebuilt",
		"damaged": "is damaged", "second-copy": "is not up to date. Everything is served", "read-only": "Nothing can be changed", "stuck": "A request holds /music/live", "unknown": "cannot be told", "several": "does not let go. Whoever needs it waits. There are 4 more problems.",
	}
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			w := serve(newState(t, s), "GET", "/", "")
			page := w.Body.String()
			if w.Code != 200 || !strings.Contains(page, headlines[s.name]) || !strings.Contains(page, `data-state="`+string(s.want)+`"`) {
				t.Errorf("page = %d, without %q", w.Code, headlines[s.name])
			}
			title, _, _ := strings.Cut(page[strings.Index(page, "<title>"):], "</title>")
			if !strings.Contains(title, strings.ToUpper(string(s.want))) {
				t.Errorf("title %s", title)
			}
			if online := s.want == Online; online == strings.Contains(page, "<dt>Problem</dt>") || online == strings.Contains(page, "<dt>Action</dt>") {
				t.Error("problem and action are there exactly when something is wrong")
			}
		})
	}
}

// How long the state has been this one, whatever else is older.
func TestStateHasItsOwnTime(t *testing.T) {
	for name, want := range map[string]string{
		"degraded": "</strong> for 3 minutes, since", "rebuilding": "</strong> for 4 seconds, since", "stuck": "</strong> for 41 seconds, since", "several": "Stuck</strong></dd>",
	} {
		i := slices.IndexFunc(states, func(s state) bool { return s.name == name })
		if page := serve(newState(t, states[i]), "GET", "/", "").Body.String(); !strings.Contains(page, want) {
			t.Errorf("%s: no %q", name, want)
		}
	}
}

// A new lock of the store must not reach the page as "a part of the store".
func TestEveryDomainLockHasWords(t *testing.T) {
	s, _, _ := newLive(t)
	for _, l := range s.Locks() {
		if guards(l.Name) == "a part of the store" {
			t.Errorf("the page has no words for lock %s", l.Name)
		}
	}
}

func TestHeadlineOfDomainLocks(t *testing.T) {
	for name, want := range map[string]string{
		"alloc": "Creating files and folders does not work.", "dav-locks": "Locking through WebDAV does not work.",
	} {
		f := newRich()
		ev := &poison.Event{ID: "e", Lock: name, Op: "x", Cause: poison.Panic, Gen: 9, At: poisonedAt}
		f.locks = []store.LockStatus{{Name: name, State: lockPoisoned, Class: "durable", Gen: 9, Event: ev}}
		if page := serve(New(richOptions(f)), "GET", "/", "").Body.String(); !strings.Contains(page, want) {
			t.Errorf("%s: no %q", name, want)
		}
	}
}

func TestManyTroublesAreCounted(t *testing.T) {
	f := newRich()
	for range 30 {
		f.locks = append(f.locks, f.locks[3])
	}
	page := serve(New(richOptions(f)), "GET", "/", "").Body.String()
	for _, want := range []string{"There are 30 more problems.", "(31 problems)", "11 more"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
}

func TestWatchdogThatIsLateMakesTheHealthUnknown(t *testing.T) {
	f := newRich()
	f.locks = f.locks[:3]
	o := richOptions(f)
	seen := now
	o.Snapshot = func() poison.Snapshot { return poison.Snapshot{WatchedAt: seen} }
	a := New(o)
	if h := a.health(); h.Status != Online {
		t.Errorf("status %s", h.Status)
	}
	seen = now.Add(-time.Minute)
	if h := a.health(); h.Status != Unknown || !strings.Contains(h.Problem, "since 2026-03-04 14:04:20 UTC") {
		t.Errorf("status %s: %s", h.Status, h.Problem)
	}
}

var (
	inlineScript = regexp.MustCompile(`(?i)<script(?:>|[^>]*[^>]>[^<])|\son[a-z]+=|javascript:`)
	inlineStyle  = regexp.MustCompile(`(?i)<style|\sstyle=`)
	foreign      = regexp.MustCompile(`(?:src|href|action)="(?:https?:)?//`)
)

// A section that panics shows as unknown, and takes neither the page nor the
// server with it.
func TestBrokenSectionIsUnknown(t *testing.T) {
	o := richOptions(newRich())
	o.Config = func() []Setting { panic("boom") }
	o.Handles = func() []OpenHandle { panic("boom") }
	o.Engine = func() EngineStats { panic("boom") }
	w := serve(New(o), "GET", "/", "")
	if page := w.Body.String(); w.Code != 200 || !strings.Contains(page, "The open files are <strong>unknown") || !strings.Contains(page, "The rest") || strings.Contains(page, "boom") {
		t.Errorf("page = %d\n%s", w.Code, page)
	}
}

// The policy forbids what is inline or from elsewhere, so no page may have it.
func TestPagesObeyTheirPolicy(t *testing.T) {
	a, _, _ := guarded(t)
	for _, path := range []string{"/", "/events", "/events/3", "/locks/inode:7", "/login", "/locks/nothing"} {
		w := serve(a, "GET", path, "", "Authorization", basicAnn)
		policy := w.Header().Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: policy without %s", path, want)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %s", path, policy)
		}
		for _, bad := range []*regexp.Regexp{inlineScript, inlineStyle, foreign} {
			if found := bad.FindString(w.Body.String()); found != "" {
				t.Errorf("%s has %q", path, found)
			}
		}
	}
	for _, sample := range []string{`<script>x</script>`, `<p onclick="x">`, `<p style="x">`, `<img src="//x">`} {
		if !inlineScript.MatchString(sample) && !inlineStyle.MatchString(sample) && !foreign.MatchString(sample) {
			t.Errorf("%s would pass", sample)
		}
	}
}

// Names come from users: none of them may become markup.
func TestNamesAreNoMarkup(t *testing.T) {
	const evil = `/<img src=x onerror=alert(1)>"'&`
	f := newRich()
	f.locks[3].Path = evil
	f.history[0].Path = evil
	f.locks[3].Event.Value = evil
	a := New(richOptions(f))
	for _, path := range []string{"/", "/events", "/events/3", "/locks/inode:7"} {
		body := serve(a, "GET", path, "").Body.String()
		if strings.Contains(body, "<img") || !strings.Contains(body, "&lt;img") {
			t.Errorf("%s shows the name as markup, or not at all", path)
		}
	}
}

func TestAssets(t *testing.T) {
	a, _, _ := guarded(t)
	for path, media := range map[string]string{
		"/assets/page.css": "text/css; charset=utf-8", "/assets/page.js": "text/javascript; charset=utf-8", "/assets/icon-bad.svg": "image/svg+xml",
	} {
		if w := serve(a, "GET", path, ""); w.Code != 200 || w.Header().Get("Content-Type") != media || w.Body.Len() == 0 {
			t.Errorf("%s = %d %s", path, w.Code, w.Header().Get("Content-Type"))
		}
	}
	for _, path := range []string{"/assets/", "/assets/nothing.js", "/assets/icon-pink.svg", "/assets/..%2fpage.go", "/assets/%2e%2e"} {
		if w := serve(a, "GET", path, ""); w.Code != 404 {
			t.Errorf("%s = %d", path, w.Code)
		}
	}
}

func TestPageErrors(t *testing.T) {
	a, f, _ := guarded(t)
	header := append([]string{"Authorization", basicAnn}, formHeader...)
	for _, c := range []struct {
		err    error
		form   string
		status int
		says   string
	}{
		{poison.ErrStale, "gen=3", 409, "Nothing was changed, look at it first"},
		{poison.ErrNotPoisoned, "gen=3", 409, "somebody may have done it before"},
		{poison.ErrHeld, "gen=3", 409, "still holds the lock"},
		{fs.ErrNotExist, "gen=3", 404, "does not exist"},
		{errTest, "gen=3", 500, "see the server"},
		{nil, "", 400, "no generation"},
	} {
		f.err = nil
		if c.err != nil {
			f.err = errors.Join(c.err)
		}
		w := serve(a, "POST", "/locks/inode:7/reset", c.form, header...)
		if w.Code != c.status || !strings.Contains(strings.ToLower(w.Body.String()), strings.ToLower(c.says)) {
			t.Errorf("%v = %d, want %d and %q\n%s", c.err, w.Code, c.status, c.says, w.Body)
		}
		if !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("%v: %s", c.err, w.Header().Get("Content-Type"))
		}
	}
	f.err, f.report.Problems = store.ErrDamaged, []string{"block 3 is damaged"}
	if w := serve(a, "POST", "/locks/inode:7/reset", "gen=3", header...); w.Code != 409 || !strings.Contains(w.Body.String(), "block 3 is damaged") {
		t.Errorf("a rebuild that found problems = %d", w.Code)
	}
}

func TestDAVLocksAreListedAndBroken(t *testing.T) {
	s, a, audit := newLive(t)
	l, err := s.DAVLocks().Create(time.Now(), store.DAVLock{Path: "/photos/a", Infinite: true, Principal: "bob", Owner: "<x/>"})
	if err != nil {
		t.Fatal(err)
	}
	auth := []string{"Authorization", basicAnn}
	w := serve(a, "GET", "/api/v1/davlocks", "", auth...)
	list := decode[DAVLockList](t, w).Locks
	if len(list) != 1 || list[0].Path != "/photos/a" || list[0].Depth != "infinity" || list[0].Principal != "bob" {
		t.Fatalf("locks = %+v", list)
	}
	if strings.Contains(w.Body.String(), l.Token) || strings.Contains(serve(a, "GET", "/", "", auth...).Body.String(), l.Token) {
		t.Error("an answer has the client's token")
	}
	wantProblem(t, serve(a, "POST", "/api/v1/davlocks/0123456789abcdef/break", "", auth...), 404, "not_found")
	form := append(auth, formHeader...)
	path := "/davlocks/" + url.PathEscape(list[0].ID) + "/break"
	if w := serve(a, "POST", path, "", form...); w.Code != 200 || !strings.Contains(w.Body.String(), "Break the lock on /photos/a?") {
		t.Errorf("the question = %d", w.Code)
	}
	if s.DAVLocks().Len() != 1 {
		t.Error("the question has broken the lock")
	}
	if w := serve(a, "POST", path, "confirmed=1&reason=holiday", form...); w.Code != http.StatusSeeOther || s.DAVLocks().Len() != 0 {
		t.Errorf("the answer = %d, %d locks", w.Code, s.DAVLocks().Len())
	}
	lines, err := audit.last(1)
	if err != nil || lines[0].Action != "davlock.break" || lines[0].Reason != "holiday" || strings.Contains(lines[0].Target, l.Token) {
		t.Errorf("audit log: %+v, %v", lines, err)
	}
}

// Everything can be done without a mouse.
func TestKeyboard(t *testing.T) {
	a := newState(t, states[1])
	tab := newTab(t, newBrowser(t))
	base := listen(t, a)
	focused := func() string {
		return ask(t, tab, chromedp.Evaluate[string](`document.activeElement.textContent.trim().replace(/\s+/g, " ")`))
	}
	do(t, tab, chromedp.Navigate(base), chromedp.KeyEvent("\t"))
	if got := focused(); got != "Skip to the content" {
		t.Errorf("the first stop is %q", got)
	}
	do(t, tab, chromedp.KeyEvent("\r"), chromedp.KeyEvent("\t"))
	if got := focused(); !strings.HasPrefix(got, "See what a reset would do") {
		t.Errorf("behind the skip link comes %q", got)
	}
	do(t, tab, chromedp.KeyEvent("\r"), chromedp.WaitVisible(chromedp.CSS("#confirm")))
}

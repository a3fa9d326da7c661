package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"engramfs/store"
	"engramfs/store/poison"
	"engramfs/store/storetest"
)

// write puts data at path, whose parent exists, and returns the store's error.
func write(s *store.Store, path, data string) error {
	ctx := context.Background()
	parent, name, err := s.LookupParent(ctx, path)
	if err != nil {
		return err
	}
	u, err := s.NewUpload(ctx, parent, name, int64(len(data)))
	if err != nil {
		return err
	}
	defer u.Abort()
	if _, err := u.ReadFrom(bytes.NewReader([]byte(data))); err != nil {
		return err
	}
	_, _, err = u.Commit(ctx, store.CommitOptions{Mode: 0o644})
	return err
}

// newLive returns a server over a real store with the file /photos/a.
func newLive(t *testing.T) (*store.Store, *Server, *Audit) {
	t.Helper()
	s, _, a, audit := newLiveBlobs(t)
	return s, a, audit
}

// newLiveBlobs is newLive, with where the store keeps its content.
func newLiveBlobs(t *testing.T) (*store.Store, *storetest.MemBlobs, *Server, *Audit) {
	t.Helper()
	s, blobs := storetest.NewWith(t, store.Options{})
	if _, err := s.EnsureDirectory(t.Context(), "/photos", store.NewNode{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := write(s, "/photos/a", "one"); err != nil {
		t.Fatal(err)
	}
	audit, err := OpenAudit(t.TempDir() + "/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Store: s, Audit: audit, Drills: true, Points: store.FaultPoints(), Build: Build{Version: "test"}, Token: testToken}
	o.HostAllowed = func(host string) bool { return host == "example.com" || strings.HasPrefix(host, "127.0.0.1:") }
	gate(&o)
	a := New(o)
	t.Cleanup(func() {
		a.Close()
		if err := audit.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, blobs, a, audit
}

// die poisons the lock of /photos/a.
func die(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.ArmFault(t.Context(), "/photos/a", "", "panic"); err != nil {
		t.Fatal(err)
	}
	if err := write(s, "/photos/a", "two"); !errors.Is(err, poison.ErrPoisoned) {
		t.Fatalf("write with a drill armed: %v, want poisoned", err)
	}
}

// login logs ann in.
func login(t *testing.T, tab context.Context, base string) {
	t.Helper()
	do(t, tab,
		chromedp.Navigate(base),
		chromedp.SendKeys(chromedp.CSS("#user"), "ann"),
		chromedp.SendKeys(chromedp.CSS("#password"), "right"),
		submit("form.login button"),
		chromedp.WaitVisible(chromedp.CSS("#state")),
	)
}

// submit clicks what loads another page, and waits for that. The click is a
// script's, because the page may swap a section between a look and a click.
func submit(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		click := fmt.Sprintf("document.querySelector(%q).click()", selector)
		_, err := chromedp.RunResponse(ctx, chromedp.WaitReady(chromedp.CSS(selector)), chromedp.Evaluate[chromedp.Void](click))
		return err
	})
}

// waitState waits until the page shows a state, without loading it again.
func waitState(t *testing.T, tab context.Context, want Status, within time.Duration) {
	t.Helper()
	begin := time.Now()
	do(t, tab, chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Run(ctx, chromedp.Poll[bool](`document.getElementById("state")?.dataset.state === "`+string(want)+`"`, chromedp.WithPollingTimeout(10*time.Second)))
		return err
	}))
	if took := time.Since(begin); took > within {
		t.Errorf("the page shows %s after %v, want at most %v", want, took, within)
	} else {
		t.Logf("the page shows %s after %v", want, took)
	}
}

func text(t *testing.T, tab context.Context, selector string) string {
	t.Helper()
	return ask(t, tab, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q).innerText", selector)))
}

// The story of a bad night: a writer dies, the open page says so by itself, the
// administrator looks at what a reset would do, resets, and all is well again.
func TestPageTellsOfPoisonAndHealsIt(t *testing.T) {
	s, a, audit := newLive(t)
	base := listen(t, a)
	tab := newTab(t, newBrowser(t))
	login(t, tab, base)
	waitState(t, tab, Online, 5*time.Second)
	do(t, tab, chromedp.Evaluate[chromedp.Void](`window.neverReloaded = true`))

	die(t, s)
	waitState(t, tab, Degraded, 2*time.Second)
	if got := text(t, tab, "#state"); !strings.Contains(got, "/photos/a") {
		t.Errorf("the state does not name the path:\n%s", got)
	}
	if !ask(t, tab, chromedp.Evaluate[bool](`window.neverReloaded === true`)) {
		t.Error("the page was loaded again")
	}
	if title := ask(t, tab, chromedp.Title()); !strings.HasPrefix(title, "DEGRADED") {
		t.Errorf("title %q", title)
	}
	if said := text(t, tab, "#announce"); !strings.Contains(said, "Degraded") {
		t.Errorf("a screen reader is told %q", said)
	}
	if err := write(s, "/photos/b", "other"); err != nil {
		t.Errorf("a sibling: %v", err)
	}

	do(t, tab, submit("#state button.primary"), chromedp.WaitVisible(chromedp.CSS("#confirm")))
	if got := text(t, tab, "main"); !strings.Contains(got, "dry run") || !strings.Contains(got, "/photos/a") {
		t.Errorf("the report:\n%s", got)
	}
	if err := write(s, "/photos/a", "three"); !errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("write after the dry run: %v, want poisoned", err)
	}
	if err := os.WriteFile(artifact(t, "dry-run.png"), ask(t, tab, chromedp.FullScreenshot(100)), 0o644); err != nil {
		t.Fatal(err)
	}
	do(t, tab, chromedp.SendKeys(chromedp.CSS("#reason"), "night shift"), submit("#confirm"), chromedp.WaitVisible(chromedp.CSS("#back")))
	if got := text(t, tab, "h1"); !strings.Contains(got, "healthy again") {
		t.Errorf("after the reset: %q", got)
	}
	do(t, tab, submit("#back"))
	waitState(t, tab, Online, 5*time.Second)
	if err := write(s, "/photos/a", "four"); err != nil {
		t.Errorf("write after the reset: %v", err)
	}
	if got := text(t, tab, "#events"); !strings.Contains(got, "reset") || !strings.Contains(got, "poisoned") {
		t.Errorf("events:\n%s", got)
	}
	lines, err := audit.last(10)
	if err != nil || len(lines) != 3 || lines[0].Action != "lock.reset" || lines[0].Reason != "night shift" || lines[0].Actor != "ann" || lines[0].Result != "done" {
		t.Errorf("audit log: %+v, %v", lines, err)
	}
}

func TestTwoAdministratorsAtOnce(t *testing.T) {
	s, a, _ := newLive(t)
	base := listen(t, a)
	die(t, s)
	browser := newBrowser(t)
	ann := newTab(t, browser)
	login(t, ann, base)
	do(t, ann, submit("#state button.primary"), chromedp.WaitVisible(chromedp.CSS("#confirm")))

	// Bob resets before ann does, and the lock is poisoned once more.
	lock := a.observe().locks
	var name string
	var gen uint64
	for _, l := range lock {
		if l.State == lockPoisoned {
			name, gen = l.Name, l.Gen
		}
	}
	if _, err := s.ResetLock(t.Context(), name, gen, false); err != nil {
		t.Fatal(err)
	}
	die(t, s)
	do(t, ann, submit("#confirm"))
	got := text(t, ann, "main")
	if !strings.Contains(got, "Nothing was done") || !strings.Contains(got, "generation_stale") || !strings.Contains(got, "Look at") {
		t.Errorf("ann is told:\n%s", got)
	}
	if err := write(s, "/photos/a", "x"); !errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("the event that ann has not seen is gone: %v", err)
	}
	do(t, ann, submit("main a.button"))
	if got := text(t, ann, "main"); !strings.Contains(got, "poisoned") || !strings.Contains(got, "Stack") {
		t.Errorf("the page of the lock:\n%s", got)
	}
}

// Without the script every page works, and says that it must be loaded again.
func TestPageWithoutScript(t *testing.T) {
	s, a, _ := newLive(t)
	die(t, s)
	h := a
	page := serve(h, "GET", "/", "", "Authorization", basicAnn)
	if page.Code != 200 || !strings.Contains(page.Body.String(), "Reload to look again") {
		t.Fatalf("page = %d", page.Code)
	}
	var l Lock
	for _, l = range a.observe().locks {
		if l.State == lockPoisoned {
			break
		}
	}
	gen := between(t, page.Body.String(), `name="gen" value="`, `"`)
	auth := []string{"Authorization", basicAnn, "Content-Type", "application/x-www-form-urlencoded"}
	dry := serve(h, "POST", "/locks/"+url.PathEscape(l.Name)+"/preview", "gen="+gen, auth...)
	if dry.Code != 200 || !strings.Contains(dry.Body.String(), "dry run") {
		t.Fatalf("dry run = %d\n%s", dry.Code, dry.Body)
	}
	done := serve(h, "POST", "/locks/"+url.PathEscape(l.Name)+"/reset", "gen="+between(t, dry.Body.String(), `name="gen" value="`, `"`), auth...)
	if done.Code != 200 || !strings.Contains(done.Body.String(), "healthy again") {
		t.Fatalf("reset = %d\n%s", done.Code, done.Body)
	}
	again := serve(h, "POST", "/locks/"+url.PathEscape(l.Name)+"/reset", "gen="+gen, auth...)
	if again.Code != http.StatusConflict {
		t.Errorf("the same form once more = %d, want 409", again.Code)
	}
}

// between returns what stands between two texts.
func between(t *testing.T, s, before, after string) string {
	t.Helper()
	_, s, ok := strings.Cut(s, before)
	s, _, ended := strings.Cut(s, after)
	if !ok || !ended {
		t.Fatalf("no %q", before)
	}
	return s
}

// What is being pressed must not be swapped for a fresh copy, or the press is lost.
func TestPageKeepsAPressedButton(t *testing.T) {
	s, a, _ := newLive(t)
	base := listen(t, a)
	tab := newTab(t, newBrowser(t))
	login(t, tab, base)
	waitState(t, tab, Online, 5*time.Second)
	do(t, tab, chromedp.Evaluate[chromedp.Void](`dispatchEvent(new PointerEvent("pointerdown"))`))
	die(t, s)
	time.Sleep(time.Second) // twice what the page needs
	if got := text(t, tab, "#state h1"); !strings.Contains(got, "Online") {
		t.Errorf("the page has changed under the pointer: %s", got)
	}
	do(t, tab, chromedp.Evaluate[chromedp.Void](`dispatchEvent(new PointerEvent("pointerup"))`))
	waitState(t, tab, Degraded, 2*time.Second)
}

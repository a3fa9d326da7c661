package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"engramfs/store/poison"
)

// missing skips the test because a program is not installed, or fails it with
// REQUIRE_ALL=1.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// newBrowser starts a headless chromium without a tab.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		missing(t, "no chromium: %v", err)
	}
	o := append(chromedp.DefaultExecAllocatorOptions[:0:0],
		chromedp.ExecPath("chromium"), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
	)
	ctx, stop := chromedp.NewExecAllocator(t.Context(), o...)
	t.Cleanup(stop)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return ctx
}

// newTab opens a tab of the browser, which ends with the test or after some minutes.
func newTab(t *testing.T, browser context.Context) context.Context {
	t.Helper()
	ctx, end := chromedp.NewContext(browser)
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// do drives the tab.
func do(t *testing.T, tab context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(tab, steps...); err != nil {
		t.Fatal(err)
	}
}

// ask drives the tab and returns what it answers.
func ask[T any](t *testing.T, tab context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(tab, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// listen serves h on a loopback address.
func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	if a, ok := h.(*Server); ok {
		t.Cleanup(a.Close) // first: it ends the streams
	}
	return s.URL
}

// theme makes the page light or dark.
func theme(t *testing.T, tab context.Context, name string) {
	t.Helper()
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}
	if _, err := chromedp.Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		t.Fatal(err)
	}
}

// artifact returns where a build output goes: ENGRAMFS_ARTIFACTS, or the test's own folder.
func artifact(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("ENGRAMFS_ARTIFACTS")
	if dir == "" {
		dir = t.ArtifactDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// axe returns the source of axe-core, which npm ci has installed.
func axe(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("testdata/axe/node_modules/axe-core/axe.min.js")
	if err != nil {
		missing(t, "no axe-core: run npm ci in web/testdata/axe (%v)", err)
	}
	return string(b)
}

// violation is what axe says of a page.
type violation struct {
	ID    string `json:"id"`
	Help  string `json:"help"`
	Nodes []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// checkAccess runs axe with all its rules of WCAG 2.2 A and AA and its best practices.
func checkAccess(t *testing.T, tab context.Context, source, what string) {
	t.Helper()
	for _, v := range violations(t, tab, source) {
		for _, n := range v.Nodes {
			t.Errorf("%s: axe %s: %s\n\t%.300s\n\t%s", what, v.ID, v.Help, n.HTML, strings.ReplaceAll(n.Summary, "\n", "\n\t"))
		}
	}
}

// violations is what axe finds on the page in the tab.
func violations(t *testing.T, tab context.Context, source string) (found []violation) {
	t.Helper()
	do(t, tab, chromedp.Evaluate[chromedp.Void](source))
	text := ask(t, tab, chromedp.Evaluate[string](
		`axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise))
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// screens are the ways in which every page is looked at.
var screens = []struct {
	name, theme   string
	width, height int64
	axe           bool
}{
	{"desktop-light", "light", 1280, 900, true},
	{"desktop-dark", "dark", 1280, 900, true},
	{"phone-light", "light", 360, 740, true},
	{"phone-dark", "dark", 360, 740, false},
}

func TestEveryStateInABrowser(t *testing.T) {
	source := axe(t)
	browser := newBrowser(t)
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			url := listen(t, newState(t, s))
			tab := newTab(t, browser)
			for _, screen := range screens {
				theme(t, tab, screen.theme)
				do(t, tab, chromedp.EmulateViewport(screen.width, screen.height), chromedp.Navigate(url))
				if got := ask(t, tab, chromedp.Evaluate[string](`document.getElementById("state").dataset.state`)); got != string(s.want) {
					t.Errorf("%s: state %q, want %q", screen.name, got, s.want)
				}
				look(t, tab, source, s.name+"-"+screen.name, screen.axe)
			}
		})
	}
}

// look keeps a picture of the page in the tab, and finds fault with it.
func look(t *testing.T, tab context.Context, source, name string, axe bool) {
	t.Helper()
	if ask(t, tab, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > innerWidth`)) {
		t.Errorf("%s: the page scrolls sideways", name)
	}
	if err := os.WriteFile(artifact(t, name+".png"), ask(t, tab, chromedp.FullScreenshot(100)), 0o644); err != nil {
		t.Fatal(err)
	}
	if axe {
		checkAccess(t, tab, source, name)
	}
}

// The checker must be able to fail, or no violation means nothing.
func TestAxeFindsViolations(t *testing.T) {
	source := axe(t)
	tab := newTab(t, newBrowser(t))
	base := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><html><title>x</title><body><img src="x"><p style="color:#aaa;background:#fff">pale</p>`)
	}))
	do(t, tab, chromedp.Navigate(base))
	found := map[string]bool{}
	for _, v := range violations(t, tab, source) {
		found[v.ID] = true
	}
	if !found["image-alt"] || !found["color-contrast"] || !found["html-has-lang"] {
		t.Errorf("axe finds %v", found)
	}
}

// Every other page is looked at as well.
func TestOtherPagesInABrowser(t *testing.T) {
	source := axe(t)
	a, f, _ := guarded(t)
	f.err = fmt.Errorf("reset: %w", poison.ErrStale)
	base := listen(t, a)
	tab := newTab(t, newBrowser(t))
	lookAt := func(name string) {
		t.Helper()
		for _, screen := range screens[:3] {
			theme(t, tab, screen.theme)
			do(t, tab, chromedp.EmulateViewport(screen.width, screen.height))
			look(t, tab, source, name+"-"+screen.name, screen.axe && screen.width > 1000)
		}
	}
	do(t, tab, chromedp.Navigate(base))
	lookAt("login")
	do(t, tab, chromedp.SendKeys(chromedp.CSS("#user"), "ann"), chromedp.SendKeys(chromedp.CSS("#password"), "no"), submit("form.login button"))
	lookAt("login-wrong")
	login(t, tab, base)
	for name, path := range map[string]string{"lock": "/locks/inode:7", "events": "/events", "event-poisoned": "/events/3", "event-reset": "/events/2"} {
		do(t, tab, chromedp.Navigate(base+path))
		lookAt(name)
	}
	do(t, tab, chromedp.Navigate(base), submit("#state button.primary"))
	lookAt("stale")
	f.err = nil
	do(t, tab, chromedp.Navigate(base), submit("#state button.primary"))
	lookAt("report-dry-run")
	do(t, tab, submit("#confirm"))
	lookAt("report-done")
}

// A page whose server has gone says that it knows nothing, and comes back by itself.
func TestPageSaysWhenItIsBlind(t *testing.T) {
	a := New(richOptions(newRich()))
	var gone atomic.Bool
	base := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gone.Load() {
			panic(http.ErrAbortHandler)
		}
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	tab := newTab(t, newBrowser(t))
	do(t, tab, chromedp.Navigate(base), chromedp.WaitVisible(chromedp.CSS("#state")))
	gone.Store(true)
	a.cancel() // ends the stream
	do(t, tab, chromedp.WaitVisible(chromedp.CSS("#lost")))
	if got := text(t, tab, "#lost"); !strings.Contains(got, "Unknown") {
		t.Errorf("the page says %q", got)
	}
	if title := ask(t, tab, chromedp.Title()); !strings.HasPrefix(title, "UNKNOWN") {
		t.Errorf("title %q", title)
	}
}

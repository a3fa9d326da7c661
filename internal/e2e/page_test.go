package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// pageLimit is how soon an open health page must tell of a change by itself.
const pageLimit = 2 * time.Second

// openPage opens the health page in a headless chromium.
func openPage(t *testing.T, s *Server) context.Context {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		missing(t, "the health page needs chromium")
	}
	o := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath("chromium"), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.UserDataDir(t.TempDir()),
	}
	for _, flag := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage"} {
		o = append(o, chromedp.Flag(flag, true))
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), o...)
	t.Cleanup(stop)
	tab, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(tab); err != nil { // without a time limit: it would be the browser's
		t.Fatalf("start chromium: %v", err)
	}
	drive(t, tab, chromedp.Navigate("http://"+s.Admin+"/"), chromedp.Evaluate[chromedp.Void](`window.loadedOnce = true`))
	return tab
}

func drive(t *testing.T, tab context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// awaitState waits until the page shows a state, and returns how long that took.
func awaitState(t *testing.T, tab context.Context, want string) time.Duration {
	t.Helper()
	begin := time.Now()
	expr := fmt.Sprintf(`document.getElementById("state")?.dataset.state === %q`, want)
	if _, err := chromedp.Run(tab, chromedp.Poll[bool](expr, chromedp.WithPollingTimeout(15*time.Second))); err != nil {
		t.Fatalf("the page does not show %s: %v", want, err)
	}
	return time.Since(begin)
}

// press clicks what loads another page, and waits for that. The click is a
// script's, because the page may swap a section between a look and a click.
func press(t *testing.T, tab context.Context, selector string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, 30*time.Second)
	defer cancel()
	click := fmt.Sprintf("document.querySelector(%q).click()", selector)
	if _, err := chromedp.RunResponse(ctx, chromedp.WaitReady(chromedp.CSS(selector)), chromedp.Evaluate[chromedp.Void](click)); err != nil {
		t.Fatalf("press %s: %v", selector, err)
	}
}

func shown(t *testing.T, tab context.Context, selector string) string {
	t.Helper()
	text, err := chromedp.Run(tab, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q).innerText", selector)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// healOnPage follows the page from poison to health: it must name the path,
// without being loaded again, show what a reset would do, and reset.
func healOnPage(t *testing.T, tab context.Context, path string) {
	t.Helper()
	if took := awaitState(t, tab, "degraded"); took > pageLimit {
		t.Errorf("%s: the page turns degraded after %v, want at most %v", path, took, pageLimit)
	} else {
		t.Logf("%s: the page turns degraded after %v", path, took)
	}
	if once, err := chromedp.Run(tab, chromedp.Evaluate[bool](`window.loadedOnce === true`)); err != nil || !once {
		t.Errorf("the page was loaded again (%v)", err)
	}
	if got := shown(t, tab, "#state"); !strings.Contains(got, path) {
		t.Errorf("the page does not name %s:\n%s", path, got)
	}
	press(t, tab, "#state button.primary")
	if got := shown(t, tab, "main"); !strings.Contains(got, "dry run") || !strings.Contains(got, path) {
		t.Errorf("the report of the dry run:\n%s", got)
	}
	press(t, tab, "#confirm")
	if got := shown(t, tab, "h1"); !strings.Contains(got, path+" is healthy again") {
		t.Errorf("after the reset: %s", got)
	}
	press(t, tab, "#back")
	awaitState(t, tab, "online")
	drive(t, tab, chromedp.Evaluate[chromedp.Void](`window.loadedOnce = true`))
}

// An administrator heals on the page what died at either door, and the events
// and the audit log hold all of it, also after a restart.
func TestPageHealsBothDoors(t *testing.T) {
	m := StartMounted(t, Options{Binary: engramfs, Args: []string{"--enable-drills"}})
	d := connect(t, m.Server)
	admin := NewDAV(m.Admin, "", time.Minute)
	t.Cleanup(admin.Close)
	must(t, d, "PUT", "/dav.txt", nil, []byte("one"), http.StatusCreated)
	must(t, d, "PUT", "/mount.txt", nil, []byte("one"), http.StatusCreated)
	arm := func(path string) {
		t.Helper()
		must(t, admin, "POST", "/api/v1/drills", nil, fmt.Appendf(nil, `{"path":%q,"cause":"panic"}`, path), http.StatusOK)
	}
	tab := openPage(t, m.Server)
	awaitState(t, tab, "online")

	arm("/dav.txt")
	must(t, d, "PUT", "/dav.txt", nil, []byte("two"), http.StatusServiceUnavailable)
	healOnPage(t, tab, "/dav.txt")
	must(t, d, "PUT", "/dav.txt", nil, []byte("three"), http.StatusNoContent, http.StatusCreated)

	arm("/mount.txt")
	file := filepath.Join(m.Point, "mount.txt")
	if err := os.Chmod(file, 0o600); !errors.Is(err, syscall.EIO) {
		t.Fatalf("chmod with a drill armed: %v, want EIO", err)
	}
	healOnPage(t, tab, "/mount.txt")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Errorf("chmod after the reset: %v", err)
	}

	m.Restart()
	admin = NewDAV(m.Admin, "", time.Minute)
	t.Cleanup(admin.Close)
	var events struct {
		Events []struct{ Kind, Path string } `json:"events"`
	}
	readJSON(t, admin, "/api/v1/events", &events)
	var told []string
	for _, e := range events.Events {
		told = append(told, e.Kind+" "+e.Path)
	}
	if got, want := strings.Join(told, ", "), "reset /mount.txt, poisoned /mount.txt, reset /dav.txt, poisoned /dav.txt"; got != want {
		t.Errorf("events after a restart: %s, want %s", got, want)
	}
	var audit struct {
		Actions []struct{ Action, Result string } `json:"actions"`
	}
	readJSON(t, admin, "/api/v1/audit", &audit)
	counts := map[string]int{}
	for _, a := range audit.Actions {
		counts[a.Action+" "+a.Result]++
	}
	for _, action := range []string{"drill.arm done", "lock.reset.dry_run done", "lock.reset done"} {
		if counts[action] != 2 {
			t.Errorf("audit log: %q %d times, want 2: %v", action, counts[action], counts)
		}
	}
}

func readJSON(t *testing.T, d *DAV, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(must(t, d, "GET", path, nil, nil, http.StatusOK), v); err != nil {
		t.Fatal(err)
	}
}

package web

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"engramfs/store"
	"engramfs/store/storetest"
)

// site is a server over a real store in which everything that can be done could be
// done: a lock is poisoned, a file is damaged, and a client holds a WebDAV lock.
type site struct {
	s     *store.Store
	blobs *storetest.MemBlobs
	a     *Server
	audit *Audit

	lock, davLock string
	gen           uint64
	damaged       store.Ino
	content       []byte // of the damaged file, as it was before
}

func newSite(t *testing.T) *site {
	t.Helper()
	x := &site{}
	x.s, x.blobs, x.a, x.audit = newLiveBlobs(t)
	x.damage(t, "/photos/big")
	die(t, x.s)
	for _, l := range x.s.Locks() {
		if l.State == lockPoisoned {
			x.lock, x.gen = l.Name, l.Gen
		}
	}
	l, err := x.s.DAVLocks().Create(time.Now(), store.DAVLock{Path: "/photos/big", Principal: "bob"})
	if err != nil || x.lock == "" {
		t.Fatalf("poisoned lock %q, WebDAV lock %v", x.lock, err)
	}
	x.davLock = davLockID(l.Token)
	return x
}

// damage makes a file of three blocks, and flips a bit in the second, which somebody
// then reads.
func (x *site) damage(t *testing.T, path string) {
	t.Helper()
	x.content = []byte(strings.Repeat("0123456789abcde\n", 3*65536/16))
	before := x.blobs.IDs()
	if err := write(x.s, path, string(x.content)); err != nil {
		t.Fatal(err)
	}
	for _, id := range x.blobs.IDs() {
		if !slices.Contains(before, id) {
			x.blobs.Flip(id, 70_000)
		}
	}
	attr, err := x.s.LookupPath(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	x.damaged = attr.Ino
	c, err := x.s.OpenContent(t.Context(), attr.Ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.Copy(io.Discard, io.NewSectionReader(c, 0, c.Size())) // fails, as it shall
	if d := x.s.Damaged(); len(d) != 1 || d[0].Path != path {
		t.Fatalf("damaged: %+v", d)
	}
}

// deed is a request that does something, in a form that succeeds at a site.
type deed struct {
	path, body string
	header     []string
}

func (d deed) do(a *Server, method string, header ...string) (status int, answer http.Header) {
	w := serve(a, method, d.path, d.body, slices.Concat(d.header, header)...)
	return w.Code, w.Header()
}

// forms are the bodies of the pages' forms. What a page asks before it acts is answered.
var forms = map[string]string{
	"/logout": "", "/locks/{name}/preview": "gen=%d", "/locks/{name}/reset": "gen=%d&reason=x", "/jobs/{name}/{verb}": "",
	"/davlocks/{id}/break": "confirmed=1", "/damaged/{ino}/salvage": "confirmed=1", "/drills": "path=/photos/big&cause=panic",
}

// deeds are all requests that do something: every operation of the API's document that
// is no GET, and every form of the pages. A new one that is not known here fails the test.
func (x *site) deeds(t *testing.T) []deed {
	t.Helper()
	var all []deed
	d := readDocument(t, x.a)
	for path, methods := range d.Paths {
		for method := range methods {
			if method == "get" {
				continue
			}
			if method != "post" {
				t.Errorf("%s %s: every action is a POST", method, path)
			}
			act := deed{path: x.fill(t, path)}
			if path == "/api/v1/drills" {
				act.body = `{"path": "/photos/big", "cause": "panic"}`
			}
			if strings.HasPrefix(path, "/api/v1/locks/") {
				act.header = []string{"If-Match", fmt.Sprintf("%q", fmt.Sprint(x.gen))}
			}
			all = append(all, act)
		}
	}
	api := len(all)
	err := chi.Walk(x.a.handler.(chi.Routes), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if method == "GET" || path == "/login" { // a login takes no credentials: see TestLogin
			return nil
		}
		if strings.HasPrefix(path, "/api/") {
			if _, ok := d.Paths[path][strings.ToLower(method)]; !ok {
				t.Errorf("%s %s is not in the document", method, path)
			}
			return nil
		}
		form, ok := forms[path]
		if !ok || method != "POST" {
			t.Errorf("%s %s has no form in this test", method, path)
		}
		if strings.Contains(form, "%d") {
			form = fmt.Sprintf(form, x.gen)
		}
		all = append(all, deed{x.fill(t, path), form, formHeader})
		return nil
	})
	if err != nil || api < 6 || len(all)-api < len(forms) {
		t.Fatalf("%d actions of the API, %d in all, %v", api, len(all), err)
	}
	return all
}

// fill puts what there is at the site into the variables of a path.
func (x *site) fill(t *testing.T, path string) string {
	t.Helper()
	return variable.ReplaceAllStringFunc(path, func(v string) string {
		switch {
		case v == "{name}" && strings.Contains(path, "/jobs/"):
			return "scrub"
		case v == "{name}":
			return url.PathEscape(x.lock)
		case v == "{id}":
			return x.davLock
		case v == "{ino}":
			return fmt.Sprint(x.damaged)
		case v == "{verb}":
			return "start"
		}
		t.Errorf("%s: this test has no value for %s", path, v)
		return v
	})
}

// unchanged fails the test if anything was done.
func (x *site) unchanged(t *testing.T, what string) {
	t.Helper()
	if l, err := x.s.LockStatus(x.lock); err != nil || l.State != lockPoisoned || l.Gen != x.gen {
		t.Errorf("%s: the lock is %s in generation %d, %v", what, l.State, l.Gen, err)
	}
	if n := x.s.DAVLocks().Len(); n != 1 {
		t.Errorf("%s: %d WebDAV locks", what, n)
	}
	for _, j := range x.a.jobs.list() {
		if j.Running != nil || j.Last != nil {
			t.Errorf("%s: job %s runs or ran", what, j.Name)
		}
	}
	if lines, err := x.audit.last(10); err != nil || len(lines) != 0 {
		t.Errorf("%s: audit log: %+v, %v", what, lines, err)
	}
	if err := write(x.s, "/photos/big", "new"); err != nil { // the drill would strike here
		t.Errorf("%s: a change of the file that a drill was to be armed at: %v", what, err)
	}
}

// Each of the deeds does something, so that it means something when it is refused.
func TestDeedsAreDone(t *testing.T) {
	for i := range newSite(t).deeds(t) {
		x := newSite(t)
		d := x.deeds(t)
		slices.SortFunc(d, func(a, b deed) int { return strings.Compare(a.path, b.path) })
		act := d[i]
		status, _ := act.do(x.a, "POST", "Authorization", basicAnn)
		idle := strings.HasSuffix(act.path, "/stop") && status == http.StatusConflict // nothing runs
		if status != http.StatusOK && status != http.StatusSeeOther && !idle {
			t.Errorf("POST %s = %d", act.path, status)
		}
		if lines, err := x.audit.last(1); err != nil || len(lines) != 1 {
			t.Errorf("POST %s: audit log %v, %v", act.path, lines, err)
		}
		x.a.Close()
	}
}

// refusals are the ways in which a request may not come. The order in which they are
// looked at does not matter; that they are, does.
var refusals = []struct {
	name   string
	header []string
	status int
}{
	{"NoCredentials", nil, 401},
	{"WrongPassword", []string{"Authorization", basicWrong}, 401},
	{"WrongToken", []string{"Authorization", "Bearer " + strings.Repeat("x", 32)}, 401},
	{"EmptyToken", []string{"Authorization", "Bearer "}, 401},
	{"Throttled", []string{"Authorization", basicEve}, 429},
	{"WrongCookie", []string{"Cookie", "engramfs=" + strings.Repeat("x", 43)}, 401},
	{"CrossSite", []string{"Authorization", basicAnn, "Sec-Fetch-Site", "cross-site"}, 403},
	{"SameSite", []string{"Authorization", basicAnn, "Sec-Fetch-Site", "same-site"}, 403},
	{"WrongOrigin", []string{"Authorization", basicAnn, "Origin", "https://evil.example"}, 403},
	{"NullOrigin", []string{"Authorization", basicAnn, "Origin", "null"}, 403},
	{"WrongOriginToken", []string{"Authorization", "Bearer " + testToken, "Origin", "https://evil.example"}, 403},
	{"WrongHost", []string{"Authorization", basicAnn, "Host", "evil.example"}, 421},
	{"WrongHostLikeOurs", []string{"Authorization", basicAnn, "Host", "example.com.evil.example"}, 421},
	{"WrongHostToken", []string{"Authorization", "Bearer " + testToken, "Host", "evil.example"}, 421},
}

func TestDeedsAreRefused(t *testing.T) {
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			x := newSite(t)
			for _, act := range x.deeds(t) {
				status, answer := act.do(x.a, "POST", r.header...)
				if status != r.status {
					t.Errorf("POST %s = %d, want %d", act.path, status, r.status)
				}
				if status == 401 && len(answer["Www-Authenticate"]) == 0 {
					t.Errorf("POST %s: 401 without a challenge", act.path)
				}
				if status == 429 && answer.Get("Retry-After") != "7" {
					t.Errorf("POST %s: 429 with Retry-After %q", act.path, answer.Get("Retry-After"))
				}
				if api := strings.HasPrefix(act.path, "/api/"); api && answer.Get("Content-Type") != "application/problem+json" {
					t.Errorf("POST %s answers %s", act.path, answer.Get("Content-Type"))
				}
			}
			x.unchanged(t, r.name)
		})
	}
}

func TestDeedsWithAnotherMethodChangeNothing(t *testing.T) {
	x := newSite(t)
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		for _, act := range x.deeds(t) {
			status, _ := act.do(x.a, method, "Authorization", basicAnn)
			reads := (method == "GET" || method == "HEAD") && act.path == "/api/v1/drills"
			if !reads && status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s = %d, want 405", method, act.path, status)
			}
		}
	}
	x.unchanged(t, "another method")
}

// Without the audit log nothing is done: an action that leaves no trace is none.
func TestDeedsNeedTheAuditLog(t *testing.T) {
	x := newSite(t)
	file := x.audit.file
	x.audit.broken = errTest
	for _, act := range x.deeds(t) {
		if status, _ := act.do(x.a, "POST", "Authorization", basicAnn); status != http.StatusServiceUnavailable {
			t.Errorf("POST %s = %d, want 503", act.path, status)
		}
	}
	x.audit.file, x.audit.broken = file, nil
	x.unchanged(t, "no audit log")
}

// A wrong host is told so in the form of every other error.
func TestWrongHostIsAProblem(t *testing.T) {
	x := newSite(t)
	for _, path := range []string{"/api/v1/health", "/livez", "/", "/nothing", "/openapi.json"} {
		p := wantProblem(t, serve(x.a, "GET", path, "", "Host", "evil.example"), 421, "wrong_host")
		if !strings.Contains(p.Detail, "--allow-host") {
			t.Errorf("%s: %q does not say what to do", path, p.Detail)
		}
	}
}

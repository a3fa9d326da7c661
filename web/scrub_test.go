package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"engramfs/store"
)

func TestScrubFindsDamage(t *testing.T) {
	x := newSite(t)
	ann := []string{"Authorization", basicAnn}
	if st := decode[store.ScrubStatus](t, serve(x.a, "GET", "/api/v1/scrub", "", ann...)); st.Running != nil || len(st.Runs) != 0 {
		t.Errorf("before the first scrub: %+v", st)
	}
	if w := serve(x.a, "POST", "/api/v1/jobs/scrub/start", "", ann...); w.Code != 200 {
		t.Fatalf("start = %d\n%s", w.Code, w.Body)
	}
	x.a.jobs.running.Wait()
	j := decode[Job](t, serve(x.a, "GET", "/api/v1/jobs/scrub", "", ann...))
	if j.Last == nil || j.Last.Found == nil || j.Last.Result == nil {
		t.Fatalf("job = %+v", j)
	}
	if j.Running != nil || j.Last == nil || *j.Last.Result != "problems" || *j.Last.Found != 1 || j.Last.By != "ann" || *j.Last.Done != *j.Last.Total {
		t.Errorf("job = %+v", j.Last)
	}
	st := decode[store.ScrubStatus](t, serve(x.a, "GET", "/api/v1/scrub", "", ann...))
	if len(st.Runs) != 1 || st.Runs[0].Result != "damaged" || st.Runs[0].CorruptBlocks != 1 || st.Next == nil {
		t.Errorf("scrubs = %+v", st)
	}
	if page := serve(x.a, "GET", "/", "", ann...).Body.String(); !strings.Contains(page, "Found 1 problem.") || !strings.Contains(page, "The next one begins by itself") {
		t.Error("the page does not tell of the scrub")
	}
}

func TestSalvage(t *testing.T) {
	x := newSite(t)
	target := fmt.Sprintf("/api/v1/damaged/%d/salvage", x.damaged)
	w := serve(x.a, "POST", target, `{"reason": "no other copy"}`, "Authorization", basicAnn)
	x.wantSalvaged(t, w.Code, w.Header(), w.Body.Bytes())
	lines, err := x.audit.last(1)
	if err != nil || lines[0].Action != "file.salvage" || lines[0].Reason != "no other copy" || lines[0].Result != "done" || lines[0].Facts["path"] != "/photos/big" {
		t.Errorf("audit log: %+v, %v", lines, err)
	}
	for path, status := range map[string]int{"999999": 404, "x": 400, "-1": 400} {
		if w := serve(x.a, "POST", "/api/v1/damaged/"+path+"/salvage", "", "Authorization", basicAnn); w.Code != status {
			t.Errorf("inode %s = %d, want %d", path, w.Code, status)
		}
	}
	folder, err := x.s.LookupPath(t.Context(), "/photos")
	if err != nil {
		t.Fatal(err)
	}
	if w := serve(x.a, "POST", fmt.Sprintf("/api/v1/damaged/%d/salvage", folder.Ino), "", "Authorization", basicAnn); w.Code != 409 {
		t.Errorf("a folder = %d\n%s", w.Code, w.Body)
	}
}

// wantSalvaged checks an answer that is the damaged file: all of its bytes, of which
// one bit is wrong.
func (x *site) wantSalvaged(t *testing.T, status int, h http.Header, body []byte) {
	t.Helper()
	if status != 200 || h.Get("Content-Type") != "application/octet-stream" || h.Get("Content-Disposition") != "attachment; filename=big.salvaged" {
		t.Fatalf("salvage = %d %v", status, h)
	}
	if got, want := h.Get(badRangesHeader), "bytes=65536-131071"; got != want {
		t.Errorf("bad ranges %s, want %s", got, want)
	}
	if len(body) != len(x.content) {
		t.Fatalf("%d bytes, want %d", len(body), len(x.content))
	}
	wrong := 0
	for i := range body {
		if body[i] != x.content[i] {
			wrong++
		}
	}
	if wrong != 1 {
		t.Errorf("%d bytes differ, want the one that was flipped", wrong)
	}
}

// On the page a salvage is asked for twice, and needs no script.
func TestSalvageOnThePage(t *testing.T) {
	x := newSite(t)
	form := append([]string{"Authorization", basicAnn}, formHeader...)
	target := fmt.Sprintf("/damaged/%d/salvage", x.damaged)
	if page := serve(x.a, "GET", "/", "", form...).Body.String(); !strings.Contains(page, `action="`+target+`"`) {
		t.Errorf("the page has no form for %s", target)
	}
	question := serve(x.a, "POST", target, "", form...)
	for _, want := range []string{"Download /photos/big with its damage?", "bytes 65,536 to 131,071", `name="confirmed"`, `action="` + target + `"`} {
		if !strings.Contains(question.Body.String(), want) {
			t.Errorf("the question = %d without %q", question.Code, want)
		}
	}
	if lines, err := x.audit.last(1); err != nil || len(lines) != 0 {
		t.Errorf("the question is in the audit log: %+v, %v", lines, err)
	}
	w := serve(x.a, "POST", target, "confirmed=1&reason=holiday", form...)
	x.wantSalvaged(t, w.Code, w.Header(), w.Body.Bytes())
	if lines, err := x.audit.last(1); err != nil || lines[0].Reason != "holiday" || lines[0].Actor != "ann" {
		t.Errorf("audit log: %+v, %v", lines, err)
	}
	if err := write(x.s, "/photos/big", "put again"); err != nil {
		t.Fatal(err)
	}
	if w := serve(x.a, "POST", target, "", form...); w.Code != 404 || !strings.Contains(w.Body.String(), "not known to be damaged") {
		t.Errorf("a file that was replaced = %d", w.Code)
	}
	if page := serve(x.a, "GET", "/", "", form...).Body.String(); strings.Contains(page, target) {
		t.Error("the page still offers it")
	}
}

// hungScrub is a store whose scrubs hold their lock, as on a disk that hangs.
type hungScrub struct {
	*rich
	hang chan struct{}
}

func (f *hungScrub) Scrub(context.Context, string) (store.ScrubRun, error) {
	<-f.hang
	return store.ScrubRun{}, store.ErrClosed
}
func (f *hungScrub) ScrubStatus() store.ScrubStatus { <-f.hang; return store.ScrubStatus{} }
func (f *hungScrub) StopScrub() bool                { <-f.hang; return false }

// While a scrub holds its lock the jobs, and what shows them, are still told; and other jobs
// can be started and stopped.
func TestJobsWhileAScrubHangs(t *testing.T) {
	f := &hungScrub{newRich(), make(chan struct{})}
	f.check = func(ctx context.Context) ([]string, error) { <-ctx.Done(); return nil, ctx.Err() }
	o := richOptions(f)
	o.Jobs = nil
	a := New(o)
	want := func(code int, method, path string) {
		t.Helper()
		answered := make(chan int, 1)
		go func() { answered <- serve(a, method, path, "").Code }()
		select {
		case got := <-answered:
			if got != code {
				t.Errorf("%s %s = %d, want %d", method, path, got, code)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s %s hangs", method, path)
		}
	}
	want(503, "POST", "/api/v1/jobs/scrub/stop")
	want(200, "GET", "/api/v1/jobs")
	want(200, "GET", "/")
	want(200, "POST", "/api/v1/jobs/check/start")
	want(409, "POST", "/api/v1/jobs/check/start")
	want(200, "POST", "/api/v1/jobs/check/stop")
	want(200, "POST", "/api/v1/jobs/scrub/start")
	want(200, "POST", "/api/v1/jobs/scrub/stop") // one that was started here
	close(f.hang)
	a.Close()
}

// A download that breaks off is told, unless it is the client who has gone.
func TestSalvageThatBreaksOffIsTold(t *testing.T) {
	x := newSite(t)
	var told []error
	x.a.o.Failed = func(_ context.Context, err error) { told = append(told, err) }
	for _, left := range []bool{false, true} {
		told = nil
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		r := httptest.NewRequestWithContext(ctx, "POST", fmt.Sprintf("/api/v1/damaged/%d/salvage", x.damaged), strings.NewReader(""))
		r.Header.Set("Authorization", basicAnn)
		w := gone{httptest.NewRecorder(), func() {
			if left {
				leave()
			}
		}}
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("answered %d, panic %v, want %v", w.Code, v, http.ErrAbortHandler)
				}
			}()
			x.a.ServeHTTP(w, r)
		}()
		if left != (len(told) == 0) || !left && !errors.Is(told[0], errTest) {
			t.Errorf("the client has left: %t, told of %v", left, told)
		}
	}
}

// gone is an answer whose client takes nothing.
type gone struct {
	*httptest.ResponseRecorder
	leave func() // called first
}

func (w gone) Write([]byte) (int, error) {
	w.leave()
	return 0, errTest
}

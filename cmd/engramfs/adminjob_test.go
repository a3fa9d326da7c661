package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"engramfs/web"
)

// withScrub gives a server a scrub that goes on until release is closed or it is
// stopped. It has told of its progress when started is closed.
func withScrub(release <-chan struct{}, started chan<- struct{}) func(*web.Options) {
	return func(o *web.Options) {
		o.Now = nil
		o.Jobs = []web.JobSpec{{Name: "scrub", Title: "Scrub", Unit: "bytes", Run: func(ctx context.Context, progress func(done, total int64)) ([]string, error) {
			progress(1<<20, 4<<20)
			close(started)
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-release:
				progress(4<<20, 4<<20)
				return nil, nil
			}
		}}}
	}
}

// withoutClock lets a server use the clock of its store.
func withoutClock(o *web.Options) { o.Now = nil }

func TestCheckTellsItsResult(t *testing.T) {
	for name, tc := range map[string]struct {
		problems []string
		err      error
		code     int
		want     string
	}{
		"clean":    {nil, nil, exitClean, "Result:   clean\n"},
		"problems": {[]string{"dirent /a: no inode", "inode 9: \x1bnlink"}, nil, exitRun, "Problems: dirent /a: no inode\n          inode 9: \\x1bnlink\n"},
		"failed":   {nil, errors.New("disk"), exitRun, "Result:   failed\n"},
	} {
		f := newTroubled()
		f.check = func(context.Context) ([]string, error) { return tc.problems, tc.err }
		s := serveAdmin(t, f)
		if code, out, _ := admin(t, s, "check", "status"); code != exitClean || !strings.Contains(out, "not run since") {
			t.Errorf("%s: status before: exit %d\n%s", name, code, out)
		}
		code, out, errs := admin(t, s, "check")
		if code != tc.code || !strings.Contains(out, tc.want) || errs != "" {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errs)
		}
		if again, last, _ := admin(t, s, "check", "status"); again != code || !strings.HasSuffix(out, last) {
			t.Errorf("%s: status: exit %d\n%s", name, again, last)
		}
		if code, out, _ := admin(t, s, "check", "--json"); code != tc.code || !strings.HasPrefix(out, "{\n  \"name\": \"check\"") {
			t.Errorf("%s: json: exit %d\n%s", name, code, out)
		}
	}
}

func TestScrubIsJoinedAndFollowed(t *testing.T) {
	release, started := make(chan struct{}), make(chan struct{})
	s := serveAdmin(t, newTroubled(), withScrub(release, started))
	if code, out, errs := admin(t, s, "scrub", "--detach"); code != exitClean || !strings.Contains(out, "State:    running") {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	<-started
	if code, out, _ := admin(t, s, "scrub", "status"); code != exitClean || !strings.Contains(out, "Progress: 1.0 MiB of 4.0 MiB, ") || !strings.Contains(out, " left\n") {
		t.Errorf("status: exit %d\n%s", code, out)
	}
	go func() {
		defer close(release)
		for asked := 0; asked < 2 && t.Context().Err() == nil; time.Sleep(2 * jobLook) {
			_, text := do(t, s.Client(), http.MethodGet, s.URL+"/api/v1/audit", "", "Authorization", "Bearer "+goodToken)
			asked = strings.Count(text, `"job.start"`)
		}
	}()
	code, out, errs := admin(t, s, "scrub") // joins the run, which would else close started twice
	if code != exitClean || !strings.HasPrefix(out, "scrub: 1.0 MiB of 4.0 MiB") || !strings.Contains(out, "Result:   clean") ||
		!strings.Contains(out, "Covered:  4.0 MiB of 4.0 MiB") || !strings.Contains(out, " by token\n") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if n := strings.Count(out, "scrub: "); n != 1 {
		t.Errorf("%d lines of progress in a moment\n%s", n, out)
	}
}

func TestScrubIsStopped(t *testing.T) {
	started := make(chan struct{})
	s := serveAdmin(t, newTroubled(), withScrub(nil, started))
	if code, _, errs := admin(t, s, "scrub", "stop"); code != exitRun || !strings.Contains(errs, "job_not_running") {
		t.Errorf("nothing to stop: exit %d, %s", code, errs)
	}
	followed := make(chan int)
	go func() {
		code, _, _ := admin(t, s, "scrub")
		followed <- code
	}()
	<-started
	if code, _, errs := admin(t, s, "scrub", "stop"); code != exitClean {
		t.Errorf("stop: exit %d, %s", code, errs)
	}
	if code := <-followed; code != exitRun {
		t.Errorf("a scrub that was stopped: exit %d", code)
	}
	if code, out, _ := admin(t, s, "scrub", "status"); code != exitRun || !strings.Contains(out, "Result:   stopped") {
		t.Errorf("status: exit %d\n%s", code, out)
	}
}

func TestScrubGoesOnWithoutItsFollower(t *testing.T) {
	started := make(chan struct{})
	s := serveAdmin(t, newTroubled(), withScrub(nil, started))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		time.Sleep(jobLook)
		cancel()
	}()
	var out, errs strings.Builder
	code := run(ctx, []string{"admin", "--admin", s.Listener.Addr().String(), "--data", dataWith(t, goodToken), "scrub"}, &out, &errs)
	if code != exitRun || !strings.Contains(errs.String(), "goes on in the server") {
		t.Errorf("exit %d\n%s%s", code, &out, &errs)
	}
	if code, out, _ := admin(t, s, "scrub", "status"); code != exitClean || !strings.Contains(out, "running") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestBarOnATerminal(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	rate, left := 1500.0, 62.0
	var out strings.Builder
	p := &progress{name: "check", w: &out, bar: true, begun: time.Now()}
	for _, r := range []web.Run{
		{},
		{Unit: "inodes", Done: number(50), Total: number(200), Rate: &rate, TimeLeft: &left},
		{Unit: "inodes", Done: number(300), Total: number(200)}, // more than was expected
		{Unit: "inodes", Done: number(7), Total: number(0)},
	} {
		if err := p.update(&r); err != nil {
			t.Fatal(err)
		}
	}
	p.end()
	want := []string{
		"",
		"check  running for 0s",
		"check [#######.......................]  25 %  50 of 200 inodes, 1500/s, 1m2s left",
		"check [##############################] 100 %  300 of 200 inodes",
		"check  7 of 0 inodes",
		"",
	}
	if got := strings.Split(out.String(), eraseLine); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

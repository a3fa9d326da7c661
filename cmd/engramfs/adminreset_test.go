package main

import (
	"strings"
	"testing"
)

func TestResetRefusesWithoutAnAnswer(t *testing.T) {
	f := newTroubled()
	s := serveAdmin(t, f)
	for _, args := range [][]string{{"reset", "inode:7"}, {"reset", "inode:7", "--json"}} {
		code, _, errs := admin(t, s, args...)
		if code != exitUsage || !strings.Contains(errs, "add --yes") {
			t.Errorf("%v: exit %d, %s", args, code, errs)
		}
	}
	if got := f.resets(); got != "" {
		t.Errorf("asked for %s", got)
	}
}

func TestResetReports(t *testing.T) {
	report := func(first string) string {
		return "Report:   " + first + ", generation 3\nKept:     1 handle\nReloaded: size 5, was 4\n          mtime\nRepaired: none\nProblems: none\nTook:     12ms\n"
	}
	f := newTroubled()
	s := serveAdmin(t, f)
	if code, out, errs := admin(t, s, "reset", "inode:7", "--dry-run"); code != exitClean || out != report("dry run: a reset would succeed") {
		t.Errorf("dry run: exit %d\n%s%s", code, out, errs)
	}
	if code, out, errs := admin(t, s, "reset", "inode:7", "--yes"); code != exitClean || out != report("reset") {
		t.Errorf("reset: exit %d\n%s%s", code, out, errs)
	}
	if code, out, errs := admin(t, serveAdmin(t, newTroubled()), "reset", "inode:7", "--yes", "--json"); code != exitClean || !strings.Contains(out, `"reloaded": [`) || errs != "" {
		t.Errorf("reset --json: exit %d\n%s%s", code, out, errs)
	}
	if got, want := f.resets(), "inode:7 gen=3 dry=true; inode:7 gen=3 dry=false"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	if code, _, errs := admin(t, s, "reset", "inode:7", "--yes"); code != exitRun || !strings.Contains(errs, "nothing to reset") {
		t.Errorf("healthy: exit %d, %s", code, errs)
	}
}

func TestResetThatFailsShowsWhy(t *testing.T) {
	f := newTroubled()
	f.fails = true
	code, out, errs := admin(t, serveAdmin(t, f), "reset", "inode:7", "--yes")
	if code != exitRun || !strings.Contains(out, "Report:   not reset: it stays poisoned") ||
		!strings.Contains(out, "Problems: dirent of /x: no inode") || !strings.Contains(errs, "(damaged)") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

func TestResetOfAStaleGeneration(t *testing.T) {
	f := newTroubled()
	code, out, errs := admin(t, serveAdmin(t, f), "reset", "inode:7", "--yes", "--gen", "2")
	want := "engramfs: error: reset inode:7: the lock was poisoned again or reset since it was looked at: nothing was changed, look at it first (generation_stale)\n" +
		"engramfs: hint: engramfs admin locks inode:7 shows it as it is now; then reset it again\n"
	if code != exitRun || out != "" || errs != want {
		t.Errorf("exit %d\n%s%s\nwant %s", code, out, errs, want)
	}
}

// asking runs a reset that asks, and calls meanwhile before the answer is read.
func asking(t *testing.T, f *troubled, answer string, meanwhile func()) (stdout string, err error) {
	t.Helper()
	server := serveAdmin(t, f)
	var out, errs strings.Builder
	p := &process{ctx: t.Context(), stdout: &out, stderr: &errs}
	a := &adminCmd{Admin: server.Listener.Addr().String(), Data: dataWith(t, goodToken)}
	s, err := a.open(p)
	if err != nil {
		t.Fatal(err)
	}
	c := &adminResetCmd{Lock: "inode:7"}
	err = c.resetAsking(s, readerFunc(func(b []byte) (int, error) {
		meanwhile()
		return strings.NewReader(answer).Read(b)
	}))
	return out.String(), err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestResetAsks(t *testing.T) {
	for answer, yes := range map[string]bool{"y\n": true, "Yes\n": true, "n\n": false, "\n": false, "": false, "yess\n": false} {
		f := newTroubled()
		out, err := asking(t, f, answer, func() {
			if got := f.resets(); got != "inode:7 gen=3 dry=true" {
				t.Errorf("before the answer it asked for %s", got)
			}
		})
		if (err == nil) != yes || (f.status().Gen == 0) != yes {
			t.Errorf("%q: %v, generation %d", answer, err, f.status().Gen)
		}
		if i, j := strings.Index(out, "Value:    boom"), strings.Index(out, "dry run: a reset would succeed"); i < 0 || j < i || !strings.Contains(out[j:], "\nReset inode:7? [y/N] ") {
			t.Errorf("%q: wrong order\n%s", answer, out)
		}
		if strings.Contains(out, "goroutine") {
			t.Errorf("the stack hides the question:\n%s", out)
		}
	}
}

func TestResetAskedTooLate(t *testing.T) {
	f := newTroubled()
	_, err := asking(t, f, "y\n", func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.gen = 4 // poisoned again while the administrator reads
	})
	if err == nil || !strings.Contains(err.Error(), "generation_stale") || f.status().Gen != 4 {
		t.Errorf("%v, generation %d", err, f.status().Gen)
	}
}

func TestResetDoesNotAskWhenItWouldFail(t *testing.T) {
	f := newTroubled()
	f.fails = true
	out, err := asking(t, f, "y\n", func() { t.Error("it asked") })
	if err == nil || !strings.Contains(out, "dry run: a reset would fail") {
		t.Errorf("%v\n%s", err, out)
	}
}

package main

import (
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"engramfs/internal/crash"
	"engramfs/store/poison"
)

func TestMonitorFlagsAreChecked(t *testing.T) {
	for args, want := range map[string]string{
		"--slow-after=0s":        "--slow-after 0s: want more than 0",
		"--stuck-after=-1s":      "--stuck-after -1s: want more than 0",
		"--alert-repeat=0s":      "--alert-repeat 0s: want more than 0",
		"--crash-limit=-1":       "--crash-limit -1: want 0 or more",
		"--alert-secret-file=/x": "--alert-secret-file needs an --alert-webhook",
	} {
		if err := mustParse(t, args).validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	if _, err := parseServe(t, "--heal=always"); err == nil {
		t.Error("--heal=always is accepted")
	}
	c := mustParse(t, "--no-ready-when-degraded", "--alert-webhook=http://a/x,y", "--alert-webhook=https://b/")
	if c.ReadyWhenDegraded || len(c.AlertWebhook) != 2 || c.AlertWebhook[0] != "http://a/x,y" {
		t.Errorf("ready when degraded %t, webhooks %q", c.ReadyWhenDegraded, c.AlertWebhook)
	}
}

func TestBadAlertOptionsEndTheStart(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"--alert-webhook=nonsense", "webhook 1: want an http or https URL"},
		{"--alert-webhook=http://127.0.0.1:1 --alert-secret-file=" + empty, "empty is empty"},
		{"--alert-webhook=http://127.0.0.1:1 --alert-secret-file=/does/not/exist", "no such file"},
	} {
		var stderr strings.Builder
		args := append([]string{"serve", "--data", filepath.Join(t.TempDir(), "d"), "--listen=127.0.0.1:0", "--admin=none", "--anonymous", "--reserve=none"},
			strings.Fields(c.args)...)
		if code := run(t.Context(), args, io.Discard, &stderr); code != exitRun || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", c.args, code, exitRun, c.want, &stderr)
		}
	}
}

func TestStacksOfAStuckLockAreKept(t *testing.T) {
	dir := t.TempDir()
	r, err := crash.Open(crash.Options{Dir: dir, Output: func(*os.File) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := mustParse(t, "--stuck-after=7s")
	s := &server{cfg: c, crash: r, log: slog.New(slog.DiscardHandler)}
	o := s.watchLocks()
	if o.Soft != 7*time.Second {
		t.Errorf("soft limit %v, want 7s", o.Soft)
	}
	o.OnSoft(poison.Stuck{Lock: "alloc"}, []byte("goroutine 1 [running]:\n"))
	names, err := filepath.Glob(filepath.Join(dir, "stuck-*.log"))
	if err != nil || len(names) != 1 {
		t.Fatalf("files %v, %v, want one", names, err)
	}
	if text, err := os.ReadFile(names[0]); err != nil || !strings.Contains(string(text), "goroutine 1") {
		t.Errorf("content %q, %v", text, err)
	}
}

// A second copy that cannot be written costs no request, and is told wherever an
// administrator looks.
func TestSecondCopyThatFailsIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--second-copy", filepath.Join(file, "copy"))
	s.want(201, "PUT", s.url+"a", "x")
	for path, want := range map[string]string{
		"api/v1/health":  "the second copy of the metadata cannot be written",
		"readyz?verbose": "[!]second-copy warn",
		"metrics":        "\nengramfs_degraded 1\n",
		"":               "The second copy of the metadata is not up to date.",
	} {
		if got := s.want(200, "GET", s.admin+path, ""); !strings.Contains(got, want) {
			t.Errorf("GET /%s does not say %q\n%.2000s", path, want, got)
		}
	}
	good := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous")
	for range 1000 {
		if text := good.want(200, "GET", good.admin+"api/v1/health", ""); strings.Contains(text, `"state": "current"`) && strings.Contains(text, `"late": false`) && strings.Contains(text, `"online"`) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a server with a good copy does not say so")
}

func TestMetricsNeedAPasswordUnlessPublic(t *testing.T) {
	for _, public := range []bool{false, true} {
		args := []string{"--user=ann:secret"}
		want := http.StatusUnauthorized
		if public {
			args, want = append(args, "--metrics-public"), http.StatusOK
		}
		s := start(t, t.TempDir(), args...)
		r, err := http.Get(s.admin + "metrics")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("public %t: GET %smetrics = %d, want %d", public, s.admin, r.StatusCode, want)
		}
		s.stop()
	}
}

// TestOrderlyEndsAreNoCrashes starts a server more often than the limit of crashes.
func TestOrderlyEndsAreNoCrashes(t *testing.T) {
	data := t.TempDir()
	for range 3 {
		s := start(t, data, "--anonymous", "--crash-limit=1")
		if code := s.stop(); code != exitClean {
			t.Fatalf("exit code %d\n%s", code, s.stderr)
		}
	}
	left, err := filepath.Glob(filepath.Join(data, "crash-*.log"))
	if err != nil || len(left) > 0 {
		t.Errorf("reports are left: %v, %v", left, err)
	}
}

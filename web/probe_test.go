package web

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"engramfs/store/poison"
)

// probed sends a GET with a header, and returns status, media type and body.
func probed(a *Server, path string, header ...string) (int, string, string) {
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w.Code, w.Header().Get("Content-Type"), w.Body.String()
}

func TestProbesInEveryState(t *testing.T) {
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			a := newState(t, s)
			if s.name == "stuck" {
				// The fake's lock has been held for 41 seconds.
				if code, _, body := probed(a, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "[-]not-stuck") {
					t.Errorf("GET /readyz = %d %q, want 503 because of the stuck lock", code, body)
				}
			}
			ready := map[Status]int{ReadOnly: 503, Stuck: 503, Unknown: 503}[s.want]
			if ready == 0 {
				ready = 200
			}
			if code, _, body := probed(a, "/readyz"); code != ready {
				t.Errorf("GET /readyz = %d %q, want %d", code, body, ready)
			}
			for _, path := range []string{"/livez", "/healthz"} {
				if code, _, body := probed(a, path); code != 200 || body != "pass\n" {
					t.Errorf("GET %s = %d %q, want 200 pass: a restart does not help", path, code, body)
				}
			}
		})
	}
}

func TestLivezFailsWhenOnlyARestartHelps(t *testing.T) {
	hung := false
	watched := now
	o := richOptions(newRich())
	o.Hung = func() bool { return hung }
	o.Snapshot = func() poison.Snapshot { return poison.Snapshot{WatchedAt: watched} }
	a := New(o)
	defer a.Close()
	if code, _, _ := probed(a, "/livez"); code != 200 {
		t.Fatalf("GET /livez = %d, want 200", code)
	}
	watched = now.Add(-2 * time.Minute)
	if code, _, body := probed(a, "/livez"); code != 503 || !strings.Contains(body, "[-]watchdog fail: nothing has looked for stuck locks for 2m0s") {
		t.Errorf("watchdog silent: %d %q, want 503", code, body)
	}
	if code, _, _ := probed(a, "/livez?exclude=watchdog"); code != 200 {
		t.Errorf("watchdog silent but excluded: %d, want 200", code)
	}
	watched, hung = now, true
	if code, _, body := probed(a, "/livez"); code != 503 || !strings.Contains(body, "[-]locks fail") {
		t.Errorf("hung: %d %q, want 503", code, body)
	}
	if code, _, body := probed(a, "/api/v1/health", "Accept", healthMedia); code != 503 || !strings.Contains(body, `"status":"fail"`) {
		t.Errorf("hung: health %d %q, want 503 and fail", code, body)
	}
}

func TestReadyzWhenDegraded(t *testing.T) {
	o := richOptions(newRich())
	gate(&o)
	for _, strict := range []bool{false, true} {
		o.DegradedNotReady = strict
		a := New(o)
		code, _, body := probed(a, "/readyz?verbose")
		want, line := 200, "[!]not-poisoned warn: reason withheld\n"
		if strict {
			want, line = 503, "[-]not-poisoned fail: reason withheld\n"
		}
		if code != want || !strings.Contains(body, line) || strings.Contains(body, "/photos") {
			t.Errorf("strict %t: GET /readyz?verbose = %d\n%s\nwant %d and %q", strict, code, body, want, line)
		}
		if _, _, body := probed(a, "/readyz?verbose", "Authorization", basicAnn); !strings.Contains(body, "/photos/2024") {
			t.Errorf("with a password the reason is withheld, too:\n%s", body)
		}
		if code, _, body := probed(a, "/readyz?verbose&exclude=not-poisoned&exclude=typo"); code != 200 ||
			strings.Contains(body, "]not-poisoned") || !strings.Contains(body, `no check "typo"`) {
			t.Errorf("excluded: %d\n%s", code, body)
		}
		a.Close()
	}
}

func TestHealthJSON(t *testing.T) {
	o := richOptions(newRich())
	gate(&o)
	a := New(o)
	defer a.Close()
	code, media, body := probed(a, "/api/v1/health", "Accept", "text/html, application/health+json;q=0.9", "Authorization", basicAnn)
	var h apiHealth
	if err := json.Unmarshal([]byte(body), &h); err != nil || code != 200 || media != healthMedia {
		t.Fatalf("%d %s %v\n%s", code, media, err, body)
	}
	lock := h.Checks["lock:inode:7"]
	if h.Status != checkWarn || h.ReleaseID != "v1.4.0" || len(lock) != 1 || lock[0].Status != checkWarn ||
		!lock[0].Time.Equal(poisonedAt) || h.Checks["lock:alloc"][0].Status != checkPass {
		t.Errorf("health %s", body)
	}
	_, _, body = probed(a, "/api/v1/health", "Accept", healthMedia)
	if strings.TrimSpace(body) != `{"status":"warn"}` {
		t.Errorf("without credentials %s, want the status alone", body)
	}
	if _, media, _ := probed(a, "/api/v1/health", "Accept", "*/*"); media != "application/json" {
		t.Errorf("Accept */* gets %s, want our own format", media)
	}
}

func TestMetricsAndStacksNeedCredentials(t *testing.T) {
	o := richOptions(newRich())
	gate(&o)
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "engramfs_up 1\n") })
	a := New(o)
	defer a.Close()
	for _, path := range []string{"/metrics", "/api/v1/debug/goroutines"} {
		if code, _, _ := probed(a, path); code != http.StatusUnauthorized {
			t.Errorf("GET %s without credentials = %d, want 401", path, code)
		}
	}
	if code, _, body := probed(a, "/metrics", "Authorization", basicAnn); code != 200 || body != "engramfs_up 1\n" {
		t.Errorf("GET /metrics = %d %q", code, body)
	}
	if code, _, body := probed(a, "/api/v1/debug/goroutines", "Authorization", basicAnn); code != 200 ||
		!strings.Contains(body, "TestMetricsAndStacksNeedCredentials") {
		t.Errorf("GET /api/v1/debug/goroutines = %d %.300q, want the stack of this test", code, body)
	}
	o.MetricsPublic = true
	open := New(o)
	defer open.Close()
	if code, _, _ := probed(open, "/metrics"); code != 200 {
		t.Errorf("GET /metrics with MetricsPublic = %d, want 200", code)
	}
	o.Metrics = nil
	without := New(o)
	defer without.Close()
	if code, _, _ := probed(without, "/metrics"); code != http.StatusNotFound {
		t.Errorf("GET /metrics of a server without metrics = %d, want 404", code)
	}
}

func TestProbesAreInTheDocument(t *testing.T) {
	a := New(richOptions(newRich()))
	defer a.Close()
	_, _, body := probed(a, "/openapi.json")
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]any
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/livez", "/readyz", "/healthz", "/api/v1/debug/goroutines"} {
		var media []string
		for m := range doc.Paths[path]["get"].Responses["200"].Content {
			media = append(media, m)
		}
		if !slices.Equal(media, []string{"text/plain"}) {
			t.Errorf("GET %s answers %v in the document, want text/plain", path, media)
		}
	}
}

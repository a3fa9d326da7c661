package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// prometheus is a Prometheus that scrapes one server and knows configs/alerts.yml.
type prometheus struct {
	t    *testing.T
	addr string
}

const prometheusConfig = `
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [%q]
scrape_configs:
  - job_name: engramfs
    static_configs: [{targets: [%q]}]
`

func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	program := Program(t, "prometheus")
	rules, err := filepath.Abs("../../configs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t: t, addr: freeAddr(t)}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, prometheusConfig, rules, target), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "prometheus.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.addr, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of prometheus:\n%s", text[max(0, len(text)-3000):])
		}
	})
	return p
}

// get reads the data of an answer of Prometheus' API; false: not yet.
func (p *prometheus) get(path string, data any) bool {
	r, err := http.Get("http://" + p.addr + path)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	answer := struct{ Data any }{data}
	return r.StatusCode == http.StatusOK && json.NewDecoder(r.Body).Decode(&answer) == nil
}

// firing returns the names of the alerts that fire.
func (p *prometheus) firing() (names []string) {
	var list struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	p.get("/api/v1/alerts", &list)
	for _, a := range list.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels["alertname"])
		}
	}
	return names
}

// value returns the value of a query that has one; "": it has none.
func (p *prometheus) value(query string) string {
	var result struct {
		Result []struct{ Value [2]any }
	}
	if !p.get("/api/v1/query?query="+query, &result) || len(result.Result) != 1 {
		return ""
	}
	return fmt.Sprint(result.Result[0].Value[1])
}

func eventually(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// webhook is a receiver of alerts.
type webhook struct {
	*httptest.Server
	mu     sync.Mutex
	alerts []webhookAlert
}

type webhookAlert struct {
	Status      string
	Labels      map[string]string
	Fingerprint string
}

func startWebhook(t *testing.T) *webhook {
	h := &webhook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct {
			Version string
			Alerts  []webhookAlert
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || m.Version != "4" {
			t.Errorf("webhook gets version %q, %v", m.Version, err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.alerts = append(h.alerts, m.Alerts...)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *webhook) got() []webhookAlert {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.alerts)
}

// TestPoisonAlertFiresAndResolves: both ways out, Prometheus with the rules that
// are shipped and the server's own webhook.
func TestPoisonAlertFiresAndResolves(t *testing.T) {
	hook := startWebhook(t)
	s := start(t, "--enable-drills", "--alert-webhook="+hook.URL)
	p := startPrometheus(t, s.Admin)
	d, admin := connect(t, s), adminOf(t, s)
	must(t, d, "PUT", "/f", nil, []byte("old"), 201)
	eventually(t, "prometheus has scraped the server", time.Minute, func() bool { return p.value("engramfs_build_info") == "1" })
	if names := p.firing(); len(names) > 0 {
		t.Errorf("alerts of a healthy server: %v", names)
	}

	provoke(t, d, admin, "/f")
	l := poisonedLock(t, admin, "/f")
	eventually(t, "the alert of prometheus fires", time.Minute, func() bool { return slices.Contains(p.firing(), "EngramfsLockPoisoned") })
	eventually(t, "the webhook is told", 10*time.Second, func() bool { return len(hook.got()) == 1 })
	if n := p.value(`increase(engramfs_lock_poison_events_total{lock="inode",cause="panic"}[1m])`); n == "" || n == "0" {
		t.Errorf("increase() of the poison events is %q: it does not see the first one", n)
	}

	resetPoisoned(t, admin, l)
	eventually(t, "the alert of prometheus is over", time.Minute, func() bool { return len(p.firing()) == 0 })
	eventually(t, "the webhook is told that it is over", 10*time.Second, func() bool { return len(hook.got()) == 2 })
	fired, resolved := hook.got()[0], hook.got()[1]
	if fired.Status != "firing" || resolved.Status != "resolved" || fired.Labels["lock"] != l.Name ||
		fired.Labels["alertname"] != "EngramfsLockPoisoned" || fired.Fingerprint != resolved.Fingerprint {
		t.Errorf("webhook: %+v, then %+v", fired, resolved)
	}
	if long() {
		time.Sleep(time.Minute)
		if names := p.firing(); len(names) > 0 {
			t.Errorf("alerts a minute later: %v", names)
		}
	}
	if lost := p.value(`count_over_time(up[5m])-sum_over_time(up[5m])`); lost != "0" {
		t.Errorf("%s scrapes failed", lost)
	}
}

func adminOf(t *testing.T, s *Server) *DAV {
	t.Helper()
	admin := NewDAV(s.Admin, "", time.Minute)
	t.Cleanup(admin.Close)
	return admin
}

// provoke poisons the lock of a file through a PUT.
func provoke(t *testing.T, d, admin *DAV, path string) {
	t.Helper()
	drill := fmt.Sprintf(`{"path": %q, "point": "", "cause": "panic"}`, path)
	must(t, admin, "POST", "/api/v1/drills", []string{"Content-Type: application/json"}, []byte(drill), 200)
	must(t, d, "PUT", path, nil, []byte("new"), 503)
}

// TestVerifiedHealingNeedsNobody: a poisoned lock is reset by the server, up to its
// limit, and the events say who did it.
func TestVerifiedHealingNeedsNobody(t *testing.T) {
	s := start(t, "--enable-drills", "--heal=verified")
	d, admin := connect(t, s), adminOf(t, s)
	must(t, d, "PUT", "/f", nil, []byte("old"), 201)
	status := func() string {
		var h struct{ Status string }
		if err := json.Unmarshal(must(t, admin, "GET", "/api/v1/health", nil, nil, 200), &h); err != nil {
			t.Fatal(err)
		}
		return h.Status
	}
	for range 3 {
		provoke(t, d, admin, "/f")
		eventually(t, "the server heals itself", 10*time.Second, func() bool { return status() == "online" })
	}
	provoke(t, d, admin, "/f")
	notes := func() string { return string(must(t, admin, "GET", "/api/v1/health", nil, nil, 200)) }
	eventually(t, "the server gives up", 10*time.Second, func() bool { return strings.Contains(notes(), "left to a person") })
	if got := must(t, d, "GET", "/f", nil, nil, 200); string(got) != "old" {
		t.Errorf("content %q, want the old one", got)
	}
	l := poisonedLock(t, admin, "/f")
	var events struct {
		Events []struct{ Kind, Source string }
	}
	if err := json.Unmarshal(must(t, admin, "GET", "/api/v1/events", nil, nil, 200), &events); err != nil {
		t.Fatal(err)
	}
	byAuto := 0
	for _, e := range events.Events {
		if e.Kind == "reset" && e.Source == "auto" {
			byAuto++
		}
	}
	if byAuto != 3 {
		t.Errorf("%d resets by auto in the events, want 3", byAuto)
	}
	text := string(must(t, admin, "GET", "/metrics", nil, nil, 200))
	for _, line := range []string{
		`engramfs_lock_resets_total{lock="inode",result="ok",source="auto"} 3`, `engramfs_heal_escalated 1`,
		`engramfs_requests_total{door="webdav",op="PUT",status="5xx"} 4`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("/metrics has no line %q", line)
		}
	}
	resetPoisoned(t, admin, l)
	must(t, d, "PUT", "/f", nil, []byte("new"), 204)
}

// TestCrashLoopEndsReadOnly: what kills the server soon after each start stops
// doing harm, and the next start knows why it died.
func TestCrashLoopEndsReadOnly(t *testing.T) {
	s := start(t, "--crash-limit=2")
	d := connect(t, s)
	must(t, d, "PUT", "/f", nil, []byte("kept"), 201)
	for range 2 {
		abort(t, s)
		s.Restart()
	}
	d, admin := connect(t, s), adminOf(t, s)
	if got := must(t, d, "GET", "/f", nil, nil, 200); string(got) != "kept" {
		t.Errorf("content %q after the crashes", got)
	}
	must(t, d, "PUT", "/g", nil, []byte("x"), 503)
	health := string(must(t, admin, "GET", "/api/v1/health", nil, nil, 200))
	for _, text := range []string{`"read-only"`, "2 starts within 10m0s ended before their time", "the server crashed at", "SIGABRT: abort"} {
		if !strings.Contains(health, text) {
			t.Errorf("the health does not say %q:\n%s", text, health)
		}
	}
	must(t, admin, "GET", "/readyz", nil, nil, 503)
	must(t, admin, "GET", "/livez", nil, nil, 200)

	abort(t, s)
	s.Restart()
	abort(t, s)
	out, err := exec.Command(s.args[0], s.args[1:]...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the server crashes again and again") || !strings.Contains(string(out), "hint: look at crash-") {
		t.Errorf("the start after four crashes: %v\n%s", err, out)
	}
}

// abort ends the server as its supervisor's watchdog would.
func abort(t *testing.T, s *Server) {
	t.Helper()
	s.running = false
	if err := syscall.Kill(s.Pid(), syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.exit:
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not end after SIGABRT")
	}
}

// TestProbesAndStacks asks a server what its supervisor and its developer would.
func TestProbesAndStacks(t *testing.T) {
	s := start(t)
	admin := adminOf(t, s)
	for _, path := range []string{"/livez", "/readyz", "/healthz"} {
		if got := string(must(t, admin, "GET", path, nil, nil, 200)); got != "pass\n" {
			t.Errorf("GET %s answers %q", path, got)
		}
	}
	if got := string(must(t, admin, "GET", "/api/v1/debug/goroutines", nil, nil, 200)); !strings.Contains(got, "main.(*server).serve") {
		t.Errorf("the stacks are not those of the server: %.300s", got)
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.Admin+"/api/v1/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/health+json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	if answer.Header.Get("Content-Type") != "application/health+json" || !strings.Contains(string(body), `"status":"pass"`) {
		t.Errorf("health+json: %s\n%s", answer.Header.Get("Content-Type"), body)
	}
}

package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"engramfs/store/storetest"
)

const (
	rulesFile     = "../../configs/alerts.yml"
	rulesTestFile = "../../configs/alerts_test.yml"
	dashboardFile = "../../configs/dashboard.json"
)

// findPromtool skips the test where promtool is missing; with REQUIRE_ALL=1 it
// fails the test.
func findPromtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil && os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip("promtool is not installed")
	}
	return path
}

func TestAlertRules(t *testing.T) {
	promtool := findPromtool(t)
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", rulesTestFile}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestMetricsPassTheLinter: what promtool thinks of names, units and help texts.
func TestMetricsPassTheLinter(t *testing.T) {
	promtool := findPromtool(t)
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(exposition(t, everything(t)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// everything returns the metrics of a server that has all there can be.
func everything(t *testing.T) *Metrics {
	return New(Options{
		Store: storetest.New(t), Version: "v1", MountPanics: func() uint64 { return 0 }, DAVPanics: func() uint64 { return 0 },
		Notifications: func() Notifications { return Notifications{} }, Escalated: func() int { return 0 },
		Crashes: func() (int, bool) { return 0, false }, SecondCopy: func() SecondCopy { return SecondCopy{} },
	})
}

var metricName = regexp.MustCompile(`\b(?:engramfs|go|process)_[a-z0-9_]+\b`)

// TestRulesAndDashboardUseMetricsThatThereAre: a rule about a metric with another
// name would be silent for ever.
func TestRulesAndDashboardUseMetricsThatThereAre(t *testing.T) {
	series := scrape(t, everything(t))
	names := map[string]bool{}
	for s := range series {
		name, _, _ := strings.Cut(s, "{")
		names[name] = true
	}
	names["engramfs_lock_watch_timestamp_seconds"] = true // once the watchdog has looked
	used := map[string]bool{}
	for _, file := range []string{rulesFile, rulesTestFile, dashboardFile} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := metricName.FindAllString(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s uses no metric", file)
		}
		for _, name := range found {
			used[name] = true
			if !names[name] {
				t.Errorf("%s uses %s, which there is not", file, name)
			}
		}
	}
	for _, name := range []string{
		"engramfs_lock_poisoned", "engramfs_degraded", "engramfs_read_only", "engramfs_requests_total",
		"engramfs_request_duration_seconds_bucket", "engramfs_journal_fsync_duration_seconds_bucket",
	} {
		if !used[name] {
			t.Errorf("nobody uses %s", name)
		}
	}
}

// TestEveryRuleIsTested: for each alert there is a case in which it fires, and one
// in which it does not.
func TestEveryRuleIsTested(t *testing.T) {
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := os.ReadFile(rulesTestFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(rules), -1) {
		for _, expected := range []string{"", " []"} {
			if !strings.Contains(string(cases), "alertname: "+m[1]+"\n        exp_alerts:"+expected+"\n") {
				t.Errorf("%s has no case with exp_alerts:%s", m[1], expected)
			}
		}
	}
}

// dashboard is as much of a dashboard of Grafana's as is looked at.
type dashboard struct {
	UID           string
	Title         string
	SchemaVersion int
	Panels        []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ H, W, X, Y int }
		Targets []struct {
			Expr, RefID string
			Datasource  struct{ Type, UID string }
		}
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestEveryRuleHasAPanel: who is told of an alert finds its figures on the dashboard.
func TestEveryRuleHasAPanel(t *testing.T) {
	shown := map[string]bool{}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				shown[name] = true
			}
		}
	}
	rules, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range metricName.FindAllString(string(rules), -1) {
		if !shown[name] {
			t.Errorf("a rule uses %s, which no panel shows", name)
		}
	}
}

// TestDashboardIsSound: what Grafana would refuse, or show as an empty panel.
func TestDashboardIsSound(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || len(d.Panels) < 10 {
		t.Errorf("uid %q, title %q, schema %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	var ids []int
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		ids = append(ids, p.ID)
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" && other != p.Title || x >= 24 {
					t.Fatalf("panel %q lies over %q, or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			if !strings.Contains(target.Expr, "engramfs") || target.Datasource.UID != "${datasource}" || target.RefID == "" {
				t.Errorf("panel %q: target %+v", p.Title, target)
			}
		}
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(d.Panels) {
		t.Error("two panels have the same id")
	}
}

// TestDashboardQueriesParse has promtool parse each of them, as a rule.
func TestDashboardQueriesParse(t *testing.T) {
	promtool := findPromtool(t)
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, m := range regexp.MustCompile(`"expr": ("(?:[^"\\]|\\.)*")`).FindAllSubmatch(text, -1) {
		var expr string
		if err := json.Unmarshal(m[1], &expr); err != nil {
			t.Fatal(err)
		}
		expr = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(expr)
		rules = append(rules, rule{"x:" + strings.Repeat("a", len(rules)+1), expr})
	}
	group := map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}}
	file := t.TempDir() + "/rules.yml" // JSON is YAML
	b, err := json.Marshal(group)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil || len(rules) < 10 {
		t.Errorf("%d queries: %v\n%s", len(rules), err, out)
	}
}

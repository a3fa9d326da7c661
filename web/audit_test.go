package web

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAuditHasALineBeforeAndAfter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	audit, err := OpenAudit(path)
	if err != nil {
		t.Fatal(err)
	}
	defer audit.Close()
	f := newRich()
	o := richOptions(f)
	gate(&o)
	o.Audit = audit
	a := New(o)
	serve(a, "POST", "/api/v1/locks/inode:7/reset", `{"reason": "it\nwas \"late\""}`, "If-Match", `"3"`, "Authorization", basicAnn)
	f.err = errTest
	serve(a, "POST", "/api/v1/locks/inode:7/reset", "", "If-Match", `"3"`, "Authorization", basicAnn)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 4 || !strings.Contains(lines[0], `"result":"begun"`) || !strings.Contains(lines[1], `"result":"done"`) ||
		!strings.Contains(lines[2], `"begun"`) || !strings.Contains(lines[3], `"result":"internal"`) {
		t.Fatalf("log:\n%s", text)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
	list := decode[AuditList](t, serve(a, "GET", "/api/v1/audit", "", "Authorization", basicAnn)).Actions
	if len(list) != 2 || list[1].Reason != "it\nwas \"late\"" || list[1].Actor != "ann" || list[1].Target != "inode:7" || list[1].Result != "done" {
		t.Errorf("actions = %+v", list)
	}
	if strings.Contains(string(text), "right") || strings.Contains(string(text), basicAnn) {
		t.Error("the log has a password")
	}
}

// Nothing is done that leaves no trace.
func TestNothingIsDoneWithoutAudit(t *testing.T) {
	a, f, audit := guarded(t)
	if err := audit.Close(); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, serve(a, "POST", "/api/v1/drills", `{"path": "/a", "cause": "panic"}`, "Authorization", basicAnn), 503, "audit_failed")
	if w := serve(a, "POST", "/login", "user=ann&password=right", formHeader...); w.Code == 303 {
		t.Errorf("login = %d", w.Code)
	}
	if f.calls() != "" {
		t.Errorf("the store was called: %s", f.calls())
	}
}

func TestAuditSurvivesATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(`{"id":"1","action":"drill.arm","result":"begun"}`+"\n"+`{"id":"1","act`), 0o600); err != nil {
		t.Fatal(err)
	}
	audit, err := OpenAudit(path)
	if err != nil {
		t.Fatal(err)
	}
	defer audit.Close()
	if err := audit.append(AuditLine{ID: "2", Action: "login", Result: "done"}); err != nil {
		t.Fatal(err)
	}
	lines, err := audit.last(10)
	if err != nil || len(lines) != 2 || lines[0].ID != "2" || lines[1].Result != auditBegun {
		t.Errorf("lines = %+v, %v", lines, err)
	}
}

func TestAuditShowsTheEndOfALongLog(t *testing.T) {
	audit, err := OpenAudit(filepath.Join(t.TempDir(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer audit.Close()
	big := AuditLine{ID: "old", Action: "drill.arm", Reason: strings.Repeat("x", auditTail), Result: "done"}
	for _, line := range []AuditLine{big, {ID: "a", Action: "login", Result: auditBegun}, {ID: "a", Action: "login", Result: "done"}} {
		if err := audit.append(line); err != nil {
			t.Fatal(err)
		}
	}
	if lines, err := audit.last(10); err != nil || len(lines) != 1 || lines[0].ID != "a" || lines[0].Result != "done" {
		t.Errorf("lines = %.200v, %v", lines, err)
	}
}

func TestLongReasonIsRefused(t *testing.T) {
	a, f, _ := guarded(t)
	body := `{"reason": "` + strings.Repeat("x", maxReason+1) + `"}`
	wantProblem(t, serve(a, "POST", "/api/v1/locks/inode:7/reset", body, "If-Match", `"3"`, "Authorization", basicAnn), 400, "bad_request")
	if f.calls() != "" {
		t.Errorf("called %q", f.calls())
	}
}

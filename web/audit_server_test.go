package web

import "testing"

func TestActionsOfTheServerAreAudited(t *testing.T) {
	audit, err := OpenAudit(t.TempDir() + "/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	end, err := audit.Begin("lock.reset", "inode:7", map[string]any{"gen": 3})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := audit.last(10)
	if err != nil || len(lines) != 1 || lines[0].Result != auditBegun {
		t.Fatalf("before the action: %+v, %v, want one line that it has begun", lines, err)
	}
	if err := end("done"); err != nil {
		t.Fatal(err)
	}
	lines, err = audit.last(10)
	if err != nil || len(lines) != 1 || lines[0].Result != "done" || lines[0].Via != "server" || lines[0].Target != "inode:7" {
		t.Errorf("after it: %+v, %v, want one action that is done", lines, err)
	}
	if err := audit.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Begin("lock.reset", "inode:7", nil); err == nil {
		t.Error("an action begins although its line cannot be written")
	}
}

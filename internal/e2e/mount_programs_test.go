package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// onMount starts a server with a mount for real programs, which must leave the
// store sound. The test must not take longer than limit.
func onMount(t *testing.T, limit time.Duration, args ...string) *Mounted {
	t.Helper()
	m := StartMounted(t, Options{Binary: engramfs, Args: args})
	end := m.Watch(limit)
	t.Cleanup(func() { // before the server's own end
		end()
		m.mustBeSound()
	})
	return m
}

// sh runs a shell script in dir and returns what it printed. It fails the test
// unless every command of the script succeeds.
func sh(t *testing.T, limit time.Duration, dir, script string, env ...string) string {
	t.Helper()
	out, err := Command(t, limit, dir, env, "", "/bin/bash", "-euo", "pipefail", "-c", script)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out[max(0, len(out)-4000):])
	}
	return out
}

func TestMountGit(t *testing.T) {
	Program(t, "git")
	m := onMount(t, 2*time.Minute)
	source := filepath.Join(t.TempDir(), "source")
	if _, err := PlantOddTree(source, 255); err != nil {
		t.Fatal(err)
	}
	env := []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org"}
	sh(t, time.Minute, source, `rmdir "empty folder"; git init -q -b main; git add -A; git commit -q -m first
		for i in 1 2 3; do echo $i >> names/plain.txt; git commit -q -am "change $i"; done`, env...)
	sh(t, time.Minute, m.Point, `git clone -q --no-local "`+source+`" clone; cd clone
		git fsck --full --strict; test -z "$(git status --porcelain)"; diff -r --exclude=.git "`+source+`" .
		git checkout -q -b topic; echo more >> names/plain.txt; git mv names/comma,.txt moved; git commit -q -am topic
		git checkout -q main; git merge -q --no-ff -m merge topic; git gc -q --aggressive --prune=now
		git fsck --full --strict; test -z "$(git status --porcelain)"
		git clone -q . ../second; cd ../second; git fsck --full --strict`, env...) // with hard links
	sh(t, time.Minute, m.Point, "diff -r --exclude=.git clone second")
}

// TestMountGoBuild builds and runs tests of a module on the mount, all caches and
// temporary folders included.
func TestMountGoBuild(t *testing.T) {
	Program(t, "go")
	m := onMount(t, 5*time.Minute)
	module := m.Path("module")
	if err := os.CopyFS(filepath.Join(module, "store/poison"), os.DirFS("../../store/poison")); err != nil {
		t.Fatal(err)
	}
	// The tests outside need modules; the package itself needs the standard library only.
	tests, err := filepath.Glob(filepath.Join(module, "store/poison/*_test.go"))
	if err != nil || len(tests) == 0 {
		t.Fatalf("no tests to leave out: %v", err)
	}
	for _, p := range tests {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	program := `package main

import (
	"errors"
	"fmt"

	"engramfs/store/poison"
)

func main() {
	fmt.Println("built on the mount", errors.Is(fmt.Errorf("%w", poison.ErrPoisoned), poison.ErrPoisoned))
}
`
	for name, text := range map[string]string{"go.mod": "module engramfs\n\ngo 1.26\n", "main.go": program} {
		if err := os.WriteFile(filepath.Join(module, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"GOCACHE=" + m.Path("cache"), "GOPATH=" + m.Path("path"), "GOTMPDIR=" + m.Point, "TMPDIR=" + m.Point,
		"GOFLAGS=-buildvcs=false", "GOPROXY=off", "GOWORK=off", "CGO_ENABLED=0"}
	out := sh(t, 4*time.Minute, module, "go build -o program .; ./program; go vet ./...; go list -f '{{.Stale}}' ./store/poison", env...)
	if want := "built on the mount true\nfalse\n"; out != want {
		t.Errorf("go build says %q, want %q", out, want)
	}
}

// TestMountSQLite has several processes write to one database in WAL mode. Each
// of their transactions must be there at the end, once.
func TestMountSQLite(t *testing.T) {
	sqlite := Program(t, "sqlite3")
	lasts := 2 * time.Second
	if long() {
		lasts = time.Minute
	}
	for _, integrity := range []string{"fast", "strict"} {
		t.Run(integrity, func(t *testing.T) {
			m := onMount(t, lasts+2*time.Minute, "--mount-integrity", integrity)
			db := m.Path("test.db")
			if got := sqlQuery(t, sqlite, db, `PRAGMA journal_mode=WAL; CREATE TABLE n(x); INSERT INTO n VALUES(0); CREATE TABLE r(id INTEGER PRIMARY KEY, w, b BLOB);`); got != "wal" {
				t.Fatalf("journal_mode %q, want wal: no shared memory on the mount", got)
			}
			var wg sync.WaitGroup
			counts := make([]int, 4)
			for i := range counts {
				wg.Go(func() { counts[i] = sqlWriter(t, sqlite, db, i, time.Now().Add(lasts)) })
			}
			wg.Wait()
			total := 0
			for _, n := range counts {
				total += n
			}
			if total < 50 {
				t.Errorf("%d transactions, by writer %v: that is no load", total, counts)
			}
			want := fmt.Sprintf("ok\n%d\n%d", total, total)
			if got := sqlQuery(t, sqlite, db, "PRAGMA integrity_check; SELECT count(*) FROM r; SELECT x FROM n;"); got != want {
				t.Errorf("integrity_check, rows and counter are %q, want %q", got, want)
			}
			t.Logf("sqlite: integrity %s, %d transactions by 4 processes in WAL mode in %v, integrity_check ok", integrity, total, lasts)
		})
	}
}

func sqlQuery(t *testing.T, sqlite, db, sql string) string {
	t.Helper()
	out, err := Command(t, time.Minute, filepath.Dir(db), nil, ".timeout 20000\n"+sql+"\n", sqlite, "-bail", db)
	if err != nil {
		t.Errorf("sqlite3: %v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// sqlWriter runs a process that commits one transaction after the other until
// the time is over, and returns how many it said were committed.
func sqlWriter(t *testing.T, sqlite, db string, id int, until time.Time) int {
	cmd := exec.Command(sqlite, "-bail", db)
	cmd.Dir = filepath.Dir(db)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Error(err)
		return 0
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return 0
	}
	kill := time.AfterFunc(time.Until(until)+time.Minute, func() { cmd.Process.Kill() })
	defer kill.Stop()
	_, err = io.WriteString(in, ".timeout 20000\nPRAGMA synchronous=FULL;\nPRAGMA wal_autocheckpoint=50;\n")
	for err == nil && time.Now().Before(until) {
		_, err = fmt.Fprintf(in, "BEGIN IMMEDIATE; INSERT INTO r(w,b) VALUES(%d,randomblob(abs(random())%%9000)); UPDATE n SET x=x+1; COMMIT; SELECT 'committed';\n", id)
	}
	in.Close()
	if werr := cmd.Wait(); err != nil || werr != nil {
		t.Errorf("writer %d: %v, %v, after %s", id, err, werr, out.String()[max(0, out.Len()-300):])
	}
	return strings.Count(out.String(), "committed")
}

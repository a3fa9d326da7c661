package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// testMounts returns a benchmark whose only subject is a plain folder.
func testMounts(t *testing.T) (*mountBench, *subject) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for name, text := range map[string]string{"a.go": "package a", "sub/b.go": "package b", "sub/empty": ""} {
		path := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	m := &mountBench{self: self, settings: settings{
		dir: t.TempDir(), size: 2 << 20, entries: 40, rounds: 1, secs: 50 * time.Millisecond, tree: tree}}
	s := &subject{filesystem: filesystem{name: "ext4"}, work: t.TempDir(), made: map[string]string{}}
	m.subjects = []*subject{s}
	return m, s
}

// Each row alone, as -rows selects it, and twice, as in two rounds.
func TestMountRowsMeasureAndVerify(t *testing.T) {
	for _, r := range mountRows() {
		t.Run(r.name, func(t *testing.T) {
			if err := r.available(); err != nil {
				t.Skip(err)
			}
			m, s := testMounts(t)
			for round := range 2 {
				if r.prepare != nil {
					if err := r.prepare(t.Context(), m, s, round); err != nil {
						t.Fatalf("prepare: %v", err)
					}
				}
				out, err := r.measure(t.Context(), m, s, round)
				if err != nil || out.Value <= 0 || out.Requests <= 0 || out.Elapsed <= 0 {
					t.Fatalf("measure = %+v, %v", out, err)
				}
				if r.check != nil {
					if err := r.check(t.Context(), m, s, round); err != nil {
						t.Fatalf("check: %v", err)
					}
				}
			}
		})
	}
}

func TestMountChecksSeeWrongContent(t *testing.T) {
	damage := func(path string) func(*subject) error {
		return func(s *subject) error { return os.WriteFile(filepath.Join(s.work, path), []byte("x"), 0o644) }
	}
	for name, c := range map[string]struct {
		row    string
		damage func(*subject) error
	}{
		"File":    {"create1", damage("files1-0/t0/f000007")},
		"Renamed": {"rename", func(s *subject) error { return os.Remove(filepath.Join(s.work, "files1-0/t0/g000007")) }},
		"Left":    {"unlink4", damage("files4-0/t3/f000007")},
		"Tree":    {"tar", damage("tree-0/sub/b.go")},
		"Missing": {"cp", func(s *subject) error { return os.Remove(filepath.Join(s.work, "copy-0/sub/empty")) }},
		"Block": {"randwrite", func(s *subject) error {
			f, err := os.OpenFile(filepath.Join(s.work, "big.bin"), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{1}, 1<<20+5000)
			return errors.Join(err, f.Close())
		}},
		"Short": {"seqread", func(s *subject) error { return os.Truncate(filepath.Join(s.work, "big.bin"), 1<<20) }},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := testMounts(t)
			rows := mountRows()
			r := rows[slices.IndexFunc(rows, func(r mountRow) bool { return r.name == c.row })]
			measure := r.measure
			r.measure = func(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
				out, err := measure(ctx, m, s, round)
				return out, errors.Join(err, c.damage(s))
			}
			cell := m.measure(t.Context(), r).cells["ext4"]
			if cell.err == nil || !strings.Contains(cell.err.Error(), "wrong content") {
				t.Errorf("error = %v, want wrong content", cell.err)
			}
		})
	}
}

// A whole run over real mounts, as make bench has it.
func TestRunMeasuresMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		skip(t, "mounting needs /dev/fuse")
	}
	if _, err := exec.LookPath("go"); err != nil {
		skip(t, "the loopback is built with the go command")
	}
	dir := t.TempDir()
	var out, log bytes.Buffer
	code := run(t.Context(), []string{"-group", "mount", "-short", "-peers", "ext4,loopback", "-dir", dir,
		"-rows", "create4,stat1,rename,cp,randread,seqwrite,unlink4", "-size", "2MiB", "-entries", "100",
		"-tree", filepath.Join("..", "..", "configs")}, &out, &log)
	if code != 0 || strings.Contains(out.String(), "error") || strings.Contains(out.String(), "note:") {
		t.Fatalf("run = %d\n%s%s", code, &out, &log)
	}
	for _, text := range []string{"create 4 KiB, 4 threads", "loopback|bindfs", "random read 4 KiB, warm"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("no %q in\n%s", text, &out)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// skip skips the test, or fails it where everything has to run.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func TestOurMountThatDoesNotStartFailsTheRun(t *testing.T) {
	var out, log bytes.Buffer
	code := run(t.Context(), []string{"-group", "mount", "-short", "-peers", "engramfs,ext4", "-rows", "mkdir",
		"-engramfs", "/bin/false", "-dir", t.TempDir()}, &out, &log)
	if code != 1 || !strings.Contains(out.String(), "note: left out: engramfs: at start: ended") {
		t.Errorf("run = %d, want 1 and a note\n%s%s", code, &out, &log)
	}
}

func TestWatchEndsAServerThatHangs(t *testing.T) {
	for name, end := range map[string]bool{"Hangs": false, "Done": true} {
		t.Run(name, func(t *testing.T) {
			p, err := spawn(site{Dir: t.TempDir()}, []string{"sleep", "60"})
			if err != nil {
				t.Skip(err)
			}
			defer p.stop()
			done := (&subject{process: p}).watch(50 * time.Millisecond)
			if end {
				done()
			}
			time.Sleep(300 * time.Millisecond)
			if err := p.ended(); (err == nil) != end {
				t.Errorf("ended = %v", err)
			}
		})
	}
}

func TestCommandSaysWhatWentWrong(t *testing.T) {
	_, _, err := command(t.Context(), []string{"sh", "-c", "echo first >&2; echo second >&2; exit 3"})
	if err == nil || !strings.HasSuffix(err.Error(), ": first") {
		t.Errorf("error = %v, want the first line of stderr", err)
	}
	out, _, err := command(t.Context(), []string{"sh", "-c", "echo text; exit 3"}, 3)
	if err != nil || string(out) != "text\n" {
		t.Errorf("accepted exit code: %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := command(ctx, []string{"sleep", "60"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want the deadline", err)
	}
}

func TestParseDbench(t *testing.T) {
	text := "  4     55123   92.41 MB/sec  execute  9 sec  latency 5.6 ms\n\n" +
		"Throughput 92.4171 MB/sec  4 clients  4 procs  max_latency=31.018 ms\n"
	if v, err := parseDbench([]byte(text)); err != nil || v != 92.4171 {
		t.Errorf("parseDbench = %v, %v", v, err)
	}
	if _, err := parseDbench([]byte("(4) ERROR: handle 10 was not found\n")); err == nil {
		t.Error("a failed dbench has a result")
	}
}

func TestRatioAgainstBestOfSeveral(t *testing.T) {
	cells := map[string]*cell{"engramfs": withValue(40), "strict": withValue(10), "loopback": withValue(10), "bindfs": withValue(20)}
	rate := &result{goal: goal{against: either, reach: 2, next: 4}, cells: cells}
	if v, _ := rate.ratio("engramfs", either); v != 2 || rate.verdict() != "ok" {
		t.Errorf("rate: ratio %v, verdict %s, want 2 and ok", v, rate.verdict())
	}
	seconds := &result{goal: goal{less: true, against: either, reach: 2, next: 4}, cells: cells}
	if v, _ := seconds.ratio("engramfs", either); v != 0.25 || seconds.verdict() != "short" {
		t.Errorf("seconds: ratio %v, verdict %s, want 0.25 and short", v, seconds.verdict())
	}
	delete(cells, "bindfs")
	if v, _ := rate.ratio("engramfs", either); v != 4 {
		t.Errorf("ratio without bindfs = %v, want 4", v)
	}
	if v, ok := rate.ratio("strict", "loopback"); !ok || v != 1 {
		t.Errorf("strict: ratio %v, %v, want 1", v, ok)
	}
	if _, ok := rate.ratio("engramfs", "rclone"); ok {
		t.Error("a ratio against nobody")
	}
}

func TestRowsAreSelectedByExpressions(t *testing.T) {
	o := options{rows: "create.*,get4k", peers: "all", group: "all"}
	rows, mounts, err := o.chosen()
	if err != nil || len(rows) != 1 || len(mounts) != 2 || mounts[1].name != "create4" {
		t.Errorf("chosen = %d and %d rows, %v, want 1 and 2", len(rows), len(mounts), err)
	}
	names := rowNames()
	slices.Sort(names)
	if same := slices.Compact(slices.Clone(names)); len(same) != len(names) {
		t.Errorf("two rows have one name: %v", names)
	}
	o = options{rows: "all", peers: "bindfs", group: "all"}
	if rows, mounts, err = o.chosen(); err != nil || len(rows) > 0 || len(mounts) != len(mountRows()) {
		t.Errorf("chosen for bindfs = %d and %d rows, %v, want the mounts only", len(rows), len(mounts), err)
	}
}

func TestPerOperationCounts(t *testing.T) {
	var table strings.Builder
	for _, code := range sortedOpcodes() {
		n := map[string]string{"LOOKUP": "100", "WRITE": "250"}[opcodes[code]]
		if n == "" {
			n = "0"
		}
		table.WriteString(n + ",,fuse:fuse_request_send,205494702,100.00,,\n")
	}
	if got, err := perOperationCounts(table.String(), 100); err != nil || got != "WRITE 2.5, LOOKUP 1" {
		t.Errorf("counts = %q, %v", got, err)
	}
	if _, err := perOperationCounts("event syntax error: 'fuse:fuse_request_send'", 100); err == nil {
		t.Error("no counts without the trace point, and no error")
	}
}

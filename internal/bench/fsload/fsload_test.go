package fsload

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// folder returns a folder with one worker folder for each thread.
func folder(t *testing.T, threads int) string {
	t.Helper()
	dir := t.TempDir()
	for k := range threads {
		if err := os.Mkdir(filepath.Join(dir, Folder(k)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustRun(t *testing.T, s Spec, want int64) {
	t.Helper()
	r, err := Run(s)
	if err != nil || r.Ops != want || r.Elapsed <= 0 {
		t.Fatalf("%s: %+v, %v, want %d operations", s.Op, r, err, want)
	}
}

func TestFilesLiveAndDie(t *testing.T) {
	for _, threads := range []int{1, 3} {
		s := Spec{Dir: folder(t, threads), Prefix: "f", Files: 10, Threads: threads}
		for _, step := range []struct{ op, prefix string }{
			{"create", "f"}, {"stat", "f"}, {"read", "f"}, {"list", "f"}, {"rename", "f"}, {"stat", "g"}, {"unlink", "g"}, {"mkdir", "d"}, {"rmdir", "d"},
		} {
			s.Op, s.Prefix, s.Target = step.op, step.prefix, "g"
			mustRun(t, s, 10)
		}
		for k := range threads {
			if left, err := os.ReadDir(filepath.Join(s.Dir, Folder(k))); err != nil || len(left) > 0 {
				t.Errorf("%d threads: left in %s: %v, %v", threads, Folder(k), left, err)
			}
		}
	}
}

func TestBigFile(t *testing.T) {
	s := Spec{File: filepath.Join(t.TempDir(), "big"), Bytes: 3 << 20, For: 20 * time.Millisecond}
	for _, op := range []string{"seqwrite", "seqread"} {
		s.Op = op
		mustRun(t, s, 3)
	}
	before, err := os.ReadFile(s.File)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"randread", "randwrite"} {
		s.Op = op
		if r, err := Run(s); err != nil || r.Ops < 16 || r.Elapsed < s.For {
			t.Errorf("%s: %+v, %v", op, r, err)
		}
	}
	if after, err := os.ReadFile(s.File); err != nil || !bytes.Equal(before, after) {
		t.Errorf("random writes changed the content (%v)", err)
	}
}

func TestLoadsFailOnWhatIsWrong(t *testing.T) {
	dir := folder(t, 1)
	mustRun(t, Spec{Op: "create", Dir: dir, Prefix: "f", Files: 4}, 4)
	if err := os.Truncate(filepath.Join(dir, "t0", "f000002"), 7); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"stat", "read"} {
		if _, err := Run(Spec{Op: op, Dir: dir, Prefix: "f", Files: 4}); err == nil || !strings.Contains(err.Error(), "7 bytes") {
			t.Errorf("%s of a short file: %v", op, err)
		}
	}
	if _, err := Run(Spec{Op: "list", Dir: dir, Prefix: "f", Files: 5}); err == nil {
		t.Error("list with a file missing succeeded")
	}
	if _, err := Run(Spec{Op: "create", Dir: dir, Prefix: "f", Files: 1}); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("create over a file: %v, want EEXIST", err)
	}
	if _, err := Run(Spec{Op: "seqread", File: filepath.Join(dir, "t0", "f000000"), Bytes: 1}); err == nil {
		t.Error("seqread of a file with another size succeeded")
	}
	if _, err := Run(Spec{Op: "randread", File: filepath.Join(dir, "none"), Bytes: 1 << 20}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("randread of no file: %v", err)
	}
	if _, err := Run(Spec{Op: "nosuch"}); err == nil {
		t.Error("an unknown operation succeeded")
	}
}

func TestServe(t *testing.T) {
	arg, err := json.Marshal(Spec{Op: "mkdir", Dir: folder(t, 1), Prefix: "d", Files: 3})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Serve(string(arg), &out); err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Ops != 3 {
		t.Errorf("Serve wrote %q (%v), want 3 operations", &out, err)
	}
	if err := Serve("{", &out); err == nil {
		t.Error("Serve ran a malformed description")
	}
}

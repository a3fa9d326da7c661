package crash

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asVictim makes the test binary a server that crashes, in the folder it names.
const asVictim = "CRASH_TEST_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asVictim); dir != "" {
		if _, err := Open(Options{Dir: dir}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		done := make(chan int)
		go func() { // a goroutine that nothing guards
			var m map[string]int
			m["key"] = 1
			close(done)
		}()
		<-done
	}
	os.Exit(m.Run())
}

// open opens a recorder whose process does not write its last words anywhere.
func open(t *testing.T, dir string, now time.Time) (*Recorder, error) {
	t.Helper()
	r, err := Open(Options{Dir: dir, Now: func() time.Time { return now }, Output: func(*os.File) error { return nil }})
	if err == nil {
		t.Cleanup(func() { r.survive.Stop() })
	}
	return r, err
}

func logs(t *testing.T, dir, prefix string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestACrashIsReportedAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asVictim+"="+dir)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "nil map") {
		t.Fatalf("the victim ended with %v\n%s", err, out)
	}
	r, err := open(t, dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	reports := r.Reports()
	if len(reports) != 1 || !reports[0].Last || !strings.Contains(reports[0].First, "assignment to entry in nil map") {
		t.Fatalf("reports %+v, want the crash", reports)
	}
	text, err := os.ReadFile(filepath.Join(dir, reports[0].File))
	if err != nil || !strings.Contains(string(text), "crash_test.go") {
		t.Errorf("the report has no stack: %v\n%s", err, text)
	}
	if notes := r.Notes(); len(notes) != 1 || !strings.Contains(notes[0], reports[0].File) {
		t.Errorf("notes %q, want one that names the report", notes)
	}
	r.Close()
	again, err := open(t, dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if reports := again.Reports(); len(reports) != 1 || reports[0].Last || len(again.Notes()) != 0 {
		t.Errorf("a start later: reports %+v, notes %q; want the report kept and no note", reports, again.Notes())
	}
}

func TestCrashLoop(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	for i := range 10 {
		r, err := open(t, dir, now)
		if err != nil {
			t.Fatalf("start %d: %v", i+1, err)
		}
		if r.Looping() != (i >= 5) {
			t.Errorf("start %d after %d failed ones: looping %t", i+1, i, r.Looping())
		}
		now = now.Add(10 * time.Second)
	}
	if _, err := open(t, dir, now); !errors.Is(err, ErrLoop) {
		t.Fatalf("the eleventh start: %v, want ErrLoop", err)
	}
	if _, err := open(t, dir, now); !errors.Is(err, ErrLoop) {
		t.Fatalf("a refused start changed something: %v", err)
	}
	r, err := open(t, dir, now.Add(10*time.Minute))
	if err != nil || r.Looping() {
		t.Errorf("when the window is over: %v, want a usual start", err)
	}
}

func TestStartsThatEndWellDoNotCount(t *testing.T) {
	for name, finish := range map[string]func(*Recorder){
		"Closed":   (*Recorder).Close,
		"Survived": func(r *Recorder) { r.end(endSurvived) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, now := t.TempDir(), time.Now()
			for i := range 12 {
				r, err := open(t, dir, now.Add(time.Duration(i)*time.Second))
				if err != nil || r.Looping() {
					t.Fatalf("start %d: %v, looping", i, err)
				}
				finish(r)
			}
			if left := logs(t, dir, reportPrefix); len(left) > 1 {
				t.Errorf("empty reports are left: %v", left)
			}
		})
	}
}

func TestSurvivingIsNotedInTime(t *testing.T) {
	dir := t.TempDir()
	r, err := Open(Options{Dir: dir, Survive: time.Millisecond, Output: func(*os.File) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if s := r.load(); len(s) == 1 && s[0].End == endSurvived {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not noted within 20 s")
		}
	}
	r.Close()
	r.Close() // again does nothing
	if s := r.load(); s[0].End != endClean {
		t.Errorf("end %q, want %q", s[0].End, endClean)
	}
}

func TestSpoiledMarkerIsNoReasonNotToStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Marker), []byte(`{"starts": [`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir, time.Now()); err != nil {
		t.Errorf("Open: %v", err)
	}
}

func TestAFolderThatCannotBeWrittenIsNoReasonNotToStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	r, err := open(t, dir, time.Now())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	r.Close()
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder was made")
	}
}

func TestFilesAreBounded(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	for i := range 15 {
		name := filepath.Join(dir, reportPrefix+now.Add(time.Duration(i-20)*time.Second).UTC().Format(fileTime)+fileSuffix)
		if err := os.WriteFile(name, []byte(fmt.Sprintf("\n%d", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := open(t, dir, now)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(logs(t, dir, reportPrefix)); n != keepReports+1 || len(r.Reports()) != keepReports {
		t.Errorf("%d files and %d reports, want %d and one for this process", n, len(r.Reports()), keepReports)
	}
	var last string
	for range 8 {
		now = now.Add(time.Second)
		r.o.Now = func() time.Time { return now }
		if last, err = r.KeepStacks([]byte("goroutine 1")); err != nil {
			t.Fatal(err)
		}
	}
	left := logs(t, dir, stacksPrefix)
	if len(left) != keepStacks || filepath.Base(left[len(left)-1]) != last {
		t.Errorf("files of stacks %v, want the newest %d", left, keepStacks)
	}
	if info, err := os.Stat(left[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600: stacks are not for everybody", info.Mode(), err)
	}
}

package e2e

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// suites are those of litmus 0.13.
var suites = []string{"basic", "copymove", "props", "locks", "http"}

// litmusTests is how many tests those suites have. A suite gives up early when
// a test fails that others build on.
const litmusTests = 104

// verdict is what one suite of litmus came to.
type verdict struct {
	run, passed int
	complaints  []string // lines with FAIL, and SKIPPED: a skipped test is not passed
	warnings    []string
}

var litmusSummary = regexp.MustCompile(`summary for .*: of (\d+) tests run: (\d+) passed, (\d+) failed`)

// parseLitmus reads the output of one suite. Litmus writes progress over a
// line by carriage returns.
func parseLitmus(out string) verdict {
	var v verdict
	for line := range strings.Lines(strings.ReplaceAll(out, "\r", "\n")) {
		line = strings.TrimSpace(line)
		switch {
		case litmusSummary.MatchString(line):
			m := litmusSummary.FindStringSubmatch(line)
			v.run, _ = strconv.Atoi(m[1])
			v.passed, _ = strconv.Atoi(m[2])
		case strings.Contains(line, "WARNING:"):
			v.warnings = append(v.warnings, line)
		case strings.Contains(line, "FAIL"), strings.Contains(line, "SKIPPED"):
			v.complaints = append(v.complaints, line)
		}
	}
	return v
}

func TestLitmus(t *testing.T) {
	litmus := Program(t, "litmus")
	for name, prefix := range map[string]string{"Root": "", "Prefix": "/dav/files"} {
		t.Run(name, func(t *testing.T) {
			var args []string
			if prefix != "" {
				args = []string{"--prefix", prefix}
			}
			s := start(t, args...)
			total := 0
			for _, suite := range suites {
				t.Run(suite, func(t *testing.T) {
					out, err := Command(t, 2*time.Minute, t.TempDir(), []string{"TESTS=" + suite}, "", litmus, "-k", s.URL+prefix+"/")
					v := parseLitmus(out)
					if err != nil || v.run == 0 || v.passed != v.run || len(v.complaints) > 0 {
						t.Errorf("%d of %d passed (%v)\n%s", v.passed, v.run, err, strings.Join(v.complaints, "\n"))
					}
					for _, w := range v.warnings {
						t.Log(w)
					}
					total += v.passed
				})
			}
			if total != litmusTests {
				t.Errorf("%d tests passed, want %d", total, litmusTests)
			}
			t.Logf("litmus: %d tests passed", total)
		})
	}
}

func TestParseLitmus(t *testing.T) {
	const out = "-> running `basic':\n" +
		" 0. init.................. pass\n" +
		" 3. put_get............... FAIL (PUT of `/x' failed: 500)\n" +
		" 4. lock..................\r 4. lock.................. SKIPPED\n" +
		" 5. mkcol................. WARNING: odd status\n    ...................... pass (with 1 warning)\n" +
		"<- summary for `basic': of 16 tests run: 15 passed, 1 failed. 93.8%\n"
	v := parseLitmus(out)
	if v.run != 16 || v.passed != 15 || len(v.complaints) != 2 || len(v.warnings) != 1 {
		t.Errorf("parseLitmus = %+v, want 16 run, 15 passed, 2 complaints, 1 warning", v)
	}
	if v := parseLitmus("litmus: cannot connect"); v.run != 0 {
		t.Errorf("parseLitmus of no summary = %+v", v)
	}
}

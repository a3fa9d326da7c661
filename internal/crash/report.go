package crash

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// Report is what a crash has left.
type Report struct {
	File  string    // name in the folder
	At    time.Time // of its last byte
	First string    // its first line, which says why
	Last  bool      // of the start before this one
}

// Names and numbers of the files that are kept.
const (
	reportPrefix = "crash-"
	stacksPrefix = "stuck-"
	fileSuffix   = ".log"
	fileTime     = "20060102T150405.000Z" // sorts by time

	keepReports = 10
	keepStacks  = 5
)

// setOutput has the runtime write a panic that nobody recovers, and a fatal error,
// to f as well as to standard error.
func setOutput(f *os.File) error { return debug.SetCrashOutput(f, debug.CrashOptions{}) }

// openReport makes the file for the last words of this process.
func (r *Recorder) openReport(now time.Time) (name string, err error) {
	name = reportPrefix + now.Format(fileTime) + fileSuffix
	f, err := os.OpenFile(filepath.Join(r.o.Dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close() // the runtime has a descriptor of its own
	return name, r.o.Output(f)
}

// collect finds the reports of earlier starts, and removes those that are empty or
// too many.
func (r *Recorder) collect(before []start) error {
	last := ""
	if len(before) > 0 {
		last = before[len(before)-1].Log
	}
	names, err := r.files(reportPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		report, err := r.read(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && report.First == "" || len(r.reports) == keepReports {
			if err := os.Remove(filepath.Join(r.o.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		report.Last = name == last
		r.reports = append(r.reports, report)
		if report.Last {
			r.log.Error("the server crashed before this start", "file", name, "at", report.At, "reason", report.First)
		}
	}
	return nil
}

// files returns the names of the files with a prefix, the newest first.
func (r *Recorder) files(prefix string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(r.o.Dir, prefix+"*"+fileSuffix))
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = filepath.Base(p)
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names, err
}

// maxFirst bounds Report.First, in bytes: a panic's value may be long.
const maxFirst = 300

// read returns a report, whose First is empty if the file is.
func (r *Recorder) read(name string) (Report, error) {
	f, err := os.Open(filepath.Join(r.o.Dir, name))
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Report{}, err
	}
	report := Report{File: name, At: info.ModTime()}
	first, _ := bufio.NewReader(f).ReadString('\n') // an error means that there is no more
	first = strings.TrimSpace(first)
	if len(first) > maxFirst {
		first = strings.ToValidUTF8(first[:maxFirst], "") + "..."
	}
	report.First = first
	if first == "" && info.Size() > 0 {
		report.First = "unknown"
	}
	return report, nil
}

// Reports returns the reports of crashes before this start, the newest first, at
// most ten.
func (r *Recorder) Reports() []Report { return r.reports }

// Notes says in words what an operator should know of the starts before.
func (r *Recorder) Notes() []string {
	var notes []string
	if r.Looping() {
		notes = append(notes, fmt.Sprintf("the server is read-only because %d starts within %v ended before their time; "+
			"it accepts writes again after a restart, if it has lived for %v", r.failed, r.o.Window, r.o.Survive))
	}
	for _, report := range r.reports {
		if report.Last {
			notes = append(notes, fmt.Sprintf("the server crashed at %s: %s (see %s in the data folder)",
				report.At.UTC().Format("2006-01-02 15:04:05 UTC"), report.First, report.File))
		}
	}
	return notes
}

// KeepStacks writes the stacks of all goroutines to a file of their own, for
// whoever looks for the cause of a stuck lock, and returns its name. The newest
// five files are kept.
func (r *Recorder) KeepStacks(stacks []byte) (name string, err error) {
	name = stacksPrefix + r.o.Now().UTC().Format(fileTime) + fileSuffix
	if err := os.WriteFile(filepath.Join(r.o.Dir, name), stacks, 0o600); err != nil {
		return "", err
	}
	names, err := r.files(stacksPrefix)
	for _, old := range names[min(len(names), keepStacks):] {
		err = errors.Join(err, os.Remove(filepath.Join(r.o.Dir, old)))
	}
	return name, err
}

// Package fsload puts loads of equal system calls on a file system: one load is
// a loop over many files, or over one big file, with the clock around the loop
// only. It works on Linux only.
package fsload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Spec describes one load.
type Spec struct {
	// Op is create, stat, read (open, read and close), rename, unlink, mkdir, rmdir
	// or list, on small files, or seqread, seqwrite, randread or randwrite.
	Op string
	// Dir is the folder of the files. Worker k works in the folder t<k> below it,
	// which must exist.
	Dir string
	// Prefix starts every file's name; rename also has Target.
	Prefix string
	Target string
	// Files is the number of files, shared out evenly between the workers.
	Files   int
	Threads int // 0 counts as 1

	// File is the big file of the operations seqread, seqwrite, randread and
	// randwrite, Bytes its size.
	File  string
	Bytes int64
	// For is the length of randread and randwrite.
	For time.Duration
}

// Result is what a load came to.
type Result struct {
	Ops     int64         // system call groups (open+read+close is one), or files listed
	Elapsed time.Duration // from the first worker's start to the last one's end
	CPU     time.Duration // user and system time of the load itself
}

// FileSize is the size of the small files in bytes.
const FileSize = 4096

// operation returns the loop of one worker; the loop returns how many
// operations it made. What happens before the loop is called is not timed.
type operation func(s *Spec, worker int) (loop func() (int64, error), err error)

var operations = map[string]operation{
	"create":    eachFile(create),
	"stat":      eachFile(stat),
	"read":      read,
	"rename":    rename,
	"unlink":    eachFile(unix.Unlink),
	"mkdir":     eachFile(func(path string) error { return unix.Mkdir(path, 0o755) }),
	"rmdir":     eachFile(unix.Rmdir),
	"list":      list,
	"seqread":   seqRead,
	"seqwrite":  seqWrite,
	"randread":  randRead,
	"randwrite": randWrite,
}

// Run runs a load. Each worker has an operating system thread of its own. It
// returns the first error of each worker; a worker stops at its first error.
func Run(s Spec) (Result, error) {
	op := operations[s.Op]
	if op == nil {
		return Result{}, fmt.Errorf("unknown operation %q", s.Op)
	}
	n := max(1, s.Threads)
	loops := make([]func() (int64, error), n)
	for k := range loops {
		var err error
		if loops[k], err = op(&s, k); err != nil {
			return Result{}, fmt.Errorf("%s: %w", s.Op, err)
		}
	}
	// One processor for each worker and one for the runtime, and no collection:
	// nothing of this program may come between two system calls.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n + 1))
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	return together(s.Op, loops)
}

// together starts all loops at once and waits for the last.
func together(name string, loops []func() (int64, error)) (Result, error) {
	var ready, done sync.WaitGroup
	ready.Add(len(loops))
	start := make(chan struct{})
	counts, errs := make([]int64, len(loops)), make([]error, len(loops))
	for k, loop := range loops {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-start
			if counts[k], errs[k] = loop(); errs[k] != nil {
				errs[k] = fmt.Errorf("%s: %w", name, errs[k])
			}
		})
	}
	ready.Wait()
	cpu, t0 := ownCPU(), time.Now()
	close(start)
	done.Wait()
	r := Result{Elapsed: time.Since(t0), CPU: ownCPU() - cpu}
	for _, n := range counts {
		r.Ops += n
	}
	return r, errors.Join(errs...)
}

func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Serve runs the load that arg describes in JSON and writes its result in
// JSON. It is how a program runs a load in a process of its own, which can be
// killed when the file system hangs.
func Serve(arg string, w io.Writer) error {
	var s Spec
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return fmt.Errorf("load description: %w", err)
	}
	r, err := Run(s)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(r)
}

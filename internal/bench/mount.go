package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"engramfs/internal/bench/fsload"
	"engramfs/internal/bench/proc"
)

// mountBench measures the mount rows on each file system.
type mountBench struct {
	settings
	self     string // this program, which is the load generator too
	tarball  string // made from the tree before the first row that needs it
	subjects []*subject
	absent   []string // notes on peers that could not take part
}

// run measures rows and prints them. It returns false when the
// project's mount could not be started or answered wrongly.
func (m *mountBench) run(ctx context.Context, o options, rows []mountRow, stdout io.Writer) (bool, error) {
	var err error
	if m.self, err = os.Executable(); err != nil {
		return false, err
	}
	defer m.stop()
	if err := m.start(ctx, o); err != nil {
		return false, err
	}
	var results []*result
	for _, r := range rows {
		if ctx.Err() != nil {
			break
		}
		t0 := time.Now()
		results = append(results, m.measure(ctx, r))
		fmt.Fprintf(m.log, "bench: %-12s %s\n", r.name, time.Since(t0).Round(100*time.Millisecond))
	}
	m.print(stdout, results)
	m.profileShort(ctx, stdout, rows, results)
	return !wrong(results), nil
}

func (m *mountBench) stop() {
	for _, s := range m.subjects {
		if err := s.stop(); err != nil {
			fmt.Fprintf(m.log, "bench: %s: %v\n", s.name, err)
		}
	}
}

func (m *mountBench) processes() (all []*process) {
	for _, s := range m.subjects {
		if s.process != nil {
			all = append(all, s.process)
		}
	}
	return all
}

// measure takes one row: the file systems in turn in each round, so that what
// changes on the machine meanwhile meets all of them.
func (m *mountBench) measure(ctx context.Context, r mountRow) *result {
	res := &result{goal: r.goal, cells: map[string]*cell{}}
	if err := r.available(); err != nil {
		res.notes = append(res.notes, fmt.Sprintf("%s: left out: %v", r.name, err))
		return res
	}
	for _, s := range m.subjects {
		if s.name != "strict" || r.strict {
			res.cells[s.name] = &cell{err: s.failed}
		}
	}
	for round := range m.rounds {
		for _, s := range m.subjects {
			c := res.cells[s.name]
			if c == nil || c.err != nil || ctx.Err() != nil {
				continue
			}
			if c.err = m.one(ctx, r, s, c, round); c.err != nil {
				res.note(s.name, c.err)
				s.checkAlive()
			}
		}
	}
	return res
}

// rowTimeout ends the server of a file system that has not come to the end of a
// row: what hangs in it, this program too, goes on with an error.
const rowTimeout = 3 * opTimeout

// one takes a row once on one file system.
func (m *mountBench) one(ctx context.Context, r mountRow, s *subject, c *cell, round int) error {
	defer s.watch(rowTimeout)()
	sm, err := m.sample(ctx, r, s, round)
	if err != nil {
		return err
	}
	c.samples = append(c.samples, sm)
	if round == 0 && r.check != nil {
		if err := r.check(ctx, m, s, round); err != nil {
			return fmt.Errorf("wrong content: %w", err)
		}
	}
	return nil
}

func (m *mountBench) sample(ctx context.Context, r mountRow, s *subject, round int) (sample, error) {
	if r.prepare != nil {
		if err := r.prepare(ctx, m, s, round); err != nil {
			return sample{}, fmt.Errorf("prepare: %w", err)
		}
	}
	if err := m.calm(r); err != nil {
		return sample{}, err
	}
	before := s.usage()
	out, err := r.measure(ctx, m, s, round)
	after := s.usage()
	out.CPU, out.Peak = after.cpu-before.cpu, after.peak
	return out, err
}

// expiry is longer than the second for which libfuse's and go-fuse's defaults
// let the kernel trust an entry that it has seen.
const expiry = 1500 * time.Millisecond

// calm brings every file system to the same start: nothing left to write,
// nobody busy, and the caches as the row wants them. A warm row finds what was
// used longer than expiry ago, as a program does that comes back to its files: a
// peer that tells the kernel to forget them sooner pays for it.
func (m *mountBench) calm(r mountRow) error {
	syscall.Sync()
	settle(m.processes())
	if r.warm {
		time.Sleep(expiry)
	}
	if !r.cold {
		return nil
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("drop the page cache: %w", err)
	}
	for _, program := range r.programs {
		// What has to be read from the disk to run it is no part of the row.
		_ = exec.Command(program, "--version").Run()
	}
	return nil
}

// usage is what a server has used since it started.
type usage struct {
	cpu  time.Duration
	peak int64
}

func (s *subject) usage() usage {
	if s.process == nil {
		return usage{}
	}
	pid := s.cmd.Process.Pid
	cpu, err1 := proc.CPU(pid)
	mem, err2 := proc.Mem(pid)
	if errors.Join(err1, err2) != nil {
		return usage{} // The server has ended, which the row's own error says.
	}
	return usage{cpu, mem.Peak}
}

// load runs one load in a process of its own.
func (m *mountBench) load(ctx context.Context, spec fsload.Spec) (fsload.Result, error) {
	arg, err := json.Marshal(spec)
	if err != nil {
		return fsload.Result{}, err
	}
	out, _, err := command(ctx, []string{m.self, "fsload", string(arg)})
	if err != nil {
		return fsload.Result{}, err
	}
	var r fsload.Result
	return r, json.Unmarshal(out, &r)
}

// usedCPU is the processor time of a command and what it waited for.
type usedCPU = time.Duration

// command runs a program to its end, and kills it when it takes too long. The
// error holds the first line that the program wrote to its standard error.
func command(ctx context.Context, args []string, accept ...int) ([]byte, usedCPU, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A signal that preempts a thread inside a request would interrupt it.
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second // A killed program may still hang in the file system.
	err := cmd.Run()
	var used usedCPU
	if st := cmd.ProcessState; st != nil {
		used = st.UserTime() + st.SystemTime()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		for _, code := range accept {
			if exit.ExitCode() == code {
				return stdout.Bytes(), used, nil
			}
		}
	}
	if err == nil {
		return stdout.Bytes(), used, nil
	}
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	first, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
	return nil, used, fmt.Errorf("%s: %w: %s", filepath.Base(args[0]), err, first)
}

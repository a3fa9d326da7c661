package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// print writes the figures, what they cost, the strict mode's own comparison,
// and the notes.
func (m *mountBench) print(w io.Writer, results []*result) {
	fmt.Fprintf(w, "mounts: big file %.0f MiB, %d files, tree %s, %d rounds, medians, on %s\n\n",
		mib(m.size), m.entries, m.tree, m.rounds, filesystemName(m.dir))
	var columns, servers []string
	for _, s := range m.subjects {
		columns = append(columns, s.name)
		if s.process != nil {
			servers = append(servers, s.name)
		}
	}
	printFigures(w, columns, results)
	fmt.Fprint(w, "\ntime / server CPU / CPU of the load, for each operation\n\n")
	printCosts(w, columns, results, (*result).perOperation)
	printStrict(w, results)
	for _, note := range m.absent {
		fmt.Fprintln(w, "note: left out:", note)
	}
	printNotes(w, results)
}

// perOperation is what an operation took and cost.
func (r *result) perOperation(name string) string {
	c := r.cells[name]
	if c == nil || c.err != nil || len(c.samples) == 0 {
		return "-"
	}
	each := func(f func(sample) float64) string {
		return short(medianOf(c.samples, func(s sample) float64 { return f(s) / float64(max(1, s.Requests)) }))
	}
	return each(func(s sample) float64 { return float64(s.Elapsed) }) + " / " +
		each(func(s sample) float64 { return float64(s.CPU) }) + " / " +
		each(func(s sample) float64 { return float64(s.Client) })
}

// printStrict compares the mode that passes nothing through to the kernel and
// verifies what it reads with the loopback, wherever the loopback has no such
// short cut either.
func printStrict(w io.Writer, results []*result) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	printed := false
	for _, r := range results {
		v, ok := r.ratio("strict", "loopback")
		if !ok {
			continue
		}
		if !printed {
			fmt.Fprint(w, "integrity strict against loopback\n\n")
			line(tw, "row", "strict", "loopback", "ratio")
			printed = true
		}
		line(tw, r.title, r.figure("strict"), r.figure("loopback"), fmt.Sprintf("%.2f", v))
	}
	tw.Flush()
	if printed {
		fmt.Fprintln(w)
	}
}

// filesystemName names the type of the file system beneath all others.
func filesystemName(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "unknown file system"
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs, which the column ext4 shows"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs, which the column ext4 shows"
	case unix.TMPFS_MAGIC:
		return "tmpfs, which the column ext4 shows"
	}
	return fmt.Sprintf("file system %#x, which the column ext4 shows", st.Type)
}

// profileShort takes each row once more in which the project's mount falls
// short, or that has a goal but nobody to compare with. It prints in which
// functions the server's time went, and how often the kernel asked each server.
func (m *mountBench) profileShort(ctx context.Context, w io.Writer, rows []mountRow, results []*result) {
	if m.profile == "" {
		return
	}
	for i, r := range results {
		v, c := r.verdict(), r.cells["engramfs"]
		if c == nil || c.err != nil || r.reach == 0 || v == "ok" || v == "next" || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(w, "\nprofile of %s\n", r.title)
		for _, s := range m.subjects {
			if s.process == nil || s.failed != nil || r.cells[s.name] == nil || ctx.Err() != nil {
				continue
			}
			if err := m.profileRow(ctx, w, rows[i], s); err != nil {
				fmt.Fprintf(w, "%s: no profile: %v\n", s.name, err)
			}
		}
	}
}

// profileRow takes a row once more on one mount, under perf.
func (m *mountBench) profileRow(ctx context.Context, w io.Writer, r mountRow, s *subject) error {
	// A round number that no earlier round has used: the row makes new names.
	if r.prepare != nil {
		if err := r.prepare(ctx, m, s, m.rounds); err != nil {
			return err
		}
	}
	if err := m.calm(r); err != nil {
		return err
	}
	requests, err := countRequests(s.work)
	if err != nil {
		return err
	}
	var out sample
	data := filepath.Join(m.profile, "mount-"+r.name+"-"+s.name+".perf")
	top, err := underPerf(ctx, data, s.cmd.Process.Pid, func() error {
		var err error
		out, err = r.measure(ctx, m, s, m.rounds)
		return err
	})
	counts, err2 := requests.stop(out.Requests)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: requests for each operation: %s\n", s.name, counts)
	if s.name == "engramfs" {
		lines := strings.SplitAfter(top, "\n")
		fmt.Fprintf(w, "%s\n(more with: perf report -i %s)\n", strings.Join(lines[:min(len(lines), 50)], ""), data)
	}
	return nil
}

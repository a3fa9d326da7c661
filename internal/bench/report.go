package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes the figures, what they cost, and the notes.
func (b *bench) print(w io.Writer, results []*result) {
	fmt.Fprintf(w, "big file %.0f MiB, folder of %d, %d rounds, load generator %s, medians\n\n",
		mib(b.size), b.entries, b.rounds, b.gen)
	columns := make([]string, 0, len(b.servers)+1)
	for _, s := range b.servers {
		columns = append(columns, s.name)
	}
	printFigures(w, append(columns, "yardstick"), results)
	fmt.Fprint(w, "\np99 latency / server CPU per request / peak resident memory\n\n")
	printCosts(w, columns, results, (*result).cost)
	printNotes(w, results)
}

// printFigures writes each row's figures, a column for each peer, and what they
// are worth.
func printFigures(w io.Writer, columns []string, results []*result) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line(tw, slices.Concat([]string{"row", "unit"}, columns, []string{"against", "ratio", "reach", "next", "verdict"})...)
	for _, r := range results {
		cells := []string{r.title, r.unit}
		for _, name := range columns {
			cells = append(cells, r.figure(name))
		}
		line(tw, append(cells, r.judgement()...)...)
	}
	tw.Flush()
}

// printCosts writes for each row what it cost each peer.
func printCosts(w io.Writer, columns []string, results []*result, cost func(*result, string) string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line(tw, append([]string{"row"}, columns...)...)
	for _, r := range results {
		cells := []string{r.title}
		for _, name := range columns {
			cells = append(cells, cost(r, name))
		}
		line(tw, cells...)
	}
	tw.Flush()
	fmt.Fprintln(w)
}

func printNotes(w io.Writer, results []*result) {
	for _, r := range results {
		for _, n := range r.notes {
			fmt.Fprintln(w, "note:", n)
		}
	}
}

func line(w io.Writer, cells ...string) {
	fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
}

func (r *result) figure(name string) string {
	if name == "yardstick" {
		return number(median(r.yard), len(r.yard) > 0)
	}
	if c := r.cells[name]; c != nil && c.err != nil {
		return "error"
	}
	v, ok := r.value(name)
	return number(v, ok)
}

// cost is p99 latency, server CPU for each request, and peak memory.
func (r *result) cost(name string) string {
	c := r.cells[name]
	if c == nil || c.err != nil || len(c.samples) == 0 {
		return "-"
	}
	p99 := medianOf(c.samples, func(s sample) float64 { return float64(s.P99) })
	cpu := medianOf(c.samples, func(s sample) float64 { return float64(s.CPU) / float64(max(1, s.Requests)) })
	peak := medianOf(c.samples, func(s sample) float64 { return mib(s.Peak) })
	return fmt.Sprintf("%s / %s / %.0f MiB", short(p99), short(cpu), peak)
}

// short shows a duration in nanoseconds with two or three digits. The kernel
// counts CPU time in ticks of 10 ms: below one there is nothing to show.
func short(ns float64) string {
	d := time.Duration(ns)
	switch {
	case d == 0:
		return "-"
	case d < 10*time.Millisecond:
		return d.Round(time.Microsecond).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}

// judgement returns the columns from "against" on.
func (r *result) judgement() []string {
	if r.reach == 0 {
		return []string{"-", "-", "-", "-", "-"}
	}
	if r.against == "" {
		return []string{"limit", "-", fmt.Sprintf("<%g", r.reach), fmt.Sprintf("<%g", r.next), r.verdict()}
	}
	v, ok := r.ratio("engramfs", r.against)
	ratio, next := "-", fmt.Sprintf("%.2f", r.next)
	if ok {
		ratio = fmt.Sprintf("%.2f", v)
	}
	if r.nextAgainst != "" {
		next += " " + r.nextAgainst
		if v, ok := r.ratio("engramfs", r.nextAgainst); ok {
			next += fmt.Sprintf(" (%.2f)", v)
		}
	}
	return []string{r.against, ratio, fmt.Sprintf("%.2f", r.reach), next, r.verdict()}
}

// number shows three significant digits, and no exponent.
func number(v float64, ok bool) string {
	switch {
	case !ok:
		return "-"
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// profileShort repeats each row in which the project's server falls short
// while perf samples it, keeps the samples and prints the hottest functions.
func (b *bench) profileShort(ctx context.Context, w io.Writer, rows []row, results []*result) {
	if b.profile == "" {
		return
	}
	for i, r := range results {
		for _, s := range b.servers {
			if s.name != "engramfs" || r.verdict() != "short" || s.failed != nil || ctx.Err() != nil {
				continue
			}
			text, err := b.perf(ctx, rows[i], s)
			if err != nil {
				text = "no profile: " + err.Error()
			}
			fmt.Fprintf(w, "\nprofile of %s\n%s\n", r.title, text)
		}
	}
}

func (b *bench) perf(ctx context.Context, r row, s *server) (string, error) {
	return underPerf(ctx, filepath.Join(b.profile, r.name+".perf"), s.cmd.Process.Pid, func() error {
		// A round number that no earlier round has used: the row makes new names.
		_, err := r.measure(b, s, &meter{all: b.processes(), srv: s}, b.rounds)
		return err
	})
}

// underPerf samples a process while work runs, keeps the samples in the file
// data, and returns the functions in which most of the time went.
func underPerf(ctx context.Context, data string, pid int, work func() error) (string, error) {
	if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
		return "", err
	}
	rec := exec.CommandContext(ctx, "perf", "record", "-q", "-g", "-F", "999", "-o", data, "-p", strconv.Itoa(pid))
	if err := rec.Start(); err != nil {
		return "", err
	}
	time.Sleep(300 * time.Millisecond) // perf attaches before the row begins.
	err := work()
	rec.Process.Signal(os.Interrupt)
	rec.Wait() // Ends with the signal that was just sent.
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "perf", "report", "-i", data, "--stdio", "--children", "-g", "none", "--percent-limit", "2").Output()
	return strings.TrimSpace(string(out)), err
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"engramfs/web"
)

const (
	jobLook = 250 * time.Millisecond // between two looks at a job that runs
	jobLine = 10 * time.Second       // between two lines of progress where there is no bar
)

// jobFlags are what the commands for long work have in common. It runs in the
// server: the command only starts it and looks on.
type jobFlags struct {
	Do     string `arg:"" optional:"" default:"start" enum:"start,status,stop" help:"start, status (how it goes, or how it ended last) or stop; start without it."`
	Detach bool   `env:"-" help:"Start it and do not wait for its end."`
}

// adminCheckCmd checks the metadata.
type adminCheckCmd struct{ jobFlags }

// Run starts, shows or stops a check.
func (c *adminCheckCmd) Run(p *process, a *adminCmd) error { return c.run(p, a, "check") }

// adminScrubCmd checks the content.
type adminScrubCmd struct{ jobFlags }

// Run starts, shows or stops a scrub.
func (c *adminScrubCmd) Run(p *process, a *adminCmd) error { return c.run(p, a, "scrub") }

func (f *jobFlags) run(p *process, a *adminCmd, name string) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	j := &job{s: s, name: name}
	switch {
	case f.Do == "status":
		var v web.Job
		if v, err = j.show(get("jobs", name)); err == nil && v.Running == nil && v.Last != nil {
			err = verdict(v.Last)
		}
	case f.Do == "stop":
		_, err = j.show(post("jobs", name, "stop"))
	case f.Detach:
		_, err = j.show(post("jobs", name, "start"))
	default:
		err = j.follow()
	}
	if r := (*refusal)(nil); errors.As(err, &r) && r.Code == "not_found" {
		return fmt.Errorf("%s: this server does not have that job", name)
	}
	return err
}

// job is long work of the server.
type job struct {
	s    *adminAPI
	name string
}

// show asks for the job, or for something to be done with it, and prints it.
func (j *job) show(q question) (web.Job, error) {
	v, err := show(j.s, q, jobText)
	if err != nil {
		err = hintOf(fmt.Errorf("%s: %w", j.name, err), "")
	}
	return v, err
}

// verdict turns the result of a run into that of the command.
func verdict(r *web.Run) error {
	if resultOf(r) == "clean" {
		return nil
	}
	return errFound
}

func resultOf(r *web.Run) string {
	if r.Result == nil {
		return "unknown"
	}
	return *r.Result
}

// follow starts the job, or joins a run, and shows its progress until it ends.
func (j *job) follow() error {
	run, err := j.start()
	if err != nil {
		return fmt.Errorf("%s: %w", j.name, err)
	}
	ctx, stop := signal.NotifyContext(j.s.p.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	shown := newProgress(j.s, j.name)
	look := time.NewTicker(jobLook)
	defer look.Stop()
	defer shown.end()
	for {
		v, body, err := j.get()
		switch {
		case ctx.Err() != nil:
			return hint(fmt.Errorf("%s: not followed to its end: it goes on in the server", j.name),
				fmt.Sprintf("engramfs admin %s follows it again, engramfs admin %s stop ends it", j.name, j.name))
		case err != nil:
			return err
		case v.Running == nil || !v.Running.Started.Equal(run.Started):
			shown.end()
			return j.ended(v, body, run)
		}
		if err := shown.update(v.Running); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-look.C:
		}
	}
}

// start returns the run that was begun, or that is under way already.
func (j *job) start() (*web.Run, error) {
	for {
		body, err := j.s.ask(post("jobs", j.name, "start"))
		running := false
		if r := (*refusal)(nil); errors.As(err, &r) && r.Code == "job_running" {
			running = true
			body, err = j.s.ask(get("jobs", j.name))
		}
		if err != nil {
			return nil, j.s.failed(err)
		}
		v, err := decode[web.Job](j.s, body)
		switch {
		case err != nil:
			return nil, err
		case v.Running != nil:
			return v.Running, nil
		case !running && v.Last != nil: // it has ended already
			return v.Last, nil
		}
		// The other run has ended just now: one of our own is due.
	}
}

func (j *job) get() (v web.Job, body []byte, err error) {
	if body, err = j.s.ask(get("jobs", j.name)); err != nil {
		return v, nil, fmt.Errorf("%s: %w", j.name, err)
	}
	v, err = decode[web.Job](j.s, body)
	return v, body, err
}

// ended prints how the run ended.
func (j *job) ended(v web.Job, body []byte, run *web.Run) error {
	if v.Last == nil || !v.Last.Started.Equal(run.Started) {
		return hint(fmt.Errorf("%s: it has ended, and how is not known any more", j.name), "engramfs admin audit tells")
	}
	v.Running = nil // somebody else's
	if err := j.s.print(body, func(out *page) { jobText(out, v) }); err != nil {
		return err
	}
	return verdict(v.Last)
}

// jobText adds how a job goes, or else how it ended last.
func jobText(out *page, j web.Job) {
	out.fact("Job", j.Name)
	r := j.Running
	switch {
	case r != nil:
		out.fact("State", "running")
		out.fact("Progress", progressText(r))
	case j.Last == nil:
		out.fact("State", "not run since the server's start")
		return
	default:
		r = j.Last
		out.fact("Result", resultOf(r))
	}
	out.fact("Started", utc(r.Started)+by(r.By))
	if r.Ended != nil {
		out.fact("Took", r.Ended.Sub(r.Started).Round(time.Millisecond).String())
	}
	if r.Done != nil && r.Ended != nil {
		out.fact("Covered", progressText(r))
	}
	out.fact("Error", r.Error)
	if r.Found != nil && *r.Found > len(r.Problems) {
		out.fact("Found", fmt.Sprintf("%d problems, of which these are the first", *r.Found))
	}
	out.facts("Problems", r.Problems)
}

func by(name string) string {
	if name == "" {
		return ""
	}
	return " by " + name
}

// progressText says how far a run is: what is known of done, total, rate and time
// left.
func progressText(r *web.Run) string {
	if r.Done == nil {
		return "not told"
	}
	unit := ""
	if r.Unit != "" {
		unit = " " + r.Unit
	}
	text := amount(float64(*r.Done), r.Unit)
	if r.Total != nil {
		text += " of " + amount(float64(*r.Total), r.Unit)
	}
	if r.Unit != "bytes" {
		text += unit
	}
	if r.Rate != nil {
		text += ", " + amount(*r.Rate, r.Unit) + "/s"
	}
	if r.TimeLeft != nil {
		text += ", " + (time.Duration(*r.TimeLeft) * time.Second).String() + " left"
	}
	return text
}

// amount writes a number of units, bytes in larger ones.
func amount(n float64, unit string) string {
	if unit != "bytes" {
		return fmt.Sprintf("%.0f", n)
	}
	for _, u := range sizeUnits {
		if n >= float64(u.bytes) && u.bytes > 1 {
			return fmt.Sprintf("%.1f %s", n/float64(u.bytes), u.name)
		}
	}
	return fmt.Sprintf("%.0f B", n)
}

// progress shows a run while it is under way: a bar on a terminal, a line now and
// then elsewhere, and nothing with --json.
type progress struct {
	name   string
	w      io.Writer
	silent bool
	bar    bool
	begun  time.Time
	last   time.Time // of the last line
	drawn  bool      // a bar is on the terminal
}

func newProgress(s *adminAPI, name string) *progress {
	return &progress{name: name, w: s.p.stdout, silent: s.json, bar: isTerminal(s.p.stdout), begun: time.Now()}
}

const (
	barWidth  = 30
	eraseLine = "\r\x1b[K"
)

func (p *progress) update(r *web.Run) error {
	if p.silent || !p.bar && !p.last.IsZero() && time.Since(p.last) < jobLine {
		return nil
	}
	p.last = time.Now()
	text := progressText(r)
	if r.Done == nil {
		text = "running for " + time.Since(p.begun).Truncate(time.Second).String()
	}
	var err error
	if p.bar {
		p.drawn = true
		_, err = fmt.Fprintf(p.w, "%s%s%s  %s", eraseLine, p.name, bar(r), visible(text))
	} else {
		_, err = fmt.Fprintf(p.w, "%s: %s\n", p.name, visible(text))
	}
	return err
}

// bar draws how much of a run is done; "": that is not known.
func bar(r *web.Run) string {
	if r.Done == nil || r.Total == nil || *r.Total <= 0 {
		return ""
	}
	part := min(max(float64(*r.Done)/float64(*r.Total), 0), 1)
	full := int(part * barWidth)
	return fmt.Sprintf(" [%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), part*100)
}

// end takes the bar away, so that what follows begins a line.
func (p *progress) end() {
	if p.drawn {
		p.drawn = false
		_, _ = io.WriteString(p.w, eraseLine) // what follows tells of a broken terminal
	}
}

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"engramfs/store"
	"engramfs/web"
)

// adminResetCmd heals a poisoned lock.
type adminResetCmd struct {
	Lock   string `arg:"" help:"The lock, such as inode:7."`
	Reason string `env:"-" placeholder:"TEXT" help:"Why, for the audit log."`
	Gen    uint64 `env:"-" placeholder:"N" help:"The generation that was looked at, if not the one it has now: a later one is not reset."`
	DryRun bool   `env:"-" help:"Report what a reset would do, and change nothing."`
	Yes    bool   `short:"y" env:"-" help:"Do not ask."`
}

// Run shows the lock and the report of a dry run, asks, and resets exactly the
// poisoning that it has shown.
func (c *adminResetCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	ask := !c.Yes && !c.DryRun
	if ask && (s.json || !isTerminal(os.Stdin)) {
		return usage(hint(errors.New("a reset has to be confirmed, and there is no terminal to ask on"),
			"add --yes, or --dry-run to see what it would do"))
	}
	if !ask {
		return c.resetNow(s)
	}
	return c.resetAsking(s, os.Stdin)
}

// resetNow resets, or reports with DryRun, without a question.
func (c *adminResetCmd) resetNow(s *adminAPI) error {
	gen := c.Gen
	if gen == 0 {
		l, _, err := c.look(s)
		if err != nil {
			return hintOf(s.failed(err), c.Lock)
		}
		gen = l.Gen
	}
	return c.do(s, gen, c.DryRun)
}

// resetAsking shows the lock and what a reset would do, reads the answer from in,
// and resets.
func (c *adminResetCmd) resetAsking(s *adminAPI, in io.Reader) error {
	l, body, err := c.look(s)
	if err != nil {
		return hintOf(err, c.Lock)
	}
	l.Detail = &web.Poisoning{Value: valueOf(l)} // without the stack
	if err := s.print(body, func(out *page) { lockText(out, l); out.printf("\n") }); err != nil {
		return err
	}
	gen := cmp.Or(c.Gen, l.Gen)
	if err := c.do(s, gen, true); err != nil {
		return err
	}
	yes, err := confirm(in, s.p.stdout, fmt.Sprintf("\nReset %s? [y/N] ", visible(l.Name)))
	if err != nil {
		return err
	}
	if !yes {
		return errors.New("not reset: nothing has been changed")
	}
	return c.do(s, gen, false)
}

func valueOf(l web.Lock) string {
	if l.Detail == nil {
		return ""
	}
	return l.Detail.Value
}

// look returns the lock as it is now.
func (c *adminResetCmd) look(s *adminAPI) (l web.Lock, body []byte, err error) {
	if body, err = s.ask(get("locks", c.Lock)); err != nil {
		return l, nil, fmt.Errorf("lock %s: %w", c.Lock, err)
	}
	l, err = decode[web.Lock](s, body)
	return l, body, err
}

// do asks for the reset of a generation and prints its report, also that of one
// that failed.
func (c *adminResetCmd) do(s *adminAPI, gen uint64, dryRun bool) error {
	if gen == 0 {
		return fmt.Errorf("reset %s: it has never been poisoned: there is nothing to reset", c.Lock)
	}
	q := post("locks", c.Lock, "reset")
	q.ifMatch, q.work, q.body = gen, true, web.ResetRequest{Reason: c.Reason}
	if dryRun {
		q.query = url.Values{"dry_run": {"1"}}
	}
	_, err := show(s, q, (*page).reportOf)
	if err == nil {
		return nil
	}
	if r := (*refusal)(nil); errors.As(err, &r) && r.Report != nil && !s.json {
		out := newPage(s.p.stdout)
		out.report(r.Report)
		err = errors.Join(err, out.flush())
	}
	return hintOf(fmt.Errorf("reset %s: %w", c.Lock, err), c.Lock)
}

func (p *page) reportOf(r store.ResetReport) { p.report(&r) }

// report adds what a reset did, or would do.
func (p *page) report(r *store.ResetReport) {
	done := "reset"
	switch {
	case r.DryRun && len(r.Problems) > 0:
		done = "dry run: a reset would fail"
	case r.DryRun:
		done = "dry run: a reset would succeed"
	case len(r.Problems) > 0:
		done = "not reset: it stays poisoned"
	}
	p.fact("Report", fmt.Sprintf("%s, generation %d", done, r.Gen))
	p.facts("Kept", orNothing(r.Kept))
	p.facts("Reloaded", orNothing(r.Reloaded))
	p.facts("Repaired", orNothing(r.Repaired))
	p.facts("Problems", orNothing(r.Problems))
	p.fact("Took", r.Took.Round(10*time.Microsecond).String())
}

func orNothing(list []string) []string {
	if len(list) == 0 {
		return []string{"none"}
	}
	return list
}

// confirm asks a question and returns whether the answer is yes; the end of in
// is a no.
func confirm(in io.Reader, out io.Writer, question string) (bool, error) {
	if _, err := io.WriteString(out, question); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

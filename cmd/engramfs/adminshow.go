package main

import (
	"cmp"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"engramfs/store"
	"engramfs/web"
)

// adminHealthCmd shows the health.
type adminHealthCmd struct{}

// Run prints state, problem, action and progress, in this order.
func (*adminHealthCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	h, err := show(s, get("health"), healthText)
	if err == nil && h.Status != web.Online {
		err = errFound
	}
	return err
}

func healthText(out *page, h web.Health) {
	out.fact("State", strings.ToUpper(string(h.Status)))
	d := h.HealthDetails
	if d == nil {
		out.fact("Details", "only with credentials: see --data, --token-file and --login")
		return
	}
	if len(d.Troubles) == 0 {
		out.fact("Problem", "none known")
	}
	out.fact("Problem", d.Problem)
	if len(d.Troubles) > 0 {
		out.fact("Action", actionOf(d.Troubles[0]))
	}
	var work []string
	for _, x := range d.Progress {
		work = append(work, fmt.Sprintf("%s, since %s UTC", x.What, clock(x.Since)))
	}
	out.facts("Progress", work)
	locks, damaged := "unknown", "unknown" // never 0
	if l := d.Locks; l != nil {
		locks = fmt.Sprintf("%d listed, %d poisoned, %d stuck", l.Listed, l.Poisoned, l.Stuck)
	}
	switch n := d.Damaged; {
	case n != nil && *n == 0:
		damaged = "none known"
	case n != nil:
		damaged = fmt.Sprintf("%d, see engramfs admin damaged", *n)
	}
	out.fact("Locks", locks)
	out.fact("Damaged", damaged)
	if c := d.Copy; c != nil {
		out.fact("Copy", copyText(c))
	}
	out.facts("Note", d.Notes)
	if d.Build != nil {
		out.fact("Server", d.Build.Version+" "+d.Build.Go)
	}
	if len(d.Troubles) > 1 {
		out.printf("\n")
		out.table("", []string{"SINCE (UTC)", "TROUBLE", "LOCK", "ACTION", "PATH"}, rowsOf(d.Troubles, func(t web.Trouble) []string {
			return []string{clockOf(t.Since), t.Kind, t.Lock, actionOf(t), t.Path}
		}))
	}
}

// copyText says how good the second copy of the metadata is.
func copyText(c *web.MetadataCopy) string {
	text := "of the metadata, " + c.State
	if c.AsOf != nil {
		text += ", as of " + utc(*c.AsOf)
	}
	if c.Late {
		text += ", late"
	}
	return text
}

// actionOf says what to do about a trouble on this command line, if that is where
// it is done.
func actionOf(t web.Trouble) string {
	if t.Kind == "poisoned" {
		return "engramfs admin reset " + t.Lock
	}
	return t.Action
}

func rowsOf[T any](list []T, row func(T) []string) [][]string {
	rows := make([][]string, 0, len(list))
	for _, x := range list {
		rows = append(rows, row(x))
	}
	return rows
}

// adminLocksCmd shows the locks.
type adminLocksCmd struct {
	Lock string `arg:"" optional:"" help:"A lock, such as inode:7: shows all that is known of it."`
}

// Run prints a table of locks, or one lock.
func (c *adminLocksCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	if c.Lock != "" {
		_, err = show(s, get("locks", c.Lock), lockText)
		return err
	}
	_, err = show(s, get("locks"), func(out *page, list web.LockList) {
		out.table("no locks", []string{"LOCK", "STATE", "GEN", "SINCE (UTC)", "CAUSE", "OPERATION", "REFUSED", "PATH"}, rowsOf(list.Locks, lockRow))
	})
	return err
}

func lockRow(l web.Lock) []string {
	since, op := l.Since, l.Op
	if l.Stuck != nil {
		since, op = l.Stuck.Since, cmp.Or(l.Stuck.Op, l.Stuck.Mode)
	}
	return []string{l.Name, l.State, count(l.Gen), clock(since), l.Cause, op, count(l.WritesRejected), l.Path}
}

func lockText(out *page, l web.Lock) {
	out.fact("Lock", l.Name)
	out.fact("State", l.State)
	out.fact("Path", l.Path)
	out.fact("Gen", count(l.Gen))
	out.fact("Since", utc(l.Since))
	if l.Op != "" {
		out.fact("Why", l.Cause+" in "+l.Op)
	}
	if l.Detail != nil {
		out.fact("Value", l.Detail.Value)
		out.facts("Also", l.Detail.Also)
	}
	if h := l.Stuck; h != nil {
		out.fact("Held by", fmt.Sprintf("%s (%s), since %s", cmp.Or(h.Op, "a reader"), h.Mode, utc(h.Since)))
	}
	if l.State == "poisoned" {
		out.fact("Refused", fmt.Sprintf("%d writes; %d reads served marked as degraded", l.WritesRejected, l.RecoveredReads))
	}
	if l.Detail != nil {
		out.stack(l.Detail.Stack)
	}
}

// utc is clock with the zone, for where no header says it.
func utc(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return clock(t) + " UTC"
}

func (p *page) stack(lines []string) {
	if len(lines) == 0 {
		return
	}
	p.printf("\n")
	for _, line := range lines {
		indent := ""
		if rest, ok := strings.CutPrefix(line, "\t"); ok {
			indent, line = "    ", rest
		}
		p.printf("  %s%s\n", indent, visible(line))
	}
}

// adminEventsCmd shows the history of the locks.
type adminEventsCmd struct {
	Event  uint64 `arg:"" optional:"" help:"The number of an event: shows all that is known of it."`
	Limit  int    `default:"50" env:"-" placeholder:"N" help:"How many of the newest, 1 to 1000 (${default})."`
	Before uint64 `env:"-" placeholder:"EVENT" help:"Only events before this one."`
}

// Run prints a table of events, the newest first, or one event.
func (c *adminEventsCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	if c.Event != 0 {
		_, err = show(s, get("events", strconv.FormatUint(c.Event, 10)), eventText)
		return err
	}
	q := get("events")
	q.query = url.Values{"limit": {strconv.Itoa(c.Limit)}}
	if c.Before != 0 {
		q.query.Set("before", strconv.FormatUint(c.Before, 10))
	}
	_, err = show(s, q, eventsText)
	return err
}

func eventsText(out *page, list web.EventList) {
	out.table("no events", []string{"EVENT", "TIME (UTC)", "WHAT", "LOCK", "GEN", "BY", "PATH"}, rowsOf(list.Events, func(e web.Event) []string {
		what := e.Kind
		if r := e.Report; r != nil && len(r.Problems) > 0 {
			what += ", failed"
		}
		return []string{strconv.FormatUint(e.Seq, 10), clock(e.At), what, e.Lock, count(e.Gen), byOf(e), e.Path}
	}))
	if list.Next != nil {
		out.printf("\nolder ones: --before %d\n", *list.Next)
	}
}

// byOf says what caused an event.
func byOf(e web.Event) string {
	if e.Op != "" && e.Kind == "poisoned" {
		return e.Cause + " in " + e.Op
	}
	return cmp.Or(e.Source, e.Op)
}

func eventText(out *page, e web.Event) {
	out.fact("Event", strconv.FormatUint(e.Seq, 10))
	out.fact("What", e.Kind)
	out.fact("Time", utc(e.At))
	out.fact("Lock", e.Lock)
	out.fact("Path", e.Path)
	out.fact("Gen", count(e.Gen))
	out.fact("By", byOf(e))
	out.fact("Value", e.Value)
	var also []string
	for _, x := range e.Also {
		also = append(also, strings.TrimSpace(x.Lock+" "+x.Path))
	}
	out.facts("Also", also)
	if e.Report != nil {
		out.report(e.Report)
	}
	out.stack(e.Stack)
}

// adminHandlesCmd shows open files.
type adminHandlesCmd struct{}

// Run prints a table of open files.
func (*adminHandlesCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	_, err = show(s, get("handles"), func(out *page, list web.HandleList) {
		out.table("no open files", []string{"INODE", "DOOR", "OPENS", "MODE", "SINCE (UTC)", "BY", "PATH"}, rowsOf(list.Handles, func(h web.OpenHandle) []string {
			mode := "read"
			if h.Write {
				mode = "write"
			}
			return []string{strconv.FormatUint(h.Ino, 10), h.Door, strconv.Itoa(h.Opens), mode, clockOf(h.Since), openersText(h.Openers), h.Path}
		}))
	})
	return err
}

// openersText names processes.
func openersText(list []web.Opener) string {
	var names []string
	for _, o := range list {
		names = append(names, o.String())
	}
	return strings.Join(names, ", ")
}

// adminDamagedCmd shows damaged content.
type adminDamagedCmd struct{}

// Run prints a table of places; having some is a problem.
func (*adminDamagedCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	list, err := show(s, get("damaged"), func(out *page, list web.DamageList) {
		out.table("no damaged content is known", []string{"INODE", "OFFSET", "SINCE (UTC)", "ERROR", "PATH"}, rowsOf(list.Damaged, func(d store.Damage) []string {
			return []string{strconv.FormatUint(uint64(d.Ino), 10), strconv.FormatInt(d.Offset, 10), clock(d.At), d.Err, d.Path}
		}))
	})
	if err == nil && len(list.Damaged) > 0 {
		err = errFound
	}
	return err
}

// adminAuditCmd shows the audit log.
type adminAuditCmd struct {
	Limit int `default:"100" env:"-" placeholder:"N" help:"How many of the newest, 1 to 1000 (${default})."`
}

// Run prints a table of actions, the newest first.
func (c *adminAuditCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	q := get("audit")
	q.query = url.Values{"limit": {strconv.Itoa(c.Limit)}}
	_, err = show(s, q, func(out *page, list web.AuditList) {
		out.table("no actions", []string{"TIME (UTC)", "WHO", "VIA", "ACTION", "TARGET", "RESULT", "REASON"}, rowsOf(list.Actions, func(l web.AuditLine) []string {
			return []string{clock(l.At), cmp.Or(l.Actor, "anonymous"), l.Via, l.Action, l.Target, l.Result, l.Reason}
		}))
	})
	return err
}

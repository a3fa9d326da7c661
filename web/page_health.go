package web

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"engramfs/store"
)

// How much of each list the health page shows.
const (
	shownTroubles = 20
	shownTiles    = 40
	shownEvents   = 8
	shownActions  = 8
	shownFiles    = 50
)

// healthPage is the front page. It tells in the order of zpool status: state,
// problem, action, progress.
type healthPage struct {
	frame
	Health     Health
	Headline   string
	Advice     string
	Since      *time.Time // of the oldest trouble that makes the state; nil: there is none, or it is unknown
	Activities []activityView

	Worst        *troubleView // nil: all is well
	Troubles     []troubleView
	TroubleCount string
	MoreTroubles int

	LocksUnknown bool
	Tiles        []tile

	EventsUnknown bool
	Events        []Event

	Facts []fact
	Plots []plot

	JobsUnknown bool
	Jobs        []jobView

	Actions   []AuditLine
	NoActions string

	HasDAVLocks, DAVLocksUnknown bool
	DAVLocks                     []DAVLock
	HasHandles, HandlesUnknown   bool
	Handles                      []OpenHandle

	Drills   bool
	Points   []store.FaultPoint
	Causes   []string
	System   []fact
	Settings []Setting
}

// fact is a name with a value in words.
type fact struct{ Name, Value string }

// troubleView is a trouble as a card of the page.
type troubleView struct {
	Trouble
	Title, Tone, Icon, Word string
	Text                    string // What, for people who have the title before their eyes
	Effect                  string // what does not work, if Text does not say it
	Cost                    string // what the trouble has cost so far
	Remedy                  string // what to do, if there is no button for it
	CanReset                bool
	Gen                     uint64
}

// tile is one lock, or a family of them, in the picture of the locks.
type tile struct {
	Title, Sub, Word, Tone, Icon string
	Link                         string // name of the lock; "": there is no page
}

// activityView is work in progress.
type activityView struct {
	What  string
	Since time.Time
	Bar   *bar
}

// bar is a progress whose end is known.
type bar struct {
	Text, Label string
	Percent     int
}

type jobView struct {
	Job
	IsRunning bool
	Status    string
	Bar       *bar
	Problems  []string
}

func (a *Server) pageHealth(w http.ResponseWriter, r *http.Request) error {
	o := a.observe()
	h := a.healthOf(o)
	p := &healthPage{frame: a.frame(r, strings.ToUpper(string(h.Status)), "health"), Health: h}
	p.State, p.Live, p.Now = h.Status, true, o.at.UTC()
	p.troubles(h, o)
	p.headline(h)
	p.tiles(h, o)
	a.together([]part{
		{func() { p.events(a) }, func() { p.EventsUnknown = true }},
		{func() { p.figures(a, r) }, func() { p.Facts, p.Plots = []fact{{"Figures", "unknown"}}, nil }},
		{func() { p.davLocks(a) }, func() { p.HasDAVLocks, p.DAVLocksUnknown = true, true }},
		{func() { p.handles(a) }, func() { p.HasHandles, p.HandlesUnknown = true, true }},
		{func() { p.system(a) }, func() { p.System = append(p.System, fact{"The rest", "unknown"}) }},
		{func() { p.work(a) }, func() { p.JobsUnknown = true }},
		{func() { p.actions(a) }, func() { p.Actions, p.NoActions = nil, auditUnknown }},
	})
	p.Drills, p.Points, p.Causes = a.o.Drills, a.o.Points, drillCauses
	return a.render(w, http.StatusOK, "health", p)
}

// part is a section of the page that does not decide on the health.
type part struct {
	fill    func()
	unknown func() // shows the section as unknown, if fill panics
}

// together fills the parts, which wait for the store all at the same time. One
// that fails must take neither the others nor the server with it.
func (a *Server) together(parts []part) {
	var wait sync.WaitGroup
	for _, p := range parts {
		wait.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					a.log.Error("part of the page failed", "err", panicError(v))
					p.unknown()
				}
			}()
			p.fill()
		})
	}
	wait.Wait()
}

// headline says in one sentence whether all is well, and in another what to do.
func (p *healthPage) headline(h Health) {
	p.Headline = "All is well. No known problems."
	if len(h.Troubles) == 0 {
		return
	}
	worst := h.Troubles[0]
	for _, t := range h.Troubles {
		sameState := severity[rank(t.Kind)].status == severity[rank(worst.Kind)].status
		if sameState && t.Since != nil && (p.Since == nil || t.Since.Before(*p.Since)) {
			p.Since = t.Since
		}
	}
	where := cmp.Or(worst.Path, guards(worst.Lock))
	p.Advice = sentence(worst.Action)
	rest := func(words string) string { return words }
	if slices.ContainsFunc(h.Troubles, func(t Trouble) bool { return t.Kind == "unknown" }) {
		rest = func(string) string { return "Whether all else is well cannot be told." }
	}
	switch {
	case h.Status == ReadOnly:
		p.Headline = "Nothing can be changed. " + rest("Everything can be read.")
	case h.Status == Stuck:
		p.Headline = "A request holds " + cmp.Or(worst.Path, "the lock "+worst.Lock) + " and does not let go. Whoever needs it waits."
	case h.Status == Unknown:
		p.Headline = "The health cannot be told. That does not mean that all is well."
	case h.Status == Rebuilding:
		reset := h.Progress[0] // the oldest
		p.Headline = sentence(cmp.Or(reset.Path, "the lock "+reset.Lock)+" is being rebuilt") + " " + rest("Everything else is served.")
		p.Since, p.Advice = &reset.Since, "Wait for it to end: this page will say so by itself."
	case worst.Kind == "damaged":
		p.Headline = where + " is damaged. " + rest("Everything else is served.")
	case worst.Kind == "second_copy":
		p.Headline = "The second copy of the metadata is not up to date. Everything is served."
	default:
		p.Headline = "Changes to " + where + " are refused. " + rest("Reading works, and so does everything else.")
		if family, _, _ := strings.Cut(worst.Lock, ":"); family != "inode" {
			p.Headline = p.Worst.Effect + " " + rest("Everything else does.")
		}
		p.Advice = "Reset the lock. It is rebuilt from the disk and checked; nothing that was acknowledged is lost."
	}
	if others := len(h.Troubles) - 1; others > 0 {
		p.Headline += " There " + map[bool]string{true: "is ", false: "are "}[others == 1] + plural(int64(others), "more problem") + "."
	}
}

// troubleTitles are what is in trouble when that is neither a lock nor a file.
var troubleTitles = map[string]string{
	"read_only": "The whole store", "second_copy": "The second copy of the metadata", "unknown": "The locks",
}

func (p *healthPage) troubles(h Health, o observation) {
	byName := map[string]*Lock{}
	for i := range o.locks {
		byName[o.locks[i].Name] = &o.locks[i]
	}
	p.TroubleCount = "(" + plural(int64(len(h.Troubles)), "problem") + ")"
	p.MoreTroubles = max(len(h.Troubles)-shownTroubles, 0)
	for _, t := range h.Troubles[:min(len(h.Troubles), shownTroubles)] {
		v := troubleView{Trouble: t, Title: cmp.Or(t.Path, t.Lock, troubleTitles[t.Kind]), Tone: "warn", Icon: "warn", Word: strings.ReplaceAll(t.Kind, "_", "-"), Text: sentence(t.What), Remedy: sentence(t.Action)}
		switch t.Kind {
		case "stuck", "read_only":
			v.Tone, v.Icon = "bad", "bad"
		case "damaged":
			v.Text = sentence(strings.TrimPrefix(t.What, t.Path+" is damaged: "))
		case "unknown":
			v.Tone, v.Icon = "unknown", "unknown"
			if t.What == damageUnknown {
				v.Title = "The content"
			}
		}
		if l := byName[t.Lock]; l != nil && t.Kind == lockPoisoned {
			v.CanReset, v.Gen, v.Remedy = true, l.Gen, ""
			v.Effect = "Changes are refused, reading works."
			if family, _, _ := strings.Cut(l.Name, ":"); family != "inode" {
				v.Effect = sentence(guards(l.Name) + " does not work")
			}
			v.Text = sentence(fmt.Sprintf("%s in %s interrupted a change, so the lock %s is poisoned", causeWord(l.Cause), l.Op, l.Name))
			v.Cost = fmt.Sprintf("So far %s refused, %s recovered.",
				plural(int64(l.WritesRejected), "write"), plural(int64(l.RecoveredReads), "read"))
		}
		p.Troubles = append(p.Troubles, v)
	}
	if len(p.Troubles) > 0 {
		p.Worst = &p.Troubles[0]
	}
	if len(p.Troubles) == 1 {
		p.Troubles = nil // the state says it all
	}
	for _, act := range h.Progress {
		p.Activities = append(p.Activities, activityView{What: act.What, Since: act.Since})
	}
}

// tiles draws every domain lock, then the family of inode locks as one, then
// each of its locks that is in trouble.
func (p *healthPage) tiles(h Health, o observation) {
	if h.Locks == nil {
		p.LocksUnknown = true
		return
	}
	var inodes []tile
	healthy := true
	for _, l := range o.locks {
		t := tile{Title: l.Name, Sub: guards(l.Name), Word: l.State, Tone: lockTone(l.State), Icon: lockTone(l.State), Link: l.Name}
		if strings.HasPrefix(l.Name, "inode:") {
			healthy = healthy && l.State == lockHealthy
			t.Title, t.Sub = cmp.Or(l.Path, l.Name), l.Name
			inodes = append(inodes, t)
			continue
		}
		p.Tiles = append(p.Tiles, t)
	}
	family := tile{Title: "inodes", Sub: "one lock for each file and folder", Word: "all healthy", Tone: "ok", Icon: "ok"}
	if !healthy {
		family.Word, family.Sub = number(int64(len(inodes)))+" in trouble", "all others are healthy"
		family.Tone, family.Icon = "warn", "warn"
		if slices.ContainsFunc(inodes, func(t tile) bool { return t.Word == lockStuck }) {
			family.Tone, family.Icon = "bad", "bad"
		}
	}
	if o.blind != "" {
		family.Word = strings.Replace(family.Word, "all healthy", "unknown", 1)
		if healthy {
			family.Tone, family.Icon = "unknown", "unknown"
		}
	}
	p.Tiles = append(p.Tiles, family)
	p.Tiles = append(p.Tiles, inodes[:min(len(inodes), shownTiles)]...)
}

func (p *healthPage) events(a *Server) {
	list, err := a.events(shownEvents, 0)
	p.Events, p.EventsUnknown = list.Events, err != nil && !errors.Is(err, errNotHere)
}

func (p *healthPage) figures(a *Server, r *http.Request) {
	u := a.usage(r.Context())
	bytes := func(n int64) string { return size(float64(n)) }
	p.Facts = []fact{
		{"Files", known(u.Files, number)}, {"Folders", known(u.Directories, number)},
		{"Content", known(u.ContentBytes, bytes)}, {"Free for files", known(u.FreeBytes, bytes)},
		{"Disk", known(u.CapacityBytes, bytes)}, {"Memory", known(u.MemoryBytes, bytes)},
	}
	if e := u.Engine; e != nil {
		p.Facts = append(p.Facts, fact{"Metadata on disk", bytes(e.DiskBytes)}, fact{"Write stalls", number(e.WriteStalls)})
	}
	p.Plots = plotsOf(a.samples.all())
}

func (p *healthPage) davLocks(a *Server) {
	locks, err := a.davLocks()
	p.HasDAVLocks = !errors.Is(err, errNotHere)
	p.DAVLocksUnknown = err != nil
	for _, l := range locks[:min(len(locks), shownFiles)] {
		p.DAVLocks = append(p.DAVLocks, davLockOf(l))
	}
}

func (p *healthPage) handles(a *Server) {
	list, err := a.getHandles(nil, nil)
	p.HasHandles = !errors.Is(err, errNotHere)
	p.HandlesUnknown = err != nil
	p.Handles = list.Handles[:min(len(list.Handles), shownFiles)]
}

func (p *healthPage) system(a *Server) {
	p.System = []fact{{"Version", cmp.Or(a.o.Build.Version, "unknown")}, {"Running for", lasted(p.Now, a.started)}}
	p.System = append(p.System, fact{"Second copy of the metadata", p.Health.Copy.words(p.Now)})
	if a.o.Listeners != nil {
		for _, l := range a.o.Listeners() {
			p.System = append(p.System, fact{"Listens for " + l.Door, l.URL})
		}
	}
	if mounts, err := a.mounts(); !errors.Is(err, errNotHere) {
		for _, m := range mounts {
			p.System = append(p.System, fact{"Mount " + m.State, strings.TrimSpace(m.Point + " " + m.Detail)})
		}
		if err != nil {
			p.System = append(p.System, fact{"Mounts", "unknown"})
		}
	}
	if a.o.Config != nil {
		p.Settings = a.settings()
	}
}

const auditUnknown = "The audit log is unknown: it cannot be read."

func (p *healthPage) actions(a *Server) {
	if a.audit == nil {
		p.NoActions = "This server keeps no audit log; actions are in its log."
		return
	}
	lines, err := a.audit.last(shownActions)
	p.Actions, p.NoActions = lines, "Nobody has done anything yet."
	if err != nil {
		p.NoActions = auditUnknown
	}
}

func (p *healthPage) work(a *Server) {
	for _, j := range a.jobs.list() {
		v := jobView{Job: j, IsRunning: j.Running != nil, Status: "Not known to have run since the server was started."}
		switch run := cmp.Or(j.Running, j.Last); {
		case run == nil:
		case v.IsRunning:
			v.Bar = run.bar(j.Title)
			v.Status = fmt.Sprintf("Running for %s, started by %s.", lasted(p.Now, run.Started), cmp.Or(run.By, "anonymous"))
			p.Activities = append(p.Activities, activityView{What: j.Title + " is running", Since: run.Started, Bar: v.Bar})
		default:
			v.Status, v.Problems = run.outcome(p.Now), run.Problems
		}
		if j.Next != nil {
			v.Status += fmt.Sprintf(" The next one begins by itself on %s.", j.Next.At.Format("2 January 2006 at 15:04 UTC"))
		}
		p.Jobs = append(p.Jobs, v)
	}
}

// outcome says how a run has ended.
func (r *Run) outcome(now time.Time) string {
	when := fmt.Sprintf(" It ended %s, after %s.", ago(now, *r.Ended), lasted(*r.Ended, r.Started))
	switch *r.Result {
	case "clean":
		return "Found nothing wrong." + when
	case "problems":
		return "Found " + plural(int64(*r.Found), "problem") + "." + when
	case "stopped":
		return "Was stopped before its end." + when
	}
	return "Failed: " + r.Error + "." + when
}

// bar returns the progress of a run; nil if its end is not known.
func (r *Run) bar(label string) *bar {
	if r.Done == nil || r.Total == nil || *r.Total <= 0 {
		return nil
	}
	b := &bar{Label: "Progress: " + label, Percent: int(100 * *r.Done / *r.Total)}
	b.Text = strings.TrimSpace(fmt.Sprintf("%s of %s %s", number(*r.Done), number(*r.Total), r.Unit))
	if r.TimeLeft != nil {
		end := time.Time{}.Add(time.Duration(*r.TimeLeft * float64(time.Second)))
		b.Text += ", " + lasted(end, time.Time{}) + " left"
	}
	return b
}

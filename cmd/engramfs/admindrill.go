package main

import (
	"cmp"
	"strings"

	"engramfs/store"
	"engramfs/web"
)

// adminDrillCmd arms a fault.
type adminDrillCmd struct {
	Path  string `arg:"" optional:"" help:"A file as clients name it, such as /photos/a.jpg. Without it the places are listed where a drill can strike."`
	Point string `env:"-" placeholder:"NAME" help:"Where to strike; without it the first place that the next change of the file reaches."`
	Cause string `env:"-" default:"panic" enum:"panic,goexit,error,hold" placeholder:"CAUSE" help:"panic, goexit, error, or hold: hang with the lock for 20 seconds (${default})."`
}

// Run arms a fault that strikes once, or lists the places.
func (c *adminDrillCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	if c.Path == "" {
		_, err = show(s, get("drills"), pointsText)
		return err
	}
	q := post("drills")
	q.body = web.Drill{Path: c.Path, Point: c.Point, Cause: c.Cause}
	_, err = show(s, q, func(out *page, d web.Drill) {
		out.fact("Armed", d.Path)
		out.fact("Strikes", "once, at "+cmp.Or(d.Point, "the first place that its next change reaches"))
		out.fact("Cause", d.Cause)
	})
	return err
}

func pointsText(out *page, d web.DrillPoints) {
	out.table("no places", []string{"POINT", "EFFECT", "WHERE"}, rowsOf(d.Points, func(f store.FaultPoint) []string {
		return []string{f.Name, effectOf(f), f.Doc}
	}))
	out.printf("\ncauses: %s\n", visible(strings.Join(d.Causes, ", ")))
}

// effectOf says what a panic at a place does.
func effectOf(f store.FaultPoint) string {
	switch {
	case f.Domain:
		return "poisons the store"
	case f.Locked && f.Late:
		return "poisons, change made"
	case f.Locked:
		return "poisons"
	case f.Late:
		return "fails, change made"
	}
	return "fails"
}

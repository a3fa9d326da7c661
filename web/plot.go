package web

import (
	"fmt"
	"strings"
	"time"
)

// plot is one small picture of a figure over the last hour.
type plot struct {
	Title   string
	Now     string // the newest value in words
	Second  string // that of the second line; "": there is none, or it is unknown
	From    string // where the picture begins
	Summary string
	Lines   []plotLine
}

type plotLine struct {
	Class  string
	Points string // x,y pairs in a box of plotWidth by plotHeight
}

const (
	plotWidth  = 300.0
	plotHeight = 60.0
	plotMargin = 3.0 // above the highest value and below 0
)

// plotSpec says what a plot shows, from 0 up to the highest value. second is
// drawn too, if there is one. The names say which is which.
type plotSpec struct {
	title            string
	first, second    func(*Sample) *float64
	write            func(float64) string
	nameOne, nameTwo string
}

var plotSpecs = []plotSpec{
	{"Requests", func(s *Sample) *float64 { return s.Requests }, func(s *Sample) *float64 { return s.Failed }, perSecond, "", "failed "},
	{"Latency", func(s *Sample) *float64 { return s.LatencyP50 }, func(s *Sample) *float64 { return s.LatencyP99 }, seconds, "median ", "p99 "},
	{"Sent", func(s *Sample) *float64 { return s.BytesOut }, nil, sizePerSecond, "", ""},
	{"Received", func(s *Sample) *float64 { return s.BytesIn }, nil, sizePerSecond, "", ""},
	{"Changes", func(s *Sample) *float64 { return s.Changes }, nil, perSecond, "", ""},
	{"Memory", func(s *Sample) *float64 { return s.MemoryBytes }, nil, size, "", ""},
	{"Free space", func(s *Sample) *float64 { return s.FreeBytes }, nil, size, "", ""},
}

// plotsOf draws what the samples know; a figure that none of them knows is left out.
func plotsOf(list []Sample) []plot {
	var plots []plot
	if len(list) < 2 {
		return nil
	}
	for _, spec := range plotSpecs {
		if p, ok := draw(spec, list); ok {
			plots = append(plots, p)
		}
	}
	return plots
}

func draw(spec plotSpec, list []Sample) (plot, bool) {
	top, known := 0.0, false
	for i := range list {
		for _, f := range []func(*Sample) *float64{spec.first, spec.second} {
			if f == nil || f(&list[i]) == nil {
				continue
			}
			top, known = max(top, *f(&list[i])), true
		}
	}
	if !known {
		return plot{}, false
	}
	newest := &list[len(list)-1]
	p := plot{Title: spec.title, Now: "unknown", Summary: "highest " + spec.write(top), From: ago(newest.At, list[0].At)}
	if v := spec.first(newest); v != nil {
		p.Now = spec.nameOne + spec.write(*v)
		if spec.second != nil && spec.second(newest) != nil {
			p.Second = spec.nameTwo + spec.write(*spec.second(newest))
		}
	}
	p.Lines = lines("first", spec.first, list, top)
	if spec.second != nil {
		p.Lines = append(p.Lines, lines("second", spec.second, list, top)...)
	}
	return p, true
}

// lines draws f; where it is unknown there is a gap.
func lines(class string, f func(*Sample) *float64, list []Sample, top float64) []plotLine {
	from := list[0].At
	span := max(list[len(list)-1].At.Sub(from), time.Millisecond).Seconds()
	var out []plotLine
	var b strings.Builder
	end := func() {
		if b.Len() > 0 {
			out = append(out, plotLine{class, strings.TrimSpace(b.String())})
			b.Reset()
		}
	}
	for i := range list {
		v := f(&list[i])
		if v == nil {
			end()
			continue
		}
		x := list[i].At.Sub(from).Seconds() / span * plotWidth
		y := plotHeight - plotMargin
		if top > 0 {
			y -= *v / top * (plotHeight - 2*plotMargin)
		}
		fmt.Fprintf(&b, "%.1f,%.1f ", x, y)
	}
	end()
	return out
}

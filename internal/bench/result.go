package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// goal is what a row measures and what is to be reached in it.
type goal struct {
	name  string
	title string
	unit  string
	// less says that smaller figures are better.
	less bool
	// against names the peer that the reach and the next goal are ratios to, or
	// "a|b" for the best of several, or "yardstick", or is empty: then both are
	// limits in the row's unit.
	against     string
	reach       float64
	next        float64
	nextAgainst string // if the next goal is against another peer
}

// sample is one measurement of one row on one peer.
type sample struct {
	// Value is in the row's unit; what every figure of the table comes from.
	Value    float64
	Elapsed  time.Duration
	Requests int64
	Errors   int64
	P99      time.Duration // request-rate rows only
	CPU      time.Duration // of the server's process tree
	Client   time.Duration // CPU of the load; mount rows only
	Peak     int64         // resident bytes of the process tree
	Above    int64         // Peak above the resident size before, bytes
}

// result is what a row came to.
type result struct {
	goal
	cells map[string]*cell // by the peer's name
	yard  []float64
	notes []string
}

// cell holds one peer's samples of one row.
type cell struct {
	samples []sample
	err     error
}

func (r *result) note(name string, err error) {
	r.notes = append(r.notes, fmt.Sprintf("%s: %s: %v", r.name, name, err))
}

// value returns the median of a server's samples, and false if there is none.
func (r *result) value(name string) (float64, bool) {
	c := r.cells[name]
	if c == nil || c.err != nil || len(c.samples) == 0 {
		return 0, false
	}
	return medianOf(c.samples, func(s sample) float64 { return s.Value }), true
}

// reference returns the figure that the row is compared with: the best of the
// peers named in against, or the yardstick's median.
func (r *result) reference(against string) (float64, bool) {
	if against == "yardstick" {
		return median(r.yard), len(r.yard) > 0
	}
	best, found := 0.0, false
	for name := range strings.SplitSeq(against, "|") {
		v, ok := r.value(name)
		if ok && (!found || r.less == (v < best)) {
			best, found = v, true
		}
	}
	return best, found
}

// ratio compares one peer's figure with those named in against: more than 1 is
// ahead. Without a reference it is false.
func (r *result) ratio(ours, against string) (float64, bool) {
	v, ok := r.value(ours)
	ref, found := r.reference(against)
	if !ok || !found || v == 0 || ref == 0 {
		return 0, false
	}
	if r.less {
		return ref / v, true
	}
	return v / ref, true
}

// verdict is "ok", "next" (the farther goal is reached too), "short", or "-"
// where there is nothing to judge.
func (r *result) verdict() string {
	if r.reach == 0 {
		return "-"
	}
	meets := func(against string, goal float64) (bool, bool) {
		if r.against == "" {
			v, ok := r.value("engramfs")
			return v < goal, ok
		}
		v, ok := r.ratio("engramfs", against)
		return v >= goal, ok
	}
	reached, ok := meets(r.against, r.reach)
	if !ok {
		return "-"
	}
	if !reached {
		return "short"
	}
	further := r.nextAgainst
	if further == "" {
		further = r.against
	}
	if far, ok := meets(further, r.next); ok && far && r.next != r.reach {
		return "next"
	}
	return "ok"
}

// wrong reports whether the project's server or mount erred in any row.
func wrong(results []*result) bool {
	for _, r := range results {
		for _, name := range []string{"engramfs", "strict"} {
			c := r.cells[name]
			if c != nil && (c.err != nil || slices.ContainsFunc(c.samples, func(s sample) bool { return s.Errors > 0 })) {
				return true
			}
		}
	}
	return false
}

func medianOf(s []sample, f func(sample) float64) float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = f(s[i])
	}
	return median(v)
}

// median of an empty list is 0.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// result is what a row came to.
type result struct {
	row
	cells map[string]*cell // by the server's name
	yard  []float64
	notes []string
}

// cell holds one server's samples of one row.
type cell struct {
	samples []sample
	err     error
}

// measure takes the rows in turn. What goes wrong on one server is a note, and
// ends the row for that server only.
func (b *bench) measure(ctx context.Context, rows []row) []*result {
	var results []*result
	for _, r := range rows {
		if ctx.Err() != nil {
			break
		}
		t0 := time.Now()
		res := &result{row: r, cells: map[string]*cell{}}
		for _, s := range b.servers {
			res.cells[s.name] = &cell{err: s.failed}
		}
		for round := range b.rounds {
			b.round(ctx, res, round)
		}
		b.tidy(res)
		results = append(results, res)
		fmt.Fprintf(b.log, "bench: %-9s %s\n", r.name, time.Since(t0).Round(100*time.Millisecond))
	}
	return results
}

// round measures the row once on each server and once with the yardstick.
func (b *bench) round(ctx context.Context, res *result, round int) {
	for _, s := range b.servers {
		c := res.cells[s.name]
		if c.err != nil || ctx.Err() != nil {
			continue
		}
		if c.err = b.one(res, s, c, round); c.err != nil {
			res.note(s, c.err)
			s.http.Close() // What is left on the connection belongs to the failure.
			if b.checkAlive(s); s.failed != nil {
				res.note(s, s.failed)
			}
		}
	}
	if res.yardstick == nil || ctx.Err() != nil {
		return
	}
	v, err := res.yardstick(b)
	if err != nil {
		res.notes = append(res.notes, fmt.Sprintf("%s: yardstick: %v", res.name, err))
		return
	}
	res.yard = append(res.yard, v)
}

func (b *bench) one(res *result, s *server, c *cell, round int) error {
	if err := s.prepare(b, res.needs); err != nil {
		return err
	}
	sm, err := res.measure(b, s, &meter{all: b.servers, srv: s}, round)
	if err != nil {
		return err
	}
	c.samples = append(c.samples, sm)
	if sm.Errors > 0 {
		res.note(s, fmt.Errorf("%d of %d requests failed in round %d", sm.Errors, sm.Requests+sm.Errors, round+1))
	}
	if round == 0 && res.check != nil {
		if err := res.check(b, s); err != nil {
			return fmt.Errorf("wrong content: %w", err)
		}
	}
	return nil
}

var errExitZero = errors.New("exit status 0")

// checkAlive marks a server that has ended, so that later rows leave it out.
func (b *bench) checkAlive(s *server) {
	select {
	case err := <-s.exit:
		s.exit <- err
		s.failed = fmt.Errorf("server ended: %w: %s", cmp.Or(err, errExitZero), s.output())
	default:
	}
}

// tidy removes what the row has left on each server.
func (b *bench) tidy(res *result) {
	if res.after == nil {
		return
	}
	for _, s := range b.servers {
		if s.failed != nil {
			continue
		}
		if err := res.after(b, s); err != nil {
			res.note(s, fmt.Errorf("clean up: %w", err))
			b.checkAlive(s)
		}
	}
}

func (r *result) note(s *server, err error) {
	r.notes = append(r.notes, fmt.Sprintf("%s: %s: %v", r.name, s.name, err))
}

// value returns the median of a server's samples, and false if there is none.
func (r *result) value(name string) (float64, bool) {
	c := r.cells[name]
	if c == nil || c.err != nil || len(c.samples) == 0 {
		return 0, false
	}
	return medianOf(c.samples, func(s sample) float64 { return s.Value }), true
}

// ratio compares the project's server with what the row names: more than 1 is
// ahead. Without a reference it is false.
func (r *result) ratio(against string) (float64, bool) {
	ours, ok := r.value("engramfs")
	if !ok {
		return 0, false
	}
	theirs, ok := r.value(against)
	if against == "yardstick" {
		theirs, ok = median(r.yard), len(r.yard) > 0
	}
	if !ok || ours == 0 || theirs == 0 {
		return 0, false
	}
	if r.less {
		return theirs / ours, true
	}
	return ours / theirs, true
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
		v, ok := r.ratio(against)
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

// wrong reports whether the project's server erred in any row.
func wrong(results []*result) bool {
	for _, r := range results {
		c := r.cells["engramfs"]
		if c == nil {
			continue
		}
		if c.err != nil || slices.ContainsFunc(c.samples, func(s sample) bool { return s.Errors > 0 }) {
			return true
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

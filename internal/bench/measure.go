package main

import (
	"context"
	"fmt"
	"time"
)

// measure takes the rows in turn. What goes wrong on one server is a note, and
// ends the row for that server only.
func (b *bench) measure(ctx context.Context, rows []row) []*result {
	var results []*result
	for _, r := range rows {
		if ctx.Err() != nil {
			break
		}
		t0 := time.Now()
		res := &result{goal: r.goal, cells: map[string]*cell{}}
		for _, s := range b.servers {
			res.cells[s.name] = &cell{err: s.failed}
		}
		for round := range b.rounds {
			b.round(ctx, r, res, round)
		}
		b.tidy(r, res)
		results = append(results, res)
		fmt.Fprintf(b.log, "bench: %-9s %s\n", r.name, time.Since(t0).Round(100*time.Millisecond))
	}
	return results
}

// round measures the row once on each server and once with the yardstick.
func (b *bench) round(ctx context.Context, r row, res *result, round int) {
	for _, s := range b.servers {
		c := res.cells[s.name]
		if c.err != nil || ctx.Err() != nil {
			continue
		}
		if c.err = b.one(r, res, s, c, round); c.err != nil {
			res.note(s.name, c.err)
			s.http.Close() // What is left on the connection belongs to the failure.
			if b.checkAlive(s); s.failed != nil {
				res.note(s.name, s.failed)
			}
		}
	}
	if r.yardstick == nil || ctx.Err() != nil {
		return
	}
	v, err := r.yardstick(b)
	if err != nil {
		res.notes = append(res.notes, fmt.Sprintf("%s: yardstick: %v", res.name, err))
		return
	}
	res.yard = append(res.yard, v)
}

func (b *bench) one(r row, res *result, s *server, c *cell, round int) error {
	if err := s.prepare(b, r.needs); err != nil {
		return err
	}
	sm, err := r.measure(b, s, &meter{all: b.processes(), srv: s}, round)
	if err != nil {
		return err
	}
	c.samples = append(c.samples, sm)
	if sm.Errors > 0 {
		res.note(s.name, fmt.Errorf("%d of %d requests failed in round %d", sm.Errors, sm.Requests+sm.Errors, round+1))
	}
	if round == 0 && r.check != nil {
		if err := r.check(b, s); err != nil {
			return fmt.Errorf("wrong content: %w", err)
		}
	}
	return nil
}

// checkAlive marks a server that has ended, so that later rows leave it out.
func (b *bench) checkAlive(s *server) {
	if err := s.ended(); err != nil {
		s.failed = fmt.Errorf("server %w: %s", err, s.output())
	}
}

// tidy removes what the row has left on each server.
func (b *bench) tidy(r row, res *result) {
	if r.after == nil {
		return
	}
	for _, s := range b.servers {
		if s.failed != nil {
			continue
		}
		if err := r.after(b, s); err != nil {
			res.note(s.name, fmt.Errorf("clean up: %w", err))
			b.checkAlive(s)
		}
	}
}

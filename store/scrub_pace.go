package store

import (
	"context"
	"time"
)

const (
	// scrubIdle is how much faster a scrub is while nobody uses the store.
	scrubIdle = 8
	// Up to scrubQuiet operations a second the store counts as idle, from
	// scrubLoad on as under load.
	scrubQuiet = 5
	scrubLoad  = 2000
	// scrubPause is how long a scrub waits for the load to pass before it reads
	// a piece all the same: a store that never rests is scrubbed, too, if slowly.
	scrubPause = time.Minute
	// scrubLook is how often the load is looked at.
	scrubLook = time.Second
)

// pacer makes a scrub leave the disk to others.
type pacer struct {
	// Immutable.
	now        func() time.Time
	sleep      func(context.Context, time.Duration) error
	rate       int64         // bytes a second while others use the store
	operations func() uint64 // of others so far

	free   time.Time // when the next piece may be read
	looked time.Time // when the load was looked at
	count  uint64    // of operations then
	load   float64   // operations a second before that
	paused time.Duration
}

func newPacer(k *scrubber) *pacer {
	p := &pacer{now: k.s.now, sleep: k.sleep, rate: k.o.Rate, operations: k.s.operations}
	p.free, p.looked, p.count = p.now(), p.now(), p.operations()
	p.load = scrubQuiet + 1 // not known yet: as if others used the store
	return p
}

// operations counts what clients have the store do that costs its disk something.
func (s *Store) operations() uint64 {
	return uint64(s.engine.Stats().Updates) + s.open.gets.Load()
}

// wait returns when n bytes may be read.
func (p *pacer) wait(ctx context.Context, n int64) error {
	for {
		p.look()
		if p.load < scrubLoad || p.paused >= scrubPause {
			break
		}
		p.paused += scrubLook
		if err := p.sleep(ctx, scrubLook); err != nil {
			return err
		}
	}
	p.paused = 0
	now := p.now()
	if p.free.Before(now) {
		p.free = now
	}
	if d := p.free.Sub(now); d > 0 {
		if err := p.sleep(ctx, d); err != nil {
			return err
		}
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.speed()) * float64(time.Second)))
	return ctx.Err()
}

// speed returns how many bytes a second are to be read now.
func (p *pacer) speed() int64 {
	if p.load <= scrubQuiet {
		return scrubIdle * p.rate
	}
	return p.rate
}

// look works out the load once in scrubLook.
func (p *pacer) look() {
	now := p.now()
	took := now.Sub(p.looked)
	if took < scrubLook {
		return
	}
	count := p.operations()
	p.load = float64(count-p.count) / took.Seconds()
	p.looked, p.count = now, count
}

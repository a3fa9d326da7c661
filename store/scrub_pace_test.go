package store

import (
	"context"
	"math"
	"testing"
	"time"
)

// TestPacer has a scrub read with a clock that only its own sleeping moves.
func TestPacer(t *testing.T) {
	const rate, piece = 20_000_000, 1 << 20
	for _, c := range []struct {
		name string
		ops  float64 // a second
		want float64 // bytes a second
	}{
		{"idle", 0, scrubIdle * rate},
		{"busy", 100, rate},
		{"loaded", 10_000, piece / scrubPause.Seconds()},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			begin := now
			p := &pacer{
				rate: rate, now: func() time.Time { return now },
				sleep:      func(_ context.Context, d time.Duration) error { now = now.Add(d); return nil },
				operations: func() uint64 { return uint64(now.Sub(begin).Seconds() * c.ops) },
				load:       c.ops, looked: now,
			}
			const pieces = 2000
			for range pieces {
				if err := p.wait(context.Background(), piece); err != nil {
					t.Fatal(err)
				}
			}
			got := pieces * piece / now.Sub(begin).Seconds()
			if math.Abs(got/c.want-1) > 0.03 {
				t.Errorf("%.0f bytes/s, want %.0f", got, c.want)
			}
		})
	}
}

// TestScrubIsPlanned looks at the time of the next scrub.
func TestScrubIsPlanned(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	k := &scrubber{o: ScrubOptions{Every: 100 * time.Hour}}
	earliest, latest := math.MaxFloat64, 0.0
	for range 1000 {
		k.plan(now)
		h := k.state.Next.Sub(now).Hours()
		earliest, latest = min(earliest, h), max(latest, h)
	}
	if earliest < 80 || latest > 120 || latest-earliest < 30 {
		t.Errorf("from %.1f to %.1f hours, want 80 to 120", earliest, latest)
	}
}

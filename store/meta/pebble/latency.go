package pebble

import (
	"sync/atomic"
	"time"

	"engramfs/store/meta"
)

// latencyLimits are the upper bounds of the buckets: from a disk with a cache
// that survives a power cut to one that is about to fail.
var latencyLimits = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

// latency counts durations. Its zero value is ready, and all methods may be
// called by several goroutines at once.
type latency struct {
	buckets [len(latencyLimits) + 1]atomic.Uint64 // the last one is for what is longer
	sum     atomic.Int64                          // nanoseconds
}

func (l *latency) observe(d time.Duration) {
	i := 0
	for i < len(latencyLimits) && d > latencyLimits[i] {
		i++
	}
	l.buckets[i].Add(1)
	l.sum.Add(int64(d))
}

// snapshot may miss what is counted at the same time, but its count is always
// that of its buckets.
func (l *latency) snapshot() meta.Latency {
	s := meta.Latency{Sum: time.Duration(l.sum.Load()), Buckets: make([]meta.LatencyBucket, len(latencyLimits))}
	for i, limit := range latencyLimits {
		s.Count += l.buckets[i].Load()
		s.Buckets[i] = meta.LatencyBucket{Limit: limit, Count: s.Count}
	}
	s.Count += l.buckets[len(latencyLimits)].Load()
	return s
}

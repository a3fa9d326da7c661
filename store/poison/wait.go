package poison

import (
	"sync/atomic"
	"time"
)

// lockExclusive takes c for writing, and counts the wait if there is one. Trying
// first costs a free lock nothing: it is the same compare-and-swap.
func (c *core) lockExclusive() {
	if c.mu.TryLock() {
		return
	}
	c.grp.n.writersWaiting.Add(1)
	c.mu.Lock()
	c.grp.n.writersWaiting.Add(-1)
}

// lockShared is lockExclusive for reading.
func (c *core) lockShared() {
	if c.mu.TryRLock() {
		return
	}
	c.grp.n.readersWaiting.Add(1)
	c.mu.RLock()
	c.grp.n.readersWaiting.Add(-1)
}

// Durations is a histogram of how long write sections held their locks, without
// the wait for them. Sections that poisoned a lock are not in it.
type Durations struct {
	Count   uint64           `json:"count"`
	Sum     time.Duration    `json:"sum"`
	Buckets []DurationBucket `json:"buckets"` // ascending
}

// DurationBucket counts the sections that took at most Limit, with those of the
// buckets below.
type DurationBucket struct {
	Limit time.Duration `json:"limit"`
	Count uint64        `json:"count"`
}

var durationLimits = [...]time.Duration{
	10 * time.Microsecond, 50 * time.Microsecond, 250 * time.Microsecond, time.Millisecond, 5 * time.Millisecond,
	25 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second,
}

// durations is the live form of Durations. Its zero value is ready.
type durations struct {
	sum     atomic.Int64
	buckets [len(durationLimits) + 1]atomic.Uint64 // the last: longer than all limits
}

// epoch makes the monotonic clock a number: reading it so costs half of time.Now.
var epoch = time.Now()

// began returns when a write section of c begins, 0 if it is not to be timed.
func (c *core) began() time.Duration {
	if !c.grp.reg.durations {
		return 0
	}
	return time.Since(epoch)
}

// took counts a write section that began then.
func (c *core) took(began time.Duration) {
	if began == 0 {
		return
	}
	d, n := time.Since(epoch)-began, &c.grp.n.writes
	i := 0
	for i < len(durationLimits) && d > durationLimits[i] {
		i++
	}
	n.buckets[i].Add(1)
	n.sum.Add(int64(d))
}

func (n *durations) snapshot() Durations {
	s := Durations{Sum: time.Duration(n.sum.Load()), Buckets: make([]DurationBucket, len(durationLimits))}
	for i, limit := range durationLimits {
		s.Count += n.buckets[i].Load()
		s.Buckets[i] = DurationBucket{limit, s.Count}
	}
	s.Count += n.buckets[len(durationLimits)].Load()
	return s
}

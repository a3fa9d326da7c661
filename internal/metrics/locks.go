package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"engramfs/store"
	"engramfs/store/poison"
)

// lockCollector shows the locks. A domain lock has its name as the label, and the
// locks of a family, such as those of all inodes, have the family's.
type lockCollector struct {
	health   func() poison.Snapshot
	counters func() store.Counters
	now      func() time.Time

	poisoned, number, generation                          *prometheus.Desc
	events, rejected, recovered, refused, panicked, reset *prometheus.Desc
	hold, hardStuck, watched, dropped, waiters, writes    *prometheus.Desc
}

var _ prometheus.Collector = (*lockCollector)(nil)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("engramfs_"+name, help, labels, nil)
}

func newLockCollector(o Options) *lockCollector {
	return &lockCollector{
		health: o.Store.Registry().Health, counters: o.Store.Counters, now: o.Now,
		poisoned:   desc("lock_poisoned", "1 while the lock, or any lock of the family, is poisoned.", "lock"),
		number:     desc("poisoned_locks", "How many locks are poisoned now.", "lock"),
		generation: desc("lock_generation", "Generation of the domain lock's last poisoning or reset; 0: there was none.", "lock"),
		events:     desc("lock_poison_events_total", "Poisonings since the start.", "lock", "cause"),
		rejected:   desc("lock_writes_rejected_total", "Writes refused because the lock was poisoned.", "lock"),
		recovered:  desc("lock_recovered_reads_total", "Reads served from recovered data.", "lock"),
		refused:    desc("lock_reads_rejected_total", "Reads refused because the lock was poisoned and fails closed.", "lock"),
		panicked:   desc("lock_read_panics_total", "Read sections that panicked, which poisons nothing.", "lock"),
		reset:      desc("lock_resets_total", "Resets since the start.", "lock", "source", "result"),
		hold:       desc("lock_hold_seconds", "How long the lock has been held by the section that was reported as stuck; 0: by none.", "lock", "mode"),
		waiters:    desc("lock_waiters", "Sections that wait for the lock now.", "lock", "mode"),
		writes:     desc("lock_write_duration_seconds", "How long write sections held the lock, without the wait for it.", "lock"),
		hardStuck:  desc("lock_stuck_hard", "1 while a lock is held past the hard limit: only a restart helps."),
		watched:    desc("lock_watch_timestamp_seconds", "When the watchdog last looked for stuck locks, in seconds since 1970."),
		dropped:    desc("lock_hooks_dropped_total", "Poisonings and resets that the event history may have missed."),
	}
}

// Describe implements prometheus.Collector.
func (c *lockCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.poisoned, c.number, c.generation, c.events, c.rejected, c.recovered, c.refused, c.panicked, c.reset,
		c.hold, c.hardStuck, c.watched, c.dropped, c.waiters, c.writes,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector. It takes no lock of the store.
func (c *lockCollector) Collect(out chan<- prometheus.Metric) {
	s := c.health()
	held := c.held(&s)
	for _, l := range s.Locks {
		if l.Family != "" || l.Counters == nil {
			continue
		}
		n := 0
		if l.Event != nil {
			n = 1
		}
		gauge(out, c.generation, float64(l.Gen), l.Name)
		c.lock(out, l.Name, n, l.Counters, held)
	}
	for _, f := range s.Families {
		c.lock(out, f.Name, f.Poisoned, &f.Counters, held)
	}
	c.resets(out, &s)
	gauge(out, c.hardStuck, oneIf(s.HardStuck))
	if !s.WatchedAt.IsZero() {
		gauge(out, c.watched, float64(s.WatchedAt.UnixNano())/1e9)
	}
	count(out, c.dropped, s.HooksDropped)
}

// lock shows one domain lock or family.
func (c *lockCollector) lock(out chan<- prometheus.Metric, name string, poisoned int, n *poison.Counters, held map[holdKey]float64) {
	gauge(out, c.poisoned, oneIf(poisoned > 0), name)
	gauge(out, c.number, float64(poisoned), name)
	for cause, v := range n.Poisoned {
		count(out, c.events, v, name, cause)
	}
	count(out, c.rejected, n.WritesRejected, name)
	count(out, c.recovered, n.RecoveredReads, name)
	count(out, c.refused, n.ReadsRejected, name)
	count(out, c.panicked, n.ReadPanics, name)
	gauge(out, c.waiters, float64(n.ReadersWaiting), name, "read")
	gauge(out, c.waiters, float64(n.WritersWaiting), name, "write")
	buckets := make(map[float64]uint64, len(n.Writes.Buckets))
	for _, b := range n.Writes.Buckets {
		buckets[b.Limit.Seconds()] = b.Count
	}
	out <- prometheus.MustNewConstHistogram(c.writes, n.Writes.Count, n.Writes.Sum.Seconds(), buckets, name)
	for _, mode := range []string{"read", "write"} {
		gauge(out, c.hold, held[holdKey{name, mode}], name, mode)
	}
}

type holdKey struct{ lock, mode string }

// held returns the longest time that a stuck lock of each kind has been held.
func (c *lockCollector) held(s *poison.Snapshot) map[holdKey]float64 {
	held := map[holdKey]float64{}
	for _, l := range s.Locks {
		if l.Stuck != nil {
			key := holdKey{store.LockFamily(l.Name), l.Stuck.Mode}
			held[key] = max(held[key], c.now().Sub(l.Stuck.Since).Seconds())
		}
	}
	return held
}

// resetSources and resetResults are all that store.ResetKind may have.
var (
	resetSources = []store.ResetSource{store.ResetByAdmin, store.ResetByAuto}
	resetResults = []string{"ok", "dry_run", "failed", "held", "not_poisoned", "stale"}
)

func (c *lockCollector) resets(out chan<- prometheus.Metric, s *poison.Snapshot) {
	done := c.counters().Resets
	var names []string
	for _, l := range s.Locks {
		names = append(names, store.LockFamily(l.Name))
	}
	for _, f := range s.Families {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		for _, source := range resetSources {
			for _, result := range resetResults {
				n := done[store.ResetKind{Family: name, Source: source, Result: result}]
				count(out, c.reset, n, name, string(source), result)
			}
		}
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func count(out chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

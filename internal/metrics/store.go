package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"engramfs/internal/patience"
	"engramfs/store"
	"engramfs/store/meta"
)

// storeCollector shows the state of the store as a whole, and of the process
// around it. What may need a lock of the store is asked for a moment only.
type storeCollector struct {
	o       Options
	usage   patience.Asker[usage]
	damaged patience.Asker[int]
	engine  patience.Asker[meta.Stats]

	degraded, readOnly, damagedFiles, checksums, panics *prometheus.Desc
	salvaged                                            *prometheus.Desc
	files, directories, content, capacity, free         *prometheus.Desc
	engineBytes, batches, syncs, compactions, debt      *prometheus.Desc
	stalls, cacheHits, cacheMisses, fsync               *prometheus.Desc
	notifications, waiting, escalated, crashes, loop    *prometheus.Desc
}

var _ prometheus.Collector = (*storeCollector)(nil)

// usage is what the store holds, and what room it has.
type usage struct {
	files, dirs int64
	space       store.StatFS
}

func newStoreCollector(o Options) *storeCollector {
	return &storeCollector{
		o:            o,
		degraded:     desc("degraded", "1 while a lock is poisoned or stuck, content is damaged, the store is read-only, or the second copy of the metadata is late; left out while that cannot be told."),
		readOnly:     desc("read_only", "1 while every change is refused."),
		damagedFiles: desc("damaged_objects", "Objects whose content is known to be damaged.", "kind"),
		checksums:    desc("checksum_errors_total", "Places in content that were found damaged.", "source", "kind"),
		salvaged:     desc("salvage_timestamp_seconds", "When the metadata was last made anew, because it was missing or damaged, in seconds since 1970; 0: never."),
		panics:       desc("panics_total", "Panics that cost one request and poisoned nothing.", "source"),
		files:        desc("files", "Files and other inodes that are no directories."),
		directories:  desc("directories", "Directories."),
		content:      desc("content_bytes", "Sum of the sizes of all files."),
		capacity:     desc("disk_capacity_bytes", "Size of the disk that the store is on."),
		free:         desc("disk_free_bytes", "What may still be written before changes are refused."),
		engineBytes:  desc("engine_bytes", "Size of parts of the metadata engine, on the disk or in memory.", "part"),
		batches:      desc("engine_batches_total", "Batches applied: changes of metadata."),
		syncs:        desc("engine_syncs_total", "Waits for a change to be durable."),
		compactions:  desc("engine_compactions_total", "Compactions."),
		debt:         desc("engine_compaction_debt_bytes", "What is still to be compacted, an estimate."),
		stalls:       desc("engine_write_stalls_total", "Times that writes had to wait for background work."),
		cacheHits:    desc("engine_cache_hits_total", "Blocks found in the cache."),
		cacheMisses:  desc("engine_cache_misses_total", "Blocks read from the disk."),
		fsync:        desc("journal_fsync_duration_seconds", "How long an fsync of the journal took."),

		notifications: desc("alert_notifications_total", "Messages to webhooks.", "result"),
		waiting:       desc("alerts_waiting", "Alerts whose last change no webhook was told yet."),
		escalated:     desc("heal_escalated", "Locks that the server does not heal by itself any more."),
		crashes:       desc("crash_reports", "Reports of crashes of the server that are kept in the data folder."),
		loop:          desc("crash_loop", "1 while the server is read-only because it kept crashing."),
	}
}

// Describe implements prometheus.Collector.
func (c *storeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.degraded, c.readOnly, c.damagedFiles, c.checksums, c.panics, c.salvaged,
		c.files, c.directories, c.content, c.capacity, c.free,
		c.engineBytes, c.batches, c.syncs, c.compactions, c.debt,
		c.stalls, c.cacheHits, c.cacheMisses, c.fsync,
		c.notifications, c.waiting, c.escalated, c.crashes, c.loop,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *storeCollector) Collect(out chan<- prometheus.Metric) {
	c.state(out)
	c.collectPanics(out)
	c.collectUsage(out)
	c.collectEngine(out)
	if c.o.Notifications != nil {
		n := c.o.Notifications()
		count(out, c.notifications, n.Sent, "ok")
		count(out, c.notifications, n.Failed, "failed")
		gauge(out, c.waiting, float64(n.Waiting))
	}
	if c.o.Escalated != nil {
		gauge(out, c.escalated, float64(c.o.Escalated()))
	}
	if c.o.Crashes != nil {
		reports, loop := c.o.Crashes()
		gauge(out, c.crashes, float64(reports))
		gauge(out, c.loop, oneIf(loop))
	}
}

func (c *storeCollector) state(out chan<- prometheus.Metric) {
	s := c.o.Store
	readOnly := s.ReadOnly() != nil
	health := s.Registry().Health()
	damaged, err := c.damaged.AskOrLast(func() (int, error) { return damagedInodes(s.Damaged()), nil })
	late := c.o.SecondCopy != nil && c.o.SecondCopy().Late
	gauge(out, c.readOnly, oneIf(readOnly))
	degraded := readOnly || health.Poisoned > 0 || health.Stuck > 0 || damaged > 0 || late
	if degraded || err == nil { // unknown is left out, not 0
		gauge(out, c.degraded, oneIf(degraded))
	}
	if at := s.SalvagedAt(); at.IsZero() {
		gauge(out, c.salvaged, 0)
	} else {
		gauge(out, c.salvaged, float64(at.Unix()))
	}
	if err == nil {
		gauge(out, c.damagedFiles, float64(damaged), "file")
	}
	n := s.Counters()
	count(out, c.checksums, n.Damages, "read", "block")
	count(out, c.checksums, n.ScrubDamages, "scrub", "block")
}

// damagedInodes counts the inodes in a list that is sorted by them.
func damagedInodes(all []store.Damage) int {
	n := 0
	for i, d := range all {
		if i == 0 || all[i-1].Ino != d.Ino {
			n++
		}
	}
	return n
}

func (c *storeCollector) collectPanics(out chan<- prometheus.Metric) {
	count(out, c.panics, c.o.Store.Counters().Panics, "store")
	for _, door := range []struct {
		name   string
		panics func() uint64
	}{{doorWebDAV, c.o.DAVPanics}, {doorMount, c.o.MountPanics}} {
		if door.panics != nil {
			count(out, c.panics, door.panics(), door.name)
		}
	}
}

func (c *storeCollector) collectUsage(out chan<- prometheus.Metric) {
	u, err := c.usage.Ask(func() (usage, error) {
		ctx := context.Background()
		space, err := c.o.Store.StatFS(ctx)
		return usage{c.o.Store.FileCount(ctx), c.o.Store.DirCount(ctx), space}, err
	})
	if err != nil {
		return
	}
	gauge(out, c.files, float64(u.files))
	gauge(out, c.directories, float64(u.dirs))
	gauge(out, c.content, float64(u.space.Used))
	gauge(out, c.capacity, float64(u.space.Total))
	gauge(out, c.free, float64(u.space.Free))
}

func (c *storeCollector) collectEngine(out chan<- prometheus.Metric) {
	e, err := c.engine.Ask(func() (meta.Stats, error) { return c.o.Store.EngineStats(), nil })
	if err != nil {
		return
	}
	for part, n := range map[string]int64{
		"disk": e.DiskBytes, "log": e.LogBytes, "cache": e.CacheBytes, "memtable": e.MemTableBytes,
	} {
		gauge(out, c.engineBytes, float64(n), part)
	}
	count(out, c.batches, uint64(e.Updates))
	count(out, c.syncs, uint64(e.Syncs))
	count(out, c.compactions, uint64(e.Compactions))
	gauge(out, c.debt, float64(e.CompactionDebt))
	count(out, c.stalls, uint64(e.WriteStalls))
	count(out, c.cacheHits, uint64(e.CacheHits))
	count(out, c.cacheMisses, uint64(e.CacheMisses))
	c.collectFsync(out, e.Fsyncs)
}

// collectFsync leaves an engine without a journal out.
func (c *storeCollector) collectFsync(out chan<- prometheus.Metric, h meta.Latency) {
	if len(h.Buckets) == 0 {
		return
	}
	buckets := make(map[float64]uint64, len(h.Buckets))
	for _, b := range h.Buckets {
		buckets[b.Limit.Seconds()] = b.Count
	}
	out <- prometheus.MustNewConstHistogram(c.fsync, h.Count, h.Sum.Seconds(), buckets)
}

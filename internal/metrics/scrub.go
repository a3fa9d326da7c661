package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"engramfs/internal/patience"
	"engramfs/store"
)

// scrubCollector shows what scrubs have found and how far one is.
type scrubCollector struct {
	store  *store.Store
	status patience.Asker[store.ScrubStatus]

	success, progress, blocks, bytes, files, next *prometheus.Desc
}

var _ prometheus.Collector = (*scrubCollector)(nil)

func newScrubCollector(o Options) *scrubCollector {
	return &scrubCollector{
		store:    o.Store,
		success:  desc("scrub_last_success_timestamp_seconds", "When the last scrub that came to its end did so, whatever it found; 0: none has."),
		progress: desc("scrub_progress_ratio", "How much of the scrub that runs is done, 0 to 1; 0 while none runs."),
		blocks:   desc("scrub_blocks_total", "Blocks of content that scrubs have read.", "result"),
		bytes:    desc("scrub_bytes_total", "Bytes of content that scrubs have read.", "result"),
		files:    desc("scrub_missing_files_total", "Files whose content scrubs have found missing."),
		next:     desc("scrub_next_timestamp_seconds", "When a scrub begins by itself; 0: none does."),
	}
}

// Describe implements prometheus.Collector.
func (c *scrubCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.success, c.progress, c.blocks, c.bytes, c.files, c.next} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *scrubCollector) Collect(out chan<- prometheus.Metric) {
	st, err := c.status.Ask(func() (store.ScrubStatus, error) { return c.store.ScrubStatus(), nil })
	if err != nil {
		return
	}
	success, progress, next := 0.0, 0.0, 0.0
	for _, r := range st.Runs { // newest first
		if r.Result == "clean" || r.Result == "damaged" {
			success = float64(r.Ended.Unix())
			break
		}
	}
	if r := st.Running; r != nil && r.Total > 0 {
		progress = min(float64(r.Done)/float64(r.Total), 1)
	}
	if st.Next != nil {
		next = float64(st.Next.Unix())
	}
	gauge(out, c.success, success)
	gauge(out, c.progress, progress)
	gauge(out, c.next, next)
	count(out, c.blocks, uint64(st.Totals.Blocks), "ok")
	count(out, c.blocks, uint64(st.Totals.CorruptBlocks), "corrupt")
	count(out, c.bytes, uint64(st.Totals.Bytes), "ok")
	count(out, c.bytes, uint64(st.Totals.CorruptBytes), "corrupt")
	count(out, c.files, uint64(st.Totals.MissingFiles))
}

package metrics

import "github.com/prometheus/client_golang/prometheus"

// traceCounters count the spans of traces.
func traceCounters(spans func() (sent, dropped uint64)) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "engramfs_traces_sent_total", Help: "Spans of traces that the collector has taken.",
		}, func() float64 {
			sent, _ := spans()
			return float64(sent)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "engramfs_traces_dropped_total", Help: "Spans of traces that were dropped because the collector does not take them, or not fast enough.",
		}, func() float64 {
			_, dropped := spans()
			return float64(dropped)
		}),
	}
}

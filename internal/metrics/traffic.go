package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Traffic is what all doors have served since the start.
type Traffic struct {
	Requests          uint64
	Failed            uint64 // by the server's fault: 5xx over HTTP, EIO on the mount
	BytesIn, BytesOut uint64
	Latency           []LatencyBucket // ascending
}

// LatencyBucket counts the requests that took at most Seconds, with those of the
// buckets below.
type LatencyBucket struct {
	Seconds float64
	Count   uint64
}

// Traffic sums up what is counted, for plots. Requests that are counted at the
// same time may be in one figure and not yet in another.
func (m *Metrics) Traffic() Traffic {
	q := m.requests
	var t Traffic
	for _, s := range read(q.total) {
		n := uint64(s.GetCounter().GetValue())
		t.Requests += n
		if status := label(s, "status"); status == "5xx" || status == "EIO" {
			t.Failed += n
		}
	}
	for _, s := range read(q.bytes) {
		n := uint64(s.GetCounter().GetValue())
		if label(s, "direction") == "in" {
			t.BytesIn += n
		} else {
			t.BytesOut += n
		}
	}
	t.Latency = make([]LatencyBucket, len(durationBuckets))
	for _, s := range read(q.duration) {
		for i, b := range s.GetHistogram().GetBucket()[:len(durationBuckets)] {
			t.Latency[i].Seconds = b.GetUpperBound()
			t.Latency[i].Count += b.GetCumulativeCount()
		}
	}
	return t
}

// read returns the series of c.
func read(c prometheus.Collector) []*dto.Metric {
	ch := make(chan prometheus.Metric)
	go func() {
		defer close(ch)
		c.Collect(ch)
	}()
	var all []*dto.Metric
	for m := range ch {
		s := &dto.Metric{}
		if m.Write(s) == nil { // an error is a metric that was made wrong: there is none
			all = append(all, s)
		}
	}
	return all
}

func label(s *dto.Metric, name string) string {
	for _, l := range s.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

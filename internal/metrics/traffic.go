package metrics

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
	t := Traffic{Latency: make([]LatencyBucket, len(durationBuckets))}
	for i, s := range durationBuckets {
		t.Latency[i].Seconds = s
	}
	for _, d := range m.requests.doors {
		for _, op := range d.ops {
			cumulative, n := op.latency()
			t.Requests += n
			t.Failed += op.done[d.failure].Load()
			t.BytesIn += op.in.Load()
			t.BytesOut += op.out.Load()
			for i, c := range cumulative {
				t.Latency[i].Count += c
			}
		}
	}
	return t
}

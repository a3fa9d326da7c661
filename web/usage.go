package web

import (
	"context"
	"net/http"
	"runtime"
	"runtime/metrics"
	"sync"
	"time"

	"engramfs/store"
)

// EngineStats are figures of the metadata engine. Bytes are bytes on the disk or
// in memory; the rest counts since the start.
type EngineStats struct {
	Engine        string `json:"engine"`
	DiskBytes     int64  `json:"disk_bytes"`
	LogBytes      int64  `json:"log_bytes"`
	CacheBytes    int64  `json:"cache_bytes"`
	MemTableBytes int64  `json:"mem_table_bytes"`
	CacheHits     int64  `json:"cache_hits"`
	CacheMisses   int64  `json:"cache_misses"`
	Updates       int64  `json:"updates"` // batches
	Syncs         int64  `json:"syncs"`
	Compactions   int64  `json:"compactions"`
	WriteStalls   int64  `json:"write_stalls"`
}

// Traffic is what the doors have served since the start. All of it only grows.
type Traffic struct {
	Requests uint64
	Failed   uint64 // by the server's fault
	BytesIn  uint64
	BytesOut uint64
	// Latency counts requests by how long they took: Latency[i].Count of them
	// took at most Latency[i].Seconds, as in a Prometheus histogram. Ascending.
	Latency []LatencyBucket
}

// LatencyBucket is one bucket of Traffic.
type LatencyBucket struct {
	Seconds float64
	Count   uint64 // cumulative
}

// Usage is what the store holds and what room it has. null: unknown.
type Usage struct {
	Files         *int64       `json:"files"`
	Directories   *int64       `json:"directories"`
	ContentBytes  *int64       `json:"content_bytes"`  // sum of all files' sizes
	CapacityBytes *int64       `json:"capacity_bytes"` // size of the disk
	FreeBytes     *int64       `json:"free_bytes"`     // that may still be written
	MemoryBytes   *int64       `json:"memory_bytes"`   // of this process
	Goroutines    int          `json:"goroutines"`
	UptimeSeconds float64      `json:"uptime_seconds"`
	Engine        *EngineStats `json:"engine"`
}

// usage asks for what the store holds. What does not come in time is unknown.
func (a *Server) usage(ctx context.Context) Usage {
	u := Usage{MemoryBytes: memory(), Goroutines: runtime.NumGoroutine(), UptimeSeconds: a.now().Sub(a.started).Seconds()}
	if m, ok := a.store.(meter); ok {
		// Without the request's context: the answer may serve another request.
		ctx := context.WithoutCancel(ctx)
		if s, err := a.probes.space.ask(func() (store.StatFS, error) { return m.StatFS(ctx) }); err == nil {
			u.ContentBytes, u.CapacityBytes, u.FreeBytes = &s.Used, &s.Total, &s.Free
		}
		if c, err := a.probes.counts.ask(func() (counts, error) { return counts{m.FileCount(ctx), m.DirCount(ctx)}, nil }); err == nil {
			u.Files, u.Directories = &c.files, &c.dirs
		}
	}
	u.Engine = a.engine()
	return u
}

func (a *Server) engine() *EngineStats {
	if a.o.Engine == nil {
		return nil
	}
	e, err := a.probes.engine.ask(func() (EngineStats, error) { return a.o.Engine(), nil })
	if err != nil {
		return nil
	}
	return &e
}

// memory returns what the process holds of the machine's memory, in bytes.
func memory() *int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	for _, v := range s {
		if v.Value.Kind() != metrics.KindUint64 {
			return nil
		}
	}
	n := int64(s[0].Value.Uint64() - s[1].Value.Uint64())
	return &n
}

// Sample is what the plots of the page are made of. null: unknown.
type Sample struct {
	At           time.Time `json:"at"`
	Requests     *float64  `json:"requests_per_second"`
	Failed       *float64  `json:"failed_per_second"`
	BytesIn      *float64  `json:"bytes_in_per_second"`
	BytesOut     *float64  `json:"bytes_out_per_second"`
	LatencyP50   *float64  `json:"latency_p50_seconds"`
	LatencyP99   *float64  `json:"latency_p99_seconds"`
	Changes      *float64  `json:"changes_per_second"` // batches of the metadata engine
	MemoryBytes  *float64  `json:"memory_bytes"`
	ContentBytes *float64  `json:"content_bytes"`
	FreeBytes    *float64  `json:"free_bytes"`
}

const (
	sampleEvery = 5 * time.Second
	maxSamples  = 720 // an hour
)

// samples is a ring of the newest samples. Its zero value is ready.
type samples struct {
	// mu protects the fields below.
	mu sync.Mutex

	list []Sample // the oldest first
	last counters
}

// counters is what rates are worked out from.
type counters struct {
	at      time.Time
	traffic *Traffic
	engine  *EngineStats
}

func (s *samples) all() []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sample{}, s.list...)
}

// newest returns when the newest sample was taken; zero: there is none.
func (s *samples) newest() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.at
}

// runSampler takes a sample at every tick until ctx ends.
func (a *Server) runSampler(ctx context.Context) {
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	a.takeSample(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.ctx.Done():
			return
		case <-t.C:
			a.takeSample(ctx)
		}
	}
}

func (a *Server) takeSample(ctx context.Context) {
	defer func() {
		if v := recover(); v != nil {
			a.log.Error("sample not taken", "err", panicError(v))
		}
	}()
	u := a.usage(ctx)
	now := counters{at: a.now(), engine: u.Engine}
	if a.o.Traffic != nil {
		t := a.o.Traffic()
		now.traffic = &t
	}
	s := Sample{
		At: now.at.UTC(), MemoryBytes: float(u.MemoryBytes), ContentBytes: float(u.ContentBytes), FreeBytes: float(u.FreeBytes),
	}
	a.samples.add(s, now)
}

// add keeps s, with the rates since the sample before.
func (s *samples) add(v Sample, now counters) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.rates(s.last, now)
	s.last = now
	s.list = append(s.list, v)
	if len(s.list) > maxSamples {
		s.list = s.list[len(s.list)-maxSamples:]
	}
}

func (v *Sample) rates(old, now counters) {
	took := now.at.Sub(old.at).Seconds()
	if old.at.IsZero() || took <= 0 {
		return
	}
	per := func(n uint64) *float64 { r := float64(n) / took; return &r }
	if o, n := old.traffic, now.traffic; o != nil && n != nil && n.Requests >= o.Requests {
		v.Requests, v.Failed = per(n.Requests-o.Requests), per(n.Failed-o.Failed)
		v.BytesIn, v.BytesOut = per(n.BytesIn-o.BytesIn), per(n.BytesOut-o.BytesOut)
		v.LatencyP50, v.LatencyP99 = quantile(o.Latency, n.Latency, 0.5), quantile(o.Latency, n.Latency, 0.99)
	}
	if o, n := old.engine, now.engine; o != nil && n != nil && n.Updates >= o.Updates {
		v.Changes = per(uint64(n.Updates - o.Updates))
	}
}

// quantile returns the upper bound of the bucket that holds the quantile q of the
// requests between two readings; nil: there were none.
func quantile(old, now []LatencyBucket, q float64) *float64 {
	if len(old) != len(now) || len(now) == 0 {
		return nil
	}
	in := func(i int) float64 { return float64(now[i].Count - old[i].Count) }
	total := in(len(now) - 1)
	if total == 0 {
		return nil
	}
	for i := range now {
		if in(i) >= q*total {
			return &now[i].Seconds
		}
	}
	return nil
}

func float(n *int64) *float64 {
	if n == nil {
		return nil
	}
	f := float64(*n)
	return &f
}

// SampleList is the answer of GET /api/v1/samples.
type SampleList struct {
	EverySeconds float64  `json:"every_seconds"`
	Samples      []Sample `json:"samples"` // the oldest first
}

func (a *Server) usageOperations() []operation {
	return []operation{
		get("/api/v1/usage", "getUsage", "usage", "What the store holds, and what room it has", a.getUsage),
		get("/api/v1/samples", "listSamples", "usage", "Throughput, latency, memory and capacity of the last hour", a.getSamples),
	}
}

func (a *Server) getUsage(_ http.ResponseWriter, r *http.Request) (Usage, error) {
	return a.usage(r.Context()), nil
}

func (a *Server) getSamples(http.ResponseWriter, *http.Request) (SampleList, error) {
	return SampleList{sampleEvery.Seconds(), a.samples.all()}, nil
}

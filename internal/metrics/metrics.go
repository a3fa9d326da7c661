// Package metrics counts what the server does, and shows that and the state of
// the store as Prometheus metrics. All of their names begin with engramfs_,
// except those of the Go runtime and of the process.
//
// Every series that an alert may look at is there from the start with the value
// 0, so that increase() sees the first event. Labels have few values: they never
// hold a path, the name of a user or the number of an inode. A figure that cannot
// be had in time is left out, never shown as 0.
package metrics

import (
	"log/slog"
	"math"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"engramfs/store"
)

// Options of New.
type Options struct {
	Store   *store.Store     // required
	Logger  *slog.Logger     // nil: slow operations are counted but not logged
	Version string           // of the program
	Now     func() time.Time // nil: time.Now

	// SlowAfter is how long an operation may take before it is counted and logged
	// as slow, not counting the time that its bytes may take. 0: one second.
	SlowAfter time.Duration

	// MountPanics returns how many operations of the mount have panicked. nil:
	// there is no mount, and it has no series.
	MountPanics func() uint64
	// DAVPanics is the same for WebDAV.
	DAVPanics func() uint64
	// Notifications returns what became of the messages to webhooks. nil: there
	// are no webhooks.
	Notifications func() Notifications
	// Escalated returns how many locks the server does not heal by itself any more.
	// nil: it heals none.
	Escalated func() int
	// Crashes returns how many reports of crashes are kept, and whether the server
	// is in a crash loop. nil: not known.
	Crashes func() (reports int, loop bool)
	// SecondCopy returns the state of the second copy of the metadata. nil: none is kept.
	SecondCopy func() SecondCopy
	// Spans returns how many spans of traces were sent and dropped. nil: there is no tracing.
	Spans func() (sent, dropped uint64)
}

// SecondCopy is the state of the second copy of the metadata.
type SecondCopy struct {
	AsOf time.Time // up to which it has everything; zero: there is none that is good
	Late bool      // it cannot be written, or is older than it may be
}

// Notifications counts messages to webhooks.
type Notifications struct {
	Sent, Failed uint64 // since the start
	Waiting      int    // alerts whose last change nobody has been told yet
}

// Metrics holds what is counted. All methods may be called by several
// goroutines at once.
type Metrics struct {
	// Immutable after New.
	registry *prometheus.Registry
	handler  http.Handler
	requests *requests
}

// New returns the metrics of a store and its doors.
func New(o Options) *Metrics {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SlowAfter <= 0 {
		o.SlowAfter = time.Second
	}
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.requests = newRequests(o)
	m.registry.MustRegister(
		m.requests,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newLockCollector(o), newStoreCollector(o), newScrubCollector(o), buildInfo(o.Version), startTime(o.Now()),
	)
	if o.SecondCopy != nil {
		m.registry.MustRegister(secondCopyAge(o))
	}
	if o.Spans != nil {
		m.registry.MustRegister(traceCounters(o.Spans)...)
	}
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		Registry: m.registry,
		ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
		// One collector that fails must not take the others with it.
		ErrorHandling: promhttp.ContinueOnError,
	})
	return m
}

// Handler serves the metrics in the formats of Prometheus.
func (m *Metrics) Handler() http.Handler { return m.handler }

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "engramfs_build_info", Help: "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	g.Set(1)
	return g
}

// secondCopyAge is +Inf while there is no copy that would do.
func secondCopyAge(o Options) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "engramfs_second_copy_age_seconds",
		Help: "How far the second copy of the metadata is behind, in seconds; +Inf if there is none that is good.",
	}, func() float64 {
		if asOf := o.SecondCopy().AsOf; !asOf.IsZero() {
			return max(o.Now().Sub(asOf).Seconds(), 0)
		}
		return math.Inf(1)
	})
}

func startTime(now time.Time) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "engramfs_start_time_seconds", Help: "When the server started, in seconds since 1970.",
	})
	g.Set(float64(now.UnixNano()) / 1e9)
	return g
}

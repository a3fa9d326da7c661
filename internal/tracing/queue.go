package tracing

import (
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// queueSize is how many spans may wait for the collector: some megabytes.
const queueSize = 4096

// queue bounds the spans between the requests and the collector, and counts those
// that it drops. The processor behind it has a queue of the same size, which does
// not tell what it drops: it never gets more than it has room for.
type queue struct {
	sdktrace.SpanProcessor

	waiting atomic.Int64
	dropped atomic.Uint64
}

// OnEnd implements sdktrace.SpanProcessor. It does not block.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if q.waiting.Add(1) > queueSize {
		q.waiting.Add(-1)
		q.dropped.Add(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// exporter counts what becomes of the spans, and logs when the collector stops
// taking them and when it takes them again.
type exporter struct {
	sdktrace.SpanExporter
	queue *queue
	log   *slog.Logger

	sent    atomic.Uint64
	failing atomic.Bool
}

// ExportSpans implements sdktrace.SpanExporter. Its errors are dealt with here.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.queue.waiting.Add(-int64(len(spans)))
	rejected := len(spans)
	if err == nil {
		rejected = 0
	} else if n, ok := partial(err); ok {
		rejected = min(n, len(spans))
	}
	e.sent.Add(uint64(len(spans) - rejected))
	e.queue.dropped.Add(uint64(rejected))
	if rejected == 0 {
		if e.failing.Swap(false) {
			e.log.Info("traces are sent again", "dropped", e.queue.dropped.Load())
		}
		return nil
	}
	if !e.failing.Swap(true) {
		e.log.Warn("traces are not sent", "err", shortened(err))
	}
	return nil
}

// rejection is how the errors of the SDK end that tell of a partial success. Their
// type cannot be named here.
var rejection = regexp.MustCompile(`OTLP partial success: (?s:.*) \((\d+) spans rejected\)$`)

// partial returns how many spans a collector has rejected that took the others. It
// may be none: then the collector only had something to say (OTLP specification,
// Partial Success).
func partial(err error) (rejected int, ok bool) {
	found := rejection.FindStringSubmatch(err.Error())
	if found == nil {
		return 0, false
	}
	rejected, err = strconv.Atoi(found[1])
	return rejected, err == nil
}

// shortened returns an error as a log may have it: a collector may say anything.
func shortened(err error) string { return cut(err.Error(), 1024) }

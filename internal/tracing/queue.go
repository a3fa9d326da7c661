package tracing

import (
	"context"
	"log/slog"
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
	if err == nil {
		e.sent.Add(uint64(len(spans)))
		if e.failing.Swap(false) {
			e.log.Info("traces are sent again", "dropped", e.queue.dropped.Load())
		}
		return nil
	}
	e.queue.dropped.Add(uint64(len(spans)))
	if !e.failing.Swap(true) {
		e.log.Warn("traces are not sent", "err", err)
	}
	return nil
}

package tracing

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"engramfs/store"
)

// request is a request that is followed.
type request struct {
	t    *Tracer
	ctx  context.Context // of which the operations' spans are children
	span trace.Span

	operations atomic.Int64 // that it has begun
	spans      atomic.Int64 // that these got
	faulty     atomic.Bool  // error.type says more than the answer
}

type requestKey struct{}

// begin begins to follow a request. ctx may carry the span of a client. The
// request is nil if this one is not to be followed. The ratio is applied here: a
// sampler of the SDK is asked only after the span's allocations.
func (t *Tracer) begin(ctx context.Context, name string) (context.Context, *request) {
	if t.ratio < 1 && rand.Float64() >= t.ratio && !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, nil
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	if !span.IsRecording() {
		return ctx, nil
	}
	q := &request{t: t, ctx: ctx, span: span}
	return context.WithValue(ctx, requestKey{}, q), q
}

// requestOf returns the followed request that ctx belongs to, or nil.
func requestOf(ctx context.Context) *request {
	q, _ := ctx.Value(requestKey{}).(*request)
	return q
}

// end ends the span of q, with more of its attributes.
func (q *request) end(attrs ...attribute.KeyValue) {
	if n := q.operations.Load(); n > 0 {
		attrs = append(attrs, attribute.Int64("engramfs.store.operations", n))
	}
	q.span.SetAttributes(attrs...)
	q.span.End()
}

// A request for a large directory is made of thousands of operations. The first
// ones get a span, and then those that stand out, within a limit.
const (
	firstSpans = 64
	maxSpans   = 512
	slow       = time.Millisecond
)

// Store returns what the store is to tell of its operations: see
// store.Options.Began.
func (t *Tracer) Store() func(ctx context.Context, op string, ino store.Ino) func(error) {
	if t == nil {
		return nil
	}
	return func(ctx context.Context, op string, ino store.Ino) func(error) {
		q := requestOf(ctx)
		if q == nil {
			return nil // background work, or a request that is not followed
		}
		nth, start := q.operations.Add(1), time.Now()
		return func(err error) { q.operationEnded(op, ino, nth, start, err) }
	}
}

func (q *request) operationEnded(op string, ino store.Ino, nth int64, start time.Time, err error) {
	end := time.Now()
	kind, fault := classOf(err)
	if nth > firstSpans && !fault && end.Sub(start) < slow || q.spans.Add(1) > maxSpans {
		return
	}
	_, span := q.t.tracer.Start(q.ctx, "store."+op, trace.WithTimestamp(start))
	if ino != 0 {
		span.SetAttributes(attribute.Int64("engramfs.ino", int64(ino)))
	}
	if err != nil {
		q.markPoison(span, err)
		span.SetAttributes(errorType(kind))
		q.t.recordPanic(span, err)
		if fault {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End(trace.WithTimestamp(end))
}

// Failed returns what a door is to tell of the requests that it answers with an
// error, and why.
func (t *Tracer) Failed() func(ctx context.Context, err error) {
	if t == nil {
		return nil
	}
	return func(ctx context.Context, err error) {
		if q := requestOf(ctx); q != nil {
			q.failed(err)
		}
	}
}

// failed notes why q fails.
func (q *request) failed(err error) {
	q.markPoison(q.span, err)
	q.t.recordPanic(q.span, err)
	if kind, fault := classOf(err); fault {
		q.faulty.Store(true)
		q.span.SetAttributes(errorType(kind))
		q.span.SetStatus(codes.Error, "")
	}
}

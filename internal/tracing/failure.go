package tracing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"engramfs/store"
	"engramfs/store/poison"
)

// classes are the values of error.type, which must be few. The first line that an
// error matches counts. A fault is the server's, the others are what clients may ask for.
var classes = []struct {
	err   error
	class string
	fault bool
}{
	{store.ErrPoisoned, "store_poisoned", true},
	{store.ErrDamaged, "content_damaged", true},
	{store.ErrPanic, "panic", true},
	{store.ErrReadOnly, "store_read_only", true},
	{store.ErrClosed, "store_closed", true},
	{store.ErrFault, "injected", true},
	{syscall.ENOSPC, "no_space", true},
	{syscall.EIO, "disk", true},
	{fs.ErrNotExist, "not_found", false},
	{fs.ErrExist, "exists", false},
	{fs.ErrPermission, "permission", false},
	{store.ErrLocked, "locked", false},
	{store.ErrPrecondition, "precondition", false},
	{context.Canceled, "canceled", false},
	{context.DeadlineExceeded, "timeout", false},
}

// classOf returns the class of an error, and whether it is a fault. What is on no
// list has the class that the semantic conventions have for it.
func classOf(err error) (class string, fault bool) {
	if err == nil {
		return "", false
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.class, c.fault
		}
	}
	return semconv.ErrorTypeOther.Value.AsString(), false
}

func errorType(class string) attribute.KeyValue { return semconv.ErrorTypeKey.String(class) }

// markPoison says on span, and on that of the request, which poisoned lock err is
// about.
func (q *request) markPoison(span trace.Span, err error) {
	var p *poison.Error
	if !errors.As(err, &p) || p.Ev == nil {
		return
	}
	attrs := []attribute.KeyValue{
		attribute.Bool("engramfs.poisoned", true),
		attribute.String("engramfs.lock", p.Ev.Lock),
		attribute.Int64("engramfs.lock.generation", int64(p.Ev.Gen)),
		attribute.String("engramfs.event", p.Ev.ID),
	}
	span.SetAttributes(append(attrs, attribute.Bool("engramfs.refused", p.Refused))...)
	if span != q.span {
		q.span.SetAttributes(attrs...)
	}
}

// maxMessage bounds what a panic says, in bytes.
const maxMessage = 8 << 10

// recordPanic adds an event to span if err is a panic that ended the operation
// itself, not one that had poisoned the lock before. What it says may be anything,
// such as an error with the name of a file.
func (t *Tracer) recordPanic(span trace.Span, err error) {
	var p *poison.Error
	var died *store.PanicError
	switch {
	case errors.As(err, &p) && p.Ev != nil && !p.Refused:
		t.recordException(span, p.Ev.Cause.String(), p.Ev.Value, p.Ev.Stack)
	case errors.As(err, &died) && died.Value == nil:
		t.recordException(span, poison.Goexit.String(), "the goroutine exited", died.Stack)
	case errors.As(err, &died):
		t.recordException(span, fmt.Sprintf("%T", died.Value), fmt.Sprint(died.Value), died.Stack)
	}
}

func (t *Tracer) recordException(span trace.Span, kind, message string, stack []byte) {
	attrs := []attribute.KeyValue{
		semconv.ExceptionType(cut(kind, maxHeader)),
		semconv.ExceptionStacktrace(cut(string(stack), maxValue)),
	}
	if t.paths {
		attrs = append(attrs, semconv.ExceptionMessage(cut(message, maxMessage)))
	}
	span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(attrs...))
}

package tracing

import (
	"context"
	"syscall"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

// Mount returns what the mount is to tell of its requests: see fuse.Options.Began.
func (t *Tracer) Mount() func(ctx context.Context, op string, ino store.Ino, unique uint64) (context.Context, func(int, syscall.Errno, error)) {
	if t == nil {
		return nil
	}
	return func(ctx context.Context, op string, ino store.Ino, unique uint64) (context.Context, func(int, syscall.Errno, error)) {
		followed, q := t.begin(ctx, "fuse."+op)
		if q == nil {
			return ctx, nil
		}
		q.span.SetAttributes(doorIs(mount), attribute.String("engramfs.op", op),
			attribute.Int64("engramfs.ino", int64(ino)), attribute.Int64("fuse.unique", int64(unique)))
		return followed, q.replied
	}
}

// replied ends q with the reply to the kernel. err is why, if more than errno is known.
func (q *request) replied(bytes int, errno syscall.Errno, err error) {
	if err != nil {
		q.failed(err)
	}
	attrs := make([]attribute.KeyValue, 0, 4)
	if bytes > 0 {
		attrs = append(attrs, attribute.Int("engramfs.bytes", bytes))
	}
	if errno != 0 {
		name := unix.ErrnoName(errno)
		attrs = append(attrs, attribute.String("engramfs.errno", name))
		if !q.faulty.Load() {
			attrs = append(attrs, errorType(name))
		}
		if errno == syscall.EIO {
			q.span.SetStatus(codes.Error, "")
		}
	}
	q.end(attrs...)
}

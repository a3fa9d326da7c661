package fuse

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

// operation is a request being served. Every method of fileSystem begins with
//
//	op := fs.begin("name", header, &status)
//	defer op.end(&status)
type operation struct {
	fs     *fileSystem
	name   string
	unique uint64    // the kernel's number of the request; 0: it awaits no answer
	start  time.Time // zero: nobody observes
	bytes  int       // read or written

	ctx   context.Context                                 // carries the origin; never canceled
	ended func(bytes int, errno syscall.Errno, err error) // nil: nobody follows it
	err   error                                           // why it fails, as far as status was told
}

// unanswered is the status of an operation that has not returned.
const unanswered = gofuse.Status(-1)

func (fs *fileSystem) begin(name string, header *gofuse.InHeader, status *gofuse.Status) operation {
	op := operation{fs: fs, name: name, ctx: fs.ctx}
	*status = unanswered
	if header != nil {
		op.unique = header.Unique
		if fs.o.Began != nil {
			op.ctx, op.ended = fs.o.Began(fs.ctx, name, store.Ino(header.NodeId), header.Unique)
		}
	}
	if fs.o.Observe != nil {
		op.start = time.Now()
	}
	return op
}

// context returns the context of an operation. While a lock is poisoned it
// carries a trace, which then tells whether the answer is made of recovered data.
func (op *operation) context() (context.Context, *store.Trace) {
	if !op.fs.store.AnyPoisoned() {
		return op.ctx, nil
	}
	return store.WithTrace(op.ctx)
}

// end must be deferred directly: it turns a panic into EIO, and tells those who
// observe and follow.
func (op *operation) end(status *gofuse.Status) {
	v := recover()
	switch {
	case v != nil:
		op.fs.panics.caught(op.fs, op.name, v)
		op.died(v)
		*status = gofuse.EIO
	case *status == unanswered: // runtime.Goexit
		op.fs.panics.caught(op.fs, op.name, "the goroutine exited")
		op.died(nil)
		*status = gofuse.EIO
		op.answer()
	}
	if !op.start.IsZero() {
		op.fs.o.Observe(op.name, time.Since(op.start), op.bytes, syscall.Errno(*status))
	}
	if op.ended != nil {
		op.ended(op.bytes, syscall.Errno(*status), op.err)
	}
}

// died keeps a panic for those who follow the operation. nil: the goroutine exits.
func (op *operation) died(v any) {
	if op.ended != nil {
		op.err = &store.PanicError{Op: op.name, Value: v, Stack: debug.Stack()}
	}
}

// answer tells the kernel that the request failed. The goroutine is about to end
// before the server can do so, and nothing stops that: the caller would hang for
// ever.
func (op *operation) answer() {
	if op.unique == 0 {
		return
	}
	failure := -int32(syscall.EIO)
	reply := binary.NativeEndian.AppendUint32(make([]byte, 0, 16), 16) // struct fuse_out_header
	reply = binary.NativeEndian.AppendUint32(reply, uint32(failure))
	reply = binary.NativeEndian.AppendUint64(reply, op.unique)
	if _, err := unix.Write(op.fs.device, reply); err != nil {
		op.fs.log.Error("a request of the mount stays without an answer", "op", op.name, "err", err)
	}
}

// panicLogInterval is how often a panic at one place is logged.
const panicLogInterval = time.Minute

// panicLog counts the panics that reached the adapter, and logs each place that
// panics with its stack, not more often than once in panicLogInterval.
type panicLog struct {
	count atomic.Uint64

	// mu protects the field below.
	mu     sync.Mutex
	logged map[string]time.Time // by place
}

// caught must be called by a deferred function that has recovered v.
func (p *panicLog) caught(fs *fileSystem, op string, v any) {
	p.count.Add(1)
	place := op + " " + panicPlace()
	now := time.Now()
	p.mu.Lock()
	if p.logged == nil {
		p.logged = make(map[string]time.Time)
	}
	last, seen := p.logged[place]
	quiet := seen && now.Sub(last) < panicLogInterval
	if !quiet {
		p.logged[place] = now
	}
	p.mu.Unlock()
	if quiet {
		return
	}
	stack := make([]byte, 64<<10)
	stack = stack[:runtime.Stack(stack, false)]
	fs.log.Error("operation of the mount panicked", "op", op, "panic", fmt.Sprint(v), "panics", p.count.Load(), "stack", string(stack))
}

// panicPlace returns the file and line that panicked.
func panicPlace() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	after := false
	for {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			after = true
		case after && !isRuntime(f.Function):
			return fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		if !more {
			return "?"
		}
	}
}

func isRuntime(function string) bool {
	return len(function) > 8 && function[:8] == "runtime."
}

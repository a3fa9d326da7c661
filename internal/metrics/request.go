package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// The doors, as labels have them.
const (
	doorWebDAV = "webdav"
	doorMount  = "fuse"
)

// otherOp stands for every operation that is on no list: what a client may send as
// a method is not bounded.
const otherOp = "other"

// davOps are the methods of WebDAV.
var davOps = []string{
	"OPTIONS", "GET", "HEAD", "PUT", "DELETE", "MKCOL", "COPY", "MOVE", "PROPFIND", "PROPPATCH", "LOCK", "UNLOCK",
}

// mountOps are the operations of the mount.
var mountOps = []string{
	"copy_file_range", "create", "fallocate", "flush", "forget", "fsync", "fsyncdir", "getattr", "getlk", "getxattr",
	"link", "listxattr", "lookup", "lseek", "mkdir", "mknod", "open", "opendir", "read", "readdir", "readdirplus",
	"readlink", "release", "releasedir", "removexattr", "rename", "rmdir", "setattr", "setlk", "setlkw", "setxattr",
	"statfs", "statx", "symlink", "tmpfile", "unlink", "unpin", "write",
}

// waits are operations that wait for other clients by design.
var waits = map[string]bool{"setlkw": true}

// Statuses of requests over HTTP. aborted is a connection cut by the server, or
// by a client in the middle of an answer.
const aborted = "aborted"

var classes = [...]string{aborted, "2xx", "3xx", "4xx", "5xx"}

// okStatus is the status of an operation of the mount without an error.
const okStatus = "ok"

// durationBuckets are the bounds of the histograms, in seconds: from an answer out
// of memory to a large upload.
var durationBuckets = []float64{25e-6, 100e-6, 250e-6, 1e-3, 2.5e-3, 10e-3, 25e-3, 100e-3, 250e-3, 1, 2.5, 10, 60}

// requests counts the requests of all doors.
type requests struct {
	// Immutable after newRequests.
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
	slow     *prometheus.CounterVec
	webdav   door
	mount    *door // nil: there is no mount
}

// door is where requests come in. What counting a request needs is looked up once.
type door struct {
	name      string
	ops       map[string]*operation
	other     *operation
	in, out   prometheus.Counter
	slowAfter time.Duration
	log       *slog.Logger
}

// operation is what is counted of one operation of a door.
type operation struct {
	name     string
	duration prometheus.Observer
	ok       prometheus.Counter               // of the mount
	classes  [len(classes)]prometheus.Counter // of HTTP
	failed   func(status string) prometheus.Counter
	slow     prometheus.Counter
	waits    bool
	logged   atomic.Int64 // when it was last logged as slow, in ns
	unlogged atomic.Int64 // slow ones since then
}

func newRequests(r prometheus.Registerer, o Options) *requests {
	q := &requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "engramfs_requests_total",
			Help: "Requests served. status is the class of the HTTP status or the name of the errno; the kernel's direct access to files is not seen.",
		}, []string{"door", "op", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "engramfs_request_duration_seconds", Help: "How long requests took.", Buckets: durationBuckets,
		}, []string{"door", "op"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "engramfs_request_bytes_total", Help: "Bytes of content that clients sent (in) and got (out).",
		}, []string{"door", "direction"}),
		slow: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "engramfs_slow_operations_total", Help: "Requests that took longer than slow-after, not counting a second for each MiB.",
		}, []string{"door", "op"}),
	}
	r.MustRegister(q.total, q.duration, q.bytes, q.slow)
	q.webdav = q.newDoor(doorWebDAV, davOps, o)
	if o.MountPanics != nil {
		d := q.newDoor(doorMount, mountOps, o)
		q.mount = &d
	}
	return q
}

func (q *requests) newDoor(name string, ops []string, o Options) door {
	d := door{
		name: name, ops: make(map[string]*operation, len(ops)), slowAfter: o.SlowAfter, log: o.Logger,
		in: q.bytes.WithLabelValues(name, "in"), out: q.bytes.WithLabelValues(name, "out"),
	}
	for _, op := range ops {
		d.ops[op] = q.newOperation(name, op)
	}
	d.other = q.newOperation(name, otherOp)
	return d
}

func (q *requests) newOperation(door, op string) *operation {
	x := &operation{
		name: op, duration: q.duration.WithLabelValues(door, op), slow: q.slow.WithLabelValues(door, op), waits: waits[op],
		failed: func(status string) prometheus.Counter { return q.total.WithLabelValues(door, op, status) },
	}
	if door == doorMount {
		x.ok = q.total.WithLabelValues(door, op, okStatus)
		x.failed("EIO") // there from the start: alerts look at it
		return x
	}
	for i, class := range classes {
		x.classes[i] = q.total.WithLabelValues(door, op, class)
	}
	return x
}

func (d *door) operation(name string) *operation {
	if op := d.ops[name]; op != nil {
		return op
	}
	return d.other
}

// Mount returns what the mount is to tell of every operation: see
// fuse.Options.Observe. Without a mount it is nil.
func (m *Metrics) Mount() func(op string, took time.Duration, bytes int, errno syscall.Errno) {
	d := m.requests.mount
	if d == nil {
		return nil
	}
	return func(name string, took time.Duration, bytes int, errno syscall.Errno) {
		op := d.operation(name)
		op.duration.Observe(took.Seconds())
		if errno == 0 {
			op.ok.Inc()
		} else {
			op.failed(errnoName(errno)).Inc()
		}
		if bytes > 0 {
			if name == "write" {
				d.in.Add(float64(bytes))
			} else {
				d.out.Add(float64(bytes))
			}
		}
		if d.isSlow(op, took, int64(bytes)) {
			d.slow(op, took, slog.Int("bytes", bytes), slog.String("errno", errnoName(errno)))
		}
	}
}

// errnoName returns a name such as ENOENT, and okStatus for none. What Linux does
// not know has one name, so that there are not too many.
func errnoName(e syscall.Errno) string {
	if e == 0 {
		return okStatus
	}
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return otherOp
}

// transferRate is what a client must at least take or send, in bytes per second,
// before its own slowness counts as the server's.
const transferRate = 1 << 20

func (d *door) isSlow(op *operation, took time.Duration, bytes int64) bool {
	if took <= d.slowAfter || op.waits {
		return false
	}
	return took > d.slowAfter+time.Duration(bytes)*(time.Second/transferRate)
}

// slowLogInterval is how often a slow operation of one kind is logged.
const slowLogInterval = 10 * time.Second

func (d *door) slow(op *operation, took time.Duration, facts ...slog.Attr) {
	op.slow.Inc()
	now := time.Now().UnixNano()
	last := op.logged.Load()
	if now-last < int64(slowLogInterval) || !op.logged.CompareAndSwap(last, now) {
		op.unlogged.Add(1)
		return
	}
	facts = append(facts, slog.String("door", d.name), slog.String("op", op.name), slog.Duration("took", took),
		slog.Int64("unlogged", op.unlogged.Swap(0)))
	d.log.LogAttrs(context.Background(), slog.LevelWarn, "slow operation", facts...)
}

// classOf returns the index in classes of an HTTP status.
func classOf(code int) int {
	if i := code/100 - 1; i > 0 && i < len(classes) {
		return i
	}
	return len(classes) - 1 // not a status that there is
}

// WebDAV counts the requests that next serves.
func (m *Metrics) WebDAV(next http.Handler) http.Handler {
	d := &m.requests.webdav
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		x := &exchange{ResponseWriter: w}
		if r.Body != nil && r.Body != http.NoBody {
			x.body.ReadCloser = r.Body
			// In a copy: net/http looks for its own body in its own request.
			r = r.WithContext(r.Context())
			r.Body = &x.body
		}
		done := false
		defer func() { d.served(r, x, time.Since(begin), done) }()
		next.ServeHTTP(x, r)
		done = true // not reached when next panics or ends its goroutine
	})
}

// served counts a request over HTTP.
func (d *door) served(r *http.Request, x *exchange, took time.Duration, done bool) {
	op := d.operation(r.Method)
	class := 0
	if done {
		class = classOf(max(x.code, http.StatusOK))
	}
	op.classes[class].Inc()
	op.duration.Observe(took.Seconds())
	if x.body.n > 0 {
		d.in.Add(float64(x.body.n))
	}
	if x.out > 0 {
		d.out.Add(float64(x.out))
	}
	if d.isSlow(op, took, x.body.n+x.out) {
		d.slow(op, took, slog.String("path", r.URL.Path), slog.Int("status", x.code), slog.Int64("bytes", x.body.n+x.out))
	}
}

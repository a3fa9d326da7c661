package metrics

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"slices"
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

// The statuses of the mount are the numbers of its errnos, and one more for what
// Linux does not know.
const (
	okStatus    = "ok" // of no errno
	otherErrno  = 255  // beyond all that there are
	statusCount = otherErrno + 1
)

// durationBuckets are the bounds of the histograms, in seconds: from an answer out
// of memory to a large upload.
var durationBuckets = [...]float64{25e-6, 100e-6, 250e-6, 1e-3, 2.5e-3, 10e-3, 25e-3, 100e-3, 250e-3, 1, 2.5, 10, 60}

// durationLimits are the same as durations.
var durationLimits = func() (limits [len(durationBuckets)]time.Duration) {
	for i, s := range durationBuckets {
		limits[i] = time.Duration(math.Round(s * 1e9))
	}
	return limits
}()

// requests counts the requests of all doors, and shows them.
type requests struct {
	// Immutable after newRequests.
	doors                        []*door
	webdav                       *door
	mount                        *door // nil: there is no mount
	total, duration, bytes, slow *prometheus.Desc
}

var _ prometheus.Collector = (*requests)(nil)

// door is where requests come in.
type door struct {
	// Immutable after newDoor.
	name      string
	ops       []*operation // other is the last
	byName    map[string]*operation
	other     *operation
	status    func(i int) string // name of a status
	always    func(i int) bool   // it has a series from the start: alerts look at it
	failure   int                // the status that is the server's fault
	slowAfter time.Duration
	log       *slog.Logger
}

// operation is what is counted of one operation of a door. It lies together, without
// pointers: a request with a vector of the client library for each of these figures
// would pay for as many cache misses.
type operation struct {
	// Immutable after newDoor.
	name  string
	waits bool

	nanos    atomic.Uint64                           // that they took in all
	in, out  atomic.Uint64                           // bytes
	done     [statusCount]atomic.Uint64              // by status
	took     [len(durationBuckets) + 1]atomic.Uint64 // by bucket; the last is beyond all
	slow     atomic.Uint64
	logged   atomic.Int64 // when it was last logged as slow, in ns
	unlogged atomic.Int64 // slow ones since then
}

// count counts one request.
func (o *operation) count(status int, took time.Duration, in, out int64) {
	bucket := 0
	for bucket < len(durationLimits) && took > durationLimits[bucket] {
		bucket++
	}
	o.nanos.Add(uint64(max(took, 0)))
	o.done[status].Add(1)
	o.took[bucket].Add(1)
	if in > 0 {
		o.in.Add(uint64(in))
	}
	if out > 0 {
		o.out.Add(uint64(out))
	}
}

// latency returns how many took at most each of the durationBuckets, and how many
// there are.
func (o *operation) latency() (cumulative [len(durationBuckets)]uint64, n uint64) {
	for i := range o.took {
		n += o.took[i].Load()
		if i < len(cumulative) {
			cumulative[i] = n
		}
	}
	return cumulative, n
}

func newRequests(o Options) *requests {
	q := &requests{
		total: desc("requests_total", "Requests served. status is the class of the HTTP status or the name of the errno; the kernel's direct access to files is not seen.",
			"door", "op", "status"),
		duration: desc("request_duration_seconds", "How long requests took.", "door", "op"),
		bytes:    desc("request_bytes_total", "Bytes of content that clients sent (in) and got (out).", "door", "direction"),
		slow:     desc("slow_operations_total", "Requests that took longer than slow-after, not counting a second for each MiB.", "door", "op"),
	}
	q.webdav = newDoor(doorWebDAV, davOps, o)
	q.webdav.status = func(i int) string { return classes[i] }
	q.webdav.always = func(i int) bool { return i < len(classes) }
	q.webdav.failure = len(classes) - 1
	q.doors = []*door{q.webdav}
	if o.MountPanics != nil {
		q.mount = newDoor(doorMount, mountOps, o)
		q.mount.status = func(i int) string { return errnoName(syscall.Errno(i)) }
		q.mount.always = func(i int) bool { return i == 0 || i == int(syscall.EIO) }
		q.mount.failure = int(syscall.EIO)
		q.doors = append(q.doors, q.mount)
	}
	return q
}

func newDoor(name string, ops []string, o Options) *door {
	d := &door{name: name, byName: make(map[string]*operation, len(ops)), slowAfter: o.SlowAfter, log: o.Logger}
	for _, op := range append(slices.Clone(ops), otherOp) {
		d.other = &operation{name: op, waits: waits[op]}
		d.byName[op] = d.other
		d.ops = append(d.ops, d.other)
	}
	return d
}

// Describe implements prometheus.Collector.
func (q *requests) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{q.total, q.duration, q.bytes, q.slow} {
		out <- d
	}
}

// Collect implements prometheus.Collector. A request that is counted at the same time
// may be in one figure and not yet in another.
func (q *requests) Collect(out chan<- prometheus.Metric) {
	for _, d := range q.doors {
		var in, sent uint64
		for _, op := range d.ops {
			for i := range op.done {
				if n := op.done[i].Load(); n > 0 || d.always(i) {
					count(out, q.total, n, d.name, op.name, d.status(i))
				}
			}
			cumulative, n := op.latency()
			buckets := make(map[float64]uint64, len(cumulative))
			for i, c := range cumulative {
				buckets[durationBuckets[i]] = c
			}
			out <- prometheus.MustNewConstHistogram(q.duration, n, float64(op.nanos.Load())/1e9, buckets, d.name, op.name)
			count(out, q.slow, op.slow.Load(), d.name, op.name)
			in, sent = in+op.in.Load(), sent+op.out.Load()
		}
		count(out, q.bytes, in, d.name, "in")
		count(out, q.bytes, sent, d.name, "out")
	}
}

func (d *door) operation(name string) *operation {
	if op := d.byName[name]; op != nil {
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
		if name == "write" {
			op.count(statusOf(errno), took, int64(bytes), 0)
		} else {
			op.count(statusOf(errno), took, 0, int64(bytes))
		}
		if d.isSlow(op, took, int64(bytes)) {
			d.slow(op, took, slog.Int("bytes", bytes), slog.String("errno", errnoName(errno)))
		}
	}
}

// statusOf returns the status of an errno.
func statusOf(e syscall.Errno) int {
	if e >= otherErrno || errnoName(e) == otherOp {
		return otherErrno
	}
	return int(e)
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
	op.slow.Add(1)
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
	d := m.requests.webdav
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
	op.count(class, took, x.body.n, x.out)
	if d.isSlow(op, took, x.body.n+x.out) {
		d.slow(op, took, slog.String("path", r.URL.Path), slog.Int("status", x.code), slog.Int64("bytes", x.body.n+x.out))
	}
}

package secondcopy

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store/meta"
)

// Options set up a copy.
type Options struct {
	Dir string // the copy's folder; made if its parent exists

	// StateKey is a key of the engine that gets a value which no engine has had before at
	// the beginning of every run, and again at its end, whether it keeps a copy or not.
	StateKey []byte

	// Interval is how often the log is written and synced. 0: a second.
	Interval time.Duration
	// Buffer bounds the updates kept in memory until they are written, in bytes.
	// An update that does not fit is not copied, and a new snapshot is taken. 0: 16 MiB.
	Buffer int
	// CompactFrom is the size of the logs, in bytes, from which a new snapshot is
	// taken, once they are also larger than the last one. 0: 64 MiB.
	CompactFrom int64
	// Retry is how long a failed copy waits before it begins anew, at first: while it is
	// the engine that cannot be read, twice as long each time, up to an hour. 0: 30 s.
	Retry time.Duration

	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

func (o Options) withDefaults() Options {
	if o.Interval == 0 {
		o.Interval = time.Second
	}
	if o.Buffer == 0 {
		o.Buffer = 16 << 20
	}
	if o.CompactFrom == 0 {
		o.CompactFrom = 64 << 20
	}
	if o.Retry == 0 {
		o.Retry = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// State is what a copy is good for.
type State string

// The states of a copy.
const (
	// Current: the copy has everything up to Status.Instant.
	Current State = "current"
	// Behind: updates are missing in it, and a snapshot that has them is being taken.
	Behind State = "behind"
	// Failed: it cannot be written. It is tried again.
	Failed State = "failed"
)

// Status describes a copy.
type Status struct {
	Dir   string
	State State
	// Instant is the time up to which the copy is known to have everything. Zero: there
	// is none.
	Instant  time.Time
	Snapshot time.Time // of the newest snapshot of this run; zero: none was taken yet
	LogBytes int64     // of the logs since then
	Err      error     // why it failed
}

// Engine is a meta.Engine with a second copy.
type Engine struct {
	meta.Engine // the truth

	o      Options
	run    uint64
	w      *writer
	cancel context.CancelFunc
	ctx    context.Context
	done   sync.WaitGroup
	kick   chan struct{} // the buffer fills
	snap   chan struct{} // a snapshot is needed
	rotate chan chan rotated
	once   sync.Once
	end    error

	// updating counts the updates that may be applied and not be in buf yet.
	updating atomic.Int64

	// mu protects the fields below.
	mu       sync.Mutex
	buf      []byte // frames that are not written yet
	seq      uint64 // of the next frame
	lost     bool   // updates are missing since the last snapshot, and are not logged until the next
	stale    bool   // updates of an earlier run may be missing until a snapshot is there
	instant  time.Time
	err      error
	logBytes int64
	snapAt   time.Time
	snapSize int64
}

var _ meta.Engine = (*Engine)(nil)

// Open begins to copy what is written to engine, which it takes over: Close closes
// both. It does not fail: a folder that cannot be written is a Failed copy.
func Open(engine meta.Engine, o Options) *Engine {
	e := &Engine{
		Engine: engine, o: o.withDefaults(), run: rand.Uint64(), seq: 1,
		kick: make(chan struct{}, 1), snap: make(chan struct{}, 1), rotate: make(chan chan rotated),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.w = &writer{e: e}
	e.begin()
	e.done.Go(func() { e.w.loop(e.ctx) })
	e.done.Go(func() { e.snapshots(e.ctx) })
	return e
}

// begin opens the first log of the run. The copy goes on from where the last run
// left it, or needs a snapshot.
func (e *Engine) begin() {
	state, err := e.state()
	joined := false
	if err == nil {
		joined, err = e.w.open(state)
	}
	if err != nil {
		e.w.fail(err)
		return
	}
	if joined {
		e.instant = e.o.Now()
		return
	}
	e.stale = true
	e.askSnapshot()
}

// state returns the value of Options.StateKey.
func (e *Engine) state() (v []byte, err error) {
	defer contain(&err)
	v, err = e.Engine.Get(e.o.StateKey)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

// Update implements meta.Engine.
func (e *Engine) Update(fn func(meta.Txn) error) error {
	t := recorders.Get().(*recorder)
	e.updating.Add(1)
	defer func() {
		e.updating.Add(-1)
		t.Txn = nil
		if cap(t.ops) <= 1<<20 {
			recorders.Put(t)
		}
	}()
	err := e.Engine.Update(func(tx meta.Txn) error {
		t.Txn, t.ops = tx, t.ops[:0]
		return fn(t)
	})
	if err == nil && len(t.ops) > 0 {
		e.append(t.ops)
	}
	return err
}

// append adds an update to the log.
func (e *Engine) append(ops []byte) {
	sum := crc32.Checksum(ops, castagnoli)
	e.mu.Lock()
	seq := e.seq
	e.seq++
	full := len(e.buf)+frameSize+len(ops) > e.o.Buffer
	if e.lost || full || len(ops) > maxPayload {
		behind := !e.lost && e.err == nil
		e.lost = true
		e.mu.Unlock()
		if behind {
			e.o.Logger.Warn("second copy is behind", "reason", "more was written than its disk takes", "dir", e.o.Dir)
			e.askSnapshot()
		}
		return
	}
	e.buf = appendFrame(e.buf, frameBatch, seq, ops, sum)
	half := len(e.buf) > e.o.Buffer/4
	e.mu.Unlock()
	if half {
		signal(e.kick)
	}
}

func (e *Engine) askSnapshot() { signal(e.snap) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Status returns what the copy is good for now.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := Status{
		Dir: e.o.Dir, State: Current, Instant: e.instant, Snapshot: e.snapAt, LogBytes: e.logBytes, Err: e.err,
	}
	switch {
	case e.err != nil:
		st.State = Failed
	case e.lost || e.stale:
		st.State = Behind
	}
	return st
}

// Close writes what is left, closes the engine and returns its error. What is wrong
// with the copy is in Status.
func (e *Engine) Close() error {
	e.once.Do(func() { e.end = e.close() })
	return e.end
}

func (e *Engine) close() error {
	state, serr := e.state()
	e.cancel()
	e.done.Wait() // the writer has written and synced all there is
	err := e.Engine.Close()
	if err == nil && serr == nil && e.whole() {
		// Only now is it true that the engine has what the log has.
		if err := e.markEnd(state); err != nil {
			e.o.Logger.Error("second copy not closed", "dir", e.o.Dir, "err", err)
		}
	}
	e.w.close()
	return err
}

// whole reports whether the log has all that the engine has, which is closed. What came
// in after the writer's end is not in it.
func (e *Engine) whole() bool {
	if e.updating.Load() > 0 || e.Status().State != Current {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.buf) == 0
}

// nextSeq returns the number of the next frame.
func (e *Engine) nextSeq() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seq
}

// recorder is a meta.Txn that also writes down what it does.
type recorder struct {
	meta.Txn
	ops []byte
}

var recorders = sync.Pool{New: func() any { return &recorder{} }}

// Put implements meta.Txn.
func (t *recorder) Put(key, value []byte) {
	t.Txn.Put(key, value)
	t.ops = appendOp(t.ops, opPut, key, value)
}

// Delete implements meta.Txn.
func (t *recorder) Delete(key []byte) {
	t.Txn.Delete(key)
	t.ops = appendOp(t.ops, opDelete, key, nil)
}

// DeleteRange implements meta.Txn.
func (t *recorder) DeleteRange(lo, hi []byte) {
	t.Txn.DeleteRange(lo, hi)
	t.ops = appendOp(t.ops, opDeleteRange, lo, hi)
}

// Add implements meta.Txn.
func (t *recorder) Add(key []byte, delta int64) {
	t.Txn.Add(key, delta)
	t.ops = appendOp(t.ops, opAdd, key, meta.EncodeCounter(delta))
}

func encodeTime(t time.Time) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(t.UnixNano()))
}

func decodeTime(b []byte) (time.Time, bool) {
	if len(b) < 8 {
		return time.Time{}, false
	}
	return time.Unix(0, int64(binary.LittleEndian.Uint64(b))), true
}

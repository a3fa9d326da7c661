// Package pebble is the embedded metadata engine: a meta.Engine on
// github.com/cockroachdb/pebble, a log-structured merge tree in pure Go.
//
// Updates are committed without waiting, so a caller holds its locks only until
// its batch is visible; Sync then waits outside the locks, and any number of
// waiting callers share one fdatasync of the write-ahead log.
//
// A failed write makes the engine read-only; see fence for what that takes. The
// process is never ended. A flipped byte is detected by checksums: a
// *meta.CorruptError names the file. If that is a log, OpenCut opens what was written
// before; for the rest there is no repair but a checkpoint. What was synced of the newest
// log is known, see seal: it does not pass for the torn end that a crash leaves.
package pebble

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// DB is an open engine.
type DB struct {
	// Immutable after Open.
	db      *pebbledb.DB
	dir     string
	disk    vfs.FS // not fenced
	fence   *fence
	logger  *logger
	events  *events
	log     *slog.Logger
	closers []io.Closer // closed after db, last first

	// users counts the calls that are running, plus closing once Close has begun.
	users    atomic.Int64
	idleOnce sync.Once
	idle     chan struct{} // closed when Close has begun and no call is running

	// Together these tell Sync whether there is anything to make durable: an
	// update counts as begun before its batch can be visible to anyone and as
	// ended when the batch is in the log.
	begun, ended atomic.Int64
	// synced is the value of ended before the last successful sync began. If it
	// equals begun, every batch there is was in the log when that sync began.
	// Never decreases.
	synced atomic.Int64

	syncs, skipped atomic.Int64
}

var _ meta.Engine = (*DB)(nil)

const closing = 1 << 62

// enter registers a running call; exit must follow unless it returns
// meta.ErrClosed.
func (d *DB) enter() error {
	if d.users.Add(1) >= closing {
		d.exit()
		return meta.ErrClosed
	}
	return nil
}

func (d *DB) exit() {
	if d.users.Add(-1) == closing {
		d.idleOnce.Do(func() { close(d.idle) })
	}
}

// onFail is called once, by the fence, when the engine becomes read-only.
func (d *DB) onFail(cause error) {
	d.log.Error("metadata engine is read-only: a write failed", "error", cause, "dir", d.dir)
}

// Failed implements meta.Engine.
func (d *DB) Failed() error {
	if cause := d.fence.failed(); cause != nil {
		return fmt.Errorf("%w: %w", meta.ErrReadOnly, cause)
	}
	return nil
}

// Update implements meta.Engine.
func (d *DB) Update(fn func(meta.Txn) error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.exit()
	if err := d.Failed(); err != nil {
		return err
	}
	b := d.db.NewBatch()
	defer b.Close()
	t := txn{reader: reader{r: d.db, dir: d.dir}, batch: b}
	if err := fn(&t); err != nil {
		return err
	}
	if t.err != nil {
		return fmt.Errorf("build metadata batch: %w", t.err)
	}
	if b.Empty() {
		return nil
	}
	return d.commit(b)
}

// commit makes the batch visible. Pebble returns nil for a commit that went
// wrong as well, having called Fatalf.
func (d *DB) commit(b *pebbledb.Batch) error {
	d.begun.Add(1)
	defer d.ended.Add(1)
	if err := b.Commit(pebbledb.NoSync); err != nil {
		return fmt.Errorf("commit metadata batch: %w", err)
	}
	if d.logger.fatals.Load() > 0 {
		return d.Failed()
	}
	return nil
}

// Sync implements meta.Engine.
func (d *DB) Sync() error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.exit()
	return d.sync()
}

func (d *DB) sync() error {
	d.syncs.Add(1)
	if err := d.Failed(); err != nil {
		return err
	}
	ended := d.ended.Load()
	if d.begun.Load() == d.synced.Load() {
		d.skipped.Add(1)
		return nil
	}
	// A record without data: its sync covers every record before it in this
	// WAL, and a WAL is synced when the next one is begun.
	if err := d.db.LogData(nil, pebbledb.Sync); err != nil {
		return fmt.Errorf("sync metadata log: %w", err)
	}
	if err := d.Failed(); err != nil { // the fence hides a failed sync from Pebble
		return err
	}
	for old := d.synced.Load(); old < ended; old = d.synced.Load() {
		if d.synced.CompareAndSwap(old, ended) {
			break
		}
	}
	return nil
}

// Checkpoint implements meta.Engine. Tables are hard-linked if dir is on the
// same file system; a checkpoint that was cut short is not taken for a store.
func (d *DB) Checkpoint(dir string) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.exit()
	if err := d.Failed(); err != nil {
		return err
	}
	if d.fence.inside(dir) {
		return fmt.Errorf("checkpoint to %s: inside the store's own directory", dir)
	}
	err := d.db.Checkpoint(dir, pebbledb.WithFlushedWAL())
	if err == nil {
		err = sealCheckpoint(d.disk, dir)
	}
	if err == nil {
		err = markFormat(d.disk, dir)
	}
	if err != nil {
		return fmt.Errorf("checkpoint to %s: %w", dir, err)
	}
	return d.Failed()
}

// Close implements meta.Engine.
func (d *DB) Close() error {
	for n := d.users.Load(); ; n = d.users.Load() {
		if n >= closing {
			return nil // closed, or being closed by another call
		}
		if d.users.CompareAndSwap(n, n+closing+1) {
			break
		}
	}
	d.exit()
	<-d.idle

	var err error
	if d.Failed() == nil {
		err = d.db.Flush() // so that the next start has no WAL to replay
	}
	err = errors.Join(err, d.closePebble())
	d.fence.closeSeals()
	err = errors.Join(err, closeAll(d.closers))
	if failed := d.Failed(); failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("close metadata engine: %w", err)
	}
	return nil
}

// closePebble closes Pebble, which panics if an earlier panic has left it with a file in
// use. The rest is closed all the same.
func (d *DB) closePebble() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
	}()
	return d.db.Close()
}

func panicError(v any) error { return fmt.Errorf("panic: %v\n%s", v, debug.Stack()) }

// Stats implements meta.Engine.
func (d *DB) Stats() meta.Stats {
	if d.enter() != nil {
		return meta.Stats{}
	}
	defer d.exit()
	m := d.db.Metrics()
	return meta.Stats{
		Engine:         fmt.Sprintf("pebble format %d", d.db.FormatMajorVersion()),
		DiskBytes:      int64(m.DiskSpaceUsage()),
		LogBytes:       int64(m.WAL.PhysicalSize + m.WAL.ObsoletePhysicalSize),
		CacheBytes:     m.BlockCache.Size,
		MemTableBytes:  int64(m.MemTable.Size + m.MemTable.ZombieSize),
		CacheHits:      m.BlockCache.Hits,
		CacheMisses:    m.BlockCache.Misses,
		Updates:        d.ended.Load(),
		Syncs:          d.syncs.Load(),
		SyncsSkipped:   d.skipped.Load(),
		Flushes:        m.Flush.Count,
		Compactions:    m.Compact.Count,
		CompactionDebt: int64(m.Compact.EstimatedDebt),
		ReadAmp:        m.ReadAmp(),
		WriteStalls:    d.events.stalls.Load(),
		Fsyncs:         d.fence.fsyncs.snapshot(),
	}
}

package secondcopy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"engramfs/store/meta"
)

// blockSize is what one checksum of a snapshot covers, and what bad bytes cost.
const blockSize = 128 << 10

// maxRetry is the longest time between two attempts to read an engine that cannot be
// read: each of them reads all that comes before the damage.
const maxRetry = time.Hour

var errUnread = errors.New("the engine cannot be read")

// snapshots takes a snapshot whenever one is asked for, until ctx ends.
func (e *Engine) snapshots(ctx context.Context) {
	for wait := e.o.Retry; ; {
		select {
		case <-ctx.Done():
			return
		case <-e.snap:
		}
		begin := e.o.Now()
		err := e.snapshot(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !errors.Is(err, errUnread) {
				wait = e.o.Retry
			}
			e.o.Logger.Error("second copy: no snapshot", "dir", e.o.Dir, "err", err, "retry", wait.String())
			e.retrySnapshot(ctx, wait)
			wait = min(2*wait, maxRetry)
		default:
			wait = e.o.Retry
			e.o.Logger.Info("second copy: snapshot taken", "dir", e.o.Dir, "bytes", e.snapshotSize(), "took", e.o.Now().Sub(begin).String())
		}
	}
}

// retrySnapshot waits before the next attempt. What cannot be read from the engine,
// too, may be readable later. Meanwhile a log that broke off is followed by another: what
// is applied is copied, whether there is a snapshot or not.
func (e *Engine) retrySnapshot(ctx context.Context, wait time.Duration) {
	over := time.After(wait)
	for {
		select {
		case <-ctx.Done():
			return
		case <-over:
			e.askSnapshot()
			return
		case <-time.After(e.o.Retry):
			if e.broken() {
				_, _ = e.newLog(ctx) // the state tells
			}
		}
	}
}

// broken reports whether updates are not being copied.
func (e *Engine) broken() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lost || e.err != nil
}

func (e *Engine) snapshotSize() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.snapSize
}

// snapshot writes one, and removes what it makes superfluous.
func (e *Engine) snapshot(ctx context.Context) error {
	n, err := e.newLog(ctx)
	if err != nil {
		return err
	}
	at := e.o.Now() // all that was applied before is in the snapshot
	size, err := e.writeSnapshot(ctx, n, at)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.snapSize, e.snapAt = size, at
	if !e.lost {
		e.stale = false
		if at.After(e.instant) {
			e.instant = at
		}
	}
	e.mu.Unlock()
	f, err := readFolder(e.o.Dir)
	if err == nil {
		err = f.prune()
	}
	if err != nil {
		e.o.Logger.Warn("second copy: old files not removed", "dir", e.o.Dir, "err", err)
	}
	return nil
}

// newLog has the writer begin a new log, and returns its number.
func (e *Engine) newLog(ctx context.Context) (uint64, error) {
	reply := make(chan rotated, 1)
	select {
	case e.rotate <- reply:
		r := <-reply
		return r.number, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// writeSnapshot writes what the engine holds now under the number n, and returns the
// size of the file. No file of that name is ever incomplete.
func (e *Engine) writeSnapshot(ctx context.Context, n uint64, at time.Time) (size int64, err error) {
	name := filepath.Join(e.o.Dir, snapshotName(n))
	file, err := os.OpenFile(name+tmpSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(name+tmpSuffix))
		}
	}()
	s := &snapshotWriter{ctx: ctx, out: bufio.NewWriterSize(file, 2*blockSize), began: time.Now()}
	h := header{kind: kindSnapshot, number: n, run: e.run}
	_, err = s.out.Write(h.encode())
	if err == nil {
		err = e.read(s)
	}
	if err == nil {
		err = s.end(footer{at: at, run: e.run, first: s.first})
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(name+tmpSuffix, name); err != nil {
		return 0, err
	}
	return s.size + headerSize, syncDir(e.o.Dir)
}

// read writes all that the engine holds. Every update that is in the log by then is in
// what it writes, and none that depends on one that is not: so a log that breaks off
// anywhere, as after a power cut, never puts back what the snapshot has newer.
func (e *Engine) read(s *snapshotWriter) (err error) {
	defer contain(&err)
	const tries = 1000 // a try takes microseconds
	for range tries {
		s.first = e.nextSeq()
		err = e.Engine.View(func(r meta.Reader) error {
			if e.nextSeq() != s.first {
				return errMoved
			}
			return s.all(r)
		})
		if !errors.Is(err, errMoved) {
			break
		}
	}
	return err
}

var errMoved = errors.New("there is no moment without an update")

// contain makes an error of a panic, such as Pebble's about some kinds of damage.
func contain(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("%w: panic: %v\n%s", errUnread, v, debug.Stack())
	}
}

// snapshotWriter writes the blocks of a snapshot.
type snapshotWriter struct {
	ctx    context.Context
	out    *bufio.Writer
	block  []byte
	frame  []byte
	blocks uint64
	first  uint64 // of the frames that it may lack
	size   int64
	began  time.Time // when the block was begun
	err    error
}

// all writes every key and value of r.
func (s *snapshotWriter) all(r meta.Reader) error {
	err := r.Scan(nil, nil, func(key, value []byte) bool {
		s.block = appendOp(s.block, opPut, key, value)
		if len(s.block) >= blockSize {
			s.flush()
		}
		return s.err == nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	if len(s.block) > 0 && s.err == nil {
		s.flush()
	}
	return s.err
}

// flush writes a block and then pauses as long as it took: at least half of the disk
// and of a processor is left to others.
func (s *snapshotWriter) flush() {
	s.blocks++
	s.put(frameBlock, s.block)
	s.block = s.block[:0]
	if s.err != nil {
		return
	}
	select {
	case <-s.ctx.Done():
		s.err = s.ctx.Err()
	case <-time.After(min(time.Since(s.began), 20*time.Millisecond)):
		s.began = time.Now()
	}
}

func (s *snapshotWriter) put(kind byte, payload []byte) {
	s.frame = appendFrame(s.frame[:0], kind, s.blocks, payload, crc32.Checksum(payload, castagnoli))
	n, err := s.out.Write(s.frame)
	s.size += int64(n)
	s.err = errors.Join(s.err, err)
}

// end says that the snapshot is complete.
func (s *snapshotWriter) end(f footer) error {
	s.blocks++
	s.put(frameFooter, f.encode())
	return errors.Join(s.err, s.out.Flush())
}

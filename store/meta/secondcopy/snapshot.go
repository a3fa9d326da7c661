package secondcopy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"engramfs/store/meta"
)

// blockSize is what one checksum of a snapshot covers, and what bad bytes cost.
const blockSize = 128 << 10

// snapshots takes a snapshot whenever one is asked for, until ctx ends.
func (e *Engine) snapshots(ctx context.Context) {
	for {
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
			e.o.Logger.Error("second copy: no snapshot", "dir", e.o.Dir, "err", err, "retry", e.o.Retry.String())
			e.retrySnapshot(ctx)
		default:
			e.o.Logger.Info("second copy: snapshot taken", "dir", e.o.Dir, "bytes", e.snapshotSize(), "took", e.o.Now().Sub(begin).String())
		}
	}
}

// retrySnapshot waits before the next attempt. What cannot be read from the engine,
// too, may be readable later.
func (e *Engine) retrySnapshot(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(e.o.Retry):
		e.askSnapshot()
	}
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
		err = e.Engine.View(func(r meta.Reader) error { return s.all(r) })
	}
	if err == nil {
		err = s.footer(at)
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(name+tmpSuffix, name); err != nil {
		return 0, err
	}
	return s.size + headerSize, syncDir(e.o.Dir)
}

// snapshotWriter writes the blocks of a snapshot.
type snapshotWriter struct {
	ctx    context.Context
	out    *bufio.Writer
	block  []byte
	frame  []byte
	blocks uint64
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
		return fmt.Errorf("read the engine: %w", err)
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

// footer says that the snapshot is complete.
func (s *snapshotWriter) footer(at time.Time) error {
	payload := binary.LittleEndian.AppendUint64(encodeTime(at), s.blocks)
	s.blocks++
	s.put(frameFooter, payload)
	return errors.Join(s.err, s.out.Flush())
}

package secondcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// writer writes the log. Its fields belong to its goroutine, and after that has
// ended to Close.
type writer struct {
	e      *Engine
	lock   *os.File // of the folder; nil: it is not locked
	file   *os.File // nil: the copy has failed, or was lost
	number uint64   // of the log, or of the last one there was
	spare  []byte   // the buffer that is not in use

	unsynced  bool       // something was written since the last sync began
	unstamped bool       // something was written since the last stamp
	syncing   chan error // of a sync that is running; nil: none is
	stamp     time.Time  // what that sync proves
	failedAt  time.Time
}

// rotated is the answer to a request for a new log.
type rotated struct {
	number uint64
	err    error
}

// maxLogs is how many logs, of as many runs, a start is ready to read.
const maxLogs = 200

// open begins the first log of a run. It reports whether the log before has all
// that the engine has; state is the engine's value of Options.StateKey.
func (w *writer) open(state []byte) (joined bool, err error) {
	e := w.e
	f, err := w.enter()
	if err != nil {
		return false, err
	}
	w.number = f.last()
	if len(f.logs) > 0 && f.logs[len(f.logs)-1] == w.number {
		t, err := readTail(e.o.Dir, w.number)
		joined = err == nil && t.closed && len(state) > 0 && bytes.Equal(t.state, state)
		e.instant = t.stamp
		if now := e.o.Now(); t.stamp.After(now) {
			e.instant = now // the clock was set back: later proofs would look older than this one
		}
	}
	var ok bool
	e.snapSize, e.logBytes, ok = f.chain()
	joined = joined && ok && len(f.logs) < maxLogs
	return joined, w.create(1, joined)
}

// enter makes the folder and locks it, unless that is done, and lists what is in it.
func (w *writer) enter() (folder, error) {
	dir := w.e.o.Dir
	err := makeFolder(dir)
	if err == nil && w.lock == nil {
		w.lock, err = lockFolder(dir)
	}
	if err != nil {
		return folder{}, fmt.Errorf("folder of the second copy: %w", err)
	}
	f, err := readFolder(dir)
	for _, name := range f.cutOff {
		_ = os.Remove(filepath.Join(dir, name)) // it takes room, and no more
	}
	return f, err
}

// create begins the next log, durably. first is the number of its first frame.
func (w *writer) create(first uint64, joined bool) error {
	w.number++
	name := filepath.Join(w.e.o.Dir, logName(w.number))
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, filePerm)
	if err != nil {
		return err
	}
	h := header{kind: kindLog, number: w.number, run: w.e.run, first: first, joined: joined}
	_, err = file.Write(h.encode())
	if err = errors.Join(err, file.Sync(), syncDir(w.e.o.Dir)); err != nil {
		return errors.Join(err, file.Close(), os.Remove(name))
	}
	w.file = file
	return nil
}

// loop writes until ctx ends, and then all that is left.
func (w *writer) loop(ctx context.Context) {
	tick := time.NewTicker(w.e.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			w.finish()
			return
		case <-w.e.kick:
			w.write(false)
		case <-tick.C:
			w.tick()
		case err := <-w.syncing:
			w.synced(err)
		case reply := <-w.e.rotate:
			n, err := w.rotate()
			reply <- rotated{n, err}
		}
	}
}

// take returns the frames to be written, with a stamp if the copy has everything.
func (w *writer) take(stamp bool) (b []byte, at time.Time) {
	e := w.e
	e.mu.Lock()
	defer e.mu.Unlock()
	b, e.buf = e.buf, w.spare[:0]
	w.spare = nil
	if !stamp || e.lost || e.stale {
		w.unstamped = w.unstamped || len(b) > 0
		return b, time.Time{}
	}
	at = e.o.Now()
	if len(b) > 0 || w.unstamped {
		w.unstamped = false
		payload := encodeTime(at)
		b = appendFrame(b, frameStamp, e.seq, payload, crc32.Checksum(payload, castagnoli))
		e.seq++
	}
	return b, at
}

// write hands the buffer to the kernel.
func (w *writer) write(stamp bool) (at time.Time) {
	b, at := w.take(stamp)
	if w.file != nil && len(b) > 0 {
		w.unsynced = true
		n, err := w.file.Write(b)
		w.e.mu.Lock()
		w.e.logBytes += int64(n)
		w.e.mu.Unlock()
		if err != nil {
			w.fail(err)
		}
	}
	if cap(b) <= w.e.o.Buffer/2 {
		w.spare = b
	}
	return at
}

// tick makes durable what was written, and asks for what is due.
func (w *writer) tick() {
	if w.file == nil {
		if w.e.o.Now().Sub(w.failedAt) >= w.e.o.Retry {
			w.failedAt = w.e.o.Now()
			w.e.askSnapshot()
		}
		return
	}
	if w.syncing != nil {
		return // it takes longer than the interval
	}
	at := w.write(true)
	switch {
	case w.file == nil:
	case w.unsynced:
		w.sync(at)
	default:
		w.e.proven(at)
	}
	w.e.mu.Lock()
	due := w.e.logBytes > max(w.e.o.CompactFrom, w.e.snapSize)
	w.e.mu.Unlock()
	if due {
		w.e.askSnapshot()
	}
}

// sync makes the log durable on a goroutine of its own: the disk may be slow, and
// the buffer is not to fill meanwhile.
func (w *writer) sync(at time.Time) {
	w.unsynced, w.stamp = false, at
	done, file := make(chan error, 1), w.file
	w.syncing = done
	go func() { done <- fdatasync(file) }()
}

// synced takes the result of a sync. A failed one is not tried again: the log is given up.
func (w *writer) synced(err error) {
	w.syncing = nil
	if err != nil {
		w.fail(err)
		return
	}
	w.e.proven(w.stamp)
}

// settle waits for a sync that is running.
func (w *writer) settle() {
	if w.syncing != nil {
		w.synced(<-w.syncing)
	}
}

// rotate begins a new log and returns its number. What was applied before is in the
// logs before it, or was lost.
func (w *writer) rotate() (uint64, error) {
	w.settle()
	return w.next(w.write(true))
}

// next begins a new log after the write that was stamped with at.
func (w *writer) next(at time.Time) (uint64, error) {
	e := w.e
	e.mu.Lock()
	if e.lost {
		e.buf = e.buf[:0] // what follows it is missing: a log has no gap
	}
	// Frames that came since the write go to the new log, which has them in order.
	first, joined := e.seq, !e.lost && e.err == nil
	if len(e.buf) > 0 {
		first = frameSeq(e.buf)
	}
	e.lost = false
	e.stale = e.stale || !joined
	e.mu.Unlock()
	err := w.retire()
	if err == nil {
		var f folder
		f, err = w.enter()
		w.number = max(w.number, f.last())
	}
	if err == nil {
		err = w.create(first, joined)
	}
	if err != nil {
		w.fail(err)
		return 0, err
	}
	e.mu.Lock()
	e.err, e.logBytes = nil, 0
	e.mu.Unlock()
	e.proven(at)
	return w.number, nil
}

// retire makes the log durable and closes it.
func (w *writer) retire() error {
	if w.file == nil {
		return nil
	}
	err := errors.Join(fdatasync(w.file), w.file.Close())
	w.file, w.unsynced = nil, false
	return err
}

// finish writes what is left at the end of a run. The file stays open for the end frame.
func (w *writer) finish() {
	w.settle()
	at := w.write(true)
	if w.file == nil {
		return
	}
	if err := fdatasync(w.file); err != nil {
		w.fail(err)
		return
	}
	w.unsynced = false
	w.e.proven(at)
}

// fail gives the log up.
func (w *writer) fail(err error) {
	e := w.e
	e.o.Logger.Error("second copy cannot be written", "dir", e.o.Dir, "err", err, "retry", e.o.Retry.String())
	w.close() // so that a disk that was lost can be unmounted
	w.unsynced, w.failedAt = false, e.o.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err, e.lost, e.buf = err, true, nil
}

// close gives up the log and the folder. What counts of the log was synced before.
func (w *writer) close() {
	for _, f := range []*os.File{w.file, w.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
	w.file, w.lock = nil, nil
}

// proven notes that the copy has everything up to at.
func (e *Engine) proven(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stale && !e.lost && e.err == nil && at.After(e.instant) {
		e.instant = at
	}
}

// markEnd ends the log of a run that ended in order.
func (e *Engine) markEnd(state []byte) error {
	w := e.w
	if w.file == nil {
		return nil
	}
	b := appendFrame(nil, frameEnd, e.seq, state, crc32.Checksum(state, castagnoli))
	_, err := w.file.Write(b)
	return errors.Join(err, fdatasync(w.file))
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

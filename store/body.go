package store

import (
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store/blob"
)

// body is what the handles of one inode share while they change its content: the
// blob, open for writing. It lives as long as its node.
type body struct {
	// prepare is held while the content becomes one that may be written in
	// place, so that several writers do that once. It is taken before the
	// inode's lock.
	prepare sync.Mutex

	// natives counts the native handles, nativeWriters those of them that may
	// write. They are raised with the inode locked for writing.
	natives       atomic.Int32
	nativeWriters atomic.Int32

	// written counts the changes of the blob's bytes, resized those of the
	// inode's record that finding the bytes depends on; each is raised after the
	// fact. syncedResized is what resized was before the last successful sync began.
	written                atomic.Uint64
	resized, syncedResized atomic.Uint64

	// mu protects the fields below. It is taken inside the inode's lock.
	mu   sync.Mutex
	file *writeFile // nil: none
	// ready is the blob that may be written: it is durably known to have no checksums.
	ready blob.ID
	// tail: a failed write may have left bytes in the blob behind the file's end.
	tail bool
	// marked is the blob that is durably known to be written natively.
	marked blob.ID
	// verified is the blob whose checksums were found right.
	verified blob.ID
	// synced is the blob that was last synced with success, and syncedWritten what
	// written was before that began.
	synced        blob.ID
	syncedWritten uint64
	// touched knows what was written since the blob lost its checksums; nil: that
	// is not known. recalled is the blob of which nothing more can be known.
	touched  *touched
	recalled blob.ID
	// seen is what the blob was like when the inode last had its size and times,
	// and seenAt is when that was.
	seen   blob.Stat
	seenAt time.Time
	// next is the end of the last write, and what is before flushed is on its
	// way to the disk.
	next, flushed int64
}

// clockTick is more than the time that may pass between two writes with the same
// times: the kernel takes them from a clock that ticks 100 to 1,000 times a second.
const clockTick = 20 * time.Millisecond

// writeFile is a blob open for writing.
type writeFile struct {
	blob.File
	id   blob.ID
	refs int // guarded by body.mu
}

// share returns n's body.
func (n *node) share() *body {
	if b := n.body.Load(); b != nil {
		return b
	}
	b := &body{}
	b.written.Store(1) // whether anybody has synced is not known
	b.resized.Store(1)
	if n.body.CompareAndSwap(nil, b) {
		return b
	}
	return n.body.Load()
}

// native reports whether a native handle is open.
func (n *node) native() bool {
	b := n.body.Load()
	return b != nil && b.natives.Load() > 0
}

// use returns the open file of the blob id, nil if there is none, until done.
func (b *body) use(id blob.ID) *writeFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil || b.file.id != id {
		return nil
	}
	b.file.refs++
	return b.file
}

// done gives up what use has returned.
func (b *body) done(f *writeFile) error {
	b.mu.Lock()
	f.refs--
	last := f.refs == 0
	b.mu.Unlock()
	if last {
		return f.Close()
	}
	return nil
}

// adopt makes file, open for the blob id, the one that writers share.
func (b *body) adopt(id blob.ID, file blob.File) error {
	b.mu.Lock()
	old := b.file
	b.file = &writeFile{File: file, id: id, refs: 1}
	b.tail, b.next, b.flushed = true, 0, 0
	b.mu.Unlock()
	if old != nil {
		return b.done(old)
	}
	return nil
}

// has reports whether the blob id is open.
func (b *body) has(id blob.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.file != nil && b.file.id == id
}

// holdNative counts a native handle of the blob id, which keeps it open. It
// reports false if the blob is not open.
func (b *body) holdNative(id blob.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil || b.file.id != id {
		return false
	}
	b.natives.Add(1)
	return true
}

// setReady says which blob may be written; the zero ID: none.
func (b *body) setReady(id blob.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = id
	if id.IsZero() {
		b.marked = id
	} else {
		b.recalled = id
	}
}

// unsealing notes that the blob id of size bytes is about to lose its checksums.
// alone: nobody but the store can write to it.
func (b *body) unsealing(id blob.ID, size int64, alone bool) {
	b.setReady(blob.ID{})
	b.mu.Lock()
	b.verified = blob.ID{}
	b.mu.Unlock()
	if alone {
		b.trace(id, size)
	} else {
		b.untrace()
	}
}

// isReady reports whether the blob id is open and may be written.
func (b *body) isReady(id blob.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.file != nil && b.file.id == id && b.ready == id
}

// isMarked reports whether the blob id is durably known to be written natively.
func (b *body) isMarked(id blob.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.marked == id
}

func (b *body) setMarked(id blob.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marked = id
}

// stat returns what the open blob is like now; false if that cannot be had.
func (b *body) stat() (blob.Stat, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.statLocked()
}

func (b *body) statLocked() (blob.Stat, bool) {
	if b.file == nil {
		return blob.Stat{}, false
	}
	f, ok := b.file.File.(blob.Stater)
	if !ok {
		return blob.Stat{}, false
	}
	st, err := f.Stat()
	return st, err == nil
}

// saw notes that the inode has the size and times of st.
func (b *body) saw(st blob.Stat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen, b.seenAt = st, time.Now()
}

// absorbed notes that the inode's record, in the engine, has the size and times of st.
func (b *body) absorbed(st blob.Stat) {
	b.saw(st)
	b.resized.Add(1)
}

// news is what an open blob is like.
type news struct {
	blob.Stat
	// moved: it differs from what the inode has taken in. written: it may have been
	// written since then. Moved implies written.
	moved, written bool
}

// news returns what the blob is like now; false if that cannot be had.
func (b *body) news() (n news, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.Stat, ok = b.statLocked(); !ok {
		return n, false
	}
	n.moved = differs(n.Stat, b.seen)
	n.written = n.moved || n.Mtime >= b.seenAt.Add(-clockTick).UnixNano()
	return n, true
}

func differs(a, b blob.Stat) bool {
	return a.Size != b.Size || a.Mtime != b.Mtime || a.Ctime != b.Ctime
}

// sawContent reports whether the inode has taken in the size and the time of the
// last write of st.
func (b *body) sawContent(st blob.Stat) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return st.Size == b.seen.Size && st.Mtime == b.seen.Mtime
}

// isSynced reports whether the blob id was synced when written was n.
func (b *body) isSynced(id blob.ID, n uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.synced == id && b.syncedWritten == n
}

// setSynced notes that the blob id has all that was written to it when written was n.
func (b *body) setSynced(id blob.ID, n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.synced == id {
		n = max(n, b.syncedWritten)
	}
	b.synced, b.syncedWritten = id, n
}

// writable returns the file of the blob id if it may be written, until done.
func (b *body) writable(id blob.ID) *writeFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil || b.file.id != id || b.ready != id {
		return nil
	}
	b.file.refs++
	return b.file
}

// drop closes the file if no handle of n needs it any more.
func (b *body) drop(n *node) error {
	b.mu.Lock()
	f := b.file
	if f == nil || n.writers.Load() > 0 || b.natives.Load() > 0 {
		b.mu.Unlock()
		return nil
	}
	b.file = nil
	b.mu.Unlock()
	return b.done(f)
}

// trim removes what a write that failed has left behind the file's end: a file
// that grows must read as zeros there. While somebody else writes to the blob what
// is behind the end that we know may be theirs.
func (b *body) trim(f *writeFile, size int64) error {
	b.mu.Lock()
	tail := b.tail && b.nativeWriters.Load() == 0
	b.mu.Unlock()
	if !tail {
		return nil
	}
	n, err := f.Size()
	if err == nil && n > size {
		err = f.Truncate(size)
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tail = false
	return nil
}

// failed notes that a write did not succeed as a whole.
func (b *body) failed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tail = true
}

// startWriteback hands what a sequential writer has written to the disk early,
// so that a later sync is short.
func (b *body) startWriteback(id blob.ID, off, n int64) {
	b.mu.Lock()
	if b.next != off {
		b.flushed = off
	}
	b.next = off + n
	from := b.flushed
	if b.next-from < writebackStep || b.file == nil || b.file.id != id {
		b.mu.Unlock()
		return
	}
	b.flushed = b.next
	f := b.file
	f.refs++
	b.mu.Unlock()
	if w, ok := f.File.(blob.Writebacker); ok {
		w.StartWriteback(from, off+n-from)
	}
	_ = b.done(f) // an error of a write before shows in Sync
}

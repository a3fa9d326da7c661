package fuse

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

// lockOf translates a request for a lock.
func (fs *fileSystem) lockOf(in *gofuse.LkIn) store.FileLock {
	l := store.FileLock{
		Origin:    fs.origin,
		Owner:     in.Owner,
		Flock:     in.LkFlags&gofuse.FUSE_LK_FLOCK != 0,
		Exclusive: in.Lk.Typ == unix.F_WRLCK,
		Start:     in.Lk.Start,
		End:       in.Lk.End,
		PID:       in.Lk.Pid,
	}
	if l.Flock || l.End == math.MaxInt64 { // the kernel's end of file
		l.End = math.MaxUint64
	}
	if l.Flock {
		// It belongs to the open file. The kernel's number of the owner does too, but
		// is given again at once, while the RELEASE of the last one is on its way.
		l.Start, l.Owner = 0, in.Fh
	}
	return l
}

// GetLk is fcntl(2) with F_GETLK.
func (fs *fileSystem) GetLk(_ <-chan struct{}, in *gofuse.LkIn, out *gofuse.LkOut) (status gofuse.Status) {
	op := fs.begin("getlk", &in.InHeader, &status)
	defer op.end(&status)
	held, found, err := fs.store.FileLocks().Conflict(store.Ino(in.NodeId), fs.lockOf(in))
	if err != nil {
		return op.status(err)
	}
	if !found {
		out.Lk = in.Lk
		out.Lk.Typ = unix.F_UNLCK
		return gofuse.OK
	}
	out.Lk = gofuse.FileLock{Start: held.Start, End: min(held.End, math.MaxInt64), Typ: unix.F_RDLCK, Pid: held.PID}
	if held.Exclusive {
		out.Lk.Typ = unix.F_WRLCK
	}
	return gofuse.OK
}

// SetLk is fcntl(2) with F_SETLK, and flock(2) with LOCK_NB.
func (fs *fileSystem) SetLk(_ <-chan struct{}, in *gofuse.LkIn) (status gofuse.Status) {
	op := fs.begin("setlk", &in.InHeader, &status)
	defer op.end(&status)
	err := fs.setLock(op.ctx, in, false)
	for _, pause := range releasePauses {
		if !errors.Is(err, store.ErrLocked) || !fs.table.closing(store.Ino(in.NodeId)) {
			break
		}
		time.Sleep(pause)
		err = fs.setLock(op.ctx, in, false)
	}
	return op.lockStatus(err)
}

// releasePauses are slept before a lock is refused that may just be going. Of the
// locks of an open file description, flock(2)'s among them, the kernel says with
// RELEASE that they went with their file, and close(2) does not wait for that: who
// asks right after it would meet the lock of a file that is closed.
var releasePauses = []time.Duration{time.Millisecond, 4 * time.Millisecond, 15 * time.Millisecond}

// releaseTime is how long a RELEASE may take to follow the FLUSH of close(2).
const releaseTime = 50 * time.Millisecond

// SetLkw is fcntl(2) with F_SETLKW, and flock(2). It is the one operation that a
// signal interrupts: every other is short, and Go programs are sent signals all
// the time.
func (fs *fileSystem) SetLkw(cancel <-chan struct{}, in *gofuse.LkIn) (status gofuse.Status) {
	op := fs.begin("setlkw", &in.InHeader, &status)
	defer op.end(&status)
	return op.lockStatus(fs.setLock(interruptible{op.ctx, cancel}, in, true))
}

func (fs *fileSystem) setLock(ctx context.Context, in *gofuse.LkIn, wait bool) error {
	ino, l := store.Ino(in.NodeId), fs.lockOf(in)
	if in.Lk.Typ == unix.F_UNLCK {
		return fs.store.FileLocks().Unlock(ino, l)
	}
	f, ok := fs.files.get(in.Fh)
	fresh := ok && !l.Flock && f.lockers.add(l.Owner)
	s := fs.table.shard(ino)
	s.mu.Lock()
	if e := s.entries[ino]; e != nil { // it is open
		e.locked = true
		if fresh {
			e.lockerLocked(l.Owner, +1)
		}
	}
	s.mu.Unlock()
	return fs.store.FileLocks().Lock(ctx, ino, l, wait)
}

// lockStatus is status for a lock: another's is no error of the file but a reason to try later.
func (op *operation) lockStatus(err error) gofuse.Status {
	if errors.Is(err, store.ErrLocked) {
		return gofuse.Status(syscall.EAGAIN)
	}
	return op.status(err)
}

// releasePOSIX gives up the owner's POSIX locks on the file: close(2) of any
// descriptor does. Most files have none.
func (fs *fileSystem) releasePOSIX(f *openFile, owner uint64) {
	s := fs.table.shard(f.ino)
	s.mu.Lock()
	e := s.entries[f.ino]
	locked := e.locked
	if locked {
		e.flushed = time.Now()
	}
	s.mu.Unlock()
	if locked {
		if f.lockers.remove(owner) {
			s.mu.Lock()
			e.lockerLocked(owner, -1)
			s.mu.Unlock()
		}
		fs.releaseLocks(f.ino, owner, false)
	}
}

// releaseDescription gives up the locks of an open file description: those whose
// owners have sent no FLUSH. The kernel may have given the number of such an owner
// to the next open file already. Then they stay until that is closed: better too
// long than lost.
func (fs *fileSystem) releaseDescription(f *openFile) {
	for _, owner := range f.lockers.takeAll() {
		s := fs.table.shard(f.ino)
		s.mu.Lock()
		last := s.entries[f.ino].lockerLocked(owner, -1)
		s.mu.Unlock()
		if last {
			fs.releaseLocks(f.ino, owner, false)
		}
	}
}

// lockerLocked counts an open file whose lockers have owner among them, and
// reports whether there is none any more.
func (e *entry) lockerLocked(owner uint64, by int) (none bool) {
	if e.lockers == nil {
		e.lockers = make(map[uint64]int)
	}
	if e.lockers[owner] += by; e.lockers[owner] > 0 {
		return false
	}
	delete(e.lockers, owner)
	return true
}

// lockers are the owners that have taken POSIX locks through an open file. A
// process gives its own up with a FLUSH. The owner of an open file description lock
// is the description itself, of whose end the kernel tells with RELEASE alone.
type lockers struct {
	// mu protects the field below.
	mu     sync.Mutex
	owners []uint64
}

// add reports whether owner was not among them.
func (l *lockers) add(owner uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Contains(l.owners, owner) {
		return false
	}
	l.owners = append(l.owners, owner)
	return true
}

// remove reports whether owner was among them.
func (l *lockers) remove(owner uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.owners, owner)
	if i < 0 {
		return false
	}
	l.owners = slices.Delete(l.owners, i, i+1)
	return true
}

// takeAll returns the owners that are left.
func (l *lockers) takeAll() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.owners
	l.owners = nil
	return left
}

func (fs *fileSystem) releaseLocks(ino store.Ino, owner uint64, flock bool) {
	if err := fs.store.FileLocks().Release(ino, fs.origin, owner, flock); err != nil {
		fs.log.Error("release a lock", "ino", ino, "err", err)
	}
}

// interruptible is a context that ends when the kernel interrupts the request.
type interruptible struct {
	context.Context
	cancel <-chan struct{}
}

// Done is closed by the interrupt.
func (c interruptible) Done() <-chan struct{} { return c.cancel }

// Err returns context.Canceled once Done is closed.
func (c interruptible) Err() error {
	select {
	case <-c.cancel:
		return context.Canceled
	default:
		return nil
	}
}

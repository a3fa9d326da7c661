package fuse

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"syscall"

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
		l.Start = 0
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
	return op.lockStatus(fs.setLock(fs.ctx, in, false))
}

// SetLkw is fcntl(2) with F_SETLKW, and flock(2). It is the one operation that a
// signal interrupts: every other is short, and Go programs are sent signals all
// the time.
func (fs *fileSystem) SetLkw(cancel <-chan struct{}, in *gofuse.LkIn) (status gofuse.Status) {
	op := fs.begin("setlkw", &in.InHeader, &status)
	defer op.end(&status)
	return op.lockStatus(fs.setLock(interruptible{fs.ctx, cancel}, in, true))
}

func (fs *fileSystem) setLock(ctx context.Context, in *gofuse.LkIn, wait bool) error {
	ino, l := store.Ino(in.NodeId), fs.lockOf(in)
	if in.Lk.Typ == unix.F_UNLCK {
		return fs.store.FileLocks().Unlock(ino, l)
	}
	if !l.Flock {
		if f, ok := fs.files.get(in.Fh); ok {
			f.lockers.add(l.Owner)
		}
		s := fs.table.shard(ino)
		s.mu.Lock()
		if e := s.entries[ino]; e != nil { // it is open
			e.posixLocked = true
		}
		s.mu.Unlock()
	}
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
	locked := s.entries[f.ino].posixLocked
	s.mu.Unlock()
	if locked {
		f.lockers.remove(owner)
		fs.releaseLocks(f.ino, owner, false)
	}
}

// lockers are the owners that have taken POSIX locks through an open file. A
// process gives its own up with a FLUSH. The owner of an open file description lock
// is the description itself, of whose end the kernel tells with RELEASE alone.
type lockers struct {
	// mu protects the field below.
	mu     sync.Mutex
	owners []uint64
}

func (l *lockers) add(owner uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.owners, owner) {
		l.owners = append(l.owners, owner)
	}
}

func (l *lockers) remove(owner uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners = slices.DeleteFunc(l.owners, func(o uint64) bool { return o == owner })
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

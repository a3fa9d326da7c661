package fuse

import (
	"context"
	"errors"
	"os"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

// openFile is an open file of the mount.
type openFile struct {
	h      *store.Handle
	ino    store.Ino
	write  bool
	sync   bool // O_SYNC or O_DSYNC, or the mount's Sync: a write is durable before it is answered
	native bool
	opener uint32 // the thread that has opened it; 0: not known

	lockers lockers
}

// backings lets the kernel take files of content over. It is the server.
type backings interface {
	RegisterBackingFd(*gofuse.BackingMap) (id int32, errno syscall.Errno)
	UnregisterBackingFd(id int32) syscall.Errno
}

// Open opens a file.
func (fs *fileSystem) Open(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) (status gofuse.Status) {
	op := fs.begin("open", &in.InHeader, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	ino := store.Ino(in.NodeId)
	write := in.Flags&unix.O_ACCMODE != unix.O_RDONLY
	truncate := in.Flags&unix.O_TRUNC != 0
	if write || truncate {
		if err := fs.davUnlocked(ctx, ino); err != nil {
			return op.status(err)
		}
	}
	h, err := fs.store.Open(ctx, ino, write)
	if err != nil {
		return op.status(err)
	}
	defer fs.discard(h, &status)
	if truncate {
		// Before it is decided how the file is served: that of an empty one need
		// not be made ready to be written directly.
		err = fs.truncate(ctx, ino, in.Mode&gofuse.OPEN_KILL_SUIDGID != 0)
	}
	if err == nil {
		err = fs.serve(ctx, trace, h, opening{in.Flags, in.Pid, true}, out)
	}
	return op.status(err)
}

// discard closes the handle of an operation that has failed, or panicked.
func (fs *fileSystem) discard(h *store.Handle, status *gofuse.Status) {
	if *status == gofuse.OK {
		return
	}
	if err := h.Close(); err != nil {
		fs.log.Warn("file not closed", "ino", h.Ino(), "err", err)
	}
}

// truncate makes the file empty, as open(2) with O_TRUNC does.
func (fs *fileSystem) truncate(ctx context.Context, ino store.Ino, kill bool) error {
	size := int64(0)
	if _, err := fs.store.SetAttr(ctx, ino, store.SetAttr{Size: &size, KillPriv: kill}); err != nil {
		return err
	}
	return fs.committed(ctx)
}

// Create makes a file and opens it.
func (fs *fileSystem) Create(_ <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) (status gofuse.Status) {
	op := fs.begin("create", &in.InHeader, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	n := store.NewNode{Mode: in.Mode&store.ModePerm | store.ModeRegular}
	if err := fs.create(&op, &in.InHeader, name, in.Umask, n, &out.EntryOut); err != nil {
		if errors.Is(err, os.ErrExist) && in.Flags&unix.O_EXCL == 0 {
			// Made by somebody else since the kernel looked. It has not asked whether
			// the caller may open it: ESTALE makes it look again.
			return gofuse.Status(syscall.ESTALE)
		}
		return op.status(err)
	}
	ino := store.Ino(out.NodeId)
	defer fs.unremember(ino, &status)
	h, err := fs.store.Open(ctx, ino, in.Flags&unix.O_ACCMODE != unix.O_RDONLY)
	if err != nil {
		return op.status(err)
	}
	defer fs.discard(h, &status)
	return op.status(fs.serve(ctx, trace, h, opening{in.Flags, in.Pid, false}, &out.OpenOut))
}

// Tmpfile is open(2) with O_TMPFILE.
func (fs *fileSystem) Tmpfile(_ <-chan struct{}, in *gofuse.CreateIn, out *gofuse.CreateOut) (status gofuse.Status) {
	op := fs.begin("tmpfile", &in.InHeader, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	dir := store.Ino(in.NodeId)
	n := store.NewNode{Mode: in.Mode&store.ModePerm | store.ModeRegular, UID: in.Uid, GID: in.Gid}
	if err := fs.inheritACL(ctx, dir, &n, in.Umask); err != nil {
		return op.status(err)
	}
	a, h, err := fs.store.Tmpfile(ctx, dir, n)
	if err != nil {
		return op.status(err)
	}
	defer fs.discard(h, &status)
	fs.table.remember(a.Ino)
	defer fs.unremember(a.Ino, &status)
	fs.fillEntry(ctx, &out.EntryOut, &a, trace)
	return op.status(fs.serve(ctx, trace, h, opening{in.Flags, in.Pid, false}, &out.OpenOut))
}

// opening is how a file is opened.
type opening struct {
	flags  uint32 // of open(2)
	thread uint32 // that opens it; 0: not known
	// mayBeNative is false for a new file, whose content is not a file of its own yet.
	mayBeNative bool
}

// serve makes h an open file of the mount and answers with it: nothing of the
// operation may fail any more. On an error, or if it panics, h stays the caller's.
func (fs *fileSystem) serve(ctx context.Context, trace *store.Trace, h *store.Handle, o opening, out *gofuse.OpenOut) error {
	f := &openFile{
		h: h, ino: h.Ino(), opener: o.thread,
		write: o.flags&unix.O_ACCMODE != unix.O_RDONLY,
		sync:  fs.o.Sync || o.flags&(unix.O_SYNC|unix.O_DSYNC) != 0,
	}
	backing, err := fs.join(ctx, f, o.mayBeNative)
	if err != nil {
		return err
	}
	served := false
	defer func() {
		if !served {
			fs.leave(f)
		}
	}()
	current := fs.pagesAreCurrent(ctx, f, trace, o.mayBeNative)
	switch {
	case f.native:
		out.OpenFlags, out.BackingID = gofuse.FOPEN_PASSTHROUGH, backing
	case current:
		out.OpenFlags = gofuse.FOPEN_KEEP_CACHE
	}
	if !current && o.mayBeNative {
		// Others may have replaced the content since the kernel looked the file up, and
		// the notification be on its way. This one drops attributes, the size among
		// them, and waits for nothing.
		fs.kernel.InodeNotify(uint64(f.ino), -1, 0)
	}
	out.Fh = fs.files.add(f)
	served = true
	return nil
}

// join counts f among the open handles of its inode and decides how it is
// served: as those that are open already, or, if it is the first, as it can be.
// While one decides, the others wait. An error leaves f uncounted.
func (fs *fileSystem) join(ctx context.Context, f *openFile, mayBeNative bool) (backing int32, err error) {
	s := fs.table.shard(f.ino)
	s.mu.Lock()
	e := s.entryLocked(f.ino)
	for e.deciding != nil {
		decided := e.deciding
		s.mu.Unlock()
		<-decided
		s.mu.Lock()
		e = s.entryLocked(f.ino)
	}
	e.opens++
	switch {
	case e.mode == modeNone && mayBeNative && fs.backings != nil:
		e.deciding = make(chan struct{})
	case e.mode == modeNone:
		e.mode = modeCached
	}
	mode, first := e.mode, e.deciding != nil
	backing = e.backing
	s.mu.Unlock()

	joined := false
	defer func() { // also if the store panics
		if !joined {
			fs.leave(f)
		}
	}()
	switch {
	case first:
		backing, err = fs.decide(ctx, f)
	case mode == modeNative:
		err = fs.joinNative(ctx, f)
	}
	joined = err == nil
	return backing, err
}

// decide is join for the first handle of an inode that may be native.
func (fs *fileSystem) decide(ctx context.Context, f *openFile) (backing int32, err error) {
	s := fs.table.shard(f.ino)
	var (
		file *os.File
		hold *store.Handle
	)
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e := s.entries[f.ino] // f is counted: it is there
		e.mode = modeCached
		if backing > 0 {
			e.mode, e.backing, e.file, e.hold = modeNative, backing, file, hold
			f.native = true
			fs.countNativeLocked(e, f)
			hold = nil
		}
		close(e.deciding)
		e.deciding = nil
	}()
	defer func() {
		if backing == 0 {
			err = errors.Join(err, closeHold(hold))
		}
	}()
	if file, err = f.h.Native(ctx); err == nil {
		hold, err = f.h.HoldNative()
	}
	if errors.Is(err, store.ErrNotNative) || errors.Is(err, errors.ErrUnsupported) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	id, errno := fs.backings.RegisterBackingFd(&gofuse.BackingMap{Fd: int32(file.Fd())})
	if errno != 0 {
		fs.warnNative.Do(func() {
			fs.log.Warn("the kernel does not take a file over: reads and writes go through the server",
				"err", errno, "hint", "passthrough needs Linux 6.9, CAP_SYS_ADMIN, and data on a file system that is not stacked itself")
		})
		return 0, nil
	}
	return id, nil
}

// closeHold closes the handle, if there is one, that kept a native file the content
// of its inode.
func closeHold(h *store.Handle) error {
	if h == nil {
		return nil
	}
	return h.Close()
}

// errMoved says that the content of an inode has moved on from the file that the
// kernel has of it, which the entry's hold is there to prevent.
var errMoved = errors.New("content is not the file that the kernel has")

// joinNative is join for a handle of an inode that is served natively.
func (fs *fileSystem) joinNative(ctx context.Context, f *openFile) error {
	file, err := f.h.Native(ctx)
	if errors.Is(err, store.ErrNotNative) {
		// It has become privileged since it was opened. The kernel serves all
		// handles of an inode alike, so another writer has to wait.
		if f.write {
			return errPrivileged
		}
		err = nil
	}
	if err != nil {
		return err
	}
	s := fs.table.shard(f.ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[f.ino]
	if file != nil && file != e.file {
		return errMoved
	}
	f.native = true
	fs.countNativeLocked(e, f)
	return nil
}

func (fs *fileSystem) countNativeLocked(e *entry, f *openFile) {
	if f.write {
		e.nativeWriters++
		e.hasCached = false // the kernel's pages do not see what is written now
		fs.nativeWriters.Add(1)
	}
}

// leave undoes join. The last handle of a native inode gives the file back.
func (fs *fileSystem) leave(f *openFile) {
	s := fs.table.shard(f.ino)
	s.mu.Lock()
	e := s.entries[f.ino]
	if f.native && f.write {
		e.nativeWriters--
		fs.nativeWriters.Add(-1)
	}
	var (
		backing int32
		hold    *store.Handle
	)
	if e.opens--; e.opens == 0 {
		backing, hold = e.backing, e.hold
		e.mode, e.backing, e.file, e.hold, e.locked, e.looked = modeNone, 0, nil, nil, false, false
	}
	pin := s.dropLocked(f.ino, e)
	s.mu.Unlock()
	fs.unpin(pin)
	defer func() {
		if err := closeHold(hold); err != nil {
			fs.log.Warn("content not closed", "ino", f.ino, "err", err)
		}
	}()
	if backing == 0 {
		return
	}
	if errno := fs.backings.UnregisterBackingFd(backing); errno != 0 && errno != syscall.EBADF { // EBADF: the mount has ended
		fs.log.Warn("the kernel does not give a file back", "ino", f.ino, "err", errno)
	}
}

// pagesAreCurrent reports whether the kernel may keep the pages that it has of a
// file: they are of the content's version of now. While a cached file is open they
// always are, for nobody else changes what it holds, and they must not be
// dropped: a write may be on its way, and be missing from what is read instead.
//
// The first handle of a file that has changed since (mayBeOld: it is not new) has
// the kernel drop them before it is answered, and others wait for that. To leave it
// to the answer would be too late: the kernel may see that of the next handle
// first, and take old pages together with a new size for the content.
func (fs *fileSystem) pagesAreCurrent(ctx context.Context, f *openFile, trace *store.Trace, mayBeOld bool) bool {
	a, err := f.h.Attr(ctx)
	fresh := err == nil && trace.Recovered() == nil
	s := fs.table.shard(f.ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[f.ino] // f is counted: it is there
	if f.native {
		return false
	}
	for e.looking != nil {
		looking := e.looking
		s.mu.Unlock()
		<-looking
		s.mu.Lock()
	}
	current := fresh && e.hasCached && (e.looked || e.cached == a.Version)
	if !current && !e.looked && mayBeOld {
		looking := make(chan struct{})
		e.looking = looking
		defer func() { e.looking = nil; close(looking) }()
		current = func() bool {
			s.mu.Unlock()
			defer s.mu.Lock()
			return fs.dropPages(f.ino)
		}() && fresh
	}
	e.looked = true
	e.cached, e.hasCached = a.Version, fresh
	return current
}

// dropPages has the kernel drop what it has of a file that has no other handle,
// so that nothing is on its way that it would have to wait for.
func (fs *fileSystem) dropPages(ino store.Ino) bool {
	status := fs.kernel.InodeNotify(uint64(ino), 0, 0)
	return status == gofuse.OK || status == gofuse.ENOENT // not known: nothing to drop
}

// notePages remembers the version of the content that a cached file is closed with.
func (fs *fileSystem) notePages(f *openFile) {
	a, err := f.h.Attr(fs.ctx)
	s := fs.table.shard(f.ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[f.ino]; e.hasCached {
		e.cached, e.hasCached = a.Version, err == nil
	}
}

// closeFile gives an open file up. It does so also if a part of it panics.
func (fs *fileSystem) closeFile(f *openFile) (err error) {
	defer func() { err = errors.Join(err, f.h.Close()) }()
	// The table before the handle: whoever opens the file from now on decides
	// anew, and must not be given the file of a content that is let go here.
	defer fs.leave(f)
	if f.write && !f.native {
		fs.notePages(f)
	}
	return nil
}

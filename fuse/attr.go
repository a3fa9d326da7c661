package fuse

import (
	"context"
	"errors"
	"math"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"engramfs/store"
)

const (
	blockSize = 4096 // what stat(2) and statfs(2) say is good for I/O
	sector    = 512  // the unit of st_blocks
)

// fillAttr sets out to a.
func (fs *fileSystem) fillAttr(ctx context.Context, out *gofuse.Attr, a *store.Attr) {
	*out = gofuse.Attr{
		Ino:     uint64(a.Ino),
		Size:    uint64(a.Size),
		Blocks:  fs.blocks(ctx, a),
		Mode:    a.Mode,
		Nlink:   a.Nlink,
		Owner:   gofuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev:    a.Rdev,
		Blksize: blockSize,
	}
	out.Atime, out.Atimensec = splitTime(a.Atime)
	out.Mtime, out.Mtimensec = splitTime(a.Mtime)
	out.Ctime, out.Ctimensec = splitTime(a.Ctime)
}

// blocks returns the disk space of a's content in sectors. Only a file that may
// have holes costs a look at the disk.
func (fs *fileSystem) blocks(ctx context.Context, a *store.Attr) uint64 {
	if a.Sparse {
		if n, err := fs.store.Allocated(ctx, a.Ino); err == nil {
			return uint64(n+sector-1) / sector
		}
	}
	if a.IsSymlink() {
		return 0
	}
	return uint64(a.Size+blockSize-1) / blockSize * (blockSize / sector)
}

// splitTime returns ns nanoseconds since the epoch as whole seconds, which may
// be negative, and the rest.
func splitTime(ns int64) (sec uint64, nsec uint32) {
	s, n := ns/1e9, ns%1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return uint64(s), uint32(n)
}

// maxSeconds is the last second of which the store can keep every nanosecond: in
// April 2262. The first one is as long before 1970.
const maxSeconds = math.MaxInt64/int64(time.Second) - 1

// joinTime is the inverse of splitTime. What the store cannot keep becomes the first or
// the last second that it can, as the kernel's timestamp_truncate does for the file
// systems that tell it their limits.
func joinTime(sec uint64, nsec uint32) time.Time {
	s := max(-maxSeconds, min(int64(sec), maxSeconds))
	if s != int64(sec) {
		nsec = 0
	}
	return time.Unix(s, int64(nsec))
}

// attrTimeout returns how long the kernel may use the attributes of ino.
// Recovered data and files that the kernel writes itself are not to be kept.
func (fs *fileSystem) attrTimeout(ino store.Ino, trace *store.Trace) time.Duration {
	if trace.Recovered() != nil {
		return 0
	}
	if fs.nativeWriters.Load() > 0 && fs.table.writtenNatively(ino) {
		return 0
	}
	return fs.o.AttrTimeout
}

func (fs *fileSystem) entryTimeout(trace *store.Trace) time.Duration {
	if trace.Recovered() != nil {
		return 0
	}
	return fs.o.EntryTimeout
}

// getAttr returns the attributes of an inode, also of one that is removed as long
// as the kernel refers to it.
func (fs *fileSystem) getAttr(ctx context.Context, ino store.Ino) (store.Attr, error) {
	a, err := fs.store.GetAttr(ctx, ino)
	if errors.Is(err, store.ErrStale) {
		if was, ok := fs.table.buried(ino, nil); ok {
			return was, nil
		}
	}
	return a, err
}

// replyAttr answers with attributes.
func (fs *fileSystem) replyAttr(ctx context.Context, out *gofuse.AttrOut, a *store.Attr, trace *store.Trace) {
	fs.fillAttr(ctx, &out.Attr, a)
	out.SetTimeout(fs.attrTimeout(a.Ino, trace))
}

// GetAttr is stat(2).
func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) (status gofuse.Status) {
	op := fs.begin("getattr", &in.InHeader, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	a, err := fs.getAttr(ctx, store.Ino(in.NodeId))
	if err != nil {
		return op.status(err)
	}
	fs.replyAttr(ctx, out, &a, trace)
	return gofuse.OK
}

// Statx is statx(2) for what stat(2) does not tell: the time of birth.
func (fs *fileSystem) Statx(_ <-chan struct{}, in *gofuse.StatxIn, out *gofuse.StatxOut) (status gofuse.Status) {
	op := fs.begin("statx", &in.InHeader, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	a, err := fs.getAttr(ctx, store.Ino(in.NodeId))
	if err != nil {
		return op.status(err)
	}
	out.Mask = statxBasicStats | statxBtime
	out.Blksize = blockSize
	out.Nlink, out.Uid, out.Gid, out.Mode = a.Nlink, a.UID, a.GID, uint16(a.Mode)
	out.Ino, out.Size, out.Blocks = uint64(a.Ino), uint64(a.Size), fs.blocks(ctx, &a)
	out.RdevMajor, out.RdevMinor = rdevMajor(a.Rdev), rdevMinor(a.Rdev)
	for _, t := range []struct {
		out *gofuse.SxTime
		ns  int64
	}{{&out.Atime, a.Atime}, {&out.Btime, a.Btime}, {&out.Ctime, a.Ctime}, {&out.Mtime, a.Mtime}} {
		t.out.Sec, t.out.Nsec = splitTime(t.ns)
	}
	out.SetTimeout(fs.attrTimeout(a.Ino, trace))
	return gofuse.OK
}

const (
	statxBasicStats = 0x7ff
	statxBtime      = 0x800
)

// Device numbers travel as the kernel's new_encode_dev packs them.
func rdevMajor(dev uint32) uint32 { return dev >> 8 & 0xfff }
func rdevMinor(dev uint32) uint32 { return dev&0xff | dev>>12&0xfff00 }

// SetAttr is chmod(2), chown(2), utimensat(2), truncate(2), and what the kernel
// asks with FUSE_HANDLE_KILLPRIV_V2.
func (fs *fileSystem) SetAttr(_ <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) (status gofuse.Status) {
	op := fs.begin("setattr", &in.InHeader, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	ino := store.Ino(in.NodeId)
	set, err := fs.setAttrOf(in)
	if err != nil {
		return op.status(err)
	}
	if set.Size != nil {
		if err := fs.davUnlocked(ctx, ino); err != nil {
			return op.status(err)
		}
	}
	asked := fs.table.asked.Load()
	a, err := fs.setAttr(ctx, ino, set)
	if err == nil && set.Size != nil && fs.o.Sync {
		err = fs.store.SyncContent(ctx, ino) // a restart believes no size that the content has not
	}
	if err == nil {
		err = fs.committed(ctx)
	}
	if err != nil {
		return op.status(err)
	}
	fs.replyAttr(ctx, out, &a, trace)
	if fs.table.asked.Load() != asked {
		// Somebody else may have changed the inode since. The kernel takes this answer
		// over even if it was notified before it comes.
		out.SetTimeout(0)
	}
	return gofuse.OK
}

// setAttr changes attributes, and the ACL with the mode. Those of an inode that
// is removed are what the table remembers.
func (fs *fileSystem) setAttr(ctx context.Context, ino store.Ino, set store.SetAttr) (a store.Attr, err error) {
	if fs.o.ACL && set.Mode != nil {
		a, err = fs.chmodACL(ctx, ino, set)
	} else {
		a, err = fs.store.SetAttr(ctx, ino, set)
	}
	if errors.Is(err, store.ErrStale) && set.Size == nil {
		now := fs.store.Now().UnixNano()
		if was, ok := fs.table.buried(ino, func(a *store.Attr) { editRemoved(a, &set, now) }); ok {
			return was, nil
		}
	}
	return a, err
}

// editRemoved does with the attributes of a removed inode what the store would.
func editRemoved(a *store.Attr, set *store.SetAttr, now int64) {
	if set.Mode != nil {
		a.Mode = a.Mode&store.ModeType | *set.Mode&store.ModePerm
	}
	if set.UID != nil {
		a.UID = *set.UID
	}
	if set.GID != nil {
		a.GID = *set.GID
	}
	for _, t := range []struct {
		at  *int64
		set *time.Time
		now bool
	}{{&a.Atime, set.Atime, set.AtimeNow}, {&a.Mtime, set.Mtime, set.MtimeNow}} {
		switch {
		case t.now:
			*t.at = now
		case t.set != nil:
			*t.at = t.set.UnixNano()
		}
	}
	a.Ctime = now
}

// setAttrOf translates a request.
func (fs *fileSystem) setAttrOf(in *gofuse.SetAttrIn) (set store.SetAttr, err error) {
	if mode, ok := in.GetMode(); ok {
		set.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		set.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		set.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		if size > store.MaxFileSize {
			return set, store.ErrTooBig
		}
		n := int64(size)
		set.Size = &n
	}
	set.AtimeNow = in.Valid&gofuse.FATTR_ATIME_NOW != 0
	if in.Valid&(gofuse.FATTR_ATIME|gofuse.FATTR_ATIME_NOW) == gofuse.FATTR_ATIME {
		t := joinTime(in.Atime, in.Atimensec)
		set.Atime = &t
	}
	set.MtimeNow = in.Valid&gofuse.FATTR_MTIME_NOW != 0
	if in.Valid&(gofuse.FATTR_MTIME|gofuse.FATTR_MTIME_NOW) == gofuse.FATTR_MTIME {
		t := joinTime(in.Mtime, in.Mtimensec)
		set.Mtime = &t
	}
	// A request that names nothing is what the kernel sends before a write of its
	// own to a file with privileges (passthrough), and before fallocate(2), for callers
	// that may not keep them. From root it can also mean a capability alone, which
	// the kernel has removed itself.
	set.KillPriv = in.Valid&gofuse.FATTR_KILL_SUIDGID != 0 || in.Valid&setAttrNames == 0 && in.Caller.Uid != 0
	return set, nil
}

// setAttrNames are the bits of SetAttrIn.Valid that name an attribute.
const setAttrNames = gofuse.FATTR_MODE | gofuse.FATTR_UID | gofuse.FATTR_GID | gofuse.FATTR_SIZE |
	gofuse.FATTR_ATIME | gofuse.FATTR_MTIME | gofuse.FATTR_ATIME_NOW | gofuse.FATTR_MTIME_NOW | gofuse.FATTR_CTIME

// StatFs is statfs(2).
func (fs *fileSystem) StatFs(_ <-chan struct{}, in *gofuse.InHeader, out *gofuse.StatfsOut) (status gofuse.Status) {
	op := fs.begin("statfs", in, &status)
	defer op.end(&status)
	ctx, _ := op.context()
	st, err := fs.store.StatFS(ctx)
	if err != nil {
		return op.status(err)
	}
	*out = gofuse.StatfsOut{
		Bsize:   blockSize,
		Frsize:  blockSize,
		Blocks:  uint64(st.Total) / blockSize,
		Bfree:   uint64(st.Free) / blockSize,
		Bavail:  uint64(st.Free) / blockSize,
		Files:   uint64(st.Files) + freeInodes,
		Ffree:   freeInodes,
		NameLen: store.MaxName,
	}
	return gofuse.OK
}

// freeInodes is reported as free: inodes have no limit but space.
const freeInodes = 1 << 32

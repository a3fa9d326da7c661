package fuse

import (
	"errors"
	"io"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// fsyncDataOnly is FUSE_FSYNC_FDATASYNC: times need not be durable.
const fsyncDataOnly = 1

// Read reads into buf.
func (fs *fileSystem) Read(_ <-chan struct{}, in *gofuse.ReadIn, buf []byte) (result gofuse.ReadResult, status gofuse.Status) {
	op := fs.begin("read", &in.InHeader, &status)
	defer op.end(&status)
	f, ok := fs.files.get(in.Fh)
	if !ok {
		return nil, gofuse.EBADF
	}
	ctx, _ := op.context()
	n, err := f.h.ReadAt(ctx, buf[:min(int(in.Size), len(buf))], int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, op.status(err)
	}
	op.bytes = n
	return gofuse.ReadResultData(buf[:n]), gofuse.OK
}

// Write writes data.
func (fs *fileSystem) Write(_ <-chan struct{}, in *gofuse.WriteIn, data []byte) (written uint32, status gofuse.Status) {
	op := fs.begin("write", &in.InHeader, &status)
	defer op.end(&status)
	f, ok := fs.files.get(in.Fh)
	if !ok {
		return 0, gofuse.EBADF
	}
	ctx, _ := op.context()
	if in.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0 {
		if err := f.h.KillPriv(ctx); err != nil {
			return 0, op.status(err)
		}
	}
	n, err := f.h.WriteAt(ctx, data, int64(in.Offset))
	if err == nil && f.sync {
		err = f.h.Sync(ctx)
	}
	if err != nil {
		return 0, op.status(err)
	}
	op.bytes = n
	return uint32(n), gofuse.OK
}

// Flush is sent by every close(2) of a descriptor. It does not make anything
// durable unless the mount was asked to.
func (fs *fileSystem) Flush(_ <-chan struct{}, in *gofuse.FlushIn) (status gofuse.Status) {
	op := fs.begin("flush", &in.InHeader, &status)
	defer op.end(&status)
	f, ok := fs.files.get(in.Fh)
	if !ok {
		return gofuse.EBADF
	}
	ctx, _ := op.context()
	fs.releasePOSIX(f, in.LockOwner)
	if f.native && f.write {
		if err := f.h.Absorb(ctx); err != nil {
			return op.status(err)
		}
		if f.sync {
			return op.status(f.h.Sync(ctx))
		}
	}
	return gofuse.OK
}

// Release is sent once the last descriptor and mapping of an open file is gone.
// Nobody waits for it.
func (fs *fileSystem) Release(_ <-chan struct{}, in *gofuse.ReleaseIn) {
	var status gofuse.Status
	op := fs.begin("release", &in.InHeader, &status)
	defer op.end(&status)
	f, ok := fs.files.take(in.Fh)
	if !ok {
		status = gofuse.EBADF
		return
	}
	if in.ReleaseFlags&gofuse.FUSE_RELEASE_FLOCK_UNLOCK != 0 {
		fs.releaseLocks(f.ino, in.Fh, true)
	}
	fs.releaseDescription(f)
	err := fs.closeFile(f)
	if status = op.status(err); err != nil {
		fs.log.Warn("close a file of the mount", "ino", f.ino, "err", err)
	}
}

// Fsync is fsync(2) and fdatasync(2).
func (fs *fileSystem) Fsync(_ <-chan struct{}, in *gofuse.FsyncIn) (status gofuse.Status) {
	op := fs.begin("fsync", &in.InHeader, &status)
	defer op.end(&status)
	f, ok := fs.files.get(in.Fh)
	if !ok {
		return gofuse.EBADF
	}
	ctx, _ := op.context()
	if in.FsyncFlags&fsyncDataOnly != 0 {
		return op.status(f.h.SyncData(ctx))
	}
	return op.status(f.h.Sync(ctx))
}

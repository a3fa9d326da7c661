package fuse

import (
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

// Fallocate is fallocate(2).
func (fs *fileSystem) Fallocate(_ <-chan struct{}, in *gofuse.FallocateIn) (status gofuse.Status) {
	op := fs.begin("fallocate", &in.InHeader, &status)
	defer op.end(&status)
	f, ok := fs.files.get(in.Fh)
	if !ok {
		return gofuse.EBADF
	}
	a, ok := allocationOf(in.Mode)
	if !ok {
		return gofuse.Status(unix.EOPNOTSUPP)
	}
	off, n := int64(in.Offset), int64(in.Length)
	if off < 0 || n <= 0 {
		return gofuse.EINVAL
	}
	if off > store.MaxFileSize || n > store.MaxFileSize-off {
		return gofuse.Status(unix.EFBIG)
	}
	ctx, _ := op.context()
	err := f.h.Allocate(ctx, a, off, n)
	if err == nil && f.sync {
		err = f.h.Sync(ctx)
	}
	return op.status(err)
}

// Lseek is lseek(2) with SEEK_DATA and SEEK_HOLE; the kernel does the others.
func (fs *fileSystem) Lseek(_ <-chan struct{}, in *gofuse.LseekIn, out *gofuse.LseekOut) (status gofuse.Status) {
	op := fs.begin("lseek", &in.InHeader, &status)
	defer op.end(&status)
	f, ok := fs.files.get(in.Fh)
	if !ok {
		return gofuse.EBADF
	}
	whence, ok := whenceOf(in.Whence)
	if !ok || int64(in.Offset) < 0 {
		return gofuse.EINVAL
	}
	ctx, _ := op.context()
	off, err := f.h.Seek(ctx, int64(in.Offset), whence)
	if err != nil {
		return op.status(err)
	}
	out.Offset = uint64(off)
	return gofuse.OK
}

// maxCopy is how much one copy_file_range(2) copies: its reply has 32 bits, and
// nothing else can be done on the two files meanwhile.
const maxCopy = 1 << 30

// CopyFileRange is copy_file_range(2).
func (fs *fileSystem) CopyFileRange(_ <-chan struct{}, in *gofuse.CopyFileRangeIn) (written uint32, status gofuse.Status) {
	op := fs.begin("copy_file_range", &in.InHeader, &status)
	defer op.end(&status)
	src, ok := fs.files.get(in.FhIn)
	if !ok {
		return 0, gofuse.EBADF
	}
	dst, ok := fs.files.get(in.FhOut)
	if !ok {
		return 0, gofuse.EBADF
	}
	if in.Flags != 0 {
		return 0, gofuse.EINVAL
	}
	ctx, _ := op.context()
	n, err := fs.store.CopyRange(ctx, src.h, int64(in.OffIn), dst.h, int64(in.OffOut), int64(min(in.Len, maxCopy)))
	if err == nil && dst.sync {
		err = dst.h.Sync(ctx)
	}
	if err != nil {
		return 0, op.status(err)
	}
	op.bytes = int(n)
	return uint32(n), gofuse.OK
}

// allocationOf translates the mode of fallocate(2); false: not supported.
func allocationOf(mode uint32) (store.Allocation, bool) {
	switch mode {
	case 0:
		return store.Allocation{}, true
	case unix.FALLOC_FL_KEEP_SIZE:
		return store.Allocation{KeepSize: true}, true
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		return store.Allocation{PunchHole: true, KeepSize: true}, true
	case unix.FALLOC_FL_ZERO_RANGE:
		return store.Allocation{ZeroRange: true}, true
	case unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		return store.Allocation{ZeroRange: true, KeepSize: true}, true
	}
	return store.Allocation{}, false
}

// whenceOf translates the whence of lseek(2); false: none that reaches the server.
func whenceOf(whence uint32) (store.Whence, bool) {
	switch whence {
	case unix.SEEK_DATA:
		return store.SeekData, true
	case unix.SEEK_HOLE:
		return store.SeekHole, true
	}
	return 0, false
}

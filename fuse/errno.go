package fuse

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"engramfs/store"
)

// Errors of the adapter's own.
var (
	errBadACL       = errors.New("fuse: malformed access control list")
	errNoDefaultACL = errors.New("fuse: only a directory has a default access control list")
	errPrivileged   = errors.New("fuse: file became privileged while the kernel serves it directly")
)

// errnos is what the store's errors mean to a program, the first match counting:
// a poisoned or damaged inode is told apart from what the error says besides, and
// ErrStale from the fs.ErrNotExist that it also is.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{store.ErrPoisoned, syscall.EIO},
	{store.ErrDamaged, syscall.EIO},
	{store.ErrPanic, syscall.EIO},
	{store.ErrFault, syscall.EIO},
	{store.ErrReadOnly, syscall.EROFS},
	{store.ErrNoSpace, syscall.ENOSPC}, // and syscall.ENOSPC
	{syscall.ENOSPC, syscall.ENOSPC},
	{syscall.EDQUOT, syscall.EDQUOT},
	{syscall.EFBIG, syscall.EFBIG}, // of the file system below
	{store.ErrStale, syscall.ESTALE},
	{store.ErrLocked, syscall.EBUSY},
	{store.ErrDeadlock, syscall.EDEADLK},
	{store.ErrLockLimit, syscall.ENOLCK},
	{store.ErrNotDir, syscall.ENOTDIR},
	{store.ErrIsDir, syscall.EISDIR},
	{store.ErrNotEmpty, syscall.ENOTEMPTY},
	{store.ErrName, syscall.EINVAL},
	{store.ErrNameTooLong, syscall.ENAMETOOLONG},
	{store.ErrSubtree, syscall.EINVAL},
	{store.ErrTooManyLinks, syscall.EMLINK},
	{store.ErrNoXattr, syscall.ENODATA},
	{store.ErrChanged, syscall.EAGAIN},
	{store.ErrTooBig, syscall.EFBIG}, // of an extended attribute E2BIG: xattrErrno
	{store.ErrNoData, syscall.ENXIO},
	{store.ErrClosed, syscall.EIO},
	{fs.ErrNotExist, syscall.ENOENT},
	{fs.ErrExist, syscall.EEXIST},
	{fs.ErrPermission, syscall.EPERM},
	{fs.ErrInvalid, syscall.EINVAL},
	{fs.ErrClosed, syscall.EBADF},
	{errors.ErrUnsupported, syscall.EOPNOTSUPP},
	{context.Canceled, syscall.EINTR},
	{errBadACL, syscall.EINVAL},
	{errNoDefaultACL, syscall.EACCES},
	{errPrivileged, syscall.ETXTBSY},
}

// toErrno returns what err means to a program, and whether the table knows it.
// An unknown error is EIO.
func toErrno(err error) (errno syscall.Errno, known bool) {
	switch err { // by far the most frequent ones, compared as they come
	case nil:
		return 0, true
	case fs.ErrNotExist:
		return syscall.ENOENT, true
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.errno, true
		}
	}
	return syscall.EIO, false
}

// status returns the reply for err. An error that nobody foresaw is logged.
func (op *operation) status(err error) gofuse.Status {
	if err == nil {
		return gofuse.OK
	}
	op.err = err
	errno, known := toErrno(err)
	if !known {
		op.fs.log.Error("operation of the mount failed", "op", op.name, "err", err)
	}
	return gofuse.Status(errno)
}

package fuse

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"engramfs/store"
	"engramfs/store/poison"
)

func TestErrno(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{store.ErrPoisoned, syscall.EIO},
		{&poison.Error{Ev: &poison.Event{}}, syscall.EIO},
		{store.ErrDamaged, syscall.EIO},
		{fmt.Errorf("%w: %w", store.ErrDamaged, fs.ErrNotExist), syscall.EIO},
		{store.ErrPanic, syscall.EIO},
		{store.ErrFault, syscall.EIO},
		{store.ErrReadOnly, syscall.EROFS},
		{fmt.Errorf("%w: %w", store.ErrReadOnly, syscall.ENOSPC), syscall.EROFS},
		{store.ErrNoSpace, syscall.ENOSPC},
		{syscall.ENOSPC, syscall.ENOSPC},
		{syscall.EDQUOT, syscall.EDQUOT},
		{syscall.EFBIG, syscall.EFBIG},
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
		{store.ErrTooBig, syscall.EFBIG},
		{store.ErrNoData, syscall.ENXIO},
		{store.ErrClosed, syscall.EIO},
		{fs.ErrNotExist, syscall.ENOENT},
		{store.ErrParentNotExist, syscall.ENOENT},
		{&fs.PathError{Op: "x", Path: "y", Err: fs.ErrNotExist}, syscall.ENOENT},
		{fs.ErrExist, syscall.EEXIST},
		{fs.ErrPermission, syscall.EPERM},
		{fs.ErrInvalid, syscall.EINVAL},
		{fs.ErrClosed, syscall.EBADF},
		{errors.ErrUnsupported, syscall.EOPNOTSUPP},
		{context.Canceled, syscall.EINTR},
		{errBadACL, syscall.EINVAL},
		{errNoDefaultACL, syscall.EACCES},
		{errPrivileged, syscall.ETXTBSY},
	} {
		for _, err := range []error{tt.err, fmt.Errorf("wrapped: %w", tt.err), errors.Join(tt.err, nil)} {
			if tt.err == nil {
				err = nil
			}
			got, known := toErrno(err)
			if got != tt.want || !known {
				t.Errorf("toErrno(%v) = %v, %t, want %v", err, got, known, tt.want)
			}
		}
	}
}

func TestUnknownErrorIsEIOAndLogged(t *testing.T) {
	var log strings.Builder
	op := operation{fs: &fileSystem{log: slog.New(slog.NewTextHandler(&log, nil))}, name: "frobnicate"}
	if got := op.status(errors.New("nobody foresaw this")); got != 5 {
		t.Errorf("status = %v, want EIO", got)
	}
	for _, want := range []string{"nobody foresaw this", "frobnicate", "ERROR"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log has no %q: %s", want, log.String())
		}
	}
}

func TestXattrErrno(t *testing.T) {
	op := operation{fs: &fileSystem{log: slog.New(slog.DiscardHandler)}}
	for _, tt := range []struct {
		err  error
		want syscall.Errno
	}{
		{store.ErrTooBig, syscall.E2BIG},
		{store.ErrNameTooLong, syscall.ERANGE},
		{store.ErrNoXattr, syscall.ENODATA},
		{store.ErrStale, syscall.ESTALE},
	} {
		if got := syscall.Errno(op.xattrStatus(tt.err)); got != tt.want {
			t.Errorf("xattrStatus(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}

func TestLockStatus(t *testing.T) {
	op := operation{fs: &fileSystem{log: slog.New(slog.DiscardHandler)}}
	if got := syscall.Errno(op.lockStatus(store.ErrLocked)); got != syscall.EAGAIN {
		t.Errorf("lockStatus(ErrLocked) = %v, want EAGAIN", got)
	}
	if got := syscall.Errno(op.lockStatus(store.ErrDeadlock)); got != syscall.EDEADLK {
		t.Errorf("lockStatus(ErrDeadlock) = %v, want EDEADLK", got)
	}
}

package local

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

// Clone implements blob.Backend: a reflink on XFS, btrfs and other file systems
// that share extents, which takes milliseconds whatever the size, and a copy elsewhere.
func (b *Backend) Clone(src, dst blob.ID) (blob.File, error) {
	from, err := b.openat("clone", src, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := b.create(dst)
	if err != nil {
		return nil, err
	}
	if err := cloneContent(from, to); err != nil {
		return nil, errors.Join(fmt.Errorf("clone blob %s: %w", src, err), to.Close(), b.Delete(dst))
	}
	return to, nil
}

func cloneContent(from, to *file) error {
	err := to.call("ficlone", func() error { return unix.IoctlFileClone(to.fd, from.fd) })
	if err == nil || !unsupported(err) {
		return err
	}
	return copySparse(from, to)
}

// copySparse copies the data and leaves out the holes.
func copySparse(from, to *file) error {
	size, err := from.Size()
	if err != nil {
		return err
	}
	if err := to.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		data, err := from.SeekData(off)
		if errors.Is(err, io.EOF) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		hole, err := from.SeekHole(data)
		if err != nil {
			return err
		}
		if err := copyRange(from, to, data, min(hole, size)); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

// copyRange copies [off, end) inside the kernel, or through memory where that
// is not supported.
func copyRange(from, to *file, off, end int64) error {
	for off < end {
		n, err := copyInKernel(from, to, off, off, end-off)
		if err != nil && unsupported(err) {
			_, err := io.Copy(io.NewOffsetWriter(to.f, off), io.NewSectionReader(from.f, off, end-off))
			return err
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF // someone has truncated the source
		}
		off += int64(n)
	}
	return nil
}

// CopyRange implements blob.RangeCopier. File systems that share extents share
// what is aligned to their blocks (copy_file_range(2)).
func (f *file) CopyRange(dstOff int64, src blob.File, srcOff, n int64) (int64, error) {
	from, ok := src.(*file)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	copied, err := copyInKernel(from, f, srcOff, dstOff, n)
	if err != nil && unsupported(err) {
		return 0, errors.ErrUnsupported
	}
	return int64(copied), err
}

// copyInKernel copies up to n bytes. One call is kept to some milliseconds
// because it cannot be interrupted.
func copyInKernel(from, to *file, fromOff, toOff, n int64) (copied int, err error) {
	const perCall = 16 << 20
	err = to.call("copy_file_range", func() (err error) {
		r, w := fromOff, toOff
		copied, err = unix.CopyFileRange(from.fd, &r, to.fd, &w, int(min(n, perCall)), 0)
		runtime.KeepAlive(from.f)
		return err
	})
	return copied, err
}

// unsupported reports whether a file system, or a container's filter, does not do
// what was asked; see ioctl_ficlone(2) and copy_file_range(2).
func unsupported(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

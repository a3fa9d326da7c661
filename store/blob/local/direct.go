package local

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

var _ blob.DirectOpener = (*Backend)(nil)

// directAlign is what offset, length and memory of a direct read are a multiple
// of: no disk has larger logical blocks (open(2), O_DIRECT).
const directAlign = 4096

// directFile is a blob whose reads come from the disk.
type directFile struct {
	*file       // reads through the cache
	raw   *file // reads past it; nil: the file system cannot
}

// OpenDirect implements blob.DirectOpener. A file system that knows no O_DIRECT is
// asked to drop what it has cached before each read.
func (b *Backend) OpenDirect(id blob.ID) (blob.File, error) {
	f, err := b.openat("open", id, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	raw, err := b.openat("open", id, unix.O_RDONLY|unix.O_DIRECT)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, errors.Join(err, f.Close())
	}
	return &directFile{f, raw}, nil
}

// Close implements blob.File.
func (f *directFile) Close() error {
	err := f.file.Close()
	if f.raw != nil {
		err = errors.Join(err, f.raw.Close())
	}
	return err
}

// ReadAt implements io.ReaderAt. What cannot be read directly, as the bytes behind
// the last whole page, is read after the cache was dropped.
func (f *directFile) ReadAt(p []byte, off int64) (n int, err error) {
	if f.raw != nil && off%directAlign == 0 && len(p) >= directAlign && uintptr(unsafe.Pointer(&p[0]))%directAlign == 0 {
		n, err = f.raw.readPages(p[:len(p)/directAlign*directAlign], off)
		if n == len(p) || err != nil {
			return n, err
		}
	}
	// A wish: what is not on the disk yet stays.
	_ = unix.Fadvise(f.fd, off+int64(n), int64(len(p)-n), unix.FADV_DONTNEED)
	m, err := f.file.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

// readPages reads whole pages with O_DIRECT, fewer than asked for at the end or
// where the file system does not read this directly.
func (f *file) readPages(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m := 0
		err := f.call("pread", func() (err error) {
			m, err = unix.Pread(f.fd, p[n:], off+int64(n))
			return err
		})
		switch {
		case errors.Is(err, unix.EINVAL), err == nil && m == 0:
			return n, nil
		case err != nil:
			return n, err
		}
		if n += m; m%directAlign != 0 { // the end
			return n / directAlign * directAlign, nil
		}
	}
	return n, nil
}

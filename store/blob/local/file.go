package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

// file is an open blob.
type file struct {
	f       *os.File
	fd      int // of f, valid until Close
	id      blob.ID
	backend *Backend
	// labeled: it got a label, and beside: that is a file of its own.
	labeled, beside atomic.Bool
}

var (
	_ blob.File        = (*file)(nil)
	_ blob.OSFiler     = (*file)(nil)
	_ blob.Sparse      = (*file)(nil)
	_ blob.Stater      = (*file)(nil)
	_ blob.Allocator   = (*file)(nil)
	_ blob.RangeCopier = (*file)(nil)
	_ blob.Writebacker = (*file)(nil)
)

func (f *file) ReadAt(p []byte, off int64) (int, error)  { return f.f.ReadAt(p, off) }
func (f *file) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }
func (f *file) Truncate(size int64) error                { return f.f.Truncate(size) }
func (f *file) Close() error                             { return f.f.Close() }

// StartWriteback implements blob.Writebacker (sync_file_range(2), without its
// waiting flags). The kernel keeps an error for the fsync that follows.
func (f *file) StartWriteback(off, n int64) {
	_ = unix.SyncFileRange(f.fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// OSFile implements blob.OSFiler.
func (f *file) OSFile() *os.File { return f.f }

func (f *file) Size() (int64, error) {
	st, err := f.Stat()
	return st.Size, err
}

// Sync makes the content durable, and the name after it if that is new: a name
// that is durable before its content would be found with no content.
func (f *file) Sync() error {
	dir := f.backend.folder(f.id)
	if err := dir.failure(f.id); err != nil {
		return err
	}
	serial, isNew := dir.unsynced(f.id)
	if err := f.syncContent(isNew || f.labeled.Load()); err != nil {
		if errors.Is(err, fs.ErrClosed) {
			return err
		}
		err = fmt.Errorf("%w: %w", blob.ErrSyncFailed, err)
		dir.setFailed(f.id, err)
		f.backend.log.Error("blob sync failed", "blob", f.id, "error", err)
		return err
	}
	if !isNew && !f.beside.Load() {
		return nil
	}
	err := f.backend.use(dir, false, func(int) error { return dir.syncs.sync() })
	if errors.Is(err, fs.ErrClosed) {
		return err
	}
	if err != nil {
		f.backend.log.Error("blob folder sync failed", "folder", dir.path, "error", err)
		return fmt.Errorf("%w: folder: %w", blob.ErrSyncFailed, err)
	}
	if isNew {
		dir.setSynced(f.id, serial)
	}
	return nil
}

// syncContent flushes the content, and with all also what belongs to it: fdatasync(2)
// leaves out the times, which is one journal commit less for a rewrite in place, and
// may leave out extended attributes.
func (f *file) syncContent(all bool) error {
	if all {
		return f.f.Sync()
	}
	return f.call("fdatasync", func() error { return unix.Fdatasync(f.fd) })
}

// PunchHole implements blob.Sparse.
func (f *file) PunchHole(off, n int64) error {
	if n == 0 {
		return nil
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := f.call("fallocate", func() error { return unix.Fallocate(f.fd, mode, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return f.writeZeros(off, n)
	}
	return err
}

// writeZeros does what a hole reads like where holes cannot be punched.
func (f *file) writeZeros(off, n int64) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	end := min(off+n, size)
	zeros := make([]byte, 64<<10)
	for off < end {
		m, err := f.f.WriteAt(zeros[:min(int64(len(zeros)), end-off)], off)
		if err != nil {
			return err
		}
		off += int64(m)
	}
	return nil
}

// SeekData implements blob.Sparse.
func (f *file) SeekData(off int64) (int64, error) { return f.seek(off, unix.SEEK_DATA) }

// SeekHole implements blob.Sparse.
func (f *file) SeekHole(off int64) (int64, error) { return f.seek(off, unix.SEEK_HOLE) }

// seek asks with lseek(2), which moves the file offset; nothing here uses it.
func (f *file) seek(off int64, whence int) (int64, error) {
	var at int64
	err := f.call("lseek", func() (err error) {
		at, err = unix.Seek(f.fd, off, whence)
		return err
	})
	if errors.Is(err, unix.ENXIO) {
		return 0, io.EOF
	}
	return at, err
}

// Allocated implements blob.Sparse.
func (f *file) Allocated() (int64, error) {
	st, err := f.Stat()
	return st.Allocated, err
}

// Stat implements blob.Stater.
func (f *file) Stat() (blob.Stat, error) {
	var st unix.Stat_t
	if err := f.call("fstat", func() error { return unix.Fstat(f.fd, &st) }); err != nil {
		return blob.Stat{}, err
	}
	const blockSize = 512 // of st_blocks, see stat(2)
	return blob.Stat{
		Size: st.Size, Allocated: st.Blocks * blockSize, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}, nil
}

// Allocate implements blob.Allocator.
func (f *file) Allocate(off, n int64) error {
	if n == 0 {
		return nil
	}
	err := f.call("fallocate", func() error { return unix.Fallocate(f.fd, unix.FALLOC_FL_KEEP_SIZE, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// call runs a system call on f.fd.
func (f *file) call(op string, fn func() error) error {
	err := retry(fn)
	runtime.KeepAlive(f.f)
	if err != nil {
		return &fs.PathError{Op: op, Path: f.f.Name(), Err: err}
	}
	return nil
}

// Package local is the blob backend on a folder of a local Linux file system:
// one ordinary file per blob, which any tool can read if all else is lost.
//
// The layout is <dir>/<first byte of the id in hex>/<id in hex>. A single
// level of 256 folders was the fastest of 1, 256, 4,096 and 65,536 on ext4, where
// each folder gets a block group of its own. The folders' descriptors stay open, so
// that a name costs one path component and a folder can be synced at once.
package local

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

// Options set up a backend. The zero value opens an existing one without a log.
type Options struct {
	// Create makes the folder and its structure if it is absent or empty.
	Create bool

	// ReadOnly changes nothing in the folder, which must exist: what would is refused with
	// EROFS. It is locked all the same if it has its LOCK, as every folder has that was
	// ever opened otherwise.
	ReadOnly bool

	// Logger receives what an operator has to know. Default: nothing is logged.
	Logger *slog.Logger
}

// Backend is an open folder of blobs.
type Backend struct {
	// Immutable after Open.
	dir      string
	readOnly bool
	log      *slog.Logger
	lock     *os.File  // holds a flock(2) on dir/LOCK
	root     groupSync // of dir
	folders  [folderCount]*folder

	typeOnce  sync.Once
	timesTell bool // valid after typeOnce

	// mu is held for reading while a folder's descriptor is in use and for
	// writing by Close.
	mu     sync.RWMutex
	closed bool
}

var _ blob.Backend = (*Backend)(nil)

const (
	folderCount = 256

	filePerm   = 0o600
	folderPerm = 0o700

	formatName = "FORMAT"
	formatText = "engramfs-blob local 1\n"
	lockName   = "LOCK"
)

// Open opens the backend in dir. It returns blob.ErrInUse if another process
// or backend has it open, an error that wraps fs.ErrNotExist if there is none and
// Create is not set, and an error if dir holds something else.
func Open(dir string, opts Options) (*Backend, error) {
	b := &Backend{dir: filepath.Clean(dir), readOnly: opts.ReadOnly, log: opts.Logger}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.root.init(func() error { return syncDir(b.dir) })
	for i := range b.folders {
		b.folders[i] = newFolder(filepath.Join(b.dir, folderName(byte(i))), &b.root)
	}
	if err := b.open(opts.Create && !opts.ReadOnly); err != nil {
		b.release()
		return nil, fmt.Errorf("open blobs in %s: %w", b.dir, err)
	}
	return b, nil
}

func (b *Backend) open(create bool) error {
	if create {
		if err := mkdirAllSync(b.dir); err != nil {
			return err
		}
	}
	if err := b.checkFormat(create); err != nil {
		return err
	}
	if err := b.acquire(); err != nil {
		return err
	}
	if create {
		if err := b.writeFormat(); err != nil {
			return err
		}
	}
	if b.readOnly {
		return nil
	}
	// Folders that an earlier process has made may not be durable yet.
	return b.root.sync()
}

// checkFormat tells a backend from a folder that holds something else, or in
// which a disk is not mounted.
func (b *Backend) checkFormat(create bool) error {
	text, err := os.ReadFile(filepath.Join(b.dir, formatName))
	if err == nil && string(text) != formatText {
		return fmt.Errorf("%s is %q, this program knows %q: use the version of the program that wrote it",
			formatName, text, formatText)
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) || !create {
		return err
	}
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !isOurs(e.Name()) {
			return fmt.Errorf("the folder is not empty and is not a blob folder: it has %q but no %s",
				e.Name(), formatName)
		}
		if err := b.checkEmpty(e); err != nil {
			return err
		}
	}
	return nil
}

// isOurs reports whether a creation that was cut short may have left name.
func isOurs(name string) bool {
	var n byte
	_, err := fmt.Sscanf(name, "%02x", &n)
	return err == nil && name == folderName(n) || name == lockName || name == formatName+".tmp"
}

func (b *Backend) checkEmpty(e fs.DirEntry) error {
	if !e.IsDir() {
		return nil
	}
	inner, err := os.ReadDir(filepath.Join(b.dir, e.Name()))
	if err != nil {
		return err
	}
	if len(inner) > 0 {
		return fmt.Errorf("folder %s is not empty but there is no %s: restore that file from a backup",
			e.Name(), formatName)
	}
	return nil
}

// acquire takes the lock or returns blob.ErrInUse at once. The kernel drops
// it when the process ends, however it ends.
func (b *Backend) acquire() error {
	flags := os.O_RDWR | os.O_CREATE
	if b.readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(filepath.Join(b.dir, lockName), flags, filePerm)
	if b.readOnly && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b.lock = f
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return blob.ErrInUse
	}
	return os.NewSyscallError("flock", err)
}

func (b *Backend) writeFormat() error {
	path := filepath.Join(b.dir, formatName)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	_, err = f.WriteString(formatText)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// Create implements blob.Backend.
func (b *Backend) Create(id blob.ID) (blob.File, error) {
	f, err := b.create(id)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (b *Backend) create(id blob.ID) (*file, error) {
	dir := b.folder(id)
	// The name counts as not durable before it exists: a Sync through another
	// File may come at once.
	dir.markCreated(id)
	f, err := b.openat("create", id, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		dir.forget(id)
	}
	return f, err
}

// Open implements blob.Backend.
func (b *Backend) Open(id blob.ID, write bool) (blob.File, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	f, err := b.openat("open", id, flags)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (b *Backend) openat(op string, id blob.ID, flags int) (*file, error) {
	dir := b.folder(id)
	if b.readOnly && flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, b.refused(op, dir, id)
	}
	fd := -1
	err := b.use(dir, flags&unix.O_CREAT != 0, func(dirfd int) error {
		return retry(func() (err error) {
			fd, err = unix.Openat(dirfd, id.String(), flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, filePerm)
			return err
		})
	})
	path := filepath.Join(dir.path, id.String())
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: path, Err: err}
	}
	return &file{f: os.NewFile(uintptr(fd), path), fd: fd, id: id, backend: b}, nil
}

// Delete implements blob.Backend. It is not durable by itself: a blob that a
// power cut brings back has no reference, as any other leftover.
func (b *Backend) Delete(id blob.ID) error {
	dir := b.folder(id)
	if b.readOnly {
		return b.refused("delete", dir, id)
	}
	err := b.use(dir, false, func(dirfd int) error {
		_ = unix.Unlinkat(dirfd, id.String()+labelSuffix, 0) // few have one; one left over is skipped by List
		return retry(func() error { return unix.Unlinkat(dirfd, id.String(), 0) })
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "delete", Path: filepath.Join(dir.path, id.String()), Err: err}
	}
	dir.forget(id)
	return nil
}

// refused returns the error of what Options.ReadOnly does not let be done.
func (*Backend) refused(op string, dir *folder, id blob.ID) error {
	return &fs.PathError{Op: op, Path: filepath.Join(dir.path, id.String()), Err: unix.EROFS}
}

// Free implements blob.Backend: what an ordinary user may still write.
func (b *Backend) Free() (free, total int64, err error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return 0, 0, fs.ErrClosed
	}
	return Space(b.dir)
}

var _ blob.Syncer = (*Backend)(nil)

// SyncAll implements blob.Syncer (syncfs(2)).
func (b *Backend) SyncAll() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	switch {
	case b.closed:
		return fs.ErrClosed
	case b.readOnly:
		return nil // there is nothing
	}
	err := retry(func() error { return unix.Syncfs(int(b.lock.Fd())) })
	return os.NewSyscallError("syncfs", err)
}

// Close implements blob.Backend.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	return b.release()
}

func (b *Backend) release() error {
	var errs []error
	for _, dir := range b.folders {
		errs = append(errs, dir.close())
	}
	if b.lock != nil {
		errs = append(errs, b.lock.Close())
	}
	return errors.Join(errs...)
}

// use runs fn with the folder's descriptor, which stays open meanwhile.
func (b *Backend) use(dir *folder, create bool, fn func(dirfd int) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return fs.ErrClosed
	}
	f, err := dir.open(create)
	if err != nil {
		return err
	}
	return fn(int(f.Fd()))
}

func (b *Backend) folder(id blob.ID) *folder { return b.folders[id[0]] }

// Space returns the bytes that an ordinary user may still write to the file
// system that path is on, and its size.
func Space(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(path, &st) }); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	unit := int64(st.Frsize) //nolint:unconvert // it is an int32 on some machines
	return int64(st.Bavail) * unit, int64(st.Blocks) * unit, nil
}

func folderName(n byte) string { return fmt.Sprintf("%02x", n) }

// mkdirAllSync makes dir and its parents, each durable.
func mkdirAllSync(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := mkdirAllSync(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, folderPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

package local

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

// List implements blob.Backend. What is not a blob is left alone and logged.
func (b *Backend) List(fn func(blob.Info) error) error {
	junk := 0
	for i, dir := range b.folders {
		n, err := b.listFolder(byte(i), dir, fn)
		junk += n
		if err != nil {
			return err
		}
	}
	if junk > 0 {
		b.log.Warn("blob folders hold files that are no blobs", "dir", b.dir, "count", junk)
	}
	return nil
}

// listFolder reads the folder in batches: it may hold very many names.
func (b *Backend) listFolder(first byte, dir *folder, fn func(blob.Info) error) (junk int, err error) {
	f, err := b.reopen(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // no blob has come yet
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for {
		const batch = 1024
		names, err := f.Readdirnames(batch)
		for _, name := range names {
			info, err := b.stat(first, f, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if errors.Is(err, errJunk) && isLabel(name) {
				continue
			}
			if errors.Is(err, errJunk) {
				junk++
				b.log.Debug("not a blob", "path", filepath.Join(dir.path, name))
				continue
			}
			if err != nil {
				return junk, err
			}
			if err := fn(info); err != nil {
				return junk, err
			}
		}
		if errors.Is(err, io.EOF) {
			return junk, nil
		}
		if err != nil {
			return junk, err
		}
	}
}

// reopen opens the folder again, since reading moves the file offset.
func (b *Backend) reopen(dir *folder) (*os.File, error) {
	fd := -1
	err := b.use(dir, false, func(dirfd int) error {
		return retry(func() (err error) {
			fd, err = unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			return err
		})
	})
	if err != nil {
		return nil, &fs.PathError{Op: "list", Path: dir.path, Err: err}
	}
	return os.NewFile(uintptr(fd), dir.path), nil
}

var errJunk = errors.New("not a blob")

// stat returns errJunk for a name that is no id, an id that belongs elsewhere,
// and anything but a regular file.
func (b *Backend) stat(first byte, dir *os.File, name string) (blob.Info, error) {
	id, err := blob.ParseID(name)
	if err != nil || id[0] != first {
		return blob.Info{}, errJunk
	}
	var st unix.Stat_t
	if err := retry(func() error {
		return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return blob.Info{}, &fs.PathError{Op: "stat", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return blob.Info{}, errJunk
	}
	return blob.Info{ID: id, Size: st.Size, ModTime: time.Unix(st.Mtim.Unix())}, nil
}

package fuse

import (
	"context"
	"errors"
	"path"

	"engramfs/store"
)

// davMatters reports whether WebDAV locks bind the mount and there are any.
func (fs *fileSystem) davMatters() bool {
	if fs.o.DAVLocks != DAVLocksMandatory || fs.store.DAVLocks().Len() == 0 {
		return false
	}
	fs.store.DAVLocks().Prune(fs.store.Now())
	return true
}

// davUnlocked returns ErrLocked if a WebDAV lock covers the file. A file with
// several names is known by one of them.
func (fs *fileSystem) davUnlocked(ctx context.Context, ino store.Ino) error {
	if !fs.davMatters() {
		return nil
	}
	p, err := fs.store.PathOf(ctx, ino)
	if errors.Is(err, store.ErrStale) { // it has no name that could be locked
		return nil
	}
	if err != nil {
		return err
	}
	return fs.davFree(p)
}

// davChildUnlocked returns ErrLocked if a WebDAV lock covers the entry name of
// parent, or the list of parent's entries (RFC 4918 section 7.4).
func (fs *fileSystem) davChildUnlocked(ctx context.Context, parent store.Ino, name string) error {
	if !fs.davMatters() {
		return nil
	}
	_, err := fs.davEntry(ctx, parent, name)
	return err
}

// davTreeUnlocked is davChildUnlocked for an entry that leaves with all below it.
func (fs *fileSystem) davTreeUnlocked(ctx context.Context, parent store.Ino, name string) error {
	if !fs.davMatters() {
		return nil
	}
	p, err := fs.davEntry(ctx, parent, name)
	if err != nil {
		return err
	}
	within, err := fs.store.DAVLocks().Within(fs.store.Now(), p)
	if err == nil && len(within) > 0 {
		err = store.ErrLocked
	}
	return err
}

// davEntry returns the path of an entry that no lock covers.
func (fs *fileSystem) davEntry(ctx context.Context, parent store.Ino, name string) (string, error) {
	dir, err := fs.store.PathOf(ctx, parent)
	if err != nil {
		return "", err
	}
	if err := fs.davFree(dir); err != nil {
		return "", err
	}
	p := path.Join(dir, name)
	return p, fs.davFree(p)
}

func (fs *fileSystem) davFree(p string) error {
	locks, err := fs.store.DAVLocks().Covering(fs.store.Now(), p)
	if err == nil && len(locks) > 0 {
		err = store.ErrLocked
	}
	return err
}

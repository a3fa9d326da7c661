package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

// A label is an extended attribute of the blob's file, or, where the file system has
// none or has no room for it, a file beside it.
const (
	labelXattr  = "user.engramfs.label"
	labelSuffix = ".label"
)

var _ blob.Labeler = (*file)(nil)

// SetLabel implements blob.Labeler.
func (f *file) SetLabel(label []byte) error {
	if len(label) > blob.MaxLabel {
		return fmt.Errorf("%w: label of %d bytes", fs.ErrInvalid, len(label))
	}
	if f.backend.readOnly {
		return f.backend.refused("label", f.backend.folder(f.id), f.id)
	}
	err := f.call("fsetxattr", func() error { return unix.Fsetxattr(f.fd, labelXattr, label, 0) })
	f.labeled.Store(true)
	if !noRoom(err) {
		return err
	}
	f.beside.Store(true)
	return f.writeLabelFile(label)
}

// noRoom reports whether err says that an extended attribute cannot be had here.
func noRoom(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.E2BIG, unix.ENOSPC, unix.ERANGE, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// writeLabelFile replaces the file beside the blob. Its name becomes durable with Sync.
func (f *file) writeLabelFile(label []byte) error {
	name := f.f.Name() + labelSuffix
	tmp, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	_, err = tmp.Write(label)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(name+".tmp", name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(name+".tmp"))
	}
	// An older label in the other place would be the one that is found.
	if err := f.call("fremovexattr", func() error { return unix.Fremovexattr(f.fd, labelXattr) }); err != nil &&
		!errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

// Label implements blob.Labeler.
func (f *file) Label() ([]byte, error) {
	b := make([]byte, blob.MaxLabel)
	n := 0
	err := f.call("fgetxattr", func() (err error) {
		n, err = unix.Fgetxattr(f.fd, labelXattr, b)
		return err
	})
	if err == nil {
		return b[:n], nil
	}
	if !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, err
	}
	return os.ReadFile(f.f.Name() + labelSuffix)
}

// isLabel reports whether name, in a folder of blobs, belongs to a label.
func isLabel(name string) bool {
	id, rest, _ := strings.Cut(name, labelSuffix)
	_, err := blob.ParseID(id)
	return err == nil && (rest == "" || rest == ".tmp") && id != name
}

package local

import (
	"errors"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

var _ blob.WriterDetector = (*Backend)(nil)

// HasWriters implements blob.WriterDetector. A read lease is given only on a file
// that nobody has open for writing (fcntl(2), F_SETLEASE), and a shared mapping that
// may be written counts as open for as long as it exists.
func (b *Backend) HasWriters(id blob.ID) (bool, error) {
	f, err := b.openat("open", id, unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	err = f.call("fcntl", func() error {
		_, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_RDLCK)
		return err
	})
	writers := err != nil // EAGAIN; where leases are not known nobody can tell
	if !writers {
		// Who opens the file for writing meanwhile waits for this.
		err = f.call("fcntl", func() error {
			_, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_UNLCK)
			return err
		})
	} else {
		err = nil
	}
	return writers, errors.Join(err, f.Close())
}

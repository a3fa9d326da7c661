package local

import (
	"errors"

	"golang.org/x/sys/unix"

	"engramfs/store/blob"
)

var (
	_ blob.WriterDetector = (*Backend)(nil)
	_ blob.WriteTimer     = (*Backend)(nil)
)

// TimesTell implements blob.WriteTimer. The file systems listed set the time when a page
// of a mapping becomes writable. Others do not, as tmpfs, or later, or nobody has looked.
func (b *Backend) TimesTell() bool {
	b.typeOnce.Do(func() {
		var st unix.Statfs_t
		if retry(func() error { return unix.Statfs(b.dir, &st) }) != nil {
			return
		}
		switch uint32(st.Type) {
		case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
			b.timesTell = true
		}
	})
	return b.timesTell
}

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

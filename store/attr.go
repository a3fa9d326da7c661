package store

import (
	"io/fs"
	"strconv"
	"time"
)

// Ino is an inode number. Numbers are never reused.
type Ino uint64

// RootIno is the inode of the root directory.
const RootIno Ino = 1

// Limits of names and attributes.
const (
	MaxName       = 255       // bytes in one name
	MaxLinks      = 1<<31 - 1 // names of one inode
	MaxXattrName  = 255       // bytes in an extended attribute's name
	MaxXattrValue = 64 << 10  // bytes in an extended attribute's value
	MaxXattrNames = 64 << 10  // bytes in all names of one inode's, each with a NUL (listxattr(2))
	MaxXattrBytes = 1 << 20   // bytes in all names and values of one inode's: they are read, and copied, at once
	MaxFileSize   = 1 << 53   // bytes in a file
)

// File type bits of Attr.Mode, as in stat(2).
const (
	ModeType    uint32 = 0o170000
	ModeFIFO    uint32 = 0o010000
	ModeChar    uint32 = 0o020000
	ModeDir     uint32 = 0o040000
	ModeBlock   uint32 = 0o060000
	ModeRegular uint32 = 0o100000
	ModeSymlink uint32 = 0o120000
	ModeSocket  uint32 = 0o140000
	ModePerm    uint32 = 0o7777 // permission, setuid, setgid and sticky bits

	modeSetuid    uint32 = 0o4000
	modeSetgid    uint32 = 0o2000
	modeGroupExec uint32 = 0o010
)

// Attr is what stat(2) knows of an inode, and the counters its ETag is made of.
type Attr struct {
	Ino  Ino
	Gen  uint64 // generation: distinguishes stores and rebuilt inodes in the ETag
	Mode uint32 // type and permission bits, as in stat(2)
	// INVARIANT: Nlink == dirents naming this inode; for a directory 2 + child directories.
	Nlink uint32
	UID   uint32
	GID   uint32
	Rdev  uint32 // device number of a device node
	Size  int64  // bytes; of a symlink, the length of its target
	Atime int64  // times in nanoseconds since the Unix epoch
	Mtime int64
	Ctime int64
	Btime int64
	// Change counts every committed change of the inode, Version those of its
	// content (for a directory: its entries). The ETag is made of Version.
	Change  uint64
	Version uint64
	// HasXattrs reports whether the inode may have extended attributes; false
	// means there are none, and no lookup is needed to know it.
	HasXattrs bool
	// Sparse reports whether the content may have holes or reserved space, so
	// that only Store.Allocated knows what it takes on the disk. Otherwise that is
	// Size, rounded up to the disk's blocks.
	Sparse bool
	// Native: the content may just be written past the store (Handle.Native).
	// Size and times are current as far as the kernel tells them, but Version does
	// not count these writes, so that ETag stands for none of these contents.
	Native bool
}

// IsDir reports whether the inode is a directory.
func (a *Attr) IsDir() bool { return a.Mode&ModeType == ModeDir }

// IsRegular reports whether the inode is a regular file.
func (a *Attr) IsRegular() bool { return a.Mode&ModeType == ModeRegular }

// IsSymlink reports whether the inode is a symbolic link.
func (a *Attr) IsSymlink() bool { return a.Mode&ModeType == ModeSymlink }

// ModTime returns Mtime as a time.
func (a *Attr) ModTime() time.Time { return time.Unix(0, a.Mtime) }

// ETag returns the strong entity tag of the inode's current content, quoted
// (RFC 9110 section 8.8.3). It never depends on a time: two contents of one
// inode have two tags, and a recreated file has a new inode.
func (a *Attr) ETag() string { return string(a.AppendETag(nil)) }

// AppendETag appends ETag to b.
func (a *Attr) AppendETag(b []byte) []byte {
	b = append(b, '"')
	b = strconv.AppendUint(b, uint64(a.Ino), 36)
	b = append(b, '-')
	b = strconv.AppendUint(b, a.Gen, 36)
	b = append(b, '-')
	b = strconv.AppendUint(b, a.Version, 36)
	return append(b, '"')
}

// FileMode returns Mode as the standard library spells it.
func (a *Attr) FileMode() fs.FileMode {
	m := fs.FileMode(a.Mode & 0o777)
	switch a.Mode & ModeType {
	case ModeDir:
		m |= fs.ModeDir
	case ModeSymlink:
		m |= fs.ModeSymlink
	case ModeFIFO:
		m |= fs.ModeNamedPipe
	case ModeSocket:
		m |= fs.ModeSocket
	case ModeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case ModeBlock:
		m |= fs.ModeDevice
	}
	if a.Mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if a.Mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if a.Mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// NewNode describes an inode to be created. The zero value is an empty
// regular file with mode 0600 of user and group 0.
type NewNode struct {
	Mode   uint32 // type and permission bits; no type bits mean a regular file, a zero Mode means 0600
	UID    uint32
	GID    uint32
	Rdev   uint32
	Target string    // of a symlink, 1 to 4095 bytes
	Mtime  time.Time // zero: now
	Xattrs map[string][]byte
}

// SetAttr names the attributes to change; nil fields stay as they are. The zero
// value changes nothing, ctime included.
//
// UID or GID, also an equal one, take the privileges away that KillPriv does
// from anything but a directory, unless Mode says what the bits are to be
// (chown(2)).
type SetAttr struct {
	Mode  *uint32 // permission bits only
	UID   *uint32
	GID   *uint32
	Size  *int64
	Atime *time.Time
	Mtime *time.Time
	Btime *time.Time

	AtimeNow, MtimeNow bool // the time of the change, before Atime and Mtime

	// KillPriv removes the set-user-ID bit, the set-group-ID bit if the group
	// may execute, and security.capability, of anything but a directory.
	KillPriv bool
}

// Dirent is one entry of a directory.
type Dirent struct {
	Name string
	Ino  Ino
	Type uint32 // the type bits of the inode's mode
}

// Cond decides under the locks of a change whether it may happen: cur is the
// inode that the name has now, nil when it has none. A non-nil error refuses
// the change, which then has changed nothing. A Cond may be called more than
// once. Of the store it may call nothing but Now and the DAVLocks, whose lock
// comes after every inode's.
type Cond func(cur *Attr) error

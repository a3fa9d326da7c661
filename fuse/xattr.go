package fuse

import (
	"errors"
	iofs "io/fs"
	"slices"
	"strings"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

const (
	trustedPrefix = "trusted."

	// maxXattrList is the kernel's limit of a list of names (XATTR_LIST_MAX).
	maxXattrList = 64 << 10
)

// The dead properties of WebDAV are in the store as user.dav.*: programs see
// them, and rsync -X and tar --xattrs carry them along.

// xattrAllowed returns nil if there may be an attribute of that name. The kernel
// has checked who may touch which namespace, but not that it is one (xattr(7)).
// system. is not for storing: its names are interfaces of a file system, and this
// one has the ACLs, if enabled.
func (fs *fileSystem) xattrAllowed(name string) error {
	if isACL(name) && fs.o.ACL {
		return nil
	}
	for _, space := range [...]string{"user.", "security.", trustedPrefix} {
		if strings.HasPrefix(name, space) {
			if len(name) == len(space) {
				return iofs.ErrInvalid
			}
			return nil
		}
	}
	return errors.ErrUnsupported
}

// xattrStatus is status for operations on extended attributes.
func (op *operation) xattrStatus(err error) gofuse.Status {
	if errors.Is(err, store.ErrTooBig) {
		return gofuse.Status(syscall.E2BIG)
	}
	if errors.Is(err, store.ErrNameTooLong) {
		return gofuse.ERANGE
	}
	return op.status(err)
}

// reply copies a value into the caller's buffer; an empty one asks for the size.
func replyXattr(dest, value []byte) (uint32, gofuse.Status) {
	if len(value) > len(dest) {
		return uint32(len(value)), gofuse.ERANGE // the server makes it a size if the buffer is empty
	}
	return uint32(copy(dest, value)), gofuse.OK
}

// GetXAttr is getxattr(2).
func (fs *fileSystem) GetXAttr(_ <-chan struct{}, in *gofuse.InHeader, name string, dest []byte) (size uint32, status gofuse.Status) {
	op := fs.begin("getxattr", in, &status)
	defer op.end(&status)
	if err := fs.xattrAllowed(name); err != nil {
		return 0, op.status(err)
	}
	ctx, _ := op.context()
	get := fs.store.GetXattr
	if isVirtualXattr(name) {
		get = fs.virtualXattr
	}
	value, err := get(ctx, store.Ino(in.NodeId), name)
	if err != nil {
		return 0, op.xattrStatus(err)
	}
	return replyXattr(dest, value)
}

// ListXAttr is listxattr(2). Only root sees trusted. names: the kernel does not
// take them out of the list of this kind of file system.
func (fs *fileSystem) ListXAttr(_ <-chan struct{}, in *gofuse.InHeader, dest []byte) (size uint32, status gofuse.Status) {
	op := fs.begin("listxattr", in, &status)
	defer op.end(&status)
	ctx, _ := op.context()
	attrs, err := fs.store.Xattrs(ctx, store.Ino(in.NodeId))
	if err != nil {
		return 0, op.xattrStatus(err)
	}
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		hidden := strings.HasPrefix(name, trustedPrefix) && in.Uid != 0 || isVirtualXattr(name)
		if !hidden && fs.xattrAllowed(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	if len(list) > maxXattrList {
		return 0, gofuse.Status(syscall.E2BIG)
	}
	return replyXattr(dest, list)
}

// SetXAttr is setxattr(2).
func (fs *fileSystem) SetXAttr(_ <-chan struct{}, in *gofuse.SetXAttrIn, name string, value []byte) (status gofuse.Status) {
	op := fs.begin("setxattr", &in.InHeader, &status)
	defer op.end(&status)
	if err := fs.xattrAllowed(name); err != nil {
		return op.status(err)
	}
	if isVirtualXattr(name) {
		return op.status(errVirtualXattr)
	}
	var flags store.XattrFlags
	if in.Flags&unix.XATTR_CREATE != 0 {
		flags |= store.XattrCreate
	}
	if in.Flags&unix.XATTR_REPLACE != 0 {
		flags |= store.XattrReplace
	}
	ctx, _ := op.context()
	ino := store.Ino(in.NodeId)
	var err error
	if isACL(name) {
		err = fs.setACL(ctx, ino, name, value, in.SetXAttrFlags&gofuse.SETXATTR_ACL_KILL_SGID != 0)
	} else {
		err = fs.store.SetXattr(ctx, ino, name, value, flags)
	}
	if err == nil {
		err = fs.committed(ctx)
	}
	return op.xattrStatus(err)
}

// RemoveXAttr is removexattr(2).
func (fs *fileSystem) RemoveXAttr(_ <-chan struct{}, in *gofuse.InHeader, name string) (status gofuse.Status) {
	op := fs.begin("removexattr", in, &status)
	defer op.end(&status)
	if err := fs.xattrAllowed(name); err != nil {
		return op.status(err)
	}
	if isVirtualXattr(name) {
		return op.status(errVirtualXattr)
	}
	ctx, _ := op.context()
	ino := store.Ino(in.NodeId)
	var err error
	if isACL(name) {
		err = fs.removeACL(ctx, ino, name)
	} else {
		err = fs.store.RemoveXattr(ctx, ino, name)
	}
	if err == nil {
		err = fs.committed(ctx)
	}
	return op.xattrStatus(err)
}

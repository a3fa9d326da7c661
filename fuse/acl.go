package fuse

import (
	"context"
	"encoding/binary"
	"errors"

	"engramfs/store"
)

// The extended attributes of POSIX access control lists, acl(5). They are stored
// as the kernel writes them (include/uapi/linux/posix_acl_xattr.h).
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

func isACL(name string) bool { return name == aclAccess || name == aclDefault }

// Tags of the entries of a list.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

const (
	aclVersion    = 2
	aclHeaderSize = 4
	aclEntrySize  = 8
)

// acl is an access control list.
type acl []aclEntry

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// parseACL reads a list. The kernel has checked that its entries fit together
// when it was set through the mount; whatever else is in the store must not
// grant anything, so it is refused.
func parseACL(b []byte) (acl, error) {
	if len(b) < aclHeaderSize || (len(b)-aclHeaderSize)%aclEntrySize != 0 || binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, errBadACL
	}
	var (
		list acl
		seen = map[uint16]int{}
	)
	for b = b[aclHeaderSize:]; len(b) > 0; b = b[aclEntrySize:] {
		e := aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])}
		switch e.tag {
		case aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther:
		default:
			return nil, errBadACL
		}
		if e.perm&^7 != 0 {
			return nil, errBadACL
		}
		seen[e.tag]++
		list = append(list, e)
	}
	named := seen[aclUser]+seen[aclGroup] > 0
	whole := seen[aclUserObj] == 1 && seen[aclGroupObj] == 1 && seen[aclOther] == 1 && seen[aclMask] <= 1
	if len(list) > 0 && (!whole || named && seen[aclMask] == 0) {
		return nil, errBadACL
	}
	return list, nil
}

func (l acl) encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, aclHeaderSize+aclEntrySize*len(l)), aclVersion)
	for _, e := range l {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// minimal reports whether the list says no more than a mode can.
func (l acl) minimal() bool {
	for _, e := range l {
		switch e.tag {
		case aclUser, aclGroup, aclMask:
			return false
		}
	}
	return true
}

func (l acl) find(tag uint16) *aclEntry {
	for i := range l {
		if l[i].tag == tag {
			return &l[i]
		}
	}
	return nil
}

// class returns the entry that the group bits of the mode stand for.
func (l acl) class() *aclEntry {
	if m := l.find(aclMask); m != nil {
		return m
	}
	return l.find(aclGroupObj)
}

// mode returns the permission bits that the list stands for.
func (l acl) mode() uint32 {
	return uint32(l.find(aclUserObj).perm)<<6 | uint32(l.class().perm)<<3 | uint32(l.find(aclOther).perm)
}

// chmod changes the entries that the mode's bits stand for.
func (l acl) chmod(mode uint32) {
	l.find(aclUserObj).perm = uint16(mode >> 6 & 7)
	l.class().perm = uint16(mode >> 3 & 7)
	l.find(aclOther).perm = uint16(mode & 7)
}

// restrict is chmod that only takes permissions away (acl(5), object creation).
func (l acl) restrict(mode uint32) {
	l.chmod(l.mode() & mode)
}

// loadACL returns an inode's list; nil if it has none.
func (fs *fileSystem) loadACL(ctx context.Context, ino store.Ino, name string) (acl, error) {
	b, err := fs.store.GetXattr(ctx, ino, name)
	if errors.Is(err, store.ErrNoXattr) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseACL(b)
}

// errModeChanged says that a mode was changed between a look and the change.
var errModeChanged = errors.New("mode changed meanwhile")

// patchMode changes extended attributes and the mode at once, as fn computes
// them from what the inode is.
func (fs *fileSystem) patchMode(ctx context.Context, ino store.Ino, fn func(cur *store.Attr) (map[string][]byte, store.SetAttr, error)) (store.Attr, error) {
	for {
		cur, err := fs.store.GetAttr(ctx, ino)
		if err != nil {
			return store.Attr{}, err
		}
		xattrs, set, err := fn(&cur)
		if err != nil {
			return store.Attr{}, err
		}
		a, err := fs.store.PatchXattrs(ctx, ino, xattrs, set, func(now *store.Attr) error {
			if now.Mode != cur.Mode || now.HasXattrs != cur.HasXattrs {
				return errModeChanged
			}
			return nil
		})
		if !errors.Is(err, errModeChanged) {
			return a, err
		}
	}
}

// setACL sets a list. That of access and the mode's bits are one thing said
// twice, so both change together; one that says no more than the mode is not kept.
func (fs *fileSystem) setACL(ctx context.Context, ino store.Ino, name string, value []byte, killSGID bool) error {
	list, err := parseACL(value)
	if err != nil {
		return err
	}
	_, err = fs.patchMode(ctx, ino, func(cur *store.Attr) (map[string][]byte, store.SetAttr, error) {
		if cur.IsSymlink() {
			return nil, store.SetAttr{}, errors.ErrUnsupported
		}
		xattrs := map[string][]byte{name: value}
		if name == aclDefault {
			if !cur.IsDir() {
				return nil, store.SetAttr{}, errNoDefaultACL
			}
			if len(list) == 0 {
				xattrs[name] = nil
			}
			return xattrs, store.SetAttr{}, nil
		}
		if list.minimal() {
			xattrs[name] = nil
		}
		if len(list) == 0 {
			return xattrs, store.SetAttr{}, nil
		}
		mode := cur.Mode&store.ModePerm&^0o777 | list.mode()
		if killSGID {
			mode &^= 0o2000
		}
		return xattrs, store.SetAttr{Mode: &mode}, nil
	})
	return err
}

// removeACL removes a list. There may be none.
func (fs *fileSystem) removeACL(ctx context.Context, ino store.Ino, name string) error {
	err := fs.store.RemoveXattr(ctx, ino, name)
	if errors.Is(err, store.ErrNoXattr) {
		return nil
	}
	return err
}

// chmodACL is SetAttr with a mode for an inode that may have a list.
func (fs *fileSystem) chmodACL(ctx context.Context, ino store.Ino, set store.SetAttr) (store.Attr, error) {
	if set.Size != nil {
		if _, err := fs.store.SetAttr(ctx, ino, store.SetAttr{Size: set.Size}); err != nil {
			return store.Attr{}, err
		}
		set.Size = nil
	}
	return fs.patchMode(ctx, ino, func(cur *store.Attr) (map[string][]byte, store.SetAttr, error) {
		if !cur.HasXattrs {
			return nil, set, nil
		}
		list, err := fs.loadACL(ctx, ino, aclAccess)
		if err != nil || len(list) == 0 {
			return nil, set, err
		}
		list.chmod(*set.Mode)
		return map[string][]byte{aclAccess: list.encode()}, set, nil
	})
}

// inheritACL gives a new inode what the default list of its directory says; if
// there is none, the umask takes effect. Without ACLs the kernel has applied it.
func (fs *fileSystem) inheritACL(ctx context.Context, dir store.Ino, n *store.NewNode, umask uint32) error {
	if !fs.o.ACL || n.Mode&store.ModeType == store.ModeSymlink {
		return nil
	}
	list, err := fs.loadACL(ctx, dir, aclDefault)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		n.Mode &^= umask & 0o777
		return nil
	}
	n.Xattrs = make(map[string][]byte, 2)
	if n.Mode&store.ModeType == store.ModeDir {
		n.Xattrs[aclDefault] = list.encode()
	}
	list.restrict(n.Mode)
	n.Mode = n.Mode&^0o777 | list.mode()
	if !list.minimal() {
		n.Xattrs[aclAccess] = list.encode()
	}
	return nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"engramfs/store/meta"
)

// XattrFlags say what SetXattr expects, as in setxattr(2).
type XattrFlags int

const (
	XattrCreate  XattrFlags = 1 + iota // it must not exist yet: fs.ErrExist
	XattrReplace                       // it must exist: ErrNoXattr
)

func checkXattr(name string, value []byte) error {
	switch {
	case name == "" || strings.ContainsRune(name, 0):
		return fmt.Errorf("%w: extended attribute name %q", fs.ErrInvalid, name)
	case len(name) > MaxXattrName:
		return fmt.Errorf("%w: extended attribute name of %d bytes", ErrNameTooLong, len(name))
	case len(value) > MaxXattrValue:
		return fmt.Errorf("%w: extended attribute of %d bytes", ErrTooBig, len(value))
	}
	return nil
}

// GetXattr returns the value of an extended attribute. The error matches
// ErrNoXattr if the inode has none of that name.
func (s *Store) GetXattr(ctx context.Context, ino Ino, name string) (value []byte, err error) {
	err = s.read(ctx, "get_xattr", ino, func(v *inode) error {
		if !v.HasXattrs {
			return ErrNoXattr
		}
		value, err = s.engine.Get(xattrKey(ino, name))
		if errors.Is(err, meta.ErrNotFound) {
			return ErrNoXattr
		}
		return err
	})
	return value, err
}

// Xattrs returns all extended attributes of an inode.
func (s *Store) Xattrs(ctx context.Context, ino Ino) (attrs map[string][]byte, err error) {
	err = s.read(ctx, "list_xattr", ino, func(v *inode) error {
		if !v.HasXattrs {
			return nil
		}
		attrs, err = s.readXattrs(ino)
		return err
	})
	return attrs, err
}

// readXattrs reads all extended attributes of an inode whose lock is held.
func (s *Store) readXattrs(ino Ino) (map[string][]byte, error) {
	attrs := make(map[string][]byte)
	prefix := inoKey(keyXattr, ino)
	err := s.engine.Scan(prefix, prefixEnd(prefix), func(key, value []byte) bool {
		attrs[string(key[9:])] = append([]byte{}, value...)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("extended attributes of inode %d: %w", ino, err)
	}
	return attrs, nil
}

// SetXattr sets an extended attribute (setxattr(2)). The error matches
// fs.ErrExist, ErrNoXattr, ErrTooBig or ErrNameTooLong.
func (s *Store) SetXattr(ctx context.Context, ino Ino, name string, value []byte, flags XattrFlags) error {
	if err := checkXattr(name, value); err != nil {
		return err
	}
	return s.change(ctx, "set_xattr", []Ino{ino}, func(c *change) error {
		if flags != 0 {
			_, err := s.engine.Get(xattrKey(ino, name))
			switch {
			case err == nil && flags&XattrCreate != 0:
				return fs.ErrExist
			case errors.Is(err, meta.ErrNotFound):
				if flags&XattrReplace != 0 {
					return ErrNoXattr
				}
			case err != nil:
				return fmt.Errorf("extended attribute of inode %d: %w", ino, err)
			}
		}
		v, err := c.edit(ino)
		if err != nil {
			return err
		}
		v.HasXattrs = true
		c.put(xattrKey(ino, name), notNil(value))
		c.emit(Event{Ino: ino})
		return nil
	})
}

// RemoveXattr removes an extended attribute. The error matches ErrNoXattr.
func (s *Store) RemoveXattr(ctx context.Context, ino Ino, name string) error {
	return s.changeFreeing(ctx, "remove_xattr", []Ino{ino}, func(c *change) error {
		_, err := s.engine.Get(xattrKey(ino, name))
		if errors.Is(err, meta.ErrNotFound) {
			return ErrNoXattr
		}
		if err != nil {
			return fmt.Errorf("extended attribute of inode %d: %w", ino, err)
		}
		if _, err := c.edit(ino); err != nil {
			return err
		}
		c.delete(xattrKey(ino, name))
		c.emit(Event{Ino: ino})
		return nil
	})
}

// PatchXattrs sets the extended attributes of set, removes those whose value
// is nil, and changes attributes like SetAttr, all in one batch. Removing one
// that does not exist is no error. a.Size must be nil.
func (s *Store) PatchXattrs(ctx context.Context, ino Ino, set map[string][]byte, a SetAttr) (attr Attr, err error) {
	if a.Size != nil {
		return Attr{}, fmt.Errorf("%w: PatchXattrs does not change the size", fs.ErrInvalid)
	}
	for name, value := range set {
		if err := checkXattr(name, value); err != nil {
			return Attr{}, err
		}
	}
	err = s.change(ctx, "patch_xattrs", []Ino{ino}, func(c *change) error {
		v, err := c.edit(ino)
		if err != nil {
			return err
		}
		for name, value := range set {
			if value == nil {
				c.delete(xattrKey(ino, name))
				continue
			}
			v.HasXattrs = true
			c.put(xattrKey(ino, name), value)
		}
		a.apply(v)
		c.emit(Event{Ino: ino})
		attr = v.Attr
		return nil
	})
	return attr, err
}

// SetAttr changes attributes (chmod(2), chown(2), utimensat(2), truncate(2)).
// Whether the caller may is the caller's to know.
func (s *Store) SetAttr(ctx context.Context, ino Ino, a SetAttr) (attr Attr, err error) {
	if a.Size != nil {
		return s.truncate(ctx, ino, a)
	}
	err = s.change(ctx, "set_attr", []Ino{ino}, func(c *change) error {
		v, err := c.edit(ino)
		if err != nil {
			return err
		}
		a.apply(v)
		c.emit(Event{Ino: ino})
		attr = v.Attr
		return nil
	})
	return attr, err
}

// apply changes v as a says, all but the size.
func (a *SetAttr) apply(v *inode) {
	if a.Mode != nil {
		v.Mode = v.Mode&ModeType | *a.Mode&ModePerm
	}
	if a.UID != nil {
		v.UID = *a.UID
	}
	if a.GID != nil {
		v.GID = *a.GID
	}
	if a.Atime != nil {
		v.Atime = a.Atime.UnixNano()
	}
	if a.Mtime != nil {
		v.Mtime = a.Mtime.UnixNano()
	}
	if a.Btime != nil {
		v.Btime = a.Btime.UnixNano()
	}
}

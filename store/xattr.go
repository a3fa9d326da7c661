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

func checkXattrs(attrs map[string][]byte) error {
	var size xattrSize
	for name, value := range attrs {
		if err := checkXattr(name, value); err != nil {
			return err
		}
		size.add(len(name), len(value))
	}
	if size.grownTooBig(xattrSize{}) {
		return ErrXattrSpace
	}
	return nil
}

// xattrSize is what the extended attributes of an inode take, in bytes.
type xattrSize struct{ names, all int }

func (x *xattrSize) add(name, value int) {
	x.names += name + 1
	x.all += name + 1 + value
}

// grownTooBig reports whether a limit is passed by what was added since before: what
// an earlier version has let in can still be made smaller.
func (x xattrSize) grownTooBig(before xattrSize) bool {
	return x.names > max(MaxXattrNames, before.names) || x.all > max(MaxXattrBytes, before.all)
}

// xattrRoom returns ErrXattrSpace if the inode, whose lock is held, cannot have
// what set adds to its extended attributes.
func (s *Store) xattrRoom(ino Ino, set map[string][]byte) error {
	var before, after xattrSize
	for name, value := range set {
		if value != nil {
			after.add(len(name), len(value))
		}
	}
	if after.names == 0 {
		return nil
	}
	prefix := inoKey(keyXattr, ino)
	err := s.engine.Scan(prefix, prefixEnd(prefix), func(key, value []byte) bool {
		name := key[9:]
		before.add(len(name), len(value))
		if _, ok := set[string(name)]; !ok { // else it is counted, or about to go
			after.add(len(name), len(value))
		}
		return true
	})
	switch {
	case err != nil:
		return fmt.Errorf("extended attributes of inode %d: %w", ino, err)
	case after.grownTooBig(before):
		return ErrXattrSpace
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
// fs.ErrExist, ErrNoXattr, ErrTooBig, ErrNameTooLong, or ErrXattrSpace.
func (s *Store) SetXattr(ctx context.Context, ino Ino, name string, value []byte, flags XattrFlags) error {
	if err := checkXattr(name, value); err != nil {
		return err
	}
	return s.change(ctx, "set_xattr", []Ino{ino}, func(c *change) error {
		v, err := c.view(ino)
		if err != nil {
			return err
		}
		exists := v.HasXattrs
		if exists {
			if exists, err = s.hasXattr(ino, name); err != nil {
				return err
			}
		}
		switch {
		case exists && flags&XattrCreate != 0:
			return fs.ErrExist
		case !exists && flags&XattrReplace != 0:
			return ErrNoXattr
		case v.HasXattrs:
			if err := s.xattrRoom(ino, map[string][]byte{name: notNil(value)}); err != nil {
				return err
			}
		}
		if v, err = c.edit(ino); err != nil {
			return err
		}
		v.HasXattrs = true
		c.put(xattrKey(ino, name), notNil(value))
		return nil
	})
}

// hasXattr reports whether the inode, whose lock is held, has the attribute.
func (s *Store) hasXattr(ino Ino, name string) (bool, error) {
	_, err := s.engine.Get(xattrKey(ino, name))
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return false, fmt.Errorf("extended attribute of inode %d: %w", ino, err)
	}
	return err == nil, nil
}

// RemoveXattr removes an extended attribute. The error matches ErrNoXattr.
func (s *Store) RemoveXattr(ctx context.Context, ino Ino, name string) error {
	return s.changeFreeing(ctx, "remove_xattr", []Ino{ino}, func(c *change) error {
		v, err := c.view(ino)
		if err != nil {
			return err
		}
		exists := v.HasXattrs
		if exists {
			exists, err = s.hasXattr(ino, name)
		}
		switch {
		case err != nil:
			return err
		case !exists:
			return ErrNoXattr
		}
		if _, err := c.edit(ino); err != nil {
			return err
		}
		c.delete(xattrKey(ino, name))
		return nil
	})
}

// PatchXattrs sets the extended attributes of set, removes those whose value
// is nil, and changes attributes like SetAttr, all in one batch, if cond (nil:
// none) allows it. Removing one that does not exist is no error. a.Size must be
// nil. The error matches that of SetXattr, or is cond's.
func (s *Store) PatchXattrs(ctx context.Context, ino Ino, set map[string][]byte, a SetAttr, cond Cond) (attr Attr, err error) {
	if a.Size != nil {
		return Attr{}, fmt.Errorf("%w: PatchXattrs does not change the size", fs.ErrInvalid)
	}
	for name, value := range set {
		if err := checkXattr(name, value); err != nil {
			return Attr{}, err
		}
	}
	err = s.change(ctx, "patch_xattrs", []Ino{ino}, func(c *change) error {
		v, err := c.view(ino)
		if err != nil {
			return err
		}
		if err := c.ask(cond, ino); err != nil {
			return err
		}
		if err := s.xattrRoom(ino, set); err != nil {
			return err
		}
		if v, err = c.edit(ino); err != nil {
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
		if err := c.setAttr(ino, &a); err != nil {
			return err
		}
		attr = v.Attr
		return nil
	})
	return attr, err
}

package store

import (
	"context"
	"fmt"
	"io/fs"
)

// Tmpfile makes a regular file without a name in dir (open(2), O_TMPFILE) and
// opens it for reading and writing. Link gives it a name. Without one it goes
// with its last handle, and after a crash with the next start.
//
// The error matches ErrNotDir, ErrStale for a directory that was removed, or
// fs.ErrInvalid for a Mode of another type.
func (s *Store) Tmpfile(ctx context.Context, dir Ino, n NewNode) (a Attr, h *Handle, err error) {
	if t := n.Mode & ModeType; t != 0 && t != ModeRegular {
		return Attr{}, nil, fmt.Errorf("%w: file type %#o", fs.ErrInvalid, t)
	}
	if err := checkXattrs(n.Xattrs); err != nil {
		return Attr{}, nil, err
	}
	ino, err := s.allocIno()
	if err != nil {
		return Attr{}, nil, err
	}
	s.collector.beginTree(ino) // an orphan from the first, so not before the handle counts
	defer func() {
		s.collector.endTree(ino)
		if h == nil {
			s.collector.wake()
		}
	}()
	if a, err = s.addTmpfile(ctx, dir, ino, n); err != nil {
		return Attr{}, nil, err
	}
	if h, err = s.Open(ctx, ino, true); err != nil {
		return Attr{}, nil, err
	}
	return a, h, nil
}

// addTmpfile makes the inode, with an orphan record instead of a name.
func (s *Store) addTmpfile(ctx context.Context, dir, ino Ino, n NewNode) (a Attr, err error) {
	if err := s.space.take(s.now().UnixNano(), changeCost); err != nil {
		return Attr{}, err
	}
	err = s.changeLocked(ctx, "tmpfile", lockSet{read: []Ino{dir}}, func(c *change) error {
		parent, err := c.view(dir)
		switch {
		case err != nil:
			return err
		case !parent.IsDir():
			return ErrNotDir
		case parent.Nlink == 0:
			return fmt.Errorf("%w: %d", ErrStale, dir)
		}
		if err := s.reachable(dir); err != nil {
			return err
		}
		v := c.newInode(ino, n)
		v.inherit(parent)
		c.orphan(&v)
		c.created = append(c.created, v)
		a = v.Attr
		return nil
	})
	return a, err
}

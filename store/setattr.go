package store

import "context"

// SetAttr changes attributes (chmod(2), chown(2), utimensat(2), truncate(2)), all
// in one change. Whether the caller may is the caller's to know. The error
// matches ErrStale, and with a size ErrIsDir, fs.ErrInvalid or ErrTooBig.
func (s *Store) SetAttr(ctx context.Context, ino Ino, a SetAttr) (attr Attr, err error) {
	if a.Size != nil {
		return s.truncate(ctx, ino, a)
	}
	err = s.change(ctx, "set_attr", []Ino{ino}, func(c *change) error { return c.setAttrOf(ino, &a, &attr) })
	return attr, err
}

// setAttrOf is setAttr, and puts what comes of it into attr.
func (c *change) setAttrOf(ino Ino, a *SetAttr, attr *Attr) error {
	if err := c.setAttr(ino, a); err != nil {
		return err
	}
	v, err := c.view(ino)
	if err == nil {
		*attr = v.Attr
	}
	return err
}

// xattrCapability holds the privileges that executing a file gives (capabilities(7)).
const xattrCapability = "security.capability"

// setAttr changes the inode as a says, all but the size. It leaves the inode
// alone if a names nothing, or privileges to be killed that it does not have.
func (c *change) setAttr(ino Ino, a *SetAttr) error {
	v, err := c.view(ino)
	if err != nil {
		return err
	}
	chown := a.UID != nil || a.GID != nil
	if a.KillPriv || chown {
		if err := c.killPriv(ino); err != nil {
			return err
		}
	}
	times := a.Atime != nil || a.Mtime != nil || a.Btime != nil || a.AtimeNow || a.MtimeNow
	if !chown && !times && a.Mode == nil {
		return nil
	}
	if v, err = c.edit(ino); err != nil {
		return err
	}
	if a.Mode != nil {
		v.Mode = v.Mode&ModeType | *a.Mode&ModePerm
	}
	if a.UID != nil {
		v.UID = *a.UID
	}
	if a.GID != nil {
		v.GID = *a.GID
	}
	a.setTimes(v, c.now)
	return nil
}

func (a *SetAttr) setTimes(v *inode, now int64) {
	switch {
	case a.AtimeNow:
		v.Atime = now
	case a.Atime != nil:
		v.Atime = a.Atime.UnixNano()
	}
	switch {
	case a.MtimeNow:
		v.Mtime = now
	case a.Mtime != nil:
		v.Mtime = a.Mtime.UnixNano()
	}
	if a.Btime != nil {
		v.Btime = a.Btime.UnixNano()
	}
}

// killPriv takes from the inode what would let its content run with the
// privileges of another, as the kernel does when it is written to or changes
// hands. Set-group-ID without the group's execute bit gives none. A directory's
// bits mean something else and stay.
func (c *change) killPriv(ino Ino) error {
	v, err := c.view(ino)
	if err != nil || v.IsDir() {
		return err
	}
	kill := v.Mode & modeSetuid
	if v.Mode&modeGroupExec != 0 {
		kill |= v.Mode & modeSetgid
	}
	capable := v.HasXattrs
	if capable {
		if capable, err = c.s.hasXattr(ino, xattrCapability); err != nil {
			return err
		}
	}
	if kill == 0 && !capable {
		return nil
	}
	if v, err = c.edit(ino); err != nil {
		return err
	}
	v.Mode &^= kill
	if capable {
		c.delete(xattrKey(ino, xattrCapability))
	}
	return nil
}

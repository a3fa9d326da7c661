package store

import (
	"errors"
	"fmt"
)

// maxSupplantNames bounds the names of a file that a PUT moves to a new inode
// in one change.
const maxSupplantNames = 1000

// entryName is a place in the tree.
type entryName struct {
	parent Ino
	name   string
}

// supplant gives the upload's content to a new inode with the attributes of old,
// and all names of old to it. Open handles keep old as it is, as if a file had
// been renamed over each of its names (rename(2)); old goes with its last handle.
func (u *Upload) supplant(c *change, old Ino, fresh *Ino, o CommitOptions) (Attr, error) {
	v, err := c.view(old)
	if err != nil {
		return Attr{}, err
	}
	names, err := c.namesOf(v)
	if err != nil {
		return Attr{}, err
	}
	if err := c.touchParents(names); err != nil {
		return Attr{}, err
	}
	if v, err = c.edit(old); err != nil {
		return Attr{}, err
	}
	if *fresh == 0 {
		if *fresh, err = c.s.allocIno(); err != nil {
			return Attr{}, err
		}
	}
	heir, err := c.heir(v, *fresh)
	if err != nil {
		return Attr{}, err
	}
	u.fill(c, &heir, o)
	heir.Version = c.s.nextVersion(0)
	for _, n := range names {
		c.setEntry(n.parent, n.name, &heir)
		if n.parent != heir.parent || n.name != heir.name {
			c.delete(linkKey(old, n.parent, n.name))
			c.put(linkKey(heir.Ino, n.parent, n.name), []byte{})
		}
	}
	c.created = append(c.created, heir)
	c.orphan(v)
	return heir.Attr, nil
}

// namesOf returns all names of a file. ErrLocked: they are too many to be
// changed at once while the file is open.
func (c *change) namesOf(v *inode) ([]entryName, error) {
	names := []entryName{{v.parent, v.name}}
	prefix := inoKey(keyLink, v.Ino)
	err := c.s.engine.Scan(prefix, prefixEnd(prefix), func(key, _ []byte) bool {
		parent, name := linkOfKey(key)
		names = append(names, entryName{parent, name})
		return len(names) <= maxSupplantNames
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("names of inode %d: %w", v.Ino, err)
	case len(names) > maxSupplantNames:
		return nil, fmt.Errorf("%w: inode %d is open and has more than %d names", ErrLocked, v.Ino, maxSupplantNames)
	}
	return names, nil
}

// touchParents is editDir for every directory that holds one of names. It may be
// an orphan whose entries the collector has not yet taken out.
func (c *change) touchParents(names []entryName) error {
	parents := make(map[Ino]*inode, 1)
	var missing error
	for _, n := range names {
		if _, ok := parents[n.parent]; ok {
			continue
		}
		v, err := c.edit(n.parent)
		var relock *errRelock
		switch {
		case errors.As(err, &relock): // ask for all of them at once
			c.locks.need(n.parent)
			missing = err
		case err != nil:
			return err
		default:
			v.Mtime = c.now
			v.Version = c.s.nextVersion(v.Version)
		}
		parents[n.parent] = v
	}
	return missing
}

// heir returns a new inode with the attributes, extended ones included, and the
// names of v but without content, and counts it.
func (c *change) heir(v *inode, ino Ino) (inode, error) {
	heir := *v
	heir.Ino, heir.Gen = ino, c.s.gen
	heir.Change, heir.Version, heir.Ctime = 1, 1, c.now
	heir.Size, heir.content = 0, content{}
	heir.Mode &^= modeSetuid
	if heir.Mode&modeGroupExec != 0 {
		heir.Mode &^= modeSetgid
	}
	c.files++
	if !v.HasXattrs {
		return heir, nil
	}
	attrs, err := c.s.readXattrs(v.Ino)
	if err != nil {
		return inode{}, err
	}
	for name, value := range attrs {
		if name != xattrCapability { // new content has no privileges
			c.put(xattrKey(ino, name), value)
		}
	}
	return heir, nil
}

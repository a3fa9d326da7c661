package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"engramfs/store/blob"
)

// Create makes name in parent a new inode of any type: a file, a directory, a
// symbolic link, or a special file. The error matches fs.ErrExist if the name
// is taken, ErrNotDir, ErrStale, ErrName or ErrNameTooLong.
func (s *Store) Create(ctx context.Context, parent Ino, name string, n NewNode) (Attr, error) {
	if err := n.check(name); err != nil {
		return Attr{}, err
	}
	ino, err := s.allocIno()
	if err != nil {
		return Attr{}, err
	}
	return s.addFile(ctx, parent, name, ino, n)
}

// addFile is Create with a number from the allocator. A poisoned parent refuses it.
func (s *Store) addFile(ctx context.Context, parent Ino, name string, ino Ino, n NewNode) (a Attr, err error) {
	err = s.change(ctx, "add_file", []Ino{parent}, func(c *change) error {
		if err := c.absent(parent, name); err != nil {
			return err
		}
		v, err := c.create(parent, name, ino, n)
		if err != nil {
			return err
		}
		a = v.Attr
		return nil
	})
	return a, err
}

// check returns nil if an inode like n can be made under name.
func (n *NewNode) check(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if n.Mode&ModeType == ModeSymlink && (n.Target == "" || len(n.Target) > 4095) {
		return fmt.Errorf("%w: a symbolic link's target has 1 to 4095 bytes", fs.ErrInvalid)
	}
	switch n.Mode & ModeType {
	case 0, ModeRegular, ModeDir, ModeSymlink, ModeFIFO, ModeSocket, ModeChar, ModeBlock:
	default:
		return fmt.Errorf("%w: file type %#o", fs.ErrInvalid, n.Mode&ModeType)
	}
	return checkXattrs(n.Xattrs)
}

// create adds a new inode and its entry to the change. The caller has made
// sure that the name is free.
func (c *change) create(parent Ino, name string, ino Ino, n NewNode) (*inode, error) {
	dir, err := c.editDir(parent)
	if err != nil {
		return nil, err
	}
	v := c.newInode(ino, n)
	v.parent, v.name = parent, name
	v.inherit(dir)
	if v.IsDir() {
		dir.Nlink++
	}
	c.created = append(c.created, v)
	c.setEntry(parent, name, &v)
	return &c.created[len(c.created)-1], nil
}

// inherit gives the new inode v what it has from its directory: below one with
// the set-group-ID bit the directory's group, and a new directory the bit too
// (mkdir(2)). Whether a file may keep such a bit of its own mode is for the
// caller, who knows who asks.
func (v *inode) inherit(dir *inode) {
	if dir.Mode&modeSetgid == 0 {
		return
	}
	v.GID = dir.GID
	if v.IsDir() {
		v.Mode |= modeSetgid
	}
}

// newInode returns a new inode without a home, and counts it.
func (c *change) newInode(ino Ino, n NewNode) inode {
	mode := n.Mode
	if mode == 0 {
		mode = 0o600
	}
	if mode&ModeType == 0 {
		mode |= ModeRegular
	}
	mtime := c.now
	if !n.Mtime.IsZero() {
		mtime = n.Mtime.UnixNano()
	}
	v := inode{Attr: Attr{
		Ino: ino, Gen: c.s.gen, Mode: mode, Nlink: 1, UID: n.UID, GID: n.GID, Rdev: n.Rdev,
		Atime: c.now, Mtime: mtime, Ctime: c.now, Btime: c.now, Change: 1, Version: c.s.nextVersion(0),
	}}
	if v.IsDir() {
		v.Nlink = 2
		c.dirs++
	} else {
		c.files++
	}
	if v.IsSymlink() {
		v.Size = int64(len(n.Target))
		v.content.kind = contentInline
		c.put(inoKey(keyInline, ino), []byte(n.Target))
	}
	for k, val := range n.Xattrs {
		v.HasXattrs = true
		c.put(xattrKey(ino, k), notNil(val))
	}
	return v
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Link makes name in parent another name of ino (link(2)). The error matches
// fs.ErrExist, fs.ErrPermission for a directory, or ErrTooManyLinks.
func (s *Store) Link(ctx context.Context, ino, parent Ino, name string) (a Attr, err error) {
	if err := CheckName(name); err != nil {
		return Attr{}, err
	}
	err = s.change(ctx, "link", []Ino{ino, parent}, func(c *change) error {
		v, err := c.view(ino)
		switch {
		case err != nil:
			return err
		case v.IsDir():
			return fs.ErrPermission
		case v.Nlink >= MaxLinks:
			return ErrTooManyLinks
		}
		if err := c.absent(parent, name); err != nil {
			return err
		}
		if _, err := c.editDir(parent); err != nil {
			return err
		}
		if v, err = c.edit(ino); err != nil {
			return err
		}
		if v.Nlink == 0 { // an unlinked open file, or O_TMPFILE, gets a name again
			v.parent, v.name = parent, name
			c.unorphan(v)
		} else {
			c.put(linkKey(ino, parent, name), []byte{})
		}
		v.Nlink++
		c.setEntry(parent, name, v)
		a = v.Attr
		return nil
	})
	return a, err
}

// Unlink removes the entry name, which must not be a directory (unlink(2)). A
// file that is open stays until its last handle is closed. cond may be nil.
func (s *Store) Unlink(ctx context.Context, parent Ino, name string, cond Cond) error {
	return s.remove(ctx, "unlink", parent, name, cond, func(c *change, v *inode) error {
		if v.IsDir() {
			return ErrIsDir
		}
		return c.unlink(parent, name, v.Ino)
	})
}

// Rmdir removes the empty directory name (rmdir(2)). The error matches
// ErrNotDir or ErrNotEmpty. cond may be nil.
func (s *Store) Rmdir(ctx context.Context, parent Ino, name string, cond Cond) error {
	return s.remove(ctx, "rmdir", parent, name, cond, func(c *change, v *inode) error {
		if !v.IsDir() {
			return ErrNotDir
		}
		return c.rmdir(parent, name, v.Ino)
	})
}

// RemoveAll removes the entry name with everything below it, in one batch: the
// tree is taken out as a whole and collected in the background. It is refused,
// with nothing removed, if an inode of the tree is poisoned. cond may be nil.
func (s *Store) RemoveAll(ctx context.Context, parent Ino, name string, cond Cond) error {
	return s.remove(ctx, "remove_all", parent, name, cond, func(c *change, v *inode) error {
		return c.removeEntry(parent, name, v.Ino)
	})
}

// remove looks name up, locks it with its parent, asks cond and lets fn remove it.
func (s *Store) remove(ctx context.Context, op string, parent Ino, name string, cond Cond, fn func(*change, *inode) error) error {
	if err := CheckName(name); err != nil {
		return err
	}
	touch := []Ino{parent}
	if d, ok, err := s.lookupEntry(parent, name, false); err == nil && ok {
		touch = append(touch, d.ino)
	}
	locks := s.davLocksOf(ctx, parent, name)
	err := s.changeFreeing(ctx, op, touch, func(c *change) error {
		dir, err := c.view(parent)
		if err != nil {
			return err
		}
		if !dir.IsDir() {
			return ErrNotDir
		}
		d, ok, err := c.entry(parent, name)
		if err != nil {
			return err
		}
		if !ok {
			return fs.ErrNotExist
		}
		v, err := c.view(d.ino)
		if err != nil {
			return err
		}
		if err := c.ask(cond, d.ino); err != nil {
			return err
		}
		return fn(c, v)
	})
	if err == nil {
		s.dropDAVLocks(locks)
	}
	return err
}

// davLocksOf returns the WebDAV locks that end when name in parent goes. It is asked
// before the change: who locks what is made there afterwards keeps that lock. There are
// none if it is for the caller to end them, which has no Origin.
func (s *Store) davLocksOf(ctx context.Context, parent Ino, name string) []DAVLock {
	if originOf(ctx) == 0 || s.davLocks.Len() == 0 {
		return nil
	}
	dir, err := s.pathOf(parent)
	if err != nil {
		return nil // it is on its way out itself
	}
	root := path.Join(dir, name)
	locks, err := s.davLocks.Within(s.now(), root)
	if err != nil {
		s.log.Warn("locks of a tree that is to be removed are not known", "path", root, "err", err)
	}
	return locks
}

// dropDAVLocks ends the WebDAV locks of a tree that is gone (RFC 4918 sections
// 6.1 and 9.6). The change is made already: a lock table that refuses is for the
// log, and for the locks' timeout.
func (s *Store) dropDAVLocks(locks []DAVLock) {
	if err := s.davLocks.Drop(locks); err != nil {
		s.log.Warn("locks of a removed tree remain", "path", locks[0].Path, "err", err)
	}
}

// removeEntry removes an entry whatever it names.
func (c *change) removeEntry(parent Ino, name string, ino Ino) error {
	v, err := c.view(ino)
	if err != nil {
		return err
	}
	if !v.IsDir() {
		return c.unlink(parent, name, ino)
	}
	return c.detach(parent, name, ino)
}

// unlink removes an entry of a file.
func (c *change) unlink(parent Ino, name string, ino Ino) error {
	if _, err := c.editDir(parent); err != nil {
		return err
	}
	c.clearEntry(parent, name, ino)
	return c.dropLink(parent, name, ino)
}

// dropLink takes one name from a file, and removes the file if it was the last
// and nobody has it open.
func (c *change) dropLink(parent Ino, name string, ino Ino) error {
	v, err := c.edit(ino)
	if err != nil {
		return err
	}
	if v.Nlink--; v.Nlink > 0 {
		return c.rehome(v, parent, name)
	}
	h, err := c.lookHeld(ino)
	if err != nil {
		return err
	}
	if h.node.kept() {
		c.orphan(v)
		return nil
	}
	return c.removeInode(h)
}

// orphan takes the last name from v and leaves v to the collector.
func (c *change) orphan(v *inode) {
	v.Nlink, v.parent, v.name = 0, 0, ""
	c.put(inoKey(keyOrphan, v.Ino), []byte{})
	if v.IsDir() {
		c.orphans = true
		c.orphanDirs++
	}
}

// unorphan takes v from the collector, because it gets a name or is removed.
func (c *change) unorphan(v *inode) {
	c.delete(inoKey(keyOrphan, v.Ino))
	if v.IsDir() {
		c.orphanDirs--
	}
}

// rehome forgets one of several names of v; if it was the home, another becomes it.
func (c *change) rehome(v *inode, parent Ino, name string) error {
	if v.parent != parent || v.name != name {
		c.delete(linkKey(v.Ino, parent, name))
		return nil
	}
	prefix := inoKey(keyLink, v.Ino)
	found := false
	err := c.s.engine.Scan(prefix, prefixEnd(prefix), func(key, _ []byte) bool {
		if c.deletes(key) { // several names of one file go in one change
			return true
		}
		v.parent, v.name = linkOfKey(key)
		found = true
		return false
	})
	if err != nil {
		return fmt.Errorf("other names of inode %d: %w", v.Ino, err)
	}
	if !found {
		return fmt.Errorf("%w: inode %d has %d more links but no other name", ErrDamaged, v.Ino, v.Nlink)
	}
	c.delete(linkKey(v.Ino, v.parent, v.name))
	return nil
}

// removeInode removes an inode that has no name and no handle, with all that
// belongs to it.
func (c *change) removeInode(h *heldInode) error {
	v := &h.next
	if v.IsDir() {
		c.dirs--
	} else {
		c.files--
	}
	if v.IsRegular() {
		c.bytes -= v.Size
	}
	c.dropContent(v)
	if v.HasXattrs {
		if err := c.deletePrefix(inoKey(keyXattr, v.Ino)); err != nil {
			return err
		}
	}
	h.removed = true
	h.next = inode{Attr: Attr{Ino: v.Ino}}
	return nil
}

// rmdir removes an entry of an empty directory.
func (c *change) rmdir(parent Ino, name string, ino Ino) error {
	if err := c.s.emptyDir(ino); err != nil {
		return err
	}
	dir, err := c.editDir(parent)
	if err != nil {
		return err
	}
	if _, err := c.edit(ino); err != nil {
		return err
	}
	h, err := c.lookHeld(ino)
	if err != nil {
		return err
	}
	dir.Nlink--
	c.clearEntry(parent, name, ino)
	if h.node.kept() {
		c.orphan(&h.next)
		return nil
	}
	return c.removeInode(h)
}

// emptyDir returns nil if the directory has no entries, else ErrNotEmpty.
func (s *Store) emptyDir(ino Ino) error {
	prefix := inoKey(keyDirent, ino)
	empty := true
	err := s.engine.Scan(prefix, prefixEnd(prefix), func(_, _ []byte) bool { empty = false; return false })
	if err != nil {
		return fmt.Errorf("entries of directory %d: %w", ino, err)
	}
	if !empty {
		return ErrNotEmpty
	}
	return nil
}

// detach takes a directory with everything below it out of the tree and leaves
// it to the collector.
func (c *change) detach(parent Ino, name string, ino Ino) error {
	if err := c.s.poisonedBelow(ino); err != nil {
		return err
	}
	if err := c.unlockedBelow(ino); err != nil {
		return err
	}
	dir, err := c.editDir(parent)
	if err != nil {
		return err
	}
	v, err := c.edit(ino)
	if err != nil {
		return err
	}
	dir.Nlink--
	c.orphan(v)
	c.clearEntry(parent, name, ino)
	return nil
}

// linkOfKey returns the parent and the name of a link record's key.
func linkOfKey(key []byte) (Ino, string) {
	if len(key) < 17 {
		return 0, ""
	}
	return inoOfKey(key[8:]), string(key[17:])
}

// dropContent removes what v's content occupies; the caller gives v a new one.
func (c *change) dropContent(v *inode) {
	switch v.content.kind {
	case contentInline:
		c.delete(inoKey(keyInline, v.Ino))
	case contentBlob:
		c.drops = append(c.drops, v.content.blob)
		if !v.content.sealed {
			c.delete(inoKey(keyUnsealed, v.Ino))
		}
		if v.content.fresh {
			c.delete(inoKey(keyInline, v.Ino)) // its base
		}
	}
	v.content = content{}
}

// setContent replaces v's content: by data if id is zero, else by the blob.
func (c *change) setContent(v *inode, size int64, data []byte, id blob.ID) {
	if v.content.kind == contentInline && id.IsZero() && size > 0 {
		v.content = content{} // the record is overwritten
	}
	c.dropContent(v)
	switch {
	case !id.IsZero():
		v.content = content{kind: contentBlob, blob: id, sealed: true}
		c.refs = append(c.refs, id)
	case size > 0:
		v.content.kind = contentInline
		c.put(inoKey(keyInline, v.Ino), data)
	}
	c.bytes += size - v.Size
	v.Size, v.Sparse = size, false
	v.Version = c.s.nextVersion(v.Version)
	v.Mtime = c.now
}

// ancestors calls fn with each ancestor of the directory ino, itself first,
// until fn returns false. It reads the engine and takes no lock.
func (s *Store) ancestors(ino Ino, fn func(Ino) bool) error {
	for range 1 << 20 {
		if !fn(ino) || ino == RootIno {
			return nil
		}
		v, err := readInode(s.engine, ino)
		if err != nil {
			return err
		}
		if ino = v.parent; ino == 0 {
			return nil // an orphan, or on its way out
		}
	}
	return fmt.Errorf("%w: the ancestors of inode %d form a circle", ErrDamaged, ino)
}

// reachable returns nil if the directory dir has a path from the root, and ErrStale if
// it was removed with a tree that the collector is still at: what is added to it, or
// taken from it, would go with that tree. While there is none it costs an atomic load.
//
// It takes no lock. What was cut off stays cut off: no rename that begins afterwards
// takes anything out of a removed tree, since editDir asks here for both of its
// directories, and those that move directories go one by one (renameMu), so that at
// most one is under way when the tree is cut off. So all that a walk from a
// directory of such a tree meets is cut off as well, whatever moves meanwhile, and it
// does not come to the root. A tree that is cut off after the walk, or after the
// look at the number of orphans, which rises before the batch that does it, is
// removed after the change that asks, with what this has added.
func (s *Store) reachable(dir Ino) error {
	if s.collector.dirs.Load() == 0 {
		return nil
	}
	top := dir
	for range 3 { // a parent that is moved and removed while the walk is between the two is no end
		top = dir
		err := s.ancestors(dir, func(a Ino) bool { top = a; return true })
		if top == RootIno || err != nil && !errors.Is(err, ErrStale) {
			return err
		}
	}
	return fmt.Errorf("%w: %d", ErrStale, dir)
}

// poisonedBelow returns nil if no inode below the directory top is poisoned,
// else the poison's error: what contains a poisoned inode cannot be removed.
func (s *Store) poisonedBelow(top Ino) error {
	if !s.registry.AnyPoisoned() {
		return nil
	}
	for _, ev := range s.registry.Poisoned() {
		ino, ok := inoOfLock(ev.Lock)
		if !ok {
			continue
		}
		below, err := s.below(ino, top)
		if err != nil {
			return err
		}
		if below {
			return poisonedError(ev)
		}
	}
	return nil
}

// below reports whether ino is the directory top or has a name below it, be it not its home.
func (s *Store) below(ino, top Ino) (below bool, err error) {
	isTop := func(a Ino) bool { below = a == top; return !below }
	if err = ignore(s.ancestors(ino, isTop), ErrStale); err != nil || below {
		return below, err
	}
	var lerr error
	prefix := inoKey(keyLink, ino)
	err = s.engine.Scan(prefix, prefixEnd(prefix), func(key, _ []byte) bool {
		parent, _ := linkOfKey(key)
		lerr = ignore(s.ancestors(parent, isTop), ErrStale)
		return lerr == nil && !below
	})
	return below, errors.Join(lerr, err)
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// CloneOptions of Clone.
type CloneOptions struct {
	// Replace replaces the target whatever it is, a tree included, in the batch
	// that makes the copy appear. Otherwise an existing target is fs.ErrExist.
	Replace bool
	Shallow bool // of a directory only itself, without members (RFC 4918 section 9.8.3)
	Source  Cond // asked of the source; nil: none
	Target  Cond // asked of the target, nil if there is none
	UID     uint32
	GID     uint32
	Mtime   time.Time // of the copy itself; zero: the source's
}

// Clone copies src to name in parent and reports whether it replaced a target.
// The bytes of a file are shared until one of the two is written to, so the cost
// does not depend on its size. A tree is copied beside the visible one and
// appears as a whole. Modes, times and extended attributes are copied; the copies
// belong to o's user and group.
//
// The error matches ErrSubtree if the target is inside the source or contains
// it, fs.ErrExist, ErrStale, also if a directory is removed while it is copied,
// ErrDamaged if an entry's inode is lost, or ErrPoisoned: a copy is not built on
// recovered data.
// On an error nothing is visible.
func (s *Store) Clone(ctx context.Context, src, parent Ino, name string, o CloneOptions) (a Attr, replaced bool, err error) {
	if err := CheckName(name); err != nil {
		return Attr{}, false, err
	}
	attr, err := s.GetAttr(ctx, src)
	if err != nil {
		return Attr{}, false, err
	}
	if err := s.cloneTarget(&attr, parent, name, o); err != nil {
		return Attr{}, false, err
	}
	if !attr.IsDir() {
		return s.cloneFile(ctx, src, parent, name, o)
	}
	t := &treeClone{contentClone: contentClone{s: s, o: o}}
	defer t.close()
	root, err := t.build(ctx, src)
	if err != nil {
		t.giveUp(root)
		return Attr{}, false, err
	}
	a, replaced, err = s.attachClone(ctx, root, src, parent, name, o)
	if err != nil {
		t.giveUp(root)
		return Attr{}, false, err
	}
	s.collector.endTree(root)
	return a, replaced, nil
}

// cloneTarget returns ErrSubtree if source and target contain one another.
func (s *Store) cloneTarget(attr *Attr, parent Ino, name string, o CloneOptions) error {
	src, inside := attr.Ino, false
	if err := s.ancestors(parent, func(a Ino) bool { inside = a == src; return !inside }); err != nil {
		return err
	}
	if inside {
		return ErrSubtree
	}
	d, ok, err := s.lookupEntry(parent, name, false)
	if err != nil || !ok {
		return err
	}
	if !o.Replace {
		return fs.ErrExist
	}
	if d.ino == src {
		return fmt.Errorf("%w: source and target are the same", ErrSubtree)
	}
	if !attr.IsDir() && attr.Nlink > 1 {
		return nil // another name of it may be outside the target
	}
	if err := s.ancestors(src, func(a Ino) bool { inside = a == d.ino; return !inside }); err != nil {
		return err
	}
	if inside {
		return ErrSubtree
	}
	return nil
}

// cloneFile copies anything but a directory in one change.
func (s *Store) cloneFile(ctx context.Context, src, parent Ino, name string, o CloneOptions) (a Attr, replaced bool, err error) {
	ino, err := s.allocIno()
	if err != nil {
		return Attr{}, false, err
	}
	if err := s.space.take(s.now().UnixNano(), changeCost+s.inline); err != nil {
		return Attr{}, false, err
	}
	k := &contentClone{s: s, o: o}
	defer k.close()
	err = k.change(ctx, lockSet{write: []Ino{parent}, read: []Ino{src}}, func(c *change) error {
		v, err := c.view(src)
		if err != nil {
			return err
		}
		if replaced, err = c.makeRoom(parent, name, src, v, o); err != nil {
			return err
		}
		dup, err := k.duplicate(c, v, ino)
		if err != nil {
			return err
		}
		if !o.Mtime.IsZero() {
			dup.Mtime = o.Mtime.UnixNano()
		}
		a, err = c.attach(parent, name, dup)
		return err
	})
	return a, replaced, err
}

// makeRoom checks the conditions of a clone and removes the target, if there is one.
func (c *change) makeRoom(parent Ino, name string, from Ino, src *inode, o CloneOptions) (replaced bool, err error) {
	if _, err := c.editDir(parent); err != nil {
		return false, err
	}
	d, ok, err := c.entry(parent, name)
	if err != nil {
		return false, err
	}
	if ok { // the tree may have changed since cloneTarget looked
		if d.ino == from {
			return false, fmt.Errorf("%w: source and target are the same", ErrSubtree)
		}
		if d.typ == ModeDir && (src == nil || src.Nlink == 1) { // as in cloneTarget
			inside := false
			if err := c.s.ancestors(from, func(a Ino) bool { inside = a == d.ino; return !inside }); err != nil {
				return false, err
			}
			if inside {
				return false, ErrSubtree
			}
		}
	}
	if src != nil {
		if err := c.ask(o.Source, from); err != nil {
			return false, err
		}
	}
	if err := c.ask(o.Target, d.ino); err != nil {
		return false, err
	}
	if !ok {
		return false, nil
	}
	if !o.Replace {
		return false, fs.ErrExist
	}
	if d.typ == ModeDir {
		return true, c.detach(parent, name, d.ino)
	}
	return true, c.dropReplaced(parent, name, d.ino)
}

// attach gives an inode without a home the free name in parent, which the change holds.
func (c *change) attach(parent Ino, name string, v *inode) (Attr, error) {
	dir, err := c.editDir(parent)
	if err != nil {
		return Attr{}, err
	}
	v.parent, v.name = parent, name
	if v.IsDir() {
		dir.Nlink++
	}
	c.created = append(c.created, *v)
	c.setEntry(parent, name, v)
	return v.Attr, nil
}

// attachClone makes the finished copy of a tree appear.
func (s *Store) attachClone(ctx context.Context, root, src, parent Ino, name string, o CloneOptions) (a Attr, replaced bool, err error) {
	err = s.change(ctx, "clone", []Ino{parent, root}, func(c *change) error {
		if replaced, err = c.makeRoom(parent, name, src, nil, o); err != nil {
			return err
		}
		dir, err := c.editDir(parent)
		if err != nil {
			return err
		}
		v, err := c.edit(root)
		if err != nil {
			return err
		}
		v.Nlink += 2 // an orphan has none, and its child directories have counted
		v.parent, v.name = parent, name
		if !o.Mtime.IsZero() {
			v.Mtime = o.Mtime.UnixNano()
		}
		dir.Nlink++
		c.unorphan(v)
		c.setEntry(parent, name, v)
		a = v.Attr
		return nil
	})
	return a, replaced, err
}

// treeClone copies a tree below a root that is an orphan until the copy is
// complete, so that a crash leaves it to the collector.
type treeClone struct{ contentClone }

// A batch copies at most cloneChunk entries of a directory, and ends early at cloneBytes
// of content and extended attributes, which are in memory until it is in the engine.
const (
	cloneChunk = 256
	cloneBytes = 8 << 20
)

// build copies the directory src and returns the root of the copy, 0 if there is none.
func (t *treeClone) build(ctx context.Context, src Ino) (root Ino, err error) {
	defer t.s.contain("clone_tree", &err)
	root, err = t.s.allocIno()
	if err != nil {
		return 0, err
	}
	t.s.collector.beginTree(root)
	err = t.s.changeLocked(ctx, "clone", lockSet{read: []Ino{src}}, func(c *change) error {
		v, err := c.view(src)
		if err != nil {
			return err
		}
		if err := c.ask(t.o.Source, src); err != nil {
			return err
		}
		dup, err := t.duplicate(c, v, root)
		if err != nil {
			return err
		}
		c.orphan(dup)
		c.created = append(c.created, *dup)
		return nil
	})
	if err != nil || t.o.Shallow {
		return root, err
	}
	type pair struct{ from, to Ino }
	for queue := []pair{{src, root}}; len(queue) > 0; {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		err := t.members(ctx, p.from, p.to, func(from, to Ino) { queue = append(queue, pair{from, to}) })
		if err != nil {
			return root, err
		}
	}
	return root, nil
}

// members copies the entries of the directory from into to, and hands each
// child directory and its copy to descend.
func (t *treeClone) members(ctx context.Context, from, to Ino, descend func(from, to Ino)) error {
	var chunk []Dirent
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		err := t.chunk(ctx, from, to, chunk, descend)
		chunk = chunk[:0]
		return err
	}
	var ferr error
	err := t.s.ReadDir(ctx, from, "", func(d Dirent) bool {
		if chunk = append(chunk, d); len(chunk) == cloneChunk {
			ferr = flush()
		}
		return ferr == nil
	})
	if err = errors.Join(ferr, err); err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	// What was in a directory that was removed, or replaced, goes away bit by bit.
	a, err := t.s.GetAttr(ctx, from)
	if err == nil && a.Nlink == 0 {
		err = fmt.Errorf("%w: directory %d was removed while it was copied", ErrStale, from)
	}
	return err
}

// errReplaced says that an entry means another inode than when the directory was read.
var errReplaced = errors.New("store: entry was replaced")

// chunk copies some entries.
func (t *treeClone) chunk(ctx context.Context, from, to Ino, chunk []Dirent, descend func(from, to Ino)) error {
	for len(chunk) > 0 {
		done, err := t.batch(ctx, from, to, chunk, descend)
		if errors.Is(err, errReplaced) {
			done, err = 0, ctx.Err() // again, with what the entry means now
		}
		if err != nil {
			return err
		}
		chunk = chunk[done:]
	}
	return nil
}

// batch copies the first entries of a chunk in one batch and returns how many.
// errReplaced: none, and what one of them means has been put right.
func (t *treeClone) batch(ctx context.Context, from, to Ino, chunk []Dirent, descend func(from, to Ino)) (done int, err error) {
	if err := t.s.faults.hit(faultCloneTree, from); err != nil {
		return 0, err
	}
	if err := t.s.space.take(t.s.now().UnixNano(), int64(len(chunk))*changeCost); err != nil {
		return 0, err
	}
	set := lockSet{write: []Ino{to}}
	copies := make([]Ino, len(chunk))
	for i, d := range chunk {
		ino, err := t.s.allocIno()
		if err != nil {
			return 0, err
		}
		copies[i] = ino
		set.read = append(set.read, d.Ino)
	}
	var skip map[int]bool // entries that were removed since the directory was read
	err = t.change(ctx, set, func(c *change) error {
		c.quiet = true
		if _, err := c.edit(to); err != nil {
			return err
		}
		done, skip = 0, make(map[int]bool)
		for size := 0; done < len(chunk) && size < cloneBytes; done++ {
			records := len(c.writes)
			there, err := t.member(c, from, to, &chunk[done], copies[done])
			if err != nil {
				return err
			}
			skip[done] = !there
			for _, w := range c.writes[records:] {
				size += len(w.value)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for i, d := range chunk[:done] {
		if d.Type == ModeDir && !skip[i] {
			descend(d.Ino, copies[i])
		}
	}
	return done, nil
}

// member copies the entry d of from into to, as the inode number ino, and reports false
// if there is no such entry any more. If its name means another inode now, that
// becomes d's: errReplaced.
func (t *treeClone) member(c *change, from, to Ino, d *Dirent, ino Ino) (there bool, err error) {
	v, err := c.viewHeld(d.Ino)
	if errors.Is(err, ErrStale) || err == nil && v.Nlink == 0 {
		now, ok, err := c.entry(from, d.Name)
		switch {
		case err != nil || !ok:
			return false, err
		case now.ino == d.Ino:
			return false, fmt.Errorf("%w: entry %q of directory %d names inode %d, which does not exist", ErrDamaged, d.Name, from, d.Ino)
		}
		d.Ino, d.Type = now.ino, now.typ
		return false, errReplaced
	}
	if err != nil {
		return false, err
	}
	dup, err := t.duplicate(c, v, ino)
	if err != nil {
		return false, err
	}
	dup.parent, dup.name = to, d.Name
	if dup.IsDir() {
		dir, err := c.edit(to)
		if err != nil {
			return false, err
		}
		dir.Nlink++
	}
	c.created = append(c.created, *dup)
	c.setEntry(to, d.Name, dup)
	return true, nil
}

// viewHeld is view for an inode that is held or else is gone.
func (c *change) viewHeld(ino Ino) (*inode, error) {
	v, err := c.view(ino)
	var relock *errRelock
	if errors.As(err, &relock) {
		return nil, fmt.Errorf("%w: %d", ErrStale, ino)
	}
	return v, err
}

// giveUp leaves an unfinished copy to the collector.
func (t *treeClone) giveUp(root Ino) {
	if root != 0 {
		t.s.collector.endTree(root)
		t.s.collector.wake()
	}
}

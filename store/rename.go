package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// RenameOptions of Rename. The zero value is rename(2).
type RenameOptions struct {
	NoReplace bool // fs.ErrExist if the target exists (RENAME_NOREPLACE)
	Exchange  bool // the two entries change places (RENAME_EXCHANGE); the target must exist
	// ReplaceTree replaces the target whatever it is, a tree included, in the
	// same batch (RFC 4918 section 9.9.3).
	ReplaceTree bool
	Source      Cond // asked of the source; nil: none
	Target      Cond // asked of the target, nil if there is none
	Mtime       time.Time
}

// Rename moves the entry oldName to newName atomically: a reader sees the old
// entry or the new one, never neither and never both. It reports whether it
// replaced a target. If both names are the same file it does nothing (rename(2)).
//
// The error matches fs.ErrNotExist, fs.ErrExist, ErrIsDir (a file onto a
// directory), ErrNotDir (a directory onto a file), ErrNotEmpty, or ErrSubtree
// (a directory into itself or its own descendant).
func (s *Store) Rename(ctx context.Context, oldParent Ino, oldName string, newParent Ino, newName string, o RenameOptions) (replaced bool, err error) {
	if err := CheckName(oldName); err != nil {
		return false, err
	}
	if err := CheckName(newName); err != nil {
		return false, err
	}
	if o.Exchange && (o.NoReplace || o.ReplaceTree) {
		return false, fmt.Errorf("%w: an exchange has no other option", fs.ErrInvalid)
	}
	r := renaming{oldParent: oldParent, newParent: newParent, oldName: oldName, newName: newName, o: o}
	touch, err := s.prepareRename(ctx, &r)
	if err != nil {
		return false, err
	}
	locks := s.davLocksOf(ctx, oldParent, oldName)
	for {
		replaced, err = s.rename(ctx, touch, &r)
		if !errors.Is(err, errTreeUnlocked) {
			break
		}
		r.tree = true
	}
	if err == nil && r.moved {
		s.dropDAVLocks(locks)
	}
	return replaced, err
}

// prepareRename returns the inodes that the names mean now. Which they mean is
// certain only under their locks, and the tree is locked before them: so r.tree
// is a guess, and run says if it was wrong.
//
// Where a name is about to change from one file to another, what was written to
// the other is made durable first: programs replace files like that without
// fsync(2), and after a power cut the name would mean an empty or a torn file.
func (s *Store) prepareRename(ctx context.Context, r *renaming) (touch []Ino, err error) {
	touch = []Ino{r.oldParent, r.newParent}
	src, ok, err := s.lookupEntry(r.oldParent, r.oldName, false)
	if err != nil {
		return nil, err
	}
	if ok {
		touch = append(touch, src.ino)
	}
	dst, exists, err := s.lookupEntry(r.newParent, r.newName, false)
	if err == nil && exists {
		touch = append(touch, dst.ino)
	}
	r.tree = r.oldParent != r.newParent && src.typ == ModeDir
	if ok && exists && src.ino != dst.ino && src.typ == ModeRegular && !r.o.Exchange && !r.o.NoReplace {
		return touch, ignore(s.SyncContent(ctx, src.ino), ErrStale)
	}
	return touch, nil
}

// errTreeUnlocked says that a directory moves to another one and renameMu is not held.
var errTreeUnlocked = errors.New("a directory moves and the tree is not locked")

func (s *Store) rename(ctx context.Context, touch []Ino, r *renaming) (replaced bool, err error) {
	if r.tree {
		s.renameMu.Lock()
		defer s.renameMu.Unlock()
	}
	err = s.change(ctx, "rename", touch, func(c *change) error {
		r.c, r.moved = c, false
		replaced, err = r.run()
		return err
	})
	return replaced, err
}

// renaming is one attempt of a rename.
type renaming struct {
	c                    *change
	oldParent, newParent Ino
	oldName, newName     string
	o                    RenameOptions
	tree                 bool // renameMu is held
	moved                bool // the old name means something else now
}

func (r *renaming) run() (replaced bool, err error) {
	c := r.c
	for _, dir := range [...]Ino{r.oldParent, r.newParent} {
		v, err := c.view(dir)
		if err != nil {
			return false, err
		}
		if !v.IsDir() {
			return false, ErrNotDir
		}
		if v.Nlink == 0 {
			return false, fmt.Errorf("%w: %d", ErrStale, dir)
		}
	}
	sd, ok, err := c.entry(r.oldParent, r.oldName)
	if err != nil {
		return false, err
	}
	if !ok {
		return false, fs.ErrNotExist
	}
	td, exists, err := c.entry(r.newParent, r.newName)
	if err != nil {
		return false, err
	}
	src, err := c.view(sd.ino)
	if err != nil {
		return false, err
	}
	var dst *inode
	if exists {
		if dst, err = c.view(td.ino); err != nil {
			return false, err
		}
	}
	if err := r.ask(src, dst); err != nil {
		return false, err
	}
	if exists && sd.ino == td.ino {
		return true, nil // two names of one file: both stay (rename(2))
	}
	if err := r.outsideItself(src, r.newParent); err != nil {
		return false, err
	}
	r.moved = true
	if r.o.Exchange {
		return true, r.exchange(src, dst)
	}
	if exists {
		if err := r.replace(src, dst); err != nil {
			return false, err
		}
	}
	return exists, r.move(sd.ino)
}

// ask checks the conditions and options against what is there.
func (r *renaming) ask(src, dst *inode) error {
	if err := r.c.ask(r.o.Source, src.Ino); err != nil {
		return err
	}
	var target Ino
	if dst != nil {
		target = dst.Ino
	}
	if err := r.c.ask(r.o.Target, target); err != nil {
		return err
	}
	switch {
	case dst != nil && r.o.NoReplace:
		return fs.ErrExist
	case dst == nil && r.o.Exchange:
		return fs.ErrNotExist
	}
	return nil
}

// outsideItself returns ErrSubtree if the directory v would end up in its own
// subtree, which can only happen when it moves to another directory.
func (r *renaming) outsideItself(v *inode, into Ino) error {
	if !v.IsDir() || r.oldParent == r.newParent {
		return nil
	}
	if !r.tree {
		return errTreeUnlocked
	}
	inside := false
	err := r.c.s.ancestors(into, func(a Ino) bool { inside = a == v.Ino; return !inside })
	if err == nil && inside {
		err = ErrSubtree
	}
	return err
}

// replace makes room for src where dst is.
func (r *renaming) replace(src, dst *inode) error {
	c := r.c
	if !dst.IsDir() {
		if src.IsDir() && !r.o.ReplaceTree {
			return ErrNotDir
		}
		return c.dropReplaced(r.newParent, r.newName, dst.Ino)
	}
	// An ancestor of the source cannot be replaced by it.
	inside := false
	if err := c.s.ancestors(r.oldParent, func(a Ino) bool { inside = a == dst.Ino; return !inside }); err != nil {
		return err
	}
	if inside {
		if r.o.ReplaceTree {
			return ErrSubtree
		}
		return ErrNotEmpty
	}
	if !r.o.ReplaceTree {
		if !src.IsDir() {
			return ErrIsDir
		}
		return c.rmdir(r.newParent, r.newName, dst.Ino)
	}
	return c.detach(r.newParent, r.newName, dst.Ino)
}

// dropReplaced is unlink for an entry that a rename is about to overwrite.
func (c *change) dropReplaced(parent Ino, name string, ino Ino) error {
	if _, err := c.editDir(parent); err != nil {
		return err
	}
	return c.dropLink(parent, name, ino)
}

// move takes the source from its old name to its new one.
func (r *renaming) move(ino Ino) error {
	c := r.c
	from, err := c.editDir(r.oldParent)
	if err != nil {
		return err
	}
	to, err := c.editDir(r.newParent)
	if err != nil {
		return err
	}
	v, err := c.edit(ino)
	if err != nil {
		return err
	}
	if v.IsDir() {
		from.Nlink--
		to.Nlink++
	}
	if !r.o.Mtime.IsZero() {
		v.Mtime = r.o.Mtime.UnixNano()
	}
	c.clearEntry(r.oldParent, r.oldName, ino)
	r.rename(v, r.oldParent, r.oldName, r.newParent, r.newName)
	return nil
}

// rename gives v the new name instead of the old one.
func (r *renaming) rename(v *inode, oldParent Ino, oldName string, newParent Ino, newName string) {
	c := r.c
	if v.parent == oldParent && v.name == oldName {
		v.parent, v.name = newParent, newName
	} else {
		c.delete(linkKey(v.Ino, oldParent, oldName))
		c.put(linkKey(v.Ino, newParent, newName), []byte{})
	}
	c.setEntry(newParent, newName, v)
}

// exchange lets the two entries change places.
func (r *renaming) exchange(src, dst *inode) error {
	c := r.c
	if err := r.outsideItself(dst, r.oldParent); err != nil {
		return err
	}
	from, err := c.editDir(r.oldParent)
	if err != nil {
		return err
	}
	to, err := c.editDir(r.newParent)
	if err != nil {
		return err
	}
	if src, err = c.edit(src.Ino); err != nil {
		return err
	}
	if dst, err = c.edit(dst.Ino); err != nil {
		return err
	}
	if src.IsDir() {
		from.Nlink--
		to.Nlink++
	}
	if dst.IsDir() {
		to.Nlink--
		from.Nlink++
	}
	r.rename(src, r.oldParent, r.oldName, r.newParent, r.newName)
	r.rename(dst, r.newParent, r.newName, r.oldParent, r.oldName)
	return nil
}

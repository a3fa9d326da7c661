package store

import (
	"errors"
	"fmt"
	"slices"

	"engramfs/store/meta"
)

// lostFound is the name, in the root, of the directory for what has no place.
const lostFound = "lost+found"

func (r *repair) setDirentType(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	tx.Put(f.key, appendDirent(nil, dirent{ino: v.Ino, typ: v.Mode & ModeType}))
	r.did("entry %q has the type of inode %d", f.key[9:], v.Ino)
	return nil
}

// putEntry names v in a directory, if nothing else has that name there.
func (r *repair) putEntry(tx meta.Txn, v *inode, parent Ino, name string) error {
	key := direntKey(parent, name)
	if _, err := tx.Get(key); !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	tx.Put(key, appendDirent(nil, dirent{ino: v.Ino, typ: v.Mode & ModeType}))
	r.did("entry %q of directory %d names inode %d again", name, parent, v.Ino)
	if parent == v.Ino {
		return nil
	}
	return r.edit(tx, parent, func(*inode) error { return nil }) // its entries have a new version
}

// restoreHome makes the entry again that an inode calls its home.
func (r *repair) restoreHome(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	return r.putEntry(tx, &v, v.parent, v.name)
}

// restoreLink makes the entry again that a link record stands for, or takes the
// record out if it can stand for none.
func (r *repair) restoreLink(tx meta.Txn, f Finding) error {
	parent, name := linkOfKey(f.key)
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	dir, err := readInode(tx, parent)
	if err != nil || !dir.IsDir() || v.IsDir() || CheckName(name) != nil {
		return r.takeOut(tx, f.key)
	}
	return r.putEntry(tx, &v, parent, name)
}

// unnameRoot takes every name from the root.
func (r *repair) unnameRoot(tx meta.Txn, _ Finding) error {
	for _, n := range r.names[RootIno] {
		if err := r.takeOut(tx, direntKey(n.parent, n.name)); err != nil {
			return err
		}
	}
	r.did("the root has no name")
	return r.edit(tx, RootIno, func(v *inode) error {
		v.parent, v.name = 0, ""
		return nil
	})
}

// rehome makes one of an inode's names its home and writes the link records of
// the others anew. A directory keeps one name only.
func (r *repair) rehome(tx meta.Txn, f Finding) error {
	names := slices.Clone(r.names[f.Ino])
	if len(names) == 0 {
		return nil
	}
	return r.edit(tx, f.Ino, func(v *inode) error {
		at := max(0, slices.IndexFunc(names, func(n home) bool { return n.parent == v.parent && n.name == v.name }))
		kept := names[at]
		names = slices.Delete(names, at, at+1)
		v.parent, v.name = kept.parent, kept.name
		links := inoKey(keyLink, v.Ino)
		tx.DeleteRange(links, prefixEnd(links)) // derived from the entries
		for _, n := range names {
			if v.IsDir() {
				if err := r.takeOut(tx, direntKey(n.parent, n.name)); err != nil {
					return err
				}
				continue
			}
			tx.Put(linkKey(v.Ino, n.parent, n.name), nil)
		}
		if v.IsDir() {
			r.names[v.Ino] = []home{kept}
		}
		r.did("the home of inode %d is entry %q of directory %d", v.Ino, kept.name, kept.parent)
		return nil
	})
}

// toLostFound moves an inode that has no name, or one that is inside itself.
func (r *repair) toLostFound(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	if b, err := tx.Get(direntKey(v.parent, v.name)); err == nil {
		if d, derr := decodeDirent(b); derr == nil && d.ino == v.Ino {
			if err := r.takeOut(tx, direntKey(v.parent, v.name)); err != nil {
				return err
			}
		}
	}
	dir, _, err := r.twoInos(tx)
	if err != nil {
		return err
	}
	return r.attach(tx, &v, dir, fmt.Sprintf("ino-%d", v.Ino))
}

// attach puts v into the directory of what was lost, which gets the number dir if
// it must be made.
func (r *repair) attach(tx meta.Txn, v *inode, dir Ino, name string) error {
	dir, err := r.lostFoundDir(tx, dir)
	if err != nil {
		return err
	}
	if name, err = freeName(tx, dir, name); err != nil {
		return err
	}
	r.did("inode %d is now /%s/%s", v.Ino, lostFound, name)
	return r.enter(tx, v, dir, name)
}

// enter makes name in a directory the only name of v.
func (r *repair) enter(tx meta.Txn, v *inode, dir Ino, name string) error {
	v.parent, v.name = dir, name
	tx.Put(direntKey(dir, name), appendDirent(nil, dirent{ino: v.Ino, typ: v.Mode & ModeType}))
	return r.save(tx, v)
}

// lostFoundDir returns the directory of what was lost, in the root. Only its owner may
// look into it: what is in there may have been in a private directory. It makes it with the number
// spare if there is none, under another name if that is a file's.
func (r *repair) lostFoundDir(tx meta.Txn, spare Ino) (Ino, error) {
	name := lostFound
	for n := 2; ; n++ {
		b, err := tx.Get(direntKey(RootIno, name))
		if errors.Is(err, meta.ErrNotFound) {
			break
		}
		if err != nil {
			return 0, err
		}
		if d, err := decodeDirent(b); err == nil && d.typ == ModeDir {
			return d.ino, nil
		}
		name = fmt.Sprintf("%s-%d", lostFound, n)
	}
	v := r.newInode(spare, ModeDir|0o700)
	v.Nlink, v.parent, v.name = 2, RootIno, name
	tx.Put(inoKey(keyInode, v.Ino), appendInode(nil, &v))
	tx.Put(direntKey(RootIno, name), appendDirent(nil, dirent{ino: v.Ino, typ: ModeDir}))
	return v.Ino, r.edit(tx, RootIno, func(root *inode) error {
		root.Nlink++
		return nil
	})
}

// freeName returns name, or one like it that nothing has in dir.
func freeName(tx meta.Txn, dir Ino, name string) (string, error) {
	free := name
	for n := 2; ; n++ {
		_, err := tx.Get(direntKey(dir, free))
		if errors.Is(err, meta.ErrNotFound) {
			return free, nil
		}
		if err != nil {
			return "", err
		}
		free = fmt.Sprintf("%s-%d", name, n)
	}
}

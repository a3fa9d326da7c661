package store

import (
	"fmt"
	"slices"
	"strings"

	"engramfs/store/meta"
)

// lostFound is the name, in the root, of the directory for what has no place.
const lostFound = "lost+found"

// readEntries counts the names of every inode. An entry that names nothing, or is in
// no directory, is dropped.
func (s *salvager) readEntries() error {
	err := s.records(keyDirent, func(key, value []byte) func(meta.Txn) {
		if len(key) < 10 {
			return s.drop(key)
		}
		parent, name := inoOfKey(key), string(key[9:])
		d, err := decodeDirent(value)
		v, dir := s.inodes[d.ino], s.inodes[parent]
		switch {
		case err != nil || v == nil || d.ino == RootIno || CheckName(name) != nil:
			s.missing("entry %q of %s names nothing that is left", name, s.path(parent))
			return s.drop(key)
		case dir == nil || dir.mode&ModeType != ModeDir:
			return s.drop(key) // its inode goes to lost+found, if that was its only name
		case v.parent == parent && v.name == name:
			v.home = true
			s.counted(parent, v)
		case s.linked(d.ino, parent, name):
			v.names++
		default:
			s.extra = append(s.extra, salvagedName{parent, name, d.ino})
			return nil
		}
		if d.typ == v.mode&ModeType {
			return nil
		}
		return s.setEntry(parent, name, d.ino)
	})
	if err != nil {
		return err
	}
	return s.readExtra()
}

func (s *salvager) counted(parent Ino, v *salvaged) {
	v.names++
	if v.mode&ModeType == ModeDir {
		s.inodes[parent].children++
	}
}

func (s *salvager) linked(ino, parent Ino, name string) bool {
	_, err := s.o.Meta.Get(linkKey(ino, parent, name))
	return err == nil
}

// setEntry returns a change that writes an entry anew.
func (s *salvager) setEntry(parent Ino, name string, ino Ino) func(meta.Txn) {
	s.report.Repaired++
	d := dirent{ino: ino, typ: s.inodes[ino].mode & ModeType}
	return func(tx meta.Txn) { tx.Put(direntKey(parent, name), appendDirent(nil, d)) }
}

// readExtra gives the entries that their inode does not know of a meaning: its home
// if it has none, or one more name of a file. A directory has one name.
func (s *salvager) readExtra() error {
	return s.update(func(tx meta.Txn) {
		for _, e := range s.extra {
			s.report.Repaired++
			v := s.inodes[e.ino]
			switch {
			case !v.home:
				v.home, v.parent, v.name, v.dirty = true, e.parent, e.name, true
				s.counted(e.parent, v)
			case v.mode&ModeType == ModeDir:
				tx.Delete(direntKey(e.parent, e.name))
				continue
			default:
				v.names++
				tx.Put(linkKey(e.ino, e.parent, e.name), []byte{})
			}
			tx.Put(direntKey(e.parent, e.name), appendDirent(nil, dirent{ino: e.ino, typ: v.mode & ModeType}))
		}
	})
}

// readLinks drops link records without their entry, and makes one the home of an inode
// that has lost it.
func (s *salvager) readLinks() error {
	return s.records(keyLink, func(key, _ []byte) func(meta.Txn) {
		ino := inoOfKey(key)
		parent, name := linkOfKey(key)
		v := s.inodes[ino]
		b, err := s.o.Meta.Get(direntKey(parent, name))
		d, derr := decodeDirent(b)
		if v == nil || err != nil || derr != nil || d.ino != ino || v.parent == parent && v.name == name {
			return s.drop(key)
		}
		if v.home {
			return nil
		}
		v.home, v.parent, v.name, v.dirty = true, parent, name, true
		return s.drop(key)
	})
}

// readOrphans looks which inodes without a name are to be removed.
func (s *salvager) readOrphans() error {
	return s.records(keyOrphan, func(key, _ []byte) func(meta.Txn) {
		v := s.inodes[inoOfKey(key)]
		if v == nil || v.names > 0 {
			return s.drop(key)
		}
		v.orphan = true
		return nil
	})
}

// attach gives what has no name one in /lost+found, and sets the link counts right.
func (s *salvager) attach() error {
	var inos []Ino
	for ino, v := range s.inodes {
		if v.names == 0 && !v.orphan && ino != RootIno {
			inos = append(inos, ino)
		}
	}
	slices.Sort(inos)
	for _, ino := range inos {
		if err := s.attachOne(ino); err != nil {
			return err
		}
	}
	for ino, v := range s.inodes {
		links := v.names
		if v.mode&ModeType == ModeDir {
			links = 2 + v.children
			if v.orphan {
				links = 0
			}
		}
		if v.nlink != links {
			if ino != s.lost && v.nlink != 0 {
				s.report.Repaired++
			}
			v.nlink, v.dirty = links, true
		}
	}
	return nil
}

// attachOne puts an inode that nothing names into /lost+found.
func (s *salvager) attachOne(ino Ino) error {
	dir, err := s.lostDir()
	if err != nil {
		return err
	}
	v := s.inodes[ino]
	name := fmt.Sprintf("inode-%d", ino)
	if v.name != "" {
		name = fmt.Sprintf("%.200s.%d", v.name, ino)
	}
	v.home, v.parent, v.name, v.dirty = true, dir, name, true
	s.counted(dir, v)
	s.inodes[dir].dirty = true
	note(&s.report.LostFound, "%s", s.path(ino))
	return s.update(s.setEntry(dir, name, ino))
}

// lostDir returns the directory /lost+found, and makes it if there is none.
func (s *salvager) lostDir() (Ino, error) {
	if s.lost != 0 {
		return s.lost, nil
	}
	name := lostFound
	for i := 1; ; i++ {
		ino, ok := s.lookup(RootIno, name)
		if !ok {
			break
		}
		if s.inodes[ino].mode&ModeType == ModeDir {
			s.lost = ino
			return ino, nil
		}
		name = fmt.Sprintf("%s.%d", lostFound, i)
	}
	s.lost = s.nextIno()
	return s.lost, s.make(&inode{Attr: Attr{Ino: s.lost, Mode: ModeDir | 0o700, Nlink: 2}, parent: RootIno, name: name})
}

// lookup returns what a name means.
func (s *salvager) lookup(parent Ino, name string) (Ino, bool) {
	b, err := s.o.Meta.Get(direntKey(parent, name))
	if err != nil {
		return 0, false
	}
	d, err := decodeDirent(b)
	return d.ino, err == nil && s.inodes[d.ino] != nil
}

// path returns the path of an inode, as far as it is known.
func (s *salvager) path(ino Ino) string {
	var names []string
	for at := ino; at != RootIno; {
		v := s.inodes[at]
		if v == nil || v.parent == 0 || len(names) > 1<<10 {
			names = append(names, fmt.Sprintf("inode-%d", at))
			break
		}
		names = append(names, v.name)
		at = v.parent
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

// rewrite writes the records of the inodes that have changed.
func (s *salvager) rewrite() error {
	for ino, v := range s.inodes {
		if !v.dirty {
			continue
		}
		r, err := readInode(s.o.Meta, ino)
		if err != nil {
			return err
		}
		if v.content != r.content || v.size != r.Size {
			r.Version = max(s.nextVersion(), r.Version+1)
		}
		r.Nlink, r.parent, r.name, r.content, r.Size = v.nlink, v.parent, v.name, v.content, v.size
		r.Change++
		if err := s.update(func(tx meta.Txn) { tx.Put(inoKey(keyInode, ino), appendInode(nil, &r)) }); err != nil {
			return err
		}
		v.dirty = false
	}
	return s.ctx.Err()
}

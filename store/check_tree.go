package store

func (k *checker) readDirents() error {
	return k.scan(keyDirent, func(key, value []byte) {
		if !k.hasInoKey(key, false) {
			return
		}
		parent, name := inoOfKey(key), key[9:]
		d, err := decodeDirent(value)
		if err != nil {
			k.add(Finding{Code: "dirent.record", key: key}, "entry %q of directory %d: %v", name, parent, err)
			return
		}
		dir := k.inodes.find(parent)
		k.checkEntryOf(dir, parent, key)
		v := k.inodes.find(d.ino)
		if v == nil {
			k.add(Finding{Code: "dirent.target", key: key}, "entry %q of directory %d names inode %d, which does not exist", name, parent, d.ino)
			return
		}
		if dir != nil && v.isDir() {
			dir.children++
		}
		if uint32(v.typ) != d.typ {
			k.add(Finding{Code: "dirent.type", Ino: d.ino, key: key}, "entry %q of directory %d has type %#o, inode %d has %#o", name, parent, d.typ, d.ino, v.typ)
		}
		v.names++
		if CheckName(string(name)) != nil {
			k.add(Finding{Code: "dirent.name", Ino: d.ino, key: key}, "entry %q of directory %d is no valid name", name, parent)
		}
		if v.parent == parent && v.name == hashName(name) {
			v.is |= hasHome
		}
	})
}

// checkEntryOf checks that an entry is in a directory.
func (k *checker) checkEntryOf(dir *checkedInode, parent Ino, key []byte) {
	switch {
	case dir == nil:
		k.add(Finding{Code: "dirent.directory", key: key}, "entry %q is in directory %d, which does not exist", key[9:], parent)
		return
	case dir.isDir():
	case dir.kind == contentNone && dir.is&hasEntries == 0 && parent != RootIno: // the root has a finding
		k.add(Finding{Code: "inode.entries", Ino: parent}, "inode %d has entries and type %#o", parent, dir.typ)
	case dir.kind != contentNone:
		k.add(Finding{Code: "dirent.parent", Ino: parent, key: key}, "entry %q is in inode %d, which is no directory", key[9:], parent)
	}
	dir.is |= hasEntries
}

func (k *checker) readLinks() error {
	return k.scan(keyLink, func(key, _ []byte) {
		if len(key) <= 17 {
			k.add(Finding{Code: "record.key", key: key}, "a link record has a key of %d bytes", len(key))
			return
		}
		ino := inoOfKey(key)
		parent, name := linkOfKey(key)
		v := k.inodes.find(ino)
		if v == nil {
			k.add(Finding{Code: "link.stray", key: key}, "link record of inode %d, which does not exist", ino)
			return
		}
		v.links++
		if v.parent == parent && v.name == hashName([]byte(name)) {
			v.is |= badLinks // a home needs none
		}
		b, err := k.get(direntKey(parent, name))
		if err == nil && b == nil && v.is&isOrphan == 0 {
			k.add(Finding{Code: "link.lost", Ino: ino, key: key}, "link record of inode %d: there is no entry %q of directory %d", ino, name, parent)
			return
		}
		if d, derr := decodeDirent(b); err == nil && derr == nil && d.ino != ino {
			k.add(Finding{Code: "link.stray", Ino: ino, key: key}, "link record of inode %d: entry %q of directory %d does not name it", ino, name, parent)
		}
	})
}

// compare checks every inode against what was counted.
func (k *checker) compare() error {
	if k.inodes.find(RootIno) == nil {
		k.add(Finding{Code: "inode.root", Ino: RootIno}, "the root directory is missing")
	}
	for v := range k.inodes.all() {
		if err := k.step(); err != nil {
			return err
		}
		if err := k.compareNames(v); err != nil {
			return err
		}
		if v.isDir() {
			k.checkRooted(v)
		}
		if err := k.compareInline(v); err != nil {
			return err
		}
	}
	return k.compareBlobs()
}

func (k *checker) compareNames(v *checkedInode) error {
	f := Finding{Ino: v.ino}
	bad := func(code, format string, args ...any) {
		f.Code = code
		k.add(f, format, args...)
	}
	switch {
	case v.is&isOrphan != 0:
		if v.names > 0 || v.parent != 0 {
			bad("orphan.named", "inode %d is an orphan and has %d names", v.ino, v.names)
		}
		return nil
	case v.ino == RootIno:
		if v.names > 0 || v.parent != 0 {
			bad("inode.root-name", "the root directory has a name")
		}
	case v.is&hasHome == 0:
		return k.compareHome(v, bad)
	}
	if v.isDir() {
		if v.names > 1 {
			bad("directory.names", "directory %d has %d names", v.ino, v.names)
		}
		if v.nlink != 2+v.children {
			bad("inode.links", "directory %d has %d links and %d child directories", v.ino, v.nlink, v.children)
		}
		return nil
	}
	if v.nlink != v.names {
		bad("inode.links", "inode %d has %d links and %d names", v.ino, v.nlink, v.names)
	}
	if v.names > 0 && v.links != v.names-1 || v.is&badLinks != 0 {
		bad("link.records", "inode %d has %d names and %d link records", v.ino, v.names, v.links)
	}
	return nil
}

// compareHome says what is wrong with the home of an inode that has none. If a name
// is missing the home tells which; if all are there it is the home that is wrong.
func (k *checker) compareHome(v *checkedInode, bad func(code, format string, args ...any)) error {
	n, err := readInode(k.r, v.ino)
	if err != nil {
		return err
	}
	if dir := k.inodes.find(n.parent); dir != nil && (dir.isDir() || dir.is&hasEntries != 0) && CheckName(n.name) == nil {
		b, err := k.get(direntKey(n.parent, n.name))
		if err != nil {
			return err
		}
		if b == nil && (v.names == 0 || !v.isDir() && v.names < v.nlink) {
			bad("dirent.lost", "inode %d: entry %q of directory %d, its home, is missing", v.ino, n.name, n.parent)
			return nil
		}
	}
	if v.names == 0 {
		bad("inode.nameless", "inode %d has no name and is no orphan", v.ino)
		return nil
	}
	bad("inode.home", "inode %d: the entry it calls its home does not name it", v.ino)
	return nil
}

// checkRooted follows a directory's parents to the root, and marks what it passes.
// A way that ends before has a finding of its own at its end.
func (k *checker) checkRooted(v *checkedInode) {
	var way []*checkedInode
	for v != nil && v.ino != RootIno && v.is&(isOrphan|isRooted) == 0 {
		if v.is&isVisited != 0 {
			k.add(Finding{Code: "tree.cycle", Ino: v.ino}, "directory %d is inside itself", v.ino)
			break
		}
		v.is |= isVisited
		way = append(way, v)
		v = k.inodes.find(v.parent)
	}
	for _, w := range way {
		w.is |= isRooted
	}
}

// readInodeParts checks the records that belong to one inode each. It runs
// before anything is compared.
func (k *checker) readInodeParts() error {
	if err := k.scan(keyXattr, func(key, value []byte) {
		if !k.hasInoKey(key, false) {
			return
		}
		ino := inoOfKey(key)
		v := k.inodes.find(ino)
		switch {
		case v == nil:
			k.add(Finding{Code: "xattr.stray", key: key}, "extended attribute %q of inode %d, which does not exist", key[9:], ino)
		case checkXattr(string(key[9:]), value) != nil:
			k.add(Finding{Code: "xattr.record", Ino: ino, key: key}, "extended attribute of inode %d: %v", ino, checkXattr(string(key[9:]), value))
		case v.is&hasXattrs == 0:
			k.add(Finding{Code: "xattr.flag", Ino: ino}, "extended attribute %q of inode %d, which has none", key[9:], ino)
			v.is |= hasXattrs // once is enough
		}
	}); err != nil {
		return err
	}
	if err := k.scan(keyUnsealed, func(key, _ []byte) {
		if !k.hasInoKey(key, true) {
			return
		}
		v := k.inodes.find(inoOfKey(key))
		if v == nil || v.kind != contentBlob || v.is&isSealed != 0 {
			k.add(Finding{Code: "unsealed.stray", Ino: inoOfKey(key), key: key}, "inode %d is marked as unsealed and is not", inoOfKey(key))
			return
		}
		v.is |= isUnsealed
	}); err != nil {
		return err
	}
	return k.scan(keyOrphan, func(key, _ []byte) {
		if !k.hasInoKey(key, true) {
			return
		}
		v := k.inodes.find(inoOfKey(key))
		if v == nil {
			k.add(Finding{Code: "orphan.stray", key: key}, "orphan record of inode %d, which does not exist", inoOfKey(key))
			return
		}
		v.is |= isOrphan
	})
}

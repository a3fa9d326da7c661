package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// Check verifies the whole store and returns every violated invariant in words.
// It changes nothing and can run while the store is in use: the engine is read
// from one snapshot, and inodes in memory are compared with it one by one under
// their locks. Poisoned inodes are left out of that comparison. The error is
// about running the check, not about what it found.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	k := &checker{s: s, ctx: ctx, inodes: make(map[Ino]*checkedInode), refs: make(map[blob.ID]int64)}
	var problems []string
	err := s.engine.View(func(r meta.Reader) error {
		k.r = r
		for _, step := range []func() error{k.readInodes, k.readDirents, k.readLinks, k.readInodeParts, k.readOrphans, k.compare, k.readRefs, k.readUsage} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	problems = append(problems, k.problems...)
	memory, err := s.checkMemory(ctx)
	return append(problems, memory...), err
}

// checkedInode is what the check counts about one inode.
type checkedInode struct {
	mode     uint32
	nlink    uint32
	size     int64
	content  content
	parent   Ino
	xattrs   bool
	orphan   bool
	unsealed bool // has a record that says so
	hasHome  bool
	names    uint32 // dirents that name it
	links    uint32 // link records
	children uint32 // child directories
}

type checker struct {
	s        *Store
	ctx      context.Context
	r        meta.Reader
	inodes   map[Ino]*checkedInode
	refs     map[blob.ID]int64 // references that inodes hold
	files    int64
	dirs     int64
	bytes    int64
	problems []string
}

func (k *checker) problem(format string, args ...any) {
	const enough = 10_000
	if len(k.problems) < enough {
		k.problems = append(k.problems, fmt.Sprintf(format, args...))
	}
}

// scan calls fn with every record of a kind.
func (k *checker) scan(kind byte, fn func(key, value []byte)) error {
	err := k.r.Scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) bool {
		fn(key, value)
		return k.ctx.Err() == nil
	})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return k.ctx.Err()
}

func (k *checker) readInodes() error {
	return k.scan(keyInode, func(key, value []byte) {
		v, err := decodeInode(inoOfKey(key), value)
		if err != nil {
			k.problem("%v", err)
			return
		}
		k.inodes[v.Ino] = &checkedInode{
			mode: v.Mode, nlink: v.Nlink, size: v.Size, content: v.content, parent: v.parent, xattrs: v.HasXattrs,
		}
		if v.IsDir() {
			k.dirs++
		} else {
			k.files++
		}
		if v.IsRegular() {
			k.bytes += v.Size
		}
		if v.content.kind == contentBlob {
			k.refs[v.content.blob]++
		}
	})
}

func (k *checker) readDirents() error {
	return k.scan(keyDirent, func(key, value []byte) {
		parent, name := inoOfKey(key), string(key[9:])
		d, err := decodeDirent(value)
		if err != nil {
			k.problem("entry %q of directory %d: %v", name, parent, err)
			return
		}
		if dir := k.inodes[parent]; dir == nil || dir.mode&ModeType != ModeDir {
			k.problem("entry %q is in inode %d, which is no directory", name, parent)
		} else if d.typ == ModeDir {
			dir.children++
		}
		v := k.inodes[d.ino]
		if v == nil {
			k.problem("entry %q of directory %d names inode %d, which does not exist", name, parent, d.ino)
			return
		}
		if v.mode&ModeType != d.typ {
			k.problem("entry %q of directory %d has type %#o, inode %d has %#o", name, parent, d.typ, d.ino, v.mode&ModeType)
		}
		v.names++
		if CheckName(name) != nil {
			k.problem("entry %q of directory %d is no valid name", name, parent)
		}
		if home, err := readInode(k.r, d.ino); err == nil && home.parent == parent && home.name == name {
			v.hasHome = true
		}
	})
}

func (k *checker) readLinks() error {
	return k.scan(keyLink, func(key, _ []byte) {
		ino := inoOfKey(key)
		parent, name := linkOfKey(key)
		v := k.inodes[ino]
		if v == nil {
			k.problem("link record of inode %d, which does not exist", ino)
			return
		}
		v.links++
		b, err := k.r.Get(direntKey(parent, name))
		if d, derr := decodeDirent(b); err != nil || derr != nil || d.ino != ino {
			k.problem("link record of inode %d: entry %q of directory %d does not name it", ino, name, parent)
		}
	})
}

// readInodeParts checks the records that belong to one inode each.
func (k *checker) readInodeParts() error {
	if err := k.scan(keyInline, func(key, value []byte) {
		v := k.inodes[inoOfKey(key)]
		switch {
		case v == nil:
			k.problem("inline content of inode %d, which does not exist", inoOfKey(key))
		case v.content.fresh: // it would fall back to that after a power cut
		case v.content.kind != contentInline:
			k.problem("inode %d has inline content that it does not refer to", inoOfKey(key))
		case int64(len(value)) != v.size:
			k.problem("inode %d has %d bytes of inline content, its size is %d", inoOfKey(key), len(value), v.size)
		}
	}); err != nil {
		return err
	}
	if err := k.scan(keyXattr, func(key, _ []byte) {
		if v := k.inodes[inoOfKey(key)]; v == nil || !v.xattrs {
			k.problem("extended attribute %q of inode %d, which has none", key[9:], inoOfKey(key))
		}
	}); err != nil {
		return err
	}
	return k.scan(keyUnsealed, func(key, _ []byte) {
		v := k.inodes[inoOfKey(key)]
		if v == nil || v.content.kind != contentBlob || v.content.sealed {
			k.problem("inode %d is marked as unsealed and is not", inoOfKey(key))
			return
		}
		v.unsealed = true
	})
}

func (k *checker) readOrphans() error {
	return k.scan(keyOrphan, func(key, _ []byte) {
		v := k.inodes[inoOfKey(key)]
		if v == nil {
			k.problem("orphan record of inode %d, which does not exist", inoOfKey(key))
			return
		}
		v.orphan = true
	})
}

// compare checks every inode against what was counted.
func (k *checker) compare() error {
	if root := k.inodes[RootIno]; root == nil || root.mode&ModeType != ModeDir {
		k.problem("the root directory is missing")
	}
	for ino, v := range k.inodes {
		k.compareNames(ino, v)
		if v.content.kind == contentNone && v.size != 0 && v.mode&ModeType == ModeRegular {
			k.problem("inode %d has no content and size %d", ino, v.size)
		}
		if v.content.kind == contentInline {
			if _, err := k.r.Get(inoKey(keyInline, ino)); err != nil {
				k.problem("inode %d: inline content: %v", ino, err)
			}
		}
		if v.content.kind == contentBlob {
			k.checkBlob(ino, v)
		}
		if v.content.sealed == v.unsealed && v.content.kind == contentBlob {
			k.problem("inode %d: content %s has no checksums and is not marked as unsealed", ino, v.content.blob)
		}
		if v.content.fresh && (v.content.kind != contentBlob || v.content.sealed) {
			k.problem("inode %d has content that was never synced and is none such", ino)
		}
	}
	return k.ctx.Err()
}

func (k *checker) compareNames(ino Ino, v *checkedInode) {
	isDir := v.mode&ModeType == ModeDir
	switch {
	case v.orphan:
		if v.names > 0 {
			k.problem("inode %d is an orphan and has %d names", ino, v.names)
		}
		return
	case ino == RootIno:
		if v.names > 0 {
			k.problem("the root directory has a name")
		}
	case v.names == 0:
		k.problem("inode %d has no name and is no orphan", ino)
		return
	case !v.hasHome:
		k.problem("inode %d: the entry it calls its home does not name it", ino)
	}
	if isDir {
		if v.names > 1 {
			k.problem("directory %d has %d names", ino, v.names)
		}
		if v.nlink != 2+v.children {
			k.problem("directory %d has %d links and %d child directories", ino, v.nlink, v.children)
		}
		return
	}
	if v.nlink != v.names {
		k.problem("inode %d has %d links and %d names", ino, v.nlink, v.names)
	}
	if v.names > 0 && v.links != v.names-1 {
		k.problem("inode %d has %d names and %d link records", ino, v.names, v.links)
	}
}

func (k *checker) checkBlob(ino Ino, v *checkedInode) {
	f, err := k.s.blobs.Open(v.content.blob, false)
	if err != nil {
		// The snapshot may be older than a removal.
		if cur, cerr := readInode(k.s.engine, ino); cerr != nil || cur.content.blob != v.content.blob {
			return
		}
		k.problem("inode %d: content %s: %v", ino, v.content.blob, err)
		return
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		k.problem("inode %d: content %s: %v", ino, v.content.blob, err)
	} else if v.content.sealed && size != v.size {
		k.problem("inode %d: content %s has %d bytes, want %d", ino, v.content.blob, size, v.size)
	}
	if v.content.sealed {
		groups := (v.size + groupSums*blockSize - 1) / (groupSums * blockSize)
		for g := range groups {
			want := min(v.size-g*groupSums*blockSize, groupSums*blockSize)
			b, err := k.r.Get(sumsKey(v.content.blob, uint32(g)))
			if err != nil || int64(len(b)) != (want+blockSize-1)/blockSize*sumSize {
				k.problem("inode %d: content %s: checksums of group %d are missing (%v)", ino, v.content.blob, g, err)
			}
		}
	}
}

// readRefs compares the reference counters with the references.
func (k *checker) readRefs() error {
	for id, n := range k.refs {
		have, err := k.r.Counter(blobKey(keyBlobRefs, id))
		if err != nil {
			return fmt.Errorf("check: %w", err)
		}
		if have != n {
			k.problem("content %s has reference count %d and %d references", id, have, n)
		}
	}
	return nil
}

func (k *checker) readUsage() error {
	u, err := loadUsage(k.r)
	if err != nil {
		return err
	}
	if want := (usage{files: k.files, dirs: k.dirs, bytes: k.bytes}); u != want {
		k.problem("usage counts %+v, there are %+v", u, want)
	}
	return nil
}

// checkMemory compares the inodes in memory with the engine.
func (s *Store) checkMemory(ctx context.Context) (problems []string, err error) {
	s.nodes.each(func(n *node) bool {
		if n.guard.Event() != nil {
			return true
		}
		_, rerr := n.guard.Read("check", func(v *inode) {
			r, err := readInode(s.engine, n.ino)
			switch {
			case errors.Is(err, ErrStale) && v.gone():
			case err != nil:
				problems = append(problems, fmt.Sprintf("inode %d is in memory: %v", n.ino, err))
			case r != *v:
				problems = append(problems, fmt.Sprintf("inode %d is %+v in memory and %+v in the engine", n.ino, *v, r))
			}
		})
		err = errors.Join(rerr, ctx.Err())
		return err == nil
	})
	return problems, err
}

// checkInode returns what is wrong with one inode whose lock the caller holds.
func (s *Store) checkInode(ctx context.Context, r meta.Reader, v *inode) (problems []string, err error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if v.parent != 0 {
		b, err := r.Get(direntKey(v.parent, v.name))
		if d, derr := decodeDirent(b); err != nil || derr != nil || d.ino != v.Ino {
			bad("entry %q of directory %d does not name inode %d", v.name, v.parent, v.Ino)
		}
	} else if v.Ino != RootIno {
		if _, err := r.Get(inoKey(keyOrphan, v.Ino)); err != nil {
			bad("inode %d has no name and is no orphan", v.Ino)
		}
	}
	if v.IsDir() {
		return problems, s.checkEntries(ctx, r, v.Ino, bad)
	}
	switch v.content.kind {
	case contentInline:
		if _, err := s.readInline(v); err != nil {
			bad("%v", err)
		}
	case contentBlob:
		if err := s.checkContent(ctx, v); errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			bad("%v", err)
		} else if err != nil {
			return nil, err
		}
	}
	return problems, nil
}

// checkEntries reports entries of a directory that name nothing.
func (s *Store) checkEntries(ctx context.Context, r meta.Reader, dir Ino, bad func(string, ...any)) error {
	prefix := inoKey(keyDirent, dir)
	err := r.Scan(prefix, prefixEnd(prefix), func(key, value []byte) bool {
		d, err := decodeDirent(value)
		if err == nil {
			_, err = r.Get(inoKey(keyInode, d.ino))
		}
		if err != nil {
			bad("entry %q of directory %d: %v", key[9:], dir, err)
		}
		return ctx.Err() == nil
	})
	return errors.Join(err, ctx.Err())
}

// checkContent reads all of a sealed blob against its checksums.
func (s *Store) checkContent(ctx context.Context, v *inode) error {
	b, err := s.open.get(v.content.blob)
	if err != nil {
		return err
	}
	c := &Content{s: s, attr: v.Attr, blob: b, sealed: v.content.sealed}
	defer c.Close()
	if !c.sealed {
		return nil
	}
	for off := int64(0); off < v.Size; off += streamSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := c.WriteRange(io.Discard, off, min(streamSize, v.Size-off)); err != nil {
			return err
		}
	}
	return nil
}

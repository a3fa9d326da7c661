package store

import (
	"engramfs/store/blob"
	"engramfs/store/meta"
)

// home is an entry that names an inode.
type home struct {
	parent Ino
	name   string
	typ    uint32
}

// gather reads, once for all findings of a phase, what they need. What is mended in a
// phase changes that of its own inode alone.
func (r *repair) gather(findings []Finding) error {
	r.names, r.refs = make(map[Ino][]home), make(map[blob.ID]int64)
	for _, f := range findings {
		switch fixes[f.Code].needs {
		case needNames:
			r.names[f.about()] = nil
		case needRefs:
			r.refs[f.blob] = 0
		}
	}
	if len(r.names) > 0 {
		if err := r.gatherNames(); err != nil {
			return err
		}
	}
	if len(r.refs) == 0 {
		return nil
	}
	return eachContent(r.engine, func(v *inode) {
		if n, ok := r.refs[v.content.blob]; ok {
			r.refs[v.content.blob] = n + 1
		}
	})
}

// about returns the inode that a finding is about.
func (f *Finding) about() Ino {
	if f.Ino != 0 {
		return f.Ino
	}
	return inoOfKey(f.key)
}

// gatherNames fills names, up to MaxLinks for each inode.
func (r *repair) gatherNames() error {
	return r.engine.Scan([]byte{keyDirent}, []byte{keyDirent + 1}, func(key, value []byte) bool {
		d, err := decodeDirent(value)
		if err != nil || len(key) <= 9 {
			return true
		}
		if list, ok := r.names[d.ino]; ok && len(list) < MaxLinks {
			r.names[d.ino] = append(list, home{parent: inoOfKey(key), name: string(key[9:]), typ: d.typ})
		}
		return true
	})
}

// eachContent calls fn with every inode that has a blob. Its name is not filled in.
func eachContent(r meta.Reader, fn func(v *inode)) error {
	return r.Scan([]byte{keyInode}, []byte{keyInode + 1}, func(key, value []byte) bool {
		var v inode
		if v.decode(inoOfKey(key), value) == nil && v.content.kind == contentBlob {
			fn(&v)
		}
		return true
	})
}

// findHome gives v, of which only a part is left, an entry that names it as its home.
// One of a symlink makes it a symlink, unless it is a directory.
func (r *repair) findHome(v *inode) {
	names := r.names[v.Ino]
	if v.Ino == RootIno || len(names) == 0 {
		return
	}
	n := names[0]
	v.parent, v.name = n.parent, n.name
	if !v.IsDir() && n.typ == ModeSymlink {
		v.Mode = ModeSymlink | 0o777
	}
}

// countLinks sets a link count to what there is.
func (r *repair) countLinks(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	was := v.Nlink
	v.Nlink = uint32(len(r.names[v.Ino]))
	if v.IsDir() {
		v.Nlink = 2
		prefix := inoKey(keyDirent, v.Ino)
		err = tx.Scan(prefix, prefixEnd(prefix), func(_, value []byte) bool {
			if d, derr := decodeDirent(value); derr == nil && d.typ == ModeDir {
				v.Nlink++
			}
			return true
		})
	}
	if err != nil || v.Nlink == was {
		return err
	}
	r.did("inode %d has %d links, had %d", v.Ino, v.Nlink, was)
	return r.save(tx, &v)
}

// countRefs sets the reference count of content to what there is.
func (r *repair) countRefs(tx meta.Txn, f Finding) error {
	n := r.refs[f.blob]
	if key := blobKey(keyBlobRefs, f.blob); n > 0 {
		tx.Put(key, meta.EncodeCounter(n))
	} else {
		tx.Delete(key)
	}
	r.did("content %s has %d references", f.blob, n)
	return nil
}

func (r *repair) countUsage(tx meta.Txn, _ Finding) error {
	u, err := countUsage(tx)
	if err != nil {
		return err
	}
	putUsage(tx, u)
	r.did("usage is %d files, %d directories, %d bytes", u.files, u.dirs, u.bytes)
	return nil
}

// countUsage counts what there is.
func countUsage(r meta.Reader) (u usage, err error) {
	err = r.Scan([]byte{keyInode}, []byte{keyInode + 1}, func(key, value []byte) bool {
		var v inode
		if v.decode(inoOfKey(key), value) == nil {
			u.add(&v)
		}
		return true
	})
	return u, err
}

package store

import (
	"encoding/binary"
	"errors"
	"io/fs"

	"engramfs/store/meta"
)

// referInline makes inline content that is there what the file has.
func (r *repair) referInline(tx meta.Txn, f Finding) error {
	b, err := tx.Get(f.key)
	if err != nil {
		return err
	}
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	typ := v.Mode & ModeType
	if v.content.kind == contentBlob || typ != ModeRegular && typ != ModeSymlink {
		return r.takeOut(tx, f.key)
	}
	v.content, v.Size = content{kind: contentInline}, int64(len(b))
	r.did("inode %d has its inline content of %d bytes", v.Ino, len(b))
	return r.save(tx, &v)
}

func (r *repair) clearFlags(tx meta.Txn, f Finding) error {
	return r.edit(tx, f.Ino, func(v *inode) error {
		v.content.fresh = false
		v.content.sealed = v.content.sealed && v.content.kind == contentBlob
		r.did("flags of the content of inode %d cleared", v.Ino)
		return nil
	})
}

// settleSize deals with content that is shorter or longer than it should be. If
// the checksums are those of the blob it is the inode that is wrong. Content that was
// cut is damaged; what was added is kept, as if it had been written in place.
func (r *repair) settleSize(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	file, err := r.blobs.Open(v.content.blob, false)
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return err
	}
	was := v.Size
	switch {
	case hasSums(tx, &v, size) && !hasSums(tx, &v, was):
		v.Size = size
		r.did("size of inode %d is %d, as its checksums say; was %d", v.Ino, size, was)
		return r.save(tx, &v)
	case size < was:
		return r.note(tx, &v, Damage{Kind: DamagedContent, Offset: size, Length: was - size, Err: f.Detail, blob: f.blob})
	}
	v.Size = size
	return r.unsealInode(tx, &v)
}

// hasSums reports whether v's blob has checksums for exactly size bytes.
func hasSums(tx meta.Txn, v *inode, size int64) bool {
	const groupSize = groupSums * blockSize
	groups := (size + groupSize - 1) / groupSize
	for g := range groups {
		sums, err := tx.Get(sumsKey(v.content.blob, uint32(g)))
		if err != nil || len(sums) != sumsLength(min(size-g*groupSize, groupSize)) {
			return false
		}
	}
	_, err := tx.Get(sumsKey(v.content.blob, uint32(groups)))
	return errors.Is(err, meta.ErrNotFound)
}

// unseal makes content without all of its checksums what the sealer begins with.
func (r *repair) unseal(tx meta.Txn, f Finding) error {
	return r.edit(tx, f.Ino, func(v *inode) error { return r.unsealInode(tx, v) })
}

func (r *repair) unsealInode(tx meta.Txn, v *inode) error {
	v.content.sealed = false
	// As written past the store: the next start then believes the blob's size.
	tx.Put(inoKey(keyUnsealed, v.Ino), []byte{writtenNative})
	tx.Put(inoKey(keyInode, v.Ino), appendInode(nil, v))
	r.did("the content of inode %d gets new checksums with the next start", v.Ino)
	return nil
}

func (r *repair) flagXattrs(tx meta.Txn, f Finding) error {
	return r.edit(tx, f.Ino, func(v *inode) error {
		v.HasXattrs = true
		r.did("inode %d has extended attributes", v.Ino)
		return nil
	})
}

// adopt makes a file of content that has lost its own.
func (r *repair) adopt(tx meta.Txn, f Finding) error {
	file, err := r.blobs.Open(f.blob, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return err
	}
	ino, dir, err := r.twoInos(tx)
	if err != nil {
		return err
	}
	v := r.newInode(ino, ModeRegular|0o600)
	v.Size, v.content = size, content{kind: contentBlob, blob: f.blob}
	if v.content.sealed = size > 0 && hasSums(tx, &v, size); !v.content.sealed {
		tx.Put(inoKey(keyUnsealed, ino), []byte{writtenNative})
	}
	tx.Put(blobKey(keyBlobRefs, f.blob), meta.EncodeCounter(1))
	return r.attach(tx, &v, dir, "blob-"+f.blob.String())
}

// twoInos takes two numbers that were never used.
func (r *repair) twoInos(tx meta.Txn) (a, b Ino, err error) {
	alloc, err := loadAllocator(tx)
	if err != nil {
		return 0, 0, err
	}
	tx.Put(factNextIno, binary.BigEndian.AppendUint64(nil, uint64(alloc.limit)+2))
	return alloc.limit, alloc.limit + 1, nil
}

// countLinks sets a link count to what there is.
func (r *repair) countLinks(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	was := v.Nlink
	if v.IsDir() {
		v.Nlink = 2
		prefix := inoKey(keyDirent, v.Ino)
		err = tx.Scan(prefix, prefixEnd(prefix), func(_, value []byte) bool {
			if d, derr := decodeDirent(value); derr == nil && d.typ == ModeDir {
				v.Nlink++
			}
			return true
		})
	} else {
		var names []home
		names, err = namesOf(tx, v.Ino, MaxLinks)
		v.Nlink = uint32(len(names))
	}
	if err != nil || v.Nlink == was {
		return err
	}
	r.did("inode %d has %d links, had %d", v.Ino, v.Nlink, was)
	return r.save(tx, &v)
}

// countRefs sets the reference count of content to what there is.
func (r *repair) countRefs(tx meta.Txn, f Finding) error {
	n := int64(0)
	if err := tx.Scan([]byte{keyInode}, []byte{keyInode + 1}, func(key, value []byte) bool {
		var v inode
		if v.decode(inoOfKey(key), value) == nil && v.content.kind == contentBlob && v.content.blob == f.blob {
			n++
		}
		return true
	}); err != nil {
		return err
	}
	if key := blobKey(keyBlobRefs, f.blob); n > 0 {
		tx.Put(key, meta.EncodeCounter(n))
	} else {
		tx.Delete(key)
	}
	r.did("content %s has %d references", f.blob, n)
	return nil
}

func (r *repair) countUsage(tx meta.Txn, _ Finding) error {
	var u usage
	if err := tx.Scan([]byte{keyInode}, []byte{keyInode + 1}, func(key, value []byte) bool {
		var v inode
		if v.decode(inoOfKey(key), value) != nil {
			return true
		}
		if v.IsDir() {
			u.dirs++
		} else {
			u.files++
		}
		if v.IsRegular() {
			u.bytes += v.Size
		}
		return true
	}); err != nil {
		return err
	}
	for _, c := range []struct {
		key []byte
		n   int64
	}{{usageFiles, u.files}, {usageDirs, u.dirs}, {usageBytes, u.bytes}} {
		tx.Put(c.key, meta.EncodeCounter(c.n))
	}
	r.did("usage is %d files, %d directories, %d bytes", u.files, u.dirs, u.bytes)
	return nil
}

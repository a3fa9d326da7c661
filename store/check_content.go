package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"engramfs/store/blob"
)

func (k *checker) readInline() error {
	return k.scan(keyInline, func(key, value []byte) {
		if !k.hasInoKey(key, true) {
			return
		}
		ino := inoOfKey(key)
		v := k.inodes.find(ino)
		f := Finding{Ino: ino, key: key}
		switch {
		case v == nil:
			f.Code = "inline.stray"
			k.add(f, "inline content of inode %d, which does not exist", ino)
			return
		case v.is&isFresh != 0: // it would fall back to that after a power cut
		case v.kind != contentInline:
			f.Code = "inline.unreferred"
			k.add(f, "inode %d has inline content that it does not refer to", ino)
		case int64(len(value)) != v.size:
			f.Code = "inline.size"
			k.add(f, "inode %d has %d bytes of inline content, its size is %d", ino, len(value), v.size)
		}
		v.is |= hasInline
	})
}

// compareInline checks content that is no blob, and what says where content is.
func (k *checker) compareInline(v *checkedInode) error {
	f := Finding{Ino: v.ino}
	switch {
	case v.kind == contentNone && v.size != 0 && uint32(v.typ) == ModeRegular && v.is&hasInline == 0 && !k.knownDamage(v.ino, blob.ID{}):
		f.Code = "content.none"
		k.add(f, "inode %d has no content and size %d", v.ino, v.size)
	case v.kind == contentInline && v.is&hasInline == 0 && !k.knownDamage(v.ino, blob.ID{}):
		f.Code = "inline.missing"
		k.add(f, "inode %d has lost its inline content", v.ino)
	}
	sealed := v.is&isSealed != 0
	if v.is&isFresh != 0 && (v.kind != contentBlob || sealed) || sealed && v.kind != contentBlob {
		f.Code = "content.flags"
		k.add(f, "inode %d has flags of content that it does not have", v.ino)
	}
	if v.kind == contentBlob && !sealed && v.is&isUnsealed == 0 {
		f.Code = "content.unsealed"
		k.add(f, "inode %d has content without checksums and is not marked as unsealed", v.ino)
	}
	return nil
}

// compareBlobs checks the content of every inode that has a blob.
func (k *checker) compareBlobs() error {
	slices.SortFunc(k.refs, func(a, b checkedRef) int { return bytes.Compare(a.id[:], b.id[:]) })
	for _, ref := range k.refs {
		if err := k.ctx.Err(); err != nil {
			return err
		}
		if v := k.inodes.find(ref.ino); v.kind == contentBlob {
			if err := k.checkBlob(ref.id, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *checker) checkBlob(id blob.ID, v *checkedInode) error {
	f := Finding{Ino: v.ino, blob: id}
	file, err := k.blobs.Open(id, false)
	if err != nil {
		if v.is&isFresh != 0 || v.is&isOrphan != 0 {
			return nil // the next start falls back to what the file had before, or nobody can want it
		}
		// The snapshot may be older than a removal.
		if cur, cerr := readInode(k.engine, v.ino); cerr != nil || cur.content.blob != id || k.knownDamage(v.ino, id) {
			return nil
		}
		f.Code = "content.missing"
		k.add(f, "inode %d: content %s: %v", v.ino, id, err)
		return nil
	}
	defer file.Close()
	if v.is&isSealed == 0 {
		return nil
	}
	size, err := file.Size()
	if err != nil {
		return fmt.Errorf("content %s: %w", id, err)
	}
	if size != v.size && !k.knownDamage(v.ino, id) {
		f.Code = "content.size"
		k.add(f, "inode %d: content %s has %d bytes, want %d", v.ino, id, size, v.size)
		return nil
	}
	return k.checkSums(id, v, file)
}

// checkSums checks that a sealed blob has all its checksums and, if all content is
// to be read, that they are right.
func (k *checker) checkSums(id blob.ID, v *checkedInode, file blob.File) error {
	const groupSize = groupSums * blockSize
	verify := k.o.Content && !k.knownDamage(v.ino, id) && !lateWrite(k.r, id, file)
	for g := range (v.size + groupSize - 1) / groupSize {
		size := min(v.size-g*groupSize, groupSize)
		sums, err := readGroup(k.r, id, uint32(g))
		if err != nil {
			return err
		}
		if len(sums) != sumsLength(size) {
			k.add(Finding{Code: "content.sums", Ino: v.ino, blob: id}, "inode %d: content %s: checksums of group %d are missing", v.ino, id, g)
			return nil
		}
		if !verify {
			continue
		}
		if at := k.verifyGroup(file, g*groupSize, size, sums); at >= 0 {
			k.add(Finding{Code: ContentDamaged, Ino: v.ino, blob: id}, "inode %d: content %s: block %d fails its checksum", v.ino, id, at/blockSize)
			return nil
		}
		if err := k.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// verifyGroup returns the offset of the first block that is not what its checksum
// says, or cannot be read, or -1.
func (k *checker) verifyGroup(file blob.File, from, size int64, sums []byte) int64 {
	var block [blockSize]byte
	for off := int64(0); off < size; off += blockSize {
		p := block[:min(blockSize, size-off)]
		if n, _ := file.ReadAt(p, from+off); n < len(p) {
			return from + off
		}
		if want, _ := sumIn(sums, off/blockSize); crc32.Checksum(p, castagnoli) != want {
			return from + off
		}
		if k.ctx.Err() != nil {
			return -1
		}
	}
	return -1
}

// readRefs compares the reference counters with the references. k.refs is sorted.
func (k *checker) readRefs() error {
	rest := k.refs
	next := func() (id blob.ID, n int64) {
		id = rest[0].id
		for len(rest) > 0 && rest[0].id == id {
			n, rest = n+1, rest[1:]
		}
		return id, n
	}
	missing := func(id blob.ID, n int64) {
		k.add(Finding{Code: "refs.count", blob: id}, "content %s has no reference count and %d references", id, n)
	}
	err := k.scan(keyBlobRefs, func(key, value []byte) {
		if len(key) != len(blobKey(keyBlobRefs, blob.ID{})) {
			k.add(Finding{Code: "record.key", key: key}, "a reference count has a key of %d bytes", len(key))
			return
		}
		id := blobOfKey(key)
		for len(rest) > 0 && bytes.Compare(rest[0].id[:], id[:]) < 0 {
			missing(next())
		}
		n := int64(0)
		if len(rest) > 0 && rest[0].id == id {
			_, n = next()
		}
		k.compareRefs(id, n)
	})
	for err == nil && len(rest) > 0 {
		missing(next())
	}
	return err
}

func (k *checker) compareRefs(id blob.ID, n int64) {
	have, err := k.r.Counter(blobKey(keyBlobRefs, id))
	switch {
	case err == nil && have == n:
	case n == 0 && have > 0 && k.hasBlob(id):
		k.add(Finding{Code: "content.lost", blob: id}, "content %s has reference count %d, and no file has it", id, have)
	default:
		k.add(Finding{Code: "refs.count", blob: id}, "content %s has reference count %d and %d references (%v)", id, have, n, err)
	}
}

func (k *checker) hasBlob(id blob.ID) bool {
	f, err := k.blobs.Open(id, false)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// readSums finds checksums of content that nothing is known of, and digests that cannot
// be read. (What is missing of the sums themselves checkSums has found.)
func (k *checker) readSums() error {
	var last blob.ID
	return k.scan(keySums, func(key, value []byte) {
		if len(key) != len(sumsKey(last, 0)) {
			k.add(Finding{Code: "record.key", key: key}, "a record of checksums has a key of %d bytes", len(key))
			return
		}
		id, group := blobOfKey(key), binary.BigEndian.Uint32(key[len(key)-4:])
		if err := decodeGroup(group, value); err != nil && group >= otherGroups {
			k.add(Finding{Code: "digests.record", blob: id, key: key}, "content %s: %v", id, err)
		}
		if id == last {
			return
		}
		last = id
		_, known := slices.BinarySearchFunc(k.refs, id, func(r checkedRef, id blob.ID) int { return bytes.Compare(r.id[:], id[:]) })
		if known || k.dropped(id) || k.hasBlob(id) {
			return
		}
		k.add(Finding{Code: "sums.stray", blob: id}, "checksums of content %s, which does not exist", id)
	})
}

// dropped reports whether the collector is about to look at a blob.
func (k *checker) dropped(id blob.ID) (found bool) {
	prefix := blobKey(keyGarbage, id)
	_ = k.r.Scan(prefix, prefixEnd(prefix), func(_, _ []byte) bool { found = true; return false })
	return found
}

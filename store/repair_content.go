package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"engramfs/store/blob"
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

func (r *repair) flagXattrs(tx meta.Txn, f Finding) error {
	return r.edit(tx, f.Ino, func(v *inode) error {
		v.HasXattrs = true
		r.did("inode %d has extended attributes", v.Ino)
		return nil
	})
}

// settleSize deals with content that is shorter or longer than it should be. If it is
// proven as it is, it is the inode that is wrong. The label proves nothing: it is renewed
// some time after the seal, and may be that of what the file had before. Content that was
// cut is damaged; what was added is kept, as if it had been written in place.
func (r *repair) settleSize(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	was := v.Size
	if v.Size, err = r.blobSize(v.content.blob); err != nil {
		return err
	}
	proof, err := r.reseal(tx, &v, false)
	switch {
	case err != nil:
		return err
	case proof != "":
		r.did("size of inode %d is %d, as its %s says; was %d", v.Ino, v.Size, proof, was)
		return r.save(tx, &v)
	case v.Size < was:
		size := v.Size
		v.Size = was
		return r.note(tx, &v, Damage{Kind: DamagedContent, Offset: size, Length: was - size, Err: f.Detail, blob: f.blob})
	}
	return r.unseal(tx, &v)
}

func (r *repair) blobSize(id blob.ID) (int64, error) {
	file, err := r.blobs.Open(id, false)
	if err != nil {
		return 0, err
	}
	size, err := file.Size()
	return size, errors.Join(err, file.Close())
}

// resealOr gives content all of its checksums again if it is proven, or else makes it what
// the sealer begins with.
func (r *repair) resealOr(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	proof, err := r.reseal(tx, &v, true)
	switch {
	case err != nil:
		return err
	case proof == "":
		return r.unseal(tx, &v)
	}
	tx.Put(inoKey(keyInode, v.Ino), appendInode(nil, &v)) // the same content: the same version
	r.did("the content of inode %d has its checksums again: it is what its %s says", v.Ino, proof)
	return nil
}

// reseal seals v, whose record is the caller's to write, if its content is proven to be
// what it was when it was sealed last. It returns what proves it, "digest", "checksums" or
// "label", or "". byLabel: the label counts. It is asked last, because it may be newer than
// the records; these are made to fit then.
func (r *repair) reseal(tx meta.Txn, v *inode, byLabel bool) (proof string, err error) {
	file, err := r.blobs.Open(v.content.blob, false)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close() // it was only read
	digest := sha256.New()
	sums, err := sumBlob(r.ctx, file, v.Size, digest)
	if err != nil {
		return "", r.ctx.Err() // what cannot be read is not proven
	}
	sha := digest.Sum(nil)
	if proof, err = proofOf(tx, v, sums, sha); err != nil {
		return "", err
	}
	if proof == "" && byLabel {
		if l, err := labelOn(file); err == nil && l.proves(v.Size, sums) {
			proof = "label"
			tx.Put(sumsKey(v.content.blob, groupDigests), appendDigests(nil, &Digests{SHA256: sha}))
		}
	}
	if proof == "" {
		return "", nil
	}
	v.content.sealed, v.content.fresh = true, false
	tx.Delete(inoKey(keyUnsealed, v.Ino))
	replaceSums(tx, v.content.blob, sums)
	return proof, retime(tx, v.content.blob, file)
}

// retime makes the times at which a blob was sealed, if there are any, those that it has
// now. With older ones, damage to come would pass for a write.
func retime(tx meta.Txn, id blob.ID, file blob.File) error {
	t, known := readSealTimes(tx, id)
	f, ok := file.(blob.Stater)
	if !known || !ok {
		return nil
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	t.mtime, t.ctime = st.Mtime, st.Ctime
	tx.Put(sumsKey(id, groupTimes), t.append(nil))
	return nil
}

// proofOf returns which records say that content with these sums and this digest is what
// it was.
func proofOf(r meta.Reader, v *inode, sums, digest []byte) (string, error) {
	record, err := readGroup(r, v.content.blob, groupDigests)
	if err != nil {
		return "", err
	}
	if d, err := decodeDigests(record); err == nil && bytes.Equal(d[SHA256], digest) {
		return "digest", nil
	}
	if same, err := isSummed(r, v.content.blob, sums); !same || err != nil || v.Size == 0 {
		return "", err
	}
	return "checksums", nil
}

// isSummed reports whether sums are those that the engine has of a blob, no more and no
// less.
func isSummed(r meta.Reader, id blob.ID, sums []byte) (bool, error) {
	same := true
	err := r.Scan(sumsKey(id, 0), sumsKey(id, otherGroups), func(_, value []byte) bool {
		sums, same = bytes.CutPrefix(sums, value)
		return same
	})
	return same && len(sums) == 0, err
}

// replaceSums makes sums those of a blob. Its digests and times stay.
func replaceSums(tx meta.Txn, id blob.ID, sums []byte) {
	tx.DeleteRange(sumsKey(id, 0), sumsKey(id, otherGroups))
	for group, part := range groupsOf(sums) {
		tx.Put(sumsKey(id, group), part)
	}
}

// unseal makes content what the sealer begins with. That is a problem: what is damaged
// in it does not show any more.
func (r *repair) unseal(tx meta.Txn, v *inode) error {
	v.content.sealed = false
	// As written past the store: the next start then believes the blob's size.
	tx.Put(inoKey(keyUnsealed, v.Ino), []byte{writtenNative})
	tx.Put(inoKey(keyInode, v.Ino), appendInode(nil, v))
	r.did("the content of inode %d gets new checksums with the next start", v.Ino)
	r.unproven = append(r.unproven, Finding{
		Code: "content.unproven", Ino: v.Ino, Path: r.step.Path, blob: v.content.blob,
		Detail: fmt.Sprintf("inode %d: nothing proves that its content is what it was", v.Ino),
	})
	return nil
}

// adopt makes a file of content that has lost its own.
func (r *repair) adopt(tx meta.Txn, f Finding) error {
	size, err := r.blobSize(f.blob)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ino, dir, err := r.twoInos(tx)
	if err != nil {
		return err
	}
	v := r.newInode(ino, ModeRegular|0o600)
	v.Size, v.content = size, content{kind: contentBlob, blob: f.blob}
	if v.content.sealed, err = hasSums(tx, f.blob, size); err != nil {
		return err
	}
	if !v.content.sealed {
		tx.Put(inoKey(keyUnsealed, ino), []byte{writtenNative})
	}
	tx.Put(blobKey(keyBlobRefs, f.blob), meta.EncodeCounter(1))
	return r.attach(tx, &v, dir, "blob-"+f.blob.String())
}

// hasSums reports whether a blob has checksums for exactly size bytes.
func hasSums(r meta.Reader, id blob.ID, size int64) (bool, error) {
	n := 0
	err := r.Scan(sumsKey(id, 0), sumsKey(id, otherGroups), func(_, value []byte) bool {
		n += len(value)
		return true
	})
	return n > 0 && n == sumsLength(size), err
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

package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"engramfs/store/blob"
)

// contentKind says where a file's bytes are.
type contentKind uint8

const (
	contentNone   contentKind = iota // no bytes are stored: all of Size reads as zeros
	contentInline                    // in the engine, under keyInline
	contentBlob                      // in the blob backend
)

// content locates a file's bytes.
type content struct {
	kind contentKind
	blob blob.ID
	// sealed: the blob has checksums for all of Size. A blob that is written
	// in place is unsealed first, durably, and sealed again once idle.
	sealed bool
	// fresh: the blob was never synced, so a power cut may take it away. If the
	// file had inline content before, that record, the base, is still there: it
	// is what a restart falls back to. Implies not sealed.
	fresh bool
}

// inode is the value behind an inode's lock. It is copied as a whole: an
// operation changes its copy and publishes it with one assignment.
type inode struct {
	Attr
	content content
	// parent and name are the home of the inode: one of the dirents that name
	// it, of a directory the only one. They are zero for the root and for orphans.
	parent Ino
	name   string
}

// gone reports whether the inode was removed while somebody still held its
// node. An orphan, which has no name any more but open handles, is not gone.
func (n *inode) gone() bool { return n.Mode == 0 }

// Flags of an inode record.
const (
	flagXattrs = 1 << iota
	flagSealed
	flagFresh
	flagSparse
)

const inodeRecordVersion = 1

var errShortRecord = errors.New("record is cut short")

// appendInode appends ino's record to b.
func appendInode(b []byte, n *inode) []byte {
	var flags uint64
	for _, f := range [...]struct {
		set bool
		bit uint64
	}{
		{n.HasXattrs, flagXattrs}, {n.content.sealed, flagSealed}, {n.content.fresh, flagFresh}, {n.Sparse, flagSparse},
	} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, inodeRecordVersion, byte(n.content.kind))
	for _, v := range [...]uint64{
		flags, n.Gen, uint64(n.Mode), uint64(n.Nlink), uint64(n.UID), uint64(n.GID), uint64(n.Rdev),
		uint64(n.Size), n.Change, n.Version, uint64(n.parent),
	} {
		b = binary.AppendUvarint(b, v)
	}
	for _, t := range [...]int64{n.Atime, n.Mtime, n.Ctime, n.Btime} {
		b = binary.LittleEndian.AppendUint64(b, uint64(t))
	}
	if n.content.kind == contentBlob {
		b = append(b, n.content.blob[:]...)
	}
	return append(b, n.name...)
}

// decodeInode decodes what appendInode has written.
func decodeInode(ino Ino, b []byte) (inode, error) {
	n := inode{}
	if err := n.decode(ino, b); err != nil {
		return inode{}, err
	}
	n.name = string(nameOfRecord(b))
	return n, nil
}

// decode fills n from a record, all but the name, without an allocation.
func (n *inode) decode(ino Ino, b []byte) error {
	fail := func(err error) error { return fmt.Errorf("%w: inode %d: %w", ErrDamaged, ino, err) }
	if len(b) < 2 {
		return fail(errShortRecord)
	}
	if b[0] != inodeRecordVersion {
		return fail(fmt.Errorf("record version %d is unknown", b[0]))
	}
	kind := contentKind(b[1])
	if kind > contentBlob {
		return fail(fmt.Errorf("content kind %d is unknown", kind))
	}
	b = b[2:]
	var f [11]uint64
	for i := range f {
		v, w := binary.Uvarint(b)
		if w <= 0 {
			return fail(errShortRecord)
		}
		f[i], b = v, b[w:]
	}
	var times [4]int64
	if len(b) < 8*len(times) {
		return fail(errShortRecord)
	}
	for i := range times {
		times[i], b = int64(binary.LittleEndian.Uint64(b)), b[8:]
	}
	var id blob.ID
	if kind == contentBlob && copy(id[:], b) < len(id) {
		return fail(errShortRecord)
	}
	n.Attr = Attr{
		Ino: ino, Gen: f[1], Mode: uint32(f[2]), Nlink: uint32(f[3]), UID: uint32(f[4]), GID: uint32(f[5]), Rdev: uint32(f[6]),
		Size: int64(f[7]), Change: f[8], Version: f[9],
		Atime: times[0], Mtime: times[1], Ctime: times[2], Btime: times[3],
		HasXattrs: f[0]&flagXattrs != 0, Sparse: f[0]&flagSparse != 0,
	}
	if n.Size < 0 {
		return fail(errors.New("size is negative"))
	}
	n.content = content{kind: kind, blob: id, sealed: f[0]&flagSealed != 0, fresh: f[0]&flagFresh != 0}
	n.parent = Ino(f[10])
	return nil
}

// nameOfRecord returns the name at the end of a record that decode accepts.
func nameOfRecord(b []byte) []byte {
	kind := contentKind(b[1])
	b = b[2:]
	for range 11 {
		_, w := binary.Uvarint(b)
		b = b[w:]
	}
	b = b[32:]
	if kind == contentBlob {
		b = b[len(blob.ID{}):]
	}
	return b
}

// dirent is what a name means.
type dirent struct {
	ino Ino
	typ uint32 // the type bits of the inode's mode
}

func appendDirent(b []byte, d dirent) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(d.ino))
	return append(b, byte(d.typ>>12))
}

func decodeDirent(b []byte) (dirent, error) {
	if len(b) != 9 {
		return dirent{}, fmt.Errorf("%w: dirent: %w", ErrDamaged, errShortRecord)
	}
	return dirent{ino: Ino(binary.BigEndian.Uint64(b)), typ: uint32(b[8]) << 12}, nil
}

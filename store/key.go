package store

import (
	"encoding/binary"

	"engramfs/store/blob"
)

// The first byte of an engine key is the kind of its record.
//
//	I ino              inode record
//	D parent name      dirent: the ino and type that a name has in a directory
//	H ino parent name  another name of a file that has several (its home is in the inode record)
//	C ino              inline content of a file, also what it was before a blob that was never synced; or a symlink's target
//	X ino name         extended attribute
//	K ino              unsealed: a file whose blob is or was written in place and has no checksums; see unsealedMark
//	N ino seq          the label of a file's content, or those of all content below a directory, are to be renewed
//	O ino              orphan: an inode without a name that the collector removes
//	R blob             counter: inodes whose content the blob is
//	S blob group       checksums of a group of blocks; of group ffffffff the blob's times when it was sealed, of fffffffe its digests
//	G blob seq         a reference to the blob was dropped; the collector looks whether it was the last
//	U name             counter of the whole store
//	M name             the store's own facts: format, generation, next ino, number and ID of the run
//	L token            WebDAV lock
//	E seq              an event of a lock's history, or the damage of a file
//	B ino              what of a file is damaged
//	Q key              a record of that key that a repair took out because it meant nothing
const (
	keyInode    = 'I'
	keyDirent   = 'D'
	keyLink     = 'H'
	keyInline   = 'C'
	keyXattr    = 'X'
	keyUnsealed = 'K'
	keyLabel    = 'N'
	keyOrphan   = 'O'
	keyBlobRefs = 'R'
	keySums     = 'S'
	keyGarbage  = 'G'
	keyUsage    = 'U'
	keyFacts    = 'M'
	keyHistory  = 'E'
	keyDamage   = 'B'
	keyAside    = 'Q'
)

var (
	factFormat  = []byte("Mformat")
	factGen     = []byte("Mgeneration")
	factNextIno = []byte("Mnext-ino")
	factPoison  = []byte("Mpoison-generation")
	factRun     = []byte("Mrun")
	factRunID   = []byte("Mrun-id")
	factBoot    = []byte("Mboot")
	factScrub   = []byte("Mscrub")

	usageFiles = []byte("Ufiles")
	usageDirs  = []byte("Udirs")
	usageBytes = []byte("Ubytes")
)

func inoKey(kind byte, ino Ino) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, uint64(ino))
}

// appendInoKey appends inoKey(kind, ino) to b.
func appendInoKey(b []byte, kind byte, ino Ino) []byte {
	return binary.BigEndian.AppendUint64(append(b, kind), uint64(ino))
}

// inoOfKey returns the ino that follows the kind byte.
func inoOfKey(key []byte) Ino {
	if len(key) < 9 {
		return 0
	}
	return Ino(binary.BigEndian.Uint64(key[1:9]))
}

func direntKey(parent Ino, name string) []byte {
	b := make([]byte, 0, 9+len(name))
	return append(appendInoKey(b, keyDirent, parent), name...)
}

func linkKey(ino, parent Ino, name string) []byte {
	b := make([]byte, 0, 17+len(name))
	b = appendInoKey(b, keyLink, ino)
	b = binary.BigEndian.AppendUint64(b, uint64(parent))
	return append(b, name...)
}

func xattrKey(ino Ino, name string) []byte {
	b := make([]byte, 0, 9+len(name))
	return append(appendInoKey(b, keyXattr, ino), name...)
}

func blobKey(kind byte, id blob.ID) []byte { return append([]byte{kind}, id[:]...) }

// blobOfKey returns the blob that follows the kind byte. The key is long enough.
func blobOfKey(key []byte) blob.ID { return blob.ID(key[1:]) }

func sumsKey(id blob.ID, group uint32) []byte {
	return binary.BigEndian.AppendUint32(blobKey(keySums, id), group)
}

func garbageKey(id blob.ID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(blobKey(keyGarbage, id), seq)
}

// seqKey returns a key of kind with a sequence number.
func seqKey(kind byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, seq)
}

// prefixEnd returns the first key after all keys that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

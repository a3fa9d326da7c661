package store

import (
	"cmp"
	"iter"
	"slices"

	"engramfs/store/blob"
)

// checkedInode is what the check knows of one inode.
type checkedInode struct {
	ino      Ino
	parent   Ino
	name     uint64 // hash of the name at home
	size     int64
	names    uint32 // dirents that name it
	links    uint32 // link records
	children uint32 // child directories
	nlink    uint32
	typ      uint16 // the type bits of its mode
	kind     contentKind
	is       inodeFlags
}

type inodeFlags uint16

const (
	isOrphan   inodeFlags = 1 << iota
	isUnsealed            // has a record that says so
	isSealed
	isFresh
	hasXattrs
	hasHome   // the dirent of its home names it
	hasInline // has a record of inline content
	hasEntries
	badLinks  // its link records are not what they should be
	isRooted  // leads to the root, or to an orphan
	isVisited // while the way to the root is looked for
)

func (v *checkedInode) isDir() bool { return uint32(v.typ) == ModeDir }

// checkedRef is a reference to a blob.
type checkedRef struct {
	id  blob.ID
	ino Ino
}

// inodeTable has what a check knows of every inode, by number. It grows without being
// copied: at a million inodes that would take as much memory again.
type inodeTable struct {
	chunks [][]checkedInode // none is empty
}

const tableChunk = 1 << 14

// add adds an inode with a higher number than all before.
func (t *inodeTable) add(v checkedInode) {
	last := len(t.chunks) - 1
	if last < 0 || len(t.chunks[last]) == tableChunk {
		t.chunks = append(t.chunks, make([]checkedInode, 0, tableChunk))
		last++
	}
	t.chunks[last] = append(t.chunks[last], v)
}

// last returns the highest number, 0 if there is none.
func (t *inodeTable) last() Ino {
	if len(t.chunks) == 0 {
		return 0
	}
	return lastOf(t.chunks[len(t.chunks)-1])
}

func lastOf(chunk []checkedInode) Ino { return chunk[len(chunk)-1].ino }

// find returns an inode, nil if there is none. The pointer is good for good.
func (t *inodeTable) find(ino Ino) *checkedInode {
	at, _ := slices.BinarySearchFunc(t.chunks, ino, func(c []checkedInode, ino Ino) int { return cmp.Compare(lastOf(c), ino) })
	if at == len(t.chunks) {
		return nil
	}
	chunk := t.chunks[at]
	i, ok := slices.BinarySearchFunc(chunk, ino, func(v checkedInode, ino Ino) int { return cmp.Compare(v.ino, ino) })
	if !ok {
		return nil
	}
	return &chunk[i]
}

// all goes through the inodes by number.
func (t *inodeTable) all() iter.Seq[*checkedInode] {
	return func(yield func(*checkedInode) bool) {
		for _, chunk := range t.chunks {
			for i := range chunk {
				if !yield(&chunk[i]) {
					return
				}
			}
		}
	}
}

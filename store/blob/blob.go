// Package blob is the contract between the store and the backend that keeps
// file content: one blob per file version, named by a random id. Small content
// lives in the metadata engine and never gets here.
//
// A blob has no meaning until the metadata names it. The order that makes this
// safe against a power cut is the store's: create, write, Sync, then commit the
// metadata that names the blob; and Delete only after the metadata that dropped
// the last reference is durable. What a crash leaves over is a blob without a
// reference, which the store finds through List.
//
// Nothing here assumes a local disk: what only a local file can do is offered by
// the optional interfaces of File: OSFiler, Sparse and those that follow. Package blobtest holds the
// conformance suite that every backend must pass.
package blob

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// ErrSyncFailed is returned by Sync, wrapped around the cause, when making
// content durable failed, and by every later Sync of that blob through the same
// backend: the kernel may have dropped the unwritten pages, so that a second
// fsync that succeeds would prove nothing. The content must be written to a new blob.
var ErrSyncFailed = errors.New("blob: sync failed, content may be lost")

// ErrInUse is returned at once when another process has the backend open.
var ErrInUse = errors.New("blob: backend is in use by another process")

// ID names a blob. The zero ID names none.
type ID [16]byte

// NewID returns a random ID. With 128 random bits a collision does not happen;
// Create refuses one all the same.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

// ParseID returns the ID that String has written: 32 lower-case hex digits.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("blob: id %q: want %d hex digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return ID{}, fmt.Errorf("blob: id %q: not lower-case hex", s)
	}
	return id, nil
}

// String returns the ID as 32 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the ID names no blob.
func (id ID) IsZero() bool { return id == ID{} }

// File is an open blob. Its methods may be called by several goroutines at
// once, Close only when no other call is running. Two open Files of one blob
// see each other's writes at once.
//
// A File that was opened for reading refuses WriteAt and Truncate with an error.
type File interface {
	io.ReaderAt
	io.WriterAt // a write past the end fills the gap with zeros

	// Truncate sets the size; what it adds reads as zeros.
	Truncate(size int64) error

	// Size returns the size in bytes.
	Size() (int64, error)

	// Sync returns nil when the content and the size are durable, and, for a
	// blob that was created by this backend, when its name is too. After an error
	// see ErrSyncFailed.
	Sync() error

	// Close releases the file. It does not make anything durable.
	Close() error
}

// OSFiler is implemented by a File that is a file of the local operating
// system, for what the kernel does best: sendfile, splice, FUSE passthrough.
type OSFiler interface {
	// OSFile returns the file, which is valid until the File is closed. The
	// caller must not close it and must not move its file offset.
	OSFile() *os.File
}

// Sparse is implemented by a File that can have holes.
type Sparse interface {
	// PunchHole makes n bytes from off read as zeros and gives their space
	// back where the backend can. The size does not change: the part of the range past
	// the end is ignored.
	PunchHole(off, n int64) error

	// SeekData returns the first offset >= off that holds data; io.EOF if
	// there is none before the end. A backend may report a hole as data.
	SeekData(off int64) (int64, error)

	// SeekHole returns the first offset >= off that lies in a hole; the end
	// of the blob counts as one. io.EOF if off is at or past the end.
	SeekHole(off int64) (int64, error)

	// Allocated returns the bytes the blob takes on the disk. Bytes shared
	// with a clone count in both.
	Allocated() (int64, error)
}

// Stater is implemented by a File that knows when it was last written.
type Stater interface {
	// Stat returns the blob's figures, all of one instant.
	Stat() (Stat, error)
}

// Stat describes an open blob. Times are nanoseconds since the Unix epoch, of the
// backend's clock, which may tick slowly: two writes can have the same times.
type Stat struct {
	Size      int64
	Allocated int64 // bytes on the disk, see Sparse
	Mtime     int64 // of the last write, also of one that did not come through a File
	Ctime     int64 // of the last change of any kind; nobody can set it
}

// Allocator is implemented by a File that can reserve space.
type Allocator interface {
	// Allocate reserves space for n bytes from off, so that writing there does
	// not fail for want of it. Content and size stay as they are, also if the range
	// lies beyond the end. A backend that cannot do it returns nil.
	Allocate(off, n int64) error
}

// RangeCopier is implemented by a File that copies from another of its backend
// without moving the bytes through this process, or without moving them at all.
type RangeCopier interface {
	// CopyRange copies up to n bytes at srcOff of src to dstOff, and returns
	// how many: fewer at the end of src, or as many as is good for one call. The
	// ranges must not overlap in one blob. errors.ErrUnsupported: not between
	// these two.
	CopyRange(dstOff int64, src File, srcOff, n int64) (int64, error)
}

// Writebacker is implemented by a File that can be told to begin writing to
// the disk what it has buffered, so that a later Sync has less to wait for.
type Writebacker interface {
	// StartWriteback begins to write n bytes from off. It promises nothing: a
	// failure shows in Sync.
	StartWriteback(off, n int64)
}

// Info describes a blob.
type Info struct {
	ID      ID
	Size    int64
	ModTime time.Time // of the content; of use to tell a new blob from a stale one
}

// Backend keeps blobs. All methods may be called by several goroutines at once.
// Errors about a blob wrap fs.ErrNotExist, fs.ErrExist or the system's errno
// (syscall.ENOSPC); after Close they wrap fs.ErrClosed.
type Backend interface {
	// Create makes an empty blob, open for reading and writing. fs.ErrExist
	// if there is one with this id.
	Create(id ID) (File, error)

	// Open opens a blob for reading, or for both with write. fs.ErrNotExist
	// if there is none.
	Open(id ID, write bool) (File, error)

	// Clone makes the blob dst with the content of src and opens it for
	// reading and writing. It shares the bytes where the backend can, and
	// otherwise copies the data and keeps the holes. Nothing is durable before Sync. src must
	// not be written meanwhile. On error there is no dst.
	Clone(src, dst ID) (File, error)

	// Delete removes a blob; an absent one is no error. Open Files of it keep
	// working until they are closed.
	Delete(id ID) error

	// List calls fn for every blob, in any order, until fn returns an error,
	// which List returns. Blobs created or deleted meanwhile may be seen or not.
	List(fn func(Info) error) error

	// Free returns the bytes that can still be written and the backend's
	// whole size. A backend without limit returns math.MaxInt64 twice.
	Free() (free, total int64, err error)

	// Close releases the backend. Open Files must be closed first.
	Close() error
}

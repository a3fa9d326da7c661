package store

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"engramfs/store/poison"
)

// Errors of names and types. Path-less operations return them wrapped with
// the operation's facts; compare with errors.Is. The standard library's
// fs.ErrNotExist, fs.ErrExist and fs.ErrInvalid are used where they fit.
var (
	// ErrNotDir is returned when a directory was needed (ENOTDIR, 409).
	ErrNotDir = errors.New("store: not a directory")
	// ErrIsDir is returned when anything but a directory was needed (EISDIR, 409).
	ErrIsDir = errors.New("store: is a directory")
	// ErrNotEmpty is returned when a directory to be removed or replaced has entries (ENOTEMPTY, 409).
	ErrNotEmpty = errors.New("store: directory not empty")
	// ErrName is returned for a name that cannot be stored: empty, ".", "..", or with '/' or NUL (EINVAL, 400).
	ErrName = errors.New("store: invalid name")
	// ErrNameTooLong is returned for a name of more than MaxName bytes (ENAMETOOLONG, 400).
	ErrNameTooLong = errors.New("store: name too long")
	// ErrSubtree is returned when a directory would become its own descendant (EINVAL, 403).
	ErrSubtree = errors.New("store: a directory cannot move or be copied into itself")
	// ErrTooManyLinks is returned when an inode has MaxLinks names (EMLINK, 403).
	ErrTooManyLinks = errors.New("store: too many links")
	// ErrNoXattr is returned when an extended attribute does not exist (ENODATA, 404).
	ErrNoXattr = errors.New("store: no such extended attribute")
	// ErrTooBig is returned when an attribute or a file would pass its size limit (E2BIG or EFBIG, 507 or 413).
	ErrTooBig = errors.New("store: too big")
	// ErrXattrSpace is returned when the names of an inode's extended attributes
	// would take more than MaxXattrNames bytes, or all of them MaxXattrBytes. It matches syscall.ENOSPC (ENOSPC, 507).
	ErrXattrSpace error = xattrSpace{}
	// ErrParentNotExist is returned by path operations when an ancestor of the
	// last element does not exist (ENOENT, 409). It also matches fs.ErrNotExist.
	ErrParentNotExist error = parentNotExist{}
)

// Errors of the store's state.
var (
	// ErrPoisoned matches every error that a poisoned lock causes (EIO, 503).
	// errors.As with *poison.Error gives the lock and the event.
	ErrPoisoned = poison.ErrPoisoned
	// ErrDamaged is returned when content failed its checksum (EIO, 503).
	ErrDamaged = errors.New("store: content is damaged")
	// ErrChanged is returned by a read of content whose digests were asked for
	// when a handle has changed it in place since (EAGAIN, 503).
	ErrChanged = errors.New("store: content was changed in place")
	// ErrReadOnly is returned for writes after a failed journal write or fsync, or
	// with Options.ReadOnly, until the cause is gone and the server was restarted
	// (EROFS, 503).
	ErrReadOnly = errors.New("store: read-only")
	// ErrNoSpace is returned before a change when the free space is below the
	// reserve. It matches syscall.ENOSPC (ENOSPC, 507).
	ErrNoSpace error = noSpace{}
	// ErrStale is returned for an inode that no longer exists (ESTALE, 404). It also matches fs.ErrNotExist.
	ErrStale error = staleInode{}
	// ErrLocked is returned when another holder's lock forbids the change (EBUSY, 423),
	// and by FileLocks.Lock for a lock that cannot be had at once (EAGAIN).
	ErrLocked = errors.New("store: locked by another")
	// ErrDeadlock is returned when waiting for a lock would wait for itself (EDEADLK).
	ErrDeadlock = errors.New("store: lock would deadlock")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("store: closed")
	// ErrInUse is returned by Open when another process serves the data folder.
	ErrInUse = errors.New("store: data folder is in use by another process")
	// ErrPrecondition is returned when a Cond refused the change (412).
	ErrPrecondition = errors.New("store: precondition failed")
	// ErrPanic is returned when an operation panicked outside every write
	// section; whether its change was made is unknown (EIO, 500).
	ErrPanic = errors.New("store: operation panicked")
	// ErrFault is the error that a drill with cause "error" injects.
	ErrFault = errors.New("store: injected fault")
)

// PanicError is a panic, or the exit of a goroutine, outside every write section,
// as an error. It matches ErrPanic. Its text never holds the stack.
type PanicError struct {
	Op    string
	Value any    // of the panic; nil: the goroutine exited (runtime.Goexit)
	Stack []byte // not for clients
}

func (e *PanicError) Error() string { return fmt.Sprintf("%v in %s: %v", ErrPanic, e.Op, e.Value) }

// Is reports whether target is ErrPanic.
func (e *PanicError) Is(target error) bool { return target == ErrPanic }

type parentNotExist struct{}

func (parentNotExist) Error() string        { return "store: parent does not exist" }
func (parentNotExist) Is(target error) bool { return target == fs.ErrNotExist }

type noSpace struct{}

func (noSpace) Error() string        { return "store: no space left above the reserve" }
func (noSpace) Is(target error) bool { return target == syscall.ENOSPC }

type xattrSpace struct{}

func (xattrSpace) Error() string        { return "store: too many extended attributes" }
func (xattrSpace) Is(target error) bool { return target == syscall.ENOSPC }

type staleInode struct{}

func (staleInode) Error() string        { return "store: inode no longer exists" }
func (staleInode) Is(target error) bool { return target == fs.ErrNotExist }

package fuse

import (
	"context"
	"log/slog"
	"syscall"
	"time"

	"engramfs/store"
)

// Integrity says whether the kernel may read and write content without the store.
type Integrity int

const (
	// IntegrityFast lets the kernel access the content of large files directly
	// where it can. Their checksums are verified by the scrubber.
	IntegrityFast Integrity = iota
	// IntegrityStrict serves every byte through the store, verified.
	IntegrityStrict
)

// DAVLocksMode says what a WebDAV lock means to programs on the mount.
type DAVLocksMode int

const (
	// DAVLocksAdvisory: nothing. WebDAV locks bind WebDAV clients.
	DAVLocksAdvisory DAVLocksMode = iota
	// DAVLocksMandatory refuses to open a locked file for writing, to truncate,
	// rename or remove it, and to change the list of a locked directory, with EBUSY.
	DAVLocksMandatory
)

// Options of a file system. The zero value of all but Store is usable.
type Options struct {
	Store  *store.Store // required
	Logger *slog.Logger // nil: discard

	Integrity Integrity
	// NoPassthrough serves every file cached, without saying so in the log.
	NoPassthrough bool

	// How long the kernel may use what it was told without asking again. Zero:
	// not at all. Changes that come through the store's other doors are notified.
	EntryTimeout    time.Duration
	AttrTimeout     time.Duration
	NegativeTimeout time.Duration

	// ACL enables POSIX access control lists. The mount must enable them too.
	ACL bool
	// Sync makes every change durable before it is answered.
	Sync     bool
	DAVLocks DAVLocksMode

	// Observe is told of every operation once it is done: its name, its duration,
	// the bytes it read or wrote, and its result. It must be quick. nil: none.
	Observe func(op string, took time.Duration, bytes int, errno syscall.Errno)
	// Began is told of every request of the kernel that awaits an answer when it begins:
	// its name, its inode, and the kernel's number of it. The store is called with the
	// context that it returns. What else it returns, if anything, is called with the
	// bytes read or written and the result; err is the reason as far as it is known, a
	// *store.PanicError for a panic. Both must be quick. nil: nobody is told.
	Began func(ctx context.Context, op string, ino store.Ino, unique uint64) (_ context.Context, ended func(bytes int, errno syscall.Errno, err error))
}

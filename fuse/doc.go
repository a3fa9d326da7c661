// Package fuse serves a store as a Linux file system through go-fuse.
//
// # Identity
//
// A node of the kernel is an inode of the store: NodeID = Ino, generation 1. Inode
// numbers are never reused, so the adapter keeps no second tree, only a table of
// what the kernel refers to (table.go): lookup counts, open files and how they are
// served. An inode that is gone answers ESTALE, and the kernel walks the path
// once more.
//
// # Who enforces what
//
// The mount has default_permissions: the kernel checks modes, owners and ACLs, and
// the adapter gives new inodes their owner. It drops set-user-ID bits as
// FUSE_HANDLE_KILLPRIV_V2 asks. Times, link counts and type errors are the store's.
//
// # Cached and native files
//
// An open file is served in one of two ways, the same for all who have it open
// (open.go). Cached: the kernel keeps pages and asks for what it lacks, and every
// block is verified. Native: the kernel reads and writes the content's own file
// (FUSE passthrough), with no verification on the way. A file that is new, small,
// or privileged, or that the kernel does not take, is cached.
//
// # Panics
//
// Every operation runs inside a guard (guard.go): a panic costs the caller one
// EIO and is counted. What is read from recovered data is answered with zero
// timeouts, so that the kernel asks again.
//
// # Locks
//
//	dirHandle.mu -> tableShard.mu
//	handles.mu, panicLog.mu
//
// dirHandle.mu is held while the store reads the directory: it orders the readers of
// one open directory. The others are held for a few instructions. None is held
// across an ioctl, a notification or a wait.
//
// # Removed inodes
//
// An inode that is removed while it is open stays in the store until its last
// handle is closed. Descriptors without a handle, a working directory or one with
// O_PATH, need less: the table keeps the attributes until the kernel forgets the
// inode (removing).
package fuse

// Package store is the file tree that the adapters serve: inodes, dirents,
// content, locks, and recovery from a panic in the middle of a change.
//
// # Model
//
// An inode (number, generation, mode, owner, links, size, times, change
// counters, extended attributes) holds a file's attributes; a dirent maps
// (parent, name) to an inode; content is the file's bytes, inline in the
// metadata engine or in a blob; a handle is an open file. WebDAV's dead properties
// are extended attributes. The ETag is made of (ino, generation, content
// version), never of a time.
//
// # Truth and cache
//
// The metadata engine (package meta) is the truth. Every operation is one atomic
// batch of it. In memory there are caches only: the inodes in use with their
// locks, what names mean, open blobs. All of them are bounded, and a directory is
// never loaded as a whole. What is in memory about an inode is what the engine
// has: there is nothing unflushed, so a reset loses nothing.
//
// # One change
//
// Every change goes through one helper, change.go:
//
//  1. Arguments are checked. Nothing has changed.
//  2. Every inode the operation touches is locked, in ascending order, and all
//     of them are checked for poison. Refused here, nothing has changed.
//  3. The operation computes its change into an overlay.
//  4. The overlay is appended to the engine as one batch.
//  5. It is published to the inodes in memory, and the locks are released.
//  6. Sync, called without any lock, makes it durable. WebDAV calls it before
//     it answers; a file system calls it for fsync(2).
//
// An operation declares the inodes it knows of and asks for the others as it
// meets them; the helper then starts over with the larger set. So a new operation
// needs no knowledge of locks and poison.
//
// A dirent can only change with both its directory and the inode it names
// locked, or, for a name that means nothing yet, with its directory locked.
// Whoever holds either may rely on it. That is why replacing the content of a
// file locks the file alone: a poisoned directory does not stop writes to the
// files in it.
//
// # Lock order
//
//	Store.renameMu -> inode (ascending ino) -> alloc -> usage -> dav-locks
//	inode -> Handle.mu, nodeShard.mu, blobCache.mu -> openBlob.mu
//
// A -> B: B may be taken while holding A, never the reverse.
//
// # Poison policy
//
//	lock           guards                    source of truth   on poison
//	inode:<ino>    attributes, entries       engine            its writes refused, reads recovered; reset
//	alloc          next inode number         engine            creating refused; reset
//	usage          file count, total size    engine counters   counts stand still, reads recovered; reset
//	dav-locks      WebDAV locks              engine            all that needs them refused; reset
//	renameMu       nothing, it orders moves  -                 cannot be
//	nodeShard.mu   which inodes are cached   engine            plain mutex, no foreign code inside
//	blobCache.mu   which blobs are open      blob backend      plain mutex, no foreign code inside
//	dirents        what names mean           engine            disposable cache; not asked below a poisoned directory
//
// A read of a poisoned inode is served from the engine, which knows only whole
// changes, and recorded in the Trace of its context, so that the answer can be
// marked and kept out of caches. A copy is a change that would build on recovered
// data, so a poisoned source refuses it.
//
// # The functions of the design this comes from
//
// EngramFS continues a file system whose functions were documented with what
// they do when they meet a poisoned lock. Their counterparts:
//
//	original           here                        poisoned
//	init_root          initRoot (in Open)          refused: Open fails
//	alloc_ino          allocIno                    refused
//	add_file           Create, Upload.Commit       refused
//	ensure_directory   EnsureDirectory             refused where something must be made
//	lookup_path        LookupPath                  recovered, warning "lock poisoned, recovering"
//	get_attr           GetAttr                     recovered, warning
//	read_data          OpenContent, Handle.ReadAt  recovered, warning
//	read_dir           ReadDir, ReadDirPlus        recovered, warning
//	lookup_entry       Lookup                      recovered, warning
//	get_parent         GetParent                   recovered, warning
//	file_count         FileCount                   recovered, warning
//	total_size         TotalSize                   recovered, warning
//
// The warning carries the attributes lock and op. Every other operation that
// changes something is refused like add_file; every other one that only reads is
// served like get_attr.
//
// # Content
//
// Content of at most Options.Inline bytes is a record of the engine. Anything
// larger is a blob: created under a name that nothing refers to, written, synced,
// and only then named by a batch. PUT makes a new blob, so readers of the old one
// finish on it. Clones share a blob; its reference counter is part of the batches,
// and the first write to a shared blob makes a copy. Blobs have a CRC32C per 64 KiB
// in the engine, checked before a byte leaves. A blob that a handle writes in
// place is unsealed first, durably, and gets its checksums again after its last
// writer has closed.
//
// # Collecting
//
// What is removed is only taken out of the tree; the batch leaves a note for the
// collector, which works in the background and can be interrupted at any point.
// Usage counts shrink as it proceeds. Content that no file refers to at a start, as a
// crash in an upload leaves it, is removed once it is a day old: after damage to the
// engine it may be the last of a file.
package store

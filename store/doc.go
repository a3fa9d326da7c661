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
//     it answers; a file system calls it for fsync(2). What nobody syncs is on
//     the disk about a second later.
//
// An operation declares the inodes it knows of and asks for the others as it
// meets them; the helper then starts over with the larger set. So a new operation
// needs no knowledge of locks and poison.
//
// A dirent can only change with both its directory and the inode it names
// locked, or, for a name that means nothing yet, with its directory locked.
// Whoever holds either may rely on it. That is why replacing the content of a
// file locks the file alone: a poisoned directory does not stop writes to the
// files in it. There is one exception: a PUT over a file that is open through a
// handle makes a new inode and moves all names of the old one to it, so that the
// handle keeps what it has open, as with rename(2). That needs the directories of
// all its names, and a poisoned one refuses it.
//
// # Origins and events
//
// An adapter marks its changes with an Origin, and learns of those of others as
// an Observer: the events of a change name every entry and every inode that a
// kernel has to forget. A file on which an adapter's client holds an exclusive
// flock(2) or fcntl(2) lock is safe from changes without an Origin, which are
// WebDAV's; and what such a client removes or renames loses its WebDAV locks. A Pin
// keeps an inode that an adapter still knows by its number.
//
// # Lock order
//
//	Store.renameMu -> inode (ascending ino) -> alloc -> usage -> dav-locks -> file-locks
//	inode -> Store.usageMu -> usage
//	labeler.round -> body.prepare -> inode -> body.mu, nodeShard.mu, blobCache.mu -> openBlob.mu
//	inode -> sealer.mu, damages.save -> damages.mu
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
//	file-locks     flock, fcntl locks        the clients       all that needs them refused; reset keeps what is consistent
//	renameMu       nothing, it orders moves  -                 cannot be
//	usageMu        nothing, it orders counts -                 cannot be
//	nodeShard.mu   which inodes are cached   engine            plain mutex, no foreign code inside
//	blobCache.mu   which blobs are open      blob backend      plain mutex, no foreign code inside
//	body.prepare   nothing, it orders steps  -                 cannot be
//	body.mu        a file open for writing   blob, engine      plain mutex, fstat(2) at most inside
//	sealer.mu      what waits for checksums  engine            plain mutex, no foreign code inside
//	labeler.round  nothing, it orders rounds engine            cannot be
//	damages.mu     damage met so far         the blobs         plain mutex, no foreign code inside
//	damages.save   nothing, it orders steps  engine            cannot be
//	scrubber.mu    how far a scrub is        engine            plain mutex, an engine batch at most inside
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
// in the engine, checked before a byte leaves. Digests of the whole content (SHA-256
// always) are made while it streams in, or when it is sealed, and go with the sums.
//
// # Writing in place
//
// A blob that a handle writes in place is unsealed first: its checksums count no
// more, durably, before a byte changes. Some seconds after its last writer has closed it
// is sealed: synced, read, and given checksums. The old ones are kept until then: what
// was only written through the store is known by blocks, and all others are held
// against them when they are read, and when the file is sealed, so that damage does not
// become content. For the same reason damaged content can only be replaced as a whole.
//
// What is known of the blocks is in the record of an unsealed file, with the size and
// the mtime of the blob, about a second after each write and at the end of a run; the
// next run believes it as long as the blob still has both. After a power cut it believes
// it only if the last run ended in order: bytes may be on the disk that a lost write has
// left, without its time. A file that a kernel may write to counts as unwritten until its
// blob has another size or mtime, and from then on, or if the backend cannot rely on its
// times, as written as a whole. So what is not
// found is: damage in a file that was being written in the second before the process was
// killed, or at a power cut; in one that a kernel has written to; and in new files, which
// never had checksums. Each until it is sealed, at which its bytes become the content.
//
// Inline content that outgrows the engine becomes a blob without waiting for the
// disk. The blob is fresh until the first fsync(2) or the seal, and until then the
// inline record stays, as the base that a restart puts back over the blob's
// beginning: after a power cut every mixture of old and new bytes is right, but
// what was durable is not missing.
//
// At a start the files that were not sealed are brought up to date with their
// blobs, before anybody sees them: a file is cut to what is there, never filled up
// with bytes that nobody wrote. A blob that should be there and is not is damage.
// Versions begin anew with every run of the store, beyond all that went before, so
// that a change that a power cut takes back never shares its ETag with a later one.
//
// A native handle lends the blob's file to the kernel. While one is open the blob
// stays the inode's content, whatever happens to it; while one may write, size and
// times are read from the file, and Attr.Native says that Version does not count.
// Such a file can be written after it was closed, through a mapping. Content that
// fails its checksums is therefore damaged unless a kernel was once given the blob, and
// mtime and ctime are others than when it was sealed; then it is served as it is, gets a
// new version, and is sealed again. Other blobs cannot be written late, whatever their
// times say. An mtime that was set back to what it was makes a late write damage. A copy does not share a blob that is open natively, or that was
// written natively and is still open for writing, or mapped so, as a lease tells
// (fcntl(2), F_SETLEASE). One thing stays unseen: a store, between the last close and
// the seal, into a page that was mapped and dirty already, if the mapping is gone
// before the seal. It is part of the content, but the version stays what it was.
//
// # Labels
//
// A blob says itself what it is the content of: the file's number, path, mode, owner,
// size and mtime, and a sum of its checksums are its label, an extended attribute or a
// file beside it. Salvage restores files from labels alone. An upload writes the label
// before the blob is synced. Everything later that makes a label wrong leaves a
// note in its batch, and the labeler renews the label in the background: some 5 seconds
// later, and as fast as half of the disk's time allows; moving a directory
// makes it go through all content below. The note is removed once the new labels are
// durable, so that a crash at any point loses none. Until then a salvage without any
// metadata finds a file where it was before.
//
// A label has one path: of several names of a file that of its home, and of files that
// share a blob that of the one that had it first. If that one goes, the label is another
// one's with the next scrub, which compares all labels. While a blob is being written its
// label is that of its last seal. Not in any label are: extended attributes, other times, symbolic links,
// empty directories, the modes and owners of directories, and files small enough to be in
// the engine. For these there is the second copy of the metadata.
//
// # Collecting
//
// What is removed is only taken out of the tree; the batch leaves a note for the
// collector, which works in the background and can be interrupted at any point.
// Whoever still knows a directory of a removed tree can put nothing into it and take
// nothing out of it, though the collector has not come to it: see reachable.
// Usage counts shrink as it proceeds. Content that no file refers to at a start, as a
// crash in an upload leaves it, is removed once it is a day old: after damage to the
// engine it may be the last of a file.
package store

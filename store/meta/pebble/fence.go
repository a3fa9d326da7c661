package pebble

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fence stands between Pebble and the disk and decides what a failed write
// means.
//
// Left alone, Pebble answers a failed write in ways that a server cannot live
// with: a failed WAL write or sync ends in Logger.Fatalf, after which waiting
// committers hang; a failed WAL rotation panics with its mutex unlocked, which
// the runtime turns into a fatal error; a failed sync of a file of separated
// values makes a compaction dereference nil; a failed flush is tried again at
// once and for ever while writers wait. So the first failed write inside the
// store's directory freezes the fence:
//
//   - The failure is recorded first. DB reports it from then on for every Update,
//     Sync and Checkpoint, so no caller takes what follows for durable.
//   - Nothing in the directory is changed any more. What is on the disk is what a
//     power cut at that moment could have left, and recovery from that is what
//     Pebble is built for.
//   - Pebble is told that its writes succeed. Writes to the WAL and the MANIFEST
//     are dropped. New files, and the rest of those being written, go to memory,
//     so the flushes that waiting writers need succeed. That is at most the
//     memtables there were, since no update gets in any more, and the file each
//     compaction is writing; its next file gets an error, which ends it.
//
// So nothing hangs, nothing panics, and reads go on with everything that was
// visible. With Options.ReadOnly the fence is frozen from the start.
type fence struct {
	vfs.FS // the disk

	dir    string      // the store's directory; paths elsewhere (checkpoints) pass through
	onFail func(error) // called once

	failure atomic.Pointer[error] // nil until the fence is frozen
	overlay *vfs.MemFS            // files created since then
	fsyncs  latency               // of the log

	// replayed: Pebble has read the logs it needs. Later it copies them to checkpoints,
	// when one that is not needed any more may be made into a new one.
	replayed atomic.Bool

	manifestSeal, logSeal seal
}

var _ vfs.FS = (*fence)(nil)

func newFence(disk vfs.FS, dir string, onFail func(error)) (*fence, error) {
	f := &fence{
		FS: disk, dir: dir, onFail: onFail, overlay: vfs.NewMem(),
		manifestSeal: seal{name: manifestSealName}, logSeal: seal{name: logSealName},
	}
	if err := f.overlay.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *fence) openSeals() error {
	return errors.Join(f.manifestSeal.open(f.FS, f.dir), f.logSeal.open(f.FS, f.dir))
}

func (f *fence) closeSeals() {
	f.manifestSeal.close()
	f.logSeal.close()
}

// freeze records the first failure; later ones are its consequences.
func (f *fence) freeze(cause error) {
	if f.failure.CompareAndSwap(nil, &cause) {
		f.onFail(cause)
	}
}

// failed returns the failure that froze the fence, or nil.
func (f *fence) failed() error {
	if p := f.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// check freezes the fence if err is a failed write and reports whether it is
// none.
func (f *fence) check(op, name string, err error) bool {
	if err != nil {
		f.freeze(fmt.Errorf("%s %s: %w", op, name, err))
	}
	return err == nil
}

func (f *fence) inside(name string) bool { return f.FS.PathDir(name) == f.dir }

// inOverlay reports whether name was created after the fence froze.
func (f *fence) inOverlay(name string) bool {
	if f.failed() == nil || !f.inside(name) {
		return false
	}
	_, err := f.overlay.Stat(name)
	return err == nil
}

// Create makes the directory durable before it creates a marker, whose name says
// which file counts. Pebble syncs it only once, afterwards: on a disk that keeps
// the newer of two names and loses the older one, the marker would name a MANIFEST
// that is not there. (A journaling file system keeps their order. POSIX does not.)
func (f *fence) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create("create", name, category, func() (vfs.File, error) {
		if strings.HasPrefix(f.FS.PathBase(name), "marker.") {
			if err := syncDir(f.FS, f.FS.PathDir(name)); err != nil {
				return nil, err
			}
		}
		return f.FS.Create(name, category)
	})
}

// ReuseForWrite takes an old WAL for a new one. Frozen, it makes a new file in
// memory instead, which the interface allows.
func (f *fence) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create("reuse", newname, category, func() (vfs.File, error) {
		return f.FS.ReuseForWrite(oldname, newname, category)
	})
}

func (f *fence) create(op, name string, category vfs.DiskWriteCategory, disk func() (vfs.File, error)) (vfs.File, error) {
	if !f.inside(name) {
		return disk()
	}
	if f.failed() == nil {
		file, err := disk()
		if err == nil {
			return newFenceFile(f, file, name), nil
		}
		f.check(op, name, err)
	}
	if toCompaction(category) {
		return nil, f.failed()
	}
	return f.overlay.Create(name, category)
}

func (f *fence) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if f.inOverlay(name) {
		return f.overlay.Open(name, opts...)
	}
	var err error
	switch {
	case !f.inside(name):
	case isValueFile(name):
		err = checkValueFile(f.FS, name)
	case isLog(name) && !f.replayed.Load():
		err = checkClosedLog(f.FS, name)
	}
	if err != nil {
		return nil, err
	}
	return f.FS.Open(name, opts...)
}

func (f *fence) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.create("open", name, category, func() (vfs.File, error) {
		return f.FS.OpenReadWrite(name, category, opts...)
	})
}

func (f *fence) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil || name != f.dir {
		return file, err
	}
	return newFenceFile(f, file, name), nil
}

func (f *fence) Stat(name string) (vfs.FileInfo, error) {
	if f.inOverlay(name) {
		return f.overlay.Stat(name)
	}
	return f.FS.Stat(name)
}

func (f *fence) Remove(name string) error {
	if !f.inside(name) {
		return f.FS.Remove(name)
	}
	if f.inOverlay(name) {
		return f.overlay.Remove(name)
	}
	return f.change("remove", name, func() error { return f.FS.Remove(name) })
}

func (f *fence) Rename(oldname, newname string) error {
	if !f.inside(newname) {
		return f.FS.Rename(oldname, newname)
	}
	if f.inOverlay(oldname) {
		return f.overlay.Rename(oldname, newname)
	}
	return f.change("rename", newname, func() error { return f.FS.Rename(oldname, newname) })
}

func (f *fence) Link(oldname, newname string) error {
	if !f.inside(newname) {
		return f.FS.Link(oldname, newname)
	}
	return f.change("link", newname, func() error { return f.FS.Link(oldname, newname) })
}

// change runs a change of the directory on the disk unless the fence is frozen.
// That a file is missing is an answer, not a failure of the disk.
func (f *fence) change(op, name string, disk func() error) error {
	if f.failed() != nil {
		return nil
	}
	err := disk()
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.check(op, name, err)
	return nil
}

// errOpenedReadOnly is why a fence is frozen from the start.
var errOpenedReadOnly = errors.New("it was opened for reading")

// Lock takes no lock if the fence is frozen: the file might have to be made.
func (f *fence) Lock(name string) (io.Closer, error) {
	if f.failed() != nil {
		return io.NopCloser(nil), nil
	}
	return f.FS.Lock(name)
}

func (f *fence) RemoveAll(name string) error {
	if name == f.dir || f.inside(name) && f.failed() != nil {
		return &os.PathError{Op: "removeall", Path: name, Err: syscall.EPERM}
	}
	return f.FS.RemoveAll(name)
}

func (f *fence) Unwrap() vfs.FS { return f.FS }

// toCompaction reports whether a file is the output of a compaction, which can
// be given up because its inputs stay.
func toCompaction(c vfs.DiskWriteCategory) bool {
	return c == "pebble-compaction" || c == "pebble-blob-file-rewrite"
}

// isJournal reports whether base is a file that Pebble only appends to and reads at
// the next start, so that dropped writes are not missed: a log or a MANIFEST.
func isJournal(base string) bool { return isLog(base) || isManifest(base) }

const logSuffix = ".log"

func isLog(base string) bool { return strings.HasSuffix(base, logSuffix) }

// isValueFile reports whether name is a file of values that are kept out of the tables.
func isValueFile(name string) bool { return strings.HasSuffix(name, ".blob") }

func isManifest(base string) bool { return strings.HasPrefix(base, "MANIFEST-") }

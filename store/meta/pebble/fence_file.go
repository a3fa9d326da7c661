package pebble

import (
	"errors"
	"hash/crc32"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fenceFile is a file of the store's directory that is open for writing, or the
// directory itself. Pebble uses it from one goroutine at a time.
type fenceFile struct {
	vfs.File // on the disk, or in memory once spilled

	fence   *fence
	name    string
	log     bool // it is the write-ahead log
	drops   bool // what is written after the failure is not read again
	spilled bool

	length int64 // bytes written
	seal   *seal // of what was synced; nil: it has none
	crc    uint32
}

func newFenceFile(f *fence, file vfs.File, name string) *fenceFile {
	base := f.FS.PathBase(name)
	ff := &fenceFile{File: file, fence: f, name: name, log: isLog(base)}
	ff.drops = isJournal(base) || name == f.dir
	switch {
	case ff.log:
		ff.seal = &f.logSeal
	case isManifest(base):
		ff.seal = &f.manifestSeal
	}
	return ff
}

func (f *fenceFile) Write(p []byte) (int, error) {
	if f.spilled {
		return f.File.Write(p)
	}
	if f.fence.failed() == nil {
		var crc uint32
		if f.seal != nil {
			crc = crc32.Update(f.crc, castagnoli, p) // first: Write may change p
		}
		_, err := f.File.Write(p)
		if f.fence.check("write", f.name, err) {
			f.crc, f.length = crc, f.length+int64(len(p))
			return len(p), nil
		}
	}
	if f.drops {
		return len(p), nil
	}
	if err := f.spill(); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

// spill goes on with the file in memory. It is read back while the page cache
// still has what could not be written.
func (f *fenceFile) spill() error {
	onDisk, err := f.fence.FS.Open(f.name)
	if err != nil {
		return err
	}
	defer onDisk.Close()
	inMemory, err := f.fence.overlay.Create(f.name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(inMemory, onDisk, f.length); err != nil {
		return errors.Join(err, inMemory.Close(), f.fence.overlay.Remove(f.name))
	}
	_ = f.File.Close() // nothing on the disk counts any more
	f.File, f.spilled = inMemory, true
	return nil
}

// WriteAt is not used by Pebble. Content that is not appended cannot be spilled.
func (f *fenceFile) WriteAt([]byte, int64) (int, error) {
	return 0, errors.ErrUnsupported
}

func (f *fenceFile) Preallocate(offset, length int64) error {
	if f.fence.failed() != nil {
		return nil
	}
	return f.File.Preallocate(offset, length) // an optimisation: Pebble ignores the error
}

func (f *fenceFile) Sync() error { return f.sync(f.File.Sync) }

func (f *fenceFile) SyncData() error { return f.sync(f.File.SyncData) }

// SyncTo begins to write out what it need not make durable, so it seals nothing.
func (f *fenceFile) SyncTo(length int64) (full bool, err error) {
	_, err = f.flush(func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// sync makes the file durable, and then says so in its seal.
func (f *fenceFile) sync(disk func() error) error {
	if done, err := f.flush(disk); !done || f.seal == nil {
		return err
	}
	err := f.seal.write(f.fence.FS.PathBase(f.name), f.length, f.crc)
	f.fence.check("write", f.seal.name, err)
	return nil
}

// flush calls disk unless the fence is frozen. done: it has succeeded.
func (f *fenceFile) flush(disk func() error) (done bool, err error) {
	if f.fence.failed() != nil {
		return false, nil
	}
	begin := time.Now()
	err = disk()
	if f.log {
		f.fence.fsyncs.observe(time.Since(begin))
	}
	if f.fence.check("sync", f.name, err) {
		return true, nil
	}
	if f.drops {
		return false, nil
	}
	return false, f.spill()
}

// Close gives the descriptor back also when the fence is frozen.
func (f *fenceFile) Close() error {
	f.fence.check("close", f.name, f.File.Close())
	return nil
}

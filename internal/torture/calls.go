package torture

import (
	"io"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/blob"
)

// Call is one system call of the store that changes something on its disk.
type Call struct {
	Name string // such as "write" or "sync"
	Path string // of the file, or the id of a blob
	Blob bool   // the backend's call, not the engine's
}

// Fault is what becomes of a call. The zero value lets it through.
type Fault struct {
	Err   error
	Short bool // a write gets half of its bytes to the disk before it fails
}

// Calls hands every call to a function before it is carried out, once there is one.
// The function may be called by several goroutines at once.
type Calls struct {
	before atomic.Pointer[func(Call) Fault]
}

// Watch sets the function, nil for none.
func (c *Calls) Watch(before func(Call) Fault) {
	if before == nil {
		c.before.Store(nil)
		return
	}
	c.before.Store(&before)
}

func (c *Calls) call(name, path string, isBlob bool) Fault {
	if f := c.before.Load(); f != nil {
		return (*f)(Call{Name: name, Path: path, Blob: isBlob})
	}
	return Fault{}
}

// FS returns the engine's file system with its calls watched.
func (c *Calls) FS(fs vfs.FS) vfs.FS { return &watchedFS{fs, c} }

// Blobs returns the backend with its calls watched.
func (c *Calls) Blobs(b blob.Backend) blob.Backend { return &watchedBlobs{b, c} }

type watchedFS struct {
	vfs.FS
	c *Calls
}

// Unwrap returns nil, so that nobody looks for the operating system's file below.
func (w *watchedFS) Unwrap() vfs.FS { return nil }

func (w *watchedFS) do(name, path string, fn func() error) error {
	if f := w.c.call(name, path, false); f.Err != nil {
		return f.Err
	}
	return fn()
}

func (w *watchedFS) open(name, path string, fn func() (vfs.File, error)) (vfs.File, error) {
	if f := w.c.call(name, path, false); f.Err != nil {
		return nil, f.Err
	}
	return w.wrap(path)(fn())
}

// wrap returns a function that wraps a file that was opened.
func (w *watchedFS) wrap(path string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil {
			return nil, err
		}
		return &watchedFile{f, w.c, path}, nil
	}
}

func (w *watchedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return w.open("create", name, func() (vfs.File, error) { return w.FS.Create(name, category) })
}

// ReuseForWrite makes a new file, as it may.
func (w *watchedFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := w.Remove(oldname); err != nil {
		return nil, err
	}
	return w.Create(newname, category)
}

func (w *watchedFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return w.wrap(name)(w.FS.OpenReadWrite(name, category, opts...))
}

func (w *watchedFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return w.wrap(name)(w.FS.Open(name, opts...))
}

func (w *watchedFS) OpenDir(name string) (vfs.File, error) { return w.wrap(name)(w.FS.OpenDir(name)) }

func (w *watchedFS) Link(oldname, newname string) error {
	return w.do("link", newname, func() error { return w.FS.Link(oldname, newname) })
}

func (w *watchedFS) Remove(name string) error {
	return w.do("remove", name, func() error { return w.FS.Remove(name) })
}

func (w *watchedFS) RemoveAll(name string) error {
	return w.do("remove", name, func() error { return w.FS.RemoveAll(name) })
}

func (w *watchedFS) Rename(oldname, newname string) error {
	return w.do("rename", newname, func() error { return w.FS.Rename(oldname, newname) })
}

func (w *watchedFS) MkdirAll(dir string, perm os.FileMode) error {
	return w.do("mkdir", dir, func() error { return w.FS.MkdirAll(dir, perm) })
}

type watchedFile struct {
	vfs.File
	c    *Calls
	path string
}

func (f *watchedFile) Write(p []byte) (int, error) {
	fault := f.c.call("write", f.path, false)
	if fault.Err == nil {
		return f.File.Write(p)
	}
	if !fault.Short {
		return 0, fault.Err
	}
	n, err := f.File.Write(p[:len(p)/2])
	if err == nil {
		err = fault.Err
	}
	return n, err
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	return writeAt(f.File, f.c.call("write", f.path, false), p, off)
}

func writeAt(w io.WriterAt, fault Fault, p []byte, off int64) (int, error) {
	if fault.Err == nil {
		return w.WriteAt(p, off)
	}
	if !fault.Short {
		return 0, fault.Err
	}
	n, err := w.WriteAt(p[:len(p)/2], off)
	if err == nil {
		err = fault.Err
	}
	return n, err
}

func (f *watchedFile) sync(fn func() error) error {
	if fault := f.c.call("sync", f.path, false); fault.Err != nil {
		return fault.Err
	}
	return fn()
}

func (f *watchedFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *watchedFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *watchedFile) SyncTo(length int64) (full bool, err error) {
	err = f.sync(func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

type watchedBlobs struct {
	blob.Backend
	c *Calls
}

func (w *watchedBlobs) open(name string, id blob.ID, fn func() (blob.File, error)) (blob.File, error) {
	if fault := w.c.call(name, id.String(), true); fault.Err != nil {
		return nil, fault.Err
	}
	f, err := fn()
	if err != nil {
		return nil, err
	}
	return &watchedBlob{f, w.c, id.String()}, nil
}

func (w *watchedBlobs) Create(id blob.ID) (blob.File, error) {
	return w.open("create", id, func() (blob.File, error) { return w.Backend.Create(id) })
}

func (w *watchedBlobs) Open(id blob.ID, write bool) (blob.File, error) {
	f, err := w.Backend.Open(id, write)
	if err != nil {
		return nil, err
	}
	return &watchedBlob{f, w.c, id.String()}, nil
}

func (w *watchedBlobs) Clone(src, dst blob.ID) (blob.File, error) {
	return w.open("clone", dst, func() (blob.File, error) { return w.Backend.Clone(src, dst) })
}

func (w *watchedBlobs) Delete(id blob.ID) error {
	if fault := w.c.call("remove", id.String(), true); fault.Err != nil {
		return fault.Err
	}
	return w.Backend.Delete(id)
}

type watchedBlob struct {
	blob.File
	c  *Calls
	id string
}

// Stat implements blob.Stater, which every backend here does.
func (f *watchedBlob) Stat() (blob.Stat, error) { return f.File.(blob.Stater).Stat() }

func (f *watchedBlob) WriteAt(p []byte, off int64) (int, error) {
	return writeAt(f.File, f.c.call("write", f.id, true), p, off)
}

func (f *watchedBlob) Truncate(size int64) error {
	if fault := f.c.call("truncate", f.id, true); fault.Err != nil {
		return fault.Err
	}
	return f.File.Truncate(size)
}

func (f *watchedBlob) Sync() error {
	if fault := f.c.call("sync", f.id, true); fault.Err != nil {
		return fault.Err
	}
	return f.File.Sync()
}

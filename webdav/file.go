package webdav

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"unicode/utf8"

	"engramfs/store"
)

// file is an open file or directory of fileSystem. Like the files of x/net's
// Handler it serves one goroutine.
//
// Content is opened by the first Read, so that listings open nothing, and reads
// then see one version of it. With O_TRUNC an upload takes what is written; it is
// committed by whatever needs the result first: Stat, the dead properties or Close.
type file struct {
	h    *Handler
	ctx  context.Context
	path string
	flag int
	perm uint32
	attr store.Attr // Ino is 0 before a new file is committed
	off  int64

	content *store.Content // opened for reading
	inPlace *store.Handle  // opened for writing without O_TRUNC
	upload  *store.Upload  // opened with O_TRUNC, until it is committed
	name    string         // last element of the upload's path
	failed  error          // why the upload was given up
	after   string         // last name that Readdir has returned
	closed  bool
}

func (f *file) writable() bool { return f.flag&(os.O_WRONLY|os.O_RDWR) != 0 }

// create makes an empty file for O_CREATE without O_TRUNC.
func (f *file) create() error {
	parent, name, _, err := f.h.lookupParent(f.ctx, f.path)
	if err != nil {
		return err
	}
	f.attr, err = f.h.store.Create(f.ctx, parent, name, store.NewNode{
		Mode: store.ModeRegular | f.perm, UID: f.h.uid, GID: f.h.gid,
	})
	return err
}

// stage begins the replacement of the content.
func (f *file) stage() error {
	if !f.writable() {
		return fs.ErrInvalid
	}
	p := f.path
	if f.attr.Ino != 0 {
		real, _, err := f.h.lookup(f.ctx, p)
		if err != nil {
			return err
		}
		p = real
	}
	parent, name, _, err := f.h.lookupParent(f.ctx, p)
	if err != nil {
		return err
	}
	f.name = name
	f.upload, err = f.h.store.NewUpload(f.ctx, parent, name, -1)
	return err
}

// settle commits what was written, so that the file's attributes are final.
func (f *file) settle() error {
	if f.failed != nil {
		return pathError("write", f.path, f.failed)
	}
	if f.upload == nil {
		return nil
	}
	u := f.upload
	f.upload = nil
	f.attr, _, f.failed = u.Commit(f.ctx, store.CommitOptions{Mode: f.perm, UID: f.h.uid, GID: f.h.gid})
	return pathError("write", f.path, f.failed)
}

// giveUp drops what was written: the old content stays.
func (f *file) giveUp(err error) error {
	f.failed = err
	if f.upload != nil {
		f.upload.Abort()
		f.upload = nil
	}
	return err
}

// ReadFrom implements io.ReaderFrom. It is how io.Copy writes, and the only
// way to learn that the source broke off: then the upload is given up and Close
// keeps the old content. Another file of the store is cloned instead of copied,
// its dead properties with it.
func (f *file) ReadFrom(r io.Reader) (int64, error) {
	if src, ok := r.(*file); ok && src.canClone(f) {
		return f.cloneFrom(src)
	}
	if f.upload == nil {
		return io.Copy(writerOnly{f}, r)
	}
	n, err := f.upload.ReadFrom(r)
	f.off += n
	if err != nil {
		f.giveUp(err) //nolint:errcheck // returned below
	}
	return n, err
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

// canClone reports whether all of f can become the content of dst at once.
func (f *file) canClone(dst *file) bool {
	return f.h.store == dst.h.store && f.off == 0 && f.upload == nil && f.failed == nil && f.attr.IsRegular() &&
		dst.upload != nil && dst.off == 0 && dst.attr.Ino != f.attr.Ino
}

func (f *file) cloneFrom(src *file) (int64, error) {
	parent, name, _, err := f.h.lookupParent(f.ctx, f.path)
	if err != nil {
		return 0, f.giveUp(err)
	}
	a, _, err := f.h.store.Clone(f.ctx, src.attr.Ino, parent, name, store.CloneOptions{
		Replace: true, UID: f.h.uid, GID: f.h.gid, Mtime: f.h.store.Now(),
	})
	if err != nil {
		return 0, f.giveUp(err)
	}
	f.upload.Abort()
	f.upload = nil
	f.attr, f.off, src.off = a, a.Size, a.Size
	return a.Size, nil
}

// Write implements io.Writer.
func (f *file) Write(p []byte) (n int, err error) {
	switch {
	case f.closed:
		return 0, pathError("write", f.path, fs.ErrClosed)
	case f.failed != nil:
		return 0, pathError("write", f.path, f.failed)
	case !f.writable():
		return 0, pathError("write", f.path, fs.ErrPermission)
	case f.upload != nil:
		n, err = f.upload.Write(p)
		f.off += int64(n)
		if err != nil {
			f.giveUp(err) //nolint:errcheck // returned below
		}
		return n, pathError("write", f.path, err)
	case f.flag&os.O_TRUNC != 0:
		return 0, pathError("write", f.path, fs.ErrClosed) // committed
	}
	hd, err := f.handle()
	if err != nil {
		return 0, pathError("write", f.path, err)
	}
	if f.flag&os.O_APPEND != 0 {
		a, err := hd.Attr(f.ctx)
		if err != nil {
			return 0, pathError("write", f.path, err)
		}
		f.off = a.Size
	}
	n, err = hd.WriteAt(f.ctx, p, f.off)
	f.off += int64(n)
	return n, pathError("write", f.path, err)
}

// handle opens the file for writing in place.
func (f *file) handle() (*store.Handle, error) {
	if f.inPlace == nil {
		hd, err := f.h.store.Open(f.ctx, f.attr.Ino, true)
		if err != nil {
			return nil, err
		}
		f.inPlace = hd
	}
	return f.inPlace, nil
}

// Read implements io.Reader.
func (f *file) Read(p []byte) (n int, err error) {
	switch {
	case f.closed:
		return 0, pathError("read", f.path, fs.ErrClosed)
	case f.flag&os.O_WRONLY != 0:
		return 0, pathError("read", f.path, fs.ErrPermission)
	}
	if f.inPlace != nil {
		n, err = f.inPlace.ReadAt(f.ctx, p, f.off)
	} else {
		if err := f.open(); err != nil {
			return 0, pathError("read", f.path, err)
		}
		n, err = f.content.ReadAt(p, f.off)
	}
	f.off += int64(n)
	if errors.Is(err, io.EOF) {
		if n > 0 {
			return n, nil
		}
		return 0, io.EOF
	}
	return n, pathError("read", f.path, err)
}

// open opens the content for reading.
func (f *file) open() error {
	if f.content != nil {
		return nil
	}
	if err := f.settle(); err != nil {
		return err
	}
	c, err := f.h.store.OpenContent(f.ctx, f.attr.Ino)
	if err != nil {
		return err
	}
	f.content, f.attr = c, c.Attr()
	return nil
}

// Seek implements io.Seeker. The end is that of the content that Read reads.
func (f *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		size, err := f.size()
		if err != nil {
			return 0, pathError("seek", f.path, err)
		}
		offset += size
	default:
		return 0, pathError("seek", f.path, fs.ErrInvalid)
	}
	if offset < 0 || f.upload != nil && offset != f.off {
		return 0, pathError("seek", f.path, fs.ErrInvalid) // an upload is written front to back
	}
	f.off = offset
	return offset, nil
}

func (f *file) size() (int64, error) {
	if f.upload != nil {
		return f.off, nil
	}
	if f.inPlace != nil {
		a, err := f.inPlace.Attr(f.ctx)
		return a.Size, err
	}
	if f.attr.IsDir() {
		return 0, nil
	}
	if err := f.open(); err != nil {
		return 0, err
	}
	return f.attr.Size, nil
}

// Stat implements http.File. It commits an upload, so that the ETag is the one
// that the file keeps.
func (f *file) Stat() (fs.FileInfo, error) {
	if err := f.settle(); err != nil {
		return nil, err
	}
	if f.inPlace != nil {
		a, err := f.inPlace.Attr(f.ctx)
		if err != nil {
			return nil, pathError("stat", f.path, err)
		}
		f.attr = a
	}
	return fileInfo{name: path.Base(f.path), attr: f.attr}, nil
}

// Readdir implements http.File: the next count entries in name order, io.EOF
// after the last; all that are left when count is not positive.
func (f *file) Readdir(count int) ([]fs.FileInfo, error) {
	if !f.attr.IsDir() {
		return nil, pathError("readdir", f.path, store.ErrNotDir)
	}
	var infos []fs.FileInfo
	err := f.h.store.ReadDirPlus(f.ctx, f.attr.Ino, f.after, func(name string, a *store.Attr) bool {
		f.after = name
		if !utf8.ValidString(name) {
			return true
		}
		if target, ok := f.h.follow(f.ctx, path.Join(f.path, name), a); ok {
			infos = append(infos, fileInfo{name: name, attr: target})
		}
		return count <= 0 || len(infos) < count
	})
	if err == nil && count > 0 && len(infos) == 0 {
		return nil, io.EOF
	}
	return infos, pathError("readdir", f.path, err)
}

// Close implements io.Closer. It commits an upload whose source did not break
// off and makes every change durable; its error is the upload's.
func (f *file) Close() error {
	if f.closed {
		return pathError("close", f.path, fs.ErrClosed)
	}
	f.closed = true
	err := f.settle()
	if f.content != nil {
		err = errors.Join(err, f.content.Close())
	}
	if f.inPlace != nil {
		err = errors.Join(err, f.inPlace.Sync(f.ctx), f.inPlace.Close())
	}
	if err == nil && f.writable() {
		err = pathError("close", f.path, f.h.store.Sync(f.ctx))
	}
	return err
}

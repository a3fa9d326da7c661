package webdav

import (
	"context"
	"encoding/xml"
	"errors"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/net/webdav"

	"engramfs/store"
)

// fileSystem is the store as x/net/webdav knows a file system.
type fileSystem struct{ h *Handler }

var (
	_ webdav.FileSystem      = fileSystem{}
	_ webdav.File            = (*file)(nil)
	_ webdav.DeadPropsHolder = (*file)(nil)
	_ webdav.ETager          = fileInfo{}
	_ webdav.ContentTyper    = fileInfo{}
)

// FileSystem returns the store for x/net/webdav's Handler, and for anything else
// that can use its interface. Names are cleaned, symbolic links are followed
// within the store, and every change is durable when its method has returned,
// that of a File with its Close.
//
// Errors are *fs.PathError; those that os.IsNotExist, os.IsExist and
// os.IsPermission know wrap the standard sentinel directly.
func (h *Handler) FileSystem() webdav.FileSystem { return fileSystem{h} }

// pathError wraps err for x/net/webdav, which looks only one level deep.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission} {
		if errors.Is(err, known) {
			return &fs.PathError{Op: op, Path: name, Err: known}
		}
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Mkdir creates an empty directory; its parent must exist.
func (f fileSystem) Mkdir(ctx context.Context, name string, perm os.FileMode) error {
	name = path.Clean("/" + name)
	if name == "/" {
		return pathError("mkdir", name, fs.ErrExist)
	}
	parent, base, _, err := f.h.lookupParent(ctx, name)
	if err == nil {
		_, err = f.h.store.Create(ctx, parent, base, store.NewNode{
			Mode: store.ModeDir | uint32(perm.Perm()), UID: f.h.uid, GID: f.h.gid,
		})
	}
	if err == nil {
		err = f.h.store.Sync(ctx)
	}
	return pathError("mkdir", name, err)
}

// RemoveAll removes a name and everything below it in one step. A name that does
// not exist is no error. Locks on what is removed end.
func (f fileSystem) RemoveAll(ctx context.Context, name string) error {
	name = path.Clean("/" + name)
	if name == "/" {
		return pathError("removeall", name, fs.ErrPermission)
	}
	parent, base, real, err := f.h.lookupParent(ctx, name)
	if err == nil {
		err = f.h.store.RemoveAll(ctx, parent, base, nil)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = f.h.locks.DropUnder(real)
	}
	if err == nil {
		err = f.h.store.Sync(ctx)
	}
	return pathError("removeall", name, err)
}

// Rename moves a name as rename(2) does: atomically, replacing a file or an empty
// directory. Locks on what moved end.
func (f fileSystem) Rename(ctx context.Context, oldName, newName string) error {
	oldName, newName = path.Clean("/"+oldName), path.Clean("/"+newName)
	if oldName == "/" || newName == "/" {
		return pathError("rename", oldName, fs.ErrPermission)
	}
	oldParent, oldBase, real, err := f.h.lookupParent(ctx, oldName)
	if err != nil {
		return pathError("rename", oldName, err)
	}
	newParent, newBase, _, err := f.h.lookupParent(ctx, newName)
	if err != nil {
		return pathError("rename", newName, err)
	}
	_, err = f.h.store.Rename(ctx, oldParent, oldBase, newParent, newBase, store.RenameOptions{})
	if err == nil && oldName != newName {
		err = f.h.locks.DropUnder(real)
	}
	if err == nil {
		err = f.h.store.Sync(ctx)
	}
	return pathError("rename", oldName, err)
}

// Stat returns a file's attributes. The FileInfo is a webdav.ETager and a
// webdav.ContentTyper, and its Sys is a *store.Attr.
func (f fileSystem) Stat(ctx context.Context, name string) (os.FileInfo, error) {
	name = path.Clean("/" + name)
	_, a, err := f.h.lookup(ctx, name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return fileInfo{name: path.Base(name), attr: a}, nil
}

// OpenFile opens a file or directory. Nothing but its attributes is looked at
// until it is read. With O_TRUNC what is written replaces the old content as a
// whole in Close; until then, and for good if the source broke off, the old
// content stays (see File's ReadFrom). Without O_TRUNC writes happen in place.
func (f fileSystem) OpenFile(ctx context.Context, name string, flag int, perm os.FileMode) (webdav.File, error) {
	name = path.Clean("/" + name)
	of, err := f.openFile(ctx, name, flag, perm)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return of, nil
}

func (f fileSystem) openFile(ctx context.Context, name string, flag int, perm os.FileMode) (*file, error) {
	of := &file{h: f.h, ctx: ctx, path: name, flag: flag, perm: uint32(perm.Perm())}
	_, a, err := f.h.lookup(ctx, name)
	switch {
	case err == nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case err == nil:
		of.attr = a
		if a.IsDir() && flag&(os.O_TRUNC|os.O_APPEND) != 0 {
			return nil, store.ErrIsDir
		}
	case !errors.Is(err, fs.ErrNotExist) || flag&os.O_CREATE == 0:
		return nil, err
	case flag&os.O_TRUNC == 0:
		return of, of.create()
	}
	if flag&os.O_TRUNC != 0 {
		return of, of.stage()
	}
	return of, nil
}

// fileInfo is an inode's attributes under one of its names.
type fileInfo struct {
	name string
	attr store.Attr
}

// Name returns the last element of the path.
func (i fileInfo) Name() string { return i.name }

// Size returns the size in bytes.
func (i fileInfo) Size() int64 { return i.attr.Size }

// Mode returns type and permissions.
func (i fileInfo) Mode() fs.FileMode { return i.attr.FileMode() }

// ModTime returns the time of the last change of the content.
func (i fileInfo) ModTime() time.Time { return i.attr.ModTime() }

// IsDir reports whether it is a directory.
func (i fileInfo) IsDir() bool { return i.attr.IsDir() }

// Sys returns the *store.Attr.
func (i fileInfo) Sys() any { return &i.attr }

// ETag implements webdav.ETager. It is empty while the content may be written past
// the store; x/net would make a strong one of the mtime otherwise.
func (i fileInfo) ETag(context.Context) (string, error) {
	if i.attr.Native {
		return "", nil
	}
	return i.attr.ETag(), nil
}

// ContentType implements webdav.ContentTyper, by extension: a listing must not
// open files.
func (i fileInfo) ContentType(context.Context) (string, error) { return contentType(i.name), nil }

// DeadProps implements webdav.DeadPropsHolder.
func (f *file) DeadProps() (map[xml.Name]webdav.Property, error) {
	if err := f.settle(); err != nil {
		return nil, err
	}
	attrs, err := f.h.store.Xattrs(f.ctx, f.attr.Ino)
	if err != nil {
		return nil, pathError("deadprops", f.path, err)
	}
	props := map[xml.Name]webdav.Property{}
	for attr, value := range attrs {
		if p, ok := decodeDead(attr, value); ok {
			props[p.name] = webdav.Property{XMLName: p.name, Lang: p.lang, InnerXML: appendFragment(nil, p.value)}
		}
	}
	return props, nil
}

// Patch implements webdav.DeadPropsHolder: all patches in one change, or none.
func (f *file) Patch(patches []webdav.Proppatch) ([]webdav.Propstat, error) {
	if err := f.settle(); err != nil {
		return nil, err
	}
	var ops []propOp
	for _, patch := range patches {
		for _, p := range patch.Props {
			ops = append(ops, propOp{remove: patch.Remove, deadProp: deadProp{name: p.XMLName, lang: p.Lang, value: p.InnerXML}})
		}
	}
	plan := planPropPatch(ops)
	if !plan.failed {
		if _, err := f.h.store.PatchXattrs(f.ctx, f.attr.Ino, plan.attrs, plan.set, nil); err != nil {
			return nil, pathError("proppatch", f.path, err)
		}
		if err := f.h.store.Sync(f.ctx); err != nil {
			return nil, pathError("proppatch", f.path, err)
		}
	}
	var stats []webdav.Propstat
	for _, st := range plan.status {
		s := webdav.Propstat{Status: max(st.code, 200), Props: []webdav.Property{{XMLName: st.name}}}
		if st.condition != "" {
			s.XMLError = "<D:" + st.condition + ` xmlns:D="DAV:"/>`
		}
		stats = append(stats, s)
	}
	return mergePropstats(stats), nil
}

// mergePropstats joins propstats of one status.
func mergePropstats(stats []webdav.Propstat) []webdav.Propstat {
	var merged []webdav.Propstat
next:
	for _, s := range stats {
		for i := range merged {
			if merged[i].Status == s.Status && merged[i].XMLError == s.XMLError {
				merged[i].Props = append(merged[i].Props, s.Props...)
				continue next
			}
		}
		merged = append(merged, s)
	}
	return merged
}

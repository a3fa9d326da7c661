package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"engramfs/store"
)

func TestStoreConformance(t *testing.T) {
	Conformance(t, storeFS{New(t)}, "/")
}

// storeFS is the store itself as a door.
type storeFS struct{ s *store.Store }

func (d storeFS) parent(p string) (store.Ino, string, error) {
	return d.s.LookupParent(context.Background(), path.Clean(p))
}

func (d storeFS) lookup(p string) (store.Attr, error) {
	return d.s.LookupPath(context.Background(), path.Clean(p))
}

func (d storeFS) ReadFile(p string) ([]byte, error) {
	a, err := d.lookup(p)
	if err != nil {
		return nil, err
	}
	c, err := d.s.OpenContent(context.Background(), a.Ino)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
}

func (d storeFS) upload(p string, content []byte, cond store.Cond) error {
	ctx := context.Background()
	dir, name, err := d.parent(p)
	if err != nil {
		return err
	}
	u, err := d.s.NewUpload(ctx, dir, name, int64(len(content)))
	if err != nil {
		return err
	}
	defer u.Abort()
	if _, err := u.ReadFrom(bytes.NewReader(content)); err != nil {
		return err
	}
	_, _, err = u.Commit(ctx, store.CommitOptions{Cond: cond})
	return err
}

func (d storeFS) WriteFile(p string, content []byte) error { return d.upload(p, content, nil) }
func (d storeFS) Replace(p string, content []byte) error   { return d.upload(p, content, nil) }

func (d storeFS) Create(p string, content []byte) error {
	return d.upload(p, content, func(cur *store.Attr) error {
		if cur != nil {
			return fs.ErrExist
		}
		return nil
	})
}

func (d storeFS) Mkdir(p string) error {
	dir, name, err := d.parent(p)
	if err != nil {
		return err
	}
	_, err = d.s.Create(context.Background(), dir, name, store.NewNode{Mode: store.ModeDir | 0o755})
	return err
}

func (d storeFS) Rename(from, to string) error {
	oldDir, oldName, err := d.parent(from)
	if err != nil {
		return err
	}
	newDir, newName, err := d.parent(to)
	if err != nil {
		return err
	}
	_, err = d.s.Rename(context.Background(), oldDir, oldName, newDir, newName, store.RenameOptions{})
	return err
}

func (d storeFS) Copy(from, to string) error {
	a, err := d.lookup(from)
	if err != nil {
		return err
	}
	dir, name, err := d.parent(to)
	if err != nil {
		return err
	}
	_, _, err = d.s.Clone(context.Background(), a.Ino, dir, name, store.CloneOptions{Replace: true})
	return err
}

func (d storeFS) RemoveAll(p string) error {
	dir, name, err := d.parent(p)
	if err != nil {
		return err
	}
	return d.s.RemoveAll(context.Background(), dir, name, nil)
}

func (d storeFS) Stat(p string) (Entry, error) {
	a, err := d.lookup(p)
	return entryOf(path.Base(p), &a), err
}

func entryOf(name string, a *store.Attr) Entry {
	return Entry{Name: name, Dir: a.IsDir(), Size: a.Size}
}

func (d storeFS) ReadDir(p string) (entries []Entry, err error) {
	a, err := d.lookup(p)
	if err != nil {
		return nil, err
	}
	err = d.s.ReadDirPlus(context.Background(), a.Ino, "", func(name string, a *store.Attr) bool {
		entries = append(entries, entryOf(strings.Clone(name), a))
		return true
	})
	return entries, err
}

func (d storeFS) SetNote(p, note string) error {
	a, err := d.lookup(p)
	if err != nil {
		return err
	}
	return d.s.SetXattr(context.Background(), a.Ino, NoteXattr, []byte(note), 0)
}

func (d storeFS) Note(p string) (string, error) {
	a, err := d.lookup(p)
	if err != nil {
		return "", err
	}
	b, err := d.s.GetXattr(context.Background(), a.Ino, NoteXattr)
	if errors.Is(err, store.ErrNoXattr) {
		return "", nil
	}
	return string(b), err
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// LookupPath returns the attributes of what the slash-separated path names,
// beginning at the root. Symbolic links are not followed. The error matches
// fs.ErrNotExist, and also ErrParentNotExist if an ancestor does not exist;
// ErrNotDir if one is no directory.
func (s *Store) LookupPath(ctx context.Context, path string) (Attr, error) {
	ino := RootIno
	name, rest := nextName(path)
	for name != "" {
		next, more := nextName(rest)
		if next == "" {
			a, err := s.Lookup(ctx, ino, name)
			if err != nil {
				return Attr{}, &fs.PathError{Op: "lookup_path", Path: path, Err: err}
			}
			return a, nil
		}
		d, err := s.lookup(ctx, ino, name)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = ErrParentNotExist
			}
			return Attr{}, &fs.PathError{Op: "lookup_path", Path: path, Err: err}
		}
		ino, name, rest = d.ino, next, more
	}
	return s.GetAttr(ctx, ino)
}

// LookupParent returns the directory that holds, or would hold, the last name
// of path, and that name. The error matches ErrParentNotExist, ErrNotDir, or
// ErrName for the root, which no directory holds.
func (s *Store) LookupParent(ctx context.Context, path string) (Ino, string, error) {
	dir, name := splitPath(path)
	if err := CheckName(name); err != nil {
		return 0, "", &fs.PathError{Op: "lookup_parent", Path: path, Err: err}
	}
	a, err := s.LookupPath(ctx, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, "", &fs.PathError{Op: "lookup_parent", Path: path, Err: ErrParentNotExist}
	case err != nil:
		return 0, "", err
	case !a.IsDir():
		return 0, "", &fs.PathError{Op: "lookup_parent", Path: path, Err: ErrNotDir}
	}
	return a.Ino, name, nil
}

// EnsureDirectory makes the directory path and all missing ancestors like n,
// and returns its attributes. What exists stays as it is; ErrNotDir if a name
// on the way is no directory. A poisoned directory on the way refuses only if
// something has to be made in it.
func (s *Store) EnsureDirectory(ctx context.Context, path string, n NewNode) (Attr, error) {
	n.Mode = n.Mode&ModePerm | ModeDir
	a, err := s.GetAttr(ctx, RootIno)
	for name, rest := nextName(path); err == nil && name != ""; name, rest = nextName(rest) {
		parent := a.Ino
		a, err = s.Lookup(ctx, parent, name)
		if errors.Is(err, fs.ErrNotExist) {
			a, err = s.Create(ctx, parent, name, n)
			if errors.Is(err, fs.ErrExist) { // somebody else made it meanwhile
				a, err = s.Lookup(ctx, parent, name)
			}
		}
		if err == nil && !a.IsDir() {
			err = ErrNotDir
		}
	}
	if err != nil {
		return Attr{}, &fs.PathError{Op: "ensure_directory", Path: path, Err: err}
	}
	return a, nil
}

// PathOf returns a path of the inode, absolute and clean. A file with several
// names has several paths; it is the one of its home. The error matches ErrStale
// if it has none. It takes no lock, so the tree may have changed when it returns.
func (s *Store) PathOf(_ context.Context, ino Ino) (string, error) { return s.pathOf(ino) }

func (s *Store) pathOf(ino Ino) (string, error) {
	var names []string
	for at := ino; at != RootIno; {
		v, err := readInode(s.engine, at)
		if err != nil {
			return "", err
		}
		if v.parent == 0 || len(names) > 1<<16 {
			return "", fmt.Errorf("%w: %d has no name", ErrStale, ino)
		}
		names = append(names, v.name)
		at = v.parent
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/"), nil
}

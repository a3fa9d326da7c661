package webdav

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"engramfs/store"
)

// maxSymlinks is how many symbolic links one lookup follows, as Linux does.
const maxSymlinks = 40

// errSymlink is what a link that leads nowhere, out of the store or in a
// circle looks like: a resource that does not exist.
var errSymlink = &fs.PathError{Op: "resolve", Path: "symbolic link", Err: fs.ErrNotExist}

// lookup finds the resource at a cleaned path, following symbolic links
// within the store. real is its path without links, and equals p when there
// were none; locks are asked for real, hrefs are made of p. A link that leads
// out of the store or nowhere is fs.ErrNotExist.
func (h *Handler) lookup(ctx context.Context, p string) (real string, a store.Attr, err error) {
	a, err = h.store.LookupPath(ctx, p)
	if err == nil && !a.IsSymlink() {
		return p, a, nil
	}
	if err == nil || errors.Is(err, store.ErrNotDir) {
		real, a, err = h.walk(ctx, p, true)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrNotDir) {
		// Whatever is missing on the way, the resource is.
		return p, store.Attr{}, &fs.PathError{Op: "lookup", Path: p, Err: fs.ErrNotExist}
	}
	return real, a, err
}

// lookupParent finds the collection that holds, or will hold, the last name
// of p, following links up to there. real is the path of the name without
// links. Errors as those of store.LookupParent: store.ErrParentNotExist and
// store.ErrNotDir for a missing parent, store.ErrName for the root.
func (h *Handler) lookupParent(ctx context.Context, p string) (parent store.Ino, name, real string, err error) {
	parent, name, err = h.store.LookupParent(ctx, p)
	if err == nil || !errors.Is(err, store.ErrNotDir) {
		return parent, name, p, err
	}
	dir, a, err := h.walk(ctx, parentOf(p), true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, "", p, store.ErrParentNotExist
	case err != nil:
		return 0, "", p, err
	case !a.IsDir():
		return 0, "", p, store.ErrNotDir
	}
	name = path.Base(p)
	return a.Ino, name, path.Join(dir, name), nil
}

// follow resolves an entry of a listing: a link becomes what it points to,
// and ok is false when that is nothing inside the store.
func (h *Handler) follow(ctx context.Context, p string, a *store.Attr) (target store.Attr, ok bool) {
	if !a.IsSymlink() {
		return *a, true
	}
	_, target, err := h.walk(ctx, p, true)
	return target, err == nil
}

// walk resolves p name by name; last says whether a link at its end is
// followed too.
func (h *Handler) walk(ctx context.Context, p string, last bool) (real string, a store.Attr, err error) {
	if a, err = h.store.GetAttr(ctx, store.RootIno); err != nil {
		return p, store.Attr{}, err
	}
	real = "/"
	rest := strings.TrimPrefix(p, "/")
	for links := 0; rest != ""; {
		if !a.IsDir() {
			return p, store.Attr{}, store.ErrNotDir
		}
		name, tail, _ := strings.Cut(rest, "/")
		next, err := h.store.Lookup(ctx, a.Ino, name)
		if err != nil {
			return p, store.Attr{}, err
		}
		if !next.IsSymlink() || (tail == "" && !last) {
			real, a, rest = path.Join(real, name), next, tail
			continue
		}
		if links++; links > maxSymlinks {
			return p, store.Attr{}, errSymlink
		}
		target, err := h.store.Readlink(ctx, next.Ino)
		if err != nil {
			return p, store.Attr{}, err
		}
		inside, ok := linkTarget(real, target)
		if !ok {
			return p, store.Attr{}, errSymlink
		}
		rest = path.Join(inside, tail)
		if a, err = h.store.GetAttr(ctx, store.RootIno); err != nil {
			return p, store.Attr{}, err
		}
		real = "/"
	}
	return real, a, nil
}

// linkTarget returns where a link in the collection dir points to, as a path
// from the root without its leading slash. Only relative links that stay
// below the root do: an absolute one names a file of the host, whatever the
// store has under that path.
func linkTarget(dir, target string) (inside string, ok bool) {
	if strings.HasPrefix(target, "/") {
		return "", false
	}
	inside = path.Join(strings.TrimPrefix(dir, "/"), target)
	if inside == ".." || strings.HasPrefix(inside, "../") {
		return "", false
	}
	if inside == "." {
		inside = ""
	}
	return inside, true
}

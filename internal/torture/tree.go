package torture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"engramfs/store"
)

// Tree is what a client sees of a store: path -> entry. It leaves out what differs
// between two runs that did the same: times and versions.
type Tree map[string]Entry

// Entry is one file, directory or WebDAV lock. A lock's path says whose it is.
type Entry struct {
	Ino   store.Ino
	Facts string // mode, links, owner, extended attributes
	Data  []byte // of a regular file
	Err   error  // why Data cannot be read
}

// See reads all of a store.
func See(ctx context.Context, s *store.Store) (Tree, error) {
	t := Tree{}
	if err := t.walk(ctx, s, "", store.RootIno); err != nil {
		return nil, err
	}
	locks, err := s.DAVLocks().Within(time.Now(), "/")
	for _, l := range locks {
		t["lock of "+l.Path+" by "+l.Owner] = Entry{Facts: fmt.Sprintf("infinite %t shared %t timeout %v", l.Infinite, l.Shared, l.Timeout)}
	}
	return t, err
}

func (t Tree) walk(ctx context.Context, s *store.Store, dir string, ino store.Ino) error {
	kids := map[string]store.Attr{}
	err := s.ReadDirPlus(ctx, ino, "", func(name string, a *store.Attr) bool {
		kids[name] = *a
		return true
	})
	if err != nil {
		return fmt.Errorf("list %q: %w", dir, err)
	}
	for name, a := range kids {
		p := dir + "/" + name
		if t[p], err = see(ctx, s, a); err != nil {
			return fmt.Errorf("see %s: %w", p, err)
		}
		if a.IsDir() {
			if err := t.walk(ctx, s, p, a.Ino); err != nil {
				return err
			}
		}
	}
	return nil
}

func see(ctx context.Context, s *store.Store, a store.Attr) (Entry, error) {
	xattrs, err := s.Xattrs(ctx, a.Ino)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Ino: a.Ino, Facts: fmt.Sprintf("mode %o links %d owner %d:%d", a.Mode, a.Nlink, a.UID, a.GID)}
	for _, k := range slices.Sorted(maps.Keys(xattrs)) {
		e.Facts += fmt.Sprintf(" %s=%q", k, xattrs[k])
	}
	if a.Mode&store.ModeType == store.ModeRegular {
		e.Data, e.Err = Read(ctx, s, a.Ino)
		if e.Err == nil && int64(len(e.Data)) != a.Size {
			e.Err = fmt.Errorf("%d bytes can be read, the size is %d", len(e.Data), a.Size)
		}
	}
	return e, nil
}

// Read returns a file's content.
func Read(ctx context.Context, s *store.Store, ino store.Ino) ([]byte, error) {
	c, err := s.OpenContent(ctx, ino)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = c.WriteRange(&b, 0, c.Size())
	return b.Bytes(), errors.Join(err, c.Close())
}

// Write replaces the content of a path over the way that WebDAV's PUT takes. The
// change is durable after Store.Sync.
func Write(ctx context.Context, s *store.Store, path string, data []byte) error {
	parent, name, err := s.LookupParent(ctx, path)
	if err != nil {
		return err
	}
	u, err := s.NewUpload(ctx, parent, name, int64(len(data)))
	if err != nil {
		return err
	}
	defer u.Abort()
	if _, err := u.Write(data); err != nil {
		return err
	}
	_, _, err = u.Commit(ctx, store.CommitOptions{Mode: 0o644})
	return err
}

// Diff says how the tree differs from another in names, facts and, unless same is
// nil, in content that same does not accept. "": not at all.
func (t Tree) Diff(got Tree, same func(path string, want, got Entry) bool) string {
	var b strings.Builder
	all := maps.Clone(t)
	maps.Copy(all, got)
	for _, p := range slices.Sorted(maps.Keys(all)) {
		want, there := t[p]
		is, found := got[p]
		switch {
		case !found:
			fmt.Fprintf(&b, "%s is missing; ", p)
		case !there:
			fmt.Fprintf(&b, "%s is there; ", p)
		case want.Facts != is.Facts:
			fmt.Fprintf(&b, "%s is %s, want %s; ", p, is.Facts, want.Facts)
		case !same(p, want, is):
			fmt.Fprintf(&b, "%s has %d bytes (%.8x, %v) in place of %d (%.8x); ", p, len(is.Data), sha256.Sum256(is.Data), is.Err, len(want.Data), sha256.Sum256(want.Data))
		}
	}
	return b.String()
}

// Same reports whether two entries have the same content, readable.
func Same(_ string, want, got Entry) bool {
	return got.Err == nil && string(want.Data) == string(got.Data)
}

// History is what clients have seen of a store, one Tree after each step.
type History []Tree

// Explain returns nil if a tree found after a power cut may be one: the names and
// facts are those of one of the steps from to to, and so is the content. With blend, which
// is for content that nobody has synced, every byte may be of any of those steps.
func (h History) Explain(got Tree, from, to int, blend bool) error {
	same := Same
	if blend {
		same = func(_ string, _, got Entry) bool { return got.Err == nil && h.blends(got, from, to) }
	}
	var why []string
	for i := to; i >= from; i-- {
		diff := h[i].Diff(got, same)
		if diff == "" {
			return nil
		}
		why = append(why, fmt.Sprintf("not step %d: %s", i, diff))
	}
	return errors.New(strings.Join(why, "\n"))
}

// blends reports whether every byte of e is what its inode had there in some step,
// zero where it had nothing, and the size is not beyond those of all steps: a write
// may have been cut short.
func (h History) blends(e Entry, from, to int) bool {
	var versions [][]byte
	least, most := math.MaxInt, 0
	for _, tree := range h[from : to+1] {
		for _, was := range tree {
			if was.Ino == e.Ino {
				versions = append(versions, was.Data)
				least, most = min(least, len(was.Data)), max(most, len(was.Data))
			}
		}
	}
	for i, b := range e.Data {
		ok := func(v []byte) bool { return i < len(v) && v[i] == b || i >= len(v) && b == 0 }
		if !slices.ContainsFunc(versions, ok) {
			return false
		}
	}
	return least <= len(e.Data) && len(e.Data) <= most
}

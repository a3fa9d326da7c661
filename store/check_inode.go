package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"engramfs/store/meta"
)

// checkMemory compares the inodes in memory with the engine.
func (s *Store) checkMemory(ctx context.Context) (findings []Finding, err error) {
	s.nodes.each(func(n *node) bool {
		if n.guard.Event() != nil {
			return true
		}
		bad := func(format string, args ...any) {
			findings = append(findings, Finding{Code: "memory.inode", Ino: n.ino, Detail: fmt.Sprintf(format, args...)})
		}
		_, rerr := n.guard.Read("check", func(v *inode) {
			r, err := readInode(s.engine, n.ino)
			switch {
			case errors.Is(err, ErrStale) && v.gone():
			case err != nil:
				bad("inode %d is in memory: %v", n.ino, err)
			case r != *v:
				bad("inode %d is %+v in memory and %+v in the engine", n.ino, *v, r)
			}
		})
		err = errors.Join(rerr, ctx.Err())
		return err == nil
	})
	return findings, err
}

// checkInode returns what is wrong with one inode whose lock the caller holds.
func (s *Store) checkInode(ctx context.Context, r meta.Reader, v *inode) (problems []string, err error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if v.parent != 0 {
		b, err := r.Get(direntKey(v.parent, v.name))
		if d, derr := decodeDirent(b); err != nil || derr != nil || d.ino != v.Ino {
			bad("entry %q of directory %d does not name inode %d", v.name, v.parent, v.Ino)
		}
	} else if v.Ino != RootIno {
		if _, err := r.Get(inoKey(keyOrphan, v.Ino)); err != nil {
			bad("inode %d has no name and is no orphan", v.Ino)
		}
	}
	if v.IsDir() {
		return problems, s.checkEntries(ctx, r, v.Ino, bad)
	}
	switch v.content.kind {
	case contentInline:
		if _, err := s.readInline(v); err != nil {
			bad("%v", err)
		}
	case contentBlob:
		if err := s.checkContent(ctx, v); errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			bad("%v", err)
		} else if err != nil {
			return nil, err
		}
	}
	return problems, nil
}

// checkEntries reports entries of a directory that name nothing.
func (s *Store) checkEntries(ctx context.Context, r meta.Reader, dir Ino, bad func(string, ...any)) error {
	prefix := inoKey(keyDirent, dir)
	err := r.Scan(prefix, prefixEnd(prefix), func(key, value []byte) bool {
		d, err := decodeDirent(value)
		if err == nil {
			_, err = r.Get(inoKey(keyInode, d.ino))
		}
		if err != nil {
			bad("entry %q of directory %d: %v", key[9:], dir, err)
		}
		return ctx.Err() == nil
	})
	return errors.Join(err, ctx.Err())
}

// checkContent looks for the blob and the checksums of sealed content, and holds it against
// them if it is small. The rest is for a scrub: nobody may have the inode for as long as
// reading takes.
func (s *Store) checkContent(ctx context.Context, v *inode) error {
	f, err := s.blobs.Open(v.content.blob, false)
	if err != nil {
		return err
	}
	defer f.Close()
	if !v.content.sealed {
		return nil
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size < v.Size {
		return fmt.Errorf("%w: content %s ends at %d, want %d", ErrDamaged, v.content.blob, size, v.Size)
	}
	// Not one that readers share: what they know of it may be of the change that died.
	b := &openBlob{id: v.content.blob, file: f, cuts: &cutMark{}, sums: make(map[uint32][]byte)}
	c := &Content{s: s, attr: v.Attr, blob: b, sealed: true}
	for off := int64(0); off < min(v.Size, verifyAtOnce); off += streamSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := c.WriteRange(io.Discard, off, min(streamSize, v.Size-off)); err != nil {
			return err
		}
	}
	return nil
}

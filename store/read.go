package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"engramfs/store/meta"
	"engramfs/store/poison"
)

// read runs fn on the inode under its read lock. It is the only place that
// takes an inode's lock for reading. fn must not keep or change the inode.
//
// If the lock is poisoned, fn gets the recovered inode: as the engine has it,
// which knows only whole changes, or as memory has it if the engine cannot be
// read. The event is recorded in ctx's Trace.
func (s *Store) read(ctx context.Context, op string, ino Ino, fn func(*inode) error) error {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return err
	}
	defer s.nodes.release(n)
	return s.readNode(ctx, op, n, fn)
}

func (s *Store) readNode(ctx context.Context, op string, n *node, fn func(*inode) error) (err error) {
	if ended := s.follow(ctx, op, n.ino); ended != nil {
		defer func() { ended(err) }()
	}
	var ferr error
	ev, err := n.guard.Read(op, func(v *inode) {
		if n.guard.Event() != nil {
			r, err := readInode(s.engine, n.ino)
			if errors.Is(err, ErrStale) { // the change that died had removed it
				ferr = err
				return
			}
			if err == nil {
				v = &r
			}
		}
		if v.gone() {
			ferr = fmt.Errorf("%w: %d", ErrStale, n.ino)
			return
		}
		ferr = fn(v)
	})
	traceEvent(ctx, ev)
	if err != nil {
		return err
	}
	return ferr
}

// GetAttr returns the attributes of an inode. The error matches ErrStale.
func (s *Store) GetAttr(ctx context.Context, ino Ino) (a Attr, err error) {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return Attr{}, err
	}
	defer s.nodes.release(n)
	return s.attrOf(ctx, n)
}

// GetParent returns the parent of a directory, the root's being the root. Of a
// file it is the directory of one of its names.
func (s *Store) GetParent(ctx context.Context, ino Ino) (parent Ino, err error) {
	err = s.read(ctx, "get_parent", ino, func(v *inode) error {
		parent = v.parent
		if ino == RootIno {
			parent = RootIno
		}
		if parent == 0 {
			return fmt.Errorf("%w: %d has no name", ErrStale, ino)
		}
		return nil
	})
	return parent, err
}

// Lookup returns the attributes of the inode that name means in parent. The
// error matches fs.ErrNotExist or ErrNotDir. Names are looked up as they are:
// "." and ".." are the caller's.
func (s *Store) Lookup(ctx context.Context, parent Ino, name string) (Attr, error) {
	for {
		d, err := s.lookup(ctx, parent, name)
		if err != nil {
			return Attr{}, err
		}
		a, err := s.GetAttr(ctx, d.ino)
		if !errors.Is(err, ErrStale) {
			return a, err
		}
		// Removed since. If the entry still names it, it is damaged, not gone.
		if again, ok, err2 := s.lookupEntry(parent, name, false); err2 == nil && ok && again == d {
			return Attr{}, fmt.Errorf("%w: entry %q of directory %d names inode %d, which does not exist", ErrDamaged, name, parent, d.ino)
		}
		if err := ctx.Err(); err != nil {
			return Attr{}, err
		}
	}
}

// lookup returns what name means in parent.
func (s *Store) lookup(ctx context.Context, parent Ino, name string) (d dirent, err error) {
	n, err := s.nodes.acquire(parent)
	if err != nil {
		return dirent{}, err
	}
	defer s.nodes.release(n)
	err = s.readNode(ctx, "lookup_entry", n, func(v *inode) error {
		if !v.IsDir() {
			return ErrNotDir
		}
		var ok bool
		d, ok, err = s.lookupEntry(parent, name, n.guard.Event() == nil)
		if err == nil && !ok {
			err = fs.ErrNotExist
		}
		return err
	})
	return d, err
}

// dirChunk is how many entries are read under one hold of a directory's lock.
const dirChunk = 1024

// ReadDir calls fn with the entries of dir whose names come after the given
// one, in byte order of their names, until fn returns false; "" starts at the
// first. No lock is held while fn runs: an entry that is made or removed
// meanwhile may be missing or present, every other is seen exactly once.
func (s *Store) ReadDir(ctx context.Context, dir Ino, after string, fn func(Dirent) bool) error {
	chunk := make([]Dirent, 0, 64)
	for {
		more, err := s.readDirChunk(ctx, dir, after, &chunk)
		if err != nil {
			return err
		}
		for _, d := range chunk {
			if !fn(d) {
				return nil
			}
		}
		if !more {
			return nil
		}
		after = chunk[len(chunk)-1].Name
	}
}

// readDirChunk fills chunk with the next entries and reports whether there may be more.
func (s *Store) readDirChunk(ctx context.Context, dir Ino, after string, chunk *[]Dirent) (more bool, err error) {
	lo := direntKey(dir, after)
	if after != "" {
		lo = append(lo, 0)
	}
	hi := prefixEnd(inoKey(keyDirent, dir))
	*chunk = (*chunk)[:0]
	err = s.read(ctx, "read_dir", dir, func(v *inode) error {
		if !v.IsDir() {
			return ErrNotDir
		}
		var bad error
		err := s.engine.Scan(lo, hi, func(key, value []byte) bool {
			d, err := decodeDirent(value)
			if err != nil {
				bad = fmt.Errorf("entry %q of directory %d: %w", key[9:], dir, err)
				return false
			}
			*chunk = append(*chunk, Dirent{Name: string(key[9:]), Ino: d.ino, Type: d.typ})
			more = len(*chunk) == dirChunk
			return !more
		})
		return errors.Join(bad, err)
	})
	return more, err
}

// ReadDirPlus is ReadDir with attributes. a is valid only inside fn. Of an entry whose
// inode is lost or cannot be read a has the number and the type, and nothing else.
func (s *Store) ReadDirPlus(ctx context.Context, dir Ino, after string, fn func(name string, a *Attr) bool) error {
	w := plusWalk{s: s, ctx: ctx, chunk: make([]Dirent, 0, 64)}
	for {
		more, err := s.readDirChunk(ctx, dir, after, &w.chunk)
		if err != nil {
			return err
		}
		if err := w.fill(); err != nil {
			return err
		}
		if err := w.lookAgain(dir); err != nil {
			return err
		}
		for i := range w.chunk {
			if a := &w.attrs[i]; a.Mode != 0 && !fn(w.chunk[i].Name, a) {
				return nil
			}
		}
		if !more {
			return nil
		}
		after = w.chunk[len(w.chunk)-1].Name
	}
}

// plusWalk finds the attributes of a chunk of entries: of inodes in memory from
// there, of the others with one pass over the engine's records in their order.
type plusWalk struct {
	s     *Store
	ctx   context.Context
	chunk []Dirent
	attrs []Attr // of the chunk; Mode 0: gone, or not readable
	cold  []int  // indices of those not in memory
	keys  [][]byte
	buf   []byte
}

func (w *plusWalk) fill() error {
	w.attrs = slices.Grow(w.attrs[:0], len(w.chunk))[:len(w.chunk)]
	w.cold = w.cold[:0]
	for i, d := range w.chunk {
		w.attrs[i] = Attr{}
		n := w.s.nodes.peek(d.Ino)
		if n == nil {
			w.cold = append(w.cold, i)
			continue
		}
		var err error
		w.attrs[i], err = w.s.attrOf(w.ctx, n)
		w.s.nodes.release(n)
		if err != nil && !errors.Is(err, ErrStale) {
			return err
		}
	}
	if len(w.cold) == 0 {
		return nil
	}
	return w.fillCold()
}

func (w *plusWalk) fillCold() error {
	slices.SortFunc(w.cold, func(a, b int) int {
		if w.chunk[a].Ino < w.chunk[b].Ino {
			return -1
		}
		return 1
	})
	w.keys, w.buf = w.keys[:0], slices.Grow(w.buf[:0], 9*len(w.cold))
	for _, i := range w.cold {
		at := len(w.buf)
		w.buf = appendInoKey(w.buf, keyInode, w.chunk[i].Ino)
		w.keys = append(w.keys, w.buf[at:])
	}
	var v inode
	err := w.s.engine.GetMany(w.keys, func(k int, value []byte) error {
		if value == nil {
			return nil
		}
		i := w.cold[k]
		if err := v.decode(w.chunk[i].Ino, value); err == nil { // else one damaged inode would hide the others
			w.attrs[i] = v.Attr
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("attributes of entries: %w", err)
	}
	return nil
}

// lookAgain finds the attributes that fill has not found. A name that was there all
// the time, but was renamed over, means another inode now; left out, it would be taken
// for removed by a client that keeps a copy of the directory.
func (w *plusWalk) lookAgain(dir Ino) error {
	for i := range w.attrs {
		if w.attrs[i].Mode != 0 {
			continue
		}
		d := &w.chunk[i]
		a, err := w.s.Lookup(w.ctx, dir, d.Name)
		switch {
		case err == nil:
			w.attrs[i] = a
		case errors.Is(err, ErrDamaged):
			w.attrs[i] = Attr{Ino: d.Ino, Mode: d.Type, Nlink: 1}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// Readlink returns the target of a symbolic link. The error matches
// fs.ErrInvalid for any other inode (readlink(2)).
func (s *Store) Readlink(ctx context.Context, ino Ino) (target string, err error) {
	err = s.read(ctx, "readlink", ino, func(v *inode) error {
		if !v.IsSymlink() {
			return fmt.Errorf("%w: inode %d is no symbolic link", fs.ErrInvalid, ino)
		}
		b, err := s.readInline(v)
		target = string(b)
		return err
	})
	return target, err
}

// readInline returns the inline content of v, whose lock is held.
func (s *Store) readInline(v *inode) ([]byte, error) {
	b, err := s.engine.Get(inoKey(keyInline, v.Ino))
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return nil, fmt.Errorf("%w: inode %d has no inline content", ErrDamaged, v.Ino)
	case err != nil:
		return nil, fmt.Errorf("content of inode %d: %w", v.Ino, err)
	case int64(len(b)) != v.Size:
		return nil, fmt.Errorf("%w: inode %d has %d bytes of inline content, want %d", ErrDamaged, v.Ino, len(b), v.Size)
	}
	return b, nil
}

// FileCount returns the number of inodes that are no directories, those
// included that were unlinked and are still open or being collected.
func (s *Store) FileCount(ctx context.Context) int64 { return s.readUsage(ctx, "file_count").files }

// DirCount returns the number of directories, the root included.
func (s *Store) DirCount(ctx context.Context) int64 { return s.readUsage(ctx, "dir_count").dirs }

// TotalSize returns the sum of the sizes of all files in bytes. A clone counts
// like its source.
func (s *Store) TotalSize(ctx context.Context) int64 { return s.readUsage(ctx, "total_size").bytes }

func (s *Store) readUsage(ctx context.Context, op string) (u usage) {
	ev, err := s.usage.Read(op, func(cur *usage) { u = *cur })
	traceEvent(ctx, ev)
	if err != nil { // a panic while reading recovered data: the engine still knows
		s.log.Warn("usage read from the engine", "err", err)
		u, _ = loadUsage(s.engine)
	}
	return u
}

// StatFS is the capacity of the disk below the store, in bytes, and what the
// store holds.
type StatFS struct {
	Total int64 // size of the disk
	Free  int64 // what may still be written: free space less the reserve
	Used  int64 // sum of all files' sizes
	Files int64 // inodes
}

// StatFS returns the store's capacity.
func (s *Store) StatFS(ctx context.Context) (StatFS, error) {
	free, total, err := s.blobs.Free()
	if err != nil {
		return StatFS{}, fmt.Errorf("free space: %w", err)
	}
	u := s.readUsage(ctx, "statfs")
	return StatFS{Total: total, Free: max(free-s.space.reserve, 0), Used: u.bytes, Files: u.files + u.dirs}, nil
}

// poisonedError returns the error that a poisoned lock answers with.
func poisonedError(ev *poison.Event) error { return &poison.Error{Ev: ev, Refused: true} }

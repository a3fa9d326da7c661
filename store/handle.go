package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync/atomic"

	"engramfs/store/blob"
)

// Handle is an open file: it reads and writes the inode's current content, and
// keeps the inode when its last name is removed. It is safe for concurrent use.
type Handle struct {
	s     *Store
	n     *node
	write bool

	closed atomic.Bool
	native atomic.Bool // counted among the body's natives
}

// Open opens a file for reading, and with write for writing too. The error
// matches ErrIsDir, fs.ErrInvalid for a special file, ErrStale, and with write
// ErrPoisoned or ErrReadOnly.
func (s *Store) Open(ctx context.Context, ino Ino, write bool) (*Handle, error) {
	if write {
		if err := s.writable(); err != nil {
			return nil, err
		}
		if err := s.refusePoisoned(ino); err != nil {
			return nil, err
		}
	}
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return nil, err
	}
	err = s.readNode(ctx, "open", n, func(v *inode) error {
		if v.IsDir() {
			return ErrIsDir
		}
		if !v.IsRegular() {
			return fmt.Errorf("%w: inode %d is no file", fs.ErrInvalid, ino)
		}
		n.addOpen(s.now())
		if write {
			n.writers.Add(1)
		}
		return nil
	})
	if err != nil {
		s.nodes.release(n)
		return nil, err
	}
	return &Handle{s: s, n: n, write: write}, nil
}

// Ino returns the inode's number.
func (h *Handle) Ino() Ino { return h.n.ino }

// Attr returns the inode's attributes.
func (h *Handle) Attr(ctx context.Context) (Attr, error) { return h.s.attrOf(ctx, h.n) }

// ReadAt reads len(p) bytes from off on, or up to the end with io.EOF
// (io.ReaderAt). Blocks with checksums are verified: ErrDamaged. What is behind
// the bytes read in p may have changed, too.
func (h *Handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	const tries = 10 // that others may cut the file while it is read
	for try := 1; ; try++ {
		if h.closed.Load() {
			return 0, fs.ErrClosed
		}
		c := Content{s: h.s}
		if err := c.open(ctx, h.n); err != nil {
			return 0, err
		}
		n, err := c.ReadAt(p, off)
		c.release()
		if !errors.Is(err, io.ErrUnexpectedEOF) || try == tries {
			return n, err
		}
	}
}

// WriteAt writes p at off, and grows the file if that is beyond its end
// (pwrite(2)). It is visible on return and durable after Sync. If it returns an
// error, the first n bytes are written.
func (h *Handle) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	end := off + int64(len(p))
	if off < 0 || end < off {
		return 0, fmt.Errorf("%w: offset %d", fs.ErrInvalid, off)
	}
	if end > MaxFileSize {
		return 0, ErrTooBig
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := h.s.space.take(h.s.now().UnixNano(), int64(len(p))); err != nil {
		return 0, err
	}
	var (
		werr error
		id   blob.ID
	)
	e := edit{from: off, to: end, size: func(v *inode) int64 { return max(v.Size, end) }}
	err = h.change(ctx, "write", &e, func(c *change, v *inode, size int64, f *writeFile) error {
		if f == nil {
			n, werr = len(p), nil
			return c.rewriteInline(v, size, func(data []byte) { copy(data[off:], p) })
		}
		id = f.id
		if n, werr = f.WriteAt(p, off); werr != nil {
			h.n.share().failed()
			e.done = off + int64(n)
			if size = v.Size; n > 0 { // a write of nothing does not move the end
				size = max(size, off+int64(n))
			}
		}
		v.Sparse = v.Sparse || size > v.Size && off > v.Size
		c.rewrite(v, size)
		return nil // a write that failed half way changes the content, too
	})
	switch {
	case err != nil:
		return 0, err
	case werr != nil:
		return n, h.s.blobError("write content", werr)
	case !id.IsZero():
		h.n.share().startWriteback(id, off, int64(n))
	}
	return n, nil
}

// Truncate makes the file size bytes long (ftruncate(2)); what is added reads as zeros.
func (h *Handle) Truncate(ctx context.Context, size int64) error {
	return h.truncate(ctx, size, func(*change) error { return nil })
}

// truncate is Truncate, with more to do in the same change.
func (h *Handle) truncate(ctx context.Context, size int64, more func(*change) error) error {
	if size < 0 {
		return fmt.Errorf("%w: size %d", fs.ErrInvalid, size)
	}
	if size > MaxFileSize {
		return ErrTooBig
	}
	var terr error
	e := edit{from: size, to: math.MaxInt64, size: func(*inode) int64 { return size }, frees: true}
	err := h.change(ctx, "truncate", &e, func(c *change, v *inode, size int64, f *writeFile) error {
		if f == nil {
			terr = nil
			if err := c.rewriteInline(v, size, func([]byte) {}); err != nil {
				return err
			}
			return more(c)
		}
		if err := c.cutBase(v, size); err != nil {
			return err
		}
		if size < v.Size {
			h.s.open.cut(f.id, size)
		}
		if terr = f.Truncate(size); terr != nil {
			h.n.share().failed()
			e.done = e.from
			c.rewrite(v, v.Size)
			return nil
		}
		v.Sparse = v.Sparse || size > v.Size
		c.rewrite(v, size)
		return more(c)
	})
	if err == nil && terr != nil {
		err = h.s.blobError("truncate content", terr)
	}
	return err
}

// truncate is SetAttr with a size.
func (s *Store) truncate(ctx context.Context, ino Ino, a SetAttr) (attr Attr, err error) {
	h, err := s.Open(ctx, ino, true)
	if err != nil {
		return Attr{}, err
	}
	err = h.truncate(ctx, *a.Size, func(c *change) error { return c.setAttrOf(ino, &a, &attr) })
	return attr, errors.Join(err, h.Close())
}

// KillPriv drops the set-user-ID and set-group-ID bits and security.capability,
// as a write by an unprivileged process does. It changes nothing if there are none.
func (h *Handle) KillPriv(ctx context.Context) error {
	if h.closed.Load() {
		return fs.ErrClosed
	}
	return h.s.change(ctx, "kill_priv", []Ino{h.n.ino}, func(c *change) error { return c.killPriv(h.n.ino) })
}

// staysInline reports whether v of that size has its content in the engine.
// What has become a blob stays one until it is empty, and while it is open as a
// file of its own.
func (h *Handle) staysInline(v *inode, size int64) bool {
	if v.content.kind == contentBlob {
		return size == 0 && !h.n.native()
	}
	return size <= h.s.inline || size == 0
}

// rewriteInline gives v inline content of that size: its old content, cut or
// padded with zeros, after fn has changed it.
func (c *change) rewriteInline(v *inode, size int64, fn func(data []byte)) error {
	data := make([]byte, size)
	if v.content.kind == contentInline {
		old, err := c.s.readInline(v)
		if err != nil {
			return err
		}
		copy(data, old)
	}
	fn(data)
	c.setContent(v, size, data, blob.ID{})
	return nil
}

// rewrite records that v's blob was written in place.
func (c *change) rewrite(v *inode, size int64) {
	c.bytes += size - v.Size
	v.Size = size
	v.Version = c.s.nextVersion(v.Version)
	v.Mtime = c.now
}

// cutBase cuts what a restart after a power cut falls back to: what the file has
// lost must not come back when it grows again.
func (c *change) cutBase(v *inode, size int64) error {
	if !v.content.fresh || size >= c.s.inline {
		return nil
	}
	base, err := c.s.readBase(v.Ino)
	if err != nil || int64(len(base)) <= size {
		return err
	}
	c.put(inoKey(keyInline, v.Ino), base[:size])
	return nil
}

// edit says what a contentChange does: it gives all bytes from from to to, as far as
// they are in the file, a new value, leaves all others alone, and makes the file size bytes long.
type edit struct {
	from, to int64
	size     func(*inode) int64
	frees    bool // unless the file grows it needs no space, and so may use the reserve
	// done is how far a contentChange has come; it is to before that.
	done int64
}

// whole reports whether nothing of v's content is left afterwards.
func (e *edit) whole(v *inode) bool { return e.from == 0 && e.to >= v.Size }

// contentChange computes what a handle does to the content: v is the inode, to be
// size bytes long. f is its blob, nil if the content is or becomes inline.
type contentChange func(c *change, v *inode, size int64, f *writeFile) error

// change runs fn, which does what e says, with the inode locked and, if its content
// is or becomes a blob, with that blob, which is this
// file's alone, has no checksums, and is known to have none, durably if it was
// ever synced.
func (h *Handle) change(ctx context.Context, op string, e *edit, fn contentChange) error {
	if h.closed.Load() {
		return fs.ErrClosed
	}
	if !h.write {
		return fmt.Errorf("%w: handle is open for reading", fs.ErrPermission)
	}
	run := h.s.change
	if e.frees {
		run = h.s.changeFreeing
	}
	for {
		resized, whole := false, false
		err := run(ctx, op, []Ino{h.n.ino}, func(c *change) (err error) {
			resized, whole, err = h.attempt(c, e, fn)
			return err
		})
		if resized { // counted once the batch is in, or may be
			h.n.share().resized.Add(1)
		}
		if !errors.Is(err, errUnprepared) {
			return err
		}
		if err := h.prepare(ctx, whole); err != nil {
			return err
		}
	}
}

// errUnprepared says that the content may not be written in place yet.
var errUnprepared = errors.New("content is not prepared for writing")

// attempt is change under the lock. It reports whether it changes the size of a
// blob, and whether it leaves nothing of the content.
func (h *Handle) attempt(c *change, e *edit, fn contentChange) (resized, whole bool, err error) {
	v, err := c.edit(h.n.ino)
	if err != nil {
		return false, false, err
	}
	if h.closed.Load() {
		return false, false, fs.ErrClosed
	}
	after := e.size(v)
	if e.frees && after > v.Size {
		if err := h.s.space.take(h.s.now().UnixNano(), changeCost); err != nil {
			return false, false, err
		}
	}
	if h.staysInline(v, after) {
		return false, true, fn(c, v, after, nil)
	}
	whole = e.whole(v)
	if v.content.kind != contentBlob || v.content.sealed {
		return false, whole, errUnprepared
	}
	b := h.n.share()
	f := b.writable(v.content.blob)
	if f == nil {
		return false, whole, errUnprepared
	}
	defer h.s.letGo(b, f)
	if err := b.trim(f, v.Size); err != nil {
		return false, whole, h.s.blobError("truncate content", err)
	}
	added, err := h.touch(b, v, f, e, after)
	if err != nil {
		return false, whole, err
	}
	if err := h.s.faults.hit(faultWriteContent, v.Ino); err != nil {
		return false, whole, err
	}
	returned := false
	defer func() {
		b.written.Add(1)
		if !returned { // it panics
			b.failed()
		}
	}()
	resized = after != v.Size
	e.done = e.to
	err = fn(c, v, after, f)
	returned = true
	if err == nil {
		h.s.damages.overwritten(v.Ino, e.from, e.done-e.from)
		if e.done < e.to {
			b.untouch(f.id, added, e.done)
		}
	}
	return resized, whole, err
}

// letGo gives up f, which the last user closes.
func (s *Store) letGo(b *body, f *writeFile) {
	if err := b.done(f); err != nil {
		s.log.Warn("content not closed", "blob", f.id, "err", err)
	}
}

// Close closes the handle. It does not make anything durable. Some time after the
// last writer the content gets its checksums; after the last handle of an unlinked
// file, the file is removed.
func (h *Handle) Close() error {
	if !h.closed.CompareAndSwap(false, true) {
		return fs.ErrClosed
	}
	var err error
	if h.native.Load() {
		err = h.closeNative()
	}
	writers := int32(1)
	if h.write {
		writers = h.n.writers.Add(-1)
	}
	if b := h.n.body.Load(); b != nil {
		err = errors.Join(err, b.drop(h.n))
		if writers == 0 {
			h.s.sealer.ask(h.n.ino)
		}
	}
	if h.n.opens.Add(-1) == 0 {
		h.s.collector.closed(h.n)
	}
	h.s.nodes.release(h.n)
	return err
}

var _ io.Closer = (*Handle)(nil)

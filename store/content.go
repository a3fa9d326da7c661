package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"engramfs/store/blob"
)

// Content is one version of a file's content, pinned: a PUT, a rename or an
// unlink does not change what it reads. Writes in place through a handle may show.
// It is safe for concurrent use.
type Content struct {
	s      *Store
	attr   Attr
	inline []byte    // of inline content
	blob   *openBlob // of blob content
	sealed bool
	cuts   uint64 // of the blob, when the content was pinned
	// vouched: digests of the content were given away.
	vouched atomic.Bool
}

// OpenContent pins the content of a file. The error matches ErrIsDir,
// fs.ErrInvalid for anything but a file, ErrStale, or ErrDamaged if the content
// is missing.
func (s *Store) OpenContent(ctx context.Context, ino Ino) (*Content, error) {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return nil, err
	}
	defer s.nodes.release(n)
	c := &Content{s: s}
	if err := c.open(ctx, n); err != nil {
		return nil, err
	}
	return c, nil
}

// open pins the content of n's inode. c.s is set.
func (c *Content) open(ctx context.Context, n *node) error {
	s := c.s
	var missing blob.ID
	err := s.readNode(ctx, "read_data", n, func(v *inode) (err error) {
		if v.IsDir() {
			return ErrIsDir
		}
		if !v.IsRegular() {
			return fmt.Errorf("%w: inode %d is no file", fs.ErrInvalid, v.Ino)
		}
		c.attr, c.sealed = v.Attr, v.content.sealed
		n.overlay(&c.attr)
		switch v.content.kind {
		case contentInline:
			c.inline, err = s.readInline(v)
		case contentBlob:
			missing = v.content.blob
			if c.blob, err = s.open.get(v.content.blob, v.Ino); err == nil {
				c.cuts = c.blob.cuts.n.Load()
			}
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrStale) {
		err = fmt.Errorf("%w: inode %d: content %s is missing", ErrDamaged, n.ino, missing)
		s.damages.note(Damage{
			Ino: n.ino, Version: c.attr.Version, Kind: DamagedMissing, Length: c.attr.Size, At: s.now(), Err: err.Error(), blob: missing,
		})
	}
	return err
}

// Attr returns the attributes that belong to this version of the content.
func (c *Content) Attr() Attr { return c.attr }

// Size returns the content's length in bytes.
func (c *Content) Size() int64 { return c.attr.Size }

// Inline returns the whole content if it is small enough to be in memory; the
// caller must not change it.
func (c *Content) Inline() ([]byte, bool) {
	return c.inline, c.inline != nil || c.attr.Size == 0
}

// Close releases the content.
func (c *Content) Close() error {
	c.release()
	return nil
}

func (c *Content) release() {
	if c.blob != nil {
		c.s.open.put(c.blob)
		c.blob = nil
	}
}

// ReadAt implements io.ReaderAt. No byte of a block that fails its checksum is
// returned: the error then matches ErrDamaged. io.ErrUnexpectedEOF: the file was
// cut since its content was pinned. What is behind the n bytes in p may have
// changed, too.
func (c *Content) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: offset %d", fs.ErrInvalid, off)
	}
	if off >= c.attr.Size {
		return 0, io.EOF
	}
	want := int(min(int64(len(p)), c.attr.Size-off))
	short := want < len(p)
	p = p[:want]
	switch {
	case c.inline != nil:
		n = copy(p, c.inline[off:])
	case c.blob == nil:
		clear(p)
		n = len(p)
	default:
		n, err = c.readBlob(p, off)
	}
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// readBlob fills p from off on, which is inside the content. What needs no
// verifying, or is whole blocks, goes straight into p.
func (c *Content) readBlob(p []byte, off int64) (n int, err error) {
	if !c.verified() && !c.comparable() {
		return c.readVerified(p, off)
	}
	var buf *[]byte
	for n < len(p) {
		at := off + int64(n)
		var m int
		if direct := c.wholeBlocks(at, len(p)-n); direct > 0 {
			m, err = c.readBlocks(p[n:n+direct], at)
		} else {
			if buf == nil {
				buf = buffers.Get().(*[]byte)
				defer buffers.Put(buf)
			}
			var q []byte
			q, err = c.block((*buf)[:blockSize], at, off+int64(len(p)))
			m = copy(p[n:], q)
		}
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// wholeBlocks returns how many of the n bytes from off on are whole blocks.
func (c *Content) wholeBlocks(off int64, n int) int {
	if off%blockSize != 0 {
		return 0
	}
	if off+int64(n) == c.attr.Size {
		return n // the last block may be short
	}
	return n / blockSize * blockSize
}

// verified reports whether the blob's bytes have checksums to be held against.
func (c *Content) verified() bool { return c.sealed && !c.blob.unsealed.Load() }

// zeros is what a hole reads as.
var zeros [streamSize]byte

// WriteRange writes n bytes of the content from off on to w, and returns how
// many it wrote. Every block is verified before its first byte leaves: at a bad
// one the error matches ErrDamaged and nothing of it was written.
func (c *Content) WriteRange(w io.Writer, off, n int64) (written int64, err error) {
	if off < 0 || n < 0 || off+n > c.attr.Size {
		return 0, fmt.Errorf("%w: range %d+%d of %d bytes", fs.ErrInvalid, off, n, c.attr.Size)
	}
	if c.inline != nil {
		m, err := w.Write(c.inline[off : off+n])
		return int64(m), err
	}
	if c.blob == nil {
		return writeZeros(w, n)
	}
	if n > aheadAfter && w != io.Discard {
		return c.writeAhead(w, off, off+n)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for end := off + n; off < end; {
		p, err := c.block(*buf, off, end)
		if err != nil {
			return written, err
		}
		m, err := w.Write(p)
		written += int64(m)
		off += int64(m)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func writeZeros(w io.Writer, n int64) (written int64, err error) {
	for written < n && err == nil {
		var m int
		m, err = w.Write(zeros[:min(n-written, int64(len(zeros)))])
		written += int64(m)
	}
	return written, err
}

// block returns good bytes from off on, at least one and not beyond end. It
// reads the whole blocks around them into buf.
func (c *Content) block(buf []byte, off, end int64) ([]byte, error) {
	start := off / blockSize * blockSize
	stop := min((end+blockSize-1)/blockSize*blockSize, start+int64(len(buf)), c.attr.Size)
	p := buf[:stop-start]
	good, err := c.readBlocks(p, start)
	if start+int64(good) <= off {
		return nil, err
	}
	return p[off-start : min(end-start, int64(good))], nil
}

// readBlocks fills p from start, a block's first byte, and returns how many
// bytes are good. Fewer than len(p) means an error. What is wrong is read once
// more, in case it was the reading; then the blob itself is asked whether
// somebody has written to it since it got its checksums.
func (c *Content) readBlocks(p []byte, start int64) (good int, err error) {
	good, err = c.readVerified(p, start)
	if errors.Is(err, ErrDamaged) {
		good, err = c.readVerified(p, start)
	}
	if errors.Is(err, ErrDamaged) && c.verified() && c.writtenLate() {
		good, err = c.readVerified(p, start)
	}
	if errors.Is(err, ErrDamaged) {
		c.s.damages.note(Damage{
			Ino: c.attr.Ino, Version: c.attr.Version, Offset: start + int64(good), At: c.s.now(), Err: err.Error(), blob: c.blob.id,
		})
		c.s.log.Error("content is damaged", "ino", c.attr.Ino, "offset", start+int64(good), "err", err)
	}
	return good, err
}

// readVerified fills p from start, which is a block's first byte if there are
// checksums, and returns how many bytes are good. If that is not all of p, err
// says why.
func (c *Content) readVerified(p []byte, start int64) (good int, err error) {
	n, err := c.blob.file.ReadAt(p, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read content %s: %w", c.blob.id, err)
	}
	if !c.verified() {
		return c.unsealedBytes(p, n, start)
	}
	whole := n
	if n < len(p) {
		whole = n / blockSize * blockSize
		err = fmt.Errorf("%w: content %s ends at %d, want %d", ErrDamaged, c.blob.id, start+int64(n), c.attr.Size)
	} else {
		err = nil
	}
	good, verr := c.blob.verify(c.s.engine, start/blockSize, p[:whole])
	if !c.verified() {
		return c.unsealedBytes(p, n, start) // changed in place while it was read
	}
	return good, errors.Join(verr, err)
}

// cut returns how many of the n bytes read, from start on, of a blob without checksums
// may be used, and an error if want were wanted. Missing bytes are never made up, and
// none are used if the content's digests were given away.
func (c *Content) cut(n, want int, start int64) (int, error) {
	if c.vouched.Load() {
		return 0, ErrChanged
	}
	if c.blob.cuts.n.Load() != c.cuts {
		n = int(min(int64(n), max(0, c.blob.cuts.to.Load()-start)))
	}
	if n < want {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

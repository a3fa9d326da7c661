package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
}

// OpenContent pins the content of a file. The error matches ErrIsDir,
// fs.ErrInvalid for anything but a file, or ErrStale.
func (s *Store) OpenContent(ctx context.Context, ino Ino) (*Content, error) {
	c := &Content{s: s}
	err := s.read(ctx, "read_data", ino, func(v *inode) (err error) {
		if v.IsDir() {
			return ErrIsDir
		}
		if !v.IsRegular() {
			return fmt.Errorf("%w: inode %d is no file", fs.ErrInvalid, ino)
		}
		c.attr, c.sealed = v.Attr, v.content.sealed
		switch v.content.kind {
		case contentInline:
			c.inline, err = s.readInline(v)
		case contentBlob:
			c.blob, err = s.open.get(v.content.blob)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrStale) {
		err = fmt.Errorf("%w: inode %d: %v", ErrDamaged, ino, err) //nolint:errorlint // the blob is gone, not the file
	}
	if err != nil {
		return nil, err
	}
	return c, nil
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
	if c.blob != nil {
		c.s.open.put(c.blob)
		c.blob = nil
	}
	return nil
}

// ReadAt implements io.ReaderAt. No byte of a block that fails its checksum is
// returned: the error then matches ErrDamaged.
func (c *Content) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: offset %d", fs.ErrInvalid, off)
	}
	if off >= c.attr.Size {
		return 0, io.EOF
	}
	want := min(int64(len(p)), c.attr.Size-off)
	w := sliceWriter{p: p[:0:want]}
	_, err = c.WriteRange(&w, off, want)
	if err == nil && want < int64(len(p)) {
		err = io.EOF
	}
	return len(w.p), err
}

// sliceWriter collects what is written to it in a slice with enough room.
type sliceWriter struct{ p []byte }

func (w *sliceWriter) Write(b []byte) (int, error) {
	w.p = append(w.p, b...)
	return len(b), nil
}

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

// block returns verified bytes from off on, at least one and not beyond end. It
// reads the whole blocks around them into buf.
func (c *Content) block(buf []byte, off, end int64) ([]byte, error) {
	start := off / blockSize * blockSize
	stop := min((end+blockSize-1)/blockSize*blockSize, start+int64(len(buf)), c.attr.Size)
	p := buf[:stop-start]
	good, err := c.readVerified(p, start)
	if errors.Is(err, ErrDamaged) {
		good, err = c.readVerified(p, start) // once more: what was wrong may have been the reading
	}
	if err != nil && start+int64(good) <= off {
		if errors.Is(err, ErrDamaged) {
			c.s.log.Error("content is damaged", "ino", c.attr.Ino, "offset", start+int64(good), "err", err)
		}
		return nil, err
	}
	return p[off-start : min(end-start, int64(good))], nil
}

// readVerified fills p from start, a block's first byte, and returns how many
// bytes are good.
func (c *Content) readVerified(p []byte, start int64) (good int, err error) {
	n, err := c.blob.file.ReadAt(p, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read content %s: %w", c.blob.id, err)
	}
	if !c.sealed || c.blob.unsealed.Load() {
		clear(p[n:]) // beyond the blob's end the file has a hole
		return len(p), nil
	}
	if n < len(p) {
		err = fmt.Errorf("%w: content %s ends at %d, want %d", ErrDamaged, c.blob.id, start+int64(n), c.attr.Size)
		n = n / blockSize * blockSize
	} else {
		err = nil
	}
	good, verr := c.blob.verify(c.s.engine, start/blockSize, p[:n])
	if verr != nil && c.blob.unsealed.Load() {
		return len(p), nil // changed in place while it was read
	}
	return good, errors.Join(verr, err)
}

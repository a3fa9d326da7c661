package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"engramfs/store/blob"
)

// copyStep is how many bytes CopyRange copies at most in one change of the
// target, in which others wait for it.
const copyStep = 4 << 20

// CopyRange copies up to n bytes between two open files (copy_file_range(2)),
// sharing them where the backend can, and returns how many: fewer at the end of
// the source, or as many as is good for one call. Blocks of the source that have
// checksums are verified first: a copy must not make damage look sound. The error
// matches fs.ErrInvalid for negative or overlapping ranges, ErrTooBig, or ErrDamaged.
func (s *Store) CopyRange(ctx context.Context, src *Handle, srcOff int64, dst *Handle, dstOff, n int64) (int64, error) {
	if src.closed.Load() || dst.closed.Load() {
		return 0, fs.ErrClosed
	}
	if srcOff < 0 || dstOff < 0 || n < 0 {
		return 0, fmt.Errorf("%w: copy of %d bytes from %d to %d", fs.ErrInvalid, n, srcOff, dstOff)
	}
	c := Content{s: s}
	if err := c.open(ctx, src.n); err != nil {
		return 0, err
	}
	defer c.release()
	n = min(n, c.Size()-srcOff, copyStep)
	if n <= 0 {
		return 0, nil
	}
	if dstOff+n > MaxFileSize {
		return 0, ErrTooBig
	}
	if src.n == dst.n && srcOff < dstOff+n && dstOff < srcOff+n {
		return 0, fmt.Errorf("%w: the ranges overlap", fs.ErrInvalid)
	}
	copied, err := dst.copyInBackend(ctx, &c, srcOff, dstOff, n)
	if errors.Is(err, errors.ErrUnsupported) {
		return dst.copyThrough(ctx, &c, srcOff, dstOff, n)
	}
	return copied, err
}

// copyThrough copies through memory.
func (h *Handle) copyThrough(ctx context.Context, c *Content, from, to, n int64) (copied int64, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for copied < n {
		m, err := c.ReadAt((*buf)[:min(n-copied, int64(len(*buf)))], from+copied)
		if m > 0 {
			w, werr := h.WriteAt(ctx, (*buf)[:m], to+copied)
			copied += int64(w)
			err = errors.Join(werr, err)
		}
		if err != nil && !(copied > 0 && isEOF(err)) {
			return copied, err
		}
		if m == 0 || err != nil {
			break
		}
	}
	return copied, nil
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// copyInBackend lets the backend copy. errors.ErrUnsupported: it cannot.
func (h *Handle) copyInBackend(ctx context.Context, c *Content, from, to, n int64) (copied int64, err error) {
	if c.blob == nil || to+n <= h.s.inline {
		return 0, errors.ErrUnsupported
	}
	if _, ok := c.blob.file.(blob.RangeCopier); !ok {
		return 0, errors.ErrUnsupported
	}
	if c.verified() || c.comparable() {
		if _, err := c.WriteRange(io.Discard, from, n); err != nil {
			return 0, err
		}
	}
	if err := h.s.space.take(h.s.now().UnixNano(), n); err != nil {
		return 0, err
	}
	var cerr error
	e := edit{from: to, to: to + n, size: func(v *inode) int64 { return max(v.Size, to+n) }}
	err = h.change(ctx, "copy_range", &e, func(ch *change, v *inode, _ int64, f *writeFile) error {
		r, ok := blob.RangeCopier(nil), false
		if f != nil {
			r, ok = f.File.(blob.RangeCopier)
		}
		if !ok {
			return errors.ErrUnsupported
		}
		if copied, cerr = r.CopyRange(to, c.blob.file, from, n); errors.Is(cerr, errors.ErrUnsupported) {
			return cerr
		}
		if cerr != nil {
			h.n.share().failed()
		}
		e.done = to + copied
		size := v.Size
		if copied > 0 {
			size = max(size, to+copied)
		}
		v.Sparse = v.Sparse || size > v.Size && to > v.Size
		ch.rewrite(v, size)
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case cerr != nil && copied == 0:
		return 0, h.s.blobError("copy content", cerr)
	}
	return copied, nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"engramfs/store/blob"
)

// ErrNoData is returned by Seek when there is no data or hole from the offset on (ENXIO).
var ErrNoData = errors.New("store: no data there")

// Whence of Handle.Seek, as in lseek(2).
type Whence int

// What Handle.Seek looks for.
const (
	SeekData Whence = iota
	SeekHole
)

// Seek returns the first offset from off on that is data or a hole (lseek(2)).
// The end of the file counts as a hole. ErrNoData: there is none, or off is not
// inside the file.
func (h *Handle) Seek(ctx context.Context, off int64, whence Whence) (int64, error) {
	if h.closed.Load() {
		return 0, fs.ErrClosed
	}
	c := Content{s: h.s}
	if err := c.open(ctx, h.n); err != nil {
		return 0, err
	}
	defer c.release()
	size := c.Size()
	if off < 0 || off >= size {
		return 0, ErrNoData
	}
	at, err := c.seek(off, whence)
	switch {
	case errors.Is(err, io.EOF) && whence == SeekHole:
		return size, nil // the blob is shorter: somebody has cut it just now
	case errors.Is(err, io.EOF), err == nil && whence == SeekData && at >= size:
		return 0, ErrNoData
	case err != nil:
		return 0, fmt.Errorf("seek in content %s: %w", c.blob.id, err)
	}
	return min(at, size), nil
}

func (c *Content) seek(off int64, whence Whence) (int64, error) {
	var f blob.Sparse
	if c.blob != nil {
		f, _ = c.blob.file.(blob.Sparse)
	}
	switch {
	case f == nil && whence == SeekHole:
		return c.Size(), nil
	case f == nil:
		return off, nil
	case whence == SeekHole:
		return f.SeekHole(off)
	}
	return f.SeekData(off)
}

// Allocated returns the bytes that the inode's content takes on the disk, in
// units of 512 bytes as st_blocks counts. Those shared with a copy count in both.
func (s *Store) Allocated(ctx context.Context, ino Ino) (int64, error) {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return 0, err
	}
	defer s.nodes.release(n)
	var (
		size int64
		b    *openBlob
	)
	err = s.readNode(ctx, "allocated", n, func(v *inode) (err error) {
		switch {
		case v.IsRegular():
			size = v.Size
		case v.IsSymlink():
			size = 0
		}
		if v.content.kind == contentBlob {
			b, err = s.open.get(v.content.blob, v.Ino)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if b != nil {
		defer s.open.put(b)
		if f, ok := b.file.(blob.Sparse); ok {
			return f.Allocated()
		}
	}
	const unit = 512
	return (size + unit - 1) / unit * unit, nil
}

// Allocation says what Handle.Allocate does, as in fallocate(2).
type Allocation struct {
	KeepSize  bool // the file's size stays
	PunchHole bool // the range reads as zeros and gives its space back; implies KeepSize
	ZeroRange bool // the range reads as zeros
}

// Allocate is fallocate(2): without PunchHole and ZeroRange it reserves space,
// and grows the file unless KeepSize. What is small enough to live in the
// metadata engine has no space to reserve. The error matches fs.ErrInvalid for a
// range that is empty or begins before the file, ErrTooBig, or ErrNoSpace.
func (h *Handle) Allocate(ctx context.Context, a Allocation, off, n int64) error {
	end := off + n
	switch {
	case off < 0 || n <= 0 || a.PunchHole && a.ZeroRange:
		return fmt.Errorf("%w: range %d+%d", fs.ErrInvalid, off, n)
	case end < off || end > MaxFileSize:
		return ErrTooBig
	}
	if !a.PunchHole {
		if err := h.s.space.take(h.s.now().UnixNano(), n); err != nil {
			return err
		}
	}
	after := func(v *inode) int64 {
		if a.KeepSize || a.PunchHole {
			return v.Size
		}
		return max(v.Size, end)
	}
	e := edit{from: off, to: off, size: after, frees: a.PunchHole} // space alone changes no byte
	if a.PunchHole || a.ZeroRange {
		e.to = end
	}
	var aerr error
	err := h.change(ctx, "allocate", &e, func(c *change, v *inode, size int64, f *writeFile) error {
		aerr = nil
		if f == nil {
			return c.rewriteInline(v, size, func(data []byte) {
				if a.PunchHole || a.ZeroRange {
					clear(data[min(off, v.Size):min(end, size)])
				}
			})
		}
		if aerr = a.apply(f, v, off, n, size); aerr != nil {
			h.n.share().failed()
			e.done = e.from
			size = v.Size
		}
		v.Sparse = true
		c.rewrite(v, size)
		return nil
	})
	if err == nil && aerr != nil {
		err = h.s.blobError("allocate content", aerr)
	}
	return err
}

// apply does in the blob of v what a says, size being the file's size afterwards.
func (a Allocation) apply(f *writeFile, v *inode, off, n, size int64) error {
	if a.PunchHole || a.ZeroRange {
		if inside := min(off+n, v.Size) - off; inside > 0 {
			if err := zero(f, off, inside); err != nil {
				return err
			}
		}
	}
	if r, ok := f.File.(blob.Allocator); ok && !a.PunchHole {
		if err := r.Allocate(off, n); err != nil {
			return err
		}
	}
	if size > v.Size {
		return f.Truncate(size)
	}
	return nil
}

// zero makes n bytes of the blob from off, which are inside it, read as zeros.
func zero(f *writeFile, off, n int64) error {
	if p, ok := f.File.(blob.Sparse); ok {
		return p.PunchHole(off, n)
	}
	for end := off + n; off < end; {
		m, err := f.WriteAt(zeros[:min(end-off, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(m)
	}
	return nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// RawContent is the content of a file as it is stored, with its damage: for an
// administrator who has no copy, and knows that bytes may be wrong. Close it.
type RawContent struct {
	*Content
	size int64
	bad  []Range
}

// Range is a part of a file, in bytes.
type Range struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// OpenRaw opens the content of a file for salvage and reads all of it, to
// know what is damaged. The error matches ErrDamaged if the content is
// missing as a whole, or is what OpenContent returns.
func (s *Store) OpenRaw(ctx context.Context, ino Ino) (*RawContent, error) {
	c, err := s.OpenContent(ctx, ino)
	if err != nil {
		return nil, err
	}
	v := &RawContent{Content: c, size: c.Size()}
	if err := v.look(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return v, nil
}

// look finds the damage. What is behind the end of the blob is not there to be salvaged.
func (v *RawContent) look(ctx context.Context) error {
	if v.blob == nil {
		return nil
	}
	stored, err := v.blob.file.Size()
	if err != nil {
		return fmt.Errorf("size of content: %w", err)
	}
	v.size = min(v.size, stored)
	for off := int64(0); off < v.size; off += blockSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(blockSize, v.size-off)
		_, err := v.WriteRange(io.Discard, off, n)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) || err == nil && v.s.damagedAt(v.attr.Ino, off, n) {
			v.bad = addRange(v.bad, Range{off, n})
		}
	}
	if v.size < v.Content.Size() {
		v.bad = addRange(v.bad, Range{v.size, v.Content.Size() - v.size})
	}
	return nil
}

// addRange appends r, or makes the last range longer.
func addRange(all []Range, r Range) []Range {
	if n := len(all); n > 0 && all[n-1].Offset+all[n-1].Length == r.Offset {
		all[n-1].Length += r.Length
		return all
	}
	return append(all, r)
}

// Bad returns what is damaged of the whole file, by offset. What of it is at or
// behind Size is not there.
func (v *RawContent) Bad() []Range { return slices.Clone(v.bad) }

// Size returns how many bytes there are.
func (v *RawContent) Size() int64 { return v.size }

// WriteTo writes all that is stored to w, damaged blocks as they are. Bytes that
// the disk cannot read are an error: nothing is made up.
func (v *RawContent) WriteTo(w io.Writer) (int64, error) {
	if v.blob == nil {
		return v.Content.WriteRange(w, 0, v.size)
	}
	return io.Copy(w, io.NewSectionReader(v.blob.file, 0, v.size))
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// verifyAtOnce is the size, in bytes, up to which content is verified as a whole
// before it is read or written past its checksums. What is larger rests on
// scrubbing.
const verifyAtOnce = 1 << 20

// sound returns nil if v's content, which has checksums, may be changed in part.
// ErrDamaged: it is known to be damaged, or small enough to be verified and found
// so. It can still be replaced as a whole.
func (h *Handle) sound(ctx context.Context, v *inode) error {
	if len(h.s.damages.look(v.Ino)) > 0 {
		return fmt.Errorf("%w: inode %d: only new content as a whole can take the place of damaged content", ErrDamaged, v.Ino)
	}
	if v.Size > verifyAtOnce {
		return nil
	}
	return h.verifyOnce(ctx, v)
}

// verifyOnce reads the content against its checksums unless that was done since
// its node came into memory.
func (h *Handle) verifyOnce(ctx context.Context, v *inode) error {
	b := h.n.share()
	b.mu.Lock()
	known := b.verified == v.content.blob
	b.mu.Unlock()
	if known {
		return nil
	}
	c := Content{s: h.s}
	if err := c.open(ctx, h.n); err != nil {
		return err
	}
	defer c.release()
	_, err := c.WriteRange(io.Discard, 0, c.Size())
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil // it is being written, and has no checksums now
	}
	if err != nil || !c.sealed {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verified = v.content.blob
	return nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Sync makes what was written so far through any handle durable, with all of the
// store's earlier changes (fsync(2)).
func (h *Handle) Sync(ctx context.Context) error {
	if h.closed.Load() {
		return fs.ErrClosed
	}
	if err := h.absorb(ctx, true); err != nil {
		return err
	}
	resized := h.n.resizes()
	if err := h.s.syncNode(ctx, h.n); err != nil {
		return err
	}
	if err := h.s.Sync(ctx); err != nil {
		return err
	}
	h.n.syncedTo(resized)
	return nil
}

// SyncData is Sync without what only concerns times (fdatasync(2)).
func (h *Handle) SyncData(ctx context.Context) error {
	if h.closed.Load() {
		return fs.ErrClosed
	}
	if err := h.absorb(ctx, false); err != nil {
		return err
	}
	v, err := h.s.snapshot(ctx, "fdatasync", h.n)
	if err != nil {
		return err
	}
	if v.content.kind != contentBlob || v.content.fresh || h.n.resizes() != h.n.resizesSynced() {
		return h.Sync(ctx)
	}
	return h.s.syncNode(ctx, h.n)
}

// resizes returns how often the record of n's inode changed in a way that finding
// its bytes depends on.
func (n *node) resizes() uint64 { return n.share().resized.Load() }

func (n *node) resizesSynced() uint64 { return n.share().syncedResized.Load() }

// syncedTo notes that everything up to the count that resizes had returned is durable.
func (n *node) syncedTo(resized uint64) { raise(&n.share().syncedResized, resized) }

// syncNode makes what was written into the blob of n's inode durable. It takes
// no lock while it waits for the disk.
func (s *Store) syncNode(ctx context.Context, n *node) error {
	v, err := s.snapshot(ctx, "fsync", n)
	if err != nil || v.content.kind != contentBlob || v.content.sealed && !s.mayBeMapped(v.content.blob) {
		return err
	}
	if err := s.syncBlob(n, &v); errors.Is(err, fs.ErrNotExist) {
		now, nerr := s.snapshot(ctx, "fsync", n)
		if nerr == nil && now.content != v.content {
			return nil // replaced meanwhile, and what it was replaced by is not ours to sync
		}
		return errors.Join(fmt.Errorf("%w: inode %d: content %s is missing", ErrDamaged, n.ino, v.content.blob), nerr)
	} else if err != nil {
		return err
	}
	if !v.content.fresh {
		return nil
	}
	set := lockSet{write: []Ino{n.ino}, background: true}
	return s.changeLocked(ctx, "settle", set, func(c *change) error {
		cur, err := c.view(n.ino)
		if err != nil || cur.content != v.content {
			return err
		}
		if cur, err = c.tend(n.ino); err != nil {
			return err
		}
		c.settle(cur)
		return nil
	})
}

// settle gives up what a fresh blob's file would fall back to after a power cut:
// the blob is durable.
func (c *change) settle(v *inode) {
	if v.content.fresh {
		v.content.fresh = false
		c.delete(inoKey(keyInline, v.Ino))
	}
}

// syncBlob syncs v's blob unless nothing was written since the last time. A blob that was
// ever written natively may be mapped into memory, and is synced always.
func (s *Store) syncBlob(n *node, v *inode) error {
	b, id := n.share(), v.content.blob
	native := b.nativeWriters.Load() > 0 || b.isMarked(id) || v.content.sealed
	written := b.written.Load() // after nativeWriters, which falls after written has risen
	if !native && b.isSynced(id, written) {
		return nil
	}
	err := s.syncFile(b, v)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return s.blobError("sync content", err)
	}
	b.setSynced(id, written)
	return nil
}

// syncFile syncs v's blob through the file that writers share, which knows of
// errors that the kernel has met since it was opened, or through one of its own.
func (s *Store) syncFile(b *body, v *inode) error {
	if f := b.use(v.content.blob); f != nil {
		defer s.letGo(b, f)
		return f.Sync()
	}
	f, err := s.blobs.Open(v.content.blob, true)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// raise sets a to n unless it is more.
func raise(a interface {
	Load() uint64
	CompareAndSwap(old, new uint64) bool
}, n uint64) {
	for old := a.Load(); old < n; old = a.Load() {
		if a.CompareAndSwap(old, n) {
			return
		}
	}
}

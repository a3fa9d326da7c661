package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// What the record of an unsealed file says of how it is written.
const (
	writtenHere   byte = iota // through the store: its record has the size
	writtenNative             // past the store: its blob has the size
)

// tend is edit for upkeep that no user sees: counters, times, and the locks of
// clients have no part in it.
func (c *change) tend(ino Ino) (*inode, error) {
	h, err := c.lookWritable(ino)
	if err != nil {
		return nil, err
	}
	if !h.edited {
		h.edited = true
		c.absorb(h)
	}
	return &h.next, nil
}

// snapshot returns the inode as it is now.
func (s *Store) snapshot(ctx context.Context, op string, n *node) (v inode, err error) {
	err = s.readNode(ctx, op, n, func(cur *inode) error { v = *cur; return nil })
	return v, err
}

// prepare takes one step towards content that may be written in place: a blob of
// this file alone, without checksums. The caller tries and comes back.
//
// A blob with checksums loses them durably before a byte changes: after a crash,
// content without checksums is known as such and never mistaken for damaged.
//
// Content that is damaged is not prepared (ErrDamaged) unless whole is set: nothing
// of it is to be left.
func (h *Handle) prepare(ctx context.Context, whole bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := h.n.share()
	b.prepare.Lock()
	defer b.prepare.Unlock()
	v, err := h.s.snapshot(ctx, "prepare", h.n)
	if err != nil {
		return err
	}
	switch {
	case v.content.kind != contentBlob:
		err = h.spill(ctx, b)
	case !v.content.sealed:
		err = h.resume(ctx, b, &v)
	default:
		if !whole {
			err = h.sound(ctx, &v)
		}
		if err == nil {
			err = h.unseal(ctx, b, &v)
		}
	}
	if h.closed.Load() { // meanwhile: its Close has seen no file to close
		err = errors.Join(err, fs.ErrClosed, b.drop(h.n))
	}
	return err
}

// resume makes a blob without checksums ready to be written.
func (h *Handle) resume(ctx context.Context, b *body, v *inode) error {
	if id := v.content.blob; !v.content.fresh && !b.isReady(id) {
		refs, err := h.s.engine.Counter(blobKey(keyBlobRefs, id))
		if err != nil {
			return fmt.Errorf("references of content: %w", err)
		}
		if refs > 1 { // a salvage, or a repair, can leave shared content without checksums
			return h.unshare(ctx, b, v)
		}
		if err := h.unfinish(ctx, b.recallLocked(h.s, h.n.ino, id), v); err != nil {
			return err
		}
		// Also whoever unsealed it may have died before that was durable.
		if err := h.s.engineError(h.s.engine.Sync()); err != nil {
			return err
		}
	}
	return h.reopen(b, v.content.blob, true)
}

// unfinish makes m, if it is the mark of a file that nobody was to write any more, one of
// a file that is written.
func (h *Handle) unfinish(ctx context.Context, m unsealedMark, v *inode) error {
	if !m.final {
		return nil
	}
	return h.s.changeLocked(ctx, "unfinish", lockSet{write: []Ino{h.n.ino}, background: true}, func(c *change) error {
		cur, err := c.view(h.n.ino)
		if err != nil || cur.content != v.content {
			return err
		}
		m.final = false
		c.put(inoKey(keyUnsealed, h.n.ino), m.append(nil))
		return nil
	})
}

// reopen opens the blob for writing unless it is open. With ready it may be
// written from now on.
func (h *Handle) reopen(b *body, id blob.ID, ready bool) error {
	if !b.has(id) {
		f, err := h.s.blobs.Open(id, true)
		if err != nil {
			return fmt.Errorf("open content: %w", err)
		}
		if err := b.adopt(id, f); err != nil {
			return err
		}
	}
	if ready {
		b.setReady(id)
	}
	return nil
}

// spill makes the inline content a blob that nobody has synced yet. The inline
// record stays until then: a power cut may take away what it was copied to.
func (h *Handle) spill(ctx context.Context, b *body) error {
	return h.newBlob(ctx, b, "spill", h.s.blobs.Create, func(c *change, id blob.ID, f blob.File) (bool, error) {
		v, err := c.view(h.n.ino)
		if err != nil || v.content.kind == contentBlob {
			return false, err
		}
		if v.content.kind == contentInline {
			data, err := h.s.readInline(v)
			if err != nil {
				return false, err
			}
			if _, err := f.WriteAt(data, 0); err != nil {
				return false, h.s.blobError("write content", err)
			}
		}
		if v, err = c.tend(h.n.ino); err != nil {
			return false, err
		}
		v.content = content{kind: contentBlob, blob: id, fresh: true}
		return true, nil
	})
}

// unshare gives the file a durable copy of a blob that others refer to, too. It is
// made without a lock: a shared blob does not change while this file refers to it.
func (h *Handle) unshare(ctx context.Context, b *body, old *inode) error {
	if err := h.s.space.take(h.s.now().UnixNano(), old.Size); err != nil {
		return err
	}
	pin, err := h.s.open.get(old.content.blob, h.n.ino)
	if err != nil {
		return err
	}
	defer h.s.open.put(pin)
	alone := old.content.sealed && !h.s.mayBeMapped(old.content.blob)
	clone := func(id blob.ID) (blob.File, error) {
		f, err := h.s.blobs.Clone(old.content.blob, id)
		if err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, errors.Join(err, f.Close(), h.s.blobs.Delete(id))
		}
		return f, nil
	}
	return h.newBlob(ctx, b, "unshare", clone, func(c *change, id blob.ID, _ blob.File) (bool, error) {
		v, err := c.view(h.n.ino)
		if err != nil || v.content != old.content || v.Version != old.Version {
			return false, err
		}
		if h.n.native() { // since nobody else refers to it any more: it stays
			return false, nil
		}
		if old.content.sealed { // else they are of what there was before
			sums, err := h.s.sumsAs(old.content.blob, id)
			if err != nil {
				return false, err
			}
			for _, r := range sums {
				if !bytes.Equal(r[0], sumsKey(id, groupDigests)) {
					c.put(r[0], r[1])
				}
			}
		}
		if v, err = c.tend(h.n.ino); err != nil {
			return false, err
		}
		c.dropContent(v)
		v.content = content{kind: contentBlob, blob: id}
		b.unsealing(id, v.Size, alone)
		return true, nil
	})
}

// newBlob makes a blob with create and lets swap put it into the inode, as content
// without checksums. If swap finds that it is not wanted any more, nothing changes.
func (h *Handle) newBlob(ctx context.Context, b *body, op string, create func(blob.ID) (blob.File, error), swap func(*change, blob.ID, blob.File) (bool, error)) error {
	id := blob.NewID()
	h.s.collector.begin(id)
	unused := true
	defer func() { h.s.collector.end(id, unused) }()
	f, err := create(id)
	if err != nil {
		return h.s.blobError("create content", err)
	}
	swapped := false
	unused = false // until the change is certainly not made, also if it panics
	err = h.s.change(ctx, op, []Ino{h.n.ino}, func(c *change) (err error) {
		if swapped, err = swap(c, id, f); err != nil || !swapped {
			return err
		}
		c.refs = append(c.refs, id)
		c.put(inoKey(keyUnsealed, h.n.ino), []byte{writtenHere})
		return nil
	})
	unused = !swapped || !mayHaveChanged(err)
	if err != nil || !swapped {
		return errors.Join(err, f.Close())
	}
	if err := b.adopt(id, f); err != nil {
		return err
	}
	b.written.Add(1)
	b.resized.Add(1)
	b.setReady(id)
	return nil
}

// unseal durably ends the validity of the checksums of a blob that is this file's
// alone. They stay until there are others, see touched. It is part of what it prepares
// for, which has asked for the space that it needs, or frees some.
func (h *Handle) unseal(ctx context.Context, b *body, old *inode) error {
	id := old.content.blob
	alone := !b.has(id) && !h.s.mayBeMapped(id)
	if err := h.reopen(b, id, false); err != nil {
		return err
	}
	shared, unsealed := false, false
	err := h.s.changeFreeing(ctx, "unseal", []Ino{h.n.ino}, func(c *change) error {
		shared, unsealed = false, false
		v, err := c.view(h.n.ino)
		if err != nil || v.content != old.content {
			return err
		}
		refs, err := h.s.engine.Counter(blobKey(keyBlobRefs, id))
		if err != nil {
			return fmt.Errorf("references of content: %w", err)
		}
		if shared = refs > 1 || h.s.open.readFor(id, h.n.ino); shared {
			return nil
		}
		if v, err = c.tend(h.n.ino); err != nil {
			return err
		}
		b.unsealing(id, v.Size, alone)
		h.s.open.unseal(id)
		v.content.sealed, unsealed = false, true
		m := b.markOpen(id)
		c.put(inoKey(keyUnsealed, h.n.ino), m.append(nil))
		c.delete(sumsKey(id, groupDigests))
		return nil
	})
	switch {
	case shared && err == nil:
		return h.unshare(ctx, b, old)
	case err != nil, !unsealed:
		return err
	}
	if err := h.s.engineError(h.s.engine.Sync()); err != nil {
		return err
	}
	b.setReady(id)
	return nil
}

// readBase returns the inline content that a fresh blob has taken the place of;
// nil if there was none.
func (s *Store) readBase(ino Ino) ([]byte, error) {
	base, err := s.engine.Get(inoKey(keyInline, ino))
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("content of inode %d: %w", ino, err)
	}
	return base, nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"engramfs/store/blob"
)

// ErrNotNative is returned by Handle.Native when the content cannot be had as a file.
var ErrNotNative = errors.New("store: content is not a file of its own")

// Native returns the operating system's file of the handle's content, for a
// kernel that reads and writes it directly (FUSE passthrough). Every native
// handle of an inode gets the same file while one of them is open. The file is
// the store's and must not be closed; it is valid until the handle is closed.
// Until then the file stays the inode's content: whatever changes the inode's
// bytes changes them there.
//
// For a handle that may write, the content is durably unsealed before Native
// returns, and from then on until the last such handle is closed the store
// takes size and times from the file.
//
// ErrNotNative: the content is inline or shared with a copy, or still being read
// for one that is gone; the backend has no
// files, or the inode has set-user-ID or set-group-ID bits or
// security.capability. ErrDamaged: the content is small enough to be verified, and is not good.
func (h *Handle) Native(ctx context.Context) (*os.File, error) {
	if h.closed.Load() {
		return nil, fs.ErrClosed
	}
	if !h.native.Load() {
		if err := h.openNative(ctx); err != nil {
			return nil, err
		}
	}
	return h.n.share().osFile()
}

// osFile returns the open blob as a file. ErrNotNative also if it is not open:
// no native handle keeps it, and the last writer has closed it.
func (b *body) osFile() (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil, ErrNotNative
	}
	f, ok := b.file.File.(blob.OSFiler)
	if !ok {
		return nil, ErrNotNative
	}
	return f.OSFile(), nil
}

func (h *Handle) openNative(ctx context.Context) error {
	v, err := h.s.snapshot(ctx, "open_native", h.n)
	switch {
	case err != nil:
		return err
	case v.content.kind != contentBlob, h.n.guard.Event() != nil, h.s.writable() != nil:
		return ErrNotNative
	case h.write:
		err = h.prepareNative(ctx, &v)
	default:
		err = h.prepareNativeRead(ctx, &v)
	}
	if err != nil {
		return err
	}
	return h.countNative(ctx)
}

// prepareNativeRead opens the blob, and verifies it if that is quick.
func (h *Handle) prepareNativeRead(ctx context.Context, v *inode) error {
	if v.content.sealed && v.Size <= verifyAtOnce {
		if err := h.verifyOnce(ctx, v); err != nil {
			return err
		}
	}
	b := h.n.share()
	b.prepare.Lock()
	defer b.prepare.Unlock()
	cur, err := h.s.snapshot(ctx, "open_native", h.n) // again: a writer may have moved the content meanwhile
	switch {
	case err != nil:
		return err
	case cur.content.kind != contentBlob:
		return ErrNotNative
	}
	return h.reopen(b, cur.content.blob, false)
}

// prepareNative makes the content ready to be written past the store, and marks
// it as such, durably: after a crash its size and times are the blob's.
func (h *Handle) prepareNative(ctx context.Context, v *inode) error {
	b := h.n.share()
	for v.content.kind == contentBlob && (v.content.fresh || v.content.sealed || !b.isReady(v.content.blob)) {
		var err error
		if v.content.fresh {
			err = h.s.syncNode(ctx, h.n)
		} else {
			err = h.prepare(ctx, false)
		}
		if err != nil {
			return err
		}
		if *v, err = h.s.snapshot(ctx, "open_native", h.n); err != nil {
			return err
		}
	}
	id := v.content.blob
	if v.content.kind != contentBlob {
		return ErrNotNative
	}
	if b.isMarked(id) {
		return nil
	}
	b.prepare.Lock()
	defer b.prepare.Unlock()
	err := h.s.changeLocked(ctx, "mark_native", lockSet{write: []Ino{h.n.ino}, background: true}, func(c *change) error {
		v, err := c.view(h.n.ino)
		if err != nil {
			return err
		}
		if v.content.blob != id || v.content.sealed {
			return ErrNotNative
		}
		m := b.markOpen(id)
		m.native, m.known = true, m.known && h.s.timesTell()
		c.put(inoKey(keyUnsealed, h.n.ino), m.append(nil))
		return nil
	})
	if err != nil {
		return err
	}
	if err := h.s.engineError(h.s.engine.Sync()); err != nil {
		return err
	}
	b.setMarked(id)
	return nil
}

// countNative makes the handle a native one. It holds the inode for writing, so
// that no copy can begin to share the blob at the same time.
func (h *Handle) countNative(ctx context.Context) error {
	b := h.n.share()
	counted := false
	err := h.s.changeLocked(ctx, "open_native", lockSet{write: []Ino{h.n.ino}, background: true}, func(c *change) error {
		v, err := c.view(h.n.ino)
		if err != nil {
			return err
		}
		if err := h.mayBeNative(v, b); err != nil {
			return err
		}
		if counted || h.closed.Load() || h.native.Load() {
			return nil
		}
		if !b.holdNative(v.content.blob) { // another handle has closed it just now
			return ErrNotNative
		}
		counted = true
		h.native.Store(true)
		if h.write {
			b.lend(h.s.timesTell())
			if st, ok := b.stat(); b.nativeWriters.Add(1) == 1 && ok {
				b.saw(st)
			}
		}
		return nil
	})
	if err == nil && !counted && h.closed.Load() {
		err = errors.Join(fs.ErrClosed, b.drop(h.n))
	}
	return err
}

// mayBeNative returns nil if v may be read, or written, past the store now.
func (h *Handle) mayBeNative(v *inode, b *body) error {
	if v.content.kind != contentBlob || !b.has(v.content.blob) || v.Mode&(modeSetuid|modeSetgid) != 0 {
		return ErrNotNative
	}
	if h.write && (v.content.sealed || !b.isMarked(v.content.blob)) {
		return ErrNotNative
	}
	if v.HasXattrs {
		capable, err := h.s.hasXattr(v.Ino, xattrCapability)
		if err != nil {
			return err
		}
		if capable {
			return ErrNotNative
		}
	}
	refs, err := h.s.engine.Counter(blobKey(keyBlobRefs, v.content.blob))
	if err != nil {
		return fmt.Errorf("references of content: %w", err)
	}
	if refs > 1 || h.s.open.readFor(v.content.blob, h.n.ino) {
		return ErrNotNative
	}
	_, err = b.osFile()
	return err
}

// HoldNative returns a handle for reading that is native as h is: until it is closed
// too, Native returns the same file to every handle of the inode, and that file
// stays the inode's content. h must be native, and not be closed meanwhile.
func (h *Handle) HoldNative() (*Handle, error) {
	if h.closed.Load() || !h.native.Load() {
		return nil, ErrNotNative
	}
	n, err := h.s.nodes.acquire(h.n.ino)
	if err != nil {
		return nil, err
	}
	hold := &Handle{s: h.s, n: n}
	n.opens.Add(1)
	n.share().natives.Add(1)
	hold.native.Store(true)
	return hold, nil
}

// closeNative ends what countNative has begun.
func (h *Handle) closeNative() error {
	b := h.n.share()
	var err error
	if h.write {
		err = h.absorb(context.Background(), true)
		b.written.Add(1)
		b.nativeWriters.Add(-1)
	}
	b.natives.Add(-1)
	return err
}

// Absorb takes the size and times of a file that is written natively into the
// inode, as one change with a new version, if they differ.
func (h *Handle) Absorb(ctx context.Context) error {
	if h.closed.Load() {
		return fs.ErrClosed
	}
	return h.absorb(ctx, true)
}

// absorb is Absorb, also if only the times differ if times is set.
func (h *Handle) absorb(ctx context.Context, times bool) error {
	b := h.n.body.Load()
	if b == nil || b.nativeWriters.Load() == 0 {
		return nil
	}
	v, err := h.s.snapshot(ctx, "absorb", h.n)
	if err != nil {
		return err
	}
	st, ok := b.news()
	if !ok || !st.written || !times && st.Size == v.Size {
		return nil
	}
	return h.s.changeLocked(ctx, "absorb", lockSet{write: []Ino{h.n.ino}}, func(c *change) error {
		_, err := c.tend(h.n.ino) // takes it in
		return err
	})
}

// absorb takes the size and times of a natively written file into the overlay.
func (c *change) absorb(h *heldInode) {
	b := h.node.body.Load()
	if b == nil || b.nativeWriters.Load() == 0 {
		return
	}
	st, ok := b.news()
	if !ok || !st.written {
		return
	}
	v := &h.next
	h.absorbed = &st.Stat
	c.bytes += st.Size - v.Size
	v.Size = st.Size
	if st.moved { // else somebody may have set another time since
		v.Mtime = st.Mtime
	}
	v.Ctime = max(v.Ctime, st.Ctime)
	v.Version = c.s.nextVersion(v.Version)
	v.Change++
	v.Sparse = st.Allocated < st.Size
}

// overlay gives a the size and times of a file that is being written natively.
// The caller holds n's lock, at least for reading.
func (n *node) overlay(a *Attr) {
	b := n.body.Load()
	if b == nil || b.nativeWriters.Load() == 0 {
		return
	}
	a.Native = true
	st, ok := b.news()
	if !ok {
		return
	}
	a.Size = st.Size
	a.Sparse = a.Sparse || st.Allocated < st.Size
	if st.moved {
		a.Mtime, a.Ctime = st.Mtime, max(a.Ctime, st.Ctime)
	}
}

// ask lets cond, if it is not nil, decide about the inode ino as readers see it; 0:
// there is none.
func (c *change) ask(cond Cond, ino Ino) error {
	if cond == nil {
		return nil
	}
	if ino == 0 {
		return cond(nil)
	}
	h, err := c.lookHeld(ino)
	if err != nil {
		return err
	}
	a := h.next.Attr
	h.node.overlay(&a)
	return cond(&a)
}

// attrOf returns the attributes of n's inode.
func (s *Store) attrOf(ctx context.Context, n *node) (a Attr, err error) {
	err = s.readNode(ctx, "get_attr", n, func(v *inode) error {
		a = v.Attr
		n.overlay(&a)
		return nil
	})
	return a, err
}

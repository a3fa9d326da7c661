package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
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

	// mu protects the fields below. It is taken inside the inode's lock.
	mu   sync.Mutex
	id   blob.ID // of file
	file blob.File
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
		n.opens.Add(1)
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
func (h *Handle) Attr(ctx context.Context) (a Attr, err error) {
	err = h.s.readNode(ctx, "get_attr", h.n, func(v *inode) error {
		a = v.Attr
		return nil
	})
	return a, err
}

// ReadAt reads len(p) bytes from off on, or up to the end with io.EOF
// (io.ReaderAt). Blocks with checksums are verified: ErrDamaged.
func (h *Handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if h.closed.Load() {
		return 0, fs.ErrClosed
	}
	c, err := h.s.OpenContent(ctx, h.n.ino)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.ReadAt(p, off)
}

// WriteAt writes p at off, and grows the file if that is beyond its end
// (pwrite(2)). It is visible on return and durable after Sync.
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
	grown := func(v *inode) int64 { return max(v.Size, end) }
	err = h.change(ctx, "write", grown, func(c *change, v *inode, size int64) error {
		if h.s.staysInline(v, size) {
			data, err := h.s.inlineCopy(v, size)
			if err != nil {
				return err
			}
			copy(data[off:], p)
			c.setContent(v, size, data, blob.ID{})
			return nil
		}
		if _, err := h.file.WriteAt(p, off); err != nil {
			return h.s.blobError("write content", err)
		}
		return c.grown(v, size)
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Truncate makes the file size bytes long (ftruncate(2)); what is added reads as zeros.
func (h *Handle) Truncate(ctx context.Context, size int64) error {
	if size < 0 {
		return fmt.Errorf("%w: size %d", fs.ErrInvalid, size)
	}
	if size > MaxFileSize {
		return ErrTooBig
	}
	cut := func(*inode) int64 { return size }
	return h.change(ctx, "truncate", cut, func(c *change, v *inode, size int64) error {
		if h.s.staysInline(v, size) {
			data, err := h.s.inlineCopy(v, size)
			if err != nil {
				return err
			}
			c.setContent(v, size, data, blob.ID{})
			return nil
		}
		if err := h.file.Truncate(size); err != nil {
			return h.s.blobError("truncate content", err)
		}
		return c.grown(v, size)
	})
}

// truncate is SetAttr with a size.
func (s *Store) truncate(ctx context.Context, ino Ino, a SetAttr) (Attr, error) {
	h, err := s.Open(ctx, ino, true)
	if err != nil {
		return Attr{}, err
	}
	err = h.Truncate(ctx, *a.Size)
	if err = errors.Join(err, h.Close()); err != nil {
		return Attr{}, err
	}
	a.Size = nil
	return s.SetAttr(ctx, ino, a)
}

// staysInline reports whether v of that size has its content in the engine.
// What has become a blob stays one, until it is empty.
func (s *Store) staysInline(v *inode, size int64) bool {
	return size == 0 || v.content.kind != contentBlob && size <= s.inline
}

// inlineCopy returns v's inline content cut or padded to size.
func (s *Store) inlineCopy(v *inode, size int64) ([]byte, error) {
	data := make([]byte, size)
	if v.content.kind == contentInline {
		old, err := s.readInline(v)
		if err != nil {
			return nil, err
		}
		copy(data, old)
	}
	return data, nil
}

// grown records that v's blob was written in place.
func (c *change) grown(v *inode, size int64) error {
	c.bytes += size - v.Size
	v.Size = size
	v.Version++
	v.Mtime = c.now
	return nil
}

// errUnprepared says that the content may not be written in place yet.
var errUnprepared = errors.New("content is not prepared for writing")

// change runs fn with the inode locked and, if its content is or becomes a
// blob (size tells the file's size afterwards), with h.file the blob, which is
// this file's alone, has no checksums, and is durably known to have none.
func (h *Handle) change(ctx context.Context, op string, size func(*inode) int64, fn func(*change, *inode, int64) error) error {
	if h.closed.Load() {
		return fs.ErrClosed
	}
	if !h.write {
		return fmt.Errorf("%w: handle is open for reading", fs.ErrPermission)
	}
	for {
		err := h.s.change(ctx, op, []Ino{h.n.ino}, func(c *change) error {
			v, err := c.edit(h.n.ino)
			if err != nil {
				return err
			}
			c.emit(Event{Ino: v.Ino, Content: true})
			after := size(v)
			if h.s.staysInline(v, after) {
				return fn(c, v, after)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.closed.Load() {
				return fs.ErrClosed
			}
			if v.content.kind != contentBlob || v.content.sealed || v.content.blob != h.id {
				return errUnprepared
			}
			if err := h.cutTail(v.Size); err != nil {
				return err
			}
			if err := h.s.faults.hit(faultWriteContent, v.Ino); err != nil {
				return err
			}
			return fn(c, v, after)
		})
		if !errors.Is(err, errUnprepared) {
			return err
		}
		if err := h.prepare(ctx); err != nil {
			return err
		}
	}
}

// cutTail removes what a write that failed has left in the blob behind the
// file's end: a file that grows must read as zeros there. The caller holds mu.
func (h *Handle) cutTail(size int64) error {
	n, err := h.file.Size()
	if err == nil && n > size {
		err = h.file.Truncate(size)
	}
	if err != nil {
		return h.s.blobError("truncate content", err)
	}
	return nil
}

// prepare makes the file's content a blob of its own without checksums, and
// makes that durable before a byte changes: after a crash, content without
// checksums is known as such and is never mistaken for damaged.
func (h *Handle) prepare(ctx context.Context) error {
	var (
		fresh blob.ID // a blob that the change is about to refer to
		id    blob.ID // what the content is after the change
		file  blob.File

		referred = true // unless the change is certainly not made
	)
	defer func() {
		if !fresh.IsZero() {
			h.s.collector.end(fresh, !referred)
		}
	}()
	err := h.s.change(ctx, "unseal", []Ino{h.n.ino}, func(c *change) error {
		v, err := c.view(h.n.ino)
		if err != nil {
			return err
		}
		shared := int64(0)
		if v.content.kind == contentBlob {
			if shared, err = h.s.engine.Counter(blobKey(keyBlobRefs, v.content.blob)); err != nil {
				return fmt.Errorf("references of content: %w", err)
			}
		}
		if v.content.kind == contentBlob && shared <= 1 {
			id = v.content.blob
			return h.unseal(c, v, &file)
		}
		if fresh.IsZero() {
			fresh = blob.NewID()
			h.s.collector.begin(fresh)
		}
		id = fresh
		if file, err = h.copyContent(v, fresh); err != nil {
			return err
		}
		return h.swap(c, fresh)
	})
	referred = mayHaveChanged(err)
	if err != nil {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return err
	}
	if err := h.s.Sync(ctx); err != nil {
		return errors.Join(err, file.Close())
	}
	return h.adopt(id, file)
}

// unseal drops the checksums of a blob that is this file's alone.
func (h *Handle) unseal(c *change, v *inode, file *blob.File) error {
	f, err := h.s.blobs.Open(v.content.blob, true)
	if err != nil {
		return fmt.Errorf("open content: %w", err)
	}
	if *file != nil {
		(*file).Close()
	}
	*file = f
	h.s.open.unseal(v.content.blob)
	if !v.content.sealed {
		return nil
	}
	if v, err = c.edit(v.Ino); err != nil {
		return err
	}
	v.content.sealed = false
	c.put(inoKey(keyUnsealed, v.Ino), []byte{})
	return c.deletePrefix(blobKey(keySums, v.content.blob))
}

// copyContent makes a new, durable blob with v's content.
func (h *Handle) copyContent(v *inode, id blob.ID) (f blob.File, err error) {
	if err := h.s.space.take(h.s.now().UnixNano(), v.Size); err != nil {
		return nil, err
	}
	if v.content.kind == contentBlob {
		f, err = h.s.blobs.Clone(v.content.blob, id)
	} else {
		f, err = h.s.blobs.Create(id)
	}
	if err != nil {
		return nil, h.s.blobError("copy content", err)
	}
	if v.content.kind == contentInline {
		var data []byte
		if data, err = h.s.readInline(v); err == nil {
			_, err = f.WriteAt(data, 0)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(h.s.blobError("copy content", err), f.Close())
	}
	return f, nil
}

// swap makes the blob id the content of the file, without checksums.
func (h *Handle) swap(c *change, id blob.ID) error {
	v, err := c.edit(h.n.ino)
	if err != nil {
		return err
	}
	c.dropContent(v)
	v.content = content{kind: contentBlob, blob: id}
	c.refs = append(c.refs, id)
	c.put(inoKey(keyUnsealed, v.Ino), []byte{})
	return nil
}

// adopt makes file, open for the blob id, the handle's.
func (h *Handle) adopt(id blob.ID, file blob.File) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() { // meanwhile: its Close has seen no file to close, and asked for a seal too early
		h.s.collector.seal(h.n.ino)
		return errors.Join(fs.ErrClosed, file.Close())
	}
	old := h.file
	h.id, h.file = id, file
	if old != nil {
		return old.Close()
	}
	return nil
}

// Sync makes what was written so far durable, with all of the store's earlier
// changes (fsync(2)).
func (h *Handle) Sync(ctx context.Context) error {
	var cur content
	if err := h.s.readNode(ctx, "fsync", h.n, func(v *inode) error { cur = v.content; return nil }); err != nil {
		return err
	}
	// What was written through any handle counts, not only through this one.
	if cur.kind == contentBlob && !cur.sealed {
		f, err := h.s.blobs.Open(cur.blob, true)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return h.s.blobError("sync content", err)
		}
	}
	return h.s.Sync(ctx)
}

// Close closes the handle. It does not make anything durable. After the last
// writer, the content gets its checksums in the background; after the last handle
// of an unlinked file, the file is removed.
func (h *Handle) Close() error {
	if !h.closed.CompareAndSwap(false, true) {
		return fs.ErrClosed
	}
	h.mu.Lock()
	var err error
	if h.file != nil {
		err = h.file.Close()
		h.file = nil
	}
	h.mu.Unlock()
	if h.write && h.n.writers.Add(-1) == 0 {
		h.s.collector.seal(h.n.ino)
	}
	if h.n.opens.Add(-1) == 0 {
		h.s.collector.closed(h.n)
	}
	h.s.nodes.release(h.n)
	return err
}

var _ io.Closer = (*Handle)(nil)

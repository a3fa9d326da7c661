package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"engramfs/store/blob"
)

// contentClone copies inodes with their content. A blob is shared between the
// original and the copy unless somebody has it open natively, or may have it mapped
// into memory: then it stays the original's alone, and the copy gets a blob of its own.
type contentClone struct {
	s      *Store
	o      CloneOptions
	copies map[Ino]*blobCopy
	waited time.Duration // for writers
}

// blobCopy is a copy of an inode's blob, made before the change that needs it.
type blobCopy struct {
	of      content
	version uint64 // of the content
	id      blob.ID
	sums    [][2][]byte // records
	tried   bool        // the change that runs refers to it
	used    bool        // one that is, or may be, in the engine refers to it
}

// errUnready says which inode's content cannot be copied as it is.
type errUnready struct {
	ino     Ino
	native  bool // it needs a blob of its own; else it has to be sealed
	written bool // somebody has it open for writing
}

func (e *errUnready) Error() string {
	return fmt.Sprintf("content of inode %d is not ready to be copied", e.ino)
}

// A copy waits for a writer of what it copies for up to writerPatience in all: a
// kernel tells that a file was closed only some time after close(2) has returned.
const (
	writerPatience = 500 * time.Millisecond
	writerPause    = 5 * time.Millisecond
)

// change runs fn as one change, and makes content ready that turns out not to
// be: content that nobody writes to any more is sealed first, so that neither the
// original nor the copy can be mistaken for damaged.
func (k *contentClone) change(ctx context.Context, set lockSet, fn func(*change) error) error {
	for {
		err := k.s.changeLocked(ctx, "clone", set, fn)
		for _, b := range k.copies {
			b.used, b.tried = b.used || b.tried && mayHaveChanged(err), false
		}
		var un *errUnready
		switch {
		case !errors.As(err, &un):
			return err
		case un.written:
			err = errBusy
		case un.native:
			err = k.copyBlob(ctx, un.ino)
		default:
			err = k.s.sealFile(ctx, un.ino, sealOptions{})
		}
		if errors.Is(err, ErrStale) {
			err = errBusy // removed meanwhile: fn knows what that means
		}
		if errors.Is(err, errBusy) {
			if k.waited >= writerPatience {
				return fmt.Errorf("%w: inode %d is being written", ErrLocked, un.ino)
			}
			k.waited += writerPause
			select {
			case <-time.After(writerPause):
				err = nil
			case <-ctx.Done():
			}
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
}

// copyBlob makes a durable copy of the blob of ino, without a lock: change finds
// out whether it is still the content.
func (k *contentClone) copyBlob(ctx context.Context, ino Ino) error {
	var v inode
	var pin *openBlob // taken under the lock: the collector removes what was replaced since and is not open
	err := k.s.read(ctx, "clone", ino, func(cur *inode) (err error) {
		v = *cur
		if v.content.kind == contentBlob && v.content.sealed {
			pin, err = k.s.open.get(v.content.blob, ino)
		}
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrStale):
		return fmt.Errorf("%w: inode %d: content %s is missing", ErrDamaged, ino, v.content.blob)
	case err != nil || pin == nil:
		return err
	}
	defer k.s.open.put(pin)
	if err := k.s.space.take(k.s.now().UnixNano(), v.Size); err != nil {
		return err
	}
	c := &blobCopy{of: v.content, version: v.Version, id: blob.NewID()}
	k.s.collector.begin(c.id)
	if old := k.copies[ino]; old != nil {
		k.s.collector.end(old.id, !old.used)
	}
	if k.copies == nil {
		k.copies = make(map[Ino]*blobCopy)
	}
	k.copies[ino] = c
	f, err := k.s.blobs.Clone(v.content.blob, c.id)
	if err != nil {
		return k.s.blobError("copy content", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return k.s.blobError("copy content", err)
	}
	if t, ok := k.s.sealTimes(v.content.blob); ok && t.native {
		// Any write before the copy was complete has moved the time on.
		if st, ok := k.s.statBlob(v.content.blob); !ok || st.Mtime != t.mtime {
			return k.sumAgain(ctx, c)
		}
	}
	c.sums, err = k.s.sumsAs(v.content.blob, c.id)
	return err
}

// sumAgain gives the copy of a blob that was written past the store checksums of
// its own.
func (k *contentClone) sumAgain(ctx context.Context, c *blobCopy) error {
	f, err := k.s.blobs.Open(c.id, false)
	if err != nil {
		return fmt.Errorf("read the copy of content: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("read the copy of content: %w", err)
	}
	sums, err := sumBlob(ctx, f, size, nil)
	if err != nil {
		return fmt.Errorf("read the copy of content: %w", err)
	}
	for group, part := range groupsOf(sums) {
		c.sums = append(c.sums, [2][]byte{sumsKey(c.id, group), part})
	}
	return nil
}

// sumsAs returns the records of the checksums of a blob for a copy of it, which has
// times of its own.
func (s *Store) sumsAs(of, id blob.ID) (records [][2][]byte, err error) {
	prefix := blobKey(keySums, of)
	err = s.engine.Scan(prefix, prefixEnd(prefix), func(key, value []byte) bool {
		if !bytes.Equal(key, sumsKey(of, groupTimes)) {
			renamed := append(blobKey(keySums, id), key[len(prefix):]...)
			records = append(records, [2][]byte{renamed, bytes.Clone(value)})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("checksums of content %s: %w", of, err)
	}
	return records, nil
}

// close removes the blobs that no copy has come to refer to.
func (k *contentClone) close() {
	for _, b := range k.copies {
		k.s.collector.end(b.id, !b.used)
	}
}

// duplicate returns a copy of v under the number ino, without a home, and adds
// its content and extended attributes to the change. v is locked. ErrLocked: its
// content is being written.
func (k *contentClone) duplicate(c *change, v *inode, ino Ino) (*inode, error) {
	dup := *v
	dup.Ino, dup.parent, dup.name = ino, 0, ""
	dup.UID, dup.GID = k.o.UID, k.o.GID
	dup.Mode &^= modeSetuid | modeSetgid // they are not for another owner
	dup.Nlink, dup.Change, dup.Version = 1, 1, c.s.nextVersion(0)
	dup.Gen = c.s.gen
	dup.Ctime, dup.Btime = c.now, c.now
	switch {
	case dup.IsDir():
		dup.Nlink = 2
		c.dirs++
	default:
		c.files++
	}
	if dup.IsRegular() {
		c.bytes += dup.Size
	}
	if err := k.duplicateContent(c, v, &dup); err != nil {
		return nil, err
	}
	if v.HasXattrs {
		attrs, err := c.s.readXattrs(v.Ino)
		if err != nil {
			return nil, err
		}
		for name, val := range attrs {
			if name == xattrCapability { // not for another owner's copy
				continue
			}
			c.put(xattrKey(ino, name), val)
		}
	}
	return &dup, nil
}

// duplicateContent adds the content of v to the change as that of dup.
func (k *contentClone) duplicateContent(c *change, v, dup *inode) error {
	switch v.content.kind {
	case contentInline:
		b, err := c.s.readInline(v)
		if err != nil {
			return err
		}
		c.put(inoKey(keyInline, dup.Ino), b)
		return nil
	case contentNone:
		return nil
	}
	h, err := c.lookHeld(v.Ino)
	if err != nil {
		return err
	}
	if !v.content.sealed {
		if h.node.writers.Load() > 0 {
			return &errUnready{ino: v.Ino, written: true}
		}
		return &errUnready{ino: v.Ino}
	}
	if !h.node.native() && !c.s.mayBeMapped(v.content.blob) {
		c.refs = append(c.refs, v.content.blob)
		return nil
	}
	b := k.copies[v.Ino]
	if b == nil || b.of != v.content || b.version != v.Version {
		return &errUnready{ino: v.Ino, native: true}
	}
	b.tried = true
	c.relabel(dup.Ino)
	dup.content.blob = b.id
	c.refs = append(c.refs, b.id)
	for _, r := range b.sums {
		c.put(r[0], r[1])
	}
	return nil
}

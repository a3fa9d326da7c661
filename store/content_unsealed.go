package store

import (
	"context"
	"fmt"
	"hash/crc32"

	"engramfs/store/blob"
)

// comparable reports whether something is known of what nobody has written of content
// without checksums since it had some.
func (c *Content) comparable() bool {
	n := c.remembered()
	if n != nil {
		c.s.nodes.release(n)
	}
	return n != nil
}

// remembered returns the node, until release, of content of which comparable is true,
// else nil.
func (c *Content) remembered() *node {
	n, err := c.s.nodes.acquire(c.attr.Ino)
	if err != nil {
		return nil
	}
	if !n.share().recall(c.s, n.ino, c.blob.id) {
		c.s.nodes.release(n)
		return nil
	}
	return n
}

// unsealedBytes returns how many of the n bytes that were read into p, from start on, of
// a blob without checksums may be used, and an error if that is not all of p.
func (c *Content) unsealedBytes(p []byte, n int, start int64) (int, error) {
	n, err := c.cut(n, len(p), start)
	good, verr := c.verifyOld(p[:n], start)
	if verr != nil {
		return good, verr
	}
	return n, err
}

// verifyOld holds those whole blocks of p, read from start on, that nobody has written
// since the blob lost its checksums against these. It returns how many bytes before the
// first bad block p has. That nobody has is asked after the reading: a write says so
// before it begins.
func (c *Content) verifyOld(p []byte, start int64) (good int, err error) {
	if start%blockSize != 0 || len(p) < blockSize && (len(p) == 0 || start+int64(len(p)) != c.attr.Size) {
		return len(p), nil // it has no whole block
	}
	n := c.remembered()
	if n == nil {
		return len(p), nil
	}
	defer c.s.nodes.release(n)
	for good < len(p) {
		end := min(good+blockSize, len(p))
		block := (start + int64(good)) / blockSize
		if end-good == blockSize || start+int64(end) == c.attr.Size {
			if err := c.verifyUntouched(n, p[good:end], block); err != nil {
				return good, err
			}
		}
		good = end
	}
	return good, nil
}

// verifyUntouched holds a block against its old sum, unless somebody has written to it.
func (c *Content) verifyUntouched(n *node, p []byte, block int64) error {
	b, id := n.share(), c.blob.id
	if !b.untouched(id, block) {
		return nil
	}
	want, ok, err := oldSum(c.s.engine, id, block)
	if err != nil || !ok || crc32.Checksum(p, castagnoli) == want {
		return err
	}
	if f, ok := c.blob.file.(blob.Stater); ok && b.isLent(id) {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		b.stands(id, st)
	}
	if !b.untouched(id, block) { // since we looked, or the sum is a new one
		return nil
	}
	if len(p) < blockSize { // the end of the file when it was opened: the sum may be of more, or of less
		var size int64
		err := c.s.readNode(context.Background(), "content", n, func(v *inode) error { size = v.Size; return nil })
		if err != nil || size != c.attr.Size {
			return err
		}
	}
	return fmt.Errorf("%w: content %s: checksum of block %d", ErrDamaged, id, block)
}

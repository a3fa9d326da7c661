package store

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"syscall"
	"unsafe"

	"engramfs/store/blob"
)

// scrubStep is how many bytes a scrub reads at a time.
const scrubStep = 1 << 20

// alignedBuffer returns n bytes that begin a page, so that they can be read into
// without the page cache.
func alignedBuffer(n int) []byte {
	page := os.Getpagesize()
	b := make([]byte, n+page)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	return b[skip : skip+n : skip+n]
}

// openDirect opens a blob for reading past the caches, if the backend can.
func (s *Store) openDirect(id blob.ID) (blob.File, error) {
	if d, ok := s.blobs.(blob.DirectOpener); ok {
		return d.OpenDirect(id)
	}
	return s.blobs.Open(id, false)
}

// scrubFile is the content of one file under a scrub.
type scrubFile struct {
	w     *scrubWalk
	v     *inode
	f     blob.File
	begin int64 // where this walk begins

	group int64  // of sums; -1: none
	sums  []byte // of group

	digests *scrubDigest // nil: none

	bad      int64 // blocks
	overtook bool  // the content was changed meanwhile: what was read proves nothing
}

// content reads a file's blob against its checksums. An error is one of ctx; all
// others are damage.
func (w *scrubWalk) content(ctx context.Context, v *inode) error {
	if !v.content.sealed {
		w.skip(v)
		return nil
	}
	refs, err := w.s.engine.Counter(blobKey(keyBlobRefs, v.content.blob))
	isShared := err == nil && refs > 1
	if _, ok := w.shared[v.content.blob]; ok && isShared {
		w.count(func(r *ScrubRun) { r.Files, r.Done = r.Files+1, r.Done+v.Size })
		w.s.damages.sound(v)
		return nil
	}
	f, err := w.s.openDirect(v.content.blob)
	if err != nil {
		w.unopened(v, err)
		return nil
	}
	defer f.Close() // it was only read
	c := &scrubFile{w: w, v: v, f: f, group: -1}
	if w.cursor.Blob == v.content.blob.String() && w.cursor.Version == v.Version {
		c.begin = w.cursor.Offset
	}
	if c.digests, err = newScrubDigest(c); err != nil {
		w.s.log.Warn("digests of content not looked at", "ino", v.Ino, "err", err)
	}
	if err := c.read(ctx); err != nil {
		return err
	}
	if c.bad == 0 && !c.overtook {
		c.digest(ctx)
	}
	switch {
	case c.overtook:
		w.skip(v)
		return nil
	case c.bad == 0 && c.begin == 0:
		w.s.damages.sound(v)
		if isShared && len(w.shared) < scrubShared {
			w.shared[v.content.blob] = struct{}{}
		}
	}
	w.count(func(r *ScrubRun) {
		r.Files++
		if c.bad > 0 {
			r.Damaged++
		}
	})
	if err := w.s.checkLabel(v, f); err != nil {
		w.s.log.Warn("label of content not looked at", "ino", v.Ino, "err", err)
	}
	return nil
}

func (w *scrubWalk) skip(v *inode) {
	w.count(func(r *ScrubRun) { r.Skipped, r.Done = r.Skipped+1, min(r.Done+v.Size, max(r.Total, r.Done)) })
}

// unopened notes content that cannot be had.
func (w *scrubWalk) unopened(v *inode, err error) {
	if !w.is(v) {
		w.skip(v)
		return
	}
	missing := errors.Is(err, fs.ErrNotExist)
	if !missing && !isDiskError(err) { // too many open files, say: that is not the content's fault
		w.s.log.Warn("content not scrubbed", "ino", v.Ino, "err", err)
		w.skip(v)
		return
	}
	err = fmt.Errorf("%w: inode %d: content %s: %w", ErrDamaged, v.Ino, v.content.blob, err)
	w.count(func(r *ScrubRun) {
		r.Files++
		r.Missing++
		r.Done += v.Size
		r.problem("%v", err)
	})
	w.s.damages.note(Damage{
		Ino: v.Ino, Version: v.Version, Kind: DamagedMissing, Length: v.Size, Source: DamageByScrub,
		At: w.s.now(), Err: err.Error(), blob: v.content.blob,
	})
}

// read goes through the content from begin on.
func (c *scrubFile) read(ctx context.Context) error {
	for off := c.begin; off < c.v.Size && !c.overtook; {
		n, err := c.step(ctx, off)
		if err != nil {
			return err
		}
		off += n
		c.w.cursor.Blob, c.w.cursor.Offset, c.w.cursor.Hashes = c.v.content.blob.String(), off, c.digests.save()
		c.w.cursor.Version = c.v.Version
		c.w.saveNow(c.w.s.now())
	}
	return nil
}

// step checks the next piece, and returns its length.
func (c *scrubFile) step(ctx context.Context, off int64) (int64, error) {
	n := min(scrubStep, c.v.Size-off)
	if hole := c.hole(off); hole >= min(blockSize, c.v.Size-off) {
		n = hole
		if off+hole < c.v.Size {
			n = hole / blockSize * blockSize
		}
		n = min(n, groupSums*blockSize) // what is counted at once
		return n, errors.Join(c.blocks(off, n, nil), ctx.Err())
	}
	if err := c.w.pace.wait(ctx, n); err != nil {
		return 0, err
	}
	// The whole buffer: a direct read wants whole pages.
	m, err := c.f.ReadAt(c.w.buf, off)
	if int64(m) < n && err != nil && !errors.Is(err, io.EOF) {
		m = c.readBlocks(off, n)
	}
	c.w.sinceSave += n
	return n, c.blocks(off, n, c.w.buf[:min(int64(m), n)])
}

// readBlocks reads block by block what could not be read at once. What cannot be read
// is made to fail its checksum: reading it again gives the error.
func (c *scrubFile) readBlocks(off, n int64) int {
	for at := int64(0); at < n; at += blockSize {
		p := c.w.buf[at:min(at+blockSize, n)]
		if m, err := c.f.ReadAt(p, off+at); err != nil && m < len(p) {
			for i := range p {
				p[i] = 0xdb
			}
		}
	}
	return int(n)
}

// hole returns how many bytes from off on are in a hole.
func (c *scrubFile) hole(off int64) int64 {
	sp, ok := c.f.(blob.Sparse)
	if !ok || !c.v.Sparse {
		return 0
	}
	data, err := sp.SeekData(off)
	switch {
	case errors.Is(err, io.EOF):
		if size, err := c.f.Size(); err != nil || size < c.v.Size {
			return 0 // it ends too early
		}
		return c.v.Size - off
	case err != nil:
		return 0
	}
	return min(data, c.v.Size) - off
}

var zeroBlockSum = crc32.Checksum(zeros[:blockSize], castagnoli)

// blocks checks n bytes from off on, of which p was read; nil: they are a hole.
func (c *scrubFile) blocks(off, n int64, p []byte) error {
	var good, goodBlocks int64
	for at := int64(0); at < n && !c.overtook; at += blockSize {
		size := min(blockSize, n-at)
		want, err := c.sum((off + at) / blockSize)
		if err == nil {
			err = c.compare(want, at, size, p)
		}
		if err != nil {
			if err = c.confirm(off+at, size); err != nil {
				c.damaged(off+at, size, err)
				continue
			}
			c.digests.giveUp() // p has other bytes
		}
		good, goodBlocks = good+size, goodBlocks+1
	}
	if c.overtook {
		return nil
	}
	c.digests.write(p, n)
	c.w.count(func(r *ScrubRun) {
		r.Done += n
		r.Bytes += good
		r.Blocks += goodBlocks
	})
	return nil
}

var errChecksum = errors.New("checksum differs")

// compare holds the block at at of what was read against its sum.
func (c *scrubFile) compare(want uint32, at, size int64, p []byte) error {
	have := zeroBlockSum
	switch {
	case p == nil && size < blockSize:
		have = crc32.Checksum(zeros[:size], castagnoli)
	case p != nil && at+size > int64(len(p)):
		return io.ErrUnexpectedEOF
	case p != nil:
		have = crc32.Checksum(p[at:at+size], castagnoli)
	}
	if have != want {
		return errChecksum
	}
	return nil
}

// sum returns the checksum of a block.
func (c *scrubFile) sum(block int64) (uint32, error) {
	if group := int64(groupOf(block)); group != c.group {
		sums, err := readGroup(c.w.s.engine, c.v.content.blob, groupOf(block))
		if err != nil {
			return 0, err
		}
		c.group, c.sums = group, sums
	}
	sum, ok := sumIn(c.sums, block)
	if !ok {
		return 0, errors.New("there is no checksum")
	}
	return sum, nil
}

// confirm returns nil if a block that was found bad is not: the content was
// changed meanwhile, which sets overtook, or it is read right through another
// descriptor, as after an error of the reading and not of the disk.
func (c *scrubFile) confirm(off, size int64) error {
	if !c.w.is(c.v) || c.writtenLate() {
		c.overtook = true
		return nil
	}
	f, err := c.w.s.openDirect(c.v.content.blob)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	c.group = -1
	want, err := c.sum(off / blockSize)
	if err != nil {
		return err
	}
	p := alignedBuffer(blockSize)
	n, rerr := f.ReadAt(p, off)
	err = c.compare(want, 0, size, p[:min(int64(n), size)])
	if errors.Is(err, io.ErrUnexpectedEOF) && rerr != nil && !errors.Is(rerr, io.EOF) {
		err = rerr
	}
	if err == nil {
		c.w.s.log.Warn("block was right when it was read again", "ino", c.v.Ino, "blob", c.v.content.blob, "offset", off)
		return nil
	}
	if !c.w.is(c.v) || c.writtenLate() {
		c.overtook = true
		return nil
	}
	return err
}

// writtenLate asks whether the blob is newer than its checksums, and then has it
// sealed again.
func (c *scrubFile) writtenLate() bool {
	k := Content{s: c.w.s, attr: c.v.Attr, sealed: true, blob: &openBlob{id: c.v.content.blob, file: c.f}}
	return k.writtenLate()
}

func (c *scrubFile) damaged(off, size int64, err error) {
	c.bad++
	c.digests.giveUp()
	block := off / blockSize
	err = fmt.Errorf("%w: content %s: block %d: %w", ErrDamaged, c.v.content.blob, block, err)
	c.w.count(func(r *ScrubRun) {
		r.CorruptBlocks++
		r.CorruptBytes += size
		r.problem("inode %d at %d: %v", c.v.Ino, off, err)
	})
	c.w.s.damages.note(Damage{
		Ino: c.v.Ino, Version: c.v.Version, Offset: off, Length: size, Source: DamageByScrub, At: c.w.s.now(), Err: err.Error(), blob: c.v.content.blob,
	})
}

// isDiskError tells what the disk has lost from what the machine lacks.
func isDiskError(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EUCLEAN) || errors.Is(err, syscall.EBADMSG)
}

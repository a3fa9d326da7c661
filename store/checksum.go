package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"iter"
	"math"
	"slices"
	"sync"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// Content outside the engine is checksummed in blocks: CRC32C (Castagnoli), kept
// in the engine, away from the data. A record holds the sums of a group of blocks.
const (
	blockSize  = 64 << 10
	groupSums  = 4096 // blocks of a group: 256 MiB
	sumSize    = 4
	streamSize = 4 * blockSize // what is read, verified and sent at a time
)

// Groups from otherGroups on have records of something else than sums. No blob has as
// many groups.
const (
	otherGroups = 0xffff0000
	// groupDigests has the digests of the whole blob. It is removed when the blob is
	// unsealed, which its sums outlive, and is copied with them.
	groupDigests = math.MaxUint32 - 1
	// groupTimes has the times that the blob had when it was sealed.
	groupTimes = math.MaxUint32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// buffers are streamSize long.
var buffers = sync.Pool{New: func() any { b := make([]byte, streamSize); return &b }}

// summer computes the sums of content as it streams in.
type summer struct {
	sums []byte
	cur  uint32 // of the block that is not full yet
	n    int    // bytes in it
}

func (m *summer) write(p []byte) {
	for len(p) > 0 {
		take := min(blockSize-m.n, len(p))
		m.cur = crc32.Update(m.cur, castagnoli, p[:take])
		p = p[take:]
		if m.n += take; m.n == blockSize {
			m.flush()
		}
	}
}

func (m *summer) flush() {
	m.sums = binary.LittleEndian.AppendUint32(m.sums, m.cur)
	m.cur, m.n = 0, 0
}

// done returns the sums of all blocks, the last one shorter than the others.
func (m *summer) done() []byte {
	if m.n > 0 {
		m.flush()
	}
	return m.sums
}

// putSums adds the sums of a blob to the change.
func (c *change) putSums(id blob.ID, sums []byte) {
	for group, part := range groupsOf(sums) {
		c.put(sumsKey(id, group), part)
	}
}

// groupsOf splits the sums of a blob into groups.
func groupsOf(sums []byte) iter.Seq2[uint32, []byte] {
	return func(yield func(uint32, []byte) bool) {
		group := uint32(0)
		for part := range slices.Chunk(sums, groupSums*sumSize) {
			if !yield(group, part) {
				return
			}
			group++
		}
	}
}

// groupOf returns the number of the group that has the sum of a block.
func groupOf(block int64) uint32 { return uint32(block / groupSums) }

// readGroup returns the record of a group; nil if there is none.
func readGroup(r meta.Reader, id blob.ID, group uint32) ([]byte, error) {
	record, err := r.Get(sumsKey(id, group))
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("checksums of content %s: %w", id, err)
	}
	return record, nil
}

// sumIn returns the sum of a block from the record of its group; false if that does
// not have it.
func sumIn(group []byte, block int64) (sum uint32, ok bool) {
	at := int(block%groupSums) * sumSize
	if at+sumSize > len(group) {
		return 0, false
	}
	return binary.LittleEndian.Uint32(group[at:]), true
}

// sumsLength returns how long the sums of size bytes are.
func sumsLength(size int64) int { return int((size + blockSize - 1) / blockSize * sumSize) }

// readPieces calls fn with the first size bytes of f, in order and in pieces; buffer
// returns where to read the next one into. io.ErrUnexpectedEOF: there are fewer bytes.
func readPieces(f io.ReaderAt, size int64, buffer func() []byte, fn func(p []byte) error) error {
	for off := int64(0); off < size; {
		buf := buffer()
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := fn(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// sumBlob reads the first size bytes of a blob and returns the sums of its blocks. All
// of them are written to digest, too, unless it is nil.
func sumBlob(ctx context.Context, f io.ReaderAt, size int64, digest hash.Hash) ([]byte, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var m summer
	err := readPieces(f, size, func() []byte { return *buf }, func(p []byte) error {
		m.write(p)
		if digest != nil {
			digest.Write(p) // never fails, see hash.Hash
		}
		return ctx.Err()
	})
	return m.done(), err
}

// group returns the record of a group; nil if there is none.
func (b *openBlob) group(r meta.Reader, group uint32) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	record, ok := b.sums[group]
	if ok {
		return record, nil
	}
	record, err := readGroup(r, b.id, group)
	if err == nil {
		b.sums[group] = record
	}
	return record, err
}

// sum returns the checksum of a block.
func (b *openBlob) sum(r meta.Reader, block int64) (uint32, error) {
	group, err := b.group(r, groupOf(block))
	if err != nil {
		return 0, err
	}
	sum, ok := sumIn(group, block)
	if !ok {
		return 0, fmt.Errorf("%w: content %s has no checksum for block %d", ErrDamaged, b.id, block)
	}
	return sum, nil
}

// verify checks whole blocks, the first being the number first, against their
// sums. The last block of the blob may be shorter. It returns how many bytes of
// good blocks p begins with.
func (b *openBlob) verify(r meta.Reader, first int64, p []byte) (good int, err error) {
	for good < len(p) {
		block := p[good:min(good+blockSize, len(p))]
		want, err := b.sum(r, first+int64(good/blockSize))
		if err != nil {
			return good, err
		}
		if crc32.Checksum(block, castagnoli) != want {
			return good, fmt.Errorf("%w: content %s: checksum of block %d", ErrDamaged, b.id, first+int64(good/blockSize))
		}
		good += len(block)
	}
	return good, nil
}

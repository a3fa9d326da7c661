package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
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

// sum returns the checksum of a block.
func (b *openBlob) sum(r meta.Reader, block int64) (uint32, error) {
	group, at := uint32(block/groupSums), int(block%groupSums)*sumSize
	b.mu.Lock()
	defer b.mu.Unlock()
	sums, ok := b.sums[group]
	if !ok {
		v, err := r.Get(sumsKey(b.id, group))
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			return 0, fmt.Errorf("checksums of content %s: %w", b.id, err)
		}
		sums = v
		b.sums[group] = sums
	}
	if at+sumSize > len(sums) {
		return 0, fmt.Errorf("%w: content %s has no checksum for block %d", ErrDamaged, b.id, block)
	}
	return binary.LittleEndian.Uint32(sums[at:]), nil
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

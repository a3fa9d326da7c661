package store

import (
	"fmt"
	"hash/crc32"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// touched knows which blocks of a blob were written through the store since the
// blob lost its checksums. The old checksums stay in the engine until there are new
// ones, and the blocks that nobody wrote are held against them: writing to a file
// must not make damage in the rest of it look sound.
//
// A blob that was lent to a kernel counts as written as a whole once it has another
// size or time of its last write. What is known survives a restart as an unsealedMark.
type touched struct {
	id     blob.ID
	blocks map[int64]uint64 // a bit for each block
	// size is what the blob had when counting began: what is behind it has no old
	// checksums, or was counted before.
	size int64
	// lent: others may write to the blob. It was as as says when that began.
	lent bool
	as   blob.Stat
}

// add counts the blocks that hold the bytes from from to to, and returns those that it
// had not counted before.
func (t *touched) add(from, to int64) (added []int64) {
	for b := from / blockSize; b*blockSize < to; b++ {
		if !t.has(b) {
			t.blocks[b/64] |= 1 << (b % 64)
			added = append(added, b)
		}
	}
	return added
}

func (t *touched) has(block int64) bool { return t.blocks[block/64]&(1<<(block%64)) != 0 }

// trace begins to count what is written to the blob id of size bytes.
func (b *body) trace(id blob.ID, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.touched, b.recalled = &touched{id: id, blocks: make(map[int64]uint64), size: size}, id
}

// untrace ends that.
func (b *body) untrace() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.touched = nil
}

// touch counts what is about to be written to the blob id, and returns the blocks that
// were not counted before.
func (b *body) touch(id blob.ID, from, to int64) (added []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.touched == nil || b.touched.id != id {
		return nil
	}
	return b.touched.add(from, min(to, b.touched.size))
}

// untouch takes back the blocks of the blob id that begin at the offset or later: nothing
// was written there.
func (b *body) untouch(id blob.ID, blocks []int64, from int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.touched == nil || b.touched.id != id {
		return
	}
	for _, block := range blocks {
		if block*blockSize >= from {
			b.touched.blocks[block/64] &^= 1 << (block % 64)
		}
	}
}

// lend notes that others than the store may write to the open blob from now on, which
// its times tell or do not. The caller holds the inode's lock for writing.
func (b *body) lend(timesTell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.touched
	if t == nil || t.lent {
		return
	}
	st, ok := b.statLocked()
	if !timesTell || !ok || b.file.id != t.id || !settledTime(st) {
		b.touched = nil
		return
	}
	t.lent, t.as = true, st
}

// isLent reports whether others than the store may write to the blob id, and what is
// known of it rests on its times.
func (b *body) isLent(id blob.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.touched != nil && b.touched.id == id && b.touched.lent
}

// stands gives up what is known of the blob id if it was lent, and is, as st, not what
// it was then.
func (b *body) stands(id blob.ID, st blob.Stat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.touched; t != nil && t.id == id && t.lent && !sameWrite(t.as, st) {
		b.touched = nil
	}
}

// untouched reports whether the block is known to be as it was when the blob id
// lost its checksums.
func (b *body) untouched(id blob.ID, block int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.touched != nil && b.touched.id == id && !b.touched.has(block)
}

// traces reports whether what is written to the blob id is counted.
func (b *body) traces(id blob.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.touched != nil && b.touched.id == id
}

// touch counts what e is about to write to v's blob, to be after bytes long, and returns
// the blocks that were not counted before. Blocks that it writes a part of are verified
// before: new sums of them would be those of the rest, too. ErrDamaged: one is not what
// it was.
func (h *Handle) touch(b *body, v *inode, f *writeFile, e *edit, after int64) (added []int64, err error) {
	if b.isLent(f.id) {
		b.untrace() // the times that it rests on are about to change
	}
	if !b.traces(f.id) {
		return nil, nil
	}
	from, to := e.from, min(e.to, max(v.Size, after))
	cuts := []int64{from}
	if to < v.Size {
		cuts = append(cuts, to)
	}
	if after != v.Size { // the last block gets another length
		cut := min(after, v.Size)
		if whole := from <= cut/blockSize*blockSize && to >= v.Size; !whole {
			cuts = append(cuts, cut)
		}
	}
	for _, off := range cuts {
		if err := h.verifyCut(b, v, f, off); err != nil {
			return nil, err
		}
	}
	if after != v.Size {
		added = b.touch(f.id, min(after, v.Size), max(after, v.Size))
	}
	return append(added, b.touch(f.id, from, to)...), nil
}

// verifyCut verifies the block of v's blob that has bytes before the offset, and is
// not whole before it, unless somebody has written to the block.
func (h *Handle) verifyCut(b *body, v *inode, f *writeFile, off int64) error {
	block := off / blockSize
	if off%blockSize == 0 || off > v.Size || !b.untouched(f.id, block) {
		return nil
	}
	want, ok, err := oldSum(h.s.engine, f.id, block)
	if err != nil || !ok {
		return err
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	p := (*buf)[:min(blockSize, v.Size-block*blockSize)]
	n, err := f.ReadAt(p, block*blockSize)
	if n == len(p) && crc32.Checksum(p, castagnoli) == want {
		return nil
	}
	if n == len(p) {
		err = fmt.Errorf("checksum of block %d", block)
	}
	err = fmt.Errorf("%w: content %s: %w", ErrDamaged, f.id, err)
	h.s.damages.note(Damage{Ino: v.Ino, Version: v.Version, Offset: block * blockSize, At: h.s.now(), Err: err.Error(), blob: f.id})
	return err
}

// oldSum returns the sum that the block had when the blob last had checksums;
// false if it had none.
func oldSum(r meta.Reader, id blob.ID, block int64) (sum uint32, ok bool, err error) {
	sums, err := readGroup(r, id, groupOf(block))
	if err != nil {
		return 0, false, err
	}
	sum, ok = sumIn(sums, block)
	return sum, ok, nil
}

// keepOld puts the old sums of blocks that nobody wrote in the place of new ones
// that differ, and returns these blocks: they are damaged, and stay so.
func (b *body) keepOld(r meta.Reader, id blob.ID, sums []byte) (damaged []int64, err error) {
	if !b.traces(id) {
		return nil, nil
	}
	for group, part := range groupsOf(sums) {
		old, err := readGroup(r, id, group)
		if err != nil {
			return nil, err
		}
		for at := 0; at+sumSize <= min(len(part), len(old)); at += sumSize {
			block := int64(group)*groupSums + int64(at/sumSize)
			if [sumSize]byte(part[at:]) != [sumSize]byte(old[at:]) && b.untouched(id, block) {
				copy(part[at:at+sumSize], old[at:])
				damaged = append(damaged, block)
			}
		}
	}
	return damaged, nil
}

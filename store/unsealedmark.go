package store

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// unsealedMark is the record of an unsealed file: how its blob is written, and which
// blocks of it are still what its old checksums are of, as long as the blob has the
// size and the time of the last write that the mark has. After a power cut that proves
// nothing: bytes may have reached the disk, and the time of their write not.
type unsealedMark struct {
	native bool // past the store: its blob has the size
	known  bool // the fields below mean something
	// final: everything was on the disk when the mark was made, and nobody could write
	// any more, so that it also holds after a power cut.
	final   bool
	as      blob.Stat // size and time
	written map[int64]uint64
}

// maxMarkRuns bounds the runs of written blocks in a mark. More are not kept: what
// nobody wrote is then not known after a restart.
const maxMarkRuns = 4096

const markFinal = 1 // a flag of the record

// append appends the record: how the blob is written, and if more is known, the
// flags, the time, the size, and the runs of written blocks, each as its distance from
// the one before and its length.
func (m *unsealedMark) append(b []byte) []byte {
	how := writtenHere
	if m.native {
		how = writtenNative
	}
	b = append(b, how)
	if !m.known {
		return b
	}
	var flags byte
	if m.final {
		flags = markFinal
	}
	full := append(b, flags)
	full = binary.LittleEndian.AppendUint64(full, uint64(m.as.Mtime))
	full = binary.LittleEndian.AppendUint64(full, uint64(m.as.Size))
	runs, next, end := 0, int64(0), int64(-1)
	from := int64(0)
	flush := func() {
		if end < 0 {
			return
		}
		full = binary.AppendUvarint(full, uint64(from-next))
		full = binary.AppendUvarint(full, uint64(end-from))
		next, runs = end, runs+1
	}
	for _, word := range slices.Sorted(maps.Keys(m.written)) {
		bits := m.written[word]
		if bits == math.MaxUint64 && end == word*64 {
			end += 64
			continue
		}
		for bit := range int64(64) {
			block := word*64 + bit
			switch {
			case bits&(1<<bit) == 0:
			case block == end:
				end++
			default:
				flush()
				from, end = block, block+1
			}
		}
		if runs >= maxMarkRuns {
			return b
		}
	}
	flush()
	return full
}

// decodeMark decodes what append has written. What makes no sense says nothing.
func decodeMark(b []byte) unsealedMark {
	if len(b) == 0 {
		return unsealedMark{}
	}
	m := unsealedMark{native: b[0] == writtenNative}
	if len(b) < 18 {
		return m
	}
	known := m
	known.known, known.final = true, b[1]&markFinal != 0
	known.as.Mtime = int64(binary.LittleEndian.Uint64(b[2:]))
	known.as.Size = int64(binary.LittleEndian.Uint64(b[10:]))
	t := touched{blocks: make(map[int64]uint64)}
	for at, b := uint64(0), b[18:]; len(b) > 0; {
		skip, n := binary.Uvarint(b)
		if n <= 0 {
			return m
		}
		length, k := binary.Uvarint(b[n:])
		const most = MaxFileSize / blockSize
		if k <= 0 || skip > most || length > most || at+skip+length > most {
			return m
		}
		at += skip
		t.add(int64(at)*blockSize, int64(at+length)*blockSize)
		at += length
		b = b[n+k:]
	}
	known.written = t.blocks
	return known
}

func (s *Store) unsealedMark(ino Ino) (unsealedMark, error) {
	b, err := s.engine.Get(inoKey(keyUnsealed, ino))
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return unsealedMark{}, err
	}
	return decodeMark(b), nil
}

// settledTime reports whether every write from now on gives the blob another time
// than st has.
func settledTime(st blob.Stat) bool {
	return time.Since(time.Unix(0, st.Mtime)) >= clockTick
}

// sameWrite reports whether two looks at a blob found the same last write.
func sameWrite(a, b blob.Stat) bool { return a.Size == b.Size && a.Mtime == b.Mtime }

// mark returns the mark of the blob id, which f is open on, as it is now. The caller
// holds the inode's lock for writing.
func (b *body) mark(id blob.ID, f blob.File) unsealedMark {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, t := unsealedMark{native: b.marked == id}, b.touched
	stater, ok := f.(blob.Stater)
	if !ok || t == nil || t.id != id {
		return m
	}
	st, err := stater.Stat()
	if err != nil || !settledTime(st) || t.lent && !sameWrite(t.as, st) {
		return m
	}
	m.native = m.native || t.lent
	m.known, m.as, m.written = true, st, maps.Clone(t.blocks)
	return m
}

// recall finds out, if that is possible, which blocks of the unsealed blob id nobody has
// written since it had checksums, where that was begun to be counted in an earlier
// life of the node. It reports whether it is known.
func (b *body) recall(s *Store, ino Ino, id blob.ID) bool {
	b.mu.Lock()
	done := b.recalled == id
	b.mu.Unlock()
	if done || s.writable() != nil {
		return b.traces(id)
	}
	if !b.prepare.TryLock() { // somebody is about to write, or asks while he is
		return b.traces(id)
	}
	defer b.prepare.Unlock()
	b.recallLocked(s, ino, id)
	return b.traces(id)
}

// recallLocked is recall for who holds prepare.
func (b *body) recallLocked(s *Store, ino Ino, id blob.ID) unsealedMark {
	m, err := s.unsealedMark(ino)
	if err != nil {
		return unsealedMark{}
	}
	holds := false
	if m.known {
		var st blob.Stat
		st, holds = s.statBlob(id)
		holds = holds && sameWrite(m.as, st)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recalled == id {
		return m
	}
	b.recalled = id
	if holds && b.ready != id {
		b.touched = &touched{id: id, blocks: m.written, size: m.as.Size, lent: m.native, as: m.as}
	}
	return m
}

// keepTouched puts into the engine what is known of the blocks that were written
// since the content of n lost its checksums, for a later run. final: it is synced,
// and nobody writes to it any more.
func (s *Store) keepTouched(ctx context.Context, n *node, final bool) {
	err := s.tryKeepTouched(ctx, n, final)
	if err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrPoisoned) {
		s.log.Warn("what was written in place is not known to the next run", "ino", n.ino, "err", err)
	}
}

func (s *Store) tryKeepTouched(ctx context.Context, n *node, final bool) error {
	v, err := s.snapshot(ctx, "keep_touched", n)
	if err != nil || v.content.kind != contentBlob || v.content.sealed || v.content.fresh {
		return err
	}
	id, b := v.content.blob, n.share()
	if !b.recall(s, n.ino, id) {
		return nil
	}
	f, err := s.blobs.Open(id, false)
	if err != nil {
		return err
	}
	defer f.Close() // it is only looked at
	for again := final; ; again = false {
		known := false
		err := s.changeLocked(ctx, "keep_touched", lockSet{write: []Ino{n.ino}, background: true}, func(c *change) error {
			cur, err := c.view(n.ino)
			if err != nil || cur.content != v.content {
				return err
			}
			m := b.mark(id, f)
			m.final = final && !m.native && n.writers.Load() == 0 // else a mapping may be left, or it is written again
			if m.known {
				c.put(inoKey(keyUnsealed, n.ino), m.append(nil))
			}
			known = m.known
			return nil
		})
		if err != nil || known || !again {
			return err
		}
		time.Sleep(clockTick) // it was written just now
	}
}

// markOpen is mark for a blob that is open for writing.
func (b *body) markOpen(id blob.ID) unsealedMark {
	if f := b.use(id); f != nil {
		m := b.mark(id, f.File)
		_ = b.done(f) // it was only looked at, and others have it open
		return m
	}
	return unsealedMark{}
}

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

const (
	// scrubRecords and scrubRecordBytes bound the records that are held in memory.
	scrubRecords     = 256
	scrubRecordBytes = 1 << 20
	// scrubSave and scrubSaveBytes are how far a scrub comes at most before its
	// cursor is kept: that much is read again after a crash.
	scrubSave      = 5 * time.Second
	scrubSaveBytes = 64 << 20
	// scrubShared is how many blobs that several files share are remembered, so
	// that they are read once.
	scrubShared = 1 << 16
)

// scrubWalk goes through the store once.
type scrubWalk struct {
	k      *scrubber
	s      *Store
	pace   *pacer
	cursor scrubCursor
	shared map[blob.ID]struct{} // found right in this walk
	buf    []byte

	saved     time.Time
	sinceSave int64 // bytes
}

func newScrubWalk(k *scrubber) *scrubWalk {
	w := &scrubWalk{k: k, s: k.s, pace: newPacer(k), shared: make(map[blob.ID]struct{}), buf: alignedBuffer(scrubStep), saved: k.s.now()}
	w.cursor = k.state.Cursor // nobody else changes it while a scrub runs
	return w
}

func (w *scrubWalk) walk(ctx context.Context) error {
	for {
		records, err := w.records()
		if err != nil {
			w.count(func(r *ScrubRun) {
				r.BadRecords++
				r.problem("the engine cannot be read behind the key %q: %v", w.cursor.Key, err)
			})
			return fmt.Errorf("read the engine: %w", err)
		}
		if len(records) == 0 {
			return nil
		}
		for _, rec := range records {
			if err := w.record(ctx, rec.key, rec.value); err != nil {
				w.save()
				return err
			}
			w.cursor = scrubCursor{Key: append(rec.key, 0)}
			w.count(func(r *ScrubRun) { r.Records++ })
			w.saveNow(w.s.now())
		}
		n := int64(0)
		for _, rec := range records {
			n += int64(len(rec.key) + len(rec.value))
		}
		if err := w.pace.wait(ctx, n); err != nil {
			w.save()
			return err
		}
	}
}

// records returns the next records of the engine.
func (w *scrubWalk) records() (records []write, err error) {
	n := 0
	err = w.s.engine.Scan(w.cursor.Key, nil, func(key, value []byte) bool {
		records = append(records, write{bytes.Clone(key), bytes.Clone(value)})
		n += len(key) + len(value)
		return len(records) < scrubRecords && n < scrubRecordBytes
	})
	return records, err
}

// count changes the run's figures, and the totals with them.
func (w *scrubWalk) count(fn func(*ScrubRun)) {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	r, t := w.k.state.Run, &w.k.totals
	old := *r
	fn(r)
	t.Blocks += r.Blocks - old.Blocks
	t.CorruptBlocks += r.CorruptBlocks - old.CorruptBlocks
	t.MissingFiles += r.Missing - old.Missing
	t.Bytes += r.Bytes - old.Bytes
	t.CorruptBytes += r.CorruptBytes - old.CorruptBytes
}

// saveNow keeps the cursor if it is time.
func (w *scrubWalk) saveNow(now time.Time) {
	if w.sinceSave >= w.k.step || now.Sub(w.saved) >= scrubSave {
		w.save()
	}
}

func (w *scrubWalk) save() {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	w.k.state.Cursor = w.cursor
	w.k.save()
	w.saved, w.sinceSave = w.s.now(), 0
}

// record looks at one record of the engine, and at the content that it names.
func (w *scrubWalk) record(ctx context.Context, key, value []byte) error {
	err := decodes(w.s.engine, key, value)
	if err != nil && !w.stillThere(key, value) {
		return nil
	}
	if key[0] != keyInode {
		if err != nil {
			w.badRecord(key, err)
		}
		return nil
	}
	ino := inoOfKey(key)
	v, err := decodeInode(ino, value)
	if err != nil {
		w.badRecord(key, err)
		w.count(func(r *ScrubRun) { r.Damaged++ })
		w.s.damages.note(Damage{Ino: ino, Kind: DamagedRecord, Source: DamageByScrub, At: w.s.now(), Err: err.Error()})
		return nil
	}
	switch v.content.kind {
	case contentInline:
		w.inline(&v)
	case contentBlob:
		return w.content(ctx, &v)
	default:
		if v.Size == 0 || !v.IsRegular() {
			w.s.damages.sound(&v)
		}
	}
	return nil
}

func (w *scrubWalk) badRecord(key []byte, err error) {
	w.count(func(r *ScrubRun) {
		r.BadRecords++
		r.problem("record %q: %v", key, err)
	})
	w.s.log.Error("record is damaged", "key", fmt.Sprintf("%q", key), "err", err)
}

// stillThere reports whether the engine has that value, still.
func (w *scrubWalk) stillThere(key, value []byte) bool {
	b, err := w.s.engine.Get(key)
	return err == nil && bytes.Equal(b, value)
}

// decodes returns why a record cannot be what its key says; nil for kinds of
// another version of the program.
func decodes(r meta.Reader, key, value []byte) error {
	switch key[0] {
	case keyInode:
		_, err := decodeInode(inoOfKey(key), value)
		return err
	case keyDirent:
		if _, err := decodeDirent(value); err != nil || len(key) <= 9 {
			return errors.Join(err, CheckName(string(key[min(len(key), 9):])))
		}
	case keyBlobRefs, keyUsage:
		_, err := r.Counter(key)
		return err
	case keySums:
		if len(key) != len(sumsKey(blob.ID{}, 0)) {
			return fmt.Errorf("%w: checksums: key of %d bytes", ErrDamaged, len(key))
		}
		return decodeGroup(binary.BigEndian.Uint32(key[len(key)-4:]), value)
	case lockPrefix:
		_, err := parseLock(string(key[1:]), value)
		return err
	case keyHistory:
		var e HistoryEntry
		return json.Unmarshal(value, &e)
	}
	return nil
}

// decodeGroup returns why the record of a group cannot be what it should be.
func decodeGroup(group uint32, record []byte) error {
	switch {
	case group == groupDigests:
		if _, err := decodeDigests(record); err != nil {
			return fmt.Errorf("%w: digests: %w", ErrDamaged, err)
		}
	case group < otherGroups && (len(record)%sumSize != 0 || len(record) > groupSums*sumSize):
		return fmt.Errorf("%w: checksums: %d bytes", ErrDamaged, len(record))
	}
	return nil
}

// inline looks at content in the engine, which has checksums of its own: what is
// left to be seen is whether it is there.
func (w *scrubWalk) inline(v *inode) {
	_, err := w.s.readInline(v)
	if err != nil && !w.is(v) {
		return // changed meanwhile
	}
	w.count(func(r *ScrubRun) {
		r.Files++
		r.Done += v.Size
		if err != nil {
			r.Missing++
			r.problem("inode %d: %v", v.Ino, err)
		} else {
			r.Bytes += v.Size
		}
	})
	if err == nil {
		w.s.damages.sound(v)
		return
	}
	w.s.damages.note(Damage{
		Ino: v.Ino, Version: v.Version, Kind: DamagedMissing, Length: v.Size, Source: DamageByScrub, At: w.s.now(), Err: err.Error(),
	})
}

// is reports whether the engine has v's content, still.
func (w *scrubWalk) is(v *inode) bool {
	now, err := readInode(w.s.engine, v.Ino)
	return err == nil && now.content == v.content && now.Version == v.Version
}

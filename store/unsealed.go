package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// unsealedChunk is how many files are brought up to date in one batch.
const unsealedChunk = 1000

// rebuildUnsealed brings every file whose blob may have been written in place up
// to date with its blob, before anybody sees it. After a power cut the record and
// the blob can be of different instants; after any other end they agree but for
// what was written natively. It leaves the sealing to the sealer.
func (s *Store) rebuildUnsealed() error {
	if s.engine.Failed() != nil {
		return nil // nobody can have written, and nobody will
	}
	for from := []byte{keyUnsealed}; ; {
		var keys, values [][]byte
		err := s.engine.Scan(from, []byte{keyUnsealed + 1}, func(key, value []byte) bool {
			keys, values = append(keys, bytes.Clone(key)), append(values, bytes.Clone(value))
			return len(keys) < unsealedChunk
		})
		if err == nil && len(keys) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.engineError(s.engine.Update(func(tx meta.Txn) error {
			for i, key := range keys {
				m := decodeMark(values[i])
				if m.known && !m.final && !s.sameBoot {
					m.known = false
					tx.Put(key, m.append(nil))
				}
				if err := s.rebuildContent(tx, inoOfKey(key), m.native); err != nil {
					return err
				}
			}
			return nil
		}))
		if err != nil {
			return fmt.Errorf("content that was being written: %w", err)
		}
		from = append(keys[len(keys)-1], 0)
	}
}

// rebuildContent brings one file up to date with its blob. An error is one of
// the engine; a blob that cannot be had leaves the file as it is.
func (s *Store) rebuildContent(tx meta.Txn, ino Ino, native bool) error {
	v, err := readInode(tx, ino)
	if errors.Is(err, ErrStale) || err == nil && (v.content.kind != contentBlob || v.content.sealed) {
		tx.Delete(inoKey(keyUnsealed, ino)) // a power cut cannot do this, but it is easily mended
		return nil
	}
	if errors.Is(err, ErrDamaged) {
		s.log.Error("inode cannot be read", "ino", ino, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	size := v.Size
	if err := s.matchBlob(tx, &v, native); err != nil {
		s.log.Error("content cannot be opened", "ino", ino, "blob", v.content.blob, "err", err)
		s.damages.note(Damage{
			Ino: ino, Version: s.nextVersion(v.Version), Kind: DamagedMissing, Length: v.Size,
			At: s.now(), Err: err.Error(), blob: v.content.blob,
		})
	}
	v.Version = s.nextVersion(v.Version)
	v.Change++
	tx.Put(inoKey(keyInode, ino), appendInode(nil, &v))
	if v.Size != size {
		tx.Add(usageBytes, v.Size-size)
		s.log.Warn("size of a file that was being written taken from its content", "ino", ino, "size", v.Size, "was", size)
	}
	s.sealer.ask(ino)
	return nil
}

// matchBlob gives v the size of its blob, if that is what is true, and a fresh
// blob the bytes that a power cut may have taken from it.
func (s *Store) matchBlob(tx meta.Txn, v *inode, native bool) error {
	f, err := s.blobs.Open(v.content.blob, true)
	if errors.Is(err, fs.ErrNotExist) && v.content.fresh {
		return s.matchMissing(tx, v)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if !s.sameBoot { // else the blob has all that was written
		if err := s.restoreBase(v, f); err != nil {
			return err
		}
	}
	return matchSize(v, f, native)
}

// restoreBase writes what the file had before its blob over the blob's beginning.
// The blob was never synced, so that every mixture of the two is one that a power
// cut may leave; but what was durable before must not be missing.
func (s *Store) restoreBase(v *inode, f blob.File) error {
	if !v.content.fresh {
		return nil
	}
	base, err := s.readBase(v.Ino)
	if err != nil || len(base) == 0 {
		return err
	}
	_, err = f.WriteAt(base[:min(int64(len(base)), v.Size)], 0)
	return err
}

// matchSize makes v and its blob equally long. Bytes that are not there are not
// made up, so v is cut to its blob; what is behind the end, by a write whose record
// was lost, is cut off, durably: it must not show when the file grows. A blob
// that was written natively also says what was added.
func matchSize(v *inode, f blob.File, native bool) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > v.Size && !native {
		return errors.Join(f.Truncate(v.Size), f.Sync())
	}
	v.Size = size
	st, ok := f.(blob.Stater)
	if !ok || !native {
		return nil
	}
	is, err := st.Stat()
	if err != nil {
		return err
	}
	v.absorb(is)
	return nil
}

// absorb gives v the size and times of its blob, which was written natively. What is
// not newer than the last change of v was there when somebody may have set another time.
func (v *inode) absorb(st blob.Stat) {
	v.Size = st.Size
	if st.Mtime > v.Ctime {
		v.Mtime = st.Mtime
	}
	v.Ctime = max(v.Ctime, st.Ctime)
	v.Sparse = st.Allocated < st.Size
}

// matchMissing gives v back what it had before a blob that was never synced and
// is gone: its old content, or nothing.
func (s *Store) matchMissing(tx meta.Txn, v *inode) error {
	base, err := s.readBase(v.Ino)
	if err != nil {
		return err
	}
	id := v.content.blob
	tx.Delete(inoKey(keyUnsealed, v.Ino))
	tx.Add(blobKey(keyBlobRefs, id), -1)
	tx.Put(garbageKey(id, s.garbageSeq.Add(1)), nil)
	base = base[:min(int64(len(base)), v.Size)]
	v.Size, v.content = int64(len(base)), content{}
	if len(base) > 0 {
		v.content.kind = contentInline
		tx.Put(inoKey(keyInline, v.Ino), base)
	} else {
		tx.Delete(inoKey(keyInline, v.Ino))
	}
	return nil
}

// settleContents makes what was written in place durable, at the end of a run, and
// leaves to the next one what is known of it.
func (s *Store) settleContents() error {
	if s.writable() != nil {
		return nil
	}
	var inos []Ino
	err := s.engine.Scan([]byte{keyUnsealed}, []byte{keyUnsealed + 1}, func(key, _ []byte) bool {
		inos = append(inos, inoOfKey(key))
		return true
	})
	for _, ino := range inos {
		if serr := s.settleContent(ino); serr != nil && !errors.Is(serr, ErrStale) && !errors.Is(serr, ErrPoisoned) {
			err = errors.Join(err, fmt.Errorf("content of inode %d: %w", ino, serr))
		}
	}
	return err
}

func (s *Store) settleContent(ino Ino) error {
	ctx := context.Background()
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return err
	}
	defer s.nodes.release(n)
	if err := s.syncNode(ctx, n); err != nil {
		return err
	}
	s.keepTouched(ctx, n, n.writers.Load() == 0)
	return nil
}

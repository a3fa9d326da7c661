package store

import (
	"context"

	"engramfs/store/meta"
)

// SetDigests replaces the digests of ino's content; no digest: it has none.
func (s *Store) SetDigests(ino Ino, d Digests) error {
	v, err := readInode(s.engine, ino)
	if err != nil {
		return err
	}
	defer s.open.forget(v.content.blob)
	return s.engine.Update(func(tx meta.Txn) error {
		if key := sumsKey(v.content.blob, groupDigests); d.any() {
			tx.Put(key, appendDigests(nil, &d))
		} else {
			tx.Delete(key)
		}
		return nil
	})
}

// Lent makes ino's content, which is sealed, one that a kernel has once been given.
func (s *Store) Lent(ino Ino) error {
	v, err := readInode(s.engine, ino)
	if err != nil {
		return err
	}
	t, _ := s.sealTimes(v.content.blob)
	t.native = true
	return s.engine.Update(func(tx meta.Txn) error {
		tx.Put(sumsKey(v.content.blob, groupTimes), t.append(nil))
		return nil
	})
}

// SealTimes returns the times that ino's content is known to have had when it was sealed.
func (s *Store) SealTimes(ino Ino) (mtime, ctime int64, ok bool) {
	v, _ := readInode(s.engine, ino)
	t, ok := s.sealTimes(v.content.blob)
	return t.mtime, t.ctime, ok
}

// Unseal makes the content ready to be written, and writes nothing.
func (h *Handle) Unseal(ctx context.Context) error { return h.prepare(ctx, false) }

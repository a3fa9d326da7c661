package store

import (
	"context"
	"time"

	"engramfs/store/meta"
)

// SetSealDelay makes the sealer wait d. It must be called before anything is written.
func (s *Store) SetSealDelay(d time.Duration) { s.sealer.delay = d }

// HasBase reports whether ino's file would fall back to inline content after a
// power cut.
func (s *Store) HasBase(ino Ino) bool {
	base, err := s.readBase(ino)
	return err == nil && base != nil
}

// Sealed reports whether ino's content is a blob with checksums.
func (s *Store) Sealed(ino Ino) bool {
	v, err := readInode(s.engine, ino)
	return err == nil && v.content.sealed
}

// SealAll seals all that waits for it.
func (s *Store) SealAll(ctx context.Context) error { return s.sealer.sealAll(ctx) }

// BlobOf returns the blob of ino's content.
func (s *Store) BlobOf(ino Ino) [16]byte {
	v, _ := readInode(s.engine, ino)
	return v.content.blob
}

// PutRecords puts a record, and a counter, into the engine.
func (s *Store) PutRecords(key, value, counter []byte, n int64) error {
	return s.engine.Update(func(tx meta.Txn) error {
		tx.Put(key, value)
		tx.Add(counter, n)
		return nil
	})
}

// HasRecord reports whether the engine has a record of that key.
func (s *Store) HasRecord(key []byte) bool {
	_, err := s.engine.Get(key)
	return err == nil
}

// SetInodeRecord replaces the record of an inode, nil: removes it, and forgets what is
// in memory.
func (s *Store) SetInodeRecord(ino Ino, record []byte) error {
	s.nodes.drop(ino)
	return s.setRecord(inoKey(keyInode, ino), record)
}

// SetXattrRecord sets an extended attribute whatever the limits are.
func (s *Store) SetXattrRecord(ino Ino, name string, value []byte) error {
	return s.setRecord(xattrKey(ino, name), value)
}

func (s *Store) setRecord(key, value []byte) error {
	return s.engine.Update(func(tx meta.Txn) error {
		if value == nil {
			tx.Delete(key)
			return nil
		}
		tx.Put(key, value)
		return nil
	})
}

// InodeKey is the key of ino's record.
func InodeKey(ino Ino) []byte { return inoKey(keyInode, ino) }

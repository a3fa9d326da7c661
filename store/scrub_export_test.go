package store

import "engramfs/store/meta"

// LoseInline deletes the inline content of ino from the engine.
func (s *Store) LoseInline(ino Ino) error {
	return s.engine.Update(func(tx meta.Txn) error { tx.Delete(inoKey(keyInline, ino)); return nil })
}

// SetScrubStep has scrubs keep their cursor every n bytes.
func (s *Store) SetScrubStep(n int64) { s.scrubber.step = n }

// DamagedAt is damagedAt.
func (s *Store) DamagedAt(ino Ino, off, n int64) bool { return s.damagedAt(ino, off, n) }

// Overwritten takes a range off the list of damage.
func (s *Store) Overwritten(ino Ino, off, n int64) { s.damages.overwritten(ino, off, n) }

// Unverified makes c be read without its checksums.
func (c *Content) Unverified() { c.sealed = false }

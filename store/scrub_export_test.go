package store

// SetScrubStep has scrubs keep their cursor every n bytes.
func (s *Store) SetScrubStep(n int64) { s.scrubber.step = n }

// DamagedAt is damagedAt.
func (s *Store) DamagedAt(ino Ino, off, n int64) bool { return s.damagedAt(ino, off, n) }

// Overwritten takes a range off the list of damage.
func (s *Store) Overwritten(ino Ino, off, n int64) { s.damages.overwritten(ino, off, n) }

// Unverified makes c be read without its checksums.
func (c *Content) Unverified() { c.sealed = false }

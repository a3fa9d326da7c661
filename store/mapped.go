package store

import (
	"engramfs/store/blob"
)

// A file that was once lent to a kernel for writing can be mapped into the memory
// of a process, and be written there after its last handle is closed.

// mayBeMapped reports whether somebody may write to the sealed blob past the
// store, or has done so since it was sealed.
func (s *Store) mayBeMapped(id blob.ID) bool {
	t, ok := s.sealTimes(id)
	if !ok || !t.native { // nobody but the store ever wrote to it
		return false
	}
	st, ok := s.statBlob(id)
	return !ok || st.Mtime != t.mtime || s.hasWriters(id)
}

// hasWriters reports whether the blob may be open for writing, or mapped so, also
// by the store.
func (s *Store) hasWriters(id blob.ID) bool {
	d, ok := s.blobs.(blob.WriterDetector)
	if !ok {
		return true
	}
	has, err := d.HasWriters(id)
	return has || err != nil
}

// timesTell reports whether the time of the last write of a blob moves with every
// write past the store.
func (s *Store) timesTell() bool {
	t, ok := s.blobs.(blob.WriteTimer)
	return ok && t.TimesTell()
}

// statBlob returns what a blob is like; false if that cannot be had.
func (s *Store) statBlob(id blob.ID) (blob.Stat, bool) {
	f, err := s.blobs.Open(id, false)
	if err != nil {
		return blob.Stat{}, false
	}
	defer f.Close()
	st, ok := f.(blob.Stater)
	if !ok {
		return blob.Stat{}, false
	}
	is, err := st.Stat()
	return is, err == nil
}

package blob

// WriterDetector is implemented by a Backend whose blobs can be written by others
// than their Files: by whom an OSFile was lent to, or through a mapping into memory,
// which outlives every descriptor.
type WriterDetector interface {
	// HasWriters reports whether the blob is open for writing, or mapped so, by
	// anybody, Files of this backend included. It may say so of one that is not.
	HasWriters(id ID) (bool, error)
}

// WriteTimer is implemented by a Backend that knows whether the times of its blobs can
// be relied on.
type WriteTimer interface {
	// TimesTell reports whether Stat.Mtime moves with every write by anybody, also with
	// the first one to a page through a mapping into memory, before it can be seen.
	TimesTell() bool
}

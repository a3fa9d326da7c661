package meta

import (
	"errors"
	"fmt"
)

// Errors of reading and writing. Compare with errors.Is.
var (
	// ErrNotFound is returned by Get when the key is absent.
	ErrNotFound = errors.New("meta: key not found")

	// ErrEmptyKey is returned by Update when a change names the empty key, which
	// no engine stores: Pebble, for one, panics when it writes a table with it.
	ErrEmptyKey = errors.New("meta: key is empty")

	// ErrReadOnly is returned by Update, Sync, Checkpoint and Failed after a
	// write or a sync has failed. It wraps the cause.
	ErrReadOnly = errors.New("meta: engine is read-only after a failure")

	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("meta: engine is closed")
)

// Errors of opening.
var (
	// ErrInUse is returned at once when another process, or another engine of
	// this process, has the store open.
	ErrInUse = errors.New("meta: store is in use by another process")

	// ErrNotExist is returned when there is no store and creating one was not
	// asked for.
	ErrNotExist = errors.New("meta: no store here")
)

// CorruptError is returned when stored bytes fail a check. Nothing was changed.
type CorruptError struct {
	Path string // the damaged file, or the directory when the file is unknown
	Err  error
}

// Error names the file and the operator's next step.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("metadata engine: %s is damaged: %v; nothing was changed: "+
		"keep a copy of the directory, then restore it from a checkpoint", e.Path, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// IsCorrupt reports whether err is, or wraps, a *CorruptError.
func IsCorrupt(err error) bool {
	var corrupt *CorruptError
	return errors.As(err, &corrupt)
}

// VersionError is returned when the store was written in a format that this
// program does not know. Nothing was changed.
type VersionError struct {
	Path      string // file or directory that names the format
	Found     string
	Supported string
}

// Error names both formats and the operator's next step.
func (e *VersionError) Error() string {
	return fmt.Sprintf("metadata engine: %s has format %q, this program knows %s: use the "+
		"version of the program that wrote it", e.Path, e.Found, e.Supported)
}

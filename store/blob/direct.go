package blob

// DirectOpener is implemented by a Backend that can read what is on the disk, and
// not what a cache of this machine has of it: for looking after the disk.
type DirectOpener interface {
	// OpenDirect opens a blob for reading. fs.ErrNotExist if there is none. ReadAt
	// of the File may be slower than that of Open's, and is fastest for a page-aligned
	// buffer and whole pages; it leaves the caches as they are where it can.
	OpenDirect(id ID) (File, error)
}

package blob

// Syncer is implemented by a Backend that can sync all blobs at once, which is
// faster than one by one when they are many.
type Syncer interface {
	// SyncAll returns nil when all that was written to any blob before is durable,
	// and its labels too. It may have to wait for what others write to the same disk.
	SyncAll() error
}

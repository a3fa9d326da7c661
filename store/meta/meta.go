// Package meta is the contract between the store and its metadata engine: a
// small, ordered, transactional key-value map that is the durable truth about
// every inode and dirent.
//
// An engine orders keys by bytes.Compare. It gives atomic updates, consistent
// snapshots and durability on demand; isolation between updates that touch the
// same keys is the caller's, who holds the locks. Nothing here assumes a local
// disk, so that the same store can run on a distributed engine. Package
// metatest holds the conformance suite that every engine must pass.
package meta

import "time"

// Reader reads one state of the engine. All methods may be called by several
// goroutines at once. A Reader that was handed to a function is valid only until
// that function returns.
type Reader interface {
	// Get returns the value of key, or ErrNotFound. The slice is the caller's
	// to keep and change.
	Get(key []byte) ([]byte, error)

	// Scan calls fn for each key in [lo, hi), in ascending order, until fn
	// returns false. A nil lo starts at the first key, a nil hi goes to the
	// last. key and value are valid only inside fn. fn may read from the same
	// Reader; it must not block.
	Scan(lo, hi []byte, fn func(key, value []byte) bool) error

	// GetMany calls fn once for each key, in order; value is nil if the key
	// is absent and otherwise non-nil, also when it is empty, and valid only
	// inside fn. keys must be ascending (equal neighbours are allowed) and
	// all of them are read from one state. An error of fn ends the walk and is
	// returned. For keys that lie close together this is several times
	// faster than as many Gets.
	GetMany(keys [][]byte, fn func(i int, value []byte) error) error

	// Counter returns the sum of all that was added to key, 0 if the key is
	// absent. It is an error if key holds anything but a counter.
	Counter(key []byte) (int64, error)
}

// Txn is one atomic update under construction. Its reads see the state before
// the update: what Put, Delete and Add change becomes visible only when Update
// returns. Changes apply in the order of the calls. Keys and values are copied.
// Keys are not empty, or Update returns ErrEmptyKey and changes nothing.
// A Txn belongs to one goroutine and ends with its function.
type Txn interface {
	Reader

	// Put sets key to value. A counter may be Put only as EncodeCounter writes
	// it, which sets it.
	Put(key, value []byte)

	// Delete removes key, also a counter. An absent key is no error.
	Delete(key []byte)

	// DeleteRange removes every key in [lo, hi). Its cost does not grow with
	// the number of keys. An empty range is no error; lo must not be empty and hi
	// not nil.
	DeleteRange(lo, hi []byte)

	// Add adds delta to the counter at key, which starts at 0 and wraps
	// around on overflow. Additions commute, so concurrent updates need no
	// lock to add to the same counter.
	Add(key []byte, delta int64)
}

// Engine is an open metadata engine. All methods may be called by several
// goroutines at once. Each call of a Reader method sees the latest state.
//
// After Close every method returns ErrClosed (Close itself returns nil).
type Engine interface {
	Reader

	// View runs fn on one consistent snapshot and returns fn's error.
	View(fn func(Reader) error) error

	// Update runs fn and applies what it did as one atomic batch. When Update
	// returns nil the batch is visible to every reader, and durable after the
	// next successful Sync. If fn returns an error, panics or calls
	// runtime.Goexit, nothing changes; the error is returned as it is.
	//
	// Two updates at the same time do not see each other: a caller whose fn
	// reads keys that another might write must hold a lock over the whole call.
	//
	// ErrReadOnly (wrapped around the cause) means the engine accepts no writes
	// any more and the batch was refused. A failure that strikes while a batch is
	// being applied does not undo it: Update returns nil, the batch is visible, and
	// the Sync that was to make it durable returns ErrReadOnly.
	Update(fn func(Txn) error) error

	// Sync returns nil when everything that was visible before the call is
	// durable. Concurrent calls share one fsync, and a call costs nothing when
	// nothing was written since the last one. On error durability is unknown, and
	// the engine is read-only from then on: a failed fsync is never retried.
	Sync() error

	// Checkpoint writes a consistent, durable copy of the current state to dir,
	// which must not exist, and which the engine can open as a store of its own.
	Checkpoint(dir string) error

	// Stats returns current figures. It takes no lock that a write holds
	// during input or output.
	Stats() Stats

	// Failed returns nil while the engine accepts writes, and otherwise an
	// ErrReadOnly wrapped around the reason. It never turns back to nil: a
	// restart, after the cause is gone, is the cure.
	Failed() error

	// Close waits for calls that are still running, makes everything durable,
	// stops background work and releases the store. A failed engine is closed
	// without touching the disk again; Close then returns what Failed does.
	Close() error
}

// Stats are an engine's figures for metrics and the health page. A figure the
// engine does not have is 0.
type Stats struct {
	Engine string // name and version of the format, for people

	DiskBytes     int64 // size of all of the engine's files
	LogBytes      int64 // part of DiskBytes: the write-ahead log
	CacheBytes    int64 // block cache in memory
	MemTableBytes int64 // recent writes in memory
	CacheHits     int64
	CacheMisses   int64

	Updates        int64 // batches applied since Open
	Syncs          int64 // Sync calls since Open
	SyncsSkipped   int64 // part of Syncs: answered without an fsync of their own
	Flushes        int64
	Compactions    int64
	CompactionDebt int64 // bytes still to be compacted, an estimate
	ReadAmp        int   // sorted runs a read may have to look at
	WriteStalls    int64 // times writers had to wait for flushes or compactions

	Fsyncs Latency // of the write-ahead log
}

// Latency is how long something took since Open.
type Latency struct {
	Count   uint64
	Sum     time.Duration
	Buckets []LatencyBucket // ascending; empty: not measured
}

// LatencyBucket counts what took at most Limit, with what is in the buckets below.
type LatencyBucket struct {
	Limit time.Duration
	Count uint64
}

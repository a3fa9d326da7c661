package pebble

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// Options set up an engine. The zero value opens an existing store with the
// default sizes and no log.
type Options struct {
	// Create makes a new store if the directory is absent or empty. Without it
	// Open returns meta.ErrNotExist then.
	Create bool

	// ReadOnly opens an existing store without changing a byte of its directory: what
	// the recovery from a crash has to write stays in memory. Update, Sync and Checkpoint
	// return meta.ErrReadOnly. No lock is taken, since that would make a file: the
	// caller sees to it that nobody else has the store open.
	ReadOnly bool

	// CacheSize is the size in bytes of the cache of table blocks.
	// Default DefaultCacheSize.
	CacheSize int64

	// MemTableSize is the size in bytes at which recent writes are flushed to
	// a table. Up to memTables of them are in memory, and as much WAL is read at
	// the start after a crash. Default DefaultMemTableSize.
	MemTableSize int64

	// MaxOpenFiles bounds the descriptors in use, softly.
	// Default DefaultMaxOpenFiles.
	MaxOpenFiles int

	// SlowDisk is how long one disk operation may take before it is logged.
	// Default DefaultSlowDisk; negative for never.
	SlowDisk time.Duration

	// Logger receives what happens. Default: nothing is logged.
	Logger *slog.Logger

	// FS is the file system. Default: the operating system's.
	FS vfs.FS
}

// Defaults of Options. Built without cgo, Pebble's cache and memtables are part
// of the Go heap, so the garbage collector's headroom comes on top of them: a
// server that must stay small sets a memory limit.
const (
	DefaultCacheSize    = 64 << 20
	DefaultMemTableSize = 16 << 20
	DefaultMaxOpenFiles = 1000
	DefaultSlowDisk     = 5 * time.Second
)

const (
	// memTables is how many memtables may be in memory before writers wait: one
	// that is written and one that is flushed.
	memTables = 2

	// separateFrom is the value size in bytes from which values are kept out of the
	// tables, so that compactions need not copy them (inline content).
	separateFrom = 1 << 10

	// bloomBits per key keep most lookups of absent names from the disk.
	bloomBits = 10

	// l0Stop is practically never: writers that wait for a compaction when the
	// engine becomes read-only, which ends compactions, would wait for ever.
	l0Stop = 1000
)

func (o Options) withDefaults() Options {
	if o.CacheSize == 0 {
		o.CacheSize = DefaultCacheSize
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = DefaultMemTableSize
	}
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = DefaultMaxOpenFiles
	}
	if o.SlowDisk == 0 {
		o.SlowDisk = DefaultSlowDisk
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	return o
}

// Open opens the store in dir. The errors an operator can act on are
//
//   - meta.ErrInUse: another engine has it open;
//   - meta.ErrNotExist: there is no store and Create is not set;
//   - *meta.CorruptError: a file is damaged or missing, or the directory
//     holds something else; nothing was changed;
//   - *meta.VersionError: a newer program has written it; nothing was changed.
//
// If writing fails while an existing store is being opened (the disk is full),
// Open returns an engine that serves reads and whose Failed is set.
func Open(dir string, opts Options) (*DB, error) {
	opts = opts.withDefaults()
	opts.Create = opts.Create && !opts.ReadOnly
	dir, err := resolve(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open metadata engine: %w", err)
	}
	db, err := open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open metadata engine in %s: %w", dir, err)
	}
	return db, nil
}

// resolve returns the one name of dir, which the lock depends on, and makes the
// directory if it may.
func resolve(dir string, opts Options) (string, error) {
	dir = filepath.Clean(dir)
	if opts.Create {
		if err := mkdirAllSync(opts.FS, dir); err != nil {
			return "", err
		}
	}
	if _, err := opts.FS.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s", meta.ErrNotExist, dir)
	} else if err != nil {
		return "", err
	}
	if vfs.Root(opts.FS) != vfs.Default {
		return dir, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// mkdirAllSync makes dir and its parents, each durable.
func mkdirAllSync(disk vfs.FS, dir string) error {
	_, err := disk.Stat(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := disk.PathDir(dir)
	if parent != dir && parent != "." {
		if err := mkdirAllSync(disk, parent); err != nil {
			return err
		}
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(disk, parent)
}

func open(dir string, opts Options) (_ *DB, err error) {
	var closers []io.Closer
	defer func() {
		if err != nil {
			closeAll(closers)
		}
	}()
	var lock *pebbledb.Lock // nil: Pebble takes what the fence gives
	if !opts.ReadOnly {
		if lock, err = acquire(dir, opts.FS); err != nil {
			return nil, err
		}
		closers = append(closers, lock)
	}
	fresh, err := preflight(opts.FS, dir, opts.Create)
	if err != nil {
		return nil, classify(dir, err)
	}

	d := &DB{log: opts.Logger, dir: dir, disk: opts.FS, idle: make(chan struct{})}
	ev := &events{log: opts.Logger}
	healthy, monitor := vfs.WithDiskHealthChecks(opts.FS, max(opts.SlowDisk, 0), nil, ev.diskSlow)
	closers = append(closers, monitor)
	fence, err := newFence(healthy, dir, d.onFail)
	if err != nil {
		return nil, err
	}
	ev.fence, d.fence, d.events = fence, fence, ev
	d.logger = &logger{log: opts.Logger, fence: fence}
	if opts.ReadOnly {
		fence.failure.Store(&errOpenedReadOnly)
	} else if err := fence.openSeals(); !fresh && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		fence.freeze(err) // an older program has not made them
	} else if err != nil {
		fence.closeSeals()
		return nil, err
	}
	d.closers = closers

	d.db, err = pebbledb.Open(dir, d.pebbleOptions(opts, lock, fresh))
	if err != nil {
		fence.closeSeals()
		return nil, classify(dir, errors.Join(err, fence.failed()))
	}
	fence.replayed.Store(true)
	if fresh {
		return d, d.finishCreate()
	}
	return d, nil
}

// finishCreate marks a new store as complete, or gives it up. The caller
// releases the lock.
func (d *DB) finishCreate() error {
	err := d.fence.failed()
	if err == nil {
		err = markFormat(d.disk, d.dir)
	}
	if err == nil {
		return nil
	}
	d.fence.freeze(err) // Close must not wait for a disk that does not work
	err = errors.Join(err, d.db.Close())
	d.fence.closeSeals()
	return err
}

func (d *DB) pebbleOptions(opts Options, lock *pebbledb.Lock, fresh bool) *pebbledb.Options {
	o := &pebbledb.Options{
		FS:                          d.fence,
		Lock:                        lock,
		Logger:                      d.logger,
		EventListener:               d.events.listener(),
		Merger:                      counterMerger,
		CacheSize:                   opts.CacheSize,
		MemTableSize:                uint64(opts.MemTableSize),
		MemTableStopWritesThreshold: memTables,
		L0StopWritesThreshold:       l0Stop,
		MaxOpenFiles:                opts.MaxOpenFiles,
		ErrorIfNotExists:            !fresh,
		ErrorIfNotPristine:          fresh,
		// Older formats take a flipped WAL byte for the end of the WAL and lose
		// acknowledged writes in silence.
		FormatMajorVersion: pebbledb.FormatNewest,
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBits)
	}
	o.Experimental.ValueSeparationPolicy = func() pebbledb.ValueSeparationPolicy {
		return pebbledb.ValueSeparationPolicy{
			Enabled:               true,
			MinimumSize:           separateFrom,
			MaxBlobReferenceDepth: 10,
			RewriteMinimumAge:     5 * time.Minute,
			TargetGarbageRatio:    0.2,
		}
	}
	return o
}

// acquire takes the directory's lock, or returns meta.ErrInUse at once.
func acquire(dir string, disk vfs.FS) (*pebbledb.Lock, error) {
	lock, err := pebbledb.LockDirectory(dir, disk)
	if err == nil {
		return lock, nil
	}
	// What fcntl(2) answers has no path. Without an errno it is Pebble's own
	// answer, that this process holds the lock.
	var path *fs.PathError
	var errno syscall.Errno
	if !errors.As(err, &path) && (!errors.As(err, &errno) || errno == syscall.EAGAIN || errno == syscall.EACCES) {
		return nil, fmt.Errorf("%w: %w", meta.ErrInUse, err)
	}
	return nil, err
}

// Most errors of Pebble carry the file they are about only as text: its name, or
// its number and type.
var (
	fileInMessage  = regexp.MustCompile(`\b(?:MANIFEST-\d{6,}|OPTIONS-\d{6,}|\d{6,}\.(?:log|sst|blob))\b`)
	tableInMessage = regexp.MustCompile(`\bfile (\d{6,}) \(type (sst|blob)`)
)

// damagedFile returns the path of the file that err is about, or dir.
func damagedFile(dir string, err error) string {
	if info := pebbledb.ExtractDataCorruptionInfo(err); info != nil {
		return info.Path
	}
	message := err.Error()
	if name := fileInMessage.FindString(message); name != "" {
		return filepath.Join(dir, name)
	}
	if m := tableInMessage.FindStringSubmatch(message); m != nil {
		return filepath.Join(dir, m[1]+"."+m[2])
	}
	return dir
}

// classify turns an error about stored bytes into a *meta.CorruptError. What
// comes from the operating system stays as it is: another try may succeed.
func classify(dir string, err error) error {
	if err == nil {
		return nil
	}
	var corrupt *meta.CorruptError
	var version *meta.VersionError
	var errno syscall.Errno
	switch {
	case errors.As(err, &corrupt), errors.As(err, &version), errors.Is(err, meta.ErrNotExist):
		return err
	case pebbledb.IsCorruptionError(err):
	case errors.Is(err, fs.ErrNotExist): // a file that another one names
	case errors.As(err, &errno):
		return err
	}
	return &meta.CorruptError{Path: damagedFile(dir, err), Err: err}
}

func closeAll(closers []io.Closer) error {
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i].Close())
	}
	return errors.Join(errs...)
}

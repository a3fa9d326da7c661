package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/poison"
)

// Options of Open.
type Options struct {
	Meta  meta.Engine  // required
	Blobs blob.Backend // required

	Logger *slog.Logger     // nil: discard
	Now    func() time.Time // nil: time.Now

	// Boot names the time since the machine was started, as
	// /proc/sys/kernel/random/boot_id does; "": unknown. In the same boot, content that
	// nobody has synced is still what it was when the last run ended, however it ended.
	Boot string

	// Reserve is how many bytes are kept free on the disk: changes that need
	// space are refused below it. 0: max(1 GiB, 2 %), at most an eighth of the
	// disk. Negative: none.
	Reserve int64
	// Inline is the size up to which content lives in the engine, in bytes.
	// 0: 16 KiB. Negative: none but empty files.
	Inline int
	// Nodes and Dirents bound the inodes and names cached in memory. 0: 65,536
	// and 131,072.
	Nodes   int
	Dirents int

	// Watch says when a lock is stuck, and who is told. Its zero value is the
	// default.
	Watch poison.WatchOptions
	// Scrub says when all content is read. Its zero value is the default.
	Scrub ScrubOptions
	// Began, if not nil, is told of every read, change and sync when it begins, with
	// the context that it was called with and the inode that it is about, 0 for none.
	// What it returns, if anything, is called with the result. Both must be quick, must
	// not block, and must not call the store.
	Began func(ctx context.Context, op string, ino Ino) (ended func(error))
	// ReadOnly, if it is not nil, is why every change is refused, as if the disk
	// had failed: to have a look at a store that must not be changed.
	ReadOnly error
}

// Names and ranks of the locks. Ranks are the lock order: see the package comment.
const (
	lockInode = "inode"
	lockAlloc = "alloc"
	lockUsage = "usage"

	rankInode = 10
	rankAlloc = 30
	rankUsage = 40
)

// Store is an open file tree. All methods are safe for concurrent use.
type Store struct {
	// Immutable after Open.
	engine   meta.Engine
	blobs    blob.Backend
	log      *slog.Logger
	now      func() time.Time
	began    func(ctx context.Context, op string, ino Ino) (ended func(error)) // nil: nobody follows
	inline   int64
	gen      uint64
	sameBoot bool // the machine has not been started since the last run: it has lost nothing
	// firstVersion is what the versions of this run begin with, see beginRun.
	firstVersion uint64
	poisonGen    uint64 // the generations of poison up to here are reserved in the engine
	registry     *poison.Registry
	inodes       *poison.Family
	nodes        *nodeCache
	dirents      *direntCache
	open         *blobCache
	space        *spaceGuard
	alloc        *poison.Guarded[allocator]
	usage        *poison.Guarded[usage]
	davLocks     *LockTable
	fileLocks    *FileLocks

	// usageMu is held for reading from before a batch that counts until usage
	// has its figures, and for writing while usage is loaded again. It guards no
	// data and is taken after any inode and before usage.
	usageMu sync.RWMutex

	// renameMu is held while a directory moves to another directory, so that
	// nobody's ancestors change while it is checked that the directory does not
	// become its own descendant. It guards no data and is taken before any inode.
	renameMu sync.Mutex

	faults     faults
	counters   counters
	events     hub
	history    *history
	collector  *collector
	sealer     *sealer
	labeler    *labeler
	dirMoves   atomic.Uint64 // counts the directories that were moved, after the fact
	damages    damages
	scrubber   *scrubber
	flusher    *flusher
	garbageSeq atomic.Uint64
	failure    atomic.Pointer[error]
	closing    atomic.Bool
	closed     atomic.Bool
	stop       context.CancelFunc
	background sync.WaitGroup
}

// formatVersion is the version of the store's records. A store of another
// version is refused.
const formatVersion = 1

// Open returns the store that the engine and the backend hold, and makes a new
// one only if the engine is empty. The store takes over both: Close closes
// them, and so does a failing Open.
//
// The error is a *meta.VersionError if the store was written in another format.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	s := &Store{
		engine: o.Meta, blobs: o.Blobs, log: o.Logger, now: o.Now, began: o.Began,
		inline: int64(o.Inline), flusher: newFlusher(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Meta.Close(), o.Blobs.Close())
		}
	}()
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if o.Inline == 0 {
		s.inline = 16 << 10
	}
	if s.space, err = newSpaceGuard(o.Blobs, o.Reserve); err != nil {
		return nil, err
	}
	if err := s.openFormat(); err != nil {
		return nil, err
	}
	s.garbageSeq.Store(uint64(s.now().UnixNano()))
	generation, err := s.reserveGenerations()
	if err != nil {
		return nil, err
	}
	s.registry = poison.NewRegistry(poison.RegistryOptions{Logger: s.log, Now: s.now, Generation: generation, Durations: true})
	s.nodes = newNodeCache(s.engine, orDefault(o.Nodes, 65_536))
	s.dirents = newDirentCache(orDefault(o.Dirents, 131_072))
	s.open = newBlobCache(s)
	s.inodes = s.registry.NewFamily(poison.FamilyOptions{
		Name: lockInode, Rank: rankInode, Class: poison.Durable,
		Each: s.eachInodeLock,
		Detail: func(id uint64) string {
			p, _ := s.pathOf(Ino(id))
			return p
		},
	})
	s.nodes.family = s.inodes
	if err := s.beginRun(o.Boot); err != nil {
		return nil, err
	}
	s.sealer, s.labeler = newSealer(s), newLabeler(s)
	if err := s.loadDamages(); err != nil {
		return nil, err
	}
	if o.ReadOnly == nil {
		if err := s.rebuildUnsealed(); err != nil {
			return nil, err
		}
		if err := s.noteBoot(o.Boot); err != nil {
			return nil, err
		}
	}
	if err := s.newDomains(); err != nil {
		return nil, err
	}
	if s.davLocks, err = newLockTable(s.registry, s.engine, s.log, s.writable, s.lockFault); err != nil {
		return nil, err
	}
	s.fileLocks = newFileLocks(s)
	if err := s.initRoot(); err != nil {
		return nil, err
	}
	if o.ReadOnly != nil {
		s.fail("from the start", o.ReadOnly)
	}
	return s, s.start(o)
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// openFormat checks the format of the store, and writes it into an empty engine.
func (s *Store) openFormat() error {
	b, err := s.engine.Get(factFormat)
	if errors.Is(err, meta.ErrNotFound) {
		return s.writeFormat()
	}
	if err != nil {
		return fmt.Errorf("read the store's format: %w", err)
	}
	if len(b) != 1 || b[0] != formatVersion {
		return &meta.VersionError{Path: "the store", Found: fmt.Sprint(b), Supported: fmt.Sprint(formatVersion)}
	}
	if b, err = s.engine.Get(factGen); err != nil || len(b) != 8 {
		return fmt.Errorf("%w: generation of the store: %w", ErrDamaged, errors.Join(err, errShortRecord))
	}
	s.gen = binary.BigEndian.Uint64(b)
	return nil
}

// writeFormat makes an empty engine a store. An engine that holds anything is
// no empty one: its facts were lost, and a new store over it would hide that.
func (s *Store) writeFormat() error {
	empty := true
	if err := s.engine.Scan(nil, nil, func(_, _ []byte) bool { empty = false; return false }); err != nil {
		return fmt.Errorf("read the store's format: %w", err)
	}
	if !empty {
		return fmt.Errorf("%w: the engine holds records but not the store's format", ErrDamaged)
	}
	s.gen = uint64(s.now().UnixNano())
	return s.engineError(s.engine.Update(func(tx meta.Txn) error {
		tx.Put(factFormat, []byte{formatVersion})
		tx.Put(factGen, binary.BigEndian.AppendUint64(nil, s.gen))
		return nil
	}))
}

// initRoot creates the root directory of a new store, durably. It refuses if
// the allocator is poisoned, as every change would.
func (s *Store) initRoot() error {
	_, err := s.engine.Get(inoKey(keyInode, RootIno))
	if err == nil {
		return nil
	}
	if !errors.Is(err, meta.ErrNotFound) {
		return fmt.Errorf("load the root directory: %w", err)
	}
	if s.alloc.Event() != nil {
		return &poison.Error{Ev: s.alloc.Event()}
	}
	entries := false
	if err := s.engine.Scan([]byte{keyDirent}, []byte{keyDirent + 1}, func(_, _ []byte) bool { entries = true; return false }); err != nil {
		return fmt.Errorf("load the root directory: %w", err)
	}
	if entries {
		return fmt.Errorf("%w: the root directory's inode is missing, its entries are not", ErrDamaged)
	}
	now := s.now().UnixNano()
	root := inode{Attr: Attr{
		Ino: RootIno, Gen: s.gen, Mode: ModeDir | 0o755, Nlink: 2,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Change: 1, Version: 1,
	}}
	if err := s.engine.Update(func(tx meta.Txn) error {
		tx.Put(inoKey(keyInode, RootIno), appendInode(nil, &root))
		tx.Add(usageDirs, 1)
		return nil
	}); err != nil {
		return s.engineError(err)
	}
	s.addUsage(0, 1, 0)
	return s.engineError(s.engine.Sync())
}

// start begins the background work.
func (s *Store) start(o Options) error {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	var err error
	if s.history, err = newHistory(s); err != nil {
		return err
	}
	s.registry.OnTransition(s.history.record)
	s.damages.start()
	if s.scrubber, err = newScrubber(s, o.Scrub); err != nil {
		return err
	}
	if s.collector, err = newCollector(s); err != nil {
		return err
	}
	s.goSafe("collector", func() { s.collector.run(ctx) })
	s.goSafe("sealer", func() { s.sealer.run(ctx) })
	s.goSafe("sealer of large files", func() { s.sealer.runLarge(ctx) })
	s.goSafe("labeler", func() { s.labeler.run(ctx) })
	s.goSafe("scrubber", func() { s.scrubber.run(ctx) })
	s.goSafe("flusher", func() { s.flush(ctx) })
	s.goSafe("watchdog", func() { s.registry.Watch(ctx, o.Watch) })
	return nil
}

// goSafe runs fn on a goroutine that cannot take the process down.
func (s *Store) goSafe(name string, fn func()) {
	s.background.Add(1)
	go func() {
		defer s.background.Done()
		var err error
		defer s.contain(name, &err)
		fn()
	}()
}

// Close finishes background work, makes everything durable and closes the
// engine and the backend. Operations still running may fail with ErrClosed.
func (s *Store) Close() error {
	if s.closing.Swap(true) {
		return nil
	}
	err := s.settleContents()
	s.closed.Store(true)
	s.stop()
	s.background.Wait()
	s.registry.Close()
	s.open.close()
	return errors.Join(err, s.endRun(), s.engine.Close(), s.blobs.Close())
}

// Sync returns nil once every change that was visible before the call is
// durable: it survives a power cut. Concurrent calls share one fsync. On an
// error the store is read-only.
//
// For a ctx without an Origin it also waits, at most 100 ms, until the observers
// have dealt with those changes: a client that is answered after Sync then sees
// them through a mount. An adapter that observes calls with its Origin and never
// waits for itself.
func (s *Store) Sync(ctx context.Context) (err error) {
	if ended := s.follow(ctx, "sync", 0); ended != nil {
		defer func() { ended(err) }()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = s.engineError(s.engine.Sync())
	if err == nil && originOf(ctx) == 0 {
		s.settle(ctx)
	}
	return err
}

// follow tells Options.Began that an operation begins, and returns what is to be
// told its result; nil: nothing.
func (s *Store) follow(ctx context.Context, op string, ino Ino) (ended func(error)) {
	if s.began == nil {
		return nil
	}
	return s.began(ctx, op, ino)
}

// Registry returns the registry of the store's locks.
func (s *Store) Registry() *poison.Registry { return s.registry }

// DAVLocks returns the table of WebDAV locks.
func (s *Store) DAVLocks() *LockTable { return s.davLocks }

// Now returns the store's time.
func (s *Store) Now() time.Time { return s.now() }

// EngineStats returns the metadata engine's figures.
func (s *Store) EngineStats() meta.Stats { return s.engine.Stats() }

package fuse

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"engramfs/store"
)

// fileSystem answers the kernel's requests from a store.
type fileSystem struct {
	// What is not implemented here the kernel is told not to ask again: ACCESS,
	// which it never asks a mount with default_permissions, IOCTL and POLL.
	gofuse.RawFileSystem

	// Immutable after newFileSystem.
	o      Options
	store  *store.Store
	log    *slog.Logger
	origin store.Origin
	ctx    context.Context // carries origin; never canceled
	table  *table
	files  handles[*openFile]
	dirs   handles[*dirHandle]

	// Immutable after Init.
	kernel   kernelCache
	backings backings // nil: the kernel takes no files
	device   int      // a descriptor of the connection to the kernel

	nativeWriters atomic.Int64 // native writers of all inodes
	unpinning     sync.WaitGroup
	warnNative    sync.Once
	panics        panicLog
}

var _ gofuse.RawFileSystem = (*fileSystem)(nil)

// newFileSystem returns a file system that is ready to be served once. It is
// closed by OnUnmount, which the server calls when the mount has ended.
func newFileSystem(o Options) *fileSystem {
	fs := &fileSystem{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(),
		o:             o, store: o.Store, log: o.Logger,
		origin: store.NewOrigin(),
		table:  newTable(),
	}
	if fs.log == nil {
		fs.log = slog.New(slog.DiscardHandler)
	}
	fs.ctx = store.WithOrigin(context.Background(), fs.origin)
	fs.files.init()
	fs.dirs.init()
	return fs
}

// String is the default name of the mount.
func (fs *fileSystem) String() string { return "engramfs" }

// Init is called by the server before the first request.
func (fs *fileSystem) Init(server *gofuse.Server) {
	fs.kernel = server
	takes := server.KernelSettings().Flags64()&gofuse.CAP_PASSTHROUGH != 0
	if takes && !fs.o.NoPassthrough && !fs.o.Sync && fs.o.Integrity != IntegrityStrict {
		fs.backings = server
	}
}

// OnUnmount is called by the server after the last request. A mount that is
// detached or aborted ends without closing its files.
func (fs *fileSystem) OnUnmount() {
	for _, f := range fs.files.takeAll() {
		fs.closeFile(f)
	}
	fs.dirs.takeAll()
	fs.table.each(func(ino store.Ino) { fs.forget(ino, math.MaxUint64) })
	fs.unpinning.Wait()
	if locks := fs.store.FileLocks(); locks != nil {
		if err := locks.ReleaseOrigin(fs.origin); err != nil {
			fs.log.Error("release the locks of the mount", "err", err)
		}
	}
}

// committed makes a change durable if the mount was asked to.
func (fs *fileSystem) committed(ctx context.Context) error {
	if !fs.o.Sync {
		return nil
	}
	return fs.store.Sync(ctx)
}

// handles gives open files their numbers.
type handles[T any] struct {
	next atomic.Uint64

	// mu protects the field below.
	mu   sync.RWMutex
	open map[uint64]T
}

func (h *handles[T]) init() { h.open = make(map[uint64]T) }

func (h *handles[T]) add(v T) uint64 {
	fh := h.next.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[fh] = v
	return fh
}

func (h *handles[T]) get(fh uint64) (T, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	v, ok := h.open[fh]
	return v, ok
}

func (h *handles[T]) take(fh uint64) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.open[fh]
	delete(h.open, fh)
	return v, ok
}

func (h *handles[T]) takeAll() []T {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]T, 0, len(h.open))
	for fh, v := range h.open {
		all = append(all, v)
		delete(h.open, fh)
	}
	return all
}

// each calls fn with every open file. fn must not open or close one.
func (h *handles[T]) each(fn func(T)) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, v := range h.open {
		fn(v)
	}
}

func (h *handles[T]) len() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.open)
}

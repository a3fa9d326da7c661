package fuse

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store"
)

// tableShards is the number of parts of a table, a power of two.
const tableShards = 64

// table is what the kernel refers to: the inodes it has looked up or has open.
type table struct {
	shards [tableShards]tableShard
	// asked counts the calls of known: every change that somebody else makes asks
	// for its inodes, after it is made.
	asked atomic.Uint64
}

type tableShard struct {
	// mu protects the map and the entries in it. It is held for a few
	// instructions only, never across a call of the store or of the kernel.
	mu      sync.Mutex
	entries map[store.Ino]*entry
}

// openMode is how the open handles of an inode are served. It is the same for
// all of them, and stays until the last is closed.
type openMode uint8

const (
	modeNone   openMode = iota // not open
	modeCached                 // through the store, with the kernel's page cache
	modeNative                 // by the kernel from the content's own file
)

// entry is one inode in the table. It stays while the kernel refers to it or has
// it open.
//
// INVARIANT: mode == modeNone || opens > 0; nativeWriters <= opens;
// backing != 0 only if mode == modeNative.
type entry struct {
	lookups uint64 // references of the kernel: replies that named the inode, less FORGETs
	opens   int    // open handles

	mode          openMode
	nativeWriters int
	file          *os.File      // what is registered
	hold          *store.Handle // keeps it the inode's content; nil unless mode is modeNative
	backing       int32         // the kernel's id of the registered file
	deciding      chan struct{} // closed once the first opener has decided the mode; nil: nobody decides

	// cached is the content's version that the kernel's pages are of; valid if hasCached.
	cached    uint64
	hasCached bool
	looked    bool          // an open handle has compared them
	looking   chan struct{} // closed once the first handle has; nil: nobody is at it

	locked  bool           // somebody has asked for a file lock since the first open
	lockers map[uint64]int // open files by the owners that have taken POSIX locks through them
	flushed time.Time      // when a descriptor of a file with locks was last closed

	// removed is what the inode was when its last name was removed. It is what the
	// kernel is told once the store has removed the inode too.
	removed *store.Attr
	// pin keeps a file that a rename has replaced, until the kernel forgets it.
	pin *store.Pin
}

func newTable() *table {
	t := new(table)
	for i := range t.shards {
		t.shards[i].entries = make(map[store.Ino]*entry)
	}
	return t
}

func (t *table) shard(ino store.Ino) *tableShard { return &t.shards[ino&(tableShards-1)] }

// entryLocked returns the entry of ino, a new one if there is none. A new entry
// must get a reference before the lock is released.
func (s *tableShard) entryLocked(ino store.Ino) *entry {
	e := s.entries[ino]
	if e == nil {
		e = new(entry)
		s.entries[ino] = e
	}
	return e
}

// dropLocked removes the entry if nothing refers to it, and returns its pin,
// which the caller closes without the lock.
func (s *tableShard) dropLocked(ino store.Ino, e *entry) (pin *store.Pin) {
	if e.lookups > 0 {
		return nil
	}
	pin = e.pin
	e.removed, e.pin = nil, nil
	if e.opens == 0 {
		delete(s.entries, ino)
	}
	return pin
}

// known reports whether the kernel may hold anything about ino. It is for those
// who tell the kernel of changes of others, and they must ask after the change:
// a reply on its way that was read before then reads again.
func (t *table) known(ino store.Ino) bool {
	t.asked.Add(1)
	return ino == store.RootIno || t.has(ino)
}

func (t *table) has(ino store.Ino) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[ino] != nil
}

// each calls fn with every inode in the table, in no order. Inodes that come or
// go meanwhile may be missing. fn is called without a lock.
func (t *table) each(fn func(store.Ino)) {
	var inos []store.Ino
	for i := range t.shards {
		s := &t.shards[i]
		inos = inos[:0]
		s.mu.Lock()
		for ino := range s.entries {
			inos = append(inos, ino)
		}
		s.mu.Unlock()
		for _, ino := range inos {
			fn(ino)
		}
	}
}

// len returns the number of inodes in the table.
func (t *table) len() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

// remember counts a reference that a reply is about to give to the kernel.
func (t *table) remember(ino store.Ino) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entryLocked(ino).lookups++
}

// forget takes n references away. With the last it returns the inode's pin, if
// there is one, for the caller to close.
func (t *table) forget(ino store.Ino, n uint64) *store.Pin {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[ino]
	if e == nil {
		return nil
	}
	e.lookups -= min(n, e.lookups)
	return s.dropLocked(ino, e)
}

// keep hands a pin over until the kernel forgets the inode. It reports false if
// the kernel does not know it, or it has one: the pin stays the caller's.
func (t *table) keep(pin *store.Pin) bool {
	s := t.shard(pin.Ino())
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[pin.Ino()]
	if e == nil || e.lookups == 0 || e.pin != nil {
		return false
	}
	e.pin = pin
	return true
}

// bury remembers what a removed inode was, for as long as the kernel refers to it.
func (t *table) bury(a store.Attr) {
	s := t.shard(a.Ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[a.Ino]; e != nil && e.lookups > 0 {
		e.removed = &a
	}
}

// buried returns what a removed inode was, as edit leaves it.
func (t *table) buried(ino store.Ino, edit func(*store.Attr)) (store.Attr, bool) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[ino]
	if e == nil || e.removed == nil {
		return store.Attr{}, false
	}
	if edit != nil {
		edit(e.removed)
	}
	return *e.removed, true
}

// closing reports whether a descriptor of the file was closed so lately that its
// RELEASE may be on the way.
func (t *table) closing(ino store.Ino) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[ino]
	return e != nil && time.Since(e.flushed) < releaseTime
}

// writtenNatively reports whether a native writer has the inode open.
func (t *table) writtenNatively(ino store.Ino) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[ino]
	return e != nil && e.nativeWriters > 0
}

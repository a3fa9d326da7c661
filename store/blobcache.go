package store

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"engramfs/store/blob"
)

// openBlob is a blob that is open for reading, with its checksums as far as they
// were needed. Readers share it; it outlives the blob's name.
type openBlob struct {
	id   blob.ID
	file blob.File
	// unsealed is set, under the inode's lock, before the blob's bytes are
	// changed in place: its checksums then prove nothing.
	unsealed atomic.Bool
	cuts     *cutMark

	// Protected by blobCache.mu.
	refs int
	// ino is the inode that it is read for, and mixed that it is read for others,
	// too: a copy shares the blob, or did so when the reader began.
	ino        Ino
	mixed      bool
	garbage    bool      // nobody refers to it any more: the collector waits for its readers
	prev, next *openBlob // in the list of unreferenced blobs

	// mu protects the field below.
	mu   sync.Mutex
	sums map[uint32][]byte // by group
}

// cutMark tells the readers of a blob that it was cut in place: a read at the same time
// may have seen zeros where the end was.
type cutMark struct {
	// n counts, under the inode's lock, how often the blob was about to be cut, and to is
	// the least size that it got.
	n  atomic.Uint64
	to atomic.Int64
}

// blobCache keeps blobs open: those being read, and the most recently used
// others, so that a file read in small pieces is not opened for each.
type blobCache struct {
	s    *Store        // immutable
	gets atomic.Uint64 // how often a blob was asked for

	// mu protects the fields below.
	mu    sync.Mutex
	blobs map[blob.ID]*openBlob
	// old are those that were forgotten and are still read.
	old   map[blob.ID][]*openBlob
	idle  openBlob // sentinel of the list of unreferenced blobs, least recently used last
	idles int
}

const maxIdleBlobs = 256

func newBlobCache(s *Store) *blobCache {
	c := &blobCache{s: s, blobs: make(map[blob.ID]*openBlob), old: make(map[blob.ID][]*openBlob)}
	c.idle.prev, c.idle.next = &c.idle, &c.idle
	return c
}

// get returns the blob open for reading as the content of ino, until put.
func (c *blobCache) get(id blob.ID, ino Ino) (*openBlob, error) {
	if b := c.use(id, ino); b != nil {
		return b, nil
	}
	c.gets.Add(1)
	f, err := c.s.blobs.Open(id, false)
	if err != nil {
		return nil, fmt.Errorf("open content %s: %w", id, err)
	}
	c.mu.Lock()
	b := c.blobs[id]
	if b != nil { // opened by somebody else meanwhile
		c.take(b, ino)
		c.mu.Unlock()
		return b, errors.Join(f.Close())
	}
	b = &openBlob{id: id, file: f, refs: 1, ino: ino, cuts: c.mark(id), sums: make(map[uint32][]byte)}
	c.blobs[id] = b
	c.mu.Unlock()
	return b, nil
}

// mark returns the mark for a blob that nobody reads, or only those who have it open from
// before it was forgotten. The caller holds mu.
func (c *blobCache) mark(id blob.ID) *cutMark {
	if old := c.old[id]; len(old) > 0 {
		return old[0].cuts
	}
	m := &cutMark{}
	m.to.Store(math.MaxInt64)
	return m
}

func (c *blobCache) use(id blob.ID, ino Ino) *openBlob {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.blobs[id]
	if b != nil {
		c.take(b, ino)
	}
	return b
}

// readFor reports whether somebody reads the blob for another inode than ino. The
// caller holds ino's lock for writing and knows that no other refers to the blob
// now: so nobody begins to.
func (c *blobCache) readFor(id blob.ID, ino Ino) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	other := func(b *openBlob) bool { return b.refs > 0 && (b.mixed || b.ino != ino) }
	b := c.blobs[id]
	return b != nil && other(b) || slices.ContainsFunc(c.old[id], other)
}

// take adds a reference for ino. The caller holds mu.
func (c *blobCache) take(b *openBlob, ino Ino) {
	c.gets.Add(1)
	if b.refs == 0 {
		c.unpark(b)
		b.ino, b.mixed, b.cuts = ino, false, c.mark(b.id)
	}
	b.mixed = b.mixed || b.ino != ino
	b.refs++
}

// unpark takes b out of the idle list. The caller holds mu.
func (c *blobCache) unpark(b *openBlob) {
	b.prev.next, b.next.prev = b.next, b.prev
	b.prev, b.next = nil, nil
	c.idles--
}

// put gives a blob back.
func (c *blobCache) put(b *openBlob) {
	c.mu.Lock()
	if b.refs--; b.refs > 0 {
		c.mu.Unlock()
		return
	}
	if b.garbage {
		delete(c.blobs, b.id)
	}
	if c.blobs[b.id] != b { // forgotten meanwhile
		c.old[b.id] = slices.DeleteFunc(c.old[b.id], func(o *openBlob) bool { return o == b })
		if len(c.old[b.id]) == 0 {
			delete(c.old, b.id)
		}
		c.mu.Unlock()
		c.closeFile(b)
		if b.garbage {
			c.s.collector.wake()
		}
		return
	}
	b.prev, b.next = &c.idle, c.idle.next
	b.prev.next, b.next.prev = b, b
	c.idles++
	var victim *openBlob
	if c.idles > maxIdleBlobs {
		victim = c.idle.prev
		c.unpark(victim)
		delete(c.blobs, victim.id)
	}
	c.mu.Unlock()
	if victim != nil {
		c.closeFile(victim)
	}
}

// forget makes the next get open the blob anew. Readers that have it finish on
// what they have.
func (c *blobCache) forget(id blob.ID) {
	c.mu.Lock()
	b := c.blobs[id]
	delete(c.blobs, id)
	if b != nil {
		b.unsealed.Store(true) // unseal does not find it any more
		if b.refs > 0 {
			c.old[id] = append(c.old[id], b)
		}
	}
	idle := b != nil && b.refs == 0
	if idle {
		c.unpark(b)
	}
	c.mu.Unlock()
	if idle {
		c.closeFile(b)
	}
}

// discard is forget for a blob without references. It reports whether nobody
// reads the blob, so that it can be removed; otherwise the collector is woken
// when the last reader is done.
func (c *blobCache) discard(id blob.ID) bool {
	c.mu.Lock()
	b := c.blobs[id]
	if b != nil && b.refs > 0 {
		b.garbage = true
		c.mu.Unlock()
		return false
	}
	c.mu.Unlock()
	c.forget(id)
	return true
}

// unseal tells the readers of a blob that its bytes are about to change.
func (c *blobCache) unseal(id blob.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.blobs[id]; b != nil {
		b.unsealed.Store(true)
	}
}

// cut tells the readers of a blob that it is about to be cut to size bytes. The caller
// holds the inode's lock for writing.
func (c *blobCache) cut(id blob.ID, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mark(id)
	if b := c.blobs[id]; b != nil {
		m = b.cuts
	}
	m.to.Store(min(m.to.Load(), size))
	m.n.Add(1)
}

// close closes what nobody reads; readers close the rest.
func (c *blobCache) close() {
	c.mu.Lock()
	var files []*openBlob
	for id, b := range c.blobs {
		if b.refs == 0 {
			files = append(files, b)
		}
		delete(c.blobs, id)
	}
	c.idle.prev, c.idle.next, c.idles = &c.idle, &c.idle, 0
	c.mu.Unlock()
	for _, b := range files {
		c.closeFile(b)
	}
}

func (c *blobCache) closeFile(b *openBlob) {
	if err := b.file.Close(); err != nil {
		c.s.log.Warn("content not closed", "blob", b.id, "err", err)
	}
}

// forgetGroup makes the next reader of a record of the blob ask the engine.
func (c *blobCache) forgetGroup(id blob.ID, group uint32) {
	c.mu.Lock()
	b := c.blobs[id]
	c.mu.Unlock()
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sums, group)
}

package store

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"engramfs/store/meta"
	"engramfs/store/poison"
)

// node is an inode in memory: its lock with the value behind it, and how it is
// used. While it is referenced, or poisoned, it stays in the cache, so that
// there is never more than one lock for one inode.
type node struct {
	ino   Ino
	guard *poison.Guarded[inode]

	// opens counts open handles. It is raised under the guard's read lock and
	// looked at under its write lock, so that an unlink either sees the handle
	// or the handle sees the unlink.
	opens   atomic.Int32
	writers atomic.Int32 // those of them that may write

	// Protected by the shard's mu.
	refs       int
	prev, next *node // in the shard's list of unreferenced nodes

	loading chan struct{} // closed once guard and err are set
	err     error         // why loading failed
}

const nodeShards = 64

// nodeCache holds the inodes in use and the most recently used others, at most
// limit of these.
type nodeCache struct {
	// Immutable after newNodeCache.
	family *poison.Family
	engine meta.Engine
	limit  int // unreferenced nodes per shard

	shards [nodeShards]nodeShard
}

type nodeShard struct {
	mu sync.Mutex

	nodes map[Ino]*node
	idle  node // sentinel of the list of unreferenced nodes, least recently used last
	idles int
	_     [40]byte // keeps the mutexes of two shards apart
}

func newNodeCache(engine meta.Engine, limit int) *nodeCache {
	c := &nodeCache{engine: engine, limit: max(limit/nodeShards, 1)}
	for i := range c.shards {
		sh := &c.shards[i]
		sh.nodes = make(map[Ino]*node)
		sh.idle.prev, sh.idle.next = &sh.idle, &sh.idle
	}
	return c
}

func (c *nodeCache) shard(ino Ino) *nodeShard {
	return &c.shards[(uint64(ino)*0x9e3779b97f4a7c15)>>58]
}

// acquire returns the node of ino, loaded from the engine if it was not in
// memory, and keeps it there until release. It returns ErrStale for an inode
// that does not exist.
func (c *nodeCache) acquire(ino Ino) (*node, error) {
	sh := c.shard(ino)
	sh.mu.Lock()
	n := sh.nodes[ino]
	if n != nil {
		sh.use(n)
		sh.mu.Unlock()
		if err := n.wait(); err != nil {
			c.release(n)
			return nil, err
		}
		return n, nil
	}
	n = &node{ino: ino, refs: 1, loading: make(chan struct{})}
	sh.nodes[ino] = n
	sh.mu.Unlock()

	c.load(n)
	if n.err != nil {
		c.release(n)
		return nil, n.err
	}
	return n, nil
}

// load reads n's record and wakes those who wait for it. The deferred close
// keeps a panicking engine from leaving them waiting for ever.
func (c *nodeCache) load(n *node) {
	n.err = errLoad
	defer close(n.loading)
	v, err := readInode(c.engine, n.ino)
	if n.err = err; err == nil {
		n.guard = poison.NewIn(c.family, uint64(n.ino), v)
	}
}

var errLoad = errors.New("store: loading the inode did not finish")

// readInode returns the inode as the engine has it, or ErrStale.
func readInode(r meta.Reader, ino Ino) (inode, error) {
	b, err := r.Get(inoKey(keyInode, ino))
	if errors.Is(err, meta.ErrNotFound) {
		return inode{}, fmt.Errorf("%w: %d", ErrStale, ino)
	}
	if err != nil {
		return inode{}, fmt.Errorf("load inode %d: %w", ino, err)
	}
	return decodeInode(ino, b)
}

// peek returns the node of ino if it is in memory, else nil. It keeps it there until release.
func (c *nodeCache) peek(ino Ino) *node {
	sh := c.shard(ino)
	sh.mu.Lock()
	n := sh.nodes[ino]
	if n == nil {
		sh.mu.Unlock()
		return nil
	}
	sh.use(n)
	sh.mu.Unlock()
	if n.wait() != nil {
		c.release(n)
		return nil
	}
	return n
}

// insert adds a node for an inode that was just created, if there is none.
func (c *nodeCache) insert(v inode) {
	n := &node{ino: v.Ino, guard: poison.NewIn(c.family, uint64(v.Ino), v), loading: closedChan}
	sh := c.shard(v.Ino)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.nodes[v.Ino] == nil {
		sh.nodes[v.Ino] = n
		sh.park(n, c.limit)
	}
}

var closedChan = func() chan struct{} { ch := make(chan struct{}); close(ch); return ch }()

// release gives up one reference.
func (c *nodeCache) release(n *node) {
	sh := c.shard(n.ino)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if n.refs--; n.refs > 0 {
		return
	}
	if n.err != nil {
		sh.forget(n)
		return
	}
	sh.park(n, c.limit)
}

// drop takes the node of a removed inode out of the cache. Those who still
// hold it find Nlink 0.
func (c *nodeCache) drop(ino Ino) {
	sh := c.shard(ino)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if n := sh.nodes[ino]; n != nil {
		if n.refs == 0 {
			sh.unpark(n)
		}
		delete(sh.nodes, ino)
	}
}

// each calls yield for every node in memory until it returns false.
func (c *nodeCache) each(yield func(*node) bool) {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		nodes := make([]*node, 0, len(sh.nodes))
		for _, n := range sh.nodes {
			if isClosed(n.loading) && n.err == nil {
				nodes = append(nodes, n)
			}
		}
		sh.mu.Unlock()
		for _, n := range nodes {
			if !yield(n) {
				return
			}
		}
	}
}

// inUse calls yield for every referenced node until it returns false: only
// these can be stuck.
func (c *nodeCache) inUse(yield func(*node) bool) {
	var nodes []*node
	for i := range c.shards {
		sh := &c.shards[i]
		nodes = nodes[:0]
		sh.mu.Lock()
		if len(sh.nodes) > sh.idles {
			for _, n := range sh.nodes {
				if n.refs > 0 && isClosed(n.loading) && n.err == nil {
					nodes = append(nodes, n)
				}
			}
		}
		sh.mu.Unlock()
		for _, n := range nodes {
			if !yield(n) {
				return
			}
		}
	}
}

// wait returns once n is loaded, with the error of loading it. Receiving from a
// closed channel takes the channel's lock; looking at it does not.
func (n *node) wait() error {
	if !isClosed(n.loading) {
		<-n.loading
	}
	return n.err
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// use takes a reference to n. The caller holds mu, as in all methods below.
func (sh *nodeShard) use(n *node) {
	if n.refs == 0 {
		sh.unpark(n)
	}
	n.refs++
}

// park puts an unreferenced node in front of the idle list and evicts from its
// end what is over the limit. A poisoned node is never evicted: what it knows
// is what a reset starts from.
func (sh *nodeShard) park(n *node, limit int) {
	if sh.nodes[n.ino] != n {
		return // dropped, or replaced after a failed load
	}
	n.prev, n.next = &sh.idle, sh.idle.next
	n.prev.next, n.next.prev = n, n
	sh.idles++
	for victim := sh.idle.prev; sh.idles > limit && victim != &sh.idle; {
		before := victim.prev
		if victim.guard.Event() == nil {
			sh.unpark(victim)
			delete(sh.nodes, victim.ino)
		}
		victim = before
	}
}

func (sh *nodeShard) unpark(n *node) {
	if n.prev == nil {
		return
	}
	n.prev.next, n.next.prev = n.next, n.prev
	n.prev, n.next = nil, nil
	sh.idles--
}

func (sh *nodeShard) forget(n *node) {
	if sh.nodes[n.ino] == n {
		delete(sh.nodes, n.ino)
	}
}

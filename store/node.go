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
	opened  atomic.Int64 // when opens was last raised from 0, in ns since 1970
	writers atomic.Int32 // those of them that may write
	pins    atomic.Int32 // counted like opens
	body    atomic.Pointer[body]

	// Protected by the shard's mu.
	refs       int
	prev, next *node // in the shard's list of unreferenced nodes

	loading chan struct{} // closed once guard and err are set
	err     error         // why loading failed
}

// kept reports whether the inode has to stay when it loses its last name. The
// caller holds its lock for writing.
func (n *node) kept() bool { return n.opens.Load()+n.pins.Load() > 0 }

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
	for {
		sh.mu.Lock()
		n := sh.nodes[ino]
		if n == nil {
			break
		}
		sh.use(n)
		sh.mu.Unlock()
		err := n.wait()
		if err == nil {
			return n, nil
		}
		c.release(n)
		if !errors.Is(err, errUnborn) {
			return nil, err
		}
	}
	n := &node{ino: ino, refs: 1, loading: make(chan struct{})}
	sh.nodes[ino] = n
	sh.mu.Unlock()

	c.load(n)
	if n.err != nil {
		return nil, n.err
	}
	return n, nil
}

// load reads n's record and wakes those who wait for it. A node that cannot be
// loaded, also because the engine panicked, leaves the cache at once: the next
// who asks for it tries again.
func (c *nodeCache) load(n *node) {
	n.err = errLoad
	defer func() {
		if n.err != nil {
			c.forget(n)
		}
		close(n.loading)
	}()
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

// reserve adds nodes for inodes that are about to be created, before the engine
// has them. Whoever asks for one waits until born or abandon: otherwise it could
// be loaded, changed and evicted before its creator has put it here, with the
// attributes it was created with.
//
// ErrDamaged: one of them exists already.
func (c *nodeCache) reserve(created []inode) ([]*node, error) {
	if len(created) == 0 {
		return nil, nil
	}
	loading := make(chan struct{})
	nodes := make([]*node, 0, len(created))
	for i := range created {
		n := &node{ino: created[i].Ino, refs: 1, loading: loading}
		if err := c.add(n); err != nil {
			c.abandon(nodes)
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// add puts the node of a reservation into the cache.
func (c *nodeCache) add(n *node) error {
	sh := c.shard(n.ino)
	for {
		sh.mu.Lock()
		other := sh.nodes[n.ino]
		if other == nil {
			sh.nodes[n.ino] = n
			sh.mu.Unlock()
			return nil
		}
		sh.mu.Unlock()
		if other.wait() == nil { // else it has found out that there is no such inode, and leaves
			return fmt.Errorf("%w: inode %d is to be created and exists", ErrDamaged, n.ino)
		}
	}
}

// born ends a reservation: created is in the engine and can be seen.
func (c *nodeCache) born(nodes []*node, created []inode) {
	if len(nodes) == 0 {
		return
	}
	for i, n := range nodes {
		n.guard = poison.NewIn(c.family, uint64(n.ino), created[i])
	}
	close(nodes[0].loading)
	for _, n := range nodes {
		c.release(n)
	}
}

// errUnborn says that the creation of an inode ended early: it is, or it is not,
// in the engine.
var errUnborn = errors.New("store: creating the inode did not finish")

// abandon ends a reservation after which the engine has to be asked.
func (c *nodeCache) abandon(nodes []*node) {
	if len(nodes) == 0 || isClosed(nodes[0].loading) {
		return
	}
	for _, n := range nodes {
		n.guard, n.err = nil, errUnborn
		c.forget(n)
	}
	close(nodes[0].loading)
}

// forget takes a node that could not be loaded out of the cache.
func (c *nodeCache) forget(n *node) {
	sh := c.shard(n.ino)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.nodes[n.ino] == n {
		delete(sh.nodes, n.ino)
	}
}

// release gives up one reference.
func (c *nodeCache) release(n *node) {
	sh := c.shard(n.ino)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if n.refs--; n.refs > 0 {
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
		return // dropped, or never loaded
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

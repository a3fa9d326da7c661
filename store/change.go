package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"slices"

	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/poison"
)

// change is one atomic change of the tree under construction. An operation's
// function computes it into this overlay: nothing shared is touched until the
// whole of it is known, and then it becomes one batch of the engine.
type change struct {
	s      *Store
	op     string
	origin Origin
	now    int64 // the one time of the whole change

	locks *lockSet

	held    []heldInode
	created []inode
	newborn []*node // of created, once they are about to be in the engine
	writes  []write
	entries []entryChange
	events  []Event

	files, dirs, bytes int64     // what the change adds to the usage
	refs               []blob.ID // blobs that got a reference
	drops              []blob.ID // blobs that lost one
	orphans            bool      // the collector has new work
	orphanDirs         int64     // directories that become orphans, less those that were
	labels             bool      // the labeler has
	moved              bool      // a directory has another path
	quiet              bool      // its entries are below a directory that nobody can see yet
	counting           bool      // usageMu is held: the batch is counted before a reset looks
	appended           bool      // the batch is in the engine
}

// heldInode is an inode whose lock the change holds.
type heldInode struct {
	node    *node
	cur     *inode // behind the lock
	next    inode  // the overlay
	edited  bool
	removed bool

	readOnly bool
	absorbed *blob.Stat // what next has of a natively written file
}

// write is one record of the batch; a nil value deletes.
type write struct{ key, value []byte }

// entryChange is what the dirent cache has to learn once the batch is in.
type entryChange struct {
	parent Ino
	name   string
	d      dirent // zero: no such entry
	ino    Ino    // of d, or what the removed entry meant
}

// errRelock says which inode an operation's function needs that is not locked yet.
type errRelock struct{ ino Ino }

func (e *errRelock) Error() string { return fmt.Sprintf("inode %d is not locked", e.ino) }

// maxRelocks bounds how often an operation starts again because the tree
// changed between its look and its locks.
const maxRelocks = 1000

// lockSet is the inodes that an operation locks.
type lockSet struct {
	write []Ino
	read  []Ino // stay as they are while the change is made, like the source of a copy

	// background: nobody waits for the change, and no drill strikes in it. A
	// drill is for the next change that a user makes.
	background bool
}

// need adds ino to the inodes locked for writing.
func (l *lockSet) need(ino Ino) {
	l.write = append(l.write[:len(l.write):len(l.write)], ino)
}

// first returns the inode that an operation is about, 0 if it is not known.
func (l *lockSet) first() Ino {
	if len(l.write) == 0 {
		return 0
	}
	return l.write[0]
}

// forget takes ino out of the set, and reports whether it was in it.
func (l *lockSet) forget(ino Ino) bool {
	n := len(l.write) + len(l.read)
	is := func(i Ino) bool { return i == ino }
	l.write = slices.DeleteFunc(slices.Clone(l.write), is)
	l.read = slices.DeleteFunc(slices.Clone(l.read), is)
	return len(l.write)+len(l.read) < n
}

// change runs fn as one atomic change: it locks the inodes of touch in order,
// checks all of them for poison, lets fn compute the change, appends it to the
// engine as one batch, publishes it, unlocks and emits its events. It is the
// only place that takes an inode's lock for writing.
//
// An operation need not know every inode in advance: if fn asks for one that is
// not in touch, the locks are released and all starts again with it. So fn may
// run several times and must change nothing but its change. An error from fn
// means that nothing has happened.
//
// If anything inside panics or calls runtime.Goexit, all the locks are poisoned
// before they are released, and the error (for a panic) matches ErrPoisoned.
func (s *Store) change(ctx context.Context, op string, touch []Ino, fn func(*change) error) error {
	if err := s.space.take(s.now().UnixNano(), changeCost); err != nil {
		return err
	}
	return s.changeLocked(ctx, op, lockSet{write: touch}, fn)
}

// changeFreeing is change for an operation that frees space, and so may use the reserve.
func (s *Store) changeFreeing(ctx context.Context, op string, touch []Ino, fn func(*change) error) error {
	return s.changeLocked(ctx, op, lockSet{write: touch}, fn)
}

func (s *Store) changeLocked(ctx context.Context, op string, locks lockSet, fn func(*change) error) (err error) {
	if ended := s.follow(ctx, op, locks.first()); ended != nil {
		err = &PanicError{Op: op} // unless the goroutine exits, it is overwritten
		defer func() { ended(err) }()
	}
	defer s.contain(op, &err)
	if err := s.writable(); err != nil {
		return err
	}
	var gone Ino // the inode that was last found not to exist
	for range maxRelocks {
		c := &change{s: s, op: op, origin: originOf(ctx), now: s.now().UnixNano(), locks: &locks}
		err := c.attempt(fn)
		var (
			more  *errRelock
			stale *staleTouch
		)
		switch {
		case err == nil:
			return c.hit(faultChangeUnlocked)
		case errors.As(err, &more):
			locks.forget(more.ino)
			locks.need(more.ino)
		case errors.As(err, &stale) && stale.ino != gone:
			// What a name meant when it was looked at was overtaken. If fn
			// comes back with the same inode, it is really that which is gone.
			gone = stale.ino
			locks.forget(gone)
		default:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: the tree changed %d times meanwhile", op, maxRelocks)
}

// contain turns a panic outside every write section into a *PanicError. Inside a
// section the lock has done so already.
func (s *Store) contain(op string, err *error) {
	if r := recover(); r != nil {
		s.counters.panics.Add(1)
		died := &PanicError{Op: op, Value: r, Stack: debug.Stack()}
		s.log.Error("operation panicked", "op", op, "panic", r, "stack", string(died.Stack))
		*err = died
	}
}

// staleTouch says which inode of a lockSet does not exist.
type staleTouch struct {
	ino Ino
	err error
}

func (e *staleTouch) Error() string { return e.err.Error() }
func (e *staleTouch) Unwrap() error { return e.err }

// attempt runs fn once, and does what follows a batch that is in the engine also
// if publishing it has died.
func (c *change) attempt(fn func(*change) error) (err error) {
	published := false
	defer func() {
		switch {
		case c.appended:
			c.finish(published)
		case c.counting:
			c.s.usageMu.RUnlock()
		}
	}()
	err = c.run(fn)
	published = err == nil
	return err
}

// run makes one attempt.
func (c *change) run(fn func(*change) error) error {
	set := c.locks
	c.held = make([]heldInode, 0, len(set.write)+len(set.read)) // it never grows: who needs more starts over
	defer func() {
		for i := range c.held {
			c.s.nodes.release(c.held[i].node)
		}
	}()
	var few [4]poison.Locker
	write, err := c.acquire(few[:0], set.write, false)
	if err != nil {
		return err
	}
	read, err := c.acquire(nil, set.read, true)
	if err != nil {
		return err
	}
	return poison.Atomically(c.op, write, read, func(sec *poison.Section) error {
		for i := range c.held {
			h := &c.held[i]
			h.cur = poison.Held(sec, h.node.guard)
		}
		if err := c.hit(faultChangeLocked); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
		if err := c.hit(faultChangeComputed); err != nil {
			return err
		}
		if c.empty() {
			return nil
		}
		c.addEvents()
		c.addLabels()
		return c.commit()
	})
}

// commit makes the overlay the truth, and then visible. Until it is visible,
// whoever asks for an inode that the change creates waits.
func (c *change) commit() (err error) {
	if c.newborn, err = c.s.nodes.reserve(c.created); err != nil {
		return err
	}
	published := false
	defer func() {
		if !published {
			c.s.nodes.abandon(c.newborn)
		}
	}()
	if c.files != 0 || c.dirs != 0 || c.bytes != 0 {
		c.s.usageMu.RLock()
		c.counting = true
	}
	if err := c.append(); err != nil {
		return err
	}
	if err := c.publish(); err != nil {
		return err
	}
	published = true
	return nil
}

// acquire takes the nodes of inos, each once, and appends their locks to locks.
func (c *change) acquire(locks []poison.Locker, inos []Ino, readOnly bool) ([]poison.Locker, error) {
	for _, ino := range inos {
		if len(c.held) < 16 && slices.ContainsFunc(c.held, func(h heldInode) bool { return h.node.ino == ino }) {
			continue
		}
		n, err := c.s.nodes.acquire(ino)
		if err != nil {
			if errors.Is(err, ErrStale) {
				err = &staleTouch{ino, err}
			}
			return nil, err
		}
		c.held = append(c.held, heldInode{node: n, readOnly: readOnly})
		locks = append(locks, n.guard)
	}
	return locks, nil
}

// hit lets a drill on one of the inodes locked for writing strike at point.
func (c *change) hit(point string) error {
	if c.locks.background || len(c.locks.write) == 0 {
		return nil
	}
	return c.s.faults.hit(point, c.locks.write...)
}

// empty reports whether there is nothing to append.
func (c *change) empty() bool {
	edited := slices.ContainsFunc(c.held, func(h heldInode) bool { return h.edited || h.removed })
	return !edited && len(c.created)+len(c.writes) == 0
}

// append puts the whole change into the engine as one batch.
func (c *change) append() error {
	c.s.collector.dirs.Add(max(c.orphanDirs, 0)) // before the batch: see reachable
	err := c.s.engine.Update(func(tx meta.Txn) error {
		buf := make([]byte, 0, 192) // most records are shorter
		put := func(v *inode) {
			buf = appendInode(buf[:0], v)
			tx.Put(inoKey(keyInode, v.Ino), buf)
		}
		for i := range c.held {
			switch h := &c.held[i]; {
			case h.removed:
				tx.Delete(inoKey(keyInode, h.node.ino))
			case h.edited:
				put(&h.next)
			}
		}
		for i := range c.created {
			put(&c.created[i])
		}
		for _, w := range c.writes {
			if w.value == nil {
				tx.Delete(w.key)
			} else {
				tx.Put(w.key, w.value)
			}
		}
		for _, id := range c.refs {
			tx.Add(blobKey(keyBlobRefs, id), 1)
		}
		for _, id := range c.drops {
			tx.Add(blobKey(keyBlobRefs, id), -1)
			tx.Put(garbageKey(id, c.s.garbageSeq.Add(1)), nil)
		}
		for _, u := range []struct {
			key   []byte
			delta int64
		}{{usageFiles, c.files}, {usageDirs, c.dirs}, {usageBytes, c.bytes}} {
			if u.delta != 0 {
				tx.Add(u.key, u.delta)
			}
		}
		return nil
	})
	if err != nil {
		return c.s.engineError(err)
	}
	c.appended = true
	for i := range c.held {
		if h := &c.held[i]; h.edited && h.next.content.kind == contentBlob && !h.next.content.sealed && h.next.Version != h.cur.Version {
			c.s.flusher.wrote(h.node.ino)
		}
	}
	c.s.flusher.mark()
	return nil
}

// publish makes the change visible in memory. From here on nothing can be taken
// back: whatever goes wrong poisons the locks.
func (c *change) publish() error {
	if err := c.hit(faultChangeAppended); err != nil {
		return err
	}
	for i := range c.held {
		h := &c.held[i]
		if h.edited || h.removed {
			*h.cur = h.next
		}
		if h.absorbed != nil {
			h.node.share().absorbed(*h.absorbed)
		}
		if i == 0 {
			if err := c.hit(faultChangePublishing); err != nil {
				return err
			}
		}
	}
	for _, e := range c.entries {
		c.s.dirents.set(e.parent, e.name, e.d)
	}
	c.s.nodes.born(c.newborn, c.created)
	return c.hit(faultChangePublished)
}

// finish does what needs no lock once the change is made. If it was not
// published, its inodes are poisoned and stay in memory until they are reset.
func (c *change) finish(published bool) {
	for i := range c.held {
		if h := &c.held[i]; h.removed && published {
			c.s.nodes.drop(h.node.ino)
		}
	}
	defer func() { // also if counting dies
		c.s.collector.dirs.Add(min(c.orphanDirs, 0))
		if len(c.drops) > 0 || c.orphans {
			c.s.collector.wake()
		}
		if c.labels {
			c.labelsWrong()
		}
		c.s.emit(c.events, c.locks.background)
	}()
	if c.counting {
		defer c.s.usageMu.RUnlock()
		c.s.addUsage(c.files, c.dirs, c.bytes)
	}
}

// lookHeld returns the held inode with the number ino, or errRelock.
func (c *change) lookHeld(ino Ino) (*heldInode, error) {
	for i := range c.held {
		h := &c.held[i]
		if h.node.ino != ino {
			continue
		}
		if h.removed || h.cur.gone() {
			return nil, fmt.Errorf("%w: %d", ErrStale, ino)
		}
		if !h.edited {
			h.next = *h.cur
		}
		return h, nil
	}
	return nil, &errRelock{ino}
}

// view returns the inode ino as the change sees it so far. The caller must not
// write to it. ErrStale: it no longer exists.
func (c *change) view(ino Ino) (*inode, error) {
	h, err := c.lookHeld(ino)
	if err != nil {
		return nil, err
	}
	return &h.next, nil
}

// lookWritable is lookHeld for an inode that must be locked for writing.
func (c *change) lookWritable(ino Ino) (*heldInode, error) {
	h, err := c.lookHeld(ino)
	if err == nil && h.readOnly {
		return nil, &errRelock{ino}
	}
	return h, err
}

// edit is view for an inode that the caller is going to write to: it becomes
// part of the batch, with its change counter and ctime advanced. ErrLocked: an
// adapter's client has locked the file, and the change is not an adapter's.
func (c *change) edit(ino Ino) (*inode, error) {
	h, err := c.lookWritable(ino)
	if err != nil {
		return nil, err
	}
	if !h.edited {
		if !h.next.IsDir() {
			if err := c.unlocked(ino); err != nil {
				return nil, err
			}
		}
		h.edited = true
		h.next.Change++
		h.next.Ctime = c.now
		c.absorb(h)
	}
	return &h.next, nil
}

// editDir is edit for a directory whose entries change. ErrNotDir: it is none;
// ErrStale: it was removed, alone or with a tree that it is in.
func (c *change) editDir(ino Ino) (*inode, error) {
	v, err := c.view(ino)
	if err != nil {
		return nil, err
	}
	if !v.IsDir() {
		return nil, ErrNotDir
	}
	if v.Nlink == 0 {
		return nil, fmt.Errorf("%w: %d", ErrStale, ino)
	}
	if err := c.s.reachable(ino); err != nil {
		return nil, err
	}
	if v, err = c.edit(ino); err != nil {
		return nil, err
	}
	v.Mtime = c.now
	v.Version = c.s.nextVersion(v.Version)
	return v, nil
}

// put adds a record to the batch. The value must not be nil.
func (c *change) put(key, value []byte) { c.writes = append(c.writes, write{key: key, value: value}) }

// delete removes a record in the batch.
func (c *change) delete(key []byte) { c.writes = append(c.writes, write{key: key}) }

// deletes reports whether the change removes the record key.
func (c *change) deletes(key []byte) bool {
	return slices.ContainsFunc(c.writes, func(w write) bool {
		return w.value == nil && bytes.Equal(w.key, key)
	})
}

// deletePrefix removes every record whose key begins with prefix. They are few:
// one by one leaves less behind in the engine than a range.
func (c *change) deletePrefix(prefix []byte) error {
	err := c.s.engine.Scan(prefix, prefixEnd(prefix), func(key, _ []byte) bool {
		c.delete(bytes.Clone(key))
		return true
	})
	if err != nil {
		return fmt.Errorf("records to be removed: %w", err)
	}
	return nil
}

// entry returns what name means in parent. It is stable if the change holds
// parent, or the inode that the entry names: either is locked by every change
// of the entry.
func (c *change) entry(parent Ino, name string) (dirent, bool, error) {
	for i := range c.held {
		if c.held[i].node.ino == parent {
			return c.s.lookupEntry(parent, name, true)
		}
	}
	return c.s.lookupEntry(parent, name, false)
}

// setEntry makes name in parent mean the inode v.
func (c *change) setEntry(parent Ino, name string, v *inode) {
	d := dirent{ino: v.Ino, typ: v.Mode & ModeType}
	c.put(direntKey(parent, name), appendDirent(nil, d))
	c.entries = append(c.entries, entryChange{parent, name, d, v.Ino})
}

// clearEntry removes name, which means ino, from parent.
func (c *change) clearEntry(parent Ino, name string, ino Ino) {
	c.delete(direntKey(parent, name))
	c.entries = append(c.entries, entryChange{parent: parent, name: name, ino: ino})
}

// absent returns nil if parent has no entry name, else fs.ErrExist.
func (c *change) absent(parent Ino, name string) error {
	_, ok, err := c.entry(parent, name)
	if err == nil && ok {
		err = fs.ErrExist
	}
	return err
}

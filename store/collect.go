package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// collector removes in the background what has no name any more: trees that
// were taken out, unlinked files after their last handle, blobs without
// references. What there is to do is in the engine, in the batches that caused
// it, so a crash at any point only means that the next start goes on.
type collector struct {
	s    *Store
	work chan struct{} // holds one token when there may be work
	idle chan chan struct{}
	// dirs counts the directories that are orphans in the engine, and is never less.
	dirs atomic.Int64

	// mu protects the fields below.
	mu    sync.Mutex
	blobs map[blob.ID]bool // being written, not yet referred to; true: garbage has passed it by
	trees map[Ino]struct{} // copies of trees that are not yet attached
}

// collectPause is slept between batches, so that a mass removal leaves the disk
// and the engine to others.
const collectPause = time.Millisecond

// leftoverAge is how old content must be that no file refers to before a start
// removes it. Most of it is of uploads that a crash has cut off; but if the
// engine's log was damaged it may be all that is left of a file.
const leftoverAge = 24 * time.Hour

func newCollector(s *Store) (*collector, error) {
	k := &collector{
		s: s, work: make(chan struct{}, 1), idle: make(chan chan struct{}),
		blobs: make(map[blob.ID]bool), trees: make(map[Ino]struct{}),
	}
	return k, k.countDirs()
}

// countDirs counts the directories among the orphans that the last run has left. What
// cannot be read may be one.
func (k *collector) countDirs() error {
	var inos []Ino
	err := k.s.engine.Scan([]byte{keyOrphan}, []byte{keyOrphan + 1}, func(key, _ []byte) bool {
		inos = append(inos, inoOfKey(key))
		return true
	})
	if err != nil {
		return fmt.Errorf("inodes without a name: %w", err)
	}
	for _, ino := range inos {
		v, err := readInode(k.s.engine, ino)
		if err == nil && v.IsDir() && v.parent == 0 || err != nil && !errors.Is(err, ErrStale) {
			k.dirs.Add(1)
		}
	}
	return nil
}

// begin protects a blob that no inode refers to yet, until end.
func (k *collector) begin(id blob.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blobs[id] = false
}

// end gives up the protection. unused says that no change ever referred to the
// blob: then it is removed. Otherwise that is not ours to decide, even if it has
// no reference now: the change that dropped it may not be durable yet.
func (k *collector) end(id blob.ID, unused bool) {
	k.mu.Lock()
	passedBy := k.blobs[id]
	delete(k.blobs, id)
	k.mu.Unlock()
	if passedBy {
		k.wake()
	}
	if !unused {
		return
	}
	if err := k.s.blobs.Delete(id); err != nil {
		k.s.log.Warn("content not removed", "blob", id, "err", err)
	}
}

func (k *collector) beginTree(root Ino) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trees[root] = struct{}{}
}

func (k *collector) endTree(root Ino) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.trees, root)
}

func (k *collector) building(root Ino) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.trees[root]
	return ok
}

func (k *collector) wake() {
	select {
	case k.work <- struct{}{}:
	default:
	}
}

// closed is told that the last handle of a node was closed.
func (k *collector) closed(n *node) {
	orphan := false
	_, _ = n.guard.Read("close", func(v *inode) { orphan = v.Nlink == 0 })
	if orphan {
		k.wake()
	}
}

// run collects until ctx ends.
func (k *collector) run(ctx context.Context) {
	if err := k.resume(ctx); err != nil && ctx.Err() == nil {
		k.s.log.Error("leftovers not collected", "err", err)
	}
	for {
		k.round(ctx)
		select {
		case <-ctx.Done():
			return
		case <-k.work:
		case done := <-k.idle:
			k.round(ctx)
			close(done)
		}
	}
}

// Quiesce returns once everything that was to be collected when it was called
// is collected, and what is not being written has its checksums and its labels, or ctx
// ends. Tests and administrators use it; nothing depends on it.
func (s *Store) Quiesce(ctx context.Context) error {
	if err := s.sealer.sealAll(ctx); err != nil {
		return err
	}
	_, _ = s.labeler.renew(ctx, false) // the labeler itself says what has failed
	done := make(chan struct{})
	select {
	case s.collector.idle <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// round does everything there is to do. A panic costs the round, not the collector.
func (k *collector) round(ctx context.Context) {
	var err error
	defer func() {
		if err != nil && ctx.Err() == nil && k.s.ReadOnly() == nil {
			k.s.log.Error("collector", "err", err)
		}
	}()
	defer k.s.contain("collect", &err)
	err = errors.Join(k.orphans(ctx), k.garbage(ctx))
}

// resume finds what a crash has left over: content that no inode refers to.
func (k *collector) resume(ctx context.Context) (err error) {
	defer k.s.contain("resume", &err)
	if k.s.writable() != nil {
		return nil
	}
	var left []blob.Info
	kept, keptBytes := 0, int64(0)
	err = k.s.blobs.List(func(info blob.Info) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		k.mu.Lock()
		_, busy := k.blobs[info.ID] // asked before the references: a blob leaves here only after it got one
		k.mu.Unlock()
		if busy {
			return nil
		}
		refs, err := k.s.engine.Counter(blobKey(keyBlobRefs, info.ID))
		if err != nil || refs > 0 {
			return err
		}
		if k.s.now().Sub(info.ModTime) < leftoverAge {
			kept, keptBytes = kept+1, keptBytes+info.Size
			return nil
		}
		left = append(left, info)
		return nil
	})
	if kept > 0 {
		k.s.log.Warn("content without a file kept", "blobs", kept, "bytes", keptBytes, "until_older_than", leftoverAge.String())
	}
	if err != nil || len(left) == 0 {
		return err
	}
	// A change since the start may have dropped the last reference of some of
	// them, and a power cut may still take that change back.
	if err := k.s.engine.Sync(); err != nil {
		return k.s.engineError(err)
	}
	freed := int64(0)
	for _, info := range left {
		if !k.s.open.discard(info.ID) {
			continue // somebody reads it: it was dropped just now, and is on the other list
		}
		if err := k.s.blobs.Delete(info.ID); err != nil {
			return fmt.Errorf("remove content %s: %w", info.ID, err)
		}
		if err := k.s.engine.Update(func(tx meta.Txn) error { return forgetBlob(tx, info.ID) }); err != nil {
			return k.s.engineError(err)
		}
		freed += info.Size
	}
	k.s.log.Info("leftovers of interrupted writes removed", "blobs", len(left), "bytes", freed)
	return nil
}

// orphans removes inodes that have no name. Those that are open, pinned, poisoned,
// or still being built stay for a later round, and so does one that cannot be
// removed: it must not keep the others.
func (k *collector) orphans(ctx context.Context) error {
	skipped := make(map[Ino]bool)
	var failed error
	from, removed := []byte{keyOrphan}, false
	for {
		var (
			inos []Ino
			last Ino
		)
		err := k.s.engine.Scan(from, []byte{keyOrphan + 1}, func(key, _ []byte) bool {
			if last = inoOfKey(key); !skipped[last] {
				inos = append(inos, last)
			}
			return len(inos) < 256
		})
		if err != nil || len(inos) == 0 && !removed {
			return errors.Join(failed, err)
		}
		if from = append(inoKey(keyOrphan, last), 0); len(inos) == 0 {
			from, removed = []byte{keyOrphan}, false // child directories may have come before their parents
		}
		for _, ino := range inos {
			if err := ctx.Err(); err != nil {
				return err
			}
			done, err := k.orphan(ctx, ino)
			switch {
			case err == nil, errors.Is(err, ErrPoisoned):
			case k.s.writable() != nil, ctx.Err() != nil:
				return err
			case failed == nil: // one stands for all: the next round tries them again
				failed = fmt.Errorf("collect inode %d: %w", ino, err)
			}
			if !done || err != nil {
				skipped[ino] = true
			}
			removed = removed || done
		}
	}
}

// orphan removes one inode with all below it, and reports whether it is gone.
func (k *collector) orphan(ctx context.Context, ino Ino) (bool, error) {
	if k.building(ino) {
		return false, nil
	}
	for {
		more, gone, err := k.orphanBatch(ctx, ino)
		if err != nil || !more {
			return gone, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(collectPause):
		}
	}
}

const collectChunk = 128

// orphanBatch takes some entries out of an orphan, or removes it if it has none.
func (k *collector) orphanBatch(ctx context.Context, ino Ino) (more, gone bool, err error) {
	touch := []Ino{ino}
	var chunk []Dirent
	prefix := inoKey(keyDirent, ino)
	if err := k.s.engine.Scan(prefix, prefixEnd(prefix), func(key, value []byte) bool {
		d, err := decodeDirent(value)
		if err != nil {
			k.s.log.Error("entry of a removed directory names nothing", "ino", ino, "name", string(key[9:]), "err", err)
		} else {
			touch = append(touch, d.ino)
		}
		chunk = append(chunk, Dirent{Name: string(key[9:]), Ino: d.ino})
		return len(chunk) < collectChunk
	}); err != nil {
		return false, false, err
	}
	err = k.s.changeLocked(ctx, "collect", lockSet{write: touch, background: true}, func(c *change) error {
		more, gone = false, false
		v, err := c.view(ino)
		if c.missing(ino, err) || err == nil && v.parent != 0 { // removed, or it got a name since
			gone = true
			c.delete(inoKey(keyOrphan, ino))
			return nil
		}
		if err != nil {
			return err
		}
		if v.IsDir() && len(chunk) > 0 {
			more = true
			if _, err := c.edit(ino); err != nil {
				return err
			}
			return c.collectEntries(ino, chunk)
		}
		if v.IsDir() {
			if err := k.s.emptyDir(ino); err != nil {
				more = errors.Is(err, ErrNotEmpty)
				return ignore(err, ErrNotEmpty)
			}
		}
		h, err := c.lookHeld(ino)
		if err != nil || h.node.kept() {
			return err
		}
		gone = true
		c.unorphan(&h.next)
		return c.removeInode(h)
	})
	return more, gone, err
}

// missing reports whether err, of a look at ino, means that there is no such
// inode: it is not held although it was asked for, or held and gone.
func (c *change) missing(ino Ino, err error) bool {
	var relock *errRelock
	if errors.As(err, &relock) {
		_, err = readInode(c.s.engine, ino)
	}
	return errors.Is(err, ErrStale)
}

// ignore returns err unless it matches target.
func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

// collectEntries takes entries out of the orphaned directory dir. Child
// directories become orphans themselves.
func (c *change) collectEntries(dir Ino, chunk []Dirent) error {
	for _, d := range chunk {
		if d.Ino == 0 { // the record is damaged
			c.clearEntry(dir, d.Name, 0)
			continue
		}
		cur, ok, err := c.entry(dir, d.Name)
		if err != nil {
			return err
		}
		if !ok || cur.ino != d.Ino {
			continue
		}
		c.clearEntry(dir, d.Name, d.Ino)
		v, err := c.edit(d.Ino)
		if c.missing(d.Ino, err) {
			continue
		}
		if err != nil {
			return err
		}
		if v.IsDir() {
			c.orphan(v)
			continue
		}
		if err := c.dropLink(dir, d.Name, d.Ino); err != nil {
			return err
		}
	}
	return nil
}

// garbage removes blobs that lost their last reference, once that is durable.
func (k *collector) garbage(ctx context.Context) error {
	if k.s.writable() != nil {
		return nil
	}
	type item struct {
		key  []byte
		id   blob.ID
		refs int64
	}
	for from := []byte{keyGarbage}; ; {
		var items []item
		err := k.s.engine.Scan(from, []byte{keyGarbage + 1}, func(key, _ []byte) bool {
			it := item{key: append([]byte(nil), key...)}
			copy(it.id[:], key[1:])
			items = append(items, it)
			return len(items) < collectChunk
		})
		if err != nil || len(items) == 0 {
			return err
		}
		// Before the sync: that nobody refers to a blob counts only once it is durable.
		for i := range items {
			if items[i].refs, err = k.s.engine.Counter(blobKey(keyBlobRefs, items[i].id)); err != nil {
				return err
			}
		}
		if err := k.s.engine.Sync(); err != nil {
			return k.s.engineError(err)
		}
		for _, it := range items {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := k.dropped(it.key, it.id, it.refs); err != nil {
				return err
			}
		}
		from = append(items[len(items)-1].key, 0)
	}
}

// dropped removes a blob that has durably no references. Nobody can begin to refer to
// it: a reference is only ever copied from an inode that has one. A blob that has some
// gets another note with the last.
func (k *collector) dropped(key []byte, id blob.ID, refs int64) error {
	if refs <= 0 && k.busy(id) {
		return nil // whoever wrote it is about to say so, and wakes us
	}
	if refs <= 0 {
		if !k.s.open.discard(id) {
			return nil // its readers need the checksums too; they wake us
		}
		if err := k.s.blobs.Delete(id); err != nil {
			return fmt.Errorf("remove content %s: %w", id, err)
		}
	}
	return k.s.engine.Update(func(tx meta.Txn) error {
		tx.Delete(key)
		if refs > 0 {
			return nil
		}
		return forgetBlob(tx, id)
	})
}

// busy reports whether the blob is being written; then its end wakes the collector.
func (k *collector) busy(id blob.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.blobs[id]; !ok {
		return false
	}
	k.blobs[id] = true
	return true
}

// forgetBlob removes all records of a blob that does not exist any more.
func forgetBlob(tx meta.Txn, id blob.ID) error {
	tx.Delete(blobKey(keyBlobRefs, id))
	sums := blobKey(keySums, id)
	return tx.Scan(sums, prefixEnd(sums), func(key, _ []byte) bool {
		tx.Delete(key)
		return true
	})
}

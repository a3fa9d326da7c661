package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
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

	// mu protects the fields below.
	mu    sync.Mutex
	blobs map[blob.ID]struct{} // being written, not yet referred to
	trees map[Ino]struct{}     // copies of trees that are not yet attached
	seals map[Ino]struct{}     // files whose last writer has closed
}

// collectPause is slept between batches, so that a mass removal leaves the disk
// and the engine to others.
const collectPause = time.Millisecond

// leftoverAge is how old content must be that no file refers to before a start
// removes it. Most of it is of uploads that a crash has cut off; but if the
// engine's log was damaged it may be all that is left of a file.
const leftoverAge = 24 * time.Hour

func newCollector(s *Store) *collector {
	return &collector{
		s: s, work: make(chan struct{}, 1), idle: make(chan chan struct{}),
		blobs: make(map[blob.ID]struct{}), trees: make(map[Ino]struct{}), seals: make(map[Ino]struct{}),
	}
}

// begin protects a blob that no inode refers to yet, until end.
func (k *collector) begin(id blob.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.blobs[id] = struct{}{}
}

// end gives up the protection. unused says that no change ever referred to the
// blob: then it is removed. Otherwise that is not ours to decide, even if it has
// no reference now: the change that dropped it may not be durable yet.
func (k *collector) end(id blob.ID, unused bool) {
	k.mu.Lock()
	delete(k.blobs, id)
	k.mu.Unlock()
	if !unused {
		k.wake()
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

// seal asks for checksums of a file that nobody writes to any more.
func (k *collector) seal(ino Ino) {
	k.mu.Lock()
	k.seals[ino] = struct{}{}
	k.mu.Unlock()
	k.wake()
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
// is collected, or ctx ends. Tests and administrators use it; nothing depends on it.
func (s *Store) Quiesce(ctx context.Context) error {
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
	err = errors.Join(k.sealAll(ctx), k.orphans(ctx), k.garbage(ctx))
}

// resume finds what a crash has left over: content that no inode refers to,
// and files without checksums.
func (k *collector) resume(ctx context.Context) (err error) {
	defer k.s.contain("resume", &err)
	if err := k.s.engine.Scan([]byte{keyUnsealed}, []byte{keyUnsealed + 1}, func(key, _ []byte) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.seals[inoOfKey(key)] = struct{}{}
		return true
	}); err != nil {
		return err
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
		freed += info.Size
	}
	k.s.log.Info("leftovers of interrupted writes removed", "blobs", len(left), "bytes", freed)
	return nil
}

// orphans removes inodes that have no name. Those that are open, poisoned, or
// still being built stay for a later round.
func (k *collector) orphans(ctx context.Context) error {
	skipped := make(map[Ino]bool)
	for {
		var inos []Ino
		err := k.s.engine.Scan([]byte{keyOrphan}, []byte{keyOrphan + 1}, func(key, _ []byte) bool {
			if ino := inoOfKey(key); !skipped[ino] {
				inos = append(inos, ino)
			}
			return len(inos) < 256
		})
		if err != nil || len(inos) == 0 {
			return err
		}
		for _, ino := range inos {
			if err := ctx.Err(); err != nil {
				return err
			}
			done, err := k.orphan(ctx, ino)
			if errors.Is(err, ErrPoisoned) {
				err = nil
			}
			if err != nil {
				return fmt.Errorf("collect inode %d: %w", ino, err)
			}
			if !done {
				skipped[ino] = true
			}
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
		if d, err := decodeDirent(value); err == nil {
			chunk = append(chunk, Dirent{Name: string(key[9:]), Ino: d.ino})
			touch = append(touch, d.ino)
		}
		return len(chunk) < collectChunk
	}); err != nil {
		return false, false, err
	}
	err = k.s.changeLocked(ctx, "collect", lockSet{write: touch, background: true}, func(c *change) error {
		more, gone = false, false
		v, err := c.edit(ino)
		if errors.Is(err, ErrStale) {
			gone = true
			c.delete(inoKey(keyOrphan, ino))
			return nil
		}
		if err != nil {
			return err
		}
		if v.parent != 0 { // it got a name since
			c.delete(inoKey(keyOrphan, ino))
			gone = true
			return nil
		}
		if v.IsDir() && len(chunk) > 0 {
			more = true
			return c.collectEntries(ino, chunk)
		}
		if v.IsDir() && k.s.emptyDir(ino) != nil {
			more = true
			return nil
		}
		h, err := c.lookHeld(ino)
		if err != nil {
			return err
		}
		if h.node.opens.Load() > 0 {
			return nil
		}
		gone = true
		c.delete(inoKey(keyOrphan, ino))
		return c.removeInode(h)
	})
	return more, gone, err
}

// collectEntries takes entries out of the orphaned directory dir. Child
// directories become orphans themselves.
func (c *change) collectEntries(dir Ino, chunk []Dirent) error {
	for _, d := range chunk {
		cur, ok, err := c.entry(dir, d.Name)
		if err != nil {
			return err
		}
		if !ok || cur.ino != d.Ino {
			continue
		}
		c.clearEntry(dir, d.Name)
		v, err := c.edit(d.Ino)
		if errors.Is(err, ErrStale) {
			continue
		}
		if err != nil {
			return err
		}
		if v.IsDir() {
			v.Nlink, v.parent, v.name = 0, 0, ""
			c.put(inoKey(keyOrphan, d.Ino), []byte{})
			c.orphans = true
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
	type item struct {
		key []byte
		id  blob.ID
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
		if err := k.s.engine.Sync(); err != nil {
			return k.s.engineError(err)
		}
		for _, it := range items {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := k.dropped(it.key, it.id); err != nil {
				return err
			}
		}
		from = append(items[len(items)-1].key, 0)
	}
}

// dropped removes a blob if no inode refers to it. Nobody can begin to: a
// reference is only ever copied from an inode that has one.
func (k *collector) dropped(key []byte, id blob.ID) error {
	refs, err := k.s.engine.Counter(blobKey(keyBlobRefs, id))
	if err != nil {
		return err
	}
	k.mu.Lock()
	_, busy := k.blobs[id]
	k.mu.Unlock()
	if refs <= 0 && busy {
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
		tx.Delete(blobKey(keyBlobRefs, id))
		sums := blobKey(keySums, id)
		return tx.Scan(sums, prefixEnd(sums), func(key, _ []byte) bool {
			tx.Delete(key)
			return true
		})
	})
}

// sealAll computes the checksums of files whose last writer has closed.
func (k *collector) sealAll(ctx context.Context) error {
	k.mu.Lock()
	inos := k.seals
	k.seals = make(map[Ino]struct{})
	k.mu.Unlock()
	var errs error
	for ino := range inos {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := k.sealFile(ctx, ino)
		if err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrPoisoned) {
			errs = errors.Join(errs, fmt.Errorf("seal inode %d: %w", ino, err))
		}
	}
	return errs
}

// sealFile gives a file that is not being written its checksums. If it is
// written to meanwhile, that writer's close asks again.
func (k *collector) sealFile(ctx context.Context, ino Ino) error {
	var before inode
	if err := k.s.read(ctx, "seal", ino, func(v *inode) error { before = *v; return nil }); err != nil {
		return err
	}
	if before.content.kind != contentBlob || before.content.sealed || k.s.openForWriting(ino) {
		return nil
	}
	sums, err := k.sums(ctx, before.content.blob, before.Size)
	if err != nil {
		return err
	}
	return k.s.changeLocked(ctx, "seal", lockSet{write: []Ino{ino}, background: true}, func(c *change) error {
		v, err := c.view(ino)
		if err != nil {
			return err
		}
		if v.content != before.content || v.Version != before.Version || k.s.openForWriting(ino) {
			return nil
		}
		change, ctime := v.Change, v.Ctime
		if v, err = c.edit(ino); err != nil {
			return err
		}
		v.Change, v.Ctime = change, ctime // nothing that a user knows has changed
		v.content.sealed = true
		k.s.open.forget(v.content.blob) // it knows no checksums
		c.delete(inoKey(keyUnsealed, ino))
		c.putSums(v.content.blob, sums)
		return nil
	})
}

// sums reads a blob and returns the sums of its blocks, after it is durable.
func (k *collector) sums(ctx context.Context, id blob.ID, size int64) ([]byte, error) {
	f, err := k.s.blobs.Open(id, true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return nil, k.s.blobError("sync content", err)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var m summer
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := f.ReadAt((*buf)[:min(int64(len(*buf)), size-off)], off)
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: content %s ends at %d, want %d", ErrDamaged, id, off, size)
			}
			return nil, err
		}
		m.write((*buf)[:n])
		off += int64(n)
	}
	return m.done(), nil
}

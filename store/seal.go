package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"engramfs/store/blob"
)

const (
	// sealDelay is how long nobody must have written to a file before it gets
	// its checksums. Programs often open a file again soon after closing it.
	sealDelay = 5 * time.Second
	// sealRetry is how long a file waits that could not be sealed.
	sealRetry = time.Minute
	// maxSealQueue is how many files are remembered to wait. The engine knows those
	// that are more.
	maxSealQueue = 65_536
	// sealAside is the size, in bytes, from which on a file is sealed beside the
	// others, which do not wait for it. It is made durable in its turn.
	sealAside = 64 << 20
)

// sealer gives files their checksums once nobody writes to them any more. What
// it has to do is in the engine, too: a restart goes on with it.
type sealer struct {
	s     *Store
	delay time.Duration // immutable
	work  chan struct{} // holds one token when the queue has changed

	// mu protects the fields below.
	mu    sync.Mutex
	queue map[Ino]sealRequest
	look  time.Time // when run looks at the queue by itself
	more  bool      // files wait that are not in the queue

	large chan aside // files for the goroutine that seals the large ones
}

// aside is a file that is sealed beside the others.
type aside struct {
	ino Ino
	r   sealRequest
}

// sealRequest asks for the checksums of one file.
type sealRequest struct {
	due time.Time
	// late: the file has checksums, and somebody has written to it since.
	late bool
}

func newSealer(s *Store) *sealer {
	return &sealer{s: s, delay: sealDelay, work: make(chan struct{}, 1), queue: make(map[Ino]sealRequest), large: make(chan aside, 1)}
}

// ask asks for the checksums of a file that was written just now.
func (k *sealer) ask(ino Ino) { k.enqueue(ino, sealRequest{due: time.Now().Add(k.delay)}) }

// askLate asks for new checksums of a file that was written past the store.
func (k *sealer) askLate(ino Ino) {
	k.enqueue(ino, sealRequest{due: time.Now().Add(k.delay), late: true})
}

func (k *sealer) enqueue(ino Ino, r sealRequest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old, known := k.queue[ino]
	if !known && len(k.queue) >= maxSealQueue {
		k.more = true // what was written late is found again by who reads it
		return
	}
	r.late = r.late || old.late
	k.queue[ino] = r
	if !r.due.Before(k.look) {
		return // in time: an archive's files are closed by the thousand
	}
	select {
	case k.work <- struct{}{}:
	default:
	}
}

// take returns the request that is due first, and takes it off the queue if it is
// due. Otherwise it returns how long that takes, at most an hour.
func (k *sealer) take(now time.Time) (ino Ino, r sealRequest, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait = time.Hour
	for i, q := range k.queue {
		if d := q.due.Sub(now); d < wait {
			ino, r, wait = i, q, d
		}
		if wait <= 0 {
			delete(k.queue, ino)
			return ino, r, 0
		}
	}
	k.look = now.Add(wait)
	return 0, sealRequest{}, wait
}

// run seals until ctx ends.
func (k *sealer) run(ctx context.Context) {
	for ctx.Err() == nil {
		ino, r, wait := k.take(time.Now())
		if wait <= 0 {
			k.step(ctx, ino, r)
			continue
		}
		select {
		case <-ctx.Done():
		case <-k.work:
		case <-time.After(wait):
		}
	}
}

// step does what a request asks for. A panic costs the request, not the sealer; the
// file is sealed by the next run.
func (k *sealer) step(ctx context.Context, ino Ino, r sealRequest) {
	var err error
	defer k.s.contain("seal", &err)
	k.sealOrPass(ctx, ino, r)
	k.refill()
}

// runLarge seals large files until ctx ends.
func (k *sealer) runLarge(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-k.large:
			k.seal(ctx, f.ino, f.r, true)
		}
	}
}

// sealOrPass seals a file, or if it is large, makes it durable and leaves the rest
// to runLarge. If that has enough to do the file waits again.
func (k *sealer) sealOrPass(ctx context.Context, ino Ino, r sealRequest) {
	if v, err := readInode(k.s.engine, ino); err != nil || v.Size < sealAside {
		k.seal(ctx, ino, r, true)
		return
	}
	err := k.sync(ctx, ino)
	if err != nil && !errors.Is(err, ErrStale) && ctx.Err() == nil {
		k.s.log.Error("content not synced", "ino", ino, "err", err)
	}
	select {
	case k.large <- aside{ino, r}:
	default:
		k.enqueue(ino, sealRequest{due: time.Now().Add(k.delay), late: r.late})
	}
}

func (k *sealer) sync(ctx context.Context, ino Ino) (err error) {
	defer k.s.contain("sync_content", &err)
	return k.s.SyncContent(ctx, ino)
}

// refill asks again for all files that wait, once the queue has room for those that
// it had to turn away.
func (k *sealer) refill() {
	k.mu.Lock()
	wanted := k.more && len(k.queue) < maxSealQueue/2
	if wanted {
		k.more = false
	}
	k.mu.Unlock()
	if !wanted {
		return
	}
	err := k.s.engine.Scan([]byte{keyUnsealed}, []byte{keyUnsealed + 1}, func(key, _ []byte) bool {
		k.ask(inoOfKey(key))
		k.mu.Lock()
		defer k.mu.Unlock()
		return !k.more
	})
	if err != nil {
		k.s.log.Error("files that wait for checksums cannot be listed", "err", err)
	}
}

// sealAll seals all that is in the queue, at once.
func (k *sealer) sealAll(ctx context.Context) error {
	k.mu.Lock()
	queue := k.queue
	k.queue = make(map[Ino]sealRequest)
	k.mu.Unlock()
	for ino, r := range queue {
		if ctx.Err() != nil {
			k.enqueue(ino, r)
			continue
		}
		k.seal(ctx, ino, r, false)
	}
	return ctx.Err()
}

// seal seals one file. What fails is asked for again, except what cannot be mended
// by waiting.
func (k *sealer) seal(ctx context.Context, ino Ino, r sealRequest, gently bool) {
	again := true
	defer func() {
		if again {
			k.enqueue(ino, sealRequest{due: time.Now().Add(sealRetry), late: r.late})
		}
	}()
	var err error
	func() {
		defer k.s.contain("seal", &err)
		err = k.s.sealFile(ctx, ino, sealOptions{late: r.late, gently: gently})
	}()
	switch {
	case errors.Is(err, errBusy):
		k.enqueue(ino, sealRequest{due: time.Now().Add(k.delay), late: r.late})
		again = false
	case err == nil, errors.Is(err, ErrStale):
		again = false
	case ctx.Err() != nil, errors.Is(err, ErrPoisoned), k.s.writable() != nil:
	case errors.Is(err, ErrDamaged), errors.Is(err, fs.ErrNotExist):
		again = false
		k.s.log.Error("content cannot be sealed", "ino", ino, "err", err)
	default:
		k.s.log.Error("content not sealed", "ino", ino, "err", err, "retry", sealRetry.String())
	}
}

// errBusy says that a file changed while it was being sealed.
var errBusy = errors.New("store: content is being written")

// sealOptions of sealFile.
type sealOptions struct {
	late   bool // see sealRequest
	gently bool // leave the disk to others
}

// sealFile gives a file that is not being written its checksums. It does nothing
// while a writable handle is open: its Close asks again. errBusy: it was written
// to meanwhile.
func (s *Store) sealFile(ctx context.Context, ino Ino, o sealOptions) error {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return err
	}
	defer s.nodes.release(n)
	if ev := n.guard.Event(); ev != nil {
		return poisonedError(ev)
	}
	v, err := s.snapshot(ctx, "seal", n)
	if err != nil {
		return err
	}
	n.share() // who closes the last writable handle from now on asks again
	if v.content.kind != contentBlob || v.content.sealed && !o.late || n.writers.Load() > 0 {
		return nil
	}
	native, err := s.markedNative(ino)
	if err != nil {
		return err
	}
	mapped := native && s.hasWriters(v.content.blob) // asked before this is one itself
	f, err := s.blobs.Open(v.content.blob, true)
	if err != nil {
		return fmt.Errorf("open content: %w", err)
	}
	defer f.Close()
	if err := s.reconcile(ctx, n, &v, f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return s.blobError("sync content", err)
	}
	k := seal{s: s, n: n, v: &v, f: f, o: o, native: native, mapped: mapped}
	return k.run(ctx)
}

// reconcile makes the blob and the size of v, which nobody writes to, agree: the
// size is the blob's if it was written natively, and else the blob is cut.
func (s *Store) reconcile(ctx context.Context, n *node, v *inode, f blob.File) error {
	size, err := f.Size()
	switch {
	case err != nil:
		return fmt.Errorf("size of content: %w", err)
	case size == v.Size:
		return nil
	case v.content.sealed:
		return nil // a blob that others share: what is behind the end is nobody's
	}
	native, err := s.markedNative(n.ino)
	if err != nil {
		return err
	}
	if size < v.Size && !native {
		return s.endsEarly(ctx, n, v, size)
	}
	return s.changeLocked(ctx, "seal", lockSet{write: []Ino{n.ino}, background: true}, func(c *change) error {
		cur, err := c.view(n.ino)
		if err != nil {
			return err
		}
		if cur.content != v.content || cur.Version != v.Version || n.writers.Load() > 0 {
			return errBusy
		}
		if !native {
			return f.Truncate(v.Size)
		}
		if cur, err = c.edit(n.ino); err != nil {
			return err
		}
		c.rewrite(cur, size)
		*v = *cur
		return nil
	})
}

// endsEarly returns the error of a blob that is shorter than v says: errBusy if v is
// not the last word any more, else ErrDamaged.
func (s *Store) endsEarly(ctx context.Context, n *node, v *inode, size int64) error {
	cur, err := s.snapshot(ctx, "seal", n)
	switch {
	case err != nil:
		return err
	case cur.content != v.content, cur.Version != v.Version, n.writers.Load() > 0:
		return errBusy
	}
	err = fmt.Errorf("%w: content %s ends at %d, want %d", ErrDamaged, v.content.blob, size, v.Size)
	s.damages.note(Damage{
		Ino: n.ino, Version: v.Version, Offset: size / blockSize * blockSize, Length: v.Size - size/blockSize*blockSize,
		At: s.now(), Err: err.Error(), blob: v.content.blob,
	})
	return err
}

// markedNative reports whether an unsealed file's record says that it was written
// natively.
func (s *Store) markedNative(ino Ino) (bool, error) {
	m, err := s.unsealedMark(ino)
	if err != nil {
		return false, fmt.Errorf("how inode %d was written: %w", ino, err)
	}
	return m.native, nil
}

// seal is the sealing of one version of a file's content.
type seal struct {
	s *Store
	n *node
	v *inode
	f blob.File
	o sealOptions

	native bool // it was written natively since it was last sealed
	mapped bool // and somebody still has it open for writing, or mapped so
}

func (k *seal) run(ctx context.Context) error {
	before, err := k.settled(ctx)
	if err != nil {
		return err
	}
	// Once more, now that the times are old: pages that a mapping has written to
	// since are clean again, so that every later store changes the times.
	if err := k.f.Sync(); err != nil {
		return k.s.blobError("sync content", err)
	}
	sums, digests, err := k.sums(ctx)
	if err != nil {
		return err
	}
	b := k.n.share()
	b.prepare.Lock() // no recall, which would not wait
	b.recallLocked(k.s, k.n.ino, k.v.content.blob)
	b.prepare.Unlock()
	b.stands(k.v.content.blob, before)
	damaged, err := b.keepOld(k.s.engine, k.v.content.blob, sums)
	if err != nil {
		return err
	}
	if len(damaged) > 0 {
		digests = nil // nobody is to be told that this is the content
	}
	if st, ok := k.f.(blob.Stater); ok {
		after, err := st.Stat()
		if err != nil {
			return err
		}
		if after.Mtime != before.Mtime || after.Ctime != before.Ctime || after.Size != before.Size {
			return errBusy
		}
	}
	set := lockSet{write: []Ino{k.n.ino}, background: true}
	done := false
	err = k.s.changeLocked(ctx, "seal", set, func(c *change) (err error) {
		done, err = k.commit(c, sums, digests, before)
		return err
	})
	if err == nil && done {
		k.s.open.forget(k.v.content.blob) // who shares it may have asked for its old checksums meanwhile
		k.note(damaged)
	}
	return err
}

// note puts blocks on the list of damage.
func (k *seal) note(blocks []int64) {
	id := k.v.content.blob
	for _, block := range blocks {
		k.s.damages.note(Damage{
			Ino: k.n.ino, Version: k.v.Version, Offset: block * blockSize, At: k.s.now(), blob: id,
			Err: fmt.Sprintf("%v: content %s: block %d changed while others were written", ErrDamaged, id, block),
		})
	}
}

// settled returns what the blob is like once its times are old enough: a write
// that comes after has later ones.
func (k *seal) settled(ctx context.Context) (st blob.Stat, err error) {
	f, ok := k.f.(blob.Stater)
	if !ok {
		return blob.Stat{}, nil
	}
	for {
		if st, err = f.Stat(); err != nil {
			return st, err
		}
		young := clockTick - time.Since(time.Unix(0, max(st.Mtime, st.Ctime)))
		if young <= 0 || young > clockTick {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-time.After(young):
		}
	}
}

// sums reads the blob and returns the sums of its blocks, and its digests.
func (k *seal) sums(ctx context.Context) ([]byte, *Digests, error) {
	d := k.s.newDigester(sealHashes)
	defer d.stop()
	var ring bufferRing
	defer ring.release()
	var (
		m     summer
		off   int64
		used  *sync.WaitGroup
		begin time.Time
	)
	next := func() (buf []byte) {
		begin = time.Now()
		buf, used = ring.next()
		return buf
	}
	err := readPieces(k.f, k.v.Size, next, func(p []byte) error {
		m.write(p)
		d.write(p, used)
		off += int64(len(p))
		return k.pause(ctx, time.Since(begin))
	})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = k.s.endsEarly(ctx, k.n, k.v, off)
	}
	if err != nil {
		return nil, nil, err
	}
	digests, err := d.digests()
	return m.done(), &digests, err
}

// pause waits as long as the last piece of work has taken, so that at least half
// of the disk is left to others.
func (k *seal) pause(ctx context.Context, worked time.Duration) error {
	if !k.o.gently {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(min(worked, time.Second)):
		return nil
	}
}

// commit makes the file sealed. It reports false if the file is being written
// again: its Close asks for another seal.
func (k *seal) commit(c *change, sums []byte, digests *Digests, st blob.Stat) (bool, error) {
	v, err := c.view(k.n.ino)
	if err != nil {
		return false, err
	}
	if v.content != k.v.content || v.Version != k.v.Version {
		return false, errBusy
	}
	if k.n.writers.Load() > 0 {
		return false, nil
	}
	if v, err = k.renew(c, st); err != nil {
		return false, err
	}
	times := sealTimes{mtime: st.Mtime, ctime: st.Ctime, native: k.native}
	if old, ok := c.s.sealTimes(v.content.blob); ok {
		times.native = times.native || old.native
	}
	if err := c.deletePrefix(blobKey(keySums, v.content.blob)); err != nil {
		return false, err
	}
	c.settle(v)
	v.content.sealed = true
	c.delete(inoKey(keyUnsealed, v.Ino))
	c.putSums(v.content.blob, sums)
	if digests != nil {
		c.putDigests(v.content.blob, digests)
	}
	if st != (blob.Stat{}) {
		v.Sparse = st.Allocated < v.Size
		c.put(sumsKey(v.content.blob, groupTimes), times.append(nil))
	}
	k.n.share().untrace()
	k.s.open.forget(v.content.blob) // it knows no, or other, checksums
	return true, nil
}

// renew gives the file a new version if it was, or may have been, written without
// the store's knowledge since it got its last one. Otherwise a user does not notice
// the seal.
func (k *seal) renew(c *change, st blob.Stat) (*inode, error) {
	late := k.o.late && k.v.content.sealed || k.native && !k.n.share().sawContent(st)
	if !late && !k.mapped {
		return c.tend(k.n.ino)
	}
	v, err := c.view(k.n.ino)
	if err != nil {
		return nil, err
	}
	changed := v.Ctime
	if v, err = c.edit(k.n.ino); err != nil {
		return nil, err
	}
	v.Version = c.s.nextVersion(v.Version)
	if late && st.Mtime > changed { // else somebody has set another time since
		v.Mtime = st.Mtime
	}
	return v, nil
}

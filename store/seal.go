package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

const (
	// sealDelay is how long nobody must have written to a file before it gets
	// its checksums. Programs often open a file again soon after closing it.
	sealDelay = 5 * time.Second
	// sealRetry is how long a file waits that could not be sealed.
	sealRetry = time.Minute
)

// sealer gives files their checksums once nobody writes to them any more. What
// it has to do is in the engine, too: a restart goes on with it.
type sealer struct {
	s     *Store
	delay time.Duration // immutable
	work  chan struct{} // holds one token when the queue has changed

	// mu protects the field below.
	mu    sync.Mutex
	queue map[Ino]sealRequest
	look  time.Time // when run looks at the queue by itself
}

// sealRequest asks for the checksums of one file.
type sealRequest struct {
	due time.Time
	// late: the file has checksums, and somebody has written to it since.
	late bool
}

func newSealer(s *Store) *sealer {
	return &sealer{s: s, delay: sealDelay, work: make(chan struct{}, 1), queue: make(map[Ino]sealRequest)}
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
	r.late = r.late || k.queue[ino].late
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
			k.seal(ctx, ino, r, true)
			continue
		}
		select {
		case <-ctx.Done():
		case <-k.work:
		case <-time.After(wait):
		}
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
	k := seal{s: s, n: n, v: &v, f: f, o: o}
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
	s.damages.note(Damage{Ino: n.ino, Version: v.Version, Offset: size / blockSize * blockSize, At: s.now(), Err: err.Error()})
	return err
}

// markedNative reports whether an unsealed file's record says that it was written
// natively.
func (s *Store) markedNative(ino Ino) (bool, error) {
	k, err := s.engine.Get(inoKey(keyUnsealed, ino))
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return false, fmt.Errorf("how inode %d was written: %w", ino, err)
	}
	return len(k) == 1 && k[0] == writtenNative, nil
}

// seal is the sealing of one version of a file's content.
type seal struct {
	s *Store
	n *node
	v *inode
	f blob.File
	o sealOptions
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
	sums, err := k.sums(ctx)
	if err != nil {
		return err
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
	return k.s.changeLocked(ctx, "seal", set, func(c *change) error { return k.commit(c, sums, before) })
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

// sums reads the blob and returns the sums of its blocks.
func (k *seal) sums(ctx context.Context) ([]byte, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var m summer
	size := k.v.Size
	for off := int64(0); off < size; {
		begin := time.Now()
		n, err := k.f.ReadAt((*buf)[:min(int64(len(*buf)), size-off)], off)
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = k.s.endsEarly(ctx, k.n, k.v, off)
			}
			return nil, err
		}
		m.write((*buf)[:n])
		off += int64(n)
		if err := k.pause(ctx, time.Since(begin)); err != nil {
			return nil, err
		}
	}
	return m.done(), nil
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

// commit makes the file sealed. What a user knows of it changes only if it was
// written without the store's knowledge.
func (k *seal) commit(c *change, sums []byte, st blob.Stat) error {
	v, err := c.view(k.n.ino)
	if err != nil {
		return err
	}
	if v.content != k.v.content || v.Version != k.v.Version {
		return errBusy
	}
	if k.n.writers.Load() > 0 {
		return nil // its Close asks again
	}
	if k.o.late && v.content.sealed {
		if v, err = c.edit(k.n.ino); err != nil {
			return err
		}
		v.Version = c.s.nextVersion(v.Version)
		v.Mtime = st.Mtime
	} else if v, err = c.tend(k.n.ino); err != nil {
		return err
	}
	if err := c.deletePrefix(blobKey(keySums, v.content.blob)); err != nil {
		return err
	}
	c.settle(v)
	v.content.sealed = true
	c.delete(inoKey(keyUnsealed, v.Ino))
	c.putSums(v.content.blob, sums)
	if st != (blob.Stat{}) {
		v.Sparse = st.Allocated < v.Size
		c.put(sumsKey(v.content.blob, groupTimes), appendSealTimes(nil, st))
	}
	k.s.open.forget(v.content.blob) // it knows no, or other, checksums
	return nil
}

// groupTimes is the number of the group whose record has, instead of sums, the
// times that the blob had when they were made. A file has fewer groups.
const groupTimes = math.MaxUint32

func appendSealTimes(b []byte, st blob.Stat) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(st.Mtime))
	return binary.LittleEndian.AppendUint64(b, uint64(st.Ctime))
}

// sealTimes returns the times that the blob had when it was sealed; false if
// they are not known, as of a blob that nobody ever wrote in place.
func (s *Store) sealTimes(id blob.ID) (mtime, ctime int64, ok bool) {
	b, err := s.engine.Get(sumsKey(id, groupTimes))
	if err != nil || len(b) != 16 {
		return 0, 0, false
	}
	return int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:])), true
}

// writtenLate reports whether the blob was written since it was sealed. A mapping
// of a file into memory, or a descriptor that a kernel has been given, can outlive
// the last handle, and even the process; such a write makes the blob newer, and
// damage does not. The content is then served as it is, and sealed again.
func (c *Content) writtenLate() bool {
	f, ok := c.blob.file.(blob.Stater)
	if !ok {
		return false
	}
	mtime, _, ok := c.s.sealTimes(c.blob.id)
	if !ok {
		return false
	}
	st, err := f.Stat()
	if err != nil || st.Mtime <= mtime { // ctime also moves with names and modes
		return false
	}
	if c.blob.unsealed.CompareAndSwap(false, true) {
		c.s.log.Info("content was written after it was closed", "ino", c.attr.Ino, "blob", c.blob.id)
		c.s.sealer.askLate(c.attr.Ino)
	}
	return true
}

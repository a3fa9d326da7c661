package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"sync"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

const (
	// labelDelay is how long a label may be wrong before it is renewed, and the time
	// between two rounds.
	labelDelay = 5 * time.Second
	// labelChunk is how many records, or entries of a directory, are read at once.
	labelChunk = 512
	// labelFiles is how many blobs are kept open to be synced one by one.
	labelFiles = 64
)

// labeler keeps the labels of content right when its file is moved or gets another
// mode, owner or time, and when it is sealed: in the background, so that nobody waits for
// it. What there is to do is in the engine, in the batches that caused it, and stays
// there until the labels are durable.
type labeler struct {
	s    *Store
	work chan struct{} // holds one token when there may be work

	// round is held while labels are being renewed. It is taken before everything else.
	round sync.Mutex
}

func newLabeler(s *Store) *labeler {
	k := &labeler{s: s, work: make(chan struct{}, 1)}
	k.wake() // what an earlier run has left
	return k
}

func (k *labeler) wake() {
	select {
	case k.work <- struct{}{}:
	default:
	}
}

// run renews labels until ctx ends.
func (k *labeler) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.work:
		}
		wait := labelDelay
		if sleepFor(ctx, wait) != nil {
			return
		}
		left, err := k.renew(ctx, true)
		if err != nil && ctx.Err() == nil && k.s.writable() == nil {
			k.s.log.Error("labels of content not renewed", "err", err, "retry", sealRetry.String())
		}
		if left || err != nil {
			time.AfterFunc(sealRetry, k.wake)
		}
	}
}

// renew renews all labels that are wrong now. It reports whether some have to wait:
// their files are poisoned, or in a tree that is not complete yet. gently: half of
// the time is left to others.
func (k *labeler) renew(ctx context.Context, gently bool) (left bool, err error) {
	k.round.Lock()
	defer k.round.Unlock()
	defer k.s.contain("label", &err)
	if err := k.s.writable(); err != nil {
		return true, err
	}
	for from := []byte{keyLabel}; ; {
		var keys [][]byte
		err := k.s.engine.Scan(from, []byte{keyLabel + 1}, func(key, _ []byte) bool {
			keys = append(keys, bytes.Clone(key))
			return len(keys) < labelChunk
		})
		if err != nil || len(keys) == 0 {
			return left, err
		}
		done, err := k.renewSome(ctx, keys, gently)
		if err != nil {
			return true, err
		}
		if err := k.forget(done); err != nil {
			return true, err
		}
		left = left || len(done) < len(keys)
		from = append(keys[len(keys)-1], 0)
	}
}

// renewSome renews the labels that keys ask for, durably, and returns the keys that are
// done with.
func (k *labeler) renewSome(ctx context.Context, keys [][]byte, gently bool) (done [][]byte, err error) {
	r := labelRound{s: k.s, gently: gently, begun: time.Now()}
	defer r.close() // what a panic leaves open
	done, err = r.run(ctx, keys)
	return done, errors.Join(err, r.sync(), ctx.Err())
}

// forget removes records. A change since they were read has left a record of its own.
func (k *labeler) forget(keys [][]byte) error {
	if len(keys) == 0 {
		return nil
	}
	err := k.s.engine.Update(func(tx meta.Txn) error {
		for _, key := range keys {
			tx.Delete(key)
		}
		return nil
	})
	k.s.flusher.mark()
	return k.s.engineError(err)
}

// labelRound sets some labels and makes them durable.
type labelRound struct {
	s      *Store
	gently bool
	begun  time.Time // of the work since the last pause

	files []blob.File // with new labels, to be synced
	all   bool        // there were more: the backend is synced as a whole
}

// run renews the labels that keys ask for, and returns the keys that are done with.
func (r *labelRound) run(ctx context.Context, keys [][]byte) (done [][]byte, err error) {
	results := make(map[Ino]bool)
	for _, key := range keys {
		ino := inoOfKey(key)
		ok, known := results[ino]
		if !known {
			if ok, err = r.renew(ctx, ino); err != nil { // it keeps its note, and the others get theirs
				if ctx.Err() == nil {
					r.s.log.Warn("label of content not renewed", "ino", ino, "err", err)
				}
				ok = false
			}
			if err := r.pause(ctx); err != nil {
				return done, err
			}
			results[ino] = ok
		}
		if ok {
			done = append(done, key)
		}
	}
	return done, nil
}

// renew renews the label of a file, or those of all files in a directory. It
// reports false if that has to wait.
func (r *labelRound) renew(ctx context.Context, ino Ino) (bool, error) {
	v, err := readInode(r.s.engine, ino)
	switch {
	case errors.Is(err, ErrStale), errors.Is(err, ErrDamaged):
		return true, nil
	case err != nil:
		return false, err
	case v.IsDir():
		return true, r.tree(ctx, ino)
	}
	return r.file(ctx, &v, false)
}

// tree renews the labels of all files below a directory.
func (r *labelRound) tree(ctx context.Context, dir Ino) error {
	for dirs := []Ino{dir}; len(dirs) > 0; {
		dir, dirs = dirs[len(dirs)-1], dirs[:len(dirs)-1]
		prefix := inoKey(keyDirent, dir)
		for from := prefix; ; {
			var inos []Ino
			n := 0
			err := r.s.engine.Scan(from, prefixEnd(prefix), func(key, value []byte) bool {
				from = append(bytes.Clone(key), 0)
				if d, err := decodeDirent(value); err == nil && d.typ == ModeDir {
					dirs = append(dirs, d.ino)
				} else if err == nil && d.typ == ModeRegular {
					inos = append(inos, d.ino)
				}
				n++
				return n < labelChunk
			})
			if err != nil {
				return err
			}
			if err := r.pause(ctx); err != nil { // there may be no file in all of the tree
				return err
			}
			if n == 0 {
				break
			}
			if err := r.below(ctx, inos); err != nil {
				return err
			}
		}
	}
	return nil
}

// below renews the labels of files of a directory that was moved.
func (r *labelRound) below(ctx context.Context, inos []Ino) error {
	for _, ino := range inos {
		v, err := readInode(r.s.engine, ino)
		if err != nil {
			if errors.Is(err, ErrStale) || errors.Is(err, ErrDamaged) {
				continue
			}
			return err
		}
		if _, err := r.file(ctx, &v, true); err != nil {
			return err
		}
		if err := r.pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// file renews the label of one file. It reports false if that has to wait. below: the
// file itself has not changed, so that a label that is right is durable.
func (r *labelRound) file(ctx context.Context, v *inode, below bool) (bool, error) {
	if v.content.kind != contentBlob || !v.content.sealed || v.Nlink == 0 {
		return true, nil // the seal asks again
	}
	path, err := r.s.pathOf(v.Ino)
	switch {
	case errors.Is(err, ErrStale):
		return false, nil // in a tree that is being copied, or removed
	case errors.Is(err, ErrDamaged):
		return true, nil
	case err != nil:
		return false, err
	}
	f, err := r.s.blobs.Open(v.content.blob, false)
	switch {
	case errors.Is(err, fs.ErrNotExist), isDiskError(err):
		return true, nil // it is damaged, and others say so
	case err != nil:
		return false, err
	}
	added := false
	defer func() {
		if !added {
			f.Close() // it has no new label
		}
	}()
	if set, err := r.set(v, path, f, below); err != nil || !set {
		return true, err
	}
	noted := r.noteTimes(ctx, v, f)
	added = true
	return noted, r.add(f)
}

// set puts the label that v ought to have on its blob, and reports whether f has to
// be synced. What cannot be set is for the log, and for the next scrub.
func (r *labelRound) set(v *inode, path string, f blob.File, below bool) (bool, error) {
	k, ok := f.(blob.Labeler)
	if !ok {
		return false, nil
	}
	sum, err := r.s.sumOfSums(v)
	if err != nil {
		return false, err
	}
	want := labelOf(&v.Attr, path, sum)
	has, err := r.s.labeled(f, v, &want)
	if err != nil || has {
		return err == nil && !below, err
	}
	if n := r.s.nodes.peek(v.Ino); n != nil { // it must not become a kernel's to write to meanwhile
		defer r.s.nodes.release(n)
		b := n.share()
		b.prepare.Lock()
		defer b.prepare.Unlock()
	}
	if cur, err := readInode(r.s.engine, v.Ino); err != nil || cur.content != v.content {
		return false, ignore(err, ErrStale) // whoever has changed it asks again
	}
	if err := k.SetLabel(want.encode()); err != nil {
		r.s.log.Warn("content has no label", "ino", v.Ino, "blob", v.content.blob, "err", err)
		return false, nil
	}
	return true, nil
}

// labeled reports whether the blob of v, open as f, has the label want, or that of
// another file that shares it.
func (s *Store) labeled(f blob.File, v *inode, want *label) (bool, error) {
	has, err := labelOn(f)
	switch {
	case err != nil:
		return false, nil // none, or none that can be read
	case has.ino == v.Ino:
		return has == *want, nil
	case has.ino == 0: // it was put on before the file had a number
		has.ino = want.ino
		return has == *want, nil
	}
	refs, err := s.engine.Counter(blobKey(keyBlobRefs, v.content.blob))
	if err != nil || refs < 2 {
		return false, err
	}
	other, err := readInode(s.engine, has.ino)
	return err == nil && other.content == v.content, nil
}

// sumOfSums returns the CRC32C of the checksums of v's blocks.
func (s *Store) sumOfSums(v *inode) (sum uint32, err error) {
	groups := (v.Size + groupSums*blockSize - 1) / (groupSums * blockSize)
	for group := range groups {
		part, err := readGroup(s.engine, v.content.blob, uint32(group))
		if err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, part)
	}
	return sum, nil
}

// noteTimes notes the ctime that the blob has got with its label, so that it is not
// taken for that of a write. It reports false if that has to wait.
func (r *labelRound) noteTimes(ctx context.Context, v *inode, f blob.File) bool {
	stater, ok := f.(blob.Stater)
	if t, known := r.s.sealTimes(v.content.blob); !ok || !known || !t.native {
		return true
	}
	err := r.s.changeLocked(ctx, "label", lockSet{write: []Ino{v.Ino}, background: true}, func(c *change) error {
		cur, err := c.view(v.Ino)
		if err != nil || cur.content != v.content {
			return err
		}
		st, err := stater.Stat()
		t, known := c.s.sealTimes(v.content.blob)
		if err != nil || !known || t.mtime != st.Mtime || t.ctime == st.Ctime {
			return err
		}
		t.ctime = st.Ctime
		c.put(sumsKey(v.content.blob, groupTimes), t.append(nil))
		return nil
	})
	return err == nil || errors.Is(err, ErrStale)
}

// add has f synced and closed.
func (r *labelRound) add(f blob.File) error {
	r.files = append(r.files, f)
	if len(r.files) < labelFiles {
		return nil
	}
	if _, ok := r.s.blobs.(blob.Syncer); !ok {
		return r.syncFiles()
	}
	r.all = true
	return r.close()
}

// sync makes the labels durable.
func (r *labelRound) sync() error {
	if !r.all {
		return r.syncFiles()
	}
	r.all = false
	return errors.Join(r.close(), r.s.blobs.(blob.Syncer).SyncAll())
}

func (r *labelRound) syncFiles() (err error) {
	for _, f := range r.files {
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, r.close())
}

func (r *labelRound) close() (err error) {
	for _, f := range r.files {
		err = errors.Join(err, f.Close())
	}
	r.files = r.files[:0]
	return err
}

// pause leaves the disk to others for as long as the work since the last pause took.
func (r *labelRound) pause(ctx context.Context) error {
	const step = 10 * time.Millisecond
	took := time.Since(r.begun)
	if !r.gently || took < step {
		return ctx.Err()
	}
	err := sleepFor(ctx, min(took, time.Second))
	r.begun = time.Now()
	return err
}

// labelKey returns the key of a wish for new labels.
func labelKey(ino Ino, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(inoKey(keyLabel, ino), seq)
}

// relabel has the label of ino's content renewed, or, if that is a directory, those of
// all content below it.
func (c *change) relabel(ino Ino) {
	c.put(labelKey(ino, c.s.garbageSeq.Add(1)), []byte{})
	c.labels = true
}

// addLabels has the labels renewed that are wrong once the change is made.
func (c *change) addLabels() {
	for i := range c.held {
		h := &c.held[i]
		if !h.edited || h.removed || !h.relabels() {
			continue
		}
		c.relabel(h.node.ino)
		c.moved = c.moved || h.next.IsDir()
	}
}

// labelsWrong is told that a change after which labels are wrong is visible.
func (c *change) labelsWrong() {
	if c.moved {
		c.s.dirMoves.Add(1)
	}
	c.s.labeler.wake()
}

// relabels reports whether the change makes a label wrong. New content has the one that
// its maker gave it, unless he says something else.
func (h *heldInode) relabels() bool {
	v, old := &h.next, h.cur
	moved := v.parent != old.parent || v.name != old.name
	if v.IsDir() {
		return moved && old.parent != 0 && v.parent != 0
	}
	if v.content.kind != contentBlob || !v.content.sealed || v.parent == 0 {
		return false
	}
	if v.content != old.content {
		return v.content.blob == old.content.blob // it has just been sealed
	}
	return moved || v.Mode != old.Mode || v.UID != old.UID || v.GID != old.GID || v.Mtime != old.Mtime
}

// checkLabel has the label of a file renewed if it is not right. A scrub asks, since
// that finds what nobody else does: labels that a copy of the folder has lost, or of a
// file that is gone while another shares its content.
func (s *Store) checkLabel(v *inode, f blob.File) error {
	if _, ok := f.(blob.Labeler); !ok || v.Nlink == 0 || s.writable() != nil {
		return nil
	}
	path, err := s.pathOf(v.Ino)
	if err != nil {
		return ignore(err, ErrStale)
	}
	sum, err := s.sumOfSums(v)
	if err != nil {
		return err
	}
	want := labelOf(&v.Attr, path, sum)
	if ok, err := s.labeled(f, v, &want); ok || err != nil {
		return err
	}
	err = s.engine.Update(func(tx meta.Txn) error {
		tx.Put(labelKey(v.Ino, s.garbageSeq.Add(1)), []byte{})
		return nil
	})
	if err != nil {
		return fmt.Errorf("label of inode %d: %w", v.Ino, s.engineError(err))
	}
	s.labeler.wake()
	return nil
}

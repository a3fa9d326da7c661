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
	"engramfs/store/poison"
)

// Upload is content on its way in. Nothing of it can be seen before Commit, and
// after Abort nothing is left of it. It is not for concurrent use.
type Upload struct {
	s         *Store
	parent    Ino
	name      string
	target    Ino   // what the name meant at first, 0: nothing
	announced int64 // -1: unknown

	size int64
	data []byte // while the content fits into the engine

	id   blob.ID // afterwards
	file blob.File
	sums summer
	// hashes are the digests to compute; digester does that once there is a blob.
	hashes   hashSet
	digester *digester
	digests  Digests
	// labeled is the blob's label, and moves what Store.dirMoves was before.
	labeled label
	moves   uint64
	// flushed bytes are on their way to the disk.
	flushed int64
	done    bool
	// referred: a change may have made the blob a file's content.
	referred bool
}

// NewUpload begins the content of name in parent, an existing file or one to be
// created. size is its announced length in bytes, -1 if unknown. It refuses
// early what Commit would refuse anyway: the error matches ErrIsDir, ErrNotDir,
// ErrNoSpace, ErrPoisoned, ErrReadOnly.
func (s *Store) NewUpload(ctx context.Context, parent Ino, name string, size int64) (*Upload, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if size > MaxFileSize {
		return nil, ErrTooBig
	}
	if err := s.writable(); err != nil {
		return nil, err
	}
	if err := s.space.take(s.now().UnixNano(), max(size, 0)); err != nil {
		return nil, err
	}
	u := &Upload{s: s, parent: parent, name: name, announced: size, hashes: hashSetOf(SHA256)}
	d, err := s.lookup(ctx, parent, name)
	lock := parent
	switch {
	case err == nil && d.typ == ModeDir:
		return nil, ErrIsDir
	case err == nil:
		u.target, lock = d.ino, d.ino
	case errors.Is(err, ErrNotDir), errors.Is(err, ErrStale):
		return nil, err
	}
	return u, s.refusePoisoned(lock)
}

// refusePoisoned returns the error that a change of ino would get if its lock
// is poisoned now. It spares the work before a change that cannot succeed.
func (s *Store) refusePoisoned(ino Ino) error {
	n := s.nodes.peek(ino)
	if n == nil {
		return nil
	}
	defer s.nodes.release(n)
	return n.guard.Refuse()
}

// Want asks for more digests than SHA256. It must be called before the first byte.
func (u *Upload) Want(hashes ...Hash) { u.hashes |= hashSetOf(hashes...) }

// Digests returns the digests of what came in: SHA256 and what Want asked for.
// Nothing may be written afterwards. The error matches ErrPanic.
func (u *Upload) Digests() (Digests, error) {
	switch {
	case u.digests.any():
	case u.digester == nil:
		u.digests = digestsOf(u.data, u.hashes)
	default:
		d, err := u.digester.digests()
		if err != nil {
			return Digests{}, err
		}
		u.digests = d
	}
	return u.digests, nil
}

// Write implements io.Writer.
func (u *Upload) Write(p []byte) (n int, err error) {
	var used sync.WaitGroup
	defer used.Wait()
	return u.write(p, &used)
}

// write is Write for a p that stays as it is until used.Wait returns.
func (u *Upload) write(p []byte, used *sync.WaitGroup) (n int, err error) {
	defer u.s.contain("upload_write", &err)
	if err := u.s.faults.hit(faultUploadWrite, u.parent, u.target); err != nil {
		return 0, err
	}
	if u.size+int64(len(p)) > MaxFileSize {
		return 0, ErrTooBig
	}
	if u.file == nil && u.size+int64(len(p)) <= u.s.inline {
		u.data = append(u.data, p...)
		u.size += int64(len(p))
		return len(p), nil
	}
	if err := u.spill(); err != nil {
		return 0, err
	}
	return u.writeBlob(p, used)
}

// spill moves the content from memory to a blob.
func (u *Upload) spill() error {
	if u.file != nil {
		return nil
	}
	u.id = blob.NewID()
	u.s.collector.begin(u.id)
	f, err := u.s.blobs.Create(u.id)
	if err != nil {
		u.s.collector.end(u.id, true)
		return u.s.blobError("create content", err)
	}
	u.file, u.digester = f, u.s.newDigester(u.hashes)
	data := u.data
	u.size, u.data = 0, nil
	var used sync.WaitGroup // of data, which nobody changes any more
	_, err = u.writeBlob(data, &used)
	return err
}

func (u *Upload) writeBlob(p []byte, used *sync.WaitGroup) (int, error) {
	if err := u.s.space.take(u.s.now().UnixNano(), int64(len(p))); err != nil {
		return 0, err
	}
	n, err := u.file.WriteAt(p, u.size)
	u.sums.write(p[:n])
	u.digester.write(p[:n], used)
	u.size += int64(n)
	if err != nil {
		return n, u.s.blobError("write content", err)
	}
	if w, ok := u.file.(blob.Writebacker); ok && u.size-u.flushed >= writebackStep {
		w.StartWriteback(u.flushed, u.size-u.flushed)
		u.flushed = u.size
	}
	return n, nil
}

// writebackStep is how many bytes of an upload are handed to the disk at a time
// while the next ones come in.
const writebackStep = 8 << 20

// ReadFrom implements io.ReaderFrom: it takes in all of r. An error of r is
// returned as it is; the upload is then good for nothing but Abort.
func (u *Upload) ReadFrom(r io.Reader) (n int64, err error) {
	defer u.s.contain("upload_read", &err)
	if u.announced >= 0 && u.announced <= u.s.inline && u.size == 0 {
		return u.readSmall(r)
	}
	var ring bufferRing
	defer ring.release()
	for {
		buf, used := ring.next()
		m, err := io.ReadFull(r, buf)
		if m > 0 {
			w, werr := u.write(buf[:m], used)
			n += int64(w)
			if werr != nil {
				return n, werr
			}
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && m < len(buf) && endOf(r):
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

// endOf tells the end of r from an error of r that is io.ErrUnexpectedEOF
// itself, as a request body gives when the client went away: io.ReadFull says the same
// for both, and the next read of r tells.
func endOf(r io.Reader) bool {
	var one [1]byte
	n, err := r.Read(one[:])
	return n == 0 && errors.Is(err, io.EOF)
}

// readSmall takes in content of a known, small size with one allocation.
func (u *Upload) readSmall(r io.Reader) (int64, error) {
	u.data = make([]byte, 0, u.announced+1)
	for {
		n, err := r.Read(u.data[len(u.data):cap(u.data)])
		u.data = u.data[:len(u.data)+n]
		u.size = int64(len(u.data))
		switch {
		case u.size > u.announced:
			return u.size, fmt.Errorf("%w: more than the announced %d bytes", fs.ErrInvalid, u.announced)
		case err == io.EOF:
			return u.size, u.s.faults.hit(faultUploadWrite, u.parent, u.target)
		case err != nil:
			return u.size, err
		}
	}
}

// CommitOptions of Upload.Commit.
type CommitOptions struct {
	Cond  Cond      // asked under the locks with the current target; nil: none
	Mtime time.Time // zero: now
	Mode  uint32    // permission bits of a new file; 0: 0600
	UID   uint32    // of a new file
	GID   uint32
}

// Commit swaps the content in as one change and reports whether it created the
// file. An existing file keeps its names, mode, owner and extended attributes,
// and its inode unless a handle of it is open: then an inode with the new content
// takes its place under all of its names, and the handles keep the old one.
// Whoever reads its old content finishes on that. The content is durable before
// the change is made; the change is durable after Store.Sync.
//
// The error matches io.ErrUnexpectedEOF if fewer bytes came than announced,
// ErrIsDir, fs.ErrNotExist if the parent is gone, ErrLocked, or is Cond's. On any error
// nothing has changed, unless it matches ErrPoisoned or ErrPanic: then the
// outcome is unknown.
func (u *Upload) Commit(ctx context.Context, o CommitOptions) (a Attr, created bool, err error) {
	defer u.Abort()
	defer u.s.contain("upload_commit", &err)
	if u.done {
		return Attr{}, false, ErrClosed
	}
	if u.announced >= 0 && u.size != u.announced {
		return Attr{}, false, fmt.Errorf("%w: got %d bytes, %d were announced", io.ErrUnexpectedEOF, u.size, u.announced)
	}
	u.label(ctx, &o)
	if err := u.syncBlob(); err != nil {
		return Attr{}, false, err
	}
	if u.digester != nil {
		if _, err := u.Digests(); err != nil {
			return Attr{}, false, err
		}
	}
	u.referred = true
	touch, fresh := []Ino{u.target}, Ino(0)
	if u.target == 0 {
		touch[0] = u.parent
	}
	err = u.s.change(ctx, "put", touch, func(c *change) error {
		d, exists, err := c.entry(u.parent, u.name)
		if err != nil {
			return err
		}
		if err := u.s.reachable(u.parent); err != nil {
			return err
		}
		created = !exists
		if exists {
			a, err = u.overwrite(c, d.ino, &fresh, o)
			return err
		}
		if _, err := c.editDir(u.parent); err != nil { // locks it, so that the name stays free
			return err
		}
		if err := c.ask(o.Cond, 0); err != nil {
			return err
		}
		if fresh == 0 {
			if fresh, err = u.s.allocIno(); err != nil {
				return err
			}
		}
		a, err = u.create(c, fresh, o)
		return err
	})
	u.referred = mayHaveChanged(err)
	return a, created, err
}

// mayHaveChanged reports whether a change that ended with err is or may be made.
func mayHaveChanged(err error) bool {
	var refused *poison.Error
	if errors.As(err, &refused) {
		return !refused.Refused
	}
	return err == nil || errors.Is(err, ErrPanic) || errors.Is(err, ErrReadOnly) || errors.Is(err, ErrFault)
}

func (u *Upload) syncBlob() error {
	if err := u.s.faults.hit(faultUploadSync, u.parent, u.target); err != nil {
		return err
	}
	if u.file == nil {
		return nil
	}
	if err := u.file.Sync(); err != nil {
		return u.s.blobError("sync content", err)
	}
	return nil
}

// overwrite replaces the content of the file ino. fresh is the number of an inode
// that it may have to make; 0: none was allocated yet.
func (u *Upload) overwrite(c *change, ino Ino, fresh *Ino, o CommitOptions) (Attr, error) {
	v, err := c.view(ino)
	if err != nil {
		return Attr{}, err
	}
	switch {
	case v.IsDir():
		return Attr{}, ErrIsDir
	case !v.IsRegular():
		return Attr{}, fmt.Errorf("%w: %q is a special file", ErrIsDir, u.name)
	}
	if err := c.ask(o.Cond, ino); err != nil {
		return Attr{}, err
	}
	h, err := c.lookHeld(ino)
	if err != nil {
		return Attr{}, err
	}
	if h.node.opens.Load() > 0 {
		return u.supplant(c, ino, fresh, o)
	}
	if err := c.killPriv(ino); err != nil { // new content has no privileges
		return Attr{}, err
	}
	if v, err = c.edit(ino); err != nil {
		return Attr{}, err
	}
	u.fill(c, v, o)
	return v.Attr, nil
}

// create makes the file.
func (u *Upload) create(c *change, ino Ino, o CommitOptions) (Attr, error) {
	v, err := c.create(u.parent, u.name, ino, NewNode{Mode: o.Mode & ModePerm, UID: o.UID, GID: o.GID})
	if err != nil {
		return Attr{}, err
	}
	u.fill(c, v, o)
	v.Version = c.s.nextVersion(0)
	return v.Attr, nil
}

// fill gives v the uploaded content.
func (u *Upload) fill(c *change, v *inode, o CommitOptions) {
	c.setContent(v, u.size, u.data, u.id)
	if u.file != nil {
		c.putSums(u.id, u.sums.done())
		c.putDigests(u.id, &u.digests)
	}
	if !o.Mtime.IsZero() {
		v.Mtime = o.Mtime.UnixNano()
	}
	if u.file != nil && !u.labelFits(v) {
		c.relabel(v.Ino)
	}
}

// Abort gives the upload up and removes what it has stored. It does nothing
// after Commit or a first Abort.
func (u *Upload) Abort() {
	if u.done {
		return
	}
	u.done = true
	if u.file == nil {
		return
	}
	u.digester.stop()
	if err := u.file.Close(); err != nil {
		u.s.log.Warn("content not closed", "blob", u.id, "err", err)
	}
	u.s.collector.end(u.id, !u.referred)
}

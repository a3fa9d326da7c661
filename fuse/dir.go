package fuse

import (
	"context"
	"sync"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"engramfs/store"
)

// dirChunk is how many entries are read ahead of the kernel's requests.
const dirChunk = 256

// dirHandle is an open directory.
//
// The cookie of an entry is its place in the list of the names that were
// returned so far, and reading goes on with the name after it. So an entry that
// is made or removed meanwhile never makes another one be skipped or returned
// twice, and a program can seek to every cookie that it was given.
type dirHandle struct {
	ino store.Ino

	// mu protects the fields below and orders the readers of the directory.
	mu      sync.Mutex
	cookies dirCookies
	// ahead is what was read and not yet returned. It follows the entry with the
	// cookie aheadAt. whole: nothing comes after it.
	ahead   []store.Dirent
	aheadAt uint64
	whole   bool
	attrs   []store.Attr // of the entries of one reply
}

// The cookies of "." and ".." and of the first real entry.
const (
	dotCookie    = 1
	dotDotCookie = 2
	firstCookie  = 3
)

// OpenDir is opendir(3).
func (fs *fileSystem) OpenDir(_ <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) (status gofuse.Status) {
	op := fs.begin("opendir", &in.InHeader, &status)
	defer op.end(&status)
	ctx, _ := op.context()
	a, err := fs.getAttr(ctx, store.Ino(in.NodeId))
	if err != nil {
		return op.status(err)
	}
	if !a.IsDir() {
		return gofuse.ENOTDIR
	}
	out.Fh = fs.dirs.add(&dirHandle{ino: a.Ino})
	return gofuse.OK
}

// ReleaseDir is closedir(3).
func (fs *fileSystem) ReleaseDir(in *gofuse.ReleaseIn) {
	var status gofuse.Status
	op := fs.begin("releasedir", &in.InHeader, &status)
	defer op.end(&status)
	fs.dirs.take(in.Fh)
	status = gofuse.OK
}

// FsyncDir is fsync(2) of a directory: all that was made in it is durable, and
// everything else too.
func (fs *fileSystem) FsyncDir(_ <-chan struct{}, in *gofuse.FsyncIn) (status gofuse.Status) {
	op := fs.begin("fsyncdir", &in.InHeader, &status)
	defer op.end(&status)
	ctx, _ := op.context()
	return op.status(fs.store.Sync(ctx))
}

// ReadDir is getdents(2) without attributes.
func (fs *fileSystem) ReadDir(_ <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	op := fs.begin("readdir", &in.InHeader, &status)
	defer op.end(&status)
	d, ok := fs.dirs.get(in.Fh)
	if !ok {
		return gofuse.EBADF
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, _ := op.context()
	return op.status(d.read(ctx, fs, in.Offset, func(e gofuse.DirEntry, _ *store.Dirent) bool {
		return out.AddDirEntry(e)
	}))
}

// ReadDirPlus is getdents(2) with what a lookup of each entry would answer.
func (fs *fileSystem) ReadDirPlus(_ <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) (status gofuse.Status) {
	op := fs.begin("readdirplus", &in.InHeader, &status)
	defer op.end(&status)
	d, ok := fs.dirs.get(in.Fh)
	if !ok {
		return gofuse.EBADF
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, trace := op.context()
	p := plusReply{fs: fs}
	defer p.undo(&status)
	err := d.read(ctx, fs, in.Offset, func(e gofuse.DirEntry, real *store.Dirent) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && real != nil { // "." and ".." are no references
			p.add(real, entry)
		}
		return entry != nil
	})
	if err == nil {
		err = p.fill(ctx, trace, d)
	}
	return op.status(err)
}

// plusReply is the entries of a reply that need attributes.
type plusReply struct {
	fs      *fileSystem
	dirents []store.Dirent
	out     []*gofuse.EntryOut
}

// add counts the reference before the attributes are read: a change after that
// is notified.
func (p *plusReply) add(d *store.Dirent, out *gofuse.EntryOut) {
	p.fs.table.remember(d.Ino)
	p.dirents = append(p.dirents, *d)
	p.out = append(p.out, out)
}

// fill answers for each entry. One that was removed meanwhile stays a name without a reference.
func (p *plusReply) fill(ctx context.Context, trace *store.Trace, d *dirHandle) error {
	var err error
	if d.attrs, err = p.fs.store.AppendAttrs(ctx, d.attrs[:0], p.dirents); err != nil {
		return err
	}
	for i := range d.attrs {
		if a := &d.attrs[i]; a.Mode != 0 {
			p.fs.fillEntry(ctx, p.out[i], a, trace)
		}
	}
	for i := range d.attrs { // nothing can fail any more
		if d.attrs[i].Mode == 0 {
			p.fs.forget(p.dirents[i].Ino, 1)
		}
	}
	return nil
}

// undo undoes add for all if the reply is an error, or answering has panicked.
func (p *plusReply) undo(status *gofuse.Status) {
	if *status == gofuse.OK {
		return
	}
	for i := range p.dirents {
		p.fs.forget(p.dirents[i].Ino, 1)
	}
}

// read calls add with the entries after the one with the cookie off, until it
// returns false because the reply is full. real is nil for "." and "..".
func (d *dirHandle) read(ctx context.Context, fs *fileSystem, off uint64, add func(e gofuse.DirEntry, real *store.Dirent) bool) error {
	if off == 0 { // rewinddir(3): from now on other cookies count
		d.cookies, d.ahead, d.aheadAt, d.whole = dirCookies{}, nil, 0, false
		if !add(gofuse.DirEntry{Name: ".", Ino: uint64(d.ino), Mode: store.ModeDir, Off: dotCookie}, nil) {
			return nil
		}
		off = dotCookie
	}
	if off == dotCookie {
		parent, err := fs.store.GetParent(ctx, d.ino)
		if err != nil {
			parent = d.ino // it has been removed
		}
		if !add(gofuse.DirEntry{Name: "..", Ino: uint64(parent), Mode: store.ModeDir, Off: dotDotCookie}, nil) {
			return nil
		}
		off = dotDotCookie
	}
	if off > d.cookies.last() {
		return nil // a cookie that was never given
	}
	d.cookies.thin(off)
	for {
		if err := d.readAhead(ctx, fs, off); err != nil {
			return err
		}
		if len(d.ahead) == 0 {
			return nil
		}
		for len(d.ahead) > 0 {
			e := &d.ahead[0]
			cookie := d.cookies.after(off, e.Name)
			if !add(gofuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Type, Off: cookie}, e) {
				return nil
			}
			d.cookies.remember(off, cookie, e.Name)
			d.ahead = d.ahead[1:]
			d.aheadAt, off = cookie, cookie
		}
	}
}

// readAhead makes ahead what follows the entry with the cookie off.
func (d *dirHandle) readAhead(ctx context.Context, fs *fileSystem, off uint64) error {
	if d.aheadAt == off && (len(d.ahead) > 0 || d.whole) {
		return nil
	}
	d.ahead, d.aheadAt, d.whole = make([]store.Dirent, 0, min(dirChunk, 16+4*len(d.cookies.hashes))), off, true
	after, err := d.cookies.name(ctx, fs.store, d.ino, off)
	if err == nil {
		err = fs.store.ReadDir(ctx, d.ino, after, func(e store.Dirent) bool {
			if len(d.ahead) == dirChunk {
				d.whole = false
				return false
			}
			d.ahead = append(d.ahead, e)
			return true
		})
	}
	if err != nil {
		d.ahead, d.aheadAt, d.whole = nil, 0, false
	}
	return err
}

package fuse

import (
	"context"
	"errors"
	iofs "io/fs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"engramfs/store"
)

// nodeGeneration of every node: numbers are never reused.
const nodeGeneration = 1

// replyEntry answers with a reference to the inode of a, which was read after
// asked: if somebody else has changed something meanwhile, it is read again now
// that the table knows the inode, because the notification may have been spared.
func (fs *fileSystem) replyEntry(ctx context.Context, out *gofuse.EntryOut, a *store.Attr, asked uint64, trace *store.Trace) error {
	ino := a.Ino
	fs.table.remember(ino)
	filled := false
	defer func() { // also if the store panics
		if !filled {
			fs.forget(ino, 1)
		}
	}()
	if fs.table.asked.Load() != asked {
		again, err := fs.store.GetAttr(ctx, ino)
		if err != nil {
			return err
		}
		*a = again
	}
	fs.fillEntry(ctx, out, a, trace)
	filled = true
	return nil
}

// unremember takes back the reference of an operation that has failed, or panicked.
func (fs *fileSystem) unremember(ino store.Ino, status *gofuse.Status) {
	if *status != gofuse.OK {
		fs.forget(ino, 1)
	}
}

// fillEntry sets out to a reference that is counted already.
func (fs *fileSystem) fillEntry(ctx context.Context, out *gofuse.EntryOut, a *store.Attr, trace *store.Trace) {
	out.NodeId = uint64(a.Ino)
	out.Generation = nodeGeneration
	fs.fillAttr(ctx, &out.Attr, a)
	out.SetEntryTimeout(fs.entryTimeout(trace))
	out.SetAttrTimeout(fs.attrTimeout(a.Ino, trace))
}

// Lookup finds what a name means. The kernel resolves "." and ".." itself, but
// for a client that only has the number of a node (name_to_handle_at(2)).
func (fs *fileSystem) Lookup(_ <-chan struct{}, in *gofuse.InHeader, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	op := fs.begin("lookup", in, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	for {
		asked := fs.table.asked.Load()
		a, err := fs.lookup(ctx, store.Ino(in.NodeId), name)
		if err == nil {
			err = fs.replyEntry(ctx, out, &a, asked, trace)
			if errors.Is(err, store.ErrStale) { // removed since: the name may mean another
				continue
			}
		}
		if err == iofs.ErrNotExist && fs.o.NegativeTimeout > 0 && trace.Recovered() == nil {
			out.SetEntryTimeout(fs.o.NegativeTimeout) // NodeId 0: the kernel may remember that there is none
			return gofuse.OK
		}
		return op.status(err)
	}
}

func (fs *fileSystem) lookup(ctx context.Context, dir store.Ino, name string) (store.Attr, error) {
	switch name {
	case ".":
		return fs.store.GetAttr(ctx, dir)
	case "..":
		parent, err := fs.store.GetParent(ctx, dir)
		if err != nil {
			return store.Attr{}, err
		}
		return fs.store.GetAttr(ctx, parent)
	}
	if len(name) > store.MaxName {
		return store.Attr{}, store.ErrNameTooLong
	}
	return fs.store.Lookup(ctx, dir, name)
}

// Forget takes references back. It has no reply.
func (fs *fileSystem) Forget(nodeID, nlookup uint64) {
	var status gofuse.Status
	op := fs.begin("forget", nil, &status)
	defer op.end(&status)
	fs.forget(store.Ino(nodeID), nlookup)
	status = gofuse.OK
}

// forget takes n references of the kernel away.
func (fs *fileSystem) forget(ino store.Ino, n uint64) { fs.unpin(fs.table.forget(ino, n)) }

// Readlink is readlink(2).
func (fs *fileSystem) Readlink(_ <-chan struct{}, in *gofuse.InHeader) (target []byte, status gofuse.Status) {
	op := fs.begin("readlink", in, &status)
	defer op.end(&status)
	ctx, _ := op.context()
	s, err := fs.store.Readlink(ctx, store.Ino(in.NodeId))
	if err != nil {
		return nil, op.status(err)
	}
	op.bytes = len(s)
	return []byte(s), gofuse.OK
}

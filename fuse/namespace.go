package fuse

import (
	"context"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

// create makes a new inode and answers with it.
func (fs *fileSystem) create(op *operation, in *gofuse.InHeader, name string, umask uint32, n store.NewNode, out *gofuse.EntryOut) error {
	ctx, trace := op.context()
	parent := store.Ino(in.NodeId)
	if err := fs.davChildUnlocked(ctx, parent, name); err != nil {
		return err
	}
	n.UID, n.GID = in.Uid, in.Gid
	if err := fs.inheritACL(ctx, parent, &n, umask); err != nil {
		return err
	}
	asked := fs.table.asked.Load()
	a, err := fs.store.Create(ctx, parent, name, n)
	if err == nil {
		err = fs.committed(ctx)
	}
	if err != nil {
		return err
	}
	return fs.replyEntry(ctx, out, &a, asked, trace)
}

// Mknod is mknod(2).
func (fs *fileSystem) Mknod(_ <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	op := fs.begin("mknod", &in.InHeader, &status)
	defer op.end(&status)
	switch in.Mode & store.ModeType {
	case store.ModeRegular, store.ModeFIFO, store.ModeSocket, store.ModeChar, store.ModeBlock:
	default:
		return gofuse.EINVAL
	}
	return op.status(fs.create(&op, &in.InHeader, name, in.Umask, store.NewNode{Mode: in.Mode, Rdev: in.Rdev}, out))
}

// Mkdir is mkdir(2).
func (fs *fileSystem) Mkdir(_ <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	op := fs.begin("mkdir", &in.InHeader, &status)
	defer op.end(&status)
	mode := in.Mode&store.ModePerm | store.ModeDir
	return op.status(fs.create(&op, &in.InHeader, name, in.Umask, store.NewNode{Mode: mode}, out))
}

// Symlink is symlink(2).
func (fs *fileSystem) Symlink(_ <-chan struct{}, in *gofuse.InHeader, target, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	op := fs.begin("symlink", in, &status)
	defer op.end(&status)
	if len(target) >= unix.PathMax {
		return gofuse.Status(unix.ENAMETOOLONG)
	}
	n := store.NewNode{Mode: store.ModeSymlink | 0o777, Target: target}
	return op.status(fs.create(&op, in, name, 0, n, out))
}

// Link is link(2).
func (fs *fileSystem) Link(_ <-chan struct{}, in *gofuse.LinkIn, name string, out *gofuse.EntryOut) (status gofuse.Status) {
	op := fs.begin("link", &in.InHeader, &status)
	defer op.end(&status)
	ctx, trace := op.context()
	parent := store.Ino(in.NodeId)
	if err := fs.davChildUnlocked(ctx, parent, name); err != nil {
		return op.status(err)
	}
	asked := fs.table.asked.Load()
	a, err := fs.store.Link(ctx, store.Ino(in.Oldnodeid), parent, name)
	if err == nil {
		err = fs.committed(ctx)
	}
	if err == nil {
		err = fs.replyEntry(ctx, out, &a, asked, trace)
	}
	return op.status(err)
}

// Unlink is unlink(2).
func (fs *fileSystem) Unlink(_ <-chan struct{}, in *gofuse.InHeader, name string) (status gofuse.Status) {
	op := fs.begin("unlink", in, &status)
	defer op.end(&status)
	ctx, _ := op.context()
	parent := store.Ino(in.NodeId)
	return op.status(fs.remove(ctx, parent, name, func(cond store.Cond) error {
		return fs.store.Unlink(ctx, parent, name, cond)
	}))
}

// Rmdir is rmdir(2).
func (fs *fileSystem) Rmdir(_ <-chan struct{}, in *gofuse.InHeader, name string) (status gofuse.Status) {
	op := fs.begin("rmdir", in, &status)
	defer op.end(&status)
	ctx, _ := op.context()
	parent := store.Ino(in.NodeId)
	return op.status(fs.remove(ctx, parent, name, func(cond store.Cond) error {
		return fs.store.Rmdir(ctx, parent, name, cond)
	}))
}

func (fs *fileSystem) remove(ctx context.Context, parent store.Ino, name string, fn func(store.Cond) error) error {
	if err := fs.davChildUnlocked(ctx, parent, name); err != nil {
		return err
	}
	if err := fs.removing(fn); err != nil {
		return err
	}
	return fs.committed(ctx)
}

// removing runs fn, a change that may take the last name of the inode that its
// condition is asked about. The kernel may go on using that inode: a directory is
// somebody's working directory, a fifo or a device is open, and descriptors with
// O_PATH are of anything. None of them has a handle in the store, so the table
// keeps what the inode was until the kernel forgets it.
func (fs *fileSystem) removing(fn func(store.Cond) error) error {
	var victim store.Attr // as it is before the removal; Ino 0: there is none
	err := fn(func(cur *store.Attr) error {
		victim = store.Attr{}
		if cur != nil {
			victim = *cur
		}
		return nil
	})
	if err == nil && victim.Ino != 0 && (victim.IsDir() || victim.Nlink == 1) {
		victim.Nlink = 0
		fs.table.bury(victim)
	}
	return err
}

// Rename is renameat2(2).
func (fs *fileSystem) Rename(_ <-chan struct{}, in *gofuse.RenameIn, oldName, newName string) (status gofuse.Status) {
	op := fs.begin("rename", &in.InHeader, &status)
	defer op.end(&status)
	var o store.RenameOptions
	switch in.Flags {
	case 0:
	case unix.RENAME_NOREPLACE:
		o.NoReplace = true
	case unix.RENAME_EXCHANGE:
		o.Exchange = true
	default: // RENAME_WHITEOUT is for overlay file systems
		return gofuse.EINVAL
	}
	ctx, _ := op.context()
	return op.status(fs.rename(ctx, store.Ino(in.NodeId), oldName, store.Ino(in.Newdir), newName, o))
}

func (fs *fileSystem) rename(ctx context.Context, oldParent store.Ino, oldName string, newParent store.Ino, newName string, o store.RenameOptions) error {
	if err := fs.davTreeUnlocked(ctx, oldParent, oldName); err != nil {
		return err
	}
	if err := fs.davTreeUnlocked(ctx, newParent, newName); err != nil {
		return err
	}
	run := func(cond store.Cond) error {
		o.Target = cond
		_, err := fs.store.Rename(ctx, oldParent, oldName, newParent, newName, o)
		return err
	}
	var err error
	if o.Exchange { // nothing is removed
		err = run(nil)
	} else {
		pin := fs.pinReplaced(ctx, newParent, newName)
		if err = fs.removing(run); pin != nil && (err != nil || !fs.table.keep(pin)) {
			fs.unpin(pin)
		}
	}
	if err != nil {
		return err
	}
	return fs.committed(ctx)
}

// pinReplaced pins the file that a rename is about to replace, nil if there is
// none. open(2) has two steps: it may have found the old file and open it only
// after the rename. It starts over once, and may then meet the next rename; but a
// name that is only ever replaced can always be opened (rename(2)).
func (fs *fileSystem) pinReplaced(ctx context.Context, parent store.Ino, name string) *store.Pin {
	a, err := fs.store.Lookup(ctx, parent, name)
	if err != nil || !a.IsRegular() || !fs.table.has(a.Ino) {
		return nil
	}
	pin, err := fs.store.Pin(ctx, a.Ino)
	if err != nil {
		return nil
	}
	return pin
}

// unpin closes a pin, if there is one, without waiting: it may have to wait for
// an inode's lock, and FORGET must not.
func (fs *fileSystem) unpin(pin *store.Pin) {
	if pin == nil {
		return
	}
	fs.unpinning.Add(1)
	go func() {
		defer fs.unpinning.Done()
		var status gofuse.Status
		op := fs.begin("unpin", nil, &status)
		defer op.end(&status)
		status = op.status(pin.Close())
	}()
}

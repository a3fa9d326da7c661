package fuse

import (
	"context"
	"encoding/hex"
	"errors"
	iofs "io/fs"

	"engramfs/store"
)

// Extended attributes that are computed. They can be read by name, but are not
// listed, as those of CephFS are not: cp -a, rsync -X and tar --xattrs would store
// them with copies that they do not describe, or fail because they cannot.
const (
	xattrSHA256 = "user.sha256"         // of the content, in hex; none while the file is unsealed
	xattrState  = "user.engramfs.state" // a store.FileState
)

func isVirtualXattr(name string) bool { return name == xattrSHA256 || name == xattrState }

// errVirtualXattr is the answer to a change of a computed attribute (EPERM).
var errVirtualXattr = iofs.ErrPermission

// virtualXattr returns a computed attribute. The error matches store.ErrNoXattr if
// the inode has none of it.
func (fs *fileSystem) virtualXattr(ctx context.Context, ino store.Ino, name string) ([]byte, error) {
	if name == xattrState {
		state, err := fs.store.FileState(ctx, ino)
		return []byte(state), err
	}
	ctx, trace := store.WithTrace(ctx)
	c, err := fs.store.OpenContent(ctx, ino)
	switch {
	case errors.Is(err, store.ErrIsDir), errors.Is(err, iofs.ErrInvalid):
		return nil, store.ErrNoXattr
	case err != nil:
		return nil, err
	}
	defer c.Close()
	if len(trace.Recovered()) > 0 {
		return nil, store.ErrNoXattr // nothing vouches for it
	}
	d, err := c.Digests(store.SHA256)
	if errors.Is(err, store.ErrChanged) || err == nil && d[store.SHA256] == nil {
		return nil, store.ErrNoXattr
	}
	return hex.AppendEncode(nil, d[store.SHA256]), err
}

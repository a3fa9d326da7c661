package posix

import (
	"golang.org/x/sys/unix"
)

// kind is a type of file.
type kind struct {
	name   string
	format uint32 // the S_IFMT bits
}

var (
	regular   = kind{"regular", unix.S_IFREG}
	directory = kind{"directory", unix.S_IFDIR}
	fifo      = kind{"fifo", unix.S_IFIFO}
	socket    = kind{"socket", unix.S_IFSOCK}
	char      = kind{"char", unix.S_IFCHR}
	block     = kind{"block", unix.S_IFBLK}
	symlink   = kind{"symlink", unix.S_IFLNK}
)

var (
	nodes    = []kind{regular, fifo, socket, char, block}   // what mknod(2) makes
	linkable = append([]kind{symlink}, nodes...)            // all but directories
	modal    = append([]kind{directory}, nodes...)          // all that have a mode
	allKinds = append([]kind{directory, symlink}, nodes...) // every kind
)

var (
	devNull   = int(unix.Mkdev(1, 3))     // null(4), safe to open
	devNoDisk = int(unix.Mkdev(4095, 77)) // a block device of no driver
)

// dangling is what a symlink of make points to.
const dangling = "nowhere"

// make creates path as a file of kind k. The umask is the case's, usually 0.
func (e *env) make(k kind, path string, perm uint32) {
	e.Helper()
	var err error
	switch k {
	case directory:
		// mkdir(2) takes no suid and sgid bits.
		if err = unix.Mkdir(path, perm); err == nil && perm&0o6000 != 0 {
			err = unix.Chmod(path, perm)
		}
	case symlink:
		err = unix.Symlink(dangling, path)
	case char:
		err = unix.Mknod(path, k.format|perm, devNull)
	case block:
		err = unix.Mknod(path, k.format|perm, devNoDisk)
	default:
		err = unix.Mknod(path, k.format|perm, 0)
	}
	if err != nil {
		e.Fatalf("make %s %q: %s", k.name, path, errnoName(err))
	}
}

// makeAs creates path as a file of kind k that belongs to u.
func (e *env) makeAs(u user, k kind, path string, perm uint32) {
	e.Helper()
	e.make(k, path, perm)
	e.chown(path, u)
}

// is reports a difference in the type of a file.
func (e *env) is(path string, k kind) {
	e.Helper()
	if got := e.lstat(path).Mode & unix.S_IFMT; got != k.format {
		e.Errorf("type of %q = %#o, want a %s", path, got, k.name)
	}
}

// remove unlinks path, or removes the directory.
func (e *env) remove(k kind, path string) {
	e.Helper()
	if k == directory {
		e.ok(unix.Rmdir(path))
		return
	}
	e.ok(unix.Unlink(path))
}

package posix

import (
	"errors"

	"golang.org/x/sys/unix"
)

// pathCall is a system call seen as what it does with one pathname.
type pathCall struct {
	name     string
	object   kind // what the path has to name; for a call that creates, what it makes
	creates  bool // fails with EEXIST where the path exists
	replaces bool // creates, or takes the place of what the path names
	follows  bool // follows a symlink in the last component
	writes   bool // refused with EROFS on a read-only file system
	do       func(e *env, path string) error
}

// theOther is a file beside the one under test, for calls that take two paths.
const theOther = "the other file"

func opening(flags int) func(e *env, p string) error {
	return func(e *env, p string) error { return tryOpen(p, flags, 0o644) }
}

func making(k kind) func(e *env, p string) error {
	return func(e *env, p string) error { return unix.Mknod(p, k.format|0o644, 0) }
}

func pathCalls(o Options) []pathCall {
	calls := append(inspectingCalls(), changingCalls()...)
	calls = append(calls, namingCalls()...)
	if !o.NoXattr {
		calls = append(calls, xattrCalls()...)
	}
	return calls
}

func inspectingCalls() []pathCall {
	return []pathCall{
		{name: "stat", object: regular, follows: true, do: func(e *env, p string) error {
			var st unix.Stat_t
			return unix.Stat(p, &st)
		}},
		{name: "lstat", object: symlink, do: func(e *env, p string) error {
			var st unix.Stat_t
			return unix.Lstat(p, &st)
		}},
		{name: "statx", object: regular, follows: true, do: func(e *env, p string) error {
			var sx unix.Statx_t
			return unix.Statx(atCwd, p, 0, unix.STATX_BASIC_STATS, &sx)
		}},
		{name: "statfs", object: regular, follows: true, do: func(e *env, p string) error {
			var sf unix.Statfs_t
			return unix.Statfs(p, &sf)
		}},
		{name: "access", object: regular, follows: true, do: func(e *env, p string) error { return unix.Access(p, unix.R_OK) }},
		{name: "faccessat nofollow", object: symlink, do: func(e *env, p string) error {
			return unix.Faccessat(atCwd, p, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW)
		}},
		{name: "readlink", object: symlink, do: func(e *env, p string) error {
			_, err := unix.Readlink(p, make([]byte, 64))
			return err
		}},
		{name: "chdir", object: directory, follows: true, do: func(e *env, p string) error {
			if err := unix.Chdir(p); err != nil {
				return err
			}
			return unix.Fchdir(e.top)
		}},
		{name: "open read", object: regular, follows: true, do: opening(unix.O_RDONLY)},
		{name: "open write", object: regular, follows: true, writes: true, do: opening(unix.O_WRONLY)},
		{name: "open path", object: regular, follows: true, do: opening(unix.O_PATH)},
		{name: "open directory", object: directory, follows: true, do: opening(unix.O_DIRECTORY)},
		{name: "open truncate", object: regular, follows: true, writes: true, do: opening(unix.O_WRONLY | unix.O_TRUNC)},
	}
}

func changingCalls() []pathCall {
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	return []pathCall{
		{name: "chmod", object: regular, follows: true, writes: true, do: func(e *env, p string) error { return unix.Chmod(p, 0o644) }},
		{name: "chown", object: regular, follows: true, writes: true, do: func(e *env, p string) error { return unix.Chown(p, -1, -1) }},
		{name: "lchown", object: symlink, writes: true, do: func(e *env, p string) error { return unix.Lchown(p, -1, -1) }},
		{name: "truncate", object: regular, follows: true, writes: true, do: func(e *env, p string) error { return unix.Truncate(p, 10) }},
		{name: "utimensat", object: regular, follows: true, writes: true, do: func(e *env, p string) error {
			return unix.UtimesNanoAt(atCwd, p, now, 0)
		}},
		{name: "utimensat nofollow", object: symlink, writes: true, do: func(e *env, p string) error {
			return unix.UtimesNanoAt(atCwd, p, now, unix.AT_SYMLINK_NOFOLLOW)
		}},
	}
}

// namingCalls are those that add and remove names.
func namingCalls() []pathCall {
	return []pathCall{
		{name: "open create", object: regular, replaces: true, follows: true, writes: true, do: opening(unix.O_CREAT | unix.O_RDWR)},
		{name: "open exclusive", object: regular, creates: true, writes: true, do: opening(unix.O_CREAT | unix.O_EXCL | unix.O_RDWR)},
		{name: "mkdir", object: directory, creates: true, writes: true, do: func(e *env, p string) error { return unix.Mkdir(p, 0o755) }},
		{name: "mkfifo", object: fifo, creates: true, writes: true, do: making(fifo)},
		{name: "mknod regular", object: regular, creates: true, writes: true, do: making(regular)},
		{name: "mknod socket", object: socket, creates: true, writes: true, do: making(socket)},
		{name: "symlink", object: symlink, creates: true, writes: true, do: func(e *env, p string) error { return unix.Symlink(dangling, p) }},
		{name: "link from", object: regular, writes: true, do: func(e *env, p string) error {
			if err := unix.Link(p, "linked"); err != nil {
				return err
			}
			return unix.Unlink("linked")
		}},
		{name: "linkat follow from", object: regular, follows: true, writes: true, do: func(e *env, p string) error {
			if err := unix.Linkat(atCwd, p, atCwd, "linked", unix.AT_SYMLINK_FOLLOW); err != nil {
				return err
			}
			return unix.Unlink("linked")
		}},
		{name: "link to", object: regular, creates: true, writes: true, do: func(e *env, p string) error { return unix.Link(theOther, p) }},
		{name: "unlink", object: regular, writes: true, do: func(e *env, p string) error { return unix.Unlink(p) }},
		{name: "rmdir", object: directory, writes: true, do: func(e *env, p string) error { return unix.Rmdir(p) }},
		{name: "unlinkat removedir", object: directory, writes: true, do: func(e *env, p string) error {
			return unix.Unlinkat(atCwd, p, unix.AT_REMOVEDIR)
		}},
		{name: "rename from", object: regular, writes: true, do: func(e *env, p string) error { return unix.Rename(p, "renamed") }},
		{name: "rename to", object: regular, replaces: true, writes: true, do: func(e *env, p string) error { return unix.Rename(theOther, p) }},
		{name: "renameat2 noreplace to", object: regular, creates: true, writes: true, do: func(e *env, p string) error {
			return unix.Renameat2(atCwd, theOther, atCwd, p, unix.RENAME_NOREPLACE)
		}},
	}
}

func xattrCalls() []pathCall {
	const name = "user.posix"
	return []pathCall{
		{name: "setxattr", object: regular, follows: true, writes: true, do: func(e *env, p string) error {
			return unix.Setxattr(p, name, []byte("v"), 0)
		}},
		{name: "getxattr", object: regular, follows: true, do: func(e *env, p string) error {
			_, err := unix.Getxattr(p, name, nil)
			return orNoData(err)
		}},
		{name: "listxattr", object: regular, follows: true, do: func(e *env, p string) error {
			_, err := unix.Listxattr(p, nil)
			return err
		}},
		{name: "llistxattr", object: symlink, do: func(e *env, p string) error {
			_, err := unix.Llistxattr(p, nil)
			return err
		}},
		{name: "removexattr", object: regular, follows: true, writes: true, do: func(e *env, p string) error {
			return orNoData(unix.Removexattr(p, name))
		}},
	}
}

// orNoData takes ENODATA for success: the path was resolved, and the file has no
// such attribute.
func orNoData(err error) error {
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}

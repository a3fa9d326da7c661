package posix

import (
	"golang.org/x/sys/unix"
)

// faultCases gives every call that takes a pathname an address outside of the
// process: EFAULT, and no crash of whoever serves the file system.
func faultCases(s *suite) {
	const unmapped = ^uintptr(0) - 4095
	here := uintptr(1<<64 - 100) // AT_FDCWD as the kernel sees it
	calls := []struct {
		name string
		trap uintptr
		args [5]uintptr
	}{
		{"openat", unix.SYS_OPENAT, [5]uintptr{here, unmapped, unix.O_RDONLY}},
		{"openat create", unix.SYS_OPENAT, [5]uintptr{here, unmapped, unix.O_CREAT | unix.O_RDWR, 0o644}},
		{"mkdirat", unix.SYS_MKDIRAT, [5]uintptr{here, unmapped, 0o755}},
		{"mknodat", unix.SYS_MKNODAT, [5]uintptr{here, unmapped, unix.S_IFIFO | 0o644}},
		{"unlinkat", unix.SYS_UNLINKAT, [5]uintptr{here, unmapped}},
		{"unlinkat removedir", unix.SYS_UNLINKAT, [5]uintptr{here, unmapped, unix.AT_REMOVEDIR}},
		{"fchmodat", unix.SYS_FCHMODAT, [5]uintptr{here, unmapped, 0o644}},
		{"fchownat", unix.SYS_FCHOWNAT, [5]uintptr{here, unmapped, 0, 0}},
		{"fchownat nofollow", unix.SYS_FCHOWNAT, [5]uintptr{here, unmapped, 0, 0, unix.AT_SYMLINK_NOFOLLOW}},
		{"truncate", unix.SYS_TRUNCATE, [5]uintptr{unmapped, 0}},
		{"statfs", unix.SYS_STATFS, [5]uintptr{unmapped, unmapped}},
		{"statx", unix.SYS_STATX, [5]uintptr{here, unmapped, 0, unix.STATX_ALL, unmapped}},
		{"readlinkat", unix.SYS_READLINKAT, [5]uintptr{here, unmapped, unmapped, 1}},
		{"faccessat", unix.SYS_FACCESSAT, [5]uintptr{here, unmapped, unix.R_OK}},
		{"utimensat", unix.SYS_UTIMENSAT, [5]uintptr{here, unmapped, 0, 0}},
		{"chdir", unix.SYS_CHDIR, [5]uintptr{unmapped}},
		{"linkat from", unix.SYS_LINKAT, [5]uintptr{here, unmapped, here, unmapped}},
		{"symlinkat", unix.SYS_SYMLINKAT, [5]uintptr{unmapped, here, unmapped}},
		{"renameat2", unix.SYS_RENAMEAT2, [5]uintptr{here, unmapped, here, unmapped}},
		{"setxattr", unix.SYS_SETXATTR, [5]uintptr{unmapped, unmapped, unmapped, 1}},
		{"getxattr", unix.SYS_GETXATTR, [5]uintptr{unmapped, unmapped, unmapped, 1}},
		{"listxattr", unix.SYS_LISTXATTR, [5]uintptr{unmapped, unmapped, 1}},
		{"removexattr", unix.SYS_REMOVEXATTR, [5]uintptr{unmapped, unmapped}},
	}
	for _, c := range calls {
		s.run(c.name, func(e *env) {
			_, _, n := unix.Syscall6(c.trap, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
			e.want(n, unix.EFAULT)
		})
	}
	s.run("read into nowhere", func(e *env) {
		e.file("f", 0o644, "content")
		fd := e.open("f", unix.O_RDWR, 0)
		_, _, n := unix.Syscall(unix.SYS_READ, uintptr(fd), unmapped, 7)
		e.want(n, unix.EFAULT)
		_, _, n = unix.Syscall(unix.SYS_WRITE, uintptr(fd), unmapped, 7)
		e.want(n, unix.EFAULT)
		e.content("f", "content")
	})
	s.run("list into nowhere", func(e *env) {
		fd := e.open(".", unix.O_DIRECTORY, 0)
		_, _, n := unix.Syscall(unix.SYS_GETDENTS64, uintptr(fd), unmapped, 4096)
		e.want(n, unix.EFAULT)
	})
}

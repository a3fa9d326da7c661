package posix

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// user is who a thread acts as.
type user struct {
	uid, gid int
	groups   []uint32 // supplementary
}

var (
	root  = user{}
	alice = user{uid: 61001, gid: 61001}
	bob   = user{uid: 61002, gid: 61002}
	carol = user{uid: 61003, gid: 61003}
)

// team is a group that no user has by default.
const team = 61100

// in returns the user with supplementary groups.
func (u user) in(groups ...uint32) user {
	u.groups = groups
	return u
}

// with returns the user with another primary group.
func (u user) with(gid int) user {
	u.gid = gid
	return u
}

// as runs f as another user.
func (e *env) as(u user, f func()) {
	e.Helper()
	e.ok(become(u))
	defer func() { e.ok(become(root)) }()
	f()
}

// try runs f as another user and returns its error.
func (e *env) try(u user, f func() error) (err error) {
	e.Helper()
	e.as(u, func() { err = f() })
	return err
}

// become switches the real and effective ids of the calling thread alone; the
// wrappers of package syscall would switch the whole process. The saved ids stay
// root's as the way back. That costs no fidelity: the kernel looks at the file
// system uid, which follows the effective one, and leaving effective uid 0 drops
// the effective capabilities (capabilities(7)).
func become(u user) error {
	if err := setResID(unix.SYS_SETRESUID, 0, 0); err != nil {
		return err
	}
	var list unsafe.Pointer
	if len(u.groups) > 0 {
		list = unsafe.Pointer(&u.groups[0])
	}
	if _, _, n := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(u.groups)), uintptr(list), 0); n != 0 {
		return fmt.Errorf("setgroups: %w", n)
	}
	if err := setResID(unix.SYS_SETRESGID, u.gid, 0); err != nil {
		return err
	}
	return setResID(unix.SYS_SETRESUID, u.uid, 0)
}

func setResID(trap uintptr, id, saved int) error {
	if _, _, n := unix.RawSyscall(trap, uintptr(id), uintptr(id), uintptr(saved)); n != 0 {
		return fmt.Errorf("switch to id %d: %w", id, n)
	}
	return nil
}

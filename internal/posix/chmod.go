package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func chmodCases(s *suite) {
	s.each("sets every bit", modal, func(e *env, k kind) {
		e.make(k, "f", 0)
		for _, m := range []uint32{0o111, 0o222, 0o444, 0o1000, 0o2000, 0o4000, 0o7777, 0o5151, 0o644, 0} {
			e.ok(unix.Chmod("f", m))
			e.mode("f", m)
			e.is("f", k)
		}
	})
	s.each("through a symlink", modal, func(e *env, k kind) {
		e.make(k, "f", 0o600)
		e.ok(unix.Symlink("f", "s"))
		before := e.lstat("s").Mode
		e.ok(unix.Chmod("s", 0o251))
		e.mode("f", 0o251)
		equal(e, "mode of the symlink", e.lstat("s").Mode, before)
	})
	s.each("through a hard link", nodes, func(e *env, k kind) {
		e.make(k, "f", 0o600)
		e.ok(unix.Link("f", "g"))
		e.ok(unix.Chmod("g", 0o315))
		e.mode("f", 0o315)
	})
	s.run("every mode", func(e *env) {
		e.file("f", 0o644, "")
		fd := e.open("f", unix.O_RDONLY, 0)
		for m := uint32(0); m <= 0o7777; m += 0o13 {
			e.ok(unix.Fchmod(fd, m))
			equal(e, "mode", e.fstat(fd).Mode&0o7777, m)
		}
	})
	s.run("ignores the umask", func(e *env) {
		e.file("f", 0o644, "")
		unix.Umask(0o077)
		e.ok(unix.Chmod("f", 0o777))
		e.mode("f", 0o777)
	})
	s.run("fchmod on any descriptor", func(e *env) {
		e.file("f", 0o644, "")
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			fd := e.open("f", flags, 0)
			e.ok(unix.Fchmod(fd, 0o600|uint32(flags)))
			e.mode("f", 0o600|uint32(flags))
		}
		e.want(unix.Fchmod(e.open("f", unix.O_PATH, 0), 0o777), unix.EBADF)
		e.want(unix.Fchmod(-1, 0o777), unix.EBADF)
		dir := e.open(".", unix.O_DIRECTORY, 0)
		e.ok(unix.Fchmod(dir, 0o701))
		e.mode(".", 0o701)
	})
	s.run("fchmodat beside a directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.file("d/f", 0o644, "")
		dir, file := e.open("d", unix.O_DIRECTORY, 0), e.open("d/f", unix.O_RDONLY, 0)
		e.ok(unix.Fchmodat(dir, "f", 0o600, 0))
		e.mode("d/f", 0o600)
		e.want(unix.Fchmodat(file, "f", 0o600, 0), unix.ENOTDIR)
		e.want(unix.Fchmodat(-1, "f", 0o600, 0), unix.EBADF)
		e.want(unix.Fchmodat(-1, e.dir+"/d/f", 0o640, 0), 0)
		e.mode("d/f", 0o640)
	})
	s.run("fchmodat of a symlink", func(e *env) {
		e.make(symlink, "s", 0)
		// ENOSYS: fchmodat2(2) came with Linux 6.6.
		e.want(unix.Fchmodat(atCwd, "s", 0o600, unix.AT_SYMLINK_NOFOLLOW), unix.EOPNOTSUPP, unix.ENOSYS)
	})
	s.each("moves ctime only", modal, func(e *env, k kind) {
		e.make(k, "f", 0o600)
		e.times(func() { e.ok(unix.Chmod("f", 0o640)) }, "f:c", ".:")
		e.times(func() { e.ok(unix.Chmod("f", 0o640)) }, "f:c", ".:") // the same mode again
	})
	s.run("fchmod moves ctime only", func(e *env) {
		e.file("f", 0o644, "")
		fd := e.open("f", unix.O_RDONLY, 0)
		e.times(func() { e.ok(unix.Fchmod(fd, 0o640)) }, "f:c", ".:")
	})
	s.each("refused", modal, chmodRefused)
	s.run("open descriptors keep their rights", func(e *env) {
		e.makeAs(alice, regular, "f", 0o600)
		e.as(alice, func() {
			fd := e.open("f", unix.O_RDWR, 0)
			e.ok(unix.Chmod("f", 0))
			writeFull(e, fd, "still")
			equal(e, "content", e.pread(fd, 10, 0), "still")
			e.want(tryOpen("f", unix.O_RDONLY, 0), unix.EACCES)
		})
	})
	chmodSgidCases(s)
	s.run("sticky file of a user", func(e *env) {
		e.makeAs(alice, regular, "f", 0o644)
		e.want(e.try(alice, func() error { return unix.Chmod("f", 0o1644) }), 0)
		e.mode("f", 0o1644)
	})
}

// chmodRefused: only the owner and root may change a mode, whatever the mode says.
func chmodRefused(e *env, k kind) {
	e.makeAs(alice, k, "f", 0o666)
	e.ok(unix.Symlink("f", "s"))
	e.want(e.try(alice, func() error { return unix.Chmod("f", 0o642) }), 0)
	e.mode("f", 0o642)
	for _, u := range []user{bob, bob.with(alice.gid), bob.in(uint32(alice.gid))} {
		for _, p := range []string{"f", "s"} {
			e.still(func() {
				e.want(e.try(u, func() error { return unix.Chmod(p, 0o777) }), unix.EPERM)
			}, "f", "s", ".")
		}
	}
	e.mode("f", 0o642)
	// The owner of a symlink has no right to its target.
	e.ok(unix.Lchown("s", bob.uid, bob.gid))
	e.want(e.try(bob, func() error { return unix.Chmod("s", 0o777) }), unix.EPERM)
	e.want(e.try(alice, func() error { return unix.Chmod("s", 0o600) }), 0)
	e.mode("f", 0o600)
}

// chmodSgidCases: the sgid bit is dropped without an error where the caller is
// neither root nor in the file's group (chmod(2)).
func chmodSgidCases(s *suite) {
	tests := []struct {
		name string
		u    user
		gid  int
		keep bool
	}{
		{"own group", alice, alice.gid, true},
		{"supplementary group", alice.in(team), team, true},
		{"foreign group", alice, bob.gid, false},
		{"root", root, bob.gid, true},
	}
	for _, k := range []kind{regular, directory} {
		for _, tt := range tests {
			s.run(fmt.Sprintf("sgid on a %s, %s", k.name, tt.name), func(e *env) {
				e.makeAs(alice.with(tt.gid), k, "f", 0o755)
				want := uint32(0o6755)
				if !tt.keep {
					want = 0o4755
				}
				e.want(e.try(tt.u, func() error { return unix.Chmod("f", 0o6755) }), 0)
				e.mode("f", want)
			})
		}
	}
}

package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// tmpfileCases are files without a name: open(2) with O_TMPFILE.
func tmpfileCases(s *suite) {
	if s.o.NoTmpfile {
		return
	}
	s.run("is a file without a name", func(e *env) {
		e.still(func() {
			fd := e.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o640)
			st := e.fstat(fd)
			equal(e, "nlink", st.Nlink, 0)
			equal(e, "mode", st.Mode, unix.S_IFREG|0o640)
			equal(e, "size", st.Size, 0)
			writeFull(e, fd, "content")
			equal(e, "content", e.pread(fd, 10, 0), "content")
			e.ok(unix.Ftruncate(fd, 3))
			equal(e, "content", e.pread(fd, 10, 0), "con")
			e.ok(unix.Fsync(fd))
			e.close(fd)
		}, ".")
		equal(e, "names", len(e.list(".")), 0)
	})
	s.run("umask, owner and sgid directory", func(e *env) {
		e.makeAs(root.with(team), directory, "d", 0o2777)
		unix.Umask(0o027)
		e.as(alice, func() {
			st := e.fstat(e.open("d", unix.O_TMPFILE|unix.O_WRONLY, 0o666))
			equal(e, "mode", st.Mode&0o7777, 0o640)
			equal(e, "uid", int(st.Uid), alice.uid)
			equal(e, "gid", int(st.Gid), team)
		})
	})
	links := map[string]func(e *env, fd int, path string) error{
		"by empty path": func(e *env, fd int, path string) error {
			return unix.Linkat(fd, "", atCwd, path, unix.AT_EMPTY_PATH)
		},
		"through proc": func(e *env, fd int, path string) error {
			return unix.Linkat(atCwd, fmt.Sprint(e.self, fd), atCwd, path, unix.AT_SYMLINK_FOLLOW)
		},
	}
	for name, link := range links {
		s.run("linked "+name, func(e *env) {
			e.mkdir(0o755, "d")
			fd := e.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
			writeFull(e, fd, "content")
			e.times(func() { e.ok(link(e, fd, "d/f")) }, "d:mc", ".:")
			e.nlink("d/f", 1)
			e.content("d/f", "content")
			equal(e, "ino", e.fstat(fd).Ino, e.lstat("d/f").Ino)
			writeFull(e, fd, " and more")
			e.close(fd)
			e.content("d/f", "content and more")
			e.ok(unix.Link("d/f", "g"))
			e.nlink("g", 2)
		})
		s.run("linked over a name "+name, func(e *env) {
			e.file("f", 0o644, "old")
			fd := e.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
			e.want(link(e, fd, "f"), unix.EEXIST)
			e.content("f", "old")
			e.ok(link(e, fd, "g"))
			e.want(link(e, fd, "g"), unix.EEXIST)
			e.ok(link(e, fd, "h"))
			equal(e, "nlink", e.fstat(fd).Nlink, 2)
		})
		s.run("exclusive, linked "+name, func(e *env) {
			fd := e.open(".", unix.O_TMPFILE|unix.O_EXCL|unix.O_RDWR, 0o600)
			e.want(link(e, fd, "f"), unix.ENOENT)
			equal(e, "names", len(e.list(".")), 0)
		})
	}
	s.run("refused", func(e *env) {
		e.mkdir(0o755, "d")
		e.file("f", 0o644, "")
		e.want(tryOpen("d", unix.O_TMPFILE|unix.O_RDONLY, 0o600), unix.EINVAL)
		e.want(tryOpen("f", unix.O_TMPFILE|unix.O_RDWR, 0o600), unix.ENOTDIR)
		e.want(tryOpen("none", unix.O_TMPFILE|unix.O_RDWR, 0o600), unix.ENOENT)
		tmp := func() error { return tryOpen("d", unix.O_TMPFILE|unix.O_RDWR, 0o600) }
		e.want(e.try(alice, tmp), unix.EACCES)
		e.ok(unix.Chmod("d", 0o773))
		e.want(e.try(alice, tmp), 0)
		e.ok(unix.Rmdir("d")) // the file is no entry
	})
	s.run("attributes before it has a name", func(e *env) {
		fd := e.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
		e.ok(unix.Fchmod(fd, 0o644))
		e.ok(unix.Fchown(fd, alice.uid, alice.gid))
		e.ok(unix.Linkat(fd, "", atCwd, "f", unix.AT_EMPTY_PATH))
		e.mode("f", 0o644)
		e.owner("f", alice.uid, alice.gid)
	})
}

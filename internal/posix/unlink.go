package posix

import (
	"golang.org/x/sys/unix"
)

func unlinkCases(s *suite) {
	s.each("removes the name", linkable, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		e.ok(unix.Unlink("f"))
		e.gone("f")
		e.want(unix.Unlink("f"), unix.ENOENT)
		e.make(k, "f", 0o644) // the name is free
		e.ok(unix.Unlinkat(atCwd, "f", 0))
		e.gone("f")
		equal(e, "names left", len(e.list(".")), 0)
	})
	s.each("moves times", linkable, func(e *env, k kind) {
		e.mkdir(0o755, "d")
		e.make(k, "d/f", 0o644)
		e.ok(unix.Link("d/f", "g"))
		e.times(func() { e.ok(unix.Unlink("d/f")) }, "d:mc", "g:c", ".:")
		e.nlink("g", 1)
	})
	s.run("of a symlink leaves its target", func(e *env) {
		e.file("f", 0o644, "content")
		e.mkdir(0o755, "d")
		e.ok(unix.Symlink("f", "s"))
		e.ok(unix.Symlink("d", "t"))
		e.ok(unix.Unlink("s"))
		e.ok(unix.Unlink("t"))
		e.content("f", "content")
		e.is("d", directory)
	})
	s.run("of a directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.ok(unix.Symlink("d", "s"))
		// EISDIR is Linux's answer, EPERM that of POSIX (unlink(2)).
		e.still(func() {
			e.want(unix.Unlink("d"), unix.EISDIR, unix.EPERM)
			e.want(unix.Unlink("d/"), unix.EISDIR, unix.EPERM)
			e.want(unix.Unlink("s/"), unix.ENOTDIR, unix.EISDIR)
			e.want(e.try(alice, func() error { return unix.Unlink("d") }), unix.EISDIR, unix.EPERM)
		}, "d", ".")
	})
	s.run("unlinkat beside a directory", func(e *env) {
		e.mkdir(0o755, "d", "d/e")
		e.file("d/f", 0o644, "")
		d, f := e.open("d", unix.O_DIRECTORY, 0), e.open("d/f", unix.O_RDONLY, 0)
		e.want(unix.Unlinkat(d, "e", 0), unix.EISDIR, unix.EPERM)
		e.want(unix.Unlinkat(d, "f", unix.AT_REMOVEDIR), unix.ENOTDIR)
		e.want(unix.Unlinkat(d, "f", 1<<30), unix.EINVAL)
		e.want(unix.Unlinkat(f, "f", 0), unix.ENOTDIR)
		e.want(unix.Unlinkat(-1, "f", 0), unix.EBADF)
		e.ok(unix.Unlinkat(d, "e", unix.AT_REMOVEDIR))
		e.ok(unix.Unlinkat(d, "f", 0))
		equal(e, "names left", len(e.list("d")), 0)
	})
	s.each("needs write on the directory", linkable, func(e *env, k kind) {
		e.mkdir(0o755, "d")
		e.makeAs(alice, k, "d/f", 0o666)
		unlink := func() error { return unix.Unlink("d/f") }
		e.still(func() { e.want(e.try(alice, unlink), unix.EACCES) }, "d", "d/f")
		e.ok(unix.Chmod("d", 0o776))
		e.want(e.try(alice, unlink), unix.EACCES)
		e.ok(unix.Chmod("d", 0o773))
		if k != symlink {
			e.ok(unix.Chmod("d/f", 0)) // the file's own mode does not count
		}
		e.ok(unix.Lchown("d/f", 0, 0))
		e.want(e.try(alice, unlink), 0)
	})
}

func rmdirCases(s *suite) {
	s.run("removes an empty directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.ok(unix.Rmdir("d"))
		e.gone("d")
		e.want(unix.Rmdir("d"), unix.ENOENT)
		e.mkdir(0, "d") // its mode does not count
		e.ok(unix.Rmdir("d"))
	})
	s.run("moves times", func(e *env) {
		e.mkdir(0o755, "d", "d/e")
		e.times(func() { e.ok(unix.Rmdir("d/e")) }, "d:mc", ".:")
	})
	s.each("not empty", allKinds, func(e *env, k kind) {
		e.mkdir(0o755, "d")
		e.make(k, "d/f", 0o755)
		e.still(func() { e.want(unix.Rmdir("d"), unix.ENOTEMPTY, unix.EEXIST) }, "d", "d/f", ".")
		e.remove(k, "d/f")
		e.ok(unix.Rmdir("d"))
	})
	s.each("of what is no directory", linkable, func(e *env, k kind) {
		e.make(k, "f", 0o755)
		e.still(func() { e.want(unix.Rmdir("f"), unix.ENOTDIR) }, "f", ".")
	})
	s.run("of a symlink to a directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.ok(unix.Symlink("d", "s"))
		e.want(unix.Rmdir("s"), unix.ENOTDIR)
		e.want(unix.Rmdir("s/"), unix.ENOTDIR)
		e.is("d", directory)
	})
	s.run("of dot and dotdot", func(e *env) {
		e.mkdir(0o755, "d", "d/e")
		e.want(unix.Rmdir("d/e/."), unix.EINVAL)
		e.want(unix.Rmdir("d/e/.."), unix.ENOTEMPTY, unix.EEXIST)
		e.want(unix.Rmdir("."), unix.EINVAL)
		e.want(unix.Rmdir(".."), unix.ENOTEMPTY, unix.EEXIST)
	})
	s.run("needs write on the parent", func(e *env) {
		e.mkdir(0o755, "d")
		e.makeAs(alice, directory, "d/e", 0o777)
		rmdir := func() error { return unix.Rmdir("d/e") }
		e.still(func() { e.want(e.try(alice, rmdir), unix.EACCES) }, "d", "d/e")
		e.ok(unix.Chmod("d", 0o776))
		e.want(e.try(alice, rmdir), unix.EACCES)
		e.ok(unix.Chmod("d", 0o773))
		e.ok(unix.Chown("d/e", 0, 0))
		e.ok(unix.Chmod("d/e", 0))
		e.want(e.try(alice, rmdir), 0)
	})
	s.run("after a thousand names came and went", func(e *env) {
		e.mkdir(0o755, "d")
		fd := e.open("d", unix.O_DIRECTORY, 0)
		for i := range 1000 {
			e.ok(unix.Mknodat(fd, number(i), unix.S_IFREG|0o644, 0))
		}
		e.want(unix.Rmdir("d"), unix.ENOTEMPTY, unix.EEXIST)
		for i := range 1000 {
			e.ok(unix.Unlinkat(fd, number(i), 0))
		}
		e.ok(unix.Rmdir("d"))
	})
}

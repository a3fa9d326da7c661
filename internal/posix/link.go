package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func linkCases(s *suite) {
	s.each("names one inode", linkable, linkNamesOneInode)
	s.each("moves times", linkable, func(e *env, k kind) {
		e.mkdir(0o755, "from", "to")
		e.make(k, "from/f", 0o644)
		e.times(func() { e.ok(unix.Link("from/f", "to/g")) }, "from/f:c", "from:", "to:mc")
		e.times(func() { e.ok(unix.Link("to/g", "to/h")) }, "from/f:c", "from:", "to:mc", "to/g:c")
	})
	s.each("of an existing name", allKinds, func(e *env, k kind) {
		e.file("f", 0o644, "")
		e.make(k, "g", 0o644)
		ino := e.lstat("g").Ino
		e.still(func() { e.want(unix.Link("f", "g"), unix.EEXIST) }, "f", "g", ".")
		e.still(func() { e.want(unix.Link("g", "g"), unix.EEXIST, unix.EPERM) }, "g", ".")
		equal(e, "ino", e.lstat("g").Ino, ino)
		e.nlink("f", 1)
	})
	s.run("of a directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.ok(unix.Symlink("d", "s"))
		e.still(func() {
			e.want(unix.Link("d", "e"), unix.EPERM)
			e.want(unix.Linkat(atCwd, "s", atCwd, "e", unix.AT_SYMLINK_FOLLOW), unix.EPERM)
			e.want(unix.Link(".", "e"), unix.EPERM)
		}, "d", ".")
		e.gone("e")
		e.nlinkDir("d", 2)
	})
	s.run("of a symlink", linkOfSymlink)
	s.run("shares content and attributes", func(e *env) {
		e.file("f", 0o644, "before")
		e.ok(unix.Link("f", "g"))
		e.ok(writeAt("g", "longer than before", 0))
		e.content("f", "longer than before")
		e.chown("g", alice)
		e.owner("f", alice.uid, alice.gid)
		e.ok(unix.Unlink("f"))
		e.content("g", "longer than before")
		e.nlink("g", 1)
	})
	s.run("three hundred names", func(e *env) {
		const n = 300
		e.mkdir(0o755, "d")
		e.file("f", 0o644, "x")
		for i := range n {
			e.ok(unix.Link("f", fmt.Sprintf("d/%d", i)))
		}
		e.nlink("f", n+1)
		for i := range n {
			e.ok(unix.Unlink(fmt.Sprintf("d/%d", i)))
			e.nlink("f", uint64(n-i))
		}
		e.content("f", "x")
	})
	s.run("linkat beside directories", linkatDirectories)
	s.run("permissions", linkPermissions)
}

func linkNamesOneInode(e *env, k kind) {
	e.make(k, "a", 0o644)
	e.nlink("a", 1)
	e.ok(unix.Link("a", "b"))
	e.ok(unix.Link("b", "c"))
	ino := e.lstat("a").Ino
	for _, p := range []string{"a", "b", "c"} {
		e.nlink(p, 3)
		e.is(p, k)
		equal(e, "ino of "+p, e.lstat(p).Ino, ino)
	}
	if k != symlink {
		e.ok(unix.Chmod("b", 0o201))
	}
	e.ok(unix.Lchown("c", 5, 6))
	for _, p := range []string{"a", "b", "c"} {
		e.owner(p, 5, 6)
	}
	if k != symlink {
		e.mode("a", 0o201)
		e.mode("c", 0o201)
	}
	e.ok(unix.Unlink("a"))
	e.gone("a")
	e.nlink("b", 2)
	e.ok(unix.Unlink("c"))
	e.nlink("b", 1)
	e.is("b", k)
	e.ok(unix.Unlink("b"))
	e.gone("b")
}

func linkOfSymlink(e *env) {
	e.file("f", 0o644, "content")
	e.ok(unix.Symlink("f", "s"))
	e.ok(unix.Link("s", "t"))
	e.is("t", symlink)
	equal(e, "ino of t", e.lstat("t").Ino, e.lstat("s").Ino)
	e.nlink("s", 2)
	e.ok(unix.Linkat(atCwd, "s", atCwd, "g", unix.AT_SYMLINK_FOLLOW))
	e.is("g", regular)
	equal(e, "ino of g", e.lstat("g").Ino, e.lstat("f").Ino)
	e.nlink("f", 2)
}

func linkatDirectories(e *env) {
	e.mkdir(0o755, "d", "e")
	e.file("d/f", 0o644, "content")
	d, dst := e.open("d", unix.O_DIRECTORY, 0), e.open("e", unix.O_PATH|unix.O_DIRECTORY, 0)
	f := e.open("d/f", unix.O_RDONLY, 0)
	e.ok(unix.Linkat(d, "f", dst, "g", 0))
	e.content("e/g", "content")
	e.ok(unix.Linkat(f, "", dst, "h", unix.AT_EMPTY_PATH))
	e.ok(unix.Linkat(atCwd, fmt.Sprint(e.self, f), dst, "i", unix.AT_SYMLINK_FOLLOW))
	e.nlink("d/f", 4)
	e.want(unix.Linkat(f, "", dst, "j", 0), unix.ENOENT)
	e.want(unix.Linkat(d, "f", f, "j", 0), unix.ENOTDIR)
	e.want(unix.Linkat(f, "f", d, "j", 0), unix.ENOTDIR)
	e.want(unix.Linkat(-1, "f", d, "j", 0), unix.EBADF)
	e.want(unix.Linkat(d, "f", -1, "j", 0), unix.EBADF)
	e.want(unix.Linkat(d, "f", d, "j", 1<<30), unix.EINVAL)
	e.want(unix.Linkat(d, "f", d, "f", 0), unix.EEXIST)
	e.nlink("d/f", 4)
}

// linkPermissions: the new name's directory must be writable. The caller owns
// the file, for protected_hardlinks asks that (proc_sys_fs(5)).
func linkPermissions(e *env) {
	e.mkdir(0o755, "locked", "blind")
	e.mkdir(0o777, "free")
	e.makeAs(alice, regular, "free/f", 0o600)
	e.makeAs(alice, regular, "locked/f", 0o600)
	link := func(from, to string) error { return e.try(alice, func() error { return unix.Link(from, to) }) }
	e.still(func() {
		e.want(link("free/f", "locked/g"), unix.EACCES)
		e.want(link("locked/f", "locked/g"), unix.EACCES)
	}, "free/f", "locked/f", "locked", "free")
	e.want(link("locked/f", "free/g"), 0) // no write permission needed where it comes from
	e.ok(unix.Chmod("blind", 0o766))
	e.want(link("free/f", "blind/g"), unix.EACCES) // write but not search
	e.ok(unix.Chmod("blind", 0o773))
	e.want(link("free/f", "blind/g"), 0) // no read permission needed
}

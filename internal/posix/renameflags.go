package posix

import (
	"golang.org/x/sys/unix"
)

func renameFlags(from, to string, flags uint) error {
	return unix.Renameat2(atCwd, from, atCwd, to, flags)
}

// renameFlagCases are renameat2(2) with NOREPLACE and EXCHANGE.
func renameFlagCases(s *suite) {
	s.each("noreplace", allKinds, func(e *env, k kind) {
		e.mkdir(0o755, "a", "b")
		e.make(k, "a/f", 0o644)
		e.make(k, "b/g", 0o644)
		e.still(func() {
			e.want(renameFlags("a/f", "b/g", unix.RENAME_NOREPLACE), unix.EEXIST)
			e.want(renameFlags("a/f", "a/f", unix.RENAME_NOREPLACE), unix.EEXIST)
		}, "a", "b", "a/f", "b/g")
		e.times(func() { e.ok(renameFlags("a/f", "b/h", unix.RENAME_NOREPLACE)) }, "a:mc", "b:mc", "a/f>b/h:c")
		e.is("b/h", k)
		e.gone("a/f")
	})
	s.run("noreplace of one inode", func(e *env) {
		e.file("f", 0o644, "")
		e.ok(unix.Link("f", "g"))
		e.want(renameFlags("f", "g", unix.RENAME_NOREPLACE), unix.EEXIST)
		e.nlink("f", 2)
	})
	s.run("wrong flags", func(e *env) {
		e.file("f", 0o644, "")
		e.file("g", 0o644, "")
		e.still(func() {
			e.want(renameFlags("f", "g", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE), unix.EINVAL)
			e.want(renameFlags("f", "g", unix.RENAME_WHITEOUT|unix.RENAME_EXCHANGE), unix.EINVAL)
			e.want(renameFlags("f", "g", 1<<10), unix.EINVAL)
		}, "f", "g", ".")
	})
	if s.o.NoExchange {
		return
	}
	for _, from := range allKinds {
		s.each("exchange of a "+from.name+" and a", allKinds, func(e *env, to kind) { exchange(e, from, to) })
	}
	s.run("exchange within a directory", func(e *env) {
		e.file("f", 0o644, "F")
		e.file("g", 0o644, "G")
		e.times(func() { e.ok(renameFlags("f", "g", unix.RENAME_EXCHANGE)) }, "f>g:c", "g>f:c", ".:mc")
		e.content("f", "G")
		e.content("g", "F")
	})
	s.run("exchange with itself", func(e *env) {
		e.file("f", 0o644, "F")
		e.ok(unix.Link("f", "g"))
		e.ok(renameFlags("f", "f", unix.RENAME_EXCHANGE))
		e.ok(renameFlags("f", "g", unix.RENAME_EXCHANGE))
		e.nlink("f", 2)
	})
	s.run("exchange of directories that are not empty", func(e *env) {
		e.mkdir(0o755, "a", "b", "a/x", "b/y")
		e.file("a/x/f", 0o644, "F")
		e.file("b/y/g", 0o644, "G")
		e.ok(renameFlags("a/x", "b/y", unix.RENAME_EXCHANGE))
		e.content("a/x/g", "G")
		e.content("b/y/f", "F")
		equal(e, "ino of a/x/..", e.lstat("a/x/..").Ino, e.lstat("a").Ino)
		equal(e, "ino of b/y/..", e.lstat("b/y/..").Ino, e.lstat("b").Ino)
	})
	s.run("exchange refused", func(e *env) {
		e.mkdir(0o755, "a", "a/b", "a/b/c")
		e.file("f", 0o644, "")
		e.still(func() {
			e.want(renameFlags("f", "none", unix.RENAME_EXCHANGE), unix.ENOENT)
			e.want(renameFlags("none", "f", unix.RENAME_EXCHANGE), unix.ENOENT)
			e.want(renameFlags("a", "a/b", unix.RENAME_EXCHANGE), unix.EINVAL)
			e.want(renameFlags("a/b/c", "a", unix.RENAME_EXCHANGE), unix.EINVAL, unix.ENOTEMPTY)
		}, "a/b", "a/b/c")
	})
	s.run("exchange permissions", exchangePermissions)
}

func exchange(e *env, from, to kind) {
	if e.o.NoDevices && (from == char || from == block) {
		e.Skip("no devices")
	}
	e.mkdir(0o755, "a", "b")
	e.make(from, "a/f", 0o640)
	e.make(to, "b/g", 0o604)
	f, g := e.lstat("a/f"), e.lstat("b/g")
	e.times(func() { e.ok(renameFlags("a/f", "b/g", unix.RENAME_EXCHANGE)) },
		"a:mc", "b:mc", "a/f>b/g:c", "b/g>a/f:c")
	equal(e, "ino of a/f", e.lstat("a/f").Ino, g.Ino)
	equal(e, "ino of b/g", e.lstat("b/g").Ino, f.Ino)
	e.is("a/f", to)
	e.is("b/g", from)
	equal(e, "nlink of a/f", e.lstat("a/f").Nlink, g.Nlink)
	equal(e, "nlink of b/g", e.lstat("b/g").Nlink, f.Nlink)
}

// exchangePermissions: both directories are written to, and a sticky one asks
// for the ownership of what leaves it.
func exchangePermissions(e *env) {
	e.mkdir(0o777, "free")
	e.mkdir(0o755, "locked")
	e.mkdir(0o1777, "sticky")
	e.makeAs(alice, regular, "free/f", 0o644)
	e.makeAs(alice, regular, "locked/f", 0o644)
	e.makeAs(bob, regular, "sticky/f", 0o644)
	swap := func(a, b string) error {
		return e.try(alice, func() error { return renameFlags(a, b, unix.RENAME_EXCHANGE) })
	}
	e.want(swap("free/f", "locked/f"), unix.EACCES)
	e.want(swap("locked/f", "free/f"), unix.EACCES)
	e.want(swap("free/f", "sticky/f"), unix.EPERM, unix.EACCES)
	e.want(swap("sticky/f", "free/f"), unix.EPERM, unix.EACCES)
	e.chown("sticky/f", alice)
	e.want(swap("free/f", "sticky/f"), 0)
}

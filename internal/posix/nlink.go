package posix

import (
	"golang.org/x/sys/unix"
)

// nlinkDir reports a difference in a directory's link count, where the file
// system counts.
func (e *env) nlinkDir(path string, want uint64) {
	e.Helper()
	if e.o.NoDirNlink {
		return
	}
	e.nlink(path, want)
}

// nlinkCases: a directory has two links and one more for each subdirectory.
func nlinkCases(s *suite) {
	s.run("mkdir and rmdir", func(e *env) {
		e.mkdir(0o755, "d")
		for i := range 20 {
			e.nlinkDir("d", uint64(2+i))
			e.mkdir(0o755, "d/"+number(i))
			e.nlinkDir("d/"+number(i), 2)
		}
		for i := range 20 {
			e.nlinkDir("d", uint64(22-i))
			e.ok(unix.Rmdir("d/" + number(i)))
		}
		e.nlinkDir("d", 2)
	})
	s.run("files do not count", func(e *env) {
		e.mkdir(0o755, "d")
		for _, k := range linkable {
			if e.o.NoDevices && (k == char || k == block) {
				continue
			}
			e.make(k, "d/"+k.name, 0o644)
		}
		e.nlinkDir("d", 2)
	})
	s.run("failed mkdir and rmdir", func(e *env) {
		e.mkdir(0o755, "d", "d/e", "d/e/f")
		e.want(unix.Mkdir("d/e", 0o755), unix.EEXIST)
		e.want(unix.Rmdir("d/e"), unix.ENOTEMPTY, unix.EEXIST)
		e.nlinkDir("d", 3)
		e.nlinkDir("d/e", 3)
	})
	s.run("rename to another parent", func(e *env) {
		e.mkdir(0o755, "a", "a/x", "b")
		e.nlinkDir("a", 3)
		equal(e, "ino of a/x/..", e.lstat("a/x/..").Ino, e.lstat("a").Ino)
		e.ok(unix.Rename("a/x", "b/y"))
		e.nlinkDir("a", 2)
		e.nlinkDir("b", 3)
		equal(e, "ino of b/y/..", e.lstat("b/y/..").Ino, e.lstat("b").Ino)
	})
	s.run("rename within a parent", func(e *env) {
		e.mkdir(0o755, "a", "a/x")
		e.ok(unix.Rename("a/x", "a/y"))
		e.nlinkDir("a", 3)
	})
	s.run("rename over an empty directory", func(e *env) {
		e.mkdir(0o755, "a", "a/x", "b", "b/y")
		e.ok(unix.Rename("a/x", "b/y"))
		e.nlinkDir("a", 2)
		e.nlinkDir("b", 3)
		e.mkdir(0o755, "b/z")
		e.ok(unix.Rename("b/y", "b/z"))
		e.nlinkDir("b", 3)
	})
	s.run("exchange", func(e *env) {
		if e.o.NoExchange {
			e.Skip("no RENAME_EXCHANGE")
		}
		e.mkdir(0o755, "a", "a/x", "b")
		e.file("b/f", 0o644, "")
		e.ok(unix.Renameat2(atCwd, "a/x", atCwd, "b/f", unix.RENAME_EXCHANGE))
		e.nlinkDir("a", 2)
		e.nlinkDir("b", 3)
		equal(e, "ino of b/f/..", e.lstat("b/f/..").Ino, e.lstat("b").Ino)
		e.mkdir(0o755, "a/y")
		e.ok(unix.Renameat2(atCwd, "a/y", atCwd, "b/f", unix.RENAME_EXCHANGE))
		e.nlinkDir("a", 3)
		e.nlinkDir("b", 3)
	})
	s.run("an open directory that is removed", func(e *env) {
		e.mkdir(0o755, "d")
		fd := e.open("d", unix.O_DIRECTORY, 0)
		e.ok(unix.Rmdir("d"))
		if !e.o.NoDirNlink {
			equal(e, "nlink", e.fstat(fd).Nlink, 0)
		}
	})
}

package posix

import (
	"golang.org/x/sys/unix"
)

func renameCases(s *suite) {
	s.each("to a new name", allKinds, func(e *env, k kind) {
		e.mkdir(0o755, "a", "b")
		e.make(k, "a/f", 0o640)
		before := e.lstat("a/f")
		for _, step := range [][2]string{{"a/f", "a/g"}, {"a/g", "b/g"}, {"b/g", "b/h"}, {"b/h", "f"}} {
			e.ok(unix.Rename(step[0], step[1]))
			e.gone(step[0])
			after := e.lstat(step[1])
			equal(e, "ino", after.Ino, before.Ino)
			equal(e, "mode", after.Mode, before.Mode)
			equal(e, "nlink", after.Nlink, before.Nlink)
		}
	})
	s.each("moves times", allKinds, func(e *env, k kind) {
		e.mkdir(0o755, "a", "b")
		e.make(k, "a/f", 0o640)
		e.times(func() { e.ok(unix.Rename("a/f", "a/g")) }, "a:mc", "a/f>a/g:c", ".:")
		want := "a/g>b/g:c"
		e.times(func() { e.ok(unix.Rename("a/g", "b/g")) }, "a:mc", "b:mc", want, ".:")
	})
	for _, from := range linkable {
		s.each("of a "+from.name+" over a", linkable, func(e *env, to kind) { renameOver(e, from, to) })
	}
	s.run("of a directory over an empty one", func(e *env) {
		e.mkdir(0o755, "a", "a/x", "b")
		e.file("a/x/f", 0o644, "content")
		ino := e.lstat("a/x").Ino
		e.times(func() { e.ok(unix.Rename("a/x", "b")) }, "a:mc", ".:mc", "a/x>b:c")
		equal(e, "ino", e.lstat("b").Ino, ino)
		e.content("b/f", "content")
		e.gone("a/x")
	})
	s.each("over a directory that is not empty", allKinds, func(e *env, k kind) {
		e.mkdir(0o755, "a", "b")
		e.make(k, "b/f", 0o644)
		e.still(func() { e.want(unix.Rename("a", "b"), unix.ENOTEMPTY, unix.EEXIST) }, "a", "b", "b/f", ".")
	})
	s.each("of a directory over", linkable, func(e *env, k kind) {
		e.mkdir(0o755, "d")
		e.make(k, "f", 0o644)
		e.still(func() {
			e.want(unix.Rename("d", "f"), unix.ENOTDIR)
			e.want(unix.Rename("d/", "f"), unix.ENOTDIR)
		}, "d", "f", ".")
		e.is("f", k)
	})
	s.each("over a directory, of", linkable, func(e *env, k kind) {
		e.mkdir(0o755, "d")
		e.make(k, "f", 0o644)
		e.still(func() {
			e.want(unix.Rename("f", "d"), unix.EISDIR)
			e.want(unix.Rename("f", "d/"), unix.EISDIR, unix.ENOTDIR)
		}, "d", "f", ".")
		e.is("f", k)
	})
	renameSelfCases(s)
	renameOpenCases(s)
}

// renameSelfCases: source and target are one, or one lies in the other.
func renameSelfCases(s *suite) {
	s.each("onto itself", allKinds, func(e *env, k kind) {
		e.mkdir(0o755, "d")
		e.make(k, "d/f", 0o644)
		e.still(func() {
			e.ok(unix.Rename("d/f", "d/f"))
			e.ok(unix.Rename("d/f", "d/../d/./f"))
		}, "d", "d/f")
	})
	s.each("onto another name of the same inode", linkable, func(e *env, k kind) {
		e.mkdir(0o755, "d")
		e.make(k, "f", 0o644)
		e.ok(unix.Link("f", "d/g"))
		e.still(func() { e.ok(unix.Rename("f", "d/g")) }, "f", "d", ".") // rename(2): does nothing
		e.nlink("f", 2)
		e.nlink("d/g", 2)
	})
	s.run("into its own subtree", func(e *env) {
		e.mkdir(0o755, "d", "d/e", "d/e/f")
		e.still(func() {
			for _, to := range []string{"d/x", "d/e", "d/e/x", "d/e/f", "d/e/f/x", "d/e/../y"} {
				e.want(unix.Rename("d", to), unix.EINVAL)
			}
		}, "d", "d/e", "d/e/f", ".")
	})
	s.run("onto an ancestor", func(e *env) {
		e.mkdir(0o755, "d", "d/e", "d/e/f")
		e.file("d/e/g", 0o644, "")
		e.still(func() {
			e.want(unix.Rename("d/e/f", "d"), unix.ENOTEMPTY, unix.EEXIST)
			e.want(unix.Rename("d/e/f", "d/e"), unix.ENOTEMPTY, unix.EEXIST)
			e.want(unix.Rename("d/e/g", "d/e"), unix.EISDIR, unix.ENOTEMPTY)
		}, "d", "d/e", "d/e/f", "d/e/g")
	})
	s.run("of dot and dotdot", func(e *env) {
		e.mkdir(0o755, "d", "d/e")
		for _, p := range []string{".", "..", "d/.", "d/..", "d/e/."} {
			e.want(unix.Rename(p, "x"), unix.EBUSY, unix.EINVAL)
			e.want(unix.Rename("d/e", p), unix.EBUSY, unix.EINVAL, unix.ENOTEMPTY)
		}
	})
	s.run("of a symlink, not its target", func(e *env) {
		e.file("f", 0o644, "content")
		e.mkdir(0o755, "d")
		e.ok(unix.Symlink("f", "s"))
		e.ok(unix.Symlink("d", "t"))
		e.ok(unix.Rename("s", "s2"))
		e.is("s2", symlink)
		e.ok(unix.Rename("f", "s2")) // replaces the symlink
		e.is("s2", regular)
		e.want(unix.Rename("t/", "t2"), unix.ENOTDIR)
		e.ok(unix.Rename("t", "t2"))
		e.is("t2", symlink)
	})
}

// renameOver replaces a name, and looks at both inodes and both parents.
func renameOver(e *env, from, to kind) {
	if e.o.NoDevices && (from == char || from == block) {
		e.Skip("no devices")
	}
	e.mkdir(0o755, "a", "b")
	e.make(from, "a/f", 0o640)
	e.make(to, "b/g", 0o604)
	e.ok(unix.Link("b/g", "replaced"))
	ino := e.lstat("a/f").Ino
	e.times(func() { e.ok(unix.Rename("a/f", "b/g")) }, "a:mc", "b:mc", "a/f>b/g:c", "replaced:c")
	e.gone("a/f")
	e.is("b/g", from)
	equal(e, "ino", e.lstat("b/g").Ino, ino)
	e.nlink("b/g", 1)
	e.nlink("replaced", 1)
	e.is("replaced", to)
}

func renameOpenCases(s *suite) {
	s.run("of open files", func(e *env) {
		e.file("f", 0o644, "source")
		e.file("g", 0o644, "target")
		f, g := e.open("f", unix.O_RDWR, 0), e.open("g", unix.O_RDWR, 0)
		e.ok(unix.Rename("f", "g"))
		equal(e, "what the source's descriptor reads", e.pread(f, 10, 0), "source")
		equal(e, "what the target's descriptor reads", e.pread(g, 10, 0), "target")
		equal(e, "nlink of the target", e.fstat(g).Nlink, 0)
		equal(e, "nlink of the source", e.fstat(f).Nlink, 1)
		_, err := unix.Pwrite(f, []byte("SOURCE"), 0)
		e.ok(err)
		_, err = unix.Pwrite(g, []byte("TARGET"), 0)
		e.ok(err)
		e.content("g", "SOURCE")
		equal(e, "what the target's descriptor reads", e.pread(g, 10, 0), "TARGET")
	})
	s.run("of an open directory", func(e *env) {
		e.mkdir(0o755, "a", "b")
		e.file("a/f", 0o644, "content")
		d := e.open("a", unix.O_DIRECTORY, 0)
		e.ok(unix.Rename("a", "b/c"))
		e.ok(unix.Mknodat(d, "new", unix.S_IFREG|0o644, 0))
		e.is("b/c/new", regular)
		e.content("b/c/f", "content")
	})
	s.run("of the working directory", func(e *env) {
		e.mkdir(0o755, "a", "b")
		e.ok(unix.Chdir("a"))
		e.ok(unix.Rename("../a", "../b/c"))
		e.file("f", 0o644, "content")
		e.ok(unix.Chdir(e.dir))
		e.content("b/c/f", "content")
	})
	s.run("a thousand times", func(e *env) {
		e.mkdir(0o755, "a", "b")
		e.file("a/f", 0o644, "content")
		ino := e.lstat("a/f").Ino
		for range 500 {
			e.ok(unix.Rename("a/f", "b/f"))
			e.ok(unix.Rename("b/f", "a/f"))
		}
		equal(e, "ino", e.lstat("a/f").Ino, ino)
	})
	s.run("replacing while others look", func(e *env) {
		// Atomic: whoever looks sees the old file or the new one, never none.
		e.file("f", 0o644, "content")
		done := make(chan error)
		path := e.dir + "/f"
		go func() {
			var err error
			for range 2000 {
				if _, err = readUpTo(path, 100); err != nil {
					break
				}
			}
			done <- err
		}()
		for i := 0; ; i++ {
			select {
			case err := <-done:
				e.want(err, 0)
				return
			default:
				e.file("new", 0o644, "content")
				e.ok(unix.Rename("new", "f"))
			}
		}
	})
	s.run("renameat", func(e *env) {
		e.mkdir(0o755, "a", "b")
		e.file("a/f", 0o644, "")
		a, b, f := e.open("a", unix.O_DIRECTORY, 0), e.open("b", unix.O_PATH, 0), e.open("a/f", unix.O_RDONLY, 0)
		e.want(unix.Renameat(f, "f", b, "g"), unix.ENOTDIR)
		e.want(unix.Renameat(a, "f", f, "g"), unix.ENOTDIR)
		e.want(unix.Renameat(-1, "f", b, "g"), unix.EBADF)
		e.want(unix.Renameat(a, "f", -1, "g"), unix.EBADF)
		e.ok(unix.Renameat(a, "f", b, "g"))
		e.is("b/g", regular)
	})
}

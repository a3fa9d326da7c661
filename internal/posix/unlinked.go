package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// unlinkedCases are files and directories in use that have lost their last name.
func unlinkedCases(s *suite) {
	removals := map[string]func(e *env) error{
		"unlinked": func(e *env) error { return unix.Unlink("f") },
		"renamed over": func(e *env) error {
			e.file("new", 0o644, "new content")
			return unix.Rename("new", "f")
		},
	}
	for name, remove := range removals {
		s.run(name+" file lives on", func(e *env) {
			e.file("f", 0o640, "content")
			fd := e.open("f", unix.O_RDWR, 0)
			before := e.fstat(fd)
			e.ok(remove(e))
			st := e.fstat(fd)
			equal(e, "nlink", st.Nlink, 0)
			equal(e, "ino", st.Ino, before.Ino)
			equal(e, "size", st.Size, 7)
			equal(e, "content", e.pread(fd, 10, 0), "content")
			_, err := unix.Pwrite(fd, pattern(100_000), 50_000)
			e.ok(err)
			equal(e, "size", e.fstat(fd).Size, 150_000)
			e.ok(unix.Ftruncate(fd, 3))
			equal(e, "content", e.pread(fd, 10, 0), "con")
			e.ok(unix.Fchmod(fd, 0o600))
			e.ok(unix.Fchown(fd, 1, 2))
			e.ok(futimens(fd, someTime, someTime))
			e.ok(unix.Fsync(fd))
			st = e.fstat(fd)
			equal(e, "mode", st.Mode&0o7777, 0o600)
			equal(e, "uid", st.Uid, 1)
			equal(e, "mtime", st.Mtim, someTime)
			e.close(fd)
		})
		s.run(name+" file opened again through proc", func(e *env) {
			e.file("f", 0o640, "content")
			fd := e.open("f", unix.O_RDONLY, 0)
			e.ok(remove(e))
			again := e.open(fmt.Sprint(e.self, fd), unix.O_RDWR, 0)
			writeFull(e, again, "CON")
			equal(e, "content", e.pread(fd, 10, 0), "CONtent")
			e.close(fd)
			equal(e, "content", e.pread(again, 10, 0), "CONtent")
		})
		s.run(name+" file takes no new name", func(e *env) {
			// Only a file made with O_TMPFILE may get one (linkat(2)).
			e.file("f", 0o640, "content")
			fd := e.open("f", unix.O_RDWR, 0)
			e.ok(remove(e))
			e.want(unix.Linkat(fd, "", atCwd, "again", unix.AT_EMPTY_PATH), unix.ENOENT)
			e.want(unix.Linkat(atCwd, fmt.Sprint(e.self, fd), atCwd, "again", unix.AT_SYMLINK_FOLLOW), unix.ENOENT)
			e.gone("again")
			equal(e, "nlink", e.fstat(fd).Nlink, 0)
		})
		s.run(name+" file moves ctime", func(e *env) {
			e.file("f", 0o640, "content")
			fd := e.open("f", unix.O_RDONLY, 0)
			before := e.fstat(fd)
			tick()
			e.ok(remove(e))
			after := e.fstat(fd)
			e.moved("ctime", before.Ctim, after.Ctim, clock(unix.CLOCK_REALTIME))
			equal(e, "mtime", after.Mtim, before.Mtim)
		})
		if s.o.NoXattr {
			continue
		}
		s.run(name+" file has attributes", func(e *env) {
			e.file("f", 0o640, "content")
			fd := e.open("f", unix.O_RDWR, 0)
			e.ok(unix.Fsetxattr(fd, "user.a", []byte("1"), 0))
			e.ok(remove(e))
			e.ok(unix.Fsetxattr(fd, "user.b", []byte("2"), 0))
			buf := make([]byte, 10)
			n, err := unix.Fgetxattr(fd, "user.a", buf)
			e.ok(err)
			equal(e, "value", string(buf[:n]), "1")
			e.ok(unix.Fremovexattr(fd, "user.b"))
		})
	}
	orphanCases(s)
}

// orphanCases are about names and numbers around files without a name.
func orphanCases(s *suite) {
	s.run("another link keeps the file", func(e *env) {
		e.file("f", 0o640, "content")
		e.ok(unix.Link("f", "g"))
		fd := e.open("f", unix.O_RDWR, 0)
		e.ok(unix.Unlink("f"))
		equal(e, "nlink", e.fstat(fd).Nlink, 1)
		e.ok(unix.Linkat(fd, "", atCwd, "f", unix.AT_EMPTY_PATH))
		equal(e, "nlink", e.fstat(fd).Nlink, 2)
	})
	s.run("the name is free at once", func(e *env) {
		e.file("f", 0o640, "one")
		fd := e.open("f", unix.O_RDWR, 0)
		e.ok(unix.Unlink("f"))
		e.file("f", 0o644, "two")
		writeFull(e, fd, "ONE!")
		e.content("f", "two")
		equal(e, "content", e.pread(fd, 10, 0), "ONE!")
		if e.lstat("f").Ino == e.fstat(fd).Ino {
			e.Error("the new file has the inode number of the one still open")
		}
	})
	s.run("many at once", func(e *env) {
		var fds []int
		for i := range 100 {
			fd := e.open(number(i), unix.O_CREAT|unix.O_RDWR, 0o644)
			writeFull(e, fd, number(i))
			fds = append(fds, fd)
			e.ok(unix.Unlink(number(i)))
		}
		for i, fd := range fds {
			equal(e, "content", e.pread(fd, 10, 0), number(i))
			e.close(fd)
		}
	})
	s.run("directory", unlinkedDirectory)
}

func unlinkedDirectory(e *env) {
	e.mkdir(0o755, "d", "new")
	fd := e.open("d", unix.O_DIRECTORY, 0)
	e.ok(unix.Chdir("d"))
	e.ok(unix.Rmdir("../d"))
	var st unix.Stat_t
	e.ok(unix.Stat(".", &st))
	e.want(tryOpen("f", unix.O_CREAT|unix.O_WRONLY, 0o644), unix.ENOENT)
	e.want(unix.Mkdir("e", 0o755), unix.ENOENT)
	e.want(unix.Symlink("x", "s"), unix.ENOENT)
	e.want(unix.Mknod("p", unix.S_IFIFO|0o644, 0), unix.ENOENT)
	e.want(unix.Link(e.dir+"/new", "l"), unix.ENOENT, unix.EPERM)
	e.want(unix.Rename(e.dir+"/new", "moved"), unix.ENOENT)
	e.want(unix.Stat("f", &st), unix.ENOENT)
	e.want(unix.Unlink("f"), unix.ENOENT)
	_, err := unix.Getcwd(make([]byte, 1000))
	e.want(err, unix.ENOENT)
	e.ok(unix.Fchmod(fd, 0o700))
	equal(e, "mode", e.fstat(fd).Mode&0o7777, 0o700)
	e.ok(unix.Chdir(e.dir))
	e.mkdir(0o755, "d") // another directory of that name is another one
	e.want(unix.Mkdirat(fd, "e", 0o755), unix.ENOENT)
	equal(e, "names", len(e.list("d")), 0)
}

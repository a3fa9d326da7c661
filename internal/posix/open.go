package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func openCases(s *suite) {
	s.run("exclusive create", func(e *env) {
		e.ok(tryOpen("f", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644))
		for _, k := range allKinds {
			if e.o.NoDevices && (k == char || k == block) {
				continue
			}
			e.make(k, k.name, 0o666)
			e.still(func() {
				e.want(tryOpen(k.name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644), unix.EEXIST)
				e.want(tryOpen(k.name, unix.O_CREAT|unix.O_EXCL|unix.O_TRUNC|unix.O_RDWR, 0o644), unix.EEXIST)
			}, k.name, ".")
		}
		e.gone(dangling) // the symlink was not followed
	})
	s.run("create through a dangling symlink", func(e *env) {
		e.make(symlink, "s", 0)
		e.ok(tryOpen("s", unix.O_CREAT|unix.O_WRONLY, 0o640))
		e.is(dangling, regular)
		e.mode(dangling, 0o640)
		e.is("s", symlink)
	})
	s.run("create of an existing file", func(e *env) {
		e.file("f", 0o640, "content")
		e.chown("f", alice)
		e.still(func() {
			e.ok(tryOpen("f", unix.O_CREAT|unix.O_RDONLY, 0o777))
			e.ok(tryOpen("f", unix.O_CREAT|unix.O_RDWR, 0o777))
		}, "f", ".")
		e.mode("f", 0o640)
		e.owner("f", alice.uid, alice.gid)
		e.content("f", "content")
	})
	s.run("the creator's descriptor ignores the mode", func(e *env) {
		e.as(alice, func() {
			fd := e.open("f", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0)
			writeFull(e, fd, "written")
			equal(e, "content", e.pread(fd, 10, 0), "written")
			e.want(tryOpen("f", unix.O_RDONLY, 0), unix.EACCES)
			fd = e.open("g", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o400)
			writeFull(e, fd, "written")
		})
		e.mode("f", 0)
		e.content("g", "written")
	})
	s.run("truncate", openTruncate)
	s.run("append", openAppend)
	s.run("directory", openDirectory)
	s.run("nofollow", openNofollow)
	s.run("path", openPath)
	s.run("access mode", openAccessMode)
	s.run("relative to a directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.file("d/f", 0o644, "content")
		d, f := e.open("d", unix.O_PATH|unix.O_DIRECTORY, 0), e.open("d/f", unix.O_RDONLY, 0)
		fd, err := unix.Openat(d, "f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		e.ok(err)
		e.fds = append(e.fds, fd)
		equal(e, "content", e.pread(fd, 10, 0), "content")
		_, err = unix.Openat(f, "f", unix.O_RDONLY, 0)
		e.want(err, unix.ENOTDIR)
		_, err = unix.Openat(-1, "f", unix.O_RDONLY, 0)
		e.want(err, unix.EBADF)
		_, err = unix.Openat(d, "f", unix.O_CREAT|unix.O_EXCL, 0o644)
		e.want(err, unix.EEXIST)
		e.ok(unix.Rename("d", "moved")) // the descriptor follows its directory
		fd, err = unix.Openat(d, "new", unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		e.ok(err)
		e.fds = append(e.fds, fd)
		e.is("moved/new", regular)
	})
	s.run("openat2 stays beneath", openBeneath)
	s.run("lowest mode and largest file", func(e *env) {
		e.file("f", 0o644, "")
		e.ok(tryOpen("f", unix.O_RDONLY|unix.O_LARGEFILE|unix.O_NONBLOCK|unix.O_NOCTTY, 0))
		e.ok(tryOpen("f", unix.O_RDWR|unix.O_DSYNC, 0))
		e.ok(tryOpen("f", unix.O_RDWR|unix.O_SYNC, 0))
	})
	s.run("noatime", func(e *env) {
		e.file("f", 0o644, "content")
		e.chown("f", alice)
		noatime := func() error { return tryOpen("f", unix.O_RDONLY|unix.O_NOATIME, 0) }
		e.want(e.try(bob, noatime), unix.EPERM)
		e.want(e.try(alice, noatime), 0)
		before := e.lstat("f").Atim
		fd := e.open("f", unix.O_RDONLY|unix.O_NOATIME, 0)
		tick()
		equal(e, "content", e.pread(fd, 10, 0), "content")
		equal(e, "atime", e.lstat("f").Atim, before)
	})
}

func openTruncate(e *env) {
	e.file("f", 0o644, "content")
	e.times(func() { e.ok(tryOpen("f", unix.O_WRONLY|unix.O_TRUNC, 0)) }, "f:mc", ".:")
	e.size("f", 0)
	e.times(func() { e.ok(tryOpen("f", unix.O_RDWR|unix.O_TRUNC, 0)) }, "f:mc", ".:") // empty already
	e.ok(writeAt("f", "content", 0))
	e.times(func() { e.ok(tryOpen("f", unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o600)) }, "f:mc", ".:")
	e.mode("f", 0o644)
	e.ok(writeAt("f", "content", 0))
	reader := e.open("f", unix.O_RDONLY, 0)
	e.ok(tryOpen("f", unix.O_WRONLY|unix.O_TRUNC, 0))
	equal(e, "what another descriptor reads", e.pread(reader, 10, 0), "")
	e.ok(writeAt("f", "content", 0))
	e.chown("f", alice)
	e.still(func() {
		e.want(e.try(bob, func() error { return tryOpen("f", unix.O_WRONLY|unix.O_TRUNC, 0) }), unix.EACCES)
		e.want(e.try(bob, func() error { return tryOpen("f", unix.O_RDONLY|unix.O_TRUNC, 0) }), unix.EACCES)
		e.want(tryOpen("f/", unix.O_WRONLY|unix.O_TRUNC, 0), unix.ENOTDIR)
	}, "f", ".")
	e.content("f", "content")
	// POSIX leaves O_TRUNC with O_RDONLY open; Linux truncates.
	e.ok(tryOpen("f", unix.O_RDONLY|unix.O_TRUNC, 0))
	e.size("f", 0)
	e.make(fifo, "p", 0o644)
	e.ok(tryOpen("p", unix.O_RDWR|unix.O_TRUNC, 0))
}

func openAppend(e *env) {
	e.file("f", 0o644, "start")
	a, b := e.open("f", unix.O_WRONLY|unix.O_APPEND, 0), e.open("f", unix.O_RDWR|unix.O_APPEND, 0)
	for range 20 {
		writeFull(e, a, "A")
		writeFull(e, b, "B")
	}
	want := "start"
	for range 20 {
		want += "AB"
	}
	e.content("f", want)
	_, err := unix.Seek(a, 0, unix.SEEK_SET)
	e.ok(err)
	writeFull(e, a, "end")
	e.content("f", want+"end")
	pos, err := unix.Seek(a, 0, unix.SEEK_CUR)
	e.ok(err)
	equal(e, "offset after an append", pos, int64(len(want)+3))
	e.ok(unix.Truncate("f", 2))
	writeFull(e, b, "!")
	e.content("f", "st!")
	// pwrite on an appending descriptor appends on Linux (pwrite(2), BUGS).
	_, err = unix.Pwrite(a, []byte("?"), 0)
	e.ok(err)
	e.content("f", "st!?")
	plain := e.open("f", unix.O_WRONLY, 0)
	_, err = unix.FcntlInt(uintptr(plain), unix.F_SETFL, unix.O_APPEND)
	e.ok(err)
	writeFull(e, plain, "+")
	e.content("f", "st!?+")
}

func openDirectory(e *env) {
	e.mkdir(0o755, "d")
	e.file("f", 0o644, "")
	e.ok(unix.Symlink("d", "s"))
	e.ok(tryOpen("d", unix.O_RDONLY, 0))
	e.ok(tryOpen("d", unix.O_RDONLY|unix.O_DIRECTORY, 0))
	e.ok(tryOpen("s", unix.O_RDONLY|unix.O_DIRECTORY, 0))
	for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC, unix.O_CREAT, unix.O_RDWR | unix.O_CREAT, unix.O_WRONLY | unix.O_APPEND} {
		e.still(func() { e.want(tryOpen("d", flags, 0o644), unix.EISDIR) }, "d", ".")
		e.still(func() { e.want(tryOpen(".", flags, 0o644), unix.EISDIR) }, "d", ".")
	}
	for _, k := range []kind{fifo, socket} {
		e.make(k, k.name, 0o644)
		e.want(tryOpen(k.name, unix.O_RDONLY|unix.O_DIRECTORY, 0), unix.ENOTDIR)
	}
	e.want(tryOpen("f", unix.O_RDONLY|unix.O_DIRECTORY, 0), unix.ENOTDIR)
	e.want(tryOpen("new", unix.O_RDONLY|unix.O_DIRECTORY, 0), unix.ENOENT)
	fd := e.open("d", unix.O_RDONLY, 0)
	_, err := unix.Read(fd, make([]byte, 10))
	e.want(err, unix.EISDIR)
	_, err = unix.Write(fd, []byte("x"))
	e.want(err, unix.EBADF)
}

func openNofollow(e *env) {
	e.mkdir(0o755, "d")
	e.file("d/f", 0o644, "content")
	e.ok(unix.Symlink("d", "to d"))
	e.ok(unix.Symlink("d/f", "to f"))
	for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_CREAT | unix.O_WRONLY, unix.O_TRUNC | unix.O_WRONLY} {
		e.want(tryOpen("to f", flags|unix.O_NOFOLLOW, 0o644), unix.ELOOP)
	}
	e.want(tryOpen("to d", unix.O_DIRECTORY|unix.O_NOFOLLOW, 0), unix.ENOTDIR, unix.ELOOP)
	e.ok(tryOpen("to d/f", unix.O_RDONLY|unix.O_NOFOLLOW, 0)) // only the last component counts
	e.ok(tryOpen("d/f", unix.O_RDONLY|unix.O_NOFOLLOW, 0))
	fd := e.open("to f", unix.O_PATH|unix.O_NOFOLLOW, 0)
	equal(e, "type", e.fstat(fd).Mode&unix.S_IFMT, symlink.format)
	e.content("d/f", "content")
}

// openPath: an O_PATH descriptor names a file and does nothing else (open(2)).
func openPath(e *env) {
	e.file("f", 0, "content")
	e.chown("f", bob)
	e.make(fifo, "p", 0)
	e.make(socket, "s", 0)
	e.as(alice, func() {
		fd := e.open("f", unix.O_PATH|unix.O_RDWR|unix.O_TRUNC, 0) // all but O_PATH is ignored
		equal(e, "size", e.fstat(fd).Size, 7)
		_, err := unix.Read(fd, make([]byte, 1))
		e.want(err, unix.EBADF)
		_, err = unix.Write(fd, []byte("x"))
		e.want(err, unix.EBADF)
		e.want(unix.Fchmod(fd, 0o777), unix.EBADF)
		e.want(unix.Fchown(fd, 1, 1), unix.EBADF)
		e.want(unix.Ftruncate(fd, 0), unix.EBADF)
		_, err = unix.Fgetxattr(fd, "user.x", nil)
		e.want(err, unix.EBADF)
		_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
		e.want(err, unix.EBADF)
		e.ok(tryOpen("p", unix.O_PATH, 0))
		e.ok(tryOpen("s", unix.O_PATH, 0))
		var sf unix.Statfs_t
		e.ok(unix.Fstatfs(fd, &sf))
	})
	e.as(bob, func() {
		fd := e.open("f", unix.O_PATH, 0)
		e.ok(unix.Chmod("f", 0o400))
		equal(e, "mode", e.fstat(fd).Mode&0o777, 0o400)
		e.ok(tryOpen(fmt.Sprint(e.self, fd), unix.O_RDONLY, 0))
	})
}

func openAccessMode(e *env) {
	e.file("f", 0o644, "content")
	buf := make([]byte, 1)
	r, w := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_WRONLY, 0)
	_, err := unix.Write(r, []byte("x"))
	e.want(err, unix.EBADF)
	_, err = unix.Pwrite(r, []byte("x"), 0)
	e.want(err, unix.EBADF)
	_, err = unix.Read(w, buf)
	e.want(err, unix.EBADF)
	_, err = unix.Pread(w, buf, 0)
	e.want(err, unix.EBADF)
	e.want(unix.Fallocate(r, 0, 0, 10), unix.EBADF, unix.EOPNOTSUPP)
	_, err = unix.CopyFileRange(w, nil, r, nil, 1, 0)
	e.want(err, unix.EBADF)
	// Access mode 3 asks for both rights and grants neither read nor write (open(2)).
	e.chown("f", alice)
	e.ok(unix.Chmod("f", 0o400))
	e.want(e.try(alice, func() error { return tryOpen("f", unix.O_RDWR|unix.O_WRONLY, 0) }), unix.EACCES)
	e.content("f", "content")
}

// openBeneath: openat2(2) keeps a resolution inside a directory.
func openBeneath(e *env) {
	e.mkdir(0o755, "d", "d/e")
	e.file("d/e/f", 0o644, "")
	e.ok(unix.Symlink("../..", "d/e/up"))
	e.ok(unix.Symlink("/", "d/e/root"))
	d := e.open("d", unix.O_DIRECTORY, 0)
	open := func(path string, resolve uint64) error {
		fd, err := unix.Openat2(d, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: resolve})
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}
	e.want(open("e/f", unix.RESOLVE_BENEATH), 0)
	e.want(open("e/../e/f", unix.RESOLVE_BENEATH), 0)
	e.want(open("e/../..", unix.RESOLVE_BENEATH), unix.EXDEV)
	e.want(open("e/up", unix.RESOLVE_BENEATH), unix.EXDEV)
	e.want(open("e/root", unix.RESOLVE_BENEATH), unix.EXDEV)
	e.want(open("e/up", unix.RESOLVE_NO_SYMLINKS), unix.ELOOP)
	e.want(open("e/up", unix.RESOLVE_IN_ROOT), 0)
	e.want(open("e/f", 1<<40), unix.EINVAL)
}

// openPermissionCases: every mode bit against every access mode and class.
func openPermissionCases(s *suite) {
	modes := []struct {
		name  string
		flags int
		need  uint32
	}{
		{"read", unix.O_RDONLY, 4},
		{"write", unix.O_WRONLY, 2},
		{"both", unix.O_RDWR, 6},
		{"read and truncate", unix.O_RDONLY | unix.O_TRUNC, 6},
		{"append", unix.O_WRONLY | unix.O_APPEND, 2},
		{"create", unix.O_RDWR | unix.O_CREAT, 6},
	}
	for _, k := range []kind{regular, fifo, directory} {
		for _, c := range classes {
			s.run(k.name+" by "+c.name, func(e *env) {
				e.makeAs(alice.with(team), k, "f", 0)
				for bits := range uint32(8) {
					mode := c.mode(bits)
					e.ok(unix.Chmod("f", mode))
					for _, m := range modes {
						if k == directory && m.flags != unix.O_RDONLY {
							continue // EISDIR
						}
						flags := m.flags
						if k == fifo && flags&unix.O_ACCMODE == unix.O_WRONLY {
							continue // waits for a reader
						}
						want := unix.EACCES
						if bits&m.need == m.need {
							want = 0
						}
						err := e.try(c.u, func() error { return tryOpen("f", flags|unix.O_NONBLOCK, 0o644) })
						if got := errnoOf(err); got != want {
							e.Errorf("mode %04o, %s: got %s, want %s", mode, m.name, errnoName(got), errnoName(want))
						}
					}
				}
				e.ok(unix.Chmod("f", 0))
				e.ok(tryOpen("f", unix.O_RDONLY|unix.O_NONBLOCK, 0)) // root
			})
		}
	}
}

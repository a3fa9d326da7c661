package posix

import (
	"golang.org/x/sys/unix"
)

// specialCases use fifos, sockets and devices through their names: the kernel
// serves their content, the file system only what they are.
func specialCases(s *suite) {
	s.run("fifo carries bytes", func(e *env) {
		e.make(fifo, "p", 0o644)
		r := e.open("p", unix.O_RDONLY|unix.O_NONBLOCK, 0)
		w := e.open("p", unix.O_WRONLY|unix.O_NONBLOCK, 0)
		writeFull(e, w, "through the pipe")
		equal(e, "read", e.read(r, 100), "through the pipe")
		_, err := unix.Read(r, make([]byte, 1))
		e.want(err, unix.EAGAIN)
		e.close(w)
		equal(e, "after the writer", e.read(r, 1), "")
		e.size("p", 0)
	})
	s.run("fifo without a reader", func(e *env) {
		e.make(fifo, "p", 0o644)
		e.want(tryOpen("p", unix.O_WRONLY|unix.O_NONBLOCK, 0), unix.ENXIO)
		e.ok(tryOpen("p", unix.O_RDONLY|unix.O_NONBLOCK, 0))
		e.ok(tryOpen("p", unix.O_RDWR, 0))
	})
	s.run("fifo through two names", func(e *env) {
		e.make(fifo, "p", 0o644)
		e.ok(unix.Link("p", "q"))
		r, w := e.open("p", unix.O_RDONLY|unix.O_NONBLOCK, 0), e.open("q", unix.O_WRONLY, 0)
		writeFull(e, w, "x")
		equal(e, "read", e.read(r, 1), "x")
		e.ok(unix.Unlink("p"))
		e.ok(unix.Unlink("q"))
		writeFull(e, w, "y")
		equal(e, "read", e.read(r, 1), "y")
	})
	s.run("fifo takes no offsets", func(e *env) {
		e.make(fifo, "p", 0o644)
		fd := e.open("p", unix.O_RDWR, 0)
		_, err := unix.Seek(fd, 0, unix.SEEK_SET)
		e.want(err, unix.ESPIPE)
		_, err = unix.Pwrite(fd, []byte("x"), 0)
		e.want(err, unix.ESPIPE)
		e.want(unix.Ftruncate(fd, 0), unix.EINVAL)
		e.want(unix.Fallocate(fd, 0, 0, 10), unix.ESPIPE, unix.ENODEV)
	})
	s.run("socket bind and connect", socketBind)
	s.run("socket cannot be opened", func(e *env) {
		e.make(socket, "s", 0o666)
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			e.want(tryOpen("s", flags, 0), unix.ENXIO)
		}
	})
	if s.o.NoDevices {
		return
	}
	s.run("character device", func(e *env) {
		e.make(char, "null", 0o666)
		var sf unix.Statfs_t
		e.ok(unix.Statfs(".", &sf))
		if sf.Flags&unix.ST_NODEV != 0 {
			e.want(tryOpen("null", unix.O_RDWR, 0), unix.EACCES)
			return
		}
		fd := e.open("null", unix.O_RDWR|unix.O_TRUNC, 0)
		writeFull(e, fd, "gone")
		equal(e, "read", e.read(fd, 10), "")
		e.size("null", 0)
		e.ok(unix.Chmod("null", 0o600))
		e.want(e.try(alice, func() error { return tryOpen("null", unix.O_RDONLY, 0) }), unix.EACCES)
	})
	s.run("block device without a disk", func(e *env) {
		e.make(block, "b", 0o666)
		e.want(tryOpen("b", unix.O_RDONLY, 0), unix.ENXIO, unix.ENODEV, unix.EACCES)
	})
}

func socketBind(e *env) {
	server, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	e.ok(err)
	e.fds = append(e.fds, server)
	unix.Umask(0o027)
	e.times(func() { e.ok(unix.Bind(server, &unix.SockaddrUnix{Name: "s"})) }, ".:mc")
	e.is("s", socket)
	e.mode("s", 0o750)
	e.ok(unix.Listen(server, 1))
	connect := func() error {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		e.ok(err)
		defer unix.Close(c)
		return unix.Connect(c, &unix.SockaddrUnix{Name: "s"})
	}
	e.want(connect(), 0)
	e.want(e.try(alice, connect), unix.EACCES)
	e.ok(unix.Chmod("s", 0o777))
	e.want(e.try(alice, connect), 0)
	second, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	e.ok(err)
	e.fds = append(e.fds, second)
	e.want(unix.Bind(second, &unix.SockaddrUnix{Name: "s"}), unix.EADDRINUSE)
	e.want(unix.Bind(second, &unix.SockaddrUnix{Name: "none/s"}), unix.ENOENT)
	e.ok(unix.Rename("s", "t")) // the name is only a name
	e.want(connect(), unix.ENOENT)
	e.ok(unix.Rename("t", "s"))
	e.close(server)
	e.want(connect(), unix.ECONNREFUSED)
	e.is("s", socket)
}

package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

// resizing is truncate(2) and ftruncate(2).
var resizing = []struct {
	name string
	do   func(e *env, path string, size int64) error
}{
	{"truncate", func(e *env, path string, size int64) error { return unix.Truncate(path, size) }},
	{"ftruncate", func(e *env, path string, size int64) error {
		fd := e.open(path, unix.O_RDWR, 0)
		defer e.close(fd)
		return unix.Ftruncate(fd, size)
	}},
	{"ftruncate write only", func(e *env, path string, size int64) error {
		fd := e.open(path, unix.O_WRONLY, 0)
		defer e.close(fd)
		return unix.Ftruncate(fd, size)
	}},
}

func truncateCases(s *suite) {
	for _, r := range resizing {
		s.run(r.name+" resizes", func(e *env) {
			// Across pages, a 64 KiB block and the 16 KiB up to which content may be inline.
			text := strings.Repeat("0123456789abcdef", 10000)
			e.file("f", 0o644, text)
			for _, size := range []int{160000, 131073, 131072, 65537, 65536, 65535, 16385, 16384, 16383, 4097, 4096, 4095, 1, 0} {
				e.ok(r.do(e, "f", int64(size)))
				e.content("f", text[:size])
			}
		})
		s.run(r.name+" extends with zeros", func(e *env) {
			e.file("f", 0o644, "start of a longer text")
			e.ok(r.do(e, "f", 5))
			for _, size := range []int{6, 4096, 4097, 16385, 65536, 200001} {
				e.ok(r.do(e, "f", int64(size)))
				e.content("f", "start"+strings.Repeat("\x00", size-5))
			}
		})
		s.run(r.name+" moves mtime and ctime", func(e *env) {
			e.file("f", 0o644, "12345")
			for _, size := range []int64{10, 3, 3, 0, 0} { // the same size counts too
				e.times(func() { e.ok(r.do(e, "f", size)) }, "f:mc", ".:")
			}
		})
		s.run(r.name+" refuses sizes", func(e *env) {
			e.file("f", 0o644, "12345")
			e.still(func() {
				e.want(r.do(e, "f", -1), unix.EINVAL)
				e.want(r.do(e, "f", -1<<63), unix.EINVAL)
				e.want(r.do(e, "f", 1<<63-1), unix.EFBIG, unix.EINVAL)
			}, "f", ".")
			e.content("f", "12345")
		})
		if !s.o.NoLargeFiles {
			s.run(r.name+" beyond 4 GiB", func(e *env) {
				const size = 5<<30 + 1
				e.file("f", 0o644, "start")
				e.ok(r.do(e, "f", size))
				e.size("f", size)
				fd := e.open("f", unix.O_RDWR, 0)
				equal(e, "the last bytes", e.pread(fd, 10, size-3), "\x00\x00\x00")
				_, err := unix.Pwrite(fd, []byte("end"), size-3)
				e.ok(err)
				equal(e, "the end", e.pread(fd, 10, size-3), "end")
				equal(e, "the middle", e.pread(fd, 3, 4<<30), "\x00\x00\x00")
				e.ok(r.do(e, "f", 3))
				e.content("f", "sta")
			})
		}
	}
	s.run("keeps the offset", func(e *env) {
		e.file("f", 0o644, "1234567890")
		fd := e.open("f", unix.O_RDWR, 0)
		_, err := unix.Seek(fd, 8, unix.SEEK_SET)
		e.ok(err)
		e.ok(unix.Ftruncate(fd, 2))
		writeFull(e, fd, "x")
		e.content("f", "12\x00\x00\x00\x00\x00\x00x")
	})
	s.run("seen by every descriptor", func(e *env) {
		e.file("f", 0o644, "1234567890")
		e.ok(unix.Link("f", "g"))
		a, b := e.open("f", unix.O_RDWR, 0), e.open("g", unix.O_RDONLY, 0)
		e.ok(unix.Ftruncate(a, 4))
		equal(e, "size", e.fstat(b).Size, 4)
		equal(e, "content", e.pread(b, 10, 0), "1234")
		e.ok(unix.Truncate("g", 6))
		equal(e, "content", e.pread(a, 10, 0), "1234\x00\x00")
	})
	s.run("wrong objects", truncateWrongObjects)
	s.run("permissions", truncatePermissions)
}

func truncateWrongObjects(e *env) {
	e.mkdir(0o755, "d")
	e.file("f", 0o644, "12345")
	e.make(fifo, "p", 0o644)
	e.make(socket, "s", 0o644)
	e.ok(unix.Symlink("f", "l"))
	e.want(unix.Truncate("d", 0), unix.EISDIR)
	e.want(unix.Truncate("p", 0), unix.EINVAL)
	e.want(unix.Truncate("s", 0), unix.EINVAL)
	e.ok(unix.Truncate("l", 3))
	e.content("f", "123")
	e.still(func() {
		e.want(unix.Ftruncate(e.open("f", unix.O_RDONLY, 0), 0), unix.EINVAL)
		e.want(unix.Ftruncate(e.open("f", unix.O_PATH, 0), 0), unix.EBADF)
		e.want(unix.Ftruncate(e.open("d", unix.O_DIRECTORY, 0), 0), unix.EINVAL)
		e.want(unix.Ftruncate(-1, 0), unix.EBADF)
	}, "f", "d")
}

// truncatePermissions: truncate needs the right to write, ftruncate a descriptor
// that was opened with it.
func truncatePermissions(e *env) {
	e.file("f", 0o644, "12345")
	e.chown("f", alice)
	e.still(func() {
		e.want(e.try(bob, func() error { return unix.Truncate("f", 0) }), unix.EACCES)
	}, "f")
	e.content("f", "12345")
	e.ok(unix.Chmod("f", 0o446))
	e.want(e.try(bob, func() error { return unix.Truncate("f", 4) }), 0)
	e.want(e.try(alice, func() error { return unix.Truncate("f", 0) }), unix.EACCES)
	e.content("f", "1234")
	e.ok(unix.Chmod("f", 0o600))
	e.as(alice, func() {
		fd := e.open("f", unix.O_RDWR, 0)
		e.ok(unix.Chmod("f", 0))
		e.ok(unix.Ftruncate(fd, 2))
	})
	e.content("f", "12")
}

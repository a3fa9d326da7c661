package posix

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

func readWriteCases(s *suite) {
	s.run("offsets", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		writeFull(e, fd, "0123456789")
		equal(e, "at the end", e.read(fd, 4), "")
		e.seek(fd, 2, unix.SEEK_SET, 2)
		equal(e, "read", e.read(fd, 3), "234")
		e.seek(fd, 1, unix.SEEK_CUR, 6)
		equal(e, "read", e.read(fd, 100), "6789")
		e.seek(fd, -3, unix.SEEK_END, 7)
		writeFull(e, fd, "abcdef")
		e.content("f", "0123456abcdef")
		equal(e, "pread", e.pread(fd, 3, 1), "123")
		e.seek(fd, 0, unix.SEEK_CUR, 13) // pread moved nothing
		n, err := unix.Pwrite(fd, []byte("XY"), 1)
		e.ok(err)
		equal(e, "written", n, 2)
		e.seek(fd, 0, unix.SEEK_CUR, 13)
		e.content("f", "0XY3456abcdef")
	})
	s.run("wrong offsets", func(e *env) {
		e.file("f", 0o644, "0123456789")
		fd := e.open("f", unix.O_RDWR, 0)
		_, err := unix.Seek(fd, -1, unix.SEEK_SET)
		e.want(err, unix.EINVAL)
		_, err = unix.Seek(fd, -11, unix.SEEK_END)
		e.want(err, unix.EINVAL)
		_, err = unix.Seek(fd, 0, 99)
		e.want(err, unix.EINVAL)
		_, err = unix.Pread(fd, make([]byte, 1), -1)
		e.want(err, unix.EINVAL)
		_, err = unix.Pwrite(fd, []byte("x"), -1)
		e.want(err, unix.EINVAL)
		_, err = unix.Pwrite(fd, []byte("x"), 1<<63-1)
		e.want(err, unix.EINVAL, unix.EFBIG)
		equal(e, "beyond the end", e.pread(fd, 10, 1<<40), "")
		e.content("f", "0123456789")
	})
	s.run("bad descriptors", func(e *env) {
		_, err := unix.Read(-1, make([]byte, 1))
		e.want(err, unix.EBADF)
		_, err = unix.Write(-1, make([]byte, 1))
		e.want(err, unix.EBADF)
		_, err = unix.Seek(-1, 0, 0)
		e.want(err, unix.EBADF)
		e.want(unix.Close(-1), unix.EBADF)
		e.want(unix.Fsync(-1), unix.EBADF)
	})
	s.run("times", func(e *env) {
		e.file("f", 0o644, "content")
		fd := e.open("f", unix.O_RDWR, 0)
		e.times(func() { writeFull(e, fd, "x") }, "f:mc", ".:")
		e.times(func() { _, err := unix.Pwrite(fd, []byte("x"), 0); e.ok(err) }, "f:mc", ".:")
		e.still(func() { e.read(fd, 3); e.pread(fd, 3, 0) }, "f", ".")
		e.still(func() { _, err := unix.Write(fd, nil); e.ok(err) }, "f", ".")
		e.still(func() { _, err := unix.Seek(fd, 0, unix.SEEK_SET); e.ok(err) }, "f", ".")
		e.times(func() { writeFull(e, fd, "y"); equal(e, "size", e.fstat(fd).Size, 7) }, "f:mc")
	})
	s.run("seen by others at once", func(e *env) {
		e.file("f", 0o644, "")
		e.ok(unix.Link("f", "g"))
		w, r := e.open("f", unix.O_WRONLY, 0), e.open("g", unix.O_RDONLY, 0)
		want := ""
		for i := range 200 {
			writeFull(e, w, number(i)+",")
			want += number(i) + ","
			equal(e, "size", e.fstat(r).Size, int64(len(want)))
			equal(e, "size by path", e.lstat("g").Size, int64(len(want)))
			equal(e, "content", e.pread(r, len(want)+1, 0), want)
		}
	})
	s.run("shared offset of a duplicate", func(e *env) {
		e.file("f", 0o644, "0123456789")
		fd := e.open("f", unix.O_RDWR, 0)
		dup, err := unix.Dup(fd)
		e.ok(err)
		e.fds = append(e.fds, dup)
		equal(e, "read", e.read(fd, 4), "0123")
		equal(e, "read", e.read(dup, 4), "4567")
		other := e.open("f", unix.O_RDONLY, 0)
		equal(e, "read", e.read(other, 4), "0123")
		e.close(fd)
		equal(e, "read", e.read(dup, 4), "89")
	})
	s.run("vectors", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		n, err := unix.Writev(fd, [][]byte{[]byte("ab"), nil, []byte("cde"), []byte("f")})
		e.ok(err)
		equal(e, "written", n, 6)
		_, err = unix.Pwritev(fd, [][]byte{[]byte("X"), []byte("YZ")}, 5)
		e.ok(err)
		e.content("f", "abcdeXYZ")
		a, b := make([]byte, 3), make([]byte, 10)
		n, err = unix.Preadv(fd, [][]byte{a, b}, 1)
		e.ok(err)
		equal(e, "read", n, 7)
		equal(e, "content", string(a)+string(b[:n-3]), "bcdeXYZ")
	})
	contentCases(s)
}

// contentCases move blocks whose sizes are on both sides of every boundary: the
// page, 16 KiB, 64 KiB and the largest request.
func contentCases(s *suite) {
	for _, size := range []int{1, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 131072, 1 << 20, 1<<20 + 1, 3<<20 + 7} {
		s.run(fmt.Sprintf("%d bytes", size), func(e *env) { writeAndRead(e, size) })
	}
	for _, gap := range []int64{1, 4095, 4096, 16384, 65536, 1 << 20} {
		s.run(fmt.Sprintf("a gap of %d bytes", gap), func(e *env) {
			e.file("f", 0o644, "start")
			e.ok(writeAt("f", "end", 5+gap))
			e.content("f", "start"+strings.Repeat("\x00", int(gap))+"end")
		})
	}
	s.run("backwards", func(e *env) {
		const n, step = 60, 3000
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		want := pattern(n * step)
		for i := n - 1; i >= 0; i-- {
			_, err := unix.Pwrite(fd, want[i*step:(i+1)*step], int64(i*step))
			e.ok(err)
		}
		e.content("f", string(want))
	})
	s.run("sendfile", func(e *env) {
		want := pattern(200_000)
		e.file("f", 0o644, string(want))
		in, out := e.open("f", unix.O_RDONLY, 0), e.open("g", unix.O_CREAT|unix.O_WRONLY, 0o644)
		for sent := 0; sent < len(want); {
			n, err := unix.Sendfile(out, in, nil, len(want))
			e.ok(err)
			if n == 0 {
				e.Fatalf("sendfile stopped after %d bytes", sent)
			}
			sent += n
		}
		e.content("g", string(want))
	})
	s.run("direct", directIO)
}

// writeAndRead moves one block of size bytes in one call, and over it in parts.
func writeAndRead(e *env, size int) {
	want := pattern(size)
	fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	writeFull(e, fd, string(want))
	e.size("f", int64(size))
	e.content("f", string(want))
	for off := 0; off < size; off += size/7 + 1 { // overwrite parts, across every boundary
		part := bytes.Repeat([]byte{byte(off)}, min(size/11+1, size-off))
		n, err := unix.Pwrite(fd, part, int64(off))
		e.ok(err)
		equal(e, "written", n, len(part))
		copy(want[off:], part)
	}
	e.content("f", string(want))
	e.size("f", int64(size))
	e.ok(unix.Fsync(fd))
	e.close(fd)
	e.content("f", string(want))
}

// pattern returns n bytes that differ between blocks of any size.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(n) + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// directIO: O_DIRECT may be refused with EINVAL at open, not half work.
func directIO(e *env) {
	const size = 1 << 16
	fd, err := unix.Open("f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0o644)
	e.want(err, 0, unix.EINVAL)
	if err != nil {
		return
	}
	e.fds = append(e.fds, fd)
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	e.ok(err)
	defer unix.Munmap(buf)
	want := pattern(size)
	copy(buf, want)
	n, err := unix.Pwrite(fd, buf, 0)
	e.ok(err)
	equal(e, "written", n, size)
	e.content("f", string(want))
	clear(buf)
	n, err = unix.Pread(fd, buf[:4096], 4096)
	e.ok(err)
	equal(e, "read", n, 4096)
	equal(e, "content", string(buf[:4096]) == string(want[4096:8192]), true)
	e.ok(writeAt("f", "buffered", 4096))
	_, err = unix.Pread(fd, buf[:4096], 4096)
	e.ok(err)
	equal(e, "what a buffered write left", string(buf[:8]), "buffered")
}

// read returns up to n bytes from the offset.
func (e *env) read(fd, n int) string {
	e.Helper()
	buf := make([]byte, n)
	got, err := unix.Read(fd, buf)
	e.ok(err)
	return string(buf[:got])
}

func (e *env) seek(fd int, off int64, whence int, want int64) {
	e.Helper()
	got, err := unix.Seek(fd, off, whence)
	e.ok(err)
	equal(e, "offset", got, want)
}

// syncCases: fsync and its relatives accept what they should, and move no times.
func syncCases(s *suite) {
	s.run("of any file", func(e *env) {
		e.file("f", 0o644, "content")
		e.make(fifo, "p", 0o644)
		e.still(func() {
			for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY} {
				fd := e.open("f", flags, 0)
				e.ok(unix.Fsync(fd))
				e.ok(unix.Fdatasync(fd))
			}
			d := e.open(".", unix.O_DIRECTORY, 0)
			e.ok(unix.Fsync(d))
			e.ok(unix.Fdatasync(d))
			e.ok(unix.Syncfs(d))
		}, "f", ".")
		e.want(unix.Fsync(e.open("p", unix.O_RDWR, 0)), unix.EINVAL)
		e.want(unix.Fsync(e.open("f", unix.O_PATH, 0)), unix.EBADF)
	})
	for name, flags := range map[string]int{"sync": unix.O_SYNC, "dsync": unix.O_DSYNC, "append sync": unix.O_APPEND | unix.O_SYNC} {
		s.run("writes with "+name, func(e *env) {
			fd := e.open("f", unix.O_CREAT|unix.O_WRONLY|flags, 0o644)
			writeFull(e, fd, "one")
			writeFull(e, fd, "two")
			e.content("f", "onetwo")
		})
	}
	s.run("of what is unlinked or renamed", func(e *env) {
		e.mkdir(0o755, "d")
		fd := e.open("d/f", unix.O_CREAT|unix.O_RDWR, 0o644)
		d := e.open("d", unix.O_DIRECTORY, 0)
		writeFull(e, fd, "content")
		e.ok(unix.Rename("d/f", "d/g"))
		e.ok(unix.Fsync(fd))
		e.ok(unix.Unlink("d/g"))
		e.ok(unix.Fsync(fd))
		e.ok(unix.Rmdir("d"))
		e.ok(unix.Fsync(d))
	})
}

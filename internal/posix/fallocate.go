package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

const (
	keepSize  = unix.FALLOC_FL_KEEP_SIZE
	punchHole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
)

// fallocateCases are posix_fallocate(3) and fallocate(2).
func fallocateCases(s *suite) {
	if s.o.NoFallocate {
		return
	}
	s.run("extends with zeros", func(e *env) {
		e.file("f", 0o644, "start")
		fd := e.open("f", unix.O_RDWR, 0)
		for _, r := range []struct{ off, n, size int64 }{{0, 567, 567}, {20000, 3456, 23456}, {100, 10, 23456}, {0, 23457, 23457}} {
			e.ok(unix.Fallocate(fd, 0, r.off, r.n))
			e.size("f", r.size)
		}
		e.content("f", "start"+strings.Repeat("\x00", 23452))
	})
	s.run("allocates", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.ok(unix.Fallocate(fd, 0, 0, 1<<20))
		if got := e.fstat(fd).Blocks * 512; got < 1<<20 {
			e.Errorf("allocated %d bytes, want at least 1 MiB", got)
		}
	})
	s.run("keeps the size", func(e *env) {
		e.file("f", 0o644, "content")
		fd := e.open("f", unix.O_RDWR, 0)
		e.ok(unix.Fallocate(fd, keepSize, 0, 100000))
		e.ok(unix.Fallocate(fd, keepSize, 200000, 100000))
		e.content("f", "content")
		e.ok(unix.Ftruncate(fd, 10))
		e.content("f", "content\x00\x00\x00") // what was allocated reads as zeros
	})
	s.run("moves ctime", func(e *env) {
		e.file("f", 0o644, "content")
		fd := e.open("f", unix.O_RDWR, 0)
		e.times(func() { e.ok(unix.Fallocate(fd, 0, 0, 12345)) }, "f:cM", ".:")
	})
	s.run("refused", func(e *env) {
		e.file("f", 0o644, "content")
		fd := e.open("f", unix.O_RDWR, 0)
		e.still(func() {
			e.want(unix.Fallocate(fd, 0, 0, 0), unix.EINVAL)
			e.want(unix.Fallocate(fd, 0, 0, -1), unix.EINVAL)
			e.want(unix.Fallocate(fd, 0, -1, 10), unix.EINVAL)
			e.want(unix.Fallocate(fd, 0, 1<<63-1, 10), unix.EFBIG)
			e.want(unix.Fallocate(fd, 0, 1<<62, 1<<62-1), unix.EFBIG, unix.ENOSPC)
			e.want(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, 0, 1), unix.EOPNOTSUPP, unix.EINVAL)
			e.want(unix.Fallocate(fd, 1<<20, 0, 1), unix.EOPNOTSUPP, unix.EINVAL)
			e.want(unix.Fallocate(e.open("f", unix.O_RDONLY, 0), 0, 0, 10), unix.EBADF)
			e.want(unix.Fallocate(e.open("f", unix.O_PATH, 0), 0, 0, 10), unix.EBADF)
			e.want(unix.Fallocate(e.open(".", unix.O_DIRECTORY, 0), 0, 0, 10), unix.EBADF)
			e.want(unix.Fallocate(-1, 0, 0, 10), unix.EBADF)
		}, "f")
		e.content("f", "content")
	})
	s.run("descriptor of a file without rights", func(e *env) {
		e.as(alice, func() {
			fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0)
			e.ok(unix.Fallocate(fd, 0, 0, 1))
		})
		e.size("f", 1)
	})
	if !s.o.NoPunchHole {
		punchCases(s)
	}
}

func punchCases(s *suite) {
	const size = 200_000
	ranges := []struct {
		name   string
		off, n int64
	}{
		{"within a page", 100, 50},
		{"a page", 4096, 4096},
		{"across pages", 4000, 9000},
		{"a block of 64 KiB", 65536, 65536},
		{"across blocks", 60000, 80000},
		{"the start", 0, 10000},
		{"the end", size - 1000, 1000},
		{"across the end", size - 1000, 50000},
		{"beyond the end", size + 5000, 5000},
		{"everything", 0, size},
	}
	for _, r := range ranges {
		s.run("punches "+r.name, func(e *env) {
			want := pattern(size)
			e.file("f", 0o644, string(want))
			fd := e.open("f", unix.O_RDWR, 0)
			e.ok(unix.Fallocate(fd, punchHole, r.off, r.n))
			if r.off < size {
				clear(want[r.off:min(r.off+r.n, size)])
			}
			e.content("f", string(want))
			e.ok(unix.Fsync(fd))
			e.content("f", string(want))
		})
		s.run("zeroes "+r.name, func(e *env) {
			want := pattern(size)
			e.file("f", 0o644, string(want))
			fd := e.open("f", unix.O_RDWR, 0)
			err := unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, r.off, r.n)
			e.want(err, 0, unix.EOPNOTSUPP)
			if err == nil {
				want = append(want, make([]byte, max(0, r.off+r.n-size))...)
				clear(want[r.off : r.off+r.n])
			}
			e.content("f", string(want))
		})
	}
	s.run("punching moves mtime and ctime", func(e *env) {
		e.file("f", 0o644, string(pattern(size)))
		fd := e.open("f", unix.O_RDWR, 0)
		e.times(func() { e.ok(unix.Fallocate(fd, punchHole, 4096, 8192)) }, "f:mc", ".:")
	})
	s.run("punching gives space back", func(e *env) {
		if e.o.NoHoles {
			e.Skip("no holes")
		}
		e.file("f", 0o644, string(pattern(1<<20)))
		fd := e.open("f", unix.O_RDWR, 0)
		e.ok(unix.Fsync(fd))
		before := e.fstat(fd).Blocks
		e.ok(unix.Fallocate(fd, punchHole, 1<<18, 1<<19))
		if after := e.fstat(fd).Blocks; after >= before {
			e.Errorf("blocks went from %d to %d, want fewer", before, after)
		}
	})
	s.run("collapse and insert", func(e *env) {
		want := pattern(size)
		e.file("f", 0o644, string(want))
		fd := e.open("f", unix.O_RDWR, 0)
		err := unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 4096, 4096)
		e.want(err, 0, unix.EOPNOTSUPP)
		if err == nil {
			want = append(want[:4096:4096], want[8192:]...)
		}
		e.content("f", string(want))
		err = unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, 4096, 4096)
		e.want(err, 0, unix.EOPNOTSUPP)
		if err == nil {
			want = append(append(want[:4096:4096], make([]byte, 4096)...), want[4096:]...)
		}
		e.content("f", string(want))
	})
}

// holeCases are lseek(2) with SEEK_DATA and SEEK_HOLE.
func holeCases(s *suite) {
	const mib = 1 << 20
	seek := func(e *env, fd int, off int64, whence int, want int64) {
		e.Helper()
		got, err := unix.Seek(fd, off, whence)
		e.ok(err)
		if got != want {
			e.Errorf("lseek(%d, %d) = %d, want %d", off, whence, got, want)
		}
	}
	s.run("a file without holes", func(e *env) {
		e.file("f", 0o644, string(pattern(100_000)))
		fd := e.open("f", unix.O_RDONLY, 0)
		for _, off := range []int64{0, 1, 4096, 50_000, 99_999} {
			seek(e, fd, off, unix.SEEK_DATA, off)
			seek(e, fd, off, unix.SEEK_HOLE, 100_000) // the end counts as a hole
		}
	})
	s.run("beyond the end", func(e *env) {
		e.file("f", 0o644, "content")
		e.file("empty", 0o644, "")
		fd, empty := e.open("f", unix.O_RDONLY, 0), e.open("empty", unix.O_RDONLY, 0)
		for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			for _, off := range []int64{7, 8, 1 << 40} {
				_, err := unix.Seek(fd, off, whence)
				e.want(err, unix.ENXIO)
			}
			_, err := unix.Seek(fd, -1, whence)
			e.want(err, unix.ENXIO, unix.EINVAL)
			_, err = unix.Seek(empty, 0, whence)
			e.want(err, unix.ENXIO)
			_, err = unix.Seek(-1, 0, whence)
			e.want(err, unix.EBADF)
		}
	})
	if s.o.NoHoles {
		return
	}
	s.run("data, hole, data", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		for _, off := range []int64{mib, 3 * mib} {
			_, err := unix.Pwrite(fd, pattern(mib), off)
			e.ok(err)
		}
		e.ok(unix.Ftruncate(fd, 5*mib))
		e.ok(unix.Fsync(fd))
		seek(e, fd, 0, unix.SEEK_HOLE, 0)
		seek(e, fd, 0, unix.SEEK_DATA, mib)
		seek(e, fd, mib+5, unix.SEEK_DATA, mib+5)
		seek(e, fd, mib, unix.SEEK_HOLE, 2*mib)
		seek(e, fd, 2*mib, unix.SEEK_DATA, 3*mib)
		seek(e, fd, 3*mib, unix.SEEK_HOLE, 4*mib)
		_, err := unix.Seek(fd, 4*mib, unix.SEEK_DATA)
		e.want(err, unix.ENXIO)
		seek(e, fd, 4*mib+7, unix.SEEK_HOLE, 4*mib+7)
		if got := e.fstat(fd).Blocks * 512; got < 2*mib || got >= 5*mib {
			e.Errorf("blocks hold %d bytes, want about 2 MiB", got)
		}
	})
	s.run("a hole was punched", func(e *env) {
		if e.o.NoPunchHole {
			e.Skip("no FALLOC_FL_PUNCH_HOLE")
		}
		e.file("f", 0o644, string(pattern(3*mib)))
		fd := e.open("f", unix.O_RDWR, 0)
		e.ok(unix.Fsync(fd))
		e.ok(unix.Fallocate(fd, punchHole, mib, mib))
		seek(e, fd, 0, unix.SEEK_HOLE, mib)
		seek(e, fd, mib, unix.SEEK_DATA, 2*mib)
	})
	s.run("moves the offset", func(e *env) {
		fd := e.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
		_, err := unix.Pwrite(fd, []byte("data"), mib)
		e.ok(err)
		seek(e, fd, 0, unix.SEEK_DATA, mib)
		equal(e, "read", e.read(fd, 10), "data")
	})
}

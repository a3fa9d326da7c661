package posix

import (
	"golang.org/x/sys/unix"
)

// copyAll copies n bytes with as many calls as it takes.
func copyAll(e *env, in int, inOff int64, out int, outOff int64, n int) {
	e.Helper()
	for n > 0 {
		got, err := unix.CopyFileRange(in, &inOff, out, &outOff, n, 0)
		e.ok(err)
		if got == 0 {
			e.Fatalf("copy_file_range ended %d bytes early", n)
		}
		n -= got
	}
}

// copyRangeCases are copy_file_range(2) and the FICLONE request of ioctl(2).
func copyRangeCases(s *suite) {
	const size = 300_000
	ranges := []struct {
		name             string
		from, to, length int
	}{
		{"everything", 0, 0, size},
		{"an aligned part", 65536, 131072, 65536},
		{"an odd part", 4097, 1001, 100_003},
		{"beyond the end", 1000, size + 70_000, 5000},
		{"one byte", 77, 88, 1},
	}
	for _, r := range ranges {
		s.run("copies "+r.name, func(e *env) {
			source, want := pattern(size), pattern(size + 1)[:size]
			e.file("f", 0o644, string(source))
			e.file("g", 0o644, string(want))
			in, out := e.open("f", unix.O_RDONLY, 0), e.open("g", unix.O_RDWR, 0)
			copyAll(e, in, int64(r.from), out, int64(r.to), r.length)
			want = append(want, make([]byte, max(0, r.to+r.length-size))...)
			copy(want[r.to:], source[r.from:r.from+r.length])
			e.content("g", string(want))
			e.content("f", string(source))
			e.ok(writeAt("f", "changed after", int64(r.from))) // the copy is no reference
			e.content("g", string(want))
		})
	}
	s.run("within one file", func(e *env) {
		want := pattern(size)
		e.file("f", 0o644, string(want))
		fd := e.open("f", unix.O_RDWR, 0)
		copyAll(e, fd, 0, fd, 150_000, 100_000)
		copy(want[150_000:], want[:100_000])
		e.content("f", string(want))
		in, out := int64(0), int64(10)
		_, err := unix.CopyFileRange(fd, &in, fd, &out, 100, 0)
		e.want(err, unix.EINVAL) // the ranges overlap
		e.content("f", string(want))
	})
	s.run("moves the descriptors' offsets", func(e *env) {
		e.file("f", 0o644, "0123456789")
		in, out := e.open("f", unix.O_RDONLY, 0), e.open("g", unix.O_CREAT|unix.O_RDWR, 0o644)
		e.seek(in, 2, unix.SEEK_SET, 2)
		for _, want := range []int{4, 4, 0} {
			n, err := unix.CopyFileRange(in, nil, out, nil, 4, 0)
			e.ok(err)
			equal(e, "copied", n, want)
		}
		e.seek(in, 0, unix.SEEK_CUR, 10)
		e.seek(out, 0, unix.SEEK_CUR, 8)
		e.content("g", "23456789")
		off := int64(1)
		_, err := unix.CopyFileRange(in, &off, out, nil, 2, 0)
		e.ok(err)
		equal(e, "offset given", off, 3)
		e.seek(in, 0, unix.SEEK_CUR, 10)
		e.content("g", "2345678912")
	})
	s.run("times", func(e *env) {
		e.file("f", 0o644, "source")
		e.file("g", 0o644, "")
		in, out := e.open("f", unix.O_RDONLY, 0), e.open("g", unix.O_WRONLY, 0)
		e.times(func() { copyAll(e, in, 0, out, 0, 6) }, "f:", "g:mc", ".:")
	})
	s.run("drops the suid bit", func(e *env) {
		e.file("f", 0o644, "source")
		e.makeAs(alice, regular, "g", 0o6777)
		e.as(bob, func() {
			copyAll(e, e.open("f", unix.O_RDONLY, 0), 0, e.open("g", unix.O_WRONLY, 0), 0, 6)
		})
		e.mode("g", 0o777)
	})
	s.run("refused", copyRangeRefused)
	s.run("clone", func(e *env) {
		want := string(pattern(size))
		e.file("f", 0o644, want)
		e.file("g", 0o644, "old")
		err := unix.IoctlFileClone(e.open("g", unix.O_WRONLY, 0), e.open("f", unix.O_RDONLY, 0))
		e.want(err, 0, unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS)
		if err != nil {
			e.content("g", "old")
			return
		}
		e.content("g", want)
		e.ok(writeAt("f", "changed", 0))
		e.content("g", want)
	})
}

func copyRangeRefused(e *env) {
	e.file("f", 0o644, "source")
	e.file("g", 0o644, "target")
	e.make(fifo, "p", 0o644)
	in, out := e.open("f", unix.O_RDONLY, 0), e.open("g", unix.O_RDWR, 0)
	dir, pipe := e.open(".", unix.O_DIRECTORY, 0), e.open("p", unix.O_RDWR, 0)
	tests := []struct {
		in, out, flags int
		want           unix.Errno
	}{
		{in, out, 1, unix.EINVAL},
		{in, in, 0, unix.EBADF},
		{e.open("f", unix.O_WRONLY, 0), out, 0, unix.EBADF},
		{in, e.open("g", unix.O_WRONLY|unix.O_APPEND, 0), 0, unix.EBADF},
		{dir, out, 0, unix.EISDIR},
		{in, dir, 0, unix.EISDIR},
		{pipe, out, 0, unix.EINVAL},
		{in, pipe, 0, unix.EINVAL},
		{-1, out, 0, unix.EBADF},
		{in, -1, 0, unix.EBADF},
		{e.open("f", unix.O_PATH, 0), out, 0, unix.EBADF},
	}
	e.still(func() {
		for i, tt := range tests {
			_, err := unix.CopyFileRange(tt.in, nil, tt.out, nil, 4, tt.flags)
			if got := errnoOf(err); got != tt.want && !(got == unix.EBADF && tt.want == unix.EISDIR) {
				e.Errorf("test %d: got %s, want %s", i, errnoName(got), errnoName(tt.want))
			}
		}
	}, "f", "g")
	e.content("g", "target")
	off := int64(1<<63 - 2)
	zero := int64(0)
	_, err := unix.CopyFileRange(in, &zero, out, &off, 6, 0)
	e.want(err, unix.EOVERFLOW, unix.EFBIG, unix.EINVAL)
}

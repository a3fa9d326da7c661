package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is mapped memory, touched by system calls only. A page fault is no
// system call to the runtime: it would hold a processor of this program, and a
// file system that this very program serves might wait for it for ever.
type mapping struct {
	e   *env
	mem []byte
	fd  int // a file in memory that bytes go through
}

// mmap maps the start of a file until the end of the case.
func (e *env) mmap(fd, size, prot, flags int) *mapping {
	e.Helper()
	mem, err := unix.Mmap(fd, 0, size, prot, flags)
	e.ok(err)
	between, err := unix.MemfdCreate("between", unix.MFD_CLOEXEC)
	e.ok(err)
	e.fds = append(e.fds, between)
	m := &mapping{e, mem, between}
	e.Cleanup(m.unmap)
	return m
}

func (m *mapping) unmap() {
	if m.mem != nil {
		m.e.ok(unix.Munmap(m.mem))
		m.mem = nil
	}
}

// load reads n bytes.
func (m *mapping) load(off, n int) string {
	m.e.Helper()
	got, err := unix.Pwrite(m.fd, m.mem[off:off+n], 0)
	m.e.ok(err)
	equal(m.e, "bytes loaded", got, n)
	return m.e.pread(m.fd, n, 0)
}

// store writes s.
func (m *mapping) store(off int, s string) {
	m.e.Helper()
	_, err := unix.Pwrite(m.fd, []byte(s), 0)
	m.e.ok(err)
	got, err := unix.Pread(m.fd, m.mem[off:off+len(s)], 0)
	m.e.ok(err)
	equal(m.e, "bytes stored", got, len(s))
}

func (m *mapping) sync() {
	m.e.Helper()
	m.e.ok(unix.Msync(m.mem, unix.MS_SYNC))
}

func mmapCases(s *suite) {
	const size = 3*4096 + 100
	s.run("shared reading sees writes", func(e *env) {
		e.file("f", 0o644, string(pattern(size)))
		fd := e.open("f", unix.O_RDWR, 0)
		m := e.mmap(fd, size, unix.PROT_READ, unix.MAP_SHARED)
		equal(e, "mapping holds the file", m.load(0, size) == string(pattern(size)), true)
		for _, off := range []int{0, 4090, 8192, size - 5} {
			_, err := unix.Pwrite(fd, []byte("after"), int64(off))
			e.ok(err)
			equal(e, "mapping after a write", m.load(off, 5), "after")
		}
	})
	s.run("private writing stays private", func(e *env) {
		e.file("f", 0o644, strings.Repeat("x", size))
		fd := e.open("f", unix.O_RDONLY, 0)
		m := e.mmap(fd, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		m.store(0, "private")
		e.content("f", strings.Repeat("x", size))
		e.ok(writeAt("f", "public", 4096)) // a page not yet touched shows it on Linux
		equal(e, "own page", m.load(0, 7), "private")
	})
	s.run("outlives the descriptor and the name", func(e *env) {
		e.file("f", 0o644, string(pattern(size)))
		fd := e.open("f", unix.O_RDONLY, 0)
		m := e.mmap(fd, size, unix.PROT_READ, unix.MAP_SHARED)
		e.close(fd)
		e.ok(unix.Unlink("f"))
		equal(e, "mapping holds the file", m.load(0, size) == string(pattern(size)), true)
	})
	s.run("beyond the end within the page", func(e *env) {
		e.file("f", 0o644, "short")
		m := e.mmap(e.open("f", unix.O_RDONLY, 0), 4096, unix.PROT_READ, unix.MAP_SHARED)
		equal(e, "the rest of the page", m.load(5, 4091), strings.Repeat("\x00", 4091))
	})
	s.run("refused", func(e *env) {
		e.file("f", 0o644, "content")
		mmap := func(fd int, off int64, n, prot, flags int) error {
			m, err := unix.Mmap(fd, off, n, prot, flags)
			if err == nil {
				err = unix.Munmap(m)
			}
			return err
		}
		r, w := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_WRONLY, 0)
		e.want(mmap(r, 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED), unix.EACCES)
		e.want(mmap(w, 0, 4096, unix.PROT_READ, unix.MAP_SHARED), unix.EACCES)
		e.want(mmap(w, 0, 4096, unix.PROT_WRITE, unix.MAP_PRIVATE), unix.EACCES)
		e.want(mmap(r, 1, 4096, unix.PROT_READ, unix.MAP_SHARED), unix.EINVAL)
		e.want(mmap(e.open(".", unix.O_DIRECTORY, 0), 0, 4096, unix.PROT_READ, unix.MAP_SHARED), unix.ENODEV)
		e.want(mmap(r, 0, 4096, unix.PROT_WRITE, unix.MAP_PRIVATE), 0)
	})
	if !s.o.NoSharedMmap {
		sharedMmapCases(s)
	}
}

// sharedMmapCases are writable shared mappings: coherent with read(2) and write(2).
func sharedMmapCases(s *suite) {
	const (
		size = 3*4096 + 100
		rw   = unix.PROT_READ | unix.PROT_WRITE
	)
	s.run("shared writing is seen by readers", func(e *env) {
		e.file("f", 0o644, strings.Repeat("x", size))
		fd := e.open("f", unix.O_RDWR, 0)
		m := e.mmap(fd, size, rw, unix.MAP_SHARED)
		for _, off := range []int{0, 4090, size - 5} {
			m.store(off, "after")
			equal(e, "read after a store", e.pread(fd, 5, int64(off)), "after")
			equal(e, "read through another descriptor", e.pread(e.open("f", unix.O_RDONLY, 0), 5, int64(off)), "after")
		}
		_, err := unix.Pwrite(fd, []byte("written"), 100)
		e.ok(err)
		m.store(107, "stored")
		equal(e, "both", e.pread(fd, 13, 100), "writtenstored")
	})
	s.run("two mappings", func(e *env) {
		e.file("f", 0o644, strings.Repeat("x", size))
		a := e.mmap(e.open("f", unix.O_RDWR, 0), size, rw, unix.MAP_SHARED)
		b := e.mmap(e.open("f", unix.O_RDWR, 0), size, rw, unix.MAP_SHARED)
		a.store(5000, "from a")
		equal(e, "b", b.load(5000, 6), "from a")
		b.store(5000, "from b")
		equal(e, "a", a.load(5000, 6), "from b")
	})
	s.run("stores survive unmapping", func(e *env) {
		e.file("f", 0o644, strings.Repeat("x", size))
		fd := e.open("f", unix.O_RDWR, 0)
		m := e.mmap(fd, size, rw, unix.MAP_SHARED)
		e.close(fd) // stores after the close count too
		m.store(0, "stored")
		m.sync()
		m.store(6, " twice")
		m.unmap()
		e.content("f", "stored twice"+strings.Repeat("x", size-12))
	})
	s.run("nothing is stored beyond the end", func(e *env) {
		e.file("f", 0o644, "short")
		fd := e.open("f", unix.O_RDWR, 0)
		m := e.mmap(fd, 4096, rw, unix.MAP_SHARED)
		m.store(5, "beyond")
		m.sync()
		e.content("f", "short")
		e.ok(unix.Ftruncate(fd, 20))
		e.content("f", "short"+strings.Repeat("\x00", 15))
	})
	s.run("sees the file grow and shrink", func(e *env) {
		e.file("f", 0o644, "short")
		fd := e.open("f", unix.O_RDWR, 0)
		m := e.mmap(fd, 3*4096, rw, unix.MAP_SHARED)
		e.ok(unix.Ftruncate(fd, 3*4096))
		m.store(2*4096, "now inside")
		equal(e, "read", e.pread(fd, 10, 2*4096), "now inside")
		e.ok(unix.Ftruncate(fd, 3))
		e.ok(unix.Ftruncate(fd, 3*4096))
		equal(e, "after shrinking", m.load(0, 5)+m.load(2*4096, 3), "sho\x00\x00\x00\x00\x00")
	})
	s.run("times move by msync", func(e *env) {
		e.file("f", 0o644, strings.Repeat("x", size))
		m := e.mmap(e.open("f", unix.O_RDWR, 0), size, rw, unix.MAP_SHARED)
		e.times(func() {
			m.store(0, "stored")
			m.sync()
		}, "f:mc", ".:")
	})
}

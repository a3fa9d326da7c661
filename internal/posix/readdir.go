package posix

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// entry is one record of getdents64(2).
type entry struct {
	name string
	ino  uint64
	next int64 // the offset of the entry after it, for lseek(2)
	kind byte  // DT_*
}

// some reads as many entries as one buffer of the size takes, none at the end.
func (e *env) some(fd, size int) []entry {
	e.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	e.ok(err)
	var list []entry
	for buf = buf[:n]; len(buf) > 0; {
		length := binary.NativeEndian.Uint16(buf[16:])
		name, _, _ := bytes.Cut(buf[19:length], []byte{0})
		list = append(list, entry{
			name: string(name),
			ino:  binary.NativeEndian.Uint64(buf),
			next: int64(binary.NativeEndian.Uint64(buf[8:])),
			kind: buf[18],
		})
		buf = buf[length:]
	}
	return list
}

// entries reads from the offset to the end.
func (e *env) entries(fd, size int) []entry {
	e.Helper()
	var all []entry
	for {
		some := e.some(fd, size)
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
	}
}

// files makes n files in a new directory and opens it.
func (e *env) files(n int) (fd int) {
	e.Helper()
	e.mkdir(0o755, "d")
	fd = e.open("d", unix.O_DIRECTORY, 0)
	for i := range n {
		e.ok(unix.Mknodat(fd, entryName(i), unix.S_IFREG|0o644, 0))
	}
	return fd
}

func entryName(i int) string { return fmt.Sprintf("entry %05d", i) }

// once reports names of want that list does not hold exactly once, and others.
func (e *env) once(list []entry, want map[string]bool) {
	e.Helper()
	seen := map[string]int{}
	for _, d := range list {
		if d.name != "." && d.name != ".." {
			seen[d.name]++
		}
	}
	for name := range want {
		if seen[name] != 1 {
			e.Errorf("%q was listed %d times, want once", name, seen[name])
		}
	}
	for name := range seen {
		if !want[name] {
			e.Errorf("%q was listed and should not be there", name)
		}
	}
}

func names(from, to int) map[string]bool {
	set := map[string]bool{}
	for i := from; i < to; i++ {
		set[entryName(i)] = true
	}
	return set
}

func readdirCases(s *suite) {
	s.run("ten thousand entries", func(e *env) {
		fd := e.files(10_000)
		for _, size := range []int{300, 4096, 1 << 20} {
			e.once(e.entries(fd, size), names(0, 10_000))
			e.seek(fd, 0, unix.SEEK_SET, 0)
		}
	})
	s.run("types and inode numbers", func(e *env) {
		types := map[kind]byte{
			regular: unix.DT_REG, directory: unix.DT_DIR, symlink: unix.DT_LNK, fifo: unix.DT_FIFO,
			socket: unix.DT_SOCK, char: unix.DT_CHR, block: unix.DT_BLK,
		}
		e.mkdir(0o755, "d")
		for _, k := range allKinds {
			if !e.o.NoDevices || (k != char && k != block) {
				e.make(k, "d/"+k.name, 0o644)
			}
		}
		list := e.entries(e.open("d", unix.O_DIRECTORY, 0), 4096)
		for _, d := range list {
			equal(e, "ino of "+d.name, d.ino, e.lstat("d/"+d.name).Ino)
			for k, typ := range types {
				if k.name == d.name && d.kind != typ && d.kind != unix.DT_UNKNOWN {
					e.Errorf("type of %s = %d, want %d or DT_UNKNOWN", d.name, d.kind, typ)
				}
			}
		}
	})
	s.run("dot and dotdot", func(e *env) {
		e.mkdir(0o755, "d", "d/e")
		seen := map[string]uint64{}
		for _, d := range e.entries(e.open("d/e", unix.O_DIRECTORY, 0), 4096) {
			seen[d.name] = d.ino
		}
		equal(e, "entries", len(seen), 2)
		equal(e, "ino of .", seen["."], e.lstat("d/e").Ino)
		equal(e, "ino of ..", seen[".."], e.lstat("d").Ino)
	})
	s.run("seek to every entry", func(e *env) {
		fd := e.files(300)
		all := e.entries(fd, 4096)
		for i := len(all) - 2; i >= 0; i-- {
			e.seek(fd, all[i].next, unix.SEEK_SET, all[i].next)
			equal(e, "the entry there", e.some(fd, 300)[0].name, all[i+1].name)
		}
		e.seek(fd, all[len(all)-1].next, unix.SEEK_SET, all[len(all)-1].next)
		equal(e, "entries after the last", len(e.some(fd, 4096)), 0)
	})
	s.run("wrong calls", func(e *env) {
		e.file("f", 0o644, "")
		fd := e.files(3)
		_, err := unix.Getdents(e.open("f", unix.O_RDONLY, 0), make([]byte, 4096))
		e.want(err, unix.ENOTDIR)
		_, err = unix.Getdents(fd, make([]byte, 8))
		e.want(err, unix.EINVAL)
		_, err = unix.Getdents(e.open("d", unix.O_PATH, 0), make([]byte, 4096))
		e.want(err, unix.EBADF)
		_, err = unix.Getdents(-1, make([]byte, 4096))
		e.want(err, unix.EBADF)
	})
	s.run("moves no mtime or ctime", func(e *env) {
		fd := e.files(10)
		e.still(func() { e.entries(fd, 4096) }, "d")
	})
	s.run("read without search", func(e *env) {
		e.files(3)
		e.ok(unix.Chmod("d", 0o744))
		e.as(alice, func() {
			equal(e, "names", len(e.list("d")), 3)
			var st unix.Stat_t
			e.want(unix.Lstat("d/"+entryName(0), &st), unix.EACCES)
		})
	})
	changingDirectoryCases(s)
}

// changingDirectoryCases read a directory while it changes: what stays is listed
// exactly once.
func changingDirectoryCases(s *suite) {
	s.run("two descriptors", func(e *env) {
		a := e.files(300)
		b := e.open("d", unix.O_DIRECTORY, 0)
		first := e.some(a, 300)
		e.once(e.entries(b, 512), names(0, 300))
		e.once(append(first, e.entries(a, 512)...), names(0, 300))
	})
	s.run("removing what was read", func(e *env) {
		// rm -r: reads a buffer, removes what it held, and goes on.
		fd := e.files(1500)
		var all []entry
		for {
			some := e.some(fd, 1024)
			if len(some) == 0 {
				break
			}
			for _, d := range some {
				if d.name != "." && d.name != ".." {
					e.ok(unix.Unlinkat(fd, d.name, 0))
				}
			}
			all = append(all, some...)
		}
		e.once(all, names(0, 1500))
		e.ok(unix.Rmdir("d"))
	})
	s.run("removing what was not read", removeUnread)
	s.run("seeking while entries are removed", seekWhileRemoving)
	s.run("creating while reading", func(e *env) {
		fd := e.files(1000)
		list := e.some(fd, 1024)
		for i := 1000; i < 2000; i++ {
			e.ok(unix.Mknodat(fd, entryName(i), unix.S_IFREG|0o644, 0))
		}
		list = append(list, e.entries(fd, 1024)...)
		old, seen := names(0, 1000), map[string]int{}
		for _, d := range list {
			seen[d.name]++
			if seen[d.name] > 1 {
				e.Errorf("%q was listed twice", d.name)
			}
			delete(old, d.name)
		}
		equal(e, "old entries that were not listed", len(old), 0)
		e.seek(fd, 0, unix.SEEK_SET, 0)
		e.once(e.entries(fd, 4096), names(0, 2000)) // rewinding shows everything new
	})
	s.run("of a removed directory", func(e *env) {
		e.mkdir(0o755, "d")
		fd := e.open("d", unix.O_DIRECTORY, 0)
		e.ok(unix.Rmdir("d"))
		n, err := unix.Getdents(fd, make([]byte, 4096))
		e.want(err, unix.ENOENT)
		equal(e, "bytes", max(n, 0), 0)
	})
}

// removeUnread: entries that are removed before they were read may still come,
// if they were buffered; those that stay come exactly once.
func removeUnread(e *env) {
	fd := e.files(2000)
	list := e.some(fd, 1024)
	read := map[string]bool{}
	for _, d := range list {
		read[d.name] = true
	}
	stay := map[string]bool{}
	for i := range 2000 {
		if name := entryName(i); i%2 == 0 && !read[name] {
			e.ok(unix.Unlinkat(fd, name, 0))
		} else {
			stay[name] = true
		}
	}
	counts := map[string]int{}
	for _, d := range append(list, e.entries(fd, 1024)...) {
		counts[d.name]++
	}
	for name := range stay {
		if counts[name] != 1 {
			e.Errorf("%q stayed and was listed %d times", name, counts[name])
		}
	}
	e.seek(fd, 0, unix.SEEK_SET, 0)
	e.once(e.entries(fd, 1024), stay)
}

// seekWhileRemoving: an offset stays good when the entries around it go.
func seekWhileRemoving(e *env) {
	fd := e.files(1000)
	all := e.entries(fd, 4096)
	middle := len(all) / 2
	for i := middle - 200; i <= middle; i++ { // up to and with the one whose offset is used
		e.ok(unix.Unlinkat(fd, all[i].name, 0))
	}
	e.seek(fd, all[middle].next, unix.SEEK_SET, all[middle].next)
	want := map[string]bool{}
	for _, d := range all[middle+1:] {
		if d.name != "." && d.name != ".." {
			want[d.name] = true
		}
	}
	e.once(e.entries(fd, 4096), want)
}

// statfsCases are statfs(2) and fstatfs(2).
func statfsCases(s *suite) {
	s.run("values make sense", func(e *env) {
		e.file("f", 0o644, "content")
		var byPath, byFd unix.Statfs_t
		e.ok(unix.Statfs("f", &byPath))
		e.ok(unix.Fstatfs(e.open("f", unix.O_RDONLY, 0), &byFd))
		equal(e, "type", byFd.Type, byPath.Type)
		equal(e, "bsize", byFd.Bsize, byPath.Bsize)
		equal(e, "fsid", byFd.Fsid, byPath.Fsid)
		equal(e, "longest name", byPath.Namelen, nameMax)
		if byPath.Bsize <= 0 || byPath.Bsize&(byPath.Bsize-1) != 0 {
			e.Errorf("block size %d is no power of two", byPath.Bsize)
		}
		if byPath.Blocks == 0 || byPath.Bfree > byPath.Blocks || byPath.Bavail > byPath.Bfree {
			e.Errorf("blocks %d, free %d, available %d do not fit", byPath.Blocks, byPath.Bfree, byPath.Bavail)
		}
		if byPath.Ffree > byPath.Files {
			e.Errorf("%d free inodes of %d", byPath.Ffree, byPath.Files)
		}
	})
	s.run("one file system", func(e *env) {
		e.mkdir(0o755, "d")
		e.file("d/f", 0o644, "")
		equal(e, "device of a file", e.lstat("d/f").Dev, e.lstat(".").Dev)
		equal(e, "device of a directory", e.lstat("d").Dev, e.lstat(".").Dev)
	})
	s.run("stat", func(e *env) {
		e.file("f", 0o640, string(pattern(100_000)))
		fd := e.open("f", unix.O_RDONLY, 0)
		e.ok(unix.Fsync(fd))
		st := e.lstat("f")
		equal(e, "fstat", e.fstat(fd), st)
		if st.Blocks < 100_000/512 || st.Blocks > 400_000/512 {
			e.Errorf("%d blocks of 512 for 100,000 bytes", st.Blocks)
		}
		if st.Blksize < 512 {
			e.Errorf("I/O size %d", st.Blksize)
		}
		var sx unix.Statx_t
		e.ok(unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &sx))
		equal(e, "statx mask", sx.Mask&unix.STATX_BASIC_STATS, unix.STATX_BASIC_STATS)
		equal(e, "statx size", int64(sx.Size), st.Size)
		equal(e, "statx ino", sx.Ino, st.Ino)
		equal(e, "statx mtime", sx.Mtime.Nsec, uint32(st.Mtim.Nsec))
	})
	s.run("needs no permission on the file", func(e *env) {
		e.file("f", 0, "")
		e.as(alice, func() { equal(e, "size", e.lstat("f").Size, 0) })
	})
	s.run("wrong calls", func(e *env) {
		var st unix.Stat_t
		var sx unix.Statx_t
		var sf unix.Statfs_t
		e.want(unix.Fstat(-1, &st), unix.EBADF)
		e.want(unix.Fstatfs(-1, &sf), unix.EBADF)
		e.want(unix.Fstatat(-1, "f", &st, 0), unix.EBADF)
		e.want(unix.Fstatat(atCwd, ".", &st, 1<<30), unix.EINVAL)
		e.want(unix.Statx(atCwd, ".", 1<<30, 0, &sx), unix.EINVAL)
	})
}

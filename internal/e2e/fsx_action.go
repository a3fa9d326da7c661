package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// fsxAction is one thing that a tester may do. do reports whether it was possible.
type fsxAction struct {
	name   string
	weight int
	dav    bool // needs the second door
	do     func(*fsx) (bool, error)
}

var fsxActions = []fsxAction{
	{"open", 8, false, (*fsx).doOpen},
	{"close", 5, false, (*fsx).doClose},
	{"pwrite", 12, false, (*fsx).doPwrite},
	{"append", 4, false, (*fsx).doAppend},
	{"pread", 5, false, (*fsx).doPread},
	{"ftruncate", 4, false, (*fsx).doFtruncate},
	{"truncate", 4, false, (*fsx).doTruncate},
	{"mmap", 3, false, (*fsx).doMap},
	{"store", 5, false, (*fsx).doStore},
	{"fallocate", 7, false, (*fsx).doFallocate},
	{"copy_file_range", 5, false, (*fsx).doCopyRange},
	{"lseek", 3, false, (*fsx).doSeek},
	{"fsync", 4, false, (*fsx).doSync},
	{"rename", 4, false, (*fsx).doRename},
	{"unlink", 2, false, (*fsx).doUnlink},
	{"link", 3, false, (*fsx).doLink},
	{"tmpfile", 1, false, (*fsx).doTmpfile},
	{"PUT", 9, true, (*fsx).doPUT},
	{"GET", 5, true, (*fsx).doGET},
	{"COPY", 4, true, (*fsx).doCOPY},
	{"MOVE", 3, true, (*fsx).doMOVE},
	{"DELETE", 2, true, (*fsx).doDELETE},
}

func (x *fsx) doOpen() (bool, error) {
	if len(x.fds) == fsxFDs {
		return false, nil
	}
	name := x.anyName()
	flags := os.O_RDWR
	if x.rng.IntN(4) == 0 {
		flags = os.O_RDONLY
	}
	if x.rng.IntN(5) == 0 {
		flags |= os.O_APPEND
	}
	if flags&os.O_RDWR != 0 && x.rng.IntN(8) == 0 {
		flags |= os.O_TRUNC
	}
	file := x.names[name]
	if file == nil {
		flags = flags&^os.O_TRUNC | os.O_CREATE | os.O_EXCL
	}
	x.note("open %s flags %#x as fd%d", name, flags, x.step)
	f, err := os.OpenFile(x.path(name), flags, 0o600)
	if err != nil {
		return false, err
	}
	if file == nil {
		file = &fsxFile{}
		x.names[name] = file
	}
	if flags&os.O_TRUNC != 0 {
		file.resize(0)
	}
	x.keep(f, file, flags)
	return true, nil
}

// keep adds an open file to the descriptors.
func (x *fsx) keep(f *os.File, file *fsxFile, flags int) {
	x.fds = append(x.fds, &fsxFD{
		id: x.step, f: f, file: file, writable: flags&os.O_RDWR != 0, append: flags&os.O_APPEND != 0,
	})
	x.touch(file)
}

func (x *fsx) doClose() (bool, error) {
	fd := x.fd(nil)
	if fd == nil {
		return false, nil
	}
	x.note("close fd%d", fd.id)
	x.touch(fd.file)
	return true, x.closeFD(fd)
}

func (x *fsx) doPwrite() (bool, error) {
	fd := x.writer()
	if fd == nil {
		return false, nil
	}
	off := x.offset(len(fd.file.data))
	b := x.fresh(x.length(off))
	x.note("pwrite fd%d %d bytes at %d", fd.id, len(b), off)
	if _, err := fd.f.WriteAt(b, int64(off)); err != nil {
		return false, err
	}
	fd.file.write(off, b)
	x.touch(fd.file)
	return true, nil
}

func (x *fsx) doAppend() (bool, error) {
	fd := x.fd(func(fd *fsxFD) bool { return fd.writable && fd.append })
	if fd == nil {
		return false, nil
	}
	off := len(fd.file.data)
	b := x.fresh(x.length(off))
	x.note("append to fd%d %d bytes", fd.id, len(b))
	if _, err := fd.f.Write(b); err != nil {
		return false, err
	}
	fd.file.write(off, b)
	x.touch(fd.file)
	return true, nil
}

func (x *fsx) doPread() (bool, error) {
	fd := x.fd(nil)
	if fd == nil {
		return false, nil
	}
	off := min(x.offset(len(fd.file.data)), len(fd.file.data))
	n := min(x.length(off), len(fd.file.data)-off)
	x.note("pread fd%d %d bytes at %d", fd.id, n, off)
	return true, x.compareFD(fd, off, n)
}

func (x *fsx) doFtruncate() (bool, error) {
	fd := x.fd(func(fd *fsxFD) bool { return fd.writable })
	if fd == nil {
		return false, nil
	}
	n := x.resized(fd.file)
	x.note("ftruncate fd%d from %d to %d", fd.id, len(fd.file.data), n)
	if err := fd.f.Truncate(int64(n)); err != nil {
		return false, err
	}
	fd.file.resize(n)
	x.touch(fd.file)
	return true, nil
}

func (x *fsx) doTruncate() (bool, error) {
	name := x.takenName()
	if name == "" {
		return false, nil
	}
	f := x.names[name]
	n := x.resized(f)
	x.note("truncate %s from %d to %d", name, len(f.data), n)
	if err := os.Truncate(x.path(name), int64(n)); err != nil {
		return false, err
	}
	f.resize(n)
	x.touch(f)
	return true, nil
}

// resized returns a size near the file's own, or any.
func (x *fsx) resized(f *fsxFile) int {
	if x.rng.IntN(3) == 0 {
		return x.size()
	}
	return min(fsxMax, max(0, len(f.data)+x.rng.IntN(20_000)-10_000))
}

// doMap maps a descriptor's file, or ends its mapping.
func (x *fsx) doMap() (bool, error) {
	fd := x.fd(nil)
	if fd == nil {
		return false, nil
	}
	if fd.mapping != nil {
		x.note("munmap fd%d", fd.id)
		m := fd.mapping
		fd.mapping = nil
		x.touch(fd.file)
		return true, unix.Munmap(m)
	}
	prot := unix.PROT_READ
	if fd.writable {
		prot |= unix.PROT_WRITE
	}
	x.note("mmap fd%d", fd.id)
	m, err := unix.Mmap(int(fd.f.Fd()), 0, fsxMapped, prot, unix.MAP_SHARED)
	if err != nil {
		return false, err
	}
	fd.mapping = m
	n := min(len(fd.file.data), fsxWhole)
	return true, same(fmt.Sprintf("mapping of fd%d", fd.id), m[:n], fd.file.data, 0)
}

// doStore writes through a mapping and makes the other door see it by msync(2).
func (x *fsx) doStore() (bool, error) {
	fd := x.fd(func(fd *fsxFD) bool { return fd.writable && fd.mapping != nil && len(fd.file.data) > 0 })
	if fd == nil {
		return false, nil
	}
	size := len(fd.file.data)
	off := min(x.offset(size), size-1)
	b := x.fresh(min(x.length(off), size-off))
	x.note("store %d bytes at %d through the mapping of fd%d, msync", len(b), off, fd.id)
	copy(fd.mapping[off:], b)
	fd.file.write(off, b)
	x.touch(fd.file)
	return true, unix.Msync(fd.mapping, unix.MS_SYNC)
}

func (x *fsx) doFallocate() (bool, error) {
	fd := x.fd(func(fd *fsxFD) bool { return fd.writable })
	if fd == nil {
		return false, nil
	}
	modes := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}
	mode := modes[x.rng.IntN(len(modes))]
	off := x.offset(len(fd.file.data))
	n := max(1, x.length(off))
	x.note("fallocate fd%d mode %#x, %d bytes at %d of %d", fd.id, mode, n, off, len(fd.file.data))
	if err := unix.Fallocate(int(fd.f.Fd()), mode, int64(off), int64(n)); err != nil {
		return false, err
	}
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		fd.file.zero(off, n)
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		fd.file.resize(max(len(fd.file.data), off+n))
	}
	x.touch(fd.file)
	return true, nil
}

// doCopyRange copies between two descriptors, or within one file.
func (x *fsx) doCopyRange() (bool, error) {
	from, to := x.fd(nil), x.writer()
	if from == nil || to == nil || len(from.file.data) == 0 {
		return false, nil
	}
	src := x.rng.IntN(len(from.file.data))
	dst := x.offset(len(to.file.data))
	n := x.length(max(src, dst))
	if n == 0 || from.file == to.file && src < dst+n && dst < src+n {
		return false, nil // overlapping ranges are EINVAL
	}
	x.note("copy_file_range fd%d at %d to fd%d at %d, %d bytes", from.id, src, to.id, dst, n)
	in, out := int64(src), int64(dst)
	copied, err := unix.CopyFileRange(int(from.f.Fd()), &in, int(to.f.Fd()), &out, n, 0)
	if err != nil {
		return false, err
	}
	if most := min(n, len(from.file.data)-src); copied < 1 || copied > most {
		return false, fmt.Errorf("%d bytes copied, want 1 to %d", copied, most)
	}
	if in != int64(src+copied) || out != int64(dst+copied) {
		return false, fmt.Errorf("offsets %d and %d after %d bytes from %d to %d", in, out, copied, src, dst)
	}
	to.file.write(dst, bytes.Clone(from.file.data[src:src+copied]))
	x.touch(from.file, to.file)
	return true, nil
}

// doSeek walks data and holes: they must alternate up to the end, and a hole
// must be zeros.
func (x *fsx) doSeek() (bool, error) {
	fd := x.fd(nil)
	if fd == nil {
		return false, nil
	}
	x.note("lseek through the holes of fd%d", fd.id)
	data, n := fd.file.data, int(fd.f.Fd())
	for pos, tries := int64(0), 0; pos < int64(len(data)); {
		start, err := unix.Seek(n, pos, unix.SEEK_DATA)
		if err == unix.ENXIO {
			start, err = int64(len(data)), nil
		}
		if err != nil || start < pos || start > int64(len(data)) {
			return false, fmt.Errorf("SEEK_DATA from %d: %d, %s", pos, start, describeErrno(err))
		}
		if i := bytes.IndexFunc(data[pos:start], func(r rune) bool { return r != 0 }); i >= 0 {
			return false, fmt.Errorf("SEEK_DATA from %d skips to %d, but there is data at %d", pos, start, pos+int64(i))
		}
		if start == int64(len(data)) {
			break
		}
		end, err := unix.Seek(n, start, unix.SEEK_HOLE)
		if tries++; err == nil && end == start && tries < 5 {
			continue // zeros that were in the page cache alone, and are no longer: a hole
		}
		if err != nil || end <= start || end > int64(len(data)) {
			return false, fmt.Errorf("SEEK_HOLE from %d of %d: %d, %s", start, len(data), end, describeErrno(err))
		}
		pos, tries = end, 0
	}
	if _, err := unix.Seek(n, int64(len(data)), unix.SEEK_DATA); err != unix.ENXIO {
		return false, fmt.Errorf("SEEK_DATA at the end: %s, want ENXIO", describeErrno(err))
	}
	_, err := fd.f.Seek(0, io.SeekStart)
	return true, err
}

func (x *fsx) doSync() (bool, error) {
	fd := x.fd(nil)
	if fd == nil {
		return false, nil
	}
	if x.rng.IntN(2) == 0 {
		x.note("fdatasync fd%d", fd.id)
		return true, unix.Fdatasync(int(fd.f.Fd()))
	}
	x.note("fsync fd%d", fd.id)
	return true, fd.f.Sync()
}

func (x *fsx) doRename() (bool, error) {
	from, to := x.takenName(), x.anyName()
	if from == "" {
		return false, nil
	}
	f, g := x.names[from], x.names[to]
	flags := []uint{0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[x.rng.IntN(5)]
	var want error
	switch {
	case flags == unix.RENAME_NOREPLACE && g != nil:
		want = unix.EEXIST
	case flags == unix.RENAME_EXCHANGE && g == nil:
		want = unix.ENOENT
	}
	x.note("rename %s to %s flags %d", from, to, flags)
	if err := unix.Renameat2(unix.AT_FDCWD, x.path(from), unix.AT_FDCWD, x.path(to), flags); err != want {
		return false, fmt.Errorf("%s, want %s", describeErrno(err), describeErrno(want))
	}
	switch {
	case want != nil, f == g: // two names of one file both stay
	case flags == unix.RENAME_EXCHANGE:
		x.names[from], x.names[to] = g, f
		x.touch(g)
	default:
		x.move(from, to)
	}
	x.touch(f)
	return true, nil
}

func (x *fsx) move(from, to string) {
	x.names[to] = x.names[from]
	delete(x.names, from)
}

func (x *fsx) doUnlink() (bool, error) {
	name := x.takenName()
	if name == "" {
		return false, nil
	}
	x.note("unlink %s", name)
	x.touch(x.names[name])
	delete(x.names, name)
	return true, unix.Unlink(x.path(name))
}

func (x *fsx) doLink() (bool, error) {
	from, to := x.takenName(), x.anyName()
	if from == "" {
		return false, nil
	}
	x.note("link %s to %s", from, to)
	err := os.Link(x.path(from), x.path(to))
	if x.names[to] != nil {
		if !isErrno(err, unix.EEXIST) {
			return false, fmt.Errorf("onto a name that exists: %s, want EEXIST", describeErrno(err))
		}
		return true, nil
	}
	x.names[to] = x.names[from]
	x.touch(x.names[to])
	return true, err
}

// doTmpfile makes a file without a name and gives it one.
func (x *fsx) doTmpfile() (bool, error) {
	name := x.freeName()
	if name == "" || len(x.fds) == fsxFDs {
		return false, nil
	}
	b := x.fresh(x.size())
	x.note("tmpfile of %d bytes as fd%d, linked as %s", len(b), x.step, name)
	f, err := os.OpenFile(x.dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	file := &fsxFile{data: b}
	x.keep(f, file, os.O_RDWR)
	if _, err := f.WriteAt(b, 0); err != nil {
		return false, err
	}
	if err := x.compareAttrs(); err != nil { // no link yet
		return false, err
	}
	proc := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, proc, unix.AT_FDCWD, x.path(name), unix.AT_SYMLINK_FOLLOW); err != nil {
		return false, err
	}
	x.names[name] = file
	return true, nil
}

// ---- the second door ----

// doPUT replaces a file. Who has it open keeps the old one, which then has no
// name; all names mean the new one.
func (x *fsx) doPUT() (bool, error) {
	name := x.anyName()
	b := x.fresh(x.size())
	old := x.names[name]
	x.note("PUT %s, %d bytes (open: %v)", name, len(b), old != nil && x.open(old))
	r, _, err := x.dav.Do("PUT", x.url+"/"+name, nil, b)
	want := 201
	if old != nil {
		want = 204
	}
	if err != nil || r.Status != want {
		return false, fmt.Errorf("%v, status %d, want %d", err, status(r), want)
	}
	file := &fsxFile{data: b}
	x.names[name] = file
	for other, f := range x.names {
		if old != nil && f == old {
			x.names[other] = file
		}
	}
	x.touch(file)
	if old != nil && x.open(old) {
		x.touch(old)
	}
	return true, nil
}

func (x *fsx) doGET() (bool, error) {
	name := x.anyName()
	f := x.names[name]
	x.note("GET %s", name)
	if f == nil {
		return true, x.expect("GET", name, 404)
	}
	if len(f.data) == 0 || x.rng.IntN(4) == 0 {
		return true, x.compareGET(name, f, 0, len(f.data))
	}
	off := x.rng.IntN(len(f.data))
	return true, x.compareGET(name, f, off, max(1, min(x.length(off), len(f.data)-off)))
}

func (x *fsx) expect(method, name string, want int) error {
	r, _, err := x.dav.Do(method, x.url+"/"+name, nil, nil)
	if err != nil || r.Status != want {
		return fmt.Errorf("%s %s: %v, status %d, want %d", method, name, err, status(r), want)
	}
	return nil
}

// errBusy is a 423: the file is being written.
var errBusy = errors.New("status 423")

// transfer sends COPY or MOVE and compares the status: 201, 204, or 403 for two
// names of one file.
func (x *fsx) transfer(method, from, to string) (done bool, err error) {
	want := 201
	switch {
	case x.names[from] == x.names[to]:
		want = 403
	case x.names[to] != nil:
		want = 204
	}
	for tries := 0; ; tries++ {
		r, err := x.dav.Transfer(method, x.url+"/"+from, x.url+"/"+to)
		switch {
		case err != nil:
			return false, err
		case r.Status == want:
			return want != 403, nil
		case r.Status != 423:
			return false, fmt.Errorf("status %d, want %d", r.Status, want)
		case x.openForWriting(x.names[from]) || tries == 100:
			return false, errBusy
		}
		time.Sleep(10 * time.Millisecond) // close(2) returns before the server knows of it
	}
}

// doCOPY copies a file to a new one. One that is open for writing may be refused.
func (x *fsx) doCOPY() (bool, error) {
	from, to := x.takenName(), x.anyName()
	if from == "" {
		return false, nil
	}
	f, old := x.names[from], x.names[to]
	x.note("COPY %s to %s", from, to)
	done, err := x.transfer("COPY", from, to)
	if errors.Is(err, errBusy) && x.openForWriting(f) {
		return true, nil
	}
	if err != nil || !done {
		return err == nil, err
	}
	x.names[to] = &fsxFile{data: bytes.Clone(f.data)}
	x.touch(f, x.names[to])
	if old != nil && x.open(old) {
		x.touch(old)
	}
	return true, nil
}

func (x *fsx) doMOVE() (bool, error) {
	from, to := x.takenName(), x.anyName()
	if from == "" {
		return false, nil
	}
	x.note("MOVE %s to %s", from, to)
	done, err := x.transfer("MOVE", from, to)
	if err != nil {
		return false, err
	}
	if done && x.names[from] != x.names[to] {
		x.move(from, to)
		x.touch(x.names[to])
	}
	return true, nil
}

func (x *fsx) doDELETE() (bool, error) {
	name := x.anyName()
	f := x.names[name]
	x.note("DELETE %s", name)
	if f == nil {
		return true, x.expect("DELETE", name, 404)
	}
	delete(x.names, name)
	x.touch(f)
	return true, x.expect("DELETE", name, 204)
}

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// fsx compares a folder with a model of it while it does random things to a few
// files: through system calls, as the program of that name has always done it,
// and through WebDAV, whose view of the same files must be the same at once.
//
// The model is the rules of POSIX with one addition: a PUT onto a file that is
// open replaces it as rename(2) would, so that whoever has it open keeps the old
// content, while all its names mean the new one.
type fsx struct {
	rng *rand.Rand
	dir string // the folder, as a path of the operating system
	dav *DAV   // the second door; nil: there is none
	url string // the folder, as a path of dav

	names map[string]*fsxFile
	fds   []*fsxFD
	step  int
	log   []string // what was done, the latest last
	done  map[string]int
	// touched is what the current step has changed or looked at.
	touched []*fsxFile
}

// fsxFile is an inode: its links are the names that mean it.
type fsxFile struct{ data []byte }

// fsxFD is an open file description.
type fsxFD struct {
	id       int
	f        *os.File
	file     *fsxFile
	writable bool
	append   bool
	mapping  []byte // shared, fsxMapped bytes; nil: none
}

const (
	fsxNames  = 5
	fsxFDs    = 6
	fsxMax    = 4 << 20 // of a file's size
	fsxMapped = fsxMax
	// fsxWhole is the size up to which a file is compared as a whole after a step.
	fsxWhole = 160 << 10
)

// newFsx returns a tester of the empty folder dir, which dav (nil: nobody) shows as url.
func newFsx(seed uint64, dir string, dav *DAV, url string) *fsx {
	return &fsx{
		rng: rand.New(rand.NewPCG(seed, 0xf5c)), dir: dir, dav: dav, url: url,
		names: map[string]*fsxFile{}, done: map[string]int{},
	}
}

// run makes n steps, each followed by a comparison. The error tells the step and
// those before it.
func (x *fsx) run(n int) (err error) {
	// A mapping past the end of a file that is shorter than the model's raises
	// SIGBUS: that is a difference found, not the end of the test.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = x.explain(fmt.Errorf("%v\n%s", v, debug.Stack()))
		}
	}()
	for range n {
		x.step++
		x.touched = x.touched[:0]
		if err := x.act(); err != nil {
			return x.explain(err)
		}
		if err := x.compareTouched(); err != nil {
			return x.explain(err)
		}
		if x.step%100 == 0 {
			if err := x.compareAll(); err != nil {
				return x.explain(err)
			}
		}
	}
	if err := x.compareAll(); err != nil {
		return x.explain(err)
	}
	return nil
}

// act does one random thing that is possible now.
func (x *fsx) act() error {
	total := 0
	for _, a := range fsxActions {
		total += a.weight
	}
	for {
		roll := x.rng.IntN(total)
		for _, a := range fsxActions {
			if roll -= a.weight; roll >= 0 {
				continue
			}
			if a.dav && x.dav == nil {
				break
			}
			did, err := a.do(x)
			if err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			if did {
				x.done[a.name]++
				return nil
			}
			break
		}
	}
}

// note records what is about to be done.
func (x *fsx) note(format string, args ...any) {
	const kept = 60
	x.log = append(x.log, fmt.Sprintf("%6d  ", x.step)+fmt.Sprintf(format, args...))
	if len(x.log) > 2*kept {
		x.log = slices.Delete(x.log, 0, kept)
	}
}

func (x *fsx) explain(err error) error {
	return fmt.Errorf("step %d: %w%s\nnames: %s\nlast steps:\n%s", x.step, err, errnoName(err), x.describe(), strings.Join(x.log[max(0, len(x.log)-60):], "\n"))
}

// describe says which name and descriptor means which file.
func (x *fsx) describe() string {
	var b strings.Builder
	for _, name := range x.taken() {
		fmt.Fprintf(&b, "%s=%p(%d bytes) ", name, x.names[name], len(x.names[name].data))
	}
	for _, fd := range x.fds {
		fmt.Fprintf(&b, "fd%d=%p(%d bytes, writable %v, append %v, mapped %v) ", fd.id, fd.file, len(fd.file.data), fd.writable, fd.append, fd.mapping != nil)
	}
	return b.String()
}

func (x *fsx) path(name string) string { return filepath.Join(x.dir, name) }

// taken returns the names that exist, in order.
func (x *fsx) taken() []string {
	var out []string
	for i := range fsxNames {
		if name := fsxName(i); x.names[name] != nil {
			out = append(out, name)
		}
	}
	return out
}

func fsxName(i int) string { return string(rune('a' + i)) }

func (x *fsx) anyName() string { return fsxName(x.rng.IntN(fsxNames)) }

// takenName returns a name that exists, or "".
func (x *fsx) takenName() string {
	if t := x.taken(); len(t) > 0 {
		return t[x.rng.IntN(len(t))]
	}
	return ""
}

// freeName returns a name that does not exist, or "".
func (x *fsx) freeName() string {
	for range 4 {
		if name := x.anyName(); x.names[name] == nil {
			return name
		}
	}
	return ""
}

// fd returns a descriptor that suits, or nil.
func (x *fsx) fd(suits func(*fsxFD) bool) *fsxFD {
	var from []*fsxFD
	for _, fd := range x.fds {
		if suits == nil || suits(fd) {
			from = append(from, fd)
		}
	}
	if len(from) == 0 {
		return nil
	}
	return from[x.rng.IntN(len(from))]
}

// writer returns a descriptor that can be written at any offset, or nil.
func (x *fsx) writer() *fsxFD {
	return x.fd(func(fd *fsxFD) bool { return fd.writable && !fd.append })
}

func (x *fsx) touch(files ...*fsxFile) { x.touched = append(x.touched, files...) }

func (x *fsx) links(f *fsxFile) uint64 {
	n := uint64(0)
	for _, g := range x.names {
		if f == g {
			n++
		}
	}
	return n
}

func (x *fsx) open(f *fsxFile) bool {
	return slices.ContainsFunc(x.fds, func(fd *fsxFD) bool { return fd.file == f })
}

func (x *fsx) openForWriting(f *fsxFile) bool {
	return slices.ContainsFunc(x.fds, func(fd *fsxFD) bool { return fd.file == f && fd.writable })
}

// fsxEdges are the sizes at which content changes its form: a page, the largest
// inline file, one block of checksums and more.
var fsxEdges = []int{1, 4096, 16 << 10, 64 << 10, 128 << 10, 1 << 20}

// offset returns an offset into a file of the size, or not far behind its end.
func (x *fsx) offset(size int) int {
	switch roll := x.rng.IntN(10); {
	case roll < 3:
		return max(0, fsxEdges[x.rng.IntN(len(fsxEdges))]+x.rng.IntN(3)-1)
	case roll < 5:
		return size
	case roll < 6:
		return min(size+x.rng.IntN(200<<10), fsxMax-1)
	default:
		return x.rng.IntN(size + 1)
	}
}

// length returns a length that fits behind off.
func (x *fsx) length(off int) int {
	n := 1 + x.rng.IntN(6000)
	switch roll := x.rng.IntN(20); {
	case roll < 4:
		n = fsxEdges[x.rng.IntN(len(fsxEdges)-1)] + x.rng.IntN(3) - 1
	case roll < 6:
		n = 1 + x.rng.IntN(100<<10)
	case roll == 6:
		n = 1 + x.rng.IntN(600<<10)
	}
	return max(0, min(n, fsxMax-off))
}

// size returns a size for a whole file.
func (x *fsx) size() int {
	switch roll := x.rng.IntN(40); {
	case roll < 16:
		return x.rng.IntN(20 << 10)
	case roll < 26:
		return max(0, fsxEdges[x.rng.IntN(len(fsxEdges)-1)]+x.rng.IntN(3)-1)
	case roll < 39:
		return x.rng.IntN(300 << 10)
	default:
		return x.rng.IntN(fsxMax + 1)
	}
}

// fresh returns n bytes that were never used before.
func (x *fsx) fresh(n int) []byte { return Content(uint64(x.step)<<20|uint64(x.rng.IntN(1<<20)), n) }

// resize sets the size: what is added reads as zeros.
func (f *fsxFile) resize(n int) {
	if n <= len(f.data) {
		f.data = f.data[:n:n] // what is behind must not come back
		return
	}
	f.data = append(f.data, make([]byte, n-len(f.data))...)
}

func (f *fsxFile) write(off int, b []byte) {
	if len(b) == 0 {
		return
	}
	f.resize(max(len(f.data), off+len(b)))
	copy(f.data[off:], b)
}

func (f *fsxFile) zero(off, n int) {
	if off < len(f.data) {
		clear(f.data[off:min(len(f.data), off+n)])
	}
}

// ---- comparing ----

// compareTouched compares the size and links of everything, and the content of
// what the step was about: of large files only parts.
func (x *fsx) compareTouched() error {
	if err := x.compareAttrs(); err != nil {
		return err
	}
	for _, f := range x.touched {
		if err := x.compareContent(f); err != nil {
			return err
		}
	}
	if x.dav != nil && x.rng.IntN(4) == 0 {
		return x.compareListing()
	}
	return nil
}

func (x *fsx) compareAttrs() error {
	for i := range fsxNames {
		name := fsxName(i)
		var st unix.Stat_t
		err := unix.Lstat(x.path(name), &st)
		f := x.names[name]
		switch {
		case f == nil && err == unix.ENOENT:
		case f == nil && err == nil:
			return fmt.Errorf("stat %s finds a file of %d bytes, want none", name, st.Size)
		case err != nil:
			return fmt.Errorf("stat %s: %s", name, describeErrno(err))
		default:
			if err := x.compareStat("stat "+name, &st, f); err != nil {
				return err
			}
		}
	}
	for _, fd := range x.fds {
		var st unix.Stat_t
		if err := unix.Fstat(int(fd.f.Fd()), &st); err != nil {
			return fmt.Errorf("fstat fd%d: %s", fd.id, describeErrno(err))
		}
		if err := x.compareStat(fmt.Sprintf("fstat fd%d", fd.id), &st, fd.file); err != nil {
			return err
		}
	}
	return nil
}

func (x *fsx) compareStat(what string, st *unix.Stat_t, f *fsxFile) error {
	if st.Size != int64(len(f.data)) || st.Nlink != x.links(f) {
		return fmt.Errorf("%s: size %d and %d links, want %d and %d", what, st.Size, st.Nlink, len(f.data), x.links(f))
	}
	return nil
}

// compareContent reads a file through one of the ways to it: a descriptor, a
// mapping, a new open, or WebDAV.
func (x *fsx) compareContent(f *fsxFile) error {
	off, n := 0, len(f.data)
	if n > fsxWhole {
		off = x.rng.IntN(n - fsxWhole + 1)
		n = fsxWhole
	}
	if fd := x.fd(func(fd *fsxFD) bool { return fd.file == f }); fd != nil && x.rng.IntN(2) == 0 {
		return x.compareFD(fd, off, n)
	}
	name := x.nameOf(f)
	switch {
	case name == "": // unlinked: only its descriptors lead to it
		return nil
	case x.dav != nil && x.rng.IntN(2) == 0:
		return x.compareGET(name, f, off, n)
	default:
		return x.compareOpen(name, f, off, n)
	}
}

func (x *fsx) nameOf(f *fsxFile) string {
	for _, name := range x.taken() {
		if x.names[name] == f {
			return name
		}
	}
	return ""
}

func (x *fsx) compareFD(fd *fsxFD, off, n int) error {
	if fd.mapping != nil && x.rng.IntN(2) == 0 {
		return same(fmt.Sprintf("mapping of fd%d", fd.id), fd.mapping[off:off+n], fd.file.data, off)
	}
	return comparePread(fmt.Sprintf("fd%d", fd.id), fd.f, fd.file, off, n)
}

// comparePread reads n bytes and a little more, which is there only if the file is longer.
func comparePread(what string, f *os.File, want *fsxFile, off, n int) error {
	b := make([]byte, n+100)
	got, err := f.ReadAt(b, int64(off))
	if err != nil && got < min(n, len(want.data)-off) {
		return fmt.Errorf("read %s: %d bytes at %d: %s", what, n, off, describeErrno(err))
	}
	if most := len(want.data) - off; got > most {
		return fmt.Errorf("read %s: %d bytes at %d, but the file ends after %d", what, got, off, most)
	}
	return same("read "+what, b[:min(got, n)], want.data, off)
}

func (x *fsx) compareOpen(name string, f *fsxFile, off, n int) error {
	file, err := os.Open(x.path(name))
	if err != nil {
		return err
	}
	defer file.Close()
	return comparePread(name, file, f, off, n)
}

// compareGET gets a part of the file, or all of it if that is all there is.
func (x *fsx) compareGET(name string, f *fsxFile, off, n int) error {
	var header []string
	want := 200
	if n > 0 && (n < len(f.data) || x.rng.IntN(3) == 0) {
		header, want = []string{fmt.Sprintf("Range: bytes=%d-%d", off, off+n-1)}, 206
	}
	r, body, err := x.dav.Do("GET", x.url+"/"+name, header, nil)
	if err != nil || r.Status != want {
		return fmt.Errorf("GET %s %v: %v, status %d, want %d", name, header, err, status(r), want)
	}
	if len(body) != n {
		return fmt.Errorf("GET %s %v: %d bytes, want %d", name, header, len(body), n)
	}
	return same("GET "+name, body, f.data, off)
}

// compareListing compares names and sizes with what PROPFIND says.
func (x *fsx) compareListing() error {
	entries, err := x.dav.List(x.url)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Base(e.Path)
		f := x.names[name]
		if f == nil {
			return fmt.Errorf("PROPFIND shows %s, which does not exist", name)
		}
		if e.Size != fmt.Sprint(len(f.data)) {
			return fmt.Errorf("PROPFIND %s: size %s, want %d", name, e.Size, len(f.data))
		}
	}
	if len(entries) != len(x.names) {
		return fmt.Errorf("PROPFIND shows %d files, want %v", len(entries), x.taken())
	}
	return nil
}

// compareAll compares every byte, in every way.
func (x *fsx) compareAll() error {
	if err := x.compareAttrs(); err != nil {
		return err
	}
	list, err := os.ReadDir(x.dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, x.taken()) {
		return fmt.Errorf("readdir: %v, want %v", names, x.taken())
	}
	var errs []error
	for _, name := range names {
		f := x.names[name]
		errs = append(errs, x.compareOpen(name, f, 0, len(f.data)))
		if x.dav != nil {
			errs = append(errs, x.compareGET(name, f, 0, len(f.data)))
		}
	}
	for _, fd := range x.fds {
		errs = append(errs, comparePread(fmt.Sprintf("fd%d", fd.id), fd.f, fd.file, 0, len(fd.file.data)))
	}
	if x.dav != nil {
		errs = append(errs, x.compareListing())
	}
	return errors.Join(errs...)
}

// same compares what was read at off with the whole content it is a part of.
func same(what string, got, whole []byte, off int) error {
	want := whole[off:min(off+len(got), len(whole))]
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			end := i
			for end < min(len(got), len(want)) && got[end] != want[end] {
				end++
			}
			return fmt.Errorf("%s: from byte %d on %x, want %x (%d bytes differ in a row; zeros: %v)", what, off+i,
				got[i:min(i+8, len(got))], want[i:min(i+8, len(want))], end-i, len(bytes.Trim(got[i:end], "\x00")) == 0)
		}
	}
	return fmt.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
}

// closeAll closes every descriptor.
func (x *fsx) closeAll() error {
	var errs []error
	for len(x.fds) > 0 {
		errs = append(errs, x.closeFD(x.fds[0]))
	}
	return errors.Join(errs...)
}

func (x *fsx) closeFD(fd *fsxFD) error {
	x.fds = slices.DeleteFunc(x.fds, func(o *fsxFD) bool { return o == fd })
	var err error
	if fd.mapping != nil {
		err = unix.Munmap(fd.mapping)
	}
	return errors.Join(err, fd.f.Close())
}

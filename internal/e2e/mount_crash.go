package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// crashWorker works in a folder of the mount until the server is killed, and
// then knows what must be there: what it has synced, and of the rest either the
// old or the new. Its journal lives in this process.
type crashWorker struct {
	id  int
	dir string // on the mount
	rng *rand.Rand
	n   int // of files and versions made, so that no two are the same

	// states are what the folder may look like: the first one is durable, the
	// last one is acknowledged. doubt is the one that a request without an answer
	// leads to.
	states []crashState
	doubt  crashState
	first  int      // how many states there were before states[0]
	held   *crashFD // a descriptor that stays open over several operations
	log    []string

	acked, synced, unknown, undone int
}

// crashState is a folder: relative path -> file, nil for a directory.
type crashState map[string]*crashFile

// crashFile is what a file may contain, in blocks of crashBlock bytes.
type crashFile struct {
	id     uint64
	blocks int        // its size, as far as that was acknowledged
	sizes  []int      // what it may be after a crash
	may    [][]uint64 // the versions that each block may have, in order; 0: zeros
	pins   []crashPin
}

// crashPin says that in the state since and those after it the file is not older
// than it was then.
type crashPin struct {
	since int
	sizes int   // of crashFile.sizes, how many are too old
	may   []int // of each block in crashFile.may, how many are too old
}

// pin notes that the file is made durable before the state since comes about.
func (f *crashFile) pin(since int) {
	p := crashPin{since: since, sizes: len(f.sizes) - 1}
	for _, may := range f.may {
		p.may = append(p.may, len(may)-1)
	}
	f.pins = append(f.pins, p)
}

// legal returns the sizes that the file may have in a state, and the versions
// that each of its blocks may have.
func (f *crashFile) legal(state int) (sizes []int, may [][]uint64) {
	sizes, may = f.sizes, slices.Clone(f.may)
	for _, p := range f.pins {
		if p.since > state {
			continue
		}
		sizes = f.sizes[p.sizes:]
		for i, old := range p.may {
			may[i] = f.may[i][old:]
		}
	}
	return sizes, may
}

type crashFD struct {
	f    *os.File
	file *crashFile
}

const (
	crashBlock = 4096
	crashMax   = 40 // blocks of a file: 160 KiB, which is beyond all that changes its form
	crashNodes = 30
)

// content returns the block's bytes in the version. They begin with what they
// are, so that a block of another file is seen for what it is.
func (f *crashFile) content(block int, version uint64) []byte {
	if version == 0 {
		return make([]byte, crashBlock)
	}
	b := Content(f.id<<32|version<<8|uint64(block), crashBlock)
	binary.LittleEndian.PutUint64(b, f.id)
	binary.LittleEndian.PutUint64(b[8:], version)
	binary.LittleEndian.PutUint64(b[16:], uint64(block))
	return b
}

// mayHave adds a version to what the blocks [from, to) may be.
func (f *crashFile) mayHave(from, to int, version uint64) {
	for len(f.may) < to {
		f.may = append(f.may, []uint64{0})
	}
	for i := from; i < to; i++ {
		f.may[i] = append(f.may[i], version)
	}
}

// settle makes what the file is now the only thing that it may be.
func (f *crashFile) settle() {
	f.sizes, f.pins = []int{f.blocks}, nil
	f.may = f.may[:f.blocks]
	for i, may := range f.may {
		f.may[i] = may[len(may)-1:]
	}
}

// check returns the versions of the blocks found after a crash, or says why the
// file may not be like that in a state.
func (f *crashFile) check(b []byte, state int) (versions []uint64, err error) {
	sizes, may := f.legal(state)
	n := len(b) / crashBlock
	if len(b)%crashBlock != 0 || !slices.Contains(sizes, n) {
		return nil, fmt.Errorf("file %#x has %d bytes, want one of %v blocks", f.id, len(b), sizes)
	}
	for i := range n {
		block := b[i*crashBlock : (i+1)*crashBlock]
		found := slices.IndexFunc(may[i], func(v uint64) bool { return bytes.Equal(block, f.content(i, v)) })
		if found < 0 {
			word := func(at int) uint64 { return binary.LittleEndian.Uint64(block[at:]) }
			return nil, fmt.Errorf("block %d of %d is file %#x version %d block %d, want file %#x in one of the versions %v",
				i, n, word(0), word(8), word(16), f.id, may[i])
		}
		versions = append(versions, may[i][found])
	}
	return versions, nil
}

// adopt takes what was found as the only thing that the file may be.
func (f *crashFile) adopt(versions []uint64) {
	f.blocks, f.sizes, f.may, f.pins = len(versions), []int{len(versions)}, nil, nil
	for _, v := range versions {
		f.may = append(f.may, []uint64{v})
	}
}

func (w *crashWorker) now() crashState { return w.states[len(w.states)-1] }

// work goes on until the server is gone. Any error that does not say that is returned.
func (w *crashWorker) work() error {
	w.note("--- the server starts ---")
	for {
		err := w.operation()
		if w.cutOff(err) {
			w.unknown++
			w.release()
			return nil
		}
		if err != nil {
			w.release()
			return fmt.Errorf("on a server in good order: %s\nlast operations:\n%s", describeErrno(err), w.recent(""))
		}
		w.acked++
	}
}

// cutOff reports whether err says that the server is gone. A request that the
// kernel was just handing to the server when it died ends with EIO.
func (w *crashWorker) cutOff(err error) bool {
	if isErrno(err, syscall.EIO) {
		err = unix.Statfs(w.dir, new(unix.Statfs_t))
	}
	return isErrno(err, syscall.ENOTCONN, syscall.ECONNABORTED)
}

// release closes the held descriptor; after a kill it says so, and that is all.
func (w *crashWorker) release() {
	if w.held != nil {
		w.held.f.Close()
		w.held = nil
	}
}

func (w *crashWorker) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

// recent returns the last operations, and before them those on the files that
// why is about.
func (w *crashWorker) recent(why string) string {
	last := max(0, len(w.log)-15)
	var b strings.Builder
	for i, line := range w.log {
		_, id, _ := strings.Cut(line, "file 0x")
		id, _, _ = strings.Cut(id, " ")
		if i >= last || id != "" && strings.Contains(why, "file 0x"+id) || strings.HasPrefix(line, "---") {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// name is the file's number for the log, "" for none.
func (f *crashFile) name() string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf(" = file %#x ", f.id)
}

func (w *crashWorker) path(p string) string { return filepath.Join(w.dir, p) }

// operation does one random thing.
func (w *crashWorker) operation() error {
	files, dirs := w.now().list()
	if len(w.now()) > crashNodes {
		return w.remove(append(files, dirs...))
	}
	for {
		switch roll := w.rng.IntN(100); {
		case roll < 25:
			return w.create(w.free(dirs, "f"))
		case roll < 31:
			return w.mkdir(w.free(dirs, "d"))
		case roll < 36:
			return w.syncDir()
		case len(files) == 0: // The rest needs a file.
		case roll < 62:
			return w.update(files[w.rng.IntN(len(files))])
		case roll < 70:
			return w.updateHeld()
		case roll < 82:
			return w.rename(files[w.rng.IntN(len(files))], w.target(files, dirs))
		case roll < 86:
			if len(dirs) > 0 {
				from := dirs[w.rng.IntN(len(dirs))]
				return w.rename(from, w.free(outside(dirs, from), "d"))
			}
		case roll < 90:
			return w.truncate(files[w.rng.IntN(len(files))])
		default:
			return w.remove(append(files, dirs...))
		}
	}
}

// list returns the files and the directories, in order.
func (s crashState) list() (files, dirs []string) {
	for _, p := range slices.Sorted(maps.Keys(s)) {
		if s[p] == nil {
			dirs = append(dirs, p)
		} else {
			files = append(files, p)
		}
	}
	return files, dirs
}

// free returns a path that has never been used.
func (w *crashWorker) free(dirs []string, kind string) string {
	w.n++
	in := append([]string{"."}, dirs...)
	return path.Join(in[w.rng.IntN(len(in))], fmt.Sprintf("%s%d", kind, w.n))
}

// target is a new path, or one time in two a file that exists.
func (w *crashWorker) target(files, dirs []string) string {
	if w.rng.IntN(2) == 0 {
		return files[w.rng.IntN(len(files))]
	}
	return w.free(dirs, "f")
}

// change makes a change of the names.
func (w *crashWorker) change(next crashState, do func() error) error {
	w.doubt = next
	if err := do(); err != nil {
		return err
	}
	w.doubt = nil
	w.states = append(w.states, next)
	return nil
}

// barrier says that the names as they are now are durable.
func (w *crashWorker) barrier() {
	w.synced++
	w.first += len(w.states) - 1
	w.states = w.states[len(w.states)-1:]
}

func (w *crashWorker) create(p string) error {
	file := &crashFile{id: uint64(w.id+1)<<20 | uint64(w.n), sizes: []int{0}}
	next := maps.Clone(w.now())
	next[p] = file
	w.note("create %s as file %#x", p, file.id)
	var f *os.File
	err := w.change(next, func() (err error) {
		f, err = os.OpenFile(w.path(p), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	return w.fill(f, file)
}

// fill writes to the file and closes it, or keeps it open for later.
func (w *crashWorker) fill(f *os.File, file *crashFile) error {
	if err := w.write(f, file); err != nil {
		f.Close()
		return err
	}
	if w.rng.IntN(4) > 0 {
		return f.Close()
	}
	old := w.held
	w.held = &crashFD{f, file}
	if old != nil {
		return old.f.Close()
	}
	return nil
}

func (w *crashWorker) update(p string) error {
	file := w.now()[p]
	w.note("open %s%s", p, file.name())
	f, err := os.OpenFile(w.path(p), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return w.fill(f, file)
}

func (w *crashWorker) updateHeld() error {
	if w.held == nil {
		return nil
	}
	return w.write(w.held.f, w.held.file)
}

// write writes some blocks, at most up to a gap behind the end, and syncs one
// time in three.
func (w *crashWorker) write(f *os.File, file *crashFile) error {
	w.n++
	version := uint64(w.n)
	from := w.rng.IntN(min(file.blocks+3, crashMax))
	to := min(from+1+w.rng.IntN([]int{2, 6, crashMax}[w.rng.IntN(3)]), crashMax)
	w.note("write file %#x : version %d, blocks %d to %d of %d", file.id, version, from, to, file.blocks)
	for size := file.blocks; size <= to; size++ { // a request may be cut into several
		file.sizes = append(file.sizes, size)
	}
	file.mayHave(from, to, version)
	var b []byte
	for i := from; i < to; i++ {
		b = append(b, file.content(i, version)...)
	}
	if _, err := f.WriteAt(b, int64(from)*crashBlock); err != nil {
		return err
	}
	file.blocks = max(file.blocks, to)
	if w.rng.IntN(3) > 0 {
		return nil
	}
	w.note("fsync file %#x", file.id)
	if err := f.Sync(); err != nil {
		return err
	}
	file.settle()
	w.barrier()
	return nil
}

func (w *crashWorker) truncate(p string) error {
	file := w.now()[p]
	n := w.rng.IntN(crashMax)
	w.note("truncate %s%s from %d to %d blocks", p, file.name(), file.blocks, n)
	file.sizes = append(file.sizes, n)
	file.mayHave(min(n, file.blocks), max(n, file.blocks, len(file.may)), 0)
	if err := os.Truncate(w.path(p), int64(n)*crashBlock); err != nil {
		return err
	}
	file.blocks = n
	return nil
}

func (w *crashWorker) mkdir(p string) error {
	next := maps.Clone(w.now())
	next[p] = nil
	w.note("mkdir %s", p)
	return w.change(next, func() error { return os.Mkdir(w.path(p), 0o700) })
}

func (w *crashWorker) syncDir() error {
	w.note("fsync directory")
	f, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	w.barrier()
	return nil
}

// rename moves a file or a directory. A file that takes the place of another one
// is made durable before, so that the name never means half of it.
func (w *crashWorker) rename(from, to string) error {
	if from == to {
		return nil
	}
	next := crashState{}
	for p, f := range w.now() {
		if !below(p, from) && p != to {
			next[p] = f
		}
	}
	for p, f := range w.now() {
		if below(p, from) {
			next[to+p[len(from):]] = f
		}
	}
	file, replaced := w.now()[from], w.now()[to]
	w.note("rename %s%s to %s%s", from, file.name(), to, replaced.name())
	if file != nil && replaced != nil {
		file.pin(w.first + len(w.states))
	}
	return w.change(next, func() error { return os.Rename(w.path(from), w.path(to)) })
}

// remove unlinks a file, or a directory with all that is in it.
func (w *crashWorker) remove(from []string) error {
	p := from[w.rng.IntN(len(from))]
	if w.now()[p] != nil {
		return w.unlink(p)
	}
	all := slices.Sorted(maps.Keys(w.now()))
	slices.Reverse(all) // children first
	for _, q := range all {
		if !below(q, p) {
			continue
		}
		if err := w.unlink(q); err != nil {
			return err
		}
	}
	return nil
}

func (w *crashWorker) unlink(p string) error {
	next := maps.Clone(w.now())
	delete(next, p)
	w.note("remove %s%s", p, w.now()[p].name())
	if w.now()[p] == nil {
		return w.change(next, func() error { return unix.Rmdir(w.path(p)) })
	}
	return w.change(next, func() error { return unix.Unlink(w.path(p)) })
}

// verify reads the folder back after a crash. Its names must be those of one of
// the states since the last sync, all of them at once, and every file's content
// what it may be. The worker goes on from there.
func (w *crashWorker) verify() error {
	found := map[string][]byte{} // nil: a directory
	err := filepath.WalkDir(w.dir, func(p string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(w.dir, p) // p is below w.dir
		if err != nil || rel == "." {
			return err
		}
		if e.IsDir() {
			found[rel] = nil
			return nil
		}
		b, err := os.ReadFile(p)
		found[rel] = append([]byte{}, b...)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading back: %s", describeErrno(err))
	}
	may := w.states
	if w.doubt != nil {
		may = append(slices.Clone(may), w.doubt)
	}
	var why []error
	for i := len(may) - 1; i >= 0; i-- {
		err := may[i].adopt(found, w.first+i)
		if err == nil {
			w.undone += len(w.states) - min(i+1, len(w.states))
			w.states, w.doubt, w.first = []crashState{may[i]}, nil, w.first+i
			return nil
		}
		why = append(why, fmt.Errorf("not state %d: %w", i, err))
	}
	reasons := errors.Join(why[:min(len(why), 10)]...)
	return fmt.Errorf("%s is in none of the %d states that it may be in\n%w\noperations:\n%s",
		w.dir, len(may), reasons, w.recent(reasons.Error()))
}

// adopt compares the state with what was found and, if it may be that, sets its
// files to that. number is how many states there were before it.
func (s crashState) adopt(found map[string][]byte, number int) error {
	versions := map[*crashFile][]uint64{}
	for p, b := range found {
		f, ok := s[p]
		if !ok || (f == nil) != (b == nil) {
			return fmt.Errorf("%s is there", p)
		}
		if f == nil {
			continue
		}
		var err error
		if versions[f], err = f.check(b, number); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	for p := range s {
		if _, ok := found[p]; !ok {
			return fmt.Errorf("%s is missing", p)
		}
	}
	for f, v := range versions {
		f.adopt(v)
	}
	return nil
}

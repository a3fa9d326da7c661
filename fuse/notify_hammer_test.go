package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"engramfs/store"
)

// hammerTime is how long the tests below change files under the eyes of readers.
func hammerTime() time.Duration {
	if os.Getenv("ENGRAMFS_LONG") == "1" {
		return time.Minute
	}
	return 2 * time.Second
}

// The kernel may keep everything for an hour, and is told of every change of
// another door: after Settle the mount shows exactly what the store has, while
// readers fill the kernel's caches all the time and have questions in flight.
func TestMountSeesChangesOfOthers(t *testing.T) {
	for _, mode := range []struct {
		name string
		o    Options
	}{{"Cached", Options{Integrity: IntegrityStrict}}, {"Native", Options{}}} {
		t.Run(mode.name, func(t *testing.T) {
			o := mode.o
			o.EntryTimeout, o.AttrTimeout, o.NegativeTimeout = time.Hour, time.Hour, time.Hour
			m := mountForTest(t, o)
			h := newHammer(t, m)
			stop := h.startReaders(4)
			for end := time.Now().Add(hammerTime()); time.Now().Before(end) && !t.Failed(); {
				h.step()
			}
			stop()
			s := m.notifier.Stats()
			t.Logf("%d steps, %d reads, %+v", h.steps, h.reads.Load(), s)
			if s.Failed != 0 || s.Overflows != 0 || s.Abandoned != 0 || s.Waiting != 0 {
				t.Errorf("notifications were lost: %+v", s)
			}
			if h.steps < 20 || h.reads.Load() < 100 {
				t.Errorf("%d steps and %d reads are no test", h.steps, h.reads.Load())
			}
		})
	}
}

// hammer changes a small tree through the store, as another door does, and
// compares it with the mount.
type hammer struct {
	t     *testing.T
	m     *testMount
	rnd   *rand.Rand
	paths []string // all that may exist
	last  []string // the last steps, for a failure
	steps int
	reads atomic.Int64
}

func newHammer(t *testing.T, m *testMount) *hammer {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h := &hammer{t: t, m: m, rnd: rand.New(rand.NewPCG(seed, 0))}
	for _, dir := range []string{"", "d", "e", "d/f"} {
		for _, name := range []string{"a", "b", "c", "g"} {
			h.paths = append(h.paths, path.Join(dir, name))
		}
	}
	h.paths = append(h.paths, "d", "e", "d/f")
	return h
}

func (h *hammer) pick() string { return h.paths[h.rnd.IntN(len(h.paths))] }

// step makes one change, waits until it is settled, and compares everything.
func (h *hammer) step() {
	ctx := context.Background()
	p, q := h.pick(), h.pick()
	what, err := "", error(nil)
	switch h.rnd.IntN(11) {
	case 0, 1, 2:
		what, err = "put "+p, h.put(ctx, p)
	case 3:
		what, err = "mkdir "+p, h.at(ctx, p, func(dir store.Ino, name string) error {
			_, err := h.m.store.Create(ctx, dir, name, store.NewNode{Mode: store.ModeDir | 0o755})
			return err
		})
	case 4, 5:
		what, err = "move "+p+" "+q, h.at(ctx, p, func(from store.Ino, old string) error {
			return h.at(ctx, q, func(to store.Ino, name string) error {
				_, err := h.m.store.Rename(ctx, from, old, to, name, store.RenameOptions{ReplaceTree: true})
				return err
			})
		})
	case 6:
		what, err = "remove "+p, h.at(ctx, p, func(dir store.Ino, name string) error {
			return h.m.store.RemoveAll(ctx, dir, name, nil)
		})
	case 7:
		what, err = "copy "+p+" "+q, h.copy(ctx, p, q)
	case 8:
		mode := uint32(0o600 + h.rnd.IntN(0o200)&0o66)
		what, err = "chmod "+p, h.attr(ctx, p, store.SetAttr{Mode: &mode})
	case 9:
		size := int64(h.rnd.IntN(100_000))
		what, err = "truncate "+p, h.attr(ctx, p, store.SetAttr{Size: &size})
	case 10: // the kernel has never heard of the name, but of the directory
		dir := path.Dir(p)
		what, err = "put a new name in "+dir, h.put(ctx, path.Join(dir, fmt.Sprint("new", h.steps)))
	}
	h.steps++
	h.last = append(h.last, fmt.Sprintf("%s: %v", what, err))
	h.last = h.last[max(0, len(h.last)-8):]
	bound, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	h.m.notifier.Settle(bound)
	if bound.Err() != nil {
		h.t.Fatalf("not settled after 5 s: %+v", h.m.notifier.Stats())
	}
	for _, p := range h.paths {
		h.compare(ctx, p)
	}
	if h.t.Failed() {
		h.t.Fatalf("after %q", h.last)
	}
}

func (h *hammer) at(ctx context.Context, p string, fn func(dir store.Ino, name string) error) error {
	dir, name, err := h.m.store.LookupParent(ctx, "/"+p)
	if err != nil {
		return err
	}
	return fn(dir, name)
}

func (h *hammer) put(ctx context.Context, p string) error {
	size := []int{10, 5000, 30_000, 200_000}[h.rnd.IntN(4)]
	content := bytes.Repeat([]byte{byte(h.rnd.Uint32())}, size)
	return h.at(ctx, p, func(dir store.Ino, name string) error {
		u, err := h.m.store.NewUpload(ctx, dir, name, int64(size))
		if err != nil {
			return err
		}
		defer u.Abort()
		if _, err := u.Write(content); err != nil {
			return err
		}
		_, _, err = u.Commit(ctx, store.CommitOptions{})
		return err
	})
}

func (h *hammer) copy(ctx context.Context, p, q string) error {
	src, err := h.m.store.LookupPath(ctx, "/"+p)
	if err != nil {
		return err
	}
	return h.at(ctx, q, func(dir store.Ino, name string) error {
		_, _, err := h.m.store.Clone(ctx, src.Ino, dir, name, store.CloneOptions{Replace: true})
		return err
	})
}

func (h *hammer) attr(ctx context.Context, p string, set store.SetAttr) error {
	a, err := h.m.store.LookupPath(ctx, "/"+p)
	if err != nil {
		return err
	}
	_, err = h.m.store.SetAttr(ctx, a.Ino, set)
	return err
}

// compare fails the test unless the mount shows p as the store has it.
func (h *hammer) compare(ctx context.Context, p string) {
	want, wantErr := h.m.store.LookupPath(ctx, "/"+p)
	var got unix.Stat_t
	err := unix.Lstat(h.m.path(p), &got)
	if wantErr != nil || err != nil {
		if (wantErr == nil) != (err == nil) {
			h.t.Errorf("%s: the mount says %v, the store %v", p, err, wantErr)
		}
		return
	}
	if got.Ino != uint64(want.Ino) || got.Mode != want.Mode || uint64(got.Nlink) != uint64(want.Nlink) ||
		got.Size != want.Size || got.Mtim.Nano() != want.Mtime || got.Ctim.Nano() != want.Ctime {
		h.t.Errorf("%s: the mount has ino %d mode %o nlink %d size %d mtime %d ctime %d\nthe store has %+v",
			p, got.Ino, got.Mode, got.Nlink, got.Size, got.Mtim.Nano(), got.Ctim.Nano(), want)
		return
	}
	if want.Mode&store.ModeType == store.ModeDir {
		h.compareDir(ctx, p, want.Ino)
		return
	}
	h.compareContent(ctx, p, want)
}

func (h *hammer) compareDir(ctx context.Context, p string, ino store.Ino) {
	var want []string
	if err := h.m.store.ReadDir(ctx, ino, "", func(d store.Dirent) bool {
		want = append(want, d.Name)
		return true
	}); err != nil {
		h.t.Errorf("%s: %v", p, err)
	}
	entries, err := os.ReadDir(h.m.path(p))
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		h.t.Errorf("%s: the mount lists %q, %v, the store %q", p, got, err, want)
	}
}

func (h *hammer) compareContent(ctx context.Context, p string, a store.Attr) {
	c, err := h.m.store.OpenContent(ctx, a.Ino)
	if err != nil {
		h.t.Errorf("%s: %v", p, err)
		return
	}
	defer c.Close()
	want, err := io.ReadAll(io.NewSectionReader(c, 0, a.Size))
	if err != nil {
		h.t.Errorf("%s: %v", p, err)
	}
	got, err := os.ReadFile(h.m.path(p))
	if err != nil || !bytes.Equal(got, want) {
		h.t.Errorf("%s: the mount reads %d bytes, %v, not the store's %d", p, len(got), err, len(want))
	}
}

// A lookup that was answered before a change reaches the kernel after the
// notification of the change: the kernel did not know the inode, and must not be
// left with what it is told too late.
func TestReplyInFlightIsNotBelieved(t *testing.T) {
	var hold atomic.Bool
	answered, changed := make(chan struct{}), make(chan struct{})
	m := mountForTest(t, Options{
		EntryTimeout: time.Hour, AttrTimeout: time.Hour,
		Observe: func(op string, _ time.Duration, _ int, _ syscall.Errno) {
			if op == "lookup" && hold.CompareAndSwap(true, false) {
				close(answered)
				<-changed
			}
		},
	})
	ctx := context.Background()
	a, err := m.store.Create(ctx, store.RootIno, "file", store.NewNode{Mode: 0o644})
	must(t, err)
	m.notifier.Settle(ctx)
	hold.Store(true)
	stat := make(chan error, 1)
	go func() { stat <- unix.Stat(m.path("file"), new(unix.Stat_t)) }()
	<-answered
	mode := uint32(0o600)
	_, err = m.store.SetAttr(ctx, a.Ino, store.SetAttr{Mode: &mode})
	must(t, err)
	time.AfterFunc(20*time.Millisecond, func() { close(changed) })
	m.notifier.Settle(ctx)
	must(t, <-stat)
	var got unix.Stat_t
	must(t, unix.Stat(m.path("file"), &got))
	if got.Mode&0o777 != mode {
		t.Errorf("mode = %o, want %o: the kernel believes the old answer", got.Mode&0o777, mode)
	}
	if m.notifier.Stats().Retried == 0 {
		t.Error("the notification was not repeated: this tests nothing")
	}
}

// The same with the reply to a change of the mount's own: the kernel takes its
// attributes whatever it was told meanwhile.
func TestReplyToSetAttrInFlightIsNotBelieved(t *testing.T) {
	var hold atomic.Bool
	answered, changed := make(chan struct{}), make(chan struct{})
	m := mountForTest(t, Options{
		EntryTimeout: time.Hour, AttrTimeout: time.Hour,
		Observe: func(op string, _ time.Duration, _ int, _ syscall.Errno) {
			if op == "setattr" && hold.CompareAndSwap(true, false) {
				close(answered)
				<-changed
			}
		},
	})
	must(t, os.WriteFile(m.path("file"), nil, 0o644))
	hold.Store(true)
	chmod := make(chan error, 1)
	go func() { chmod <- unix.Chmod(m.path("file"), 0o640) }()
	<-answered
	ctx, mode := context.Background(), uint32(0o600)
	a, err := m.store.LookupPath(ctx, "/file")
	must(t, err)
	_, err = m.store.SetAttr(ctx, a.Ino, store.SetAttr{Mode: &mode})
	must(t, err)
	m.notifier.Settle(ctx)
	close(changed)
	must(t, <-chmod)
	var got unix.Stat_t
	must(t, unix.Stat(m.path("file"), &got))
	if got.Mode&0o777 != mode {
		t.Errorf("mode = %o, want %o: the kernel believes the old answer", got.Mode&0o777, mode)
	}
}

// What another door writes into a file that is open and mapped is there at once.
func TestOpenFileShowsWritesOfOthers(t *testing.T) {
	for _, integrity := range []Integrity{IntegrityFast, IntegrityStrict} {
		m := mountForTest(t, Options{EntryTimeout: time.Hour, AttrTimeout: time.Hour, Integrity: integrity})
		const size = 100_000
		must(t, os.WriteFile(m.path("file"), bytes.Repeat([]byte("a"), size), 0o644))
		f, err := os.Open(m.path("file"))
		must(t, err)
		defer f.Close()
		data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
		must(t, err)
		defer unix.Munmap(data)
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		ctx := context.Background()
		for i := range 20 {
			h, err := m.store.Open(ctx, store.Ino(st.Ino), true)
			must(t, err)
			text := fmt.Appendf(nil, "text %d", i)
			_, err = h.WriteAt(ctx, text, int64(i)*5000)
			must(t, errors.Join(err, h.Close()))
			m.notifier.Settle(ctx)
			got := make([]byte, len(text))
			_, err = f.ReadAt(got, int64(i)*5000)
			must(t, err)
			mapped, err := loadMapped(data[i*5000:][:len(text)])
			must(t, err)
			if !bytes.Equal(got, text) || !bytes.Equal(mapped, text) {
				t.Fatalf("read %q, mapped %q, want %q", got, mapped, text)
			}
		}
	}
}

// startReaders keeps the kernel's caches warm and questions in flight, until the
// function that it returns is called. No request of theirs may take 5 seconds.
func (h *hammer) startReaders(n int) (stop func()) {
	var quit atomic.Bool
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for !quit.Load() {
				name := h.m.path(h.paths[rnd.IntN(len(h.paths))])
				begin := time.Now()
				err := readSomehow(name, rnd.IntN(5))
				if took := time.Since(begin); took > 5*time.Second {
					h.t.Errorf("a read of %s took %v", name, took)
				}
				if err != nil && !expected(err) {
					h.t.Errorf("reader: %v", err)
				}
				h.reads.Add(1)
			}
		})
	}
	return func() {
		quit.Store(true)
		wg.Wait()
	}
}

// expected reports whether err is what a reader may meet whose file is moved,
// removed and replaced.
func expected(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ESTALE, unix.ELOOP, unix.EINVAL, io.EOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func readSomehow(name string, how int) error {
	switch how {
	case 0:
		_, err := os.Lstat(name)
		return err
	case 1:
		_, err := os.ReadDir(filepath.Dir(name))
		return err
	case 2:
		_, err := os.ReadFile(name)
		return err
	case 3:
		return readMapped(name)
	}
	f, err := os.Open(name) // and keep it open a little
	if err != nil {
		return err
	}
	defer f.Close()
	time.Sleep(time.Millisecond)
	_, err = f.ReadAt(make([]byte, 100), 0)
	return err
}

// readMapped reads a file's first page through a mapping.
func readMapped(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 || !fi.Mode().IsRegular() {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(min(fi.Size(), 4096)), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(data)
	if _, err := loadMapped(data); err != nil && !errors.Is(err, syscall.EFAULT) { // the page may be gone by then
		return err
	}
	return nil
}

// loadMapped returns a copy of memory that is mapped from the mount. The kernel
// makes it: a goroutine that waits for a page while this process is to answer
// for it would keep the runtime from answering.
func loadMapped(data []byte) ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	n, err := unix.Write(int(w.Fd()), data)
	if err != nil {
		return nil, err
	}
	got := make([]byte, n)
	_, err = io.ReadFull(r, got)
	return got, err
}

// storeMapped is the counterpart of loadMapped.
func storeMapped(data []byte, text string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.WriteString(text); err != nil {
		return err
	}
	_, err = unix.Read(int(r.Fd()), data[:len(text)])
	return err
}

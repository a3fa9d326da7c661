package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// bigContent is too large to live in the engine.
func bigContent(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8 ^ i*31)
	}
	return b
}

// mode returns how the open handles of a file are served.
func (m *testMount) mode(path string) openMode {
	m.t.Helper()
	a, err := m.store.LookupPath(m.t.Context(), strings.TrimPrefix(path, m.dir))
	must(m.t, err)
	s := m.fs.table.shard(a.Ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[a.Ino]; e != nil {
		return e.mode
	}
	return modeNone
}

// makeBig makes a file that can be served natively.
func (m *testMount) makeBig(name string, n int) (path string, content []byte) {
	m.t.Helper()
	path, content = m.path(name), bigContent(n)
	must(m.t, os.WriteFile(path, content, 0o644))
	m.settle(path)
	return path, content
}

// settle waits until a file that was closed is released.
func (m *testMount) settle(path string) {
	m.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); m.mode(path) != modeNone; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s stays open", path)
		}
	}
}

// eachMode runs fn on a mount that serves natively, and on one that does not.
func eachMode(t *testing.T, o Options, fn func(t *testing.T, m *testMount, want openMode)) {
	for name, integrity := range map[string]Integrity{"native": IntegrityFast, "cached": IntegrityStrict} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Integrity = integrity
			m := mountForTest(t, o)
			want := modeCached
			if integrity == IntegrityFast {
				want = modeNative
				if !m.Native() {
					if os.Getenv("REQUIRE_ALL") == "1" {
						t.Fatal("the kernel offers no passthrough")
					}
					t.Skip("the kernel offers no passthrough")
				}
			}
			fn(t, m, want)
		})
	}
}

func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o644)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestModes is what an open file must do, served either way.
func TestModes(t *testing.T) {
	eachMode(t, Options{EntryTimeout: hour, AttrTimeout: hour}, func(t *testing.T, m *testMount, want openMode) {
		path, content := m.makeBig("f", 300_000)
		f := open(t, path, os.O_RDWR)
		if got := m.mode(path); got != want {
			t.Fatalf("mode %d, want %d", got, want)
		}
		check := func(what string) {
			t.Helper()
			got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%s: %d bytes, %v, want %d", what, len(got), err, len(content))
			}
			for _, st := range []unix.Stat_t{stat(t, path), fstat(t, f)} {
				if st.Size != int64(len(content)) {
					t.Fatalf("%s: size %d, want %d", what, st.Size, len(content))
				}
			}
		}
		check("read")

		before := stat(t, path)
		time.Sleep(10 * time.Millisecond)
		copy(content[70_000:], "in the middle")
		_, err := f.WriteAt([]byte("in the middle"), 70_000)
		must(t, err)
		check("write")
		if after := stat(t, path); after.Mtim == before.Mtim || after.Ctim == before.Ctim {
			t.Errorf("a write left the times: %v", after.Mtim)
		}

		a := open(t, path, os.O_WRONLY|os.O_APPEND)
		for i := range 5 {
			line := fmt.Appendf(nil, "appended %d\n", i)
			content = append(content, line...)
			_, err := a.Write(line)
			must(t, err)
		}
		check("append")

		must(t, f.Truncate(100_000))
		content = content[:100_000]
		check("shrink")
		must(t, unix.Ftruncate(int(f.Fd()), 200_000))
		content = append(content, make([]byte, 100_000)...)
		check("grow")
		must(t, f.Sync())
		must(t, unix.Fdatasync(int(f.Fd())))

		must(t, unix.Fallocate(int(f.Fd()), 0, 190_000, 20_000))
		content = append(content, make([]byte, 10_000)...)
		check("allocate")
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 200_000, 100_000))
		check("allocate beyond the end")
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, 65536))
		clear(content[8192 : 8192+65536])
		check("punch")
		copy(content[20_000:], "again")
		_, err = f.WriteAt([]byte("again"), 20_000)
		must(t, err)
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 20_000, 3))
		clear(content[20_000:20_003])
		check("zero")
		for _, mode := range []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_PUNCH_HOLE} {
			wantErrno(t, fmt.Sprint("fallocate mode ", mode), unix.Fallocate(int(f.Fd()), mode, 0, 4096), unix.EOPNOTSUPP)
		}
		wantErrno(t, "allocate nothing", unix.Fallocate(int(f.Fd()), 0, 0, 0), unix.EINVAL)

		g := open(t, m.path("copy"), os.O_RDWR|os.O_CREATE)
		n, err := unix.CopyFileRange(int(f.Fd()), nil, int(g.Fd()), nil, 150_000, 0)
		if err != nil || n != 150_000 {
			t.Fatalf("copy_file_range: %d, %v", n, err)
		}
		if got, err := os.ReadFile(m.path("copy")); err != nil || !bytes.Equal(got, content[:150_000]) {
			t.Errorf("copied %d bytes, %v", len(got), err)
		}
		check("copy")
		must(t, f.Close())
		must(t, a.Close())
		must(t, g.Close())
		m.settle(path)
		f = open(t, path, os.O_RDONLY)
		check("reopen")
	})
}

func fstat(t testing.TB, f *os.File) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	return st
}

func TestHoles(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, m *testMount, want openMode) {
		path, _ := m.makeBig("f", 100_000)
		f := open(t, path, os.O_RDWR)
		must(t, f.Truncate(10<<20))
		_, err := f.WriteAt(bigContent(70_000), 5<<20)
		must(t, err)
		seek := func(off int64, whence int) (int64, error) { return unix.Seek(int(f.Fd()), off, whence) }
		if off, err := seek(0, unix.SEEK_DATA); off != 0 || err != nil {
			t.Errorf("data from 0: %d, %v", off, err)
		}
		if off, err := seek(0, unix.SEEK_HOLE); off < 100_000 || off > 200_000 || err != nil {
			t.Errorf("hole from 0: %d, %v", off, err)
		}
		if off, err := seek(1<<20, unix.SEEK_DATA); off > 5<<20 || off < 4<<20 || err != nil {
			t.Errorf("data from 1 MiB: %d, %v", off, err)
		}
		_, err = seek(9<<20, unix.SEEK_DATA)
		wantErrno(t, "data in the last hole", err, unix.ENXIO)
		_, err = seek(11<<20, unix.SEEK_HOLE)
		wantErrno(t, "hole beyond the end", err, unix.ENXIO)
		if st := fstat(t, f); st.Blocks*512 >= 5<<20 || st.Blocks*512 < 100_000 {
			t.Errorf("a file of 10 MiB with 170 kB of data takes %d bytes", st.Blocks*512)
		}
	})
}

// TestModeIsTheSameForAll opens a file again and again while it is open: the
// kernel refuses an open that is served otherwise.
func TestModeIsTheSameForAll(t *testing.T) {
	m := mountForTest(t, Options{})
	if !m.Native() {
		t.Skip("the kernel offers no passthrough")
	}
	path, content := m.makeBig("f", 100_000)
	must(t, os.Remove(path))
	f := open(t, path, os.O_RDWR|os.O_CREATE) // new: cached as long as it is open
	_, err := f.Write(content)
	must(t, err)
	for range 3 {
		g := open(t, path, os.O_RDWR)
		if m.mode(path) != modeCached {
			t.Fatal("a new file became native while it was open")
		}
		must(t, g.Close())
	}
	must(t, f.Close())
	m.settle(path)
	r := open(t, path, os.O_RDONLY)
	w := open(t, path, os.O_RDWR)
	if m.mode(path) != modeNative {
		t.Fatal("a file that can be native is not")
	}
	copy(content, "native")
	_, err = w.WriteAt([]byte("native"), 0)
	must(t, err)
	must(t, w.Close())
	buf := make([]byte, 6)
	if _, err := r.ReadAt(buf, 0); err != nil || string(buf) != "native" {
		t.Errorf("%q, %v", buf, err)
	}
	must(t, r.Close())
	m.settle(path)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestOpeningConcurrently has many open one file at the same time, again and
// again: all must get it, and all must see the same bytes.
func TestOpeningConcurrently(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, m *testMount, _ openMode) {
		path, content := m.makeBig("f", 100_000)
		errs := make(chan error, 8)
		for i := range 8 {
			flags := os.O_RDONLY
			if i%2 == 0 {
				flags = os.O_RDWR
			}
			go func() {
				var failed error
				for range 100 {
					f, err := os.OpenFile(path, flags, 0)
					if err != nil {
						failed = err
						break
					}
					buf := make([]byte, 100)
					off := int64(i) * 10_000
					if _, err := f.ReadAt(buf, off); err != nil || !bytes.Equal(buf, content[off:off+100]) {
						failed = fmt.Errorf("read %q: %w", buf, err)
					}
					if flags == os.O_RDWR {
						_, err = f.WriteAt(buf, off)
						failed = errors.Join(failed, err)
					}
					failed = errors.Join(failed, f.Close())
				}
				errs <- failed
			}()
		}
		for range 8 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

// refusing is a kernel that takes no file.
type refusing struct{ asked int }

func (r *refusing) RegisterBackingFd(*gofuse.BackingMap) (int32, syscall.Errno) {
	r.asked++
	return 0, syscall.ELOOP
}
func (r *refusing) UnregisterBackingFd(int32) syscall.Errno { return syscall.EINVAL }

func TestRefusedFileIsCached(t *testing.T) {
	m := mountForTest(t, Options{})
	r := new(refusing)
	m.fs.backings = r
	path, content := m.makeBig("f", 100_000)
	for range 2 {
		f := open(t, path, os.O_RDWR)
		if m.mode(path) != modeCached {
			t.Error("a file that the kernel refused is not cached")
		}
		_, err := f.WriteAt([]byte("through the server"), 5)
		must(t, err)
		copy(content[5:], "through the server")
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		must(t, f.Close())
		m.settle(path)
	}
	if r.asked != 2 {
		t.Errorf("the kernel was asked %d times, want 2: once for each first open", r.asked)
	}
	if n := strings.Count(m.log.String(), "does not take a file"); n != 1 {
		t.Errorf("logged %d times, want 1", n)
	}
}

// TestPrivilegesGoWithAWrite: a write by a user takes set-user-ID away, whichever
// way the file is served; one by root does not.
func TestPrivilegesGoWithAWrite(t *testing.T) {
	eachMode(t, Options{AttrTimeout: hour, EntryTimeout: hour}, func(t *testing.T, m *testMount, want openMode) {
		must(t, os.Chmod(m.dir, 0o777))
		path, _ := m.makeBig("f", 100_000)
		must(t, os.Chown(path, 1234, 1234))
		for _, tt := range []struct {
			what string
			user bool
			mode uint32
			act  func(f *os.File) error
			want uint32
		}{
			{"write by root", false, 0o6777, func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 0); return err }, 0o6777},
			{"write", true, 0o6777, func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 0); return err }, 0o777},
			{"write without group execution", true, 0o6767, func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 0); return err }, 0o2767},
			{"truncate", true, 0o6777, func(f *os.File) error { return f.Truncate(50_000) }, 0o777},
			{"allocate", true, 0o6777, func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 200_000) }, 0o777},
		} {
			must(t, unix.Chmod(path, tt.mode))
			act := func() {
				f := open(t, path, os.O_RDWR)
				if m.mode(path) != modeCached {
					t.Errorf("%s: a privileged file is served natively", tt.what)
				}
				must(t, tt.act(f))
				must(t, f.Close())
			}
			if tt.user {
				asUser(t, 4321, 4321, act)
			} else {
				act()
			}
			if st := stat(t, path); st.Mode&0o7777 != tt.want {
				t.Errorf("%s: mode %o, want %o", tt.what, st.Mode&0o7777, tt.want)
			}
			m.settle(path)
		}

		// It becomes privileged while it is open.
		must(t, unix.Chmod(path, 0o666))
		asUser(t, 4321, 4321, func() {
			f := open(t, path, os.O_RDWR)
			if got := m.mode(path); got != want {
				t.Errorf("mode %d, want %d", got, want)
			}
			must(t, unix.Setfsuid(0))
			must(t, unix.Chmod(path, 0o6777))
			must(t, unix.Setfsuid(4321))
			_, err := f.WriteAt([]byte("y"), 0)
			must(t, err)
			must(t, f.Close())
		})
		if st := stat(t, path); st.Mode&0o7777 != 0o777 {
			t.Errorf("mode %o after a write by a user", st.Mode&0o7777)
		}
		m.settle(path)
		if err := unix.Setxattr(path, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0); err != nil {
			t.Fatal(err)
		}
		asUser(t, 4321, 4321, func() { must(t, os.WriteFile(path, []byte("z"), 0)) })
		if _, err := unix.Getxattr(path, "security.capability", make([]byte, 100)); err != unix.ENODATA {
			t.Errorf("the capability is there after a write: %v", err)
		}
	})
}

func init() {
	// map maps a file shared, closes it, tells, stores into the mapping when told to, and tells again.
	childFuncs["map"] = func(c *child, args []string) error {
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		b, err := unix.Mmap(int(f.Fd()), 0, 100_000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		c.tell("mapped")
		c.await()
		copy(b[args2int(args[1]):], "stored")
		if err := unix.Msync(b, unix.MS_SYNC); err != nil {
			return err
		}
		c.tell("stored")
		c.await()
		return unix.Munmap(b)
	}
}

func args2int(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

// TestStoreThroughAMappingAfterClose reaches the file after the kernel has closed it.
func TestStoreThroughAMappingAfterClose(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, m *testMount, _ openMode) {
		path, content := m.makeBig("f", 100_000)
		p := startChild(t, "map", path, "77777")
		p.expect("mapped")
		p.resume()
		p.expect("stored")
		copy(content[77777:], "stored")
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		p.resume()
		p.expect("done")
		m.settle(path)
		// Whoever reads by the other door sees it, too, and nothing counts as damaged.
		a, err := m.store.LookupPath(t.Context(), "/f")
		must(t, err)
		c, err := m.store.OpenContent(t.Context(), a.Ino)
		must(t, err)
		defer c.Close()
		got := make([]byte, len(content))
		if _, err := c.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, content) {
			t.Errorf("by the other door: %v", err)
		}
	})
}

// TestPagesAreKeptWhileTheyAreTrue counts the reads that reach the server.
func TestPagesAreKeptWhileTheyAreTrue(t *testing.T) {
	var ops opCounter
	m := mountForTest(t, Options{Integrity: IntegrityStrict, EntryTimeout: hour, AttrTimeout: hour, Observe: ops.observe})
	path, content := m.makeBig("f", 100_000)
	read := func() []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		must(t, err)
		m.settle(path)
		return b
	}
	read()
	ops.reset()
	if !bytes.Equal(read(), content) {
		t.Error("wrong content")
	}
	if n := ops.count("read"); n != 0 {
		t.Errorf("a file that did not change was read %d times from the server", n)
	}
	a, err := m.store.LookupPath(t.Context(), "/f")
	must(t, err)
	h, err := m.store.Open(t.Context(), a.Ino, true) // somebody else
	must(t, err)
	_, err = h.WriteAt(t.Context(), []byte("changed elsewhere"), 10)
	must(t, err)
	must(t, h.Close())
	copy(content[10:], "changed elsewhere")
	if !bytes.Equal(read(), content) {
		t.Error("old content after a change elsewhere")
	}
}

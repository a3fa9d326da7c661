package fuse

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asUser runs fn with the file system identity of a user without privileges
// (setfsuid(2)), for system calls made by fn itself.
func asUser(t testing.TB, uid, gid int, fn func()) {
	t.Helper()
	runtime.LockOSThread() // kept if the identity cannot be restored: the thread then ends with the goroutine
	must(t, unix.Setfsgid(gid))
	must(t, unix.Setfsuid(uid))
	defer func() {
		must(t, unix.Setfsuid(0))
		must(t, unix.Setfsgid(0))
		runtime.UnlockOSThread()
	}()
	fn()
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

// TestErrors is a table of system calls and the error each must end with.
func TestErrors(t *testing.T) {
	m := mountForTest(t, Options{})
	long := strings.Repeat("n", 256)
	must(t, os.WriteFile(m.path("file"), []byte("x"), 0o644))
	must(t, os.Mkdir(m.path("dir"), 0o755))
	must(t, os.Mkdir(m.path("full"), 0o755))
	must(t, os.WriteFile(m.path("full", "x"), nil, 0o644))
	must(t, os.Symlink("file", m.path("link")))
	must(t, os.Symlink("loop", m.path("loop")))
	open := func(path string, flags int) error {
		fd, err := unix.Open(path, flags, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, m.path(from), unix.AT_FDCWD, m.path(to), flags)
	}
	buf := make([]byte, 10)
	readlink := func(p string) error { _, err := unix.Readlink(p, buf); return err }
	for _, tt := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"open missing", open(m.path("none"), unix.O_RDONLY), unix.ENOENT},
		{"open below a file", open(m.path("file", "x"), unix.O_RDONLY), unix.ENOTDIR},
		{"open a long name", open(m.path(long), unix.O_RDONLY), unix.ENAMETOOLONG},
		{"create a long name", open(m.path(long), unix.O_CREAT|unix.O_RDWR), unix.ENAMETOOLONG},
		{"create what exists", open(m.path("file"), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR), unix.EEXIST},
		{"create through a dangling link with O_EXCL", open(m.path("loop"), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR), unix.EEXIST},
		{"write to a directory", open(m.path("dir"), unix.O_RDWR), unix.EISDIR},
		{"open a loop", open(m.path("loop"), unix.O_RDONLY), unix.ELOOP},
		{"open a link with O_NOFOLLOW", open(m.path("link"), unix.O_RDONLY|unix.O_NOFOLLOW), unix.ELOOP},
		{"open a file as a directory", open(m.path("file"), unix.O_RDONLY|unix.O_DIRECTORY), unix.ENOTDIR},
		{"tmpfile in a file", open(m.path("file"), unix.O_TMPFILE|unix.O_RDWR), unix.ENOTDIR},
		{"mkdir what exists", unix.Mkdir(m.path("file"), 0o755), unix.EEXIST},
		{"mkdir below nothing", unix.Mkdir(m.path("none", "x"), 0o755), unix.ENOENT},
		{"mkdir long", unix.Mkdir(m.path(long), 0o755), unix.ENAMETOOLONG},
		{"mknod what exists", unix.Mknod(m.path("file"), unix.S_IFIFO|0o600, 0), unix.EEXIST},
		{"unlink missing", unix.Unlink(m.path("none")), unix.ENOENT},
		{"unlink a directory", unix.Unlink(m.path("dir")), unix.EISDIR},
		{"rmdir a file", unix.Rmdir(m.path("file")), unix.ENOTDIR},
		{"rmdir missing", unix.Rmdir(m.path("none")), unix.ENOENT},
		{"rmdir full", unix.Rmdir(m.path("full")), unix.ENOTEMPTY},
		{"rmdir .", unix.Rmdir(m.path("dir") + "/."), unix.EINVAL},
		{"rmdir the root", unix.Rmdir(m.dir), unix.EBUSY},
		{"link a directory", unix.Link(m.path("dir"), m.path("l")), unix.EPERM},
		{"link to what exists", unix.Link(m.path("file"), m.path("dir")), unix.EEXIST},
		{"link missing", unix.Link(m.path("none"), m.path("l")), unix.ENOENT},
		{"link long", unix.Link(m.path("file"), m.path(long)), unix.ENAMETOOLONG},
		{"symlink to what exists", unix.Symlink("x", m.path("file")), unix.EEXIST},
		{"symlink long target", unix.Symlink(strings.Repeat("t", 4096), m.path("l")), unix.ENAMETOOLONG},
		{"symlink empty target", unix.Symlink("", m.path("l")), unix.ENOENT},
		{"readlink of a file", readlink(m.path("file")), unix.EINVAL},
		{"rename missing", rename("none", "x", 0), unix.ENOENT},
		{"rename a file over a directory", rename("file", "dir", 0), unix.EISDIR},
		{"rename a directory over a file", rename("dir", "file", 0), unix.ENOTDIR},
		{"rename over a full directory", rename("dir", "full", 0), unix.ENOTEMPTY},
		{"rename into itself", rename("dir", "dir/x", 0), unix.EINVAL},
		{"rename long", rename("file", long, 0), unix.ENAMETOOLONG},
		{"rename without replacing", rename("file", "link", unix.RENAME_NOREPLACE), unix.EEXIST},
		{"exchange with nothing", rename("file", "none", unix.RENAME_EXCHANGE), unix.ENOENT},
		{"exchange into itself", rename("full", "full/x", unix.RENAME_EXCHANGE), unix.EINVAL},
		{"rename with whiteout", rename("file", "none", unix.RENAME_WHITEOUT), unix.EINVAL},
		{"truncate a directory", unix.Truncate(m.path("dir"), 0), unix.EISDIR},
		{"truncate beyond all limits", unix.Truncate(m.path("file"), 1<<62), unix.EFBIG},
		{"truncate to less than nothing", unix.Truncate(m.path("file"), -1), unix.EINVAL},
	} {
		wantErrno(t, tt.what, tt.err, tt.want)
	}
	if names, _ := filepath.Glob(m.path("*")); len(names) != 5 {
		t.Errorf("operations that failed have left something: %v", names)
	}
}

func TestFilesOfEveryType(t *testing.T) {
	m := mountForTest(t, Options{})
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, tt := range []struct {
		name string
		mode uint32
		dev  int
	}{
		{"regular", unix.S_IFREG | 0o640, 0},
		{"fifo", unix.S_IFIFO | 0o600, 0},
		{"socket", unix.S_IFSOCK | 0o644, 0},
		{"char", unix.S_IFCHR | 0o666, int(unix.Mkdev(1, 3))},
		{"block", unix.S_IFBLK | 0o600, int(unix.Mkdev(7, 300))},
	} {
		must(t, unix.Mknod(m.path(tt.name), tt.mode, tt.dev))
		st := stat(t, m.path(tt.name))
		if st.Mode != tt.mode || st.Rdev != uint64(tt.dev) || st.Nlink != 1 {
			t.Errorf("%s: mode %o, device %#x, %d links, want %o, %#x, 1", tt.name, st.Mode, st.Rdev, st.Nlink, tt.mode, tt.dev)
		}
		var stx unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, m.path(tt.name), unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &stx))
		if stx.Mask&unix.STATX_BTIME == 0 || stx.Btime.Sec == 0 || unix.Mkdev(stx.Rdev_major, stx.Rdev_minor) != uint64(tt.dev) {
			t.Errorf("%s: statx: mask %#x, birth %v, device %d:%d", tt.name, stx.Mask, stx.Btime, stx.Rdev_major, stx.Rdev_minor)
		}
	}
	// The device works: it is the kernel's null.
	must(t, os.WriteFile(m.path("char"), []byte("into nothing"), 0))
	// The fifo carries bytes between two descriptors.
	r, err := os.OpenFile(m.path("fifo"), os.O_RDWR, 0)
	must(t, err)
	defer r.Close()
	must(t, os.WriteFile(m.path("fifo"), []byte("hello"), 0))
	buf := make([]byte, 5)
	if _, err := r.Read(buf); err != nil || string(buf) != "hello" {
		t.Errorf("fifo: %q, %v", buf, err)
	}
}

func TestTimesCanBeAnything(t *testing.T) {
	m := mountForTest(t, Options{AttrTimeout: 0})
	must(t, os.WriteFile(m.path("f"), nil, 0o644))
	for _, at := range []time.Time{time.Unix(0, 0), time.Unix(1, 999_999_999), time.Unix(-1, 5), time.Unix(-1_000_000_000, 1), time.Unix(1<<32, 7)} {
		must(t, os.Chtimes(m.path("f"), at, at.Add(time.Nanosecond)))
		st := stat(t, m.path("f"))
		if got := time.Unix(st.Atim.Unix()); !got.Equal(at) {
			t.Errorf("atime = %v, want %v", got, at)
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(at.Add(1)) {
			t.Errorf("mtime = %v, want %v", got, at.Add(1))
		}
	}
	before := stat(t, m.path("f"))
	omit, now := unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.path("f"), []unix.Timespec{omit, now}, 0))
	after := stat(t, m.path("f"))
	if after.Atim != before.Atim {
		t.Errorf("UTIME_OMIT changed the time: %v", after.Atim)
	}
	if d := time.Since(time.Unix(after.Mtim.Unix())); d < 0 || d > time.Minute {
		t.Errorf("UTIME_NOW is %v ago", d)
	}
}

// TestTimesBeyondTheStoresRange become its first or last second, not another year.
func TestTimesBeyondTheStoresRange(t *testing.T) {
	m := mountForTest(t, Options{AttrTimeout: 0})
	must(t, os.WriteFile(m.path("f"), nil, 0o644))
	for _, c := range []struct{ sec, want int64 }{
		{10_413_792_000, maxSeconds}, {-10_000_000_000, -maxSeconds}, // 2300 and 1653
		{math.MaxInt64, maxSeconds}, {math.MinInt64, -maxSeconds},
	} {
		ts := unix.Timespec{Sec: c.sec, Nsec: 5}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.path("f"), []unix.Timespec{ts, ts}, 0))
		if st := stat(t, m.path("f")); st.Atim.Sec != c.want || st.Mtim.Sec != c.want || st.Atim.Nsec != 0 {
			t.Errorf("%d became %v and %v, want %d", c.sec, st.Atim, st.Mtim, c.want)
		}
	}
	last := unix.Timespec{Sec: maxSeconds, Nsec: 999_999_999}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.path("f"), []unix.Timespec{last, last}, 0))
	if st := stat(t, m.path("f")); st.Mtim != last {
		t.Errorf("the last nanosecond became %v", st.Mtim)
	}
}

func TestOwnersOfNewInodes(t *testing.T) {
	m := mountForTest(t, Options{})
	must(t, os.Chmod(m.dir, 0o777))
	must(t, os.Mkdir(m.path("shared"), 0o777))
	must(t, os.Chown(m.path("shared"), 0, 77))
	must(t, unix.Chmod(m.path("shared"), 0o2777))
	old := unix.Umask(0)
	defer unix.Umask(old)
	asUser(t, 1234, 5678, func() {
		must(t, os.WriteFile(m.path("file"), nil, 0o644))
		must(t, os.Mkdir(m.path("dir"), 0o755))
		must(t, os.Symlink("x", m.path("link")))
		must(t, unix.Mkfifo(m.path("fifo"), 0o600))
		must(t, os.WriteFile(m.path("shared", "file"), nil, 0o644))
		must(t, os.Mkdir(m.path("shared", "dir"), 0o755))
		fd, err := unix.Open(m.path("shared"), unix.O_TMPFILE|unix.O_RDWR, 0o600)
		must(t, err)
		must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, m.path("shared", "tmp"), unix.AT_SYMLINK_FOLLOW))
		must(t, unix.Close(fd))
	})
	for name, gid := range map[string]uint32{"file": 5678, "dir": 5678, "link": 5678, "fifo": 5678, "shared/file": 77, "shared/dir": 77, "shared/tmp": 77} {
		if st := stat(t, m.path(name)); st.Uid != 1234 || st.Gid != gid {
			t.Errorf("%s belongs to %d:%d, want 1234:%d", name, st.Uid, st.Gid, gid)
		}
	}
	if st := stat(t, m.path("shared", "dir")); st.Mode&unix.S_ISGID == 0 {
		t.Error("a directory has not inherited the set-group-ID bit")
	}
	asUser(t, 4321, 4321, func() {
		wantErrno(t, "write to a file of another", os.WriteFile(m.path("file"), []byte("x"), 0), unix.EACCES)
		wantErrno(t, "chmod of another's file", os.Chmod(m.path("file"), 0o777), unix.EPERM)
		wantErrno(t, "chown", os.Chown(m.path("file"), 4321, -1), unix.EPERM)
		wantErrno(t, "mknod of a device", unix.Mknod(m.path("dev"), unix.S_IFCHR|0o666, 0x103), unix.EPERM)
	})
}

func TestUnlinkedButInUse(t *testing.T) {
	m := mountForTest(t, Options{EntryTimeout: hour, AttrTimeout: 0})
	t.Run("File", func(t *testing.T) {
		f, err := os.OpenFile(m.path("f"), os.O_CREATE|os.O_RDWR, 0o600)
		must(t, err)
		defer f.Close()
		_, err = f.WriteString("still here")
		must(t, err)
		must(t, os.Remove(m.path("f")))
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		if st.Nlink != 0 || st.Size != 10 {
			t.Errorf("%d links, %d bytes, want 0, 10", st.Nlink, st.Size)
		}
		must(t, f.Chmod(0o640))
		must(t, f.Truncate(5))
		_, err = f.WriteAt([]byte("!"), 5)
		must(t, err)
		buf := make([]byte, 20)
		if n, _ := f.ReadAt(buf, 0); string(buf[:n]) != "still!" {
			t.Errorf("content = %q", buf[:n])
		}
	})
	t.Run("PathDescriptor", func(t *testing.T) {
		must(t, os.WriteFile(m.path("f"), []byte("123"), 0o640))
		fd, err := unix.Open(m.path("f"), unix.O_PATH, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, os.Remove(m.path("f")))
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Nlink != 0 || st.Size != 3 || st.Mode&0o777 != 0o640 {
			t.Errorf("%d links, %d bytes, mode %o", st.Nlink, st.Size, st.Mode)
		}
	})
	t.Run("WorkingDirectory", func(t *testing.T) {
		must(t, os.Mkdir(m.path("d"), 0o700))
		d, err := os.Open(m.path("d"))
		must(t, err)
		defer d.Close()
		must(t, os.Remove(m.path("d")))
		var st unix.Stat_t
		must(t, unix.Fstat(int(d.Fd()), &st))
		if st.Nlink != 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Errorf("%d links, mode %o", st.Nlink, st.Mode)
		}
		must(t, unix.Fchmod(int(d.Fd()), 0o711))
		must(t, unix.Fstat(int(d.Fd()), &st))
		if st.Mode&0o777 != 0o711 {
			t.Errorf("mode %o", st.Mode)
		}
		err = unix.Mkdirat(int(d.Fd()), "x", 0o700)
		wantErrno(t, "mkdir in a removed directory", err, unix.ENOENT)
		_, err = unix.Getdents(int(d.Fd()), make([]byte, 4096))
		wantErrno(t, "read a removed directory", err, unix.ENOENT)
	})
	t.Run("ReplacedDirectory", func(t *testing.T) {
		must(t, os.Mkdir(m.path("a"), 0o700))
		must(t, os.Mkdir(m.path("b"), 0o750))
		d, err := unix.Open(m.path("b"), unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		defer unix.Close(d)
		must(t, unix.Rename(m.path("a"), m.path("b")))
		var st unix.Stat_t
		must(t, unix.Fstat(d, &st))
		if st.Nlink != 0 || st.Mode&0o777 != 0o750 {
			t.Errorf("%d links, mode %o", st.Nlink, st.Mode)
		}
	})
	t.Run("Fifo", func(t *testing.T) {
		must(t, unix.Mkfifo(m.path("p"), 0o600))
		fd, err := unix.Open(m.path("p"), unix.O_RDWR, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, os.Remove(m.path("p")))
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Nlink != 0 {
			t.Errorf("%d links", st.Nlink)
		}
		must(t, unix.Fchmod(fd, 0o622))
	})
	t.Run("NothingIsLeft", func(t *testing.T) { // Check runs at the end, too
		if n, err := os.ReadDir(m.dir); err != nil || len(n) != 1 { // b
			t.Errorf("%v, %v", n, err)
		}
	})
}

func TestTmpfileGetsAName(t *testing.T) {
	m := mountForTest(t, Options{})
	fd, err := unix.Open(m.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	must(t, err)
	_, err = unix.Write(fd, []byte("from nowhere"))
	must(t, err)
	if names, _ := os.ReadDir(m.dir); len(names) != 0 {
		t.Errorf("it has a name: %v", names)
	}
	must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, m.path("named"), unix.AT_SYMLINK_FOLLOW))
	must(t, unix.Close(fd))
	if b, err := os.ReadFile(m.path("named")); err != nil || string(b) != "from nowhere" {
		t.Errorf("%q, %v", b, err)
	}
	fd, err = unix.Open(m.dir, unix.O_TMPFILE|unix.O_RDWR, 0o600) // one that nobody names
	must(t, err)
	must(t, unix.Close(fd))
}

func TestRenameExchange(t *testing.T) {
	m := mountForTest(t, Options{EntryTimeout: hour, AttrTimeout: hour})
	must(t, os.MkdirAll(m.path("a", "sub"), 0o755))
	must(t, os.WriteFile(m.path("b"), []byte("file"), 0o644))
	must(t, unix.Renameat2(unix.AT_FDCWD, m.path("a"), unix.AT_FDCWD, m.path("b"), unix.RENAME_EXCHANGE))
	if b, err := os.ReadFile(m.path("a")); err != nil || string(b) != "file" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Stat(m.path("b", "sub")); err != nil {
		t.Error(err)
	}
}

func TestGoneNodesAreStale(t *testing.T) {
	m := mountForTest(t, Options{})
	must(t, os.Mkdir(m.path("d"), 0o755))
	must(t, os.WriteFile(m.path("d", "f"), []byte("x"), 0o644))
	d, err := unix.Open(m.path("d"), unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(d)
	f, err := unix.Open(m.path("d", "f"), unix.O_PATH, 0)
	must(t, err)
	defer unix.Close(f)
	// Somebody else removes both: nothing in the mount keeps them.
	must(t, m.store.RemoveAll(t.Context(), 1, "d", nil))
	must(t, m.store.Quiesce(t.Context()))
	var st unix.Stat_t
	wantErrno(t, "stat a directory that is gone", unix.Fstatat(d, "", &st, unix.AT_EMPTY_PATH), unix.ESTALE)
	wantErrno(t, "stat a file that is gone", unix.Fstat(f, &st), unix.ESTALE)
	_, err = os.Stat(m.path("d"))
	wantErrno(t, "stat the name", err, unix.ENOENT)
	_, err = unix.Openat(d, "f", unix.O_RDONLY, 0)
	if errno, _ := errnoOf(err); errno != unix.ESTALE && errno != unix.ENOENT {
		t.Errorf("open in a directory that is gone: %v", err)
	}
}

func TestStatfs(t *testing.T) {
	m := mountForTest(t, Options{})
	var st unix.Statfs_t
	must(t, unix.Statfs(m.dir, &st))
	if st.Type != unix.FUSE_SUPER_MAGIC || st.Bsize != 4096 || st.Namelen != 255 || st.Blocks == 0 || st.Bavail > st.Blocks || st.Ffree == 0 {
		t.Errorf("%+v", st)
	}
}

func TestLargeSequentialAndRandom(t *testing.T) {
	for name, o := range map[string]Options{"fast": {}, "strict": {Integrity: IntegrityStrict}, "sync": {Sync: true}} {
		t.Run(name, func(t *testing.T) {
			m := mountForTest(t, o)
			want := make([]byte, 3<<20+17)
			for i := range want {
				want[i] = byte(i * 7 >> 3)
			}
			must(t, os.WriteFile(m.path("f"), want, 0o644))
			f, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			for _, off := range []int{0, 1, 65535, 65536, 1 << 20, len(want) - 10} {
				copy(want[off:], "overwritten")
				_, err := f.WriteAt([]byte("overwritten"), int64(off))
				must(t, err)
				if end := off + len("overwritten"); end > len(want) {
					want = append(want, "overwritten"[len(want)-off:]...)
				}
			}
			must(t, f.Sync())
			got, err := os.ReadFile(m.path("f"))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v, want %d", len(got), err, len(want))
			}
			if st := stat(t, m.path("f")); st.Size != int64(len(want)) || st.Blocks*512 < st.Size {
				t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
			}
		})
	}
}

func TestOpenTruncates(t *testing.T) {
	eachMode(t, Options{EntryTimeout: hour, AttrTimeout: hour}, func(t *testing.T, m *testMount, _ openMode) {
		path, _ := m.makeBig("f", 100_000)
		reader := open(t, path, os.O_RDONLY) // also while it is open
		for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_RDONLY} {
			before := stat(t, path)
			time.Sleep(2 * time.Millisecond)
			f := open(t, path, flags|os.O_TRUNC)
			st := stat(t, path)
			if st.Size != 0 || st.Mtim == before.Mtim || st.Ctim == before.Ctim {
				t.Errorf("flags %#x: size %d, mtime %v, was %v", flags, st.Size, st.Mtim, before.Mtim)
			}
			if flags != os.O_RDONLY {
				_, err := f.Write([]byte("new"))
				must(t, err)
			}
			must(t, f.Close())
			buf := make([]byte, 100)
			n, _ := reader.ReadAt(buf, 0)
			if want := map[bool]string{true: "new"}[flags != os.O_RDONLY]; string(buf[:n]) != want {
				t.Errorf("flags %#x: content %q, want %q", flags, buf[:n], want)
			}
		}
		must(t, unix.Chmod(path, 0o4777))
		must(t, os.Chmod(m.dir, 0o777))
		asUser(t, 1234, 1234, func() { must(t, open(t, path, os.O_WRONLY|os.O_TRUNC).Close()) })
		if st := stat(t, path); st.Mode&0o7777 != 0o777 {
			t.Errorf("mode %o", st.Mode&0o7777)
		}
		must(t, os.WriteFile(path, []byte("x"), 0))
		must(t, os.Chmod(path, 0o644))
		asUser(t, 1234, 1234, func() {
			_, err := os.OpenFile(path, os.O_RDONLY|os.O_TRUNC, 0)
			wantErrno(t, "truncate without permission", err, unix.EACCES)
		})
		if st := stat(t, path); st.Size != 1 {
			t.Errorf("an open that failed has truncated: size %d", st.Size)
		}
	})
}

package posix

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// atCwd is AT_FDCWD as an argument of the calls that take a directory.
const atCwd = unix.AT_FDCWD

// env is one case: its thread stands in the case's directory as root.
type env struct {
	*testing.T
	dir  string // the directory, absolute
	o    Options
	top  int    // a descriptor of dir
	fds  []int  // open descriptors, closed at the end
	self string // "/proc/thread-self/fd/", where linkat(2) finds descriptors
	step string // which of many like steps the case is at
}

// at says which of many like steps the case is at, for when it fails.
func (e *env) at(format string, args ...any) { e.step = fmt.Sprintf(format, args...) }

// newEnv binds the calling test to a thread that ends with it.
func newEnv(t *testing.T, dir string, o Options) *env {
	t.Helper()
	e := &env{T: t, dir: dir, o: o, self: "/proc/thread-self/fd/"}
	// Never unlocked: the runtime ends a thread whose goroutine exits locked, so
	// no other goroutine ever runs with this one's credentials or directory.
	runtime.LockOSThread()
	e.ok(unix.Unshare(unix.CLONE_FS))
	unix.Umask(0)
	e.ok(unix.Mkdir(dir, 0o777))
	e.ok(unix.Chdir(dir))
	t.Cleanup(e.end)
	e.top = e.open(".", unix.O_PATH, 0)
	return e
}

// end gives the directory up and removes it.
func (e *env) end() {
	if e.Failed() && e.step != "" {
		e.Log("at", e.step)
	}
	if err := become(root); err != nil {
		e.Error(err)
	}
	for _, fd := range e.fds {
		unix.Close(fd)
	}
	e.ok(unix.Chdir("/"))
	if err := os.RemoveAll(e.dir); err != nil {
		e.Error(err)
	}
}

// ok ends the case unless err is nil: what follows depends on it.
func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("got %s, want success", errnoName(err))
	}
}

// want compares a result with the errors a manual page allows; 0 is success.
func (e *env) want(err error, allowed ...unix.Errno) {
	e.Helper()
	var got unix.Errno
	if err != nil && !errors.As(err, &got) {
		e.Errorf("got %v, which is no errno", err)
		return
	}
	if !slices.Contains(allowed, got) {
		e.Errorf("got %s, want %s", errnoName(got), errnoNames(allowed))
	}
}

// errnoOf returns the errno of an error of a system call, 0 for nil.
func errnoOf(err error) unix.Errno {
	var n unix.Errno
	if err != nil && !errors.As(err, &n) {
		panic(err) // no system call returns this
	}
	return n
}

func errnoNames(list []unix.Errno) string {
	var b bytes.Buffer
	for i, n := range list {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(errnoName(n))
	}
	return b.String()
}

func errnoName(err error) string {
	var n unix.Errno
	if !errors.As(err, &n) {
		return err.Error()
	}
	if n == 0 {
		return "success"
	}
	return unix.ErrnoName(n)
}

// equal reports a difference between two values of one thing.
func equal[V comparable](e *env, what string, got, want V) {
	e.Helper()
	if got != want {
		e.Errorf("%s = %v, want %v", what, got, want)
	}
}

// mode reports a difference in the permission bits, suid, sgid and sticky.
func (e *env) mode(path string, want uint32) {
	e.Helper()
	if got := e.lstat(path).Mode & 0o7777; got != want {
		e.Errorf("mode of %q = %04o, want %04o", path, got, want)
	}
}

// owner reports a difference in the owner or the group.
func (e *env) owner(path string, uid, gid int) {
	e.Helper()
	st := e.lstat(path)
	if int(st.Uid) != uid || int(st.Gid) != gid {
		e.Errorf("owner of %q = %d:%d, want %d:%d", path, st.Uid, st.Gid, uid, gid)
	}
}

func (e *env) size(path string, want int64) {
	e.Helper()
	equal(e, "size of "+path, e.lstat(path).Size, want)
}

func (e *env) nlink(path string, want uint64) {
	e.Helper()
	equal(e, "nlink of "+path, uint64(e.lstat(path).Nlink), want)
}

// content reports a difference between a file and want.
func (e *env) content(path, want string) {
	e.Helper()
	got, err := readUpTo(path, len(want)+1)
	e.ok(err)
	if got != want {
		e.Errorf("content of %q starts with %d bytes %.40q, want %d bytes %.40q", path, len(got), got, len(want), want)
	}
}

// gone reports a name that still exists.
func (e *env) gone(path string) {
	e.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); !errors.Is(err, unix.ENOENT) {
		e.Errorf("lstat(%q): got %v, want ENOENT", path, err)
	}
}

func (e *env) lstat(path string) unix.Stat_t {
	e.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		e.Fatalf("lstat(%q): %s", path, errnoName(err))
	}
	return st
}

func (e *env) fstat(fd int) unix.Stat_t {
	e.Helper()
	var st unix.Stat_t
	e.ok(unix.Fstat(fd, &st))
	return st
}

// open returns a descriptor that lives until the end of the case.
func (e *env) open(path string, flags int, perm uint32) int {
	e.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
	if err != nil {
		e.Fatalf("open(%q, %#x): %s", path, flags, errnoName(err))
	}
	e.fds = append(e.fds, fd)
	return fd
}

// close closes a descriptor that open returned.
func (e *env) close(fd int) {
	e.Helper()
	e.fds = slices.DeleteFunc(e.fds, func(v int) bool { return v == fd })
	e.ok(unix.Close(fd))
}

// tryOpen returns what open(2) said, and keeps nothing open.
func tryOpen(path string, flags int, perm uint32) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

// mkdir makes directories, all with the same mode.
func (e *env) mkdir(perm uint32, paths ...string) {
	e.Helper()
	for _, p := range paths {
		e.ok(unix.Mkdir(p, perm))
	}
}

// file makes a regular file.
func (e *env) file(path string, perm uint32, content string) {
	e.Helper()
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, perm)
	e.ok(err)
	writeFull(e, fd, content)
	e.ok(unix.Close(fd))
}

// chown sets the owner of the name itself, then the mode again: chown(2) drops
// the suid and sgid bits.
func (e *env) chown(path string, u user) {
	e.Helper()
	st := e.lstat(path)
	e.ok(unix.Lchown(path, u.uid, u.gid))
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		e.ok(unix.Chmod(path, st.Mode&0o7777))
	}
}

func writeFull(e *env, fd int, content string) {
	e.Helper()
	for b := []byte(content); len(b) > 0; {
		n, err := unix.Write(fd, b)
		e.ok(err)
		b = b[n:]
	}
}

// readUpTo returns the first n bytes of a file, or all there are: a file that is
// larger than it should be must not fill the memory.
func readUpTo(path string, n int) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var out []byte
	for buf := make([]byte, min(n, 64<<10)); len(out) < n; {
		got, err := unix.Read(fd, buf[:min(len(buf), n-len(out))])
		if got <= 0 || err != nil {
			return string(out), err
		}
		out = append(out, buf[:got]...)
	}
	return string(out), nil
}

// pread returns n bytes at off, or fewer at the end of the file.
func (e *env) pread(fd, n int, off int64) string {
	e.Helper()
	buf := make([]byte, n)
	got, err := unix.Pread(fd, buf, off)
	e.ok(err)
	return string(buf[:got])
}

// number is a short name.
func number(i int) string { return strconv.Itoa(i) }

// list returns the sorted names of a directory, without "." and "..".
func (e *env) list(path string) []string {
	e.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	e.ok(err)
	defer unix.Close(fd)
	var names []string
	for _, d := range e.entries(fd, 64<<10) {
		if d.name != "." && d.name != ".." {
			names = append(names, d.name)
		}
	}
	slices.Sort(names)
	return names
}

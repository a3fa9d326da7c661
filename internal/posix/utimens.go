package posix

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	utimeNow  = unix.Timespec{Nsec: unix.UTIME_NOW}
	utimeOmit = unix.Timespec{Nsec: unix.UTIME_OMIT}
	someTime  = unix.Timespec{Sec: 1_000_000_001, Nsec: 123_456_789}
	otherTime = unix.Timespec{Sec: 1_900_000_000, Nsec: 987_654_321}
)

// setTimes does not follow a symlink.
func setTimes(path string, atime, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(atCwd, path, []unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

// futimens is utimensat(2) without a path, which package unix does not offer.
func futimens(fd int, atime, mtime unix.Timespec) error {
	ts := [2]unix.Timespec{atime, mtime}
	_, _, n := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if n != 0 {
		return n
	}
	return nil
}

func (e *env) atimeMtime(path string, atime, mtime unix.Timespec) {
	e.Helper()
	st := e.lstat(path)
	equal(e, "atime", st.Atim, atime)
	equal(e, "mtime", st.Mtim, mtime)
}

// utimensCases are utimensat(2) and futimens(3).
func utimensCases(s *suite) {
	s.each("sets nanoseconds", allKinds, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		e.ok(setTimes("f", someTime, otherTime))
		e.atimeMtime("f", someTime, otherTime)
		e.ok(setTimes("f", otherTime, someTime)) // mtime before atime, and back in time
		e.atimeMtime("f", otherTime, someTime)
		e.is("f", k)
	})
	s.each("now", allKinds, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		e.ok(setTimes("f", someTime, someTime))
		e.times(func() { e.ok(setTimes("f", utimeNow, utimeNow)) }, "f:amc", ".:")
		e.ok(setTimes("f", someTime, someTime))
		e.times(func() { e.ok(setTimes("f", utimeOmit, utimeNow)) }, "f:mc", ".:")
		equal(e, "atime", e.lstat("f").Atim, someTime)
		e.ok(setTimes("f", someTime, someTime))
		e.times(func() { e.ok(setTimes("f", utimeNow, utimeOmit)) }, "f:ac", ".:")
		equal(e, "mtime", e.lstat("f").Mtim, someTime)
		e.times(func() { e.ok(unix.UtimesNanoAt(atCwd, "f", nil, unix.AT_SYMLINK_NOFOLLOW)) }, "f:amc", ".:")
	})
	s.each("omit", allKinds, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		e.ok(setTimes("f", someTime, someTime))
		e.ok(setTimes("f", utimeOmit, otherTime))
		e.atimeMtime("f", someTime, otherTime)
		e.ok(setTimes("f", otherTime, utimeOmit))
		e.atimeMtime("f", otherTime, otherTime)
		e.still(func() { e.ok(setTimes("f", utimeOmit, utimeOmit)) }, "f", ".")
		e.still(func() { e.want(e.try(bob, func() error { return setTimes("f", utimeOmit, utimeOmit) }), 0) }, "f")
	})
	s.each("moves ctime", allKinds, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		before := e.lstat("f").Ctim
		tick()
		e.ok(setTimes("f", someTime, otherTime))
		e.moved("ctime", before, e.lstat("f").Ctim, clock(unix.CLOCK_REALTIME))
	})
	utimensArgumentCases(s)
	s.run("permissions", utimensPermissions)
	utimensLaterCases(s)
}

func utimensArgumentCases(s *suite) {
	s.run("follows", func(e *env) {
		e.file("f", 0o644, "")
		e.ok(unix.Symlink("f", "s"))
		e.ok(setTimes("s", otherTime, otherTime))
		e.ok(unix.UtimesNanoAt(atCwd, "s", []unix.Timespec{someTime, someTime}, 0))
		e.atimeMtime("f", someTime, someTime)
		equal(e, "mtime of the symlink", e.lstat("s").Mtim, otherTime)
	})
	s.run("by descriptor", func(e *env) {
		e.file("f", 0o644, "")
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY} {
			fd := e.open("f", flags, 0)
			e.ok(futimens(fd, someTime, otherTime))
			e.atimeMtime("f", someTime, otherTime)
			e.ok(futimens(fd, utimeNow, utimeNow))
		}
		e.want(futimens(-1, someTime, someTime), unix.EBADF)
		e.want(futimens(e.open("f", unix.O_PATH, 0), someTime, someTime), unix.EBADF)
		d := e.open(".", unix.O_DIRECTORY, 0)
		e.ok(unix.UtimesNanoAt(d, "f", []unix.Timespec{otherTime, someTime}, 0))
		e.atimeMtime("f", otherTime, someTime)
		e.want(unix.UtimesNanoAt(d, "f", nil, 1<<30), unix.EINVAL)
	})
	seconds := []int64{0, 1, -1, 1<<31 - 1, 1 << 31, 1<<32 + 5, -1<<31 + 1, 1<<33 - 1}
	for _, sec := range seconds {
		s.run(fmt.Sprintf("second %d", sec), func(e *env) {
			// The range of ext4's 34-bit seconds, which any 64-bit format holds: 1901 to 2242.
			e.file("f", 0o644, "")
			for _, ns := range []int64{0, 1, 999_999_999} {
				ts := unix.Timespec{Sec: sec, Nsec: ns}
				e.ok(setTimes("f", ts, ts))
				e.atimeMtime("f", ts, ts)
			}
		})
	}
	s.run("nanoseconds out of range", func(e *env) {
		e.file("f", 0o644, "")
		e.still(func() {
			for _, ns := range []int64{-1, 1_000_000_000, unix.UTIME_OMIT - 1, unix.UTIME_NOW + 1, 1 << 31} {
				e.want(setTimes("f", unix.Timespec{Nsec: ns}, someTime), unix.EINVAL)
				e.want(setTimes("f", someTime, unix.Timespec{Nsec: ns}), unix.EINVAL)
			}
		}, "f")
	})
}

// utimensLaterCases: times that were set stay until something is written.
func utimensLaterCases(s *suite) {
	s.run("survives what does not write", func(e *env) {
		e.file("f", 0o644, "content")
		e.ok(setTimes("f", someTime, otherTime))
		e.ok(unix.Chmod("f", 0o600))
		e.ok(unix.Link("f", "g"))
		e.ok(unix.Rename("g", "h"))
		e.ok(tryOpen("f", unix.O_RDWR, 0))
		equal(e, "mtime", e.lstat("f").Mtim, otherTime)
	})
	s.run("set after writing, then closed", func(e *env) {
		// tar and cp -p set times on the open descriptor, after the last write.
		fd := e.open("f", unix.O_CREAT|unix.O_WRONLY, 0o644)
		writeFull(e, fd, "content")
		e.ok(futimens(fd, someTime, otherTime))
		e.close(fd)
		equal(e, "mtime", e.lstat("f").Mtim, otherTime)
		tick()
		fd = e.open("f", unix.O_RDONLY, 0)
		e.ok(unix.Fsync(fd))
		equal(e, "mtime", e.fstat(fd).Mtim, otherTime)
	})
}

// utimensPermissions: whoever may write can set both times to now; only the
// owner and root can set them to anything else (utimensat(2), table).
func utimensPermissions(e *env) {
	tests := []struct {
		mode         uint32
		u            user
		atime, mtime unix.Timespec
		want         unix.Errno
	}{
		{0o644, bob, utimeNow, utimeNow, unix.EACCES},
		{0o646, bob, utimeNow, utimeNow, 0},
		{0o664, bob.with(alice.gid), utimeNow, utimeNow, 0},
		{0o646, bob.with(alice.gid), utimeNow, utimeNow, unix.EACCES},
		{0o646, bob, someTime, otherTime, unix.EPERM},
		{0o646, bob, utimeOmit, otherTime, unix.EPERM},
		{0o646, bob, someTime, utimeOmit, unix.EPERM},
		{0o646, bob, utimeNow, otherTime, unix.EPERM},
		{0o646, bob, utimeOmit, utimeNow, unix.EPERM},
		{0o646, bob, utimeNow, utimeOmit, unix.EPERM},
		{0o644, bob, utimeOmit, utimeOmit, 0},
		{0, alice, utimeNow, utimeNow, 0},
		{0, alice, someTime, otherTime, 0},
		{0o444, alice, utimeOmit, otherTime, 0},
		{0, root, someTime, otherTime, 0},
	}
	for i, tt := range tests {
		f := number(i)
		e.makeAs(alice, regular, f, tt.mode)
		before := e.lstat(f)
		err := e.try(tt.u, func() error { return setTimes(f, tt.atime, tt.mtime) })
		if got := errnoOf(err); got != tt.want {
			e.Errorf("test %d: got %s, want %s", i, errnoName(got), errnoName(tt.want))
		}
		if after := e.lstat(f); tt.want != 0 && (after.Mtim != before.Mtim || after.Ctim != before.Ctim) {
			e.Errorf("test %d: refused, but times moved", i)
		}
	}
	e.makeAs(alice, regular, "null", 0o646)
	e.want(e.try(bob, func() error { return unix.UtimesNanoAt(atCwd, "null", nil, 0) }), 0)
	e.ok(unix.Chmod("null", 0o644))
	e.want(e.try(bob, func() error { return unix.UtimesNanoAt(atCwd, "null", nil, 0) }), unix.EACCES)
}

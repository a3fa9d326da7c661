package posix

import (
	"strings"

	"golang.org/x/sys/unix"
)

func symlinkCases(s *suite) {
	targets := map[string]string{
		"relative":       "a/b",
		"absolute":       "/a/b",
		"dots":           "../.././x/",
		"spaces":         " a b ",
		"invalid utf-8":  "\xff\xfe/\x80",
		"line feed":      "a\nb",
		"59 bytes":       strings.Repeat("t", 59), // ext4 keeps up to 59 in the inode
		"60 bytes":       strings.Repeat("t", 60),
		"61 bytes":       strings.Repeat("t", 61),
		"1024 bytes":     strings.Repeat("/long", 1024/5),
		"the longest":    strings.Repeat("t/", (pathMax-2)/2) + "t", // 4095 bytes
		"slashes":        "//////",
		"itself":         "s",
		"a long name":    strings.Repeat("n", 300),
		"4094 bytes":     strings.Repeat("0", pathMax-2),
		"every byte":     everyByte(),
		"a single slash": "/",
	}
	for name, target := range targets {
		s.run("target, "+name, func(e *env) {
			e.ok(unix.Symlink(target, "s"))
			e.is("s", symlink)
			e.nlink("s", 1)
			e.size("s", int64(len(target)))
			equal(e, "target", e.readlink("s"), target)
			equal(e, "mode", e.lstat("s").Mode&0o7777, 0o777)
		})
	}
	s.run("target refused", func(e *env) {
		e.still(func() {
			e.want(unix.Symlink("", "s"), unix.ENOENT)
			e.want(unix.Symlink(strings.Repeat("t", pathMax), "s"), unix.ENAMETOOLONG)
		}, ".")
		e.gone("s")
	})
	s.run("resolves", func(e *env) {
		e.mkdir(0o755, "d")
		e.file("d/f", 0o644, "content")
		e.ok(unix.Symlink("f", "d/s"))      // relative to where it lies
		e.ok(unix.Symlink("../d/s", "d/t")) // and on from there
		e.content("d/s", "content")
		e.content("d/t", "content")
		e.ok(unix.Rename("d/t", "t"))
		e.want(tryOpen("t", unix.O_RDONLY, 0), unix.ENOENT)
	})
	s.run("owner and umask", func(e *env) {
		unix.Umask(0o077)
		e.as(alice, func() { e.ok(unix.Symlink("x", "s")) })
		e.owner("s", alice.uid, alice.gid)
		equal(e, "mode", e.lstat("s").Mode&0o7777, 0o777)
	})
	s.run("moves times", func(e *env) {
		e.file("f", 0o644, "")
		before := e.lstat(".").Ctim
		e.times(func() { e.ok(unix.Symlink("f", "s")) }, ".:mc", "f:")
		st := e.lstat("s")
		for what, ts := range map[string]unix.Timespec{"atime": st.Atim, "mtime": st.Mtim, "ctime": st.Ctim} {
			if ts.Nano() <= before.Nano() {
				e.Errorf("%s of the new symlink is %v, want later than %v", what, stamp(ts), stamp(before))
			}
		}
	})
	s.run("needs write on the directory", func(e *env) {
		e.mkdir(0o755, "d")
		make := func() error { return unix.Symlink("x", "d/s") }
		e.still(func() { e.want(e.try(alice, make), unix.EACCES) }, "d")
		e.ok(unix.Chmod("d", 0o773))
		e.want(e.try(alice, make), 0)
	})
	s.run("beside a directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.file("f", 0o644, "")
		d, f := e.open("d", unix.O_DIRECTORY, 0), e.open("f", unix.O_RDONLY, 0)
		e.ok(unix.Symlinkat("target", d, "s"))
		equal(e, "target", e.readlink("d/s"), "target")
		e.want(unix.Symlinkat("target", d, "s"), unix.EEXIST)
		e.want(unix.Symlinkat("target", f, "s"), unix.ENOTDIR)
		e.want(unix.Symlinkat("target", -1, "s"), unix.EBADF)
	})
	readlinkCases(s)
}

func readlinkCases(s *suite) {
	s.each("readlink of other kinds", modal, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		_, err := unix.Readlink("f", make([]byte, 10))
		e.want(err, unix.EINVAL)
	})
	s.run("readlink into short buffers", func(e *env) {
		e.ok(unix.Symlink("0123456789", "s"))
		for n := 1; n <= 12; n++ {
			buf := make([]byte, n)
			got, err := unix.Readlink("s", buf)
			e.ok(err)
			equal(e, "target", string(buf[:got]), "0123456789"[:min(n, 10)])
		}
		_, err := unix.Readlink("s", nil)
		e.want(err, unix.EINVAL)
	})
	s.run("readlink needs no read permission", func(e *env) {
		e.mkdir(0o711, "d")
		e.ok(unix.Symlink("target", "d/s"))
		e.as(alice, func() { equal(e, "target", e.readlink("d/s"), "target") })
	})
	s.run("readlinkat", func(e *env) {
		e.ok(unix.Symlink("target", "s"))
		buf := make([]byte, 10)
		fd := e.open("s", unix.O_PATH|unix.O_NOFOLLOW, 0)
		n, err := unix.Readlinkat(fd, "", buf)
		e.ok(err)
		equal(e, "target", string(buf[:n]), "target")
		_, err = unix.Readlinkat(e.open(".", unix.O_DIRECTORY, 0), "s", buf)
		e.ok(err)
		_, err = unix.Readlinkat(-1, "s", buf)
		e.want(err, unix.EBADF)
	})
}

func everyByte() string {
	var b strings.Builder
	for i := 1; i < 256; i++ {
		b.WriteByte(byte(i))
	}
	return b.String()
}

func (e *env) readlink(path string) string {
	e.Helper()
	buf := make([]byte, pathMax+1)
	n, err := unix.Readlink(path, buf)
	e.ok(err)
	return string(buf[:n])
}

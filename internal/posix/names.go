package posix

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// nameCases are the names a directory takes: any bytes but "/" and NUL.
func nameCases(s *suite) {
	for lo := 1; lo < 256; lo += 16 {
		s.run(fmt.Sprintf("bytes from %#02x", lo), func(e *env) {
			var names []string
			for b := lo; b < min(lo+16, 256); b++ {
				if b != '/' {
					names = append(names, "a"+string([]byte{byte(b)})+"z", strings.Repeat(string([]byte{byte(b)}), 3))
				}
			}
			roundTrip(e, names)
		})
	}
	sets := map[string][]string{
		"single bytes":       {"a", " ", "\n", "\\", "\"", "'", "*", "?", "~", "\x7f", "\xff", "-", "%", ":", "\t"},
		"utf-8":              {"a\u0308", "\u00e4", "日本語", "🦊", "\u202e", "\ufeff", "İ", "ı", "ß", "SS"},
		"invalid utf-8":      {"\xc3", "\xff\xfe", "\xed\xa0\x80", "a\x80", "\xf8\x88\x80\x80\x80", "\xc0\xaf"},
		"case":               {"a", "A", "README", "readme", "ReadMe"},
		"dots":               {"...", "....", ".a", "a.", "..a", ". ", " .", ".\n"},
		"spaces":             {" a", "a ", "a a", "  ", "a\n", "\r"},
		"reserved by others": {"CON", "nul", "a:b", "a\\b", "aux.txt", "a|b", "desktop.ini", ".DS_Store", "._a", "Thumbs.db"},
		"escapes":            {"%2F", "%00", "a%20b", "&amp;", "<x>", "..%2f", "\\x00"},
		"common prefixes":    {"a", "aa", "aaa", "a\x00"[:1] + "b", "a!", "a~", "a\x01"},
	}
	for name, names := range sets {
		s.run(name, func(e *env) { roundTrip(e, names) })
	}
	s.run("255 bytes of three each", func(e *env) { roundTrip(e, []string{strings.Repeat("語", 85)}) })
	s.run("256 bytes in 86 characters", func(e *env) {
		e.want(unix.Mkdir(strings.Repeat("語", 85)+"x", 0o755), unix.ENAMETOOLONG)
	})
	s.run("every length", func(e *env) {
		var names []string
		for n := 1; n <= nameMax; n++ {
			names = append(names, strings.Repeat("x", n))
		}
		roundTrip(e, names)
	})
	s.run("dot and dotdot", dotNames)
	s.run("deep", deepPath)
}

// roundTrip makes a file of every name and finds each by lookup, by listing, and
// again under a name that differs in nothing but the directory.
func roundTrip(e *env, names []string) {
	e.mkdir(0o755, "from", "to")
	inos := map[string]uint64{}
	for _, n := range names {
		e.file("from/"+n, 0o644, n)
		inos[n] = e.lstat("from/" + n).Ino
	}
	want := slices.Sorted(slices.Values(names))
	equal(e, "listing", fmt.Sprintf("%q", e.list("from")), fmt.Sprintf("%q", want))
	for _, n := range names {
		e.content("from/"+n, n)
		e.ok(unix.Rename("from/"+n, "to/"+n))
		equal(e, fmt.Sprintf("ino of %q", n), e.lstat("to/"+n).Ino, inos[n])
		e.ok(unix.Symlink(n, "to/link"))
		e.content("to/link", n)
		e.ok(unix.Unlink("to/link"))
	}
	equal(e, "listing", fmt.Sprintf("%q", e.list("to")), fmt.Sprintf("%q", want))
	for _, n := range names {
		e.ok(unix.Unlink("to/" + n))
	}
	e.ok(unix.Rmdir("to"))
}

func dotNames(e *env) {
	e.mkdir(0o755, "d", "d/e")
	e.file("f", 0o644, "")
	equal(e, "ino of d/.", e.lstat("d/.").Ino, e.lstat("d").Ino)
	equal(e, "ino of d/..", e.lstat("d/..").Ino, e.lstat(".").Ino)
	equal(e, "ino of d/e/../..", e.lstat("d/e/../..").Ino, e.lstat(".").Ino)
	for _, p := range []string{"d/.", "d/.."} {
		e.want(unix.Mkdir(p, 0o755), unix.EEXIST)
		e.want(unix.Unlink(p), unix.EISDIR, unix.EPERM)
		e.want(unix.Rename("d/e", p), unix.EBUSY)
		e.want(unix.Rename(p, "new"), unix.EBUSY)
		e.want(unix.Link("f", p), unix.EEXIST)
	}
	e.want(unix.Rmdir("d/."), unix.EINVAL)
	e.want(unix.Rmdir("d/.."), unix.ENOTEMPTY)
	e.want(unix.Rmdir("d/e/.."), unix.ENOTEMPTY)
}

// deepPath goes 600 directories down, below what one path can name.
func deepPath(e *env) {
	const depth, name = 600, "directory"
	fd := e.open(".", unix.O_DIRECTORY, 0)
	for range depth {
		e.ok(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		e.ok(err)
		e.close(fd)
		e.fds = append(e.fds, next)
		fd = next
	}
	for range depth {
		up, err := unix.Openat(fd, "..", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		e.ok(err)
		e.close(fd)
		e.fds = append(e.fds, up)
		fd = up
		e.ok(unix.Unlinkat(fd, name, unix.AT_REMOVEDIR))
	}
	equal(e, "ino at the top", e.fstat(fd).Ino, e.lstat(".").Ino)
}

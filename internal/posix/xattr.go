package posix

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// attr reports a difference in an attribute's value; it does not follow symlinks.
func (e *env) attr(path, name, want string) {
	e.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(path, name, buf)
	e.ok(err)
	if got := string(buf[:n]); got != want {
		e.Errorf("%s of %q = %d bytes %.40q, want %d bytes %.40q", name, path, len(got), got, len(want), want)
	}
}

// attrs returns the sorted attribute names in a name space.
func (e *env) attrs(path, space string) []string {
	e.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	e.ok(err)
	var list []string
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if strings.HasPrefix(name, space) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

func setAttr(path, name, value string) error { return unix.Setxattr(path, name, []byte(value), 0) }

func xattrCases(s *suite) {
	if s.o.NoXattr {
		return
	}
	for _, k := range []kind{regular, directory} {
		s.run("set, get, list, remove on a "+k.name, func(e *env) {
			e.make(k, "f", 0o755)
			equal(e, "names", len(e.attrs("f", "user.")), 0)
			values := map[string]string{"user.a": "value", "user.empty": "", "user.b.c": everyByte() + "\x00", "user.ä\xff": "x"}
			for name, v := range values {
				e.ok(setAttr("f", name, v))
			}
			for name, v := range values {
				e.attr("f", name, v)
			}
			equal(e, "names", fmt.Sprintf("%q", e.attrs("f", "user.")), fmt.Sprintf("%q", slices.Sorted(maps.Keys(values))))
			e.ok(setAttr("f", "user.a", "a longer value than before"))
			e.attr("f", "user.a", "a longer value than before")
			e.ok(setAttr("f", "user.a", ""))
			e.attr("f", "user.a", "")
			for name := range values {
				e.ok(unix.Removexattr("f", name))
				e.want(unix.Removexattr("f", name), unix.ENODATA)
			}
			equal(e, "names", len(e.attrs("f", "user.")), 0)
		})
		s.run("times of a "+k.name, func(e *env) {
			e.make(k, "f", 0o755)
			e.times(func() { e.ok(setAttr("f", "user.a", "1")) }, "f:c", ".:")
			e.times(func() { e.ok(setAttr("f", "user.a", "2")) }, "f:c", ".:")
			e.still(func() { e.attr("f", "user.a", "2"); e.attrs("f", "user.") }, "f", ".")
			e.times(func() { e.ok(unix.Removexattr("f", "user.a")) }, "f:c", ".:")
			e.still(func() {
				e.want(unix.Removexattr("f", "user.a"), unix.ENODATA)
				e.want(unix.Setxattr("f", "user.a", nil, unix.XATTR_REPLACE), unix.ENODATA)
			}, "f", ".")
		})
	}
	s.run("create and replace", func(e *env) {
		e.file("f", 0o644, "")
		set := func(v string, flags int) error { return unix.Setxattr("f", "user.a", []byte(v), flags) }
		e.want(set("1", unix.XATTR_REPLACE), unix.ENODATA)
		e.want(set("2", unix.XATTR_CREATE), 0)
		e.still(func() { e.want(set("3", unix.XATTR_CREATE), unix.EEXIST) }, "f")
		e.attr("f", "user.a", "2")
		e.want(set("4", unix.XATTR_REPLACE), 0)
		e.attr("f", "user.a", "4")
		e.want(set("5", 1<<10), unix.EINVAL)
	})
	s.run("short buffers", func(e *env) {
		e.file("f", 0o644, "")
		e.ok(setAttr("f", "user.a", "0123456789"))
		n, err := unix.Getxattr("f", "user.a", nil)
		e.ok(err)
		equal(e, "size", n, 10)
		_, err = unix.Getxattr("f", "user.a", make([]byte, 9))
		e.want(err, unix.ERANGE)
		n, err = unix.Getxattr("f", "user.a", make([]byte, 10))
		e.ok(err)
		equal(e, "size", n, 10)
		n, err = unix.Listxattr("f", nil)
		e.ok(err)
		_, err = unix.Listxattr("f", make([]byte, n-1))
		e.want(err, unix.ERANGE)
		_, err = unix.Listxattr("f", make([]byte, n))
		e.ok(err)
		_, err = unix.Getxattr("f", "user.none", nil)
		e.want(err, unix.ENODATA)
	})
	xattrLimitCases(s)
	xattrInodeCases(s)
	s.run("permissions", xattrPermissions)
	s.run("sticky directory", func(e *env) {
		e.makeAs(alice, directory, "d", 0o1777)
		set := func() error { return setAttr("d", "user.a", "v") }
		e.want(e.try(bob, set), unix.EPERM)
		e.want(e.try(alice, set), 0)
		e.ok(unix.Chmod("d", 0o777))
		e.want(e.try(bob, set), 0)
	})
	if !s.o.NoTrustedXattr {
		s.each("trusted attributes", allKinds, trustedAttributes)
	}
	s.run("security attributes", securityAttributes)
	capabilityCases(s)
}

func xattrLimitCases(s *suite) {
	s.run("names", func(e *env) {
		e.file("f", 0o644, "")
		longest := "user." + strings.Repeat("n", 250)
		e.ok(setAttr("f", longest, "v"))
		e.attr("f", longest, "v")
		e.ok(setAttr("f", "user.x", "v"))
		tests := map[string][]unix.Errno{
			longest + "n": {unix.ERANGE},
			"":            {unix.ERANGE},
			"user.":       {unix.EINVAL},
			"user":        {unix.EOPNOTSUPP},
			"unknown.a":   {unix.EOPNOTSUPP},
			"a":           {unix.EOPNOTSUPP},
		}
		for name, want := range tests {
			e.want(setAttr("f", name, "v"), want...)
			_, err := unix.Getxattr("f", name, nil)
			e.want(err, want...)
			e.want(unix.Removexattr("f", name), want...)
		}
		equal(e, "names", fmt.Sprintf("%q", e.attrs("f", "user.")), fmt.Sprintf("%q", []string{longest, "user.x"}))
	})
	s.run("the largest value", func(e *env) {
		e.file("f", 0o644, "")
		e.want(setAttr("f", "user.a", strings.Repeat("v", 1<<16+1)), unix.E2BIG)
		e.ok(setAttr("f", "user.b", strings.Repeat("w", 2000)))
		big := string(pattern(1 << 16))
		err := setAttr("f", "user.a", big)
		e.want(err, 0, unix.ENOSPC, unix.E2BIG) // ext4 keeps them in one block
		if err == nil {
			e.attr("f", "user.a", big)
		}
		e.attr("f", "user.b", strings.Repeat("w", 2000))
	})
	s.run("forty at once", func(e *env) {
		e.file("f", 0o644, "")
		for i := range 40 {
			e.ok(setAttr("f", "user."+number(i), "value "+number(i)))
		}
		for i := 0; i < 40; i += 2 {
			e.ok(unix.Removexattr("f", "user."+number(i)))
		}
		equal(e, "names", len(e.attrs("f", "user.")), 20)
		for i := 1; i < 40; i += 2 {
			e.attr("f", "user."+number(i), "value "+number(i))
		}
	})
}

func xattrInodeCases(s *suite) {
	s.run("follow the inode", func(e *env) {
		e.file("f", 0o644, "")
		e.ok(setAttr("f", "user.a", "v"))
		e.ok(unix.Link("f", "g"))
		e.ok(unix.Rename("f", "h"))
		e.attr("g", "user.a", "v")
		e.ok(setAttr("g", "user.a", "w"))
		e.attr("h", "user.a", "w")
		e.file("f", 0o644, "")
		equal(e, "names on a new file", len(e.attrs("f", "user.")), 0)
		e.ok(unix.Rename("h", "f"))
		e.attr("f", "user.a", "w")
	})
	s.run("by descriptor", func(e *env) {
		e.file("f", 0o644, "")
		fd, path := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_PATH, 0)
		e.ok(unix.Fsetxattr(fd, "user.a", []byte("v"), 0))
		e.attr("f", "user.a", "v")
		n, err := unix.Flistxattr(fd, nil)
		e.ok(err)
		if n < len("user.a")+1 {
			e.Errorf("list of %d bytes", n)
		}
		e.ok(unix.Fremovexattr(fd, "user.a"))
		e.want(unix.Fsetxattr(path, "user.a", nil, 0), unix.EBADF)
		e.want(unix.Fsetxattr(-1, "user.a", nil, 0), unix.EBADF)
	})
	s.each("user attributes are for files and directories", []kind{symlink, fifo, socket, char, block}, func(e *env, k kind) {
		e.make(k, "f", 0o666)
		e.still(func() {
			e.want(unix.Lsetxattr("f", "user.a", []byte("v"), 0), unix.EPERM)
			_, err := unix.Lgetxattr("f", "user.a", nil)
			e.want(err, unix.ENODATA, unix.EPERM)
			e.want(unix.Lremovexattr("f", "user.a"), unix.EPERM)
		}, "f")
	})
}

// securityAttributes are root's to set and anyone's to read.
func securityAttributes(e *env) {
	e.makeAs(alice, regular, "f", 0o666)
	err := setAttr("f", "security.posix", "v")
	e.want(err, 0, unix.EOPNOTSUPP)
	if err == nil {
		e.attr("f", "security.posix", "v")
		e.as(bob, func() { e.attr("f", "security.posix", "v") })
	}
	e.want(e.try(alice, func() error { return setAttr("f", "security.posix", "w") }), unix.EPERM)
}

// xattrPermissions: user attributes are content: reading them needs read,
// changing them write, and listing only the way there.
func xattrPermissions(e *env) {
	e.makeAs(alice, regular, "f", 0o644)
	e.ok(setAttr("f", "user.a", "v"))
	set := func() error { return setAttr("f", "user.a", "w") }
	get := func() error { _, err := unix.Getxattr("f", "user.a", nil); return err }
	remove := func() error { return unix.Removexattr("f", "user.a") }
	list := func() error { _, err := unix.Listxattr("f", nil); return err }
	e.still(func() {
		e.want(e.try(bob, set), unix.EACCES)
		e.want(e.try(bob, remove), unix.EACCES)
	}, "f")
	e.want(e.try(bob, get), 0)
	e.ok(unix.Chmod("f", 0o602))
	e.want(e.try(bob, get), unix.EACCES)
	e.want(e.try(bob, list), 0)
	e.want(e.try(bob, set), 0)
	e.want(e.try(bob, remove), 0)
	e.ok(unix.Chmod("f", 0o444))
	e.want(e.try(alice, set), unix.EACCES) // the owner needs the bit too
}

// trustedAttributes: only root sees them, on every kind of file (xattr(7)).
func trustedAttributes(e *env, k kind) {
	e.makeAs(alice, k, "f", 0o777)
	e.times(func() { e.ok(unix.Lsetxattr("f", "trusted.a", []byte("v"), 0)) }, "f:c")
	e.attr("f", "trusted.a", "v")
	equal(e, "names root sees", len(e.attrs("f", "trusted.")), 1)
	e.still(func() {
		e.as(alice, func() {
			equal(e, "names a user sees", len(e.attrs("f", "trusted.")), 0)
			_, err := unix.Lgetxattr("f", "trusted.a", nil)
			e.want(err, unix.ENODATA)
			e.want(unix.Lsetxattr("f", "trusted.a", nil, 0), unix.EPERM)
			e.want(unix.Lremovexattr("f", "trusted.a"), unix.EPERM)
		})
	}, "f")
	e.attr("f", "trusted.a", "v")
	e.ok(unix.Lremovexattr("f", "trusted.a"))
}

// capabilityCases: a file's capabilities go as the suid bit does, but for root too.
func capabilityCases(s *suite) {
	const name = "security.capability"
	// struct vfs_cap_data, version 2: magic, then CAP_NET_BIND_SERVICE as permitted.
	value := "\x00\x00\x00\x02" + "\x00\x04\x00\x00" + strings.Repeat("\x00", 12)
	changes := map[string]func(e *env) error{
		"write":    func(e *env) error { return writeAt("f", "x", 0) },
		"truncate": func(e *env) error { return unix.Truncate("f", 1) },
		"open":     func(e *env) error { return tryOpen("f", unix.O_WRONLY|unix.O_TRUNC, 0) },
		"chown":    func(e *env) error { return unix.Chown("f", bob.uid, bob.gid) },
	}
	for what, change := range changes {
		s.run("capabilities go with "+what, func(e *env) {
			e.file("f", 0o755, "content")
			err := setAttr("f", name, value)
			if errnoOf(err) == unix.EOPNOTSUPP {
				e.Skip("no security attributes")
			}
			e.ok(err)
			e.attr("f", name, value)
			e.want(e.try(alice, func() error { return setAttr("f", name, value) }), unix.EPERM)
			e.ok(tryOpen("f", unix.O_RDONLY, 0))
			e.attr("f", name, value)
			e.ok(change(e))
			_, err = unix.Getxattr("f", name, nil)
			e.want(err, unix.ENODATA)
		})
	}
}

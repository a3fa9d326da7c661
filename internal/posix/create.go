package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// creation is every call that makes an inode with a mode.
var creation = []struct {
	name string
	kind kind
	do   func(path string, perm uint32) error
}{
	{"mkdir", directory, func(p string, m uint32) error { return unix.Mkdir(p, m) }},
	{"open", regular, func(p string, m uint32) error { return tryOpen(p, unix.O_CREAT|unix.O_WRONLY, m) }},
	{"open exclusive", regular, func(p string, m uint32) error { return tryOpen(p, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, m) }},
	{"open read only", regular, func(p string, m uint32) error { return tryOpen(p, unix.O_CREAT|unix.O_RDONLY, m) }},
	{"mkfifo", fifo, func(p string, m uint32) error { return unix.Mkfifo(p, m) }},
	{"mknod fifo", fifo, func(p string, m uint32) error { return unix.Mknod(p, unix.S_IFIFO|m, 0) }},
	{"mknod regular", regular, func(p string, m uint32) error { return unix.Mknod(p, unix.S_IFREG|m, 0) }},
	{"mknod without a type", regular, func(p string, m uint32) error { return unix.Mknod(p, m, 0) }},
	{"mknod socket", socket, func(p string, m uint32) error { return unix.Mknod(p, unix.S_IFSOCK|m, 0) }},
}

// createCases are mkdir, mkfifo, mknod and open with O_CREAT.
func createCases(s *suite) {
	for _, c := range creation {
		s.run(c.name+"/mode and umask", func(e *env) {
			tests := []struct{ umask, perm, want uint32 }{
				{0, 0o755, 0o755}, {0, 0o151, 0o151}, {0o077, 0o151, 0o100}, {0o070, 0o345, 0o305},
				{0o501, 0o345, 0o244}, {0, 0, 0}, {0o777, 0o777, 0}, {0, 0o777, 0o777}, {0o022, 0o666, 0o644},
				{0, 0o1777, 0o1777},
			}
			for i, tt := range tests {
				unix.Umask(int(tt.umask))
				e.ok(c.do(number(i), tt.perm))
				e.is(number(i), c.kind)
				e.mode(number(i), tt.want)
			}
		})
		s.run(c.name+"/owner", func(e *env) {
			for i, u := range []user{root, alice, alice.with(team), bob.in(team)} {
				e.want(e.try(u, func() error { return c.do(number(i), 0o755) }), 0)
				e.owner(number(i), u.uid, u.gid)
			}
		})
		s.run(c.name+"/moves times", func(e *env) {
			before := e.lstat(".").Ctim
			e.times(func() { e.ok(c.do("f", 0o755)) }, ".:mc")
			st := e.lstat("f")
			for what, ts := range map[string]unix.Timespec{"atime": st.Atim, "mtime": st.Mtim, "ctime": st.Ctim} {
				if ts.Nano() <= before.Nano() {
					e.Errorf("%s of the new file is %v, want later than %v", what, stamp(ts), stamp(before))
				}
			}
		})
		s.run(c.name+"/starts empty", func(e *env) {
			e.ok(c.do("f", 0o755))
			if c.kind == directory {
				equal(e, "names", len(e.list("f")), 0)
				e.nlinkDir("f", 2)
				return
			}
			e.nlink("f", 1)
			e.size("f", 0)
		})
		s.run(c.name+"/needs write on the directory", func(e *env) {
			e.mkdir(0o755, "d")
			do := func() error { return c.do("d/f", 0o755) }
			e.still(func() { e.want(e.try(alice, do), unix.EACCES) }, "d")
			e.ok(unix.Chmod("d", 0o776))
			e.want(e.try(alice, do), unix.EACCES)
			e.ok(unix.Chmod("d", 0o773))
			e.want(e.try(alice, do), 0)
		})
	}
	deviceCases(s)
	s.run("mknod of wrong types", func(e *env) {
		e.want(unix.Mknod("f", unix.S_IFDIR|0o755, 0), unix.EPERM)
		e.want(unix.Mknod("f", unix.S_IFLNK|0o755, 0), unix.EINVAL)
		e.want(unix.Mknod("f", 0o150000|0o755, 0), unix.EINVAL)
		e.gone("f")
	})
	s.run("mkdirat and mknodat beside a directory", func(e *env) {
		e.mkdir(0o755, "d")
		e.file("f", 0o644, "")
		d, f := e.open("d", unix.O_DIRECTORY, 0), e.open("f", unix.O_RDONLY, 0)
		e.ok(unix.Mkdirat(d, "e", 0o755))
		e.ok(unix.Mknodat(d, "p", unix.S_IFIFO|0o644, 0))
		e.is("d/e", directory)
		e.is("d/p", fifo)
		for _, bad := range []struct {
			fd   int
			want unix.Errno
		}{{f, unix.ENOTDIR}, {-1, unix.EBADF}} {
			e.want(unix.Mkdirat(bad.fd, "x", 0o755), bad.want)
			e.want(unix.Mknodat(bad.fd, "x", unix.S_IFIFO|0o644, 0), bad.want)
		}
	})
	s.run("a name that was just removed", func(e *env) {
		for range 50 {
			for _, c := range creation {
				e.ok(c.do("f", 0o755))
				e.is("f", c.kind)
				e.remove(c.kind, "f")
			}
		}
	})
}

func deviceCases(s *suite) {
	if s.o.NoDevices {
		return
	}
	for _, k := range []kind{char, block} {
		for _, dev := range []struct{ major, minor uint32 }{{1, 3}, {0, 0}, {255, 255}, {256, 256}, {4095, 1<<20 - 1}} {
			s.run(fmt.Sprintf("mknod %s/%d,%d", k.name, dev.major, dev.minor), func(e *env) {
				e.ok(unix.Mknod("f", k.format|0o640, int(unix.Mkdev(dev.major, dev.minor))))
				e.is("f", k)
				e.mode("f", 0o640)
				st := e.lstat("f")
				equal(e, "major", unix.Major(st.Rdev), dev.major)
				equal(e, "minor", unix.Minor(st.Rdev), dev.minor)
				e.ok(unix.Link("f", "g"))
				equal(e, "device of the link", e.lstat("g").Rdev, st.Rdev)
			})
		}
		s.run("mknod "+k.name+"/by a user", func(e *env) {
			e.still(func() {
				e.want(e.try(alice, func() error { return unix.Mknod("f", k.format|0o644, devNull) }), unix.EPERM)
			}, ".")
			e.gone("f")
		})
		s.run("mknod "+k.name+"/moves times", func(e *env) {
			e.times(func() { e.make(k, "f", 0o644) }, ".:mc")
		})
	}
}

// inheritCases: what a new inode takes from a directory with the sgid bit
// (mkdir(2), inode(7)).
func inheritCases(s *suite) {
	setup := func(e *env) {
		e.makeAs(root.with(team), directory, "d", 0o2777)
	}
	for _, c := range creation {
		for _, u := range []user{root, alice} {
			s.run(fmt.Sprintf("%s by %d", c.name, u.uid), func(e *env) {
				setup(e)
				e.want(e.try(u, func() error { return c.do("d/f", 0o755) }), 0)
				e.owner("d/f", u.uid, team)
				want := uint32(0o755)
				if c.kind == directory {
					want = 0o2755
				}
				e.mode("d/f", want)
			})
		}
	}
	s.run("symlink", func(e *env) {
		setup(e)
		e.as(alice, func() { e.ok(unix.Symlink("x", "d/s")) })
		e.owner("d/s", alice.uid, team)
	})
	s.run("directories below", func(e *env) {
		setup(e)
		unix.Umask(0o027)
		e.as(alice.in(team), func() {
			e.mkdir(0o777, "d/a", "d/a/b", "d/a/b/c")
			e.file("d/a/b/c/f", 0o666, "")
		})
		for _, p := range []string{"d/a", "d/a/b", "d/a/b/c"} {
			e.mode(p, 0o2750)
			e.owner(p, alice.uid, team)
		}
		e.mode("d/a/b/c/f", 0o640)
		e.owner("d/a/b/c/f", alice.uid, team)
	})
	s.run("sgid program of a foreign group", func(e *env) {
		// The file gets the directory's group, to which its maker does not belong: he
		// may not make it sgid.
		setup(e)
		e.as(alice, func() { e.file("d/f", 0o2755, "") })
		e.mode("d/f", 0o755)
		e.as(alice.in(team), func() { e.file("d/g", 0o2755, "") })
		e.mode("d/g", 0o2755)
		e.file("d/h", 0o2755, "")
		e.mode("d/h", 0o2755)
	})
	s.run("hard links and renames keep their group", func(e *env) {
		setup(e)
		e.makeAs(alice, regular, "f", 0o644)
		e.makeAs(alice, directory, "e", 0o755)
		e.ok(unix.Link("f", "d/f"))
		e.ok(unix.Rename("e", "d/e"))
		e.owner("d/f", alice.uid, alice.gid)
		e.owner("d/e", alice.uid, alice.gid)
		e.mode("d/e", 0o755)
	})
	s.run("without the bit", func(e *env) {
		e.makeAs(root.with(team), directory, "d", 0o777)
		e.as(alice, func() { e.mkdir(0o755, "d/e"); e.file("d/f", 0o644, "") })
		e.owner("d/e", alice.uid, alice.gid)
		e.owner("d/f", alice.uid, alice.gid)
		e.mode("d/e", 0o755)
	})
}

package posix

import (
	"golang.org/x/sys/unix"
)

// mounted runs f with something mounted on the directory at path. The mount
// exists for the case's thread alone.
func (e *env) mounted(path, source, fstype string, flags uintptr, f func()) {
	e.Helper()
	path = e.dir + "/" + path
	e.ok(unix.Mount(source, path, fstype, flags, ""))
	defer func() { e.ok(unix.Unmount(path, unix.MNT_DETACH)) }()
	if flags&unix.MS_BIND != 0 && flags&unix.MS_RDONLY != 0 {
		// A bind mount takes the flag only by remounting (mount(2)).
		e.ok(unix.Mount("", path, "", unix.MS_REMOUNT|flags, ""))
	}
	f()
}

// privateMounts gives the thread a name space of mounts. What the rest of the
// system unmounts is unmounted there too.
func (e *env) privateMounts() {
	e.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		e.Skipf("no private mounts: %v", err)
	}
	e.ok(unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
}

// mountCases are the errors at the edge between two mounts: EROFS, EXDEV, EBUSY.
func mountCases(s *suite) {
	for _, c := range pathCalls(s.o) {
		if c.name != "chdir" { // it would step out of the mount
			s.run("read-only/"+c.name, func(e *env) { readOnly(e, c) })
		}
	}
	s.run("read-only/descriptors", func(e *env) {
		e.privateMounts()
		e.mkdir(0o777, "ro")
		e.file("ro/f", 0o666, "content")
		e.mounted("ro", e.dir+"/ro", "", unix.MS_BIND|unix.MS_RDONLY, func() {
			fd, dir := e.open("ro/f", unix.O_RDONLY, 0), e.open("ro", unix.O_DIRECTORY, 0)
			e.still(func() {
				e.want(unix.Fchmod(fd, 0o600), unix.EROFS)
				e.want(unix.Fchown(fd, 1, 1), unix.EROFS)
				e.want(futimens(fd, someTime, someTime), unix.EROFS)
				e.want(unix.Fchmod(dir, 0o700), unix.EROFS)
				e.want(unix.Access("ro/f", unix.W_OK), unix.EROFS)
				e.want(tryOpen("ro/f", unix.O_RDONLY|unix.O_TRUNC, 0), unix.EROFS)
				e.want(tryOpen("ro/f", unix.O_RDWR|unix.O_CREAT, 0), unix.EROFS)
				e.want(unix.Mkdir("ro/f", 0o755), unix.EEXIST)
				if !e.o.NoTmpfile {
					e.want(tryOpen("ro", unix.O_TMPFILE|unix.O_RDWR, 0o600), unix.EROFS)
				}
			}, "ro/f", "ro")
			e.content("ro/f", "content")
			e.close(fd)
			e.close(dir)
		})
	})
	s.run("another file system", func(e *env) {
		e.privateMounts()
		e.mkdir(0o777, "m", "d")
		e.file("f", 0o644, "content")
		e.mounted("m", "tmpfs", "tmpfs", 0, func() {
			e.file("m/f", 0o644, "other")
			e.mkdir(0o755, "m/d")
			e.still(func() {
				e.want(unix.Link("f", "m/g"), unix.EXDEV)
				e.want(unix.Link("m/f", "g"), unix.EXDEV)
				e.want(unix.Rename("f", "m/g"), unix.EXDEV)
				e.want(unix.Rename("m/f", "g"), unix.EXDEV)
				e.want(unix.Rename("d", "m/e"), unix.EXDEV)
				e.want(unix.Rename("m/d", "e"), unix.EXDEV)
				e.want(unix.Rename("f", "m/f"), unix.EXDEV)
				e.want(renameFlags("f", "m/f", unix.RENAME_EXCHANGE), unix.EXDEV)
			}, "f", "d", ".")
			crossCopy(e)
		})
	})
	s.run("another mount of the same file system", func(e *env) {
		e.privateMounts()
		e.mkdir(0o777, "m", "d")
		e.file("f", 0o644, "content")
		e.mounted("m", e.dir+"/d", "", unix.MS_BIND, func() {
			e.want(unix.Rename("f", "m/f"), unix.EXDEV)
			e.want(unix.Link("f", "m/f"), unix.EXDEV)
			e.file("m/g", 0o644, "bound")
		})
		e.content("d/g", "bound")
	})
	s.run("a mount point is busy", func(e *env) {
		e.privateMounts()
		e.mkdir(0o777, "m", "d")
		e.file("f", 0o644, "")
		e.mounted("m", "tmpfs", "tmpfs", 0, func() {
			e.want(unix.Rmdir("m"), unix.EBUSY)
			e.want(unix.Rename("m", "n"), unix.EBUSY)
			e.want(unix.Rename("d", "m"), unix.EBUSY)
			e.want(unix.Unlink("m"), unix.EISDIR, unix.EPERM, unix.EBUSY)
		})
		e.mounted("f", "/dev/null", "", unix.MS_BIND, func() {
			e.want(unix.Unlink("f"), unix.EBUSY)
			e.want(unix.Rename("f", "g"), unix.EBUSY)
		})
		e.ok(unix.Rmdir("m"))
		e.ok(unix.Unlink("f"))
	})
}

// readOnly makes a call on a read-only mount: EROFS if it writes, and nothing moves.
func readOnly(e *env, c pathCall) {
	e.privateMounts()
	e.mkdir(0o777, "ro")
	e.ok(unix.Chdir("ro"))
	e.file(theOther, 0o644, "other")
	c.prepare(e, "f")
	watched := []string{".", theOther}
	if needsObject(c) {
		watched = append(watched, "f")
	}
	e.mounted("ro", e.dir+"/ro", "", unix.MS_BIND|unix.MS_RDONLY, func() {
		e.ok(unix.Chdir(e.dir + "/ro"))
		want := unix.Errno(0)
		if c.writes {
			want = unix.EROFS
		}
		e.still(func() { e.want(c.do(e, "f"), want) }, watched...)
		e.ok(unix.Chdir(e.dir))
	})
}

// crossCopy: since Linux 5.19 the kernel copies between file systems only where
// both are of one type (copy_file_range(2)).
func crossCopy(e *env) {
	in, out := e.open("f", unix.O_RDONLY, 0), e.open("m/f", unix.O_RDWR, 0)
	_, err := unix.CopyFileRange(in, nil, out, nil, 7, 0)
	e.want(err, unix.EXDEV, 0)
	err = unix.IoctlFileClone(out, in)
	e.want(err, unix.EXDEV, unix.EOPNOTSUPP, unix.ENOTTY)
	e.close(in)
	e.close(out)
}

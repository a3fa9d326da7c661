package posix

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// class is how a user is seen by a file of alice's in the group team.
type class struct {
	name  string
	u     user
	shift uint // where its bits are in the mode
}

var classes = []class{
	{"owner", alice, 6},
	{"owner in the group", alice.in(team), 6}, // the owner's bits decide alone
	{"group", bob.with(team), 3},
	{"supplementary group", bob.in(1, 2, team, 3), 3},
	{"others", carol, 0},
}

// mode gives the class bits, and every other class what it lacks.
func (c class) mode(bits uint32) uint32 {
	not := 7 &^ bits
	return (not<<6|not<<3|not)&^(7<<c.shift) | bits<<c.shift
}

// accessCases are access(2) and faccessat(2).
func accessCases(s *suite) {
	for _, k := range []kind{regular, directory, fifo, socket} {
		for _, c := range classes {
			s.run(k.name+" by "+c.name, func(e *env) {
				e.makeAs(alice.with(team), k, "f", 0)
				for bits := range uint32(8) {
					e.ok(unix.Chmod("f", c.mode(bits)))
					for ask := range uint32(8) {
						want := unix.EACCES
						if bits&ask == ask {
							want = 0
						}
						got := errnoOf(e.try(c.u, func() error { return unix.Access("f", ask) }))
						if got != want {
							e.Errorf("mode %04o, asked for %o: got %s, want %s", c.mode(bits), ask, errnoName(got), errnoName(want))
						}
					}
				}
			})
		}
	}
	s.run("root", func(e *env) {
		e.file("f", 0, "")
		e.mkdir(0, "d")
		e.ok(unix.Access("f", unix.R_OK|unix.W_OK))
		e.want(unix.Access("f", unix.X_OK), unix.EACCES) // no x bit at all
		for _, m := range []uint32{0o100, 0o010, 0o001} {
			e.ok(unix.Chmod("f", m))
			e.ok(unix.Access("f", unix.X_OK))
		}
		e.ok(unix.Access("d", unix.R_OK|unix.W_OK|unix.X_OK))
	})
	s.run("wrong arguments", func(e *env) {
		e.file("f", 0o644, "")
		e.want(unix.Access("f", 8), unix.EINVAL)
		e.want(unix.Faccessat(atCwd, "f", unix.R_OK, 1<<30), unix.EINVAL)
		e.want(unix.Faccessat(-1, "f", unix.R_OK, 0), unix.EBADF)
		e.want(unix.Faccessat(e.open("f", unix.O_RDONLY, 0), "f", unix.R_OK, 0), unix.ENOTDIR)
	})
	s.run("of a symlink", func(e *env) {
		e.make(symlink, "s", 0)
		e.want(unix.Access("s", unix.F_OK), unix.ENOENT)
		e.ok(unix.Faccessat(atCwd, "s", unix.F_OK, unix.AT_SYMLINK_NOFOLLOW))
		e.file(dangling, 0, "")
		e.want(e.try(alice, func() error { return unix.Access("s", unix.R_OK) }), unix.EACCES)
	})
	s.run("moves no time", func(e *env) {
		e.file("f", 0o644, "")
		e.still(func() { e.ok(unix.Access("f", unix.R_OK|unix.W_OK)) }, "f", ".")
	})
}

// granularCases: what each bit of a directory allows, one operation at a time.
func granularCases(s *suite) {
	const r, w, x = 4, 2, 1
	operations := []struct {
		name string
		need uint32
		do   func(e *env) error
	}{
		{"list", r, func(e *env) error { return tryOpen("d", unix.O_RDONLY|unix.O_DIRECTORY, 0) }},
		{"stat", x, func(e *env) error { var st unix.Stat_t; return unix.Stat("d/f", &st) }},
		{"stat through the directory's dot", x, func(e *env) error { var st unix.Stat_t; return unix.Stat("d/.", &st) }},
		{"open", x, func(e *env) error { return tryOpen("d/f", unix.O_RDWR, 0) }},
		{"readlink", x, func(e *env) error { _, err := unix.Readlink("d/s", make([]byte, 10)); return err }},
		{"truncate", x, func(e *env) error { return unix.Truncate("d/f", 0) }},
		{"chdir", x, func(e *env) error {
			if err := unix.Chdir("d"); err != nil {
				return err
			}
			return unix.Chdir("..")
		}},
		{"create", w | x, func(e *env) error { return tryOpen("d/new", unix.O_CREAT|unix.O_EXCL, 0o644) }},
		{"open with create", x, func(e *env) error { return tryOpen("d/f", unix.O_CREAT|unix.O_RDWR, 0o644) }},
		{"mkdir", w | x, func(e *env) error { return unix.Mkdir("d/new", 0o755) }},
		{"mkfifo", w | x, func(e *env) error { return unix.Mkfifo("d/new", 0o644) }},
		{"symlink", w | x, func(e *env) error { return unix.Symlink("x", "d/new") }},
		{"link in", w | x, func(e *env) error { return unix.Link("mine", "d/new") }},
		{"link out", x, func(e *env) error { return unix.Link("d/f", "out") }},
		{"unlink", w | x, func(e *env) error { return unix.Unlink("d/f") }},
		{"rmdir", w | x, func(e *env) error { return unix.Rmdir("d/e") }},
		{"rename within", w | x, func(e *env) error { return unix.Rename("d/f", "d/new") }},
		{"rename in", w | x, func(e *env) error { return unix.Rename("mine", "d/new") }},
		{"rename over", w | x, func(e *env) error { return unix.Rename("mine", "d/f") }},
		{"rename out", w | x, func(e *env) error { return unix.Rename("d/f", "out") }},
		{"mkdir existing", x, func(e *env) error {
			if err := unix.Mkdir("d/e", 0o755); errnoOf(err) != unix.EEXIST {
				return err
			}
			return nil
		}},
		{"chmod of the own file", x, func(e *env) error { return unix.Chmod("d/f", 0o660) }},
	}
	for _, op := range operations {
		for _, c := range classes {
			s.run(op.name+" by "+c.name, func(e *env) {
				for bits := range uint32(8) {
					e.granularSetup(c)
					e.ok(unix.Chmod("d", c.mode(bits)))
					want := unix.EACCES
					if bits&op.need == op.need {
						want = 0
					}
					got := errnoOf(e.try(c.u, func() error { return op.do(e) }))
					if got != want {
						e.Errorf("mode %04o: got %s, want %s", c.mode(bits), errnoName(got), errnoName(want))
					}
				}
			})
		}
	}
}

// granularSetup makes everything anew: d of alice's in group team, with files
// that belong to whoever acts.
func (e *env) granularSetup(c class) {
	e.Helper()
	for _, p := range []string{"d/new", "d/f", "d/s", "d/e", "d", "mine", "out"} {
		if err := unix.Unlink(p); errnoOf(err) == unix.EISDIR {
			e.ok(unix.Rmdir(p))
		}
	}
	e.mkdir(0o777, "d", "d/e")
	e.make(symlink, "d/s", 0)
	for _, p := range []string{"d/f", "mine"} {
		e.file(p, 0o660, "content")
		e.chown(p, c.u)
	}
	e.chown("d/s", c.u)
	e.chown("d/e", c.u)
	e.chown("d", alice.with(team))
}

// stickyCases: in a sticky directory only the owner of the entry or of the
// directory may take an entry away (unlink(2), rename(2)).
func stickyCases(s *suite) {
	removals := []struct {
		name string
		do   func(k kind) error
	}{
		{"unlink", func(k kind) error {
			if k == directory {
				return unix.Rmdir("d/f")
			}
			return unix.Unlink("d/f")
		}},
		{"rename within", func(kind) error { return unix.Rename("d/f", "d/g") }},
		{"rename out", func(kind) error { return unix.Rename("d/f", "out") }},
		{"rename over", func(k kind) error { return unix.Rename("mine", "d/f") }},
	}
	owners := []user{root, alice, bob}
	for _, r := range removals {
		s.each(r.name, allKinds, func(e *env, k kind) {
			for _, dirOwner := range owners {
				for _, fileOwner := range owners {
					for _, actor := range owners {
						e.stickySetup(k, dirOwner, fileOwner, actor)
						ino := e.lstat("d/f").Ino
						allowed := []unix.Errno{unix.EPERM, unix.EACCES}
						if actor.uid == dirOwner.uid || actor.uid == fileOwner.uid || actor.uid == 0 {
							allowed = []unix.Errno{0}
						}
						err := e.try(actor, func() error { return r.do(k) })
						e.at("directory of %d, file of %d, by %d: %v", dirOwner.uid, fileOwner.uid, actor.uid, err)
						e.want(err, allowed...)
						if err != nil {
							equal(e, "ino", e.lstat("d/f").Ino, ino)
							e.owner("d/f", fileOwner.uid, fileOwner.gid)
						}
					}
				}
			}
		})
	}
	s.run("others may create, link and change content", func(e *env) {
		e.makeAs(alice, directory, "d", 0o1777)
		e.makeAs(alice, regular, "d/f", 0o666)
		e.makeAs(bob, regular, "mine", 0o644)
		e.as(bob, func() {
			e.file("d/new", 0o644, "")
			e.ok(unix.Link("mine", "d/link"))
			e.ok(unix.Rename("mine", "d/moved"))
			e.ok(writeAt("d/f", "x", 0))
			e.ok(unix.Rename("d/moved", "d/moved again"))
			e.ok(unix.Unlink("d/new"))
		})
	})
	s.run("group write does not help", func(e *env) {
		e.makeAs(root.with(team), directory, "d", 0o1775)
		e.makeAs(alice.with(team), regular, "d/f", 0o664)
		e.want(e.try(bob.in(team), func() error { return unix.Unlink("d/f") }), unix.EPERM, unix.EACCES)
		e.ok(unix.Chmod("d", 0o775))
		e.want(e.try(bob.in(team), func() error { return unix.Unlink("d/f") }), 0)
	})
}

// stickySetup makes d sticky with an entry f, and a file of the actor's to put over it.
func (e *env) stickySetup(k kind, dirOwner, fileOwner, actor user) {
	e.Helper()
	for _, p := range []string{"d/f", "d/g", "d", "mine", "out"} {
		if err := unix.Unlink(p); errnoOf(err) == unix.EISDIR {
			e.ok(unix.Rmdir(p))
		}
	}
	e.mkdir(0o1777, "d")
	e.chown("d", dirOwner)
	e.makeAs(fileOwner, k, "d/f", 0o777)
	mine := regular
	if k == directory {
		mine = directory
	}
	e.makeAs(actor, mine, "mine", 0o777)
}

// renamePermissionCases: both parents must be writable, and a directory that
// changes its parent too, for its ".." is written to.
func renamePermissionCases(s *suite) {
	s.each("parents", linkable, func(e *env, k kind) {
		e.mkdir(0o777, "free", "free2")
		e.mkdir(0o755, "locked")
		e.makeAs(alice, k, "free/f", 0o600)
		e.makeAs(alice, k, "locked/f", 0o600)
		e.still(func() {
			e.want(e.rename(alice, "locked/f", "free/g"), unix.EACCES)
			e.want(e.rename(alice, "free/f", "locked/g"), unix.EACCES)
			e.want(e.rename(alice, "free/f", "locked/f"), unix.EACCES)
			e.want(e.rename(alice, "locked/f", "locked/g"), unix.EACCES)
		}, "free", "locked", "free/f", "locked/f")
		e.chown("free/f", root) // the file's own owner does not count
		e.want(e.rename(alice, "free/f", "free2/f"), 0)
	})
	s.run("a directory changes its parent", func(e *env) {
		e.mkdir(0o777, "a", "b")
		e.mkdir(0o755, "a/d")
		e.want(e.rename(alice, "a/d", "a/e"), 0) // stays in its parent
		e.still(func() { e.want(e.rename(alice, "a/e", "b/d"), unix.EACCES) }, "a", "b", "a/e")
		e.mkdir(0o777, "b/empty")
		e.want(e.rename(alice, "a/e", "b/empty"), unix.EACCES)
		e.ok(unix.Chmod("a/e", 0o757))
		e.want(e.rename(alice, "a/e", "b/d"), 0)
		e.chown("b/d", alice)
		e.ok(unix.Chmod("b/d", 0o577))
		e.want(e.rename(alice, "b/d", "a/d"), unix.EACCES)
		e.ok(unix.Chmod("b/d", 0o200))
		e.want(e.rename(alice, "b/d", "a/d"), 0)
	})
	s.run("the replaced directory's mode does not count", func(e *env) {
		e.mkdir(0o777, "a", "b", "a/d")
		e.mkdir(0, "b/d")
		e.want(e.rename(alice, "a/d", "b/d"), 0)
	})
	s.run("search on each parent", func(e *env) {
		e.mkdir(0o777, "a")
		e.mkdir(0o766, "b")
		e.makeAs(alice, regular, "a/f", 0o600)
		e.want(e.rename(alice, "a/f", "b/g"), unix.EACCES)
		e.ok(unix.Chmod("b", 0o773))
		e.want(e.rename(alice, "a/f", "b/g"), 0)
	})
	for _, n := range []int{2, 40} {
		s.run(fmt.Sprintf("by one of %d groups", n), func(e *env) {
			e.makeAs(root.with(team), directory, "d", 0o770)
			var groups []uint32
			for i := range n - 1 {
				groups = append(groups, uint32(70000+i))
			}
			e.file("d/f", 0o600, "")
			rename := func() error { return unix.Rename("d/f", "d/g") }
			e.want(e.try(alice.in(groups...), rename), unix.EACCES)
			e.want(e.try(alice.in(append(groups, team)...), rename), 0)
		})
	}
}

func (e *env) rename(u user, from, to string) error {
	e.Helper()
	return e.try(u, func() error { return unix.Rename(from, to) })
}

package posix

import (
	"golang.org/x/sys/unix"
)

func chownCases(s *suite) {
	s.each("root gives to anyone", allKinds, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		e.ok(unix.Lchown("f", 123, 456))
		e.owner("f", 123, 456)
		e.ok(unix.Lchown("f", -1, 789))
		e.owner("f", 123, 789)
		e.ok(unix.Lchown("f", 321, -1))
		e.owner("f", 321, 789)
		e.ok(unix.Lchown("f", -1, -1))
		e.owner("f", 321, 789)
		e.is("f", k)
	})
	s.each("through a symlink", modal, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		e.ok(unix.Symlink("f", "s"))
		e.ok(unix.Chown("s", 123, 456))
		e.owner("f", 123, 456)
		e.owner("s", 0, 0)
		e.ok(unix.Lchown("s", 7, 8))
		e.owner("f", 123, 456)
		e.owner("s", 7, 8)
	})
	s.run("the largest ids", func(e *env) {
		e.file("f", 0o644, "")
		e.ok(unix.Chown("f", 1<<32-2, 1<<32-2))
		e.owner("f", 1<<32-2, 1<<32-2)
		e.ok(unix.Chown("f", 1<<31, 1<<31))
		e.owner("f", 1<<31, 1<<31)
	})
	s.run("by descriptor", chownByDescriptor)
	s.each("moves ctime only", allKinds, func(e *env, k kind) {
		e.make(k, "f", 0o644)
		e.times(func() { e.ok(unix.Lchown("f", 123, 456)) }, "f:c", ".:")
		e.times(func() { e.ok(unix.Lchown("f", 123, 456)) }, "f:c", ".:")
	})
	s.each("owner changes the group", allKinds, chownGroup)
	s.each("refused", allKinds, chownRefused)
	s.run("a user changes nothing", func(e *env) {
		// Ids of -1 ask for nothing, so not even the owner's right is needed.
		e.makeAs(alice, regular, "f", 0o644)
		e.want(e.try(alice, func() error { return unix.Chown("f", -1, -1) }), 0)
		e.want(e.try(bob, func() error { return unix.Chown("f", -1, -1) }), 0)
		e.owner("f", alice.uid, alice.gid)
	})
	s.run("takes the owner's rights", func(e *env) {
		e.makeAs(alice, regular, "f", 0o600)
		e.want(e.try(alice, func() error { return tryOpen("f", unix.O_RDWR, 0) }), 0)
		e.chown("f", bob)
		e.want(e.try(alice, func() error { return tryOpen("f", unix.O_RDWR, 0) }), unix.EACCES)
		e.want(e.try(bob, func() error { return tryOpen("f", unix.O_RDWR, 0) }), 0)
	})
}

func chownByDescriptor(e *env) {
	e.file("f", 0o644, "")
	e.mkdir(0o755, "d")
	e.make(symlink, "d/s", 0)
	fd := e.open("f", unix.O_RDONLY, 0)
	e.times(func() { e.ok(unix.Fchown(fd, 1, 2)) }, "f:c", ".:")
	e.owner("f", 1, 2)
	dir := e.open("d", unix.O_DIRECTORY, 0)
	e.ok(unix.Fchown(dir, 3, 4))
	e.owner("d", 3, 4)
	e.want(unix.Fchownat(dir, "s", 5, 6, 0), unix.ENOENT)
	e.ok(unix.Fchownat(dir, "s", 5, 6, unix.AT_SYMLINK_NOFOLLOW))
	e.owner("d/s", 5, 6)
	e.ok(unix.Fchownat(dir, "", 7, 8, unix.AT_EMPTY_PATH))
	e.owner("d", 7, 8)
	path := e.open("f", unix.O_PATH, 0)
	e.want(unix.Fchown(path, 0, 0), unix.EBADF)
	e.ok(unix.Fchownat(path, "", 9, 10, unix.AT_EMPTY_PATH))
	e.owner("f", 9, 10)
	e.want(unix.Fchownat(dir, "s", 0, 0, 1<<30), unix.EINVAL)
	e.want(unix.Fchownat(fd, "s", 0, 0, 0), unix.ENOTDIR)
	e.want(unix.Fchown(-1, 0, 0), unix.EBADF)
}

// chownGroup: an owner may give a file to a group of his, and name himself.
func chownGroup(e *env, k kind) {
	e.makeAs(alice, k, "f", 0o644)
	e.times(func() {
		e.want(e.try(alice.in(team), func() error { return unix.Lchown("f", -1, team) }), 0)
	}, "f:c", ".:")
	e.owner("f", alice.uid, team)
	e.want(e.try(alice, func() error { return unix.Lchown("f", alice.uid, alice.gid) }), 0)
	e.owner("f", alice.uid, alice.gid)
	// Not in the group any more, but it asks for no change of it.
	e.chown("f", alice.with(team))
	e.want(e.try(alice, func() error { return unix.Lchown("f", alice.uid, team) }), 0)
}

func chownRefused(e *env, k kind) {
	e.makeAs(alice, k, "f", 0o666)
	tests := []struct {
		u        user
		uid, gid int
	}{
		{alice, bob.uid, -1}, // giving away
		{alice, bob.uid, alice.gid},
		{alice, 0, 0},
		{alice, -1, team},               // a group that is not hers
		{alice.in(team), bob.uid, team}, // one right and one wrong
		{bob, bob.uid, -1},              // taking
		{bob, bob.uid, bob.gid},
		{bob, -1, bob.gid},
		{bob.in(uint32(alice.gid)), alice.uid, alice.gid}, // no change, but not the owner
	}
	for _, tt := range tests {
		e.still(func() {
			e.want(e.try(tt.u, func() error { return unix.Lchown("f", tt.uid, tt.gid) }), unix.EPERM)
		}, "f", ".")
		e.owner("f", alice.uid, alice.gid)
	}
}

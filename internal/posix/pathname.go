package posix

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of Linux (limits.h, path_resolution(7)).
const (
	nameMax    = 255  // bytes of a name
	pathMax    = 4096 // bytes of a path with its NUL
	maxSymlink = 40   // symlinks followed in one resolution
)

// situation is something that pathname resolution meets, for any call.
type situation struct {
	name    string
	applies func(c pathCall) bool
	check   func(e *env, c pathCall)
}

func always(pathCall) bool           { return true }
func needsObject(c pathCall) bool    { return !c.creates && !c.replaces }
func creates(c pathCall) bool        { return c.creates }
func makesName(c pathCall) bool      { return c.creates || c.replaces }
func follows(c pathCall) bool        { return c.follows }
func followsObject(c pathCall) bool  { return c.follows && !c.replaces }
func needsRegular(c pathCall) bool   { return needsObject(c) && c.object == regular }
func needsSymlink(c pathCall) bool   { return needsObject(c) && c.object == symlink }
func needsDirectory(c pathCall) bool { return needsObject(c) && c.object == directory }

// pathnameCases is every call of pathCalls in every situation.
func pathnameCases(s *suite) {
	situations := []situation{
		{"missing", needsObject, func(e *env, c pathCall) { e.want(c.do(e, "nothing"), unix.ENOENT) }},
		{"missing in the middle", always, func(e *env, c pathCall) { e.want(c.do(e, "nothing/x"), unix.ENOENT) }},
		{"empty", always, func(e *env, c pathCall) { e.want(c.do(e, ""), unix.ENOENT) }},
		{"existing", creates, existingName},
		{"dangling symlink", followsObject, func(e *env, c pathCall) {
			e.make(symlink, "s", 0)
			e.want(c.do(e, "s"), unix.ENOENT)
		}},
		{"file in the middle", always, fileInTheMiddle},
		{"symlink in the middle", always, symlinkInTheMiddle},
		{"dots in the middle", always, dotsInTheMiddle},
		{"slash after a file", needsRegular, func(e *env, c pathCall) {
			c.prepare(e, "f")
			e.want(c.do(e, "f/"), unix.ENOTDIR)
		}},
		{"slash after a dangling symlink", needsSymlink, func(e *env, c pathCall) {
			c.prepare(e, "s")
			e.want(c.do(e, "s/"), unix.ENOENT)
		}},
		{"slash after a directory", needsDirectory, func(e *env, c pathCall) {
			c.prepare(e, "d")
			e.want(c.do(e, "d///"), 0)
		}},
		{"slash after a new name", makesName, slashAfterNewName},
		{"loop in the middle", always, func(e *env, c pathCall) {
			e.loop()
			e.want(c.do(e, "loop1/x"), unix.ELOOP)
		}},
		{"loop at the end", follows, func(e *env, c pathCall) {
			e.loop()
			e.want(c.do(e, "loop1"), unix.ELOOP)
		}},
		{"forty symlinks", always, fortySymlinks},
		{"name of 255 bytes", always, func(e *env, c pathCall) {
			p := strings.Repeat("n", nameMax)
			c.prepare(e, p)
			e.want(c.do(e, p), 0)
		}},
		{"name of 256 bytes", always, func(e *env, c pathCall) {
			long := strings.Repeat("n", nameMax+1)
			e.want(c.do(e, long), unix.ENAMETOOLONG)
			e.want(c.do(e, long+"/x"), unix.ENAMETOOLONG)
		}},
		{"path of 4095 bytes", always, func(e *env, c pathCall) {
			c.prepare(e, "f")
			e.want(c.do(e, strings.Repeat("./", pathMax/2-1)+"f"), 0) // 4094 + 1
		}},
		{"path of 4096 bytes", always, func(e *env, c pathCall) {
			e.want(c.do(e, strings.Repeat("./", pathMax/2-1)+"fn"), unix.ENAMETOOLONG)
		}},
		{"no search permission", always, noSearch},
	}
	for _, c := range pathCalls(s.o) {
		for _, sit := range situations {
			if sit.applies(c) {
				s.run(c.name+"/"+sit.name, func(e *env) {
					e.file(theOther, 0o644, "other")
					sit.check(e, c)
				})
			}
		}
	}
}

// prepare makes what the call needs to find at path.
func (c pathCall) prepare(e *env, path string) {
	e.Helper()
	if needsObject(c) {
		e.make(c.object, path, 0o755)
	}
}

// loop makes two symlinks that point to each other.
func (e *env) loop() {
	e.Helper()
	e.ok(unix.Symlink("loop1", "loop2"))
	e.ok(unix.Symlink("loop2", "loop1"))
}

func existingName(e *env, c pathCall) {
	for _, k := range allKinds {
		if e.o.NoDevices && (k == char || k == block) {
			continue
		}
		e.make(k, k.name, 0o755)
		before := e.lstat(k.name)
		e.still(func() { e.want(c.do(e, k.name), unix.EEXIST) }, k.name, ".")
		equal(e, "ino of the "+k.name, e.lstat(k.name).Ino, before.Ino)
	}
	e.want(c.do(e, "."), unix.EEXIST)
	e.want(c.do(e, ".."), unix.EEXIST)
}

func fileInTheMiddle(e *env, c pathCall) {
	for _, k := range []kind{regular, fifo, socket} {
		e.make(k, k.name, 0o777)
		for _, rest := range []string{"/x", "/.", "/.."} {
			e.want(c.do(e, k.name+rest), unix.ENOTDIR)
		}
		e.ok(unix.Symlink(k.name, "to "+k.name))
		e.want(c.do(e, "to "+k.name+"/x"), unix.ENOTDIR)
	}
	e.make(symlink, "s", 0)
	e.want(c.do(e, "s/x"), unix.ENOENT)
}

func symlinkInTheMiddle(e *env, c pathCall) {
	e.mkdir(0o755, "d", "d/e")
	e.ok(unix.Symlink("d", "relative"))
	e.ok(unix.Symlink(e.dir+"/d/e", "d/absolute"))
	c.prepare(e, "d/e/f")
	e.want(c.do(e, "relative/absolute/f"), 0)
}

func dotsInTheMiddle(e *env, c pathCall) {
	e.mkdir(0o755, "d", "d/e")
	c.prepare(e, "d/f")
	e.want(c.do(e, "d/./e/.././e//../f"), 0)
}

// slashAfterNewName: only a directory may be made with a slash after its name.
func slashAfterNewName(e *env, c pathCall) {
	want := unix.ENOENT
	switch {
	case c.object == directory:
		want = 0
	case strings.HasPrefix(c.name, "open"):
		want = unix.EISDIR
	case strings.HasPrefix(c.name, "rename"):
		want = unix.ENOTDIR
	}
	e.want(c.do(e, "new/"), want)
	if want != 0 {
		e.gone("new")
	}
}

func fortySymlinks(e *env, c pathCall) {
	e.mkdir(0o755, "link0")
	for i := 1; i <= maxSymlink+1; i++ {
		e.ok(unix.Symlink(fmt.Sprintf("link%d", i-1), fmt.Sprintf("link%d", i)))
	}
	c.prepare(e, "link0/f")
	e.want(c.do(e, fmt.Sprintf("link%d/f", maxSymlink+1)), unix.ELOOP)
	e.want(c.do(e, fmt.Sprintf("link%d/f", maxSymlink)), 0)
}

// noSearch takes the search permission of a directory from each class of users
// in turn, and leaves it the others.
func noSearch(e *env, c pathCall) {
	e.chown(theOther, alice)
	classes := []struct {
		owner  user
		denied uint32
	}{
		{alice, 0o677},
		{root.with(team), 0o767},
		{root, 0o776},
	}
	for i, class := range classes {
		d := fmt.Sprintf("d%d", i)
		e.mkdir(class.denied, d)
		e.chown(d, class.owner)
		c.prepare(e, d+"/f")
		if needsObject(c) {
			e.chown(d+"/f", alice)
		}
		me := alice.in(team)
		if class.owner.gid == 0 {
			me = alice
		}
		do := func() error { return c.do(e, d+"/f") }
		e.want(e.try(me, do), unix.EACCES)
		e.want(e.try(me, func() error { return c.do(e, d+"/f/x") }), unix.EACCES)
		e.ok(unix.Chmod(d, 0o777))
		e.want(e.try(me, do), 0)
		e.ok(tryOpen(theOther, unix.O_CREAT, 0o644)) // a rename took it away
		e.chown(theOther, alice)
	}
}

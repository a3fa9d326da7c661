package posix

import (
	"io"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// process is another owner of locks. fcntl(2) locks belong to a table of
// descriptors (the kernel's current->files), so a thread with a table of its own
// is for them what another process is.
type process struct {
	e    *env
	work chan func() error
	done chan error
	end  func() // closes every descriptor, as exit does
}

// patience is how long a lock that is free may take to be given.
const patience = 5 * time.Second

// process starts one that has copies of the descriptors open now.
func (e *env) process() *process {
	e.Helper()
	p := &process{e: e, work: make(chan func() error), done: make(chan error, 1)}
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_FILES)
		if err == nil {
			err = unix.Chdir(e.dir)
		}
		started <- err
		for f := range p.work {
			p.done <- f()
		}
	}()
	closed := false
	p.end = func() {
		if !closed {
			closed = true
			close(p.work)
			select {
			case <-ended:
			case <-time.After(patience):
				e.Error("a lock is waited for that nobody holds any more")
			}
		}
	}
	e.ok(<-started)
	e.Cleanup(p.end)
	return p
}

// do runs f in the process.
func (p *process) do(f func() error) error {
	p.start(f)
	return <-p.done
}

// start runs f in the process; its error comes from done.
func (p *process) start(f func() error) { p.work <- f }

// open returns a descriptor of the process.
func (p *process) open(path string, flags int) int {
	p.e.Helper()
	var fd int
	p.e.ok(p.do(func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
		return err
	}))
	return fd
}

// waits reports whether what start began has not ended after a while.
func (p *process) waits() bool {
	select {
	case err := <-p.done:
		p.done <- err
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

// finish returns the result of what start began.
func (p *process) finish() error {
	p.e.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(patience):
		p.e.Fatal("a lock is waited for that is free")
		return nil
	}
}

// byteLock asks for a lock on a range; length 0 reaches to the end of any file.
func byteLock(fd, cmd int, kind int16, start, length int64) error {
	return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{
		Type: kind, Whence: io.SeekStart, Start: start, Len: length,
	})
}

// freed asks until the lock is there: a table of descriptors is closed a moment
// after its thread ended.
func (e *env) freed(try func() error) {
	e.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	e.Errorf("the lock was not released: %s", errnoName(err))
}

func lockCases(s *suite) {
	lockConflictCases(s)
	lockOwnerCases(s)
	lockReleaseCases(s)
	waitCases(s)
	openFileLockCases(s)
	flockCases(s)
}

func lockConflictCases(s *suite) {
	conflicts := []struct {
		held, asked int16
		want        unix.Errno
	}{
		{unix.F_RDLCK, unix.F_RDLCK, 0},
		{unix.F_RDLCK, unix.F_WRLCK, unix.EAGAIN},
		{unix.F_WRLCK, unix.F_RDLCK, unix.EAGAIN},
		{unix.F_WRLCK, unix.F_WRLCK, unix.EAGAIN},
	}
	s.run("fcntl conflicts", func(e *env) {
		for i, c := range conflicts {
			path := number(i)
			e.file(path, 0o644, "0123456789")
			fd, p := e.open(path, unix.O_RDWR, 0), e.process()
			other := p.open(path, unix.O_RDWR)
			e.ok(byteLock(fd, unix.F_SETLK, c.held, 10, 10))
			ask := func(start, n int64) error {
				return p.do(func() error { return byteLock(other, unix.F_SETLK, c.asked, start, n) })
			}
			for _, r := range [][2]int64{{10, 10}, {0, 11}, {19, 1}, {15, 0}, {0, 0}, {5, 100}, {12, 2}} {
				e.want(ask(r[0], r[1]), c.want, errnoIf(c.want, unix.EACCES))
				e.ok(p.do(func() error { return byteLock(other, unix.F_SETLK, unix.F_UNLCK, 0, 0) }))
			}
			for _, r := range [][2]int64{{0, 10}, {20, 10}, {20, 0}, {9, 1}} {
				e.want(ask(r[0], r[1]), 0) // side by side
			}
			p.end()
		}
	})
	s.run("fcntl splits and merges", func(e *env) {
		e.file("f", 0o644, "")
		fd, p := e.open("f", unix.O_RDWR, 0), e.process()
		other := p.open("f", unix.O_RDWR)
		free := func(start, n int64) unix.Errno {
			return errnoOf(p.do(func() error {
				if err := byteLock(other, unix.F_SETLK, unix.F_WRLCK, start, n); err != nil {
					return err
				}
				return byteLock(other, unix.F_SETLK, unix.F_UNLCK, start, n)
			}))
		}
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 100))
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_UNLCK, 40, 20)) // splits
		equal(e, "0 to 40", free(39, 1), unix.EAGAIN)
		equal(e, "the gap", free(40, 20), 0)
		equal(e, "60 to 100", free(60, 1), unix.EAGAIN)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 40, 20)) // merges
		equal(e, "the gap", free(50, 1), unix.EAGAIN)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_UNLCK, 0, 0))
		equal(e, "everything", free(0, 0), 0)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 1<<62, 10)) // far beyond the end
		equal(e, "far away", free(1<<62+5, 1), unix.EAGAIN)
		equal(e, "before it", free(0, 1<<62), 0)
	})
}

// lockOwnerCases: what is a conflict, and with whom.
func lockOwnerCases(s *suite) {
	s.run("fcntl changes its own lock", func(e *env) {
		e.file("f", 0o644, "")
		fd, p := e.open("f", unix.O_RDWR, 0), e.process()
		other := p.open("f", unix.O_RDWR)
		read := func() error { return p.do(func() error { return byteLock(other, unix.F_SETLK, unix.F_RDLCK, 0, 10) }) }
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 10))
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 5, 10)) // no conflict with itself
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_RDLCK, 0, 10))
		e.want(read(), 0)
		e.want(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 10), unix.EAGAIN, unix.EACCES)
	})
	s.run("fcntl tells who holds it", func(e *env) {
		e.file("f", 0o644, "")
		fd, p := e.open("f", unix.O_RDWR, 0), e.process()
		other := p.open("f", unix.O_RDWR)
		ask := func() unix.Flock_t {
			l := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 0}
			e.ok(p.do(func() error { return unix.FcntlFlock(uintptr(other), unix.F_GETLK, &l) }))
			return l
		}
		equal(e, "free", ask().Type, unix.F_UNLCK)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_RDLCK, 7, 5))
		l := ask()
		equal(e, "type", l.Type, unix.F_RDLCK)
		equal(e, "start", l.Start, 7)
		equal(e, "length", l.Len, 5)
		equal(e, "process", int(l.Pid), unix.Getpid())
		own := unix.Flock_t{Type: unix.F_WRLCK}
		e.ok(unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &own))
		equal(e, "own locks are no conflict", own.Type, unix.F_UNLCK)
	})
}

func lockReleaseCases(s *suite) {
	s.run("fcntl releases at any close", func(e *env) {
		e.file("f", 0o644, "")
		p := e.process()
		fd, second := e.open("f", unix.O_RDWR, 0), e.open("f", unix.O_RDONLY, 0)
		other := p.open("f", unix.O_RDWR)
		ask := func() error { return p.do(func() error { return byteLock(other, unix.F_SETLK, unix.F_WRLCK, 0, 0) }) }
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		e.want(ask(), unix.EAGAIN)
		e.close(second) // any descriptor of the file, fcntl(2)
		e.want(ask(), 0)
	})
	s.run("fcntl releases at exit", func(e *env) {
		e.file("f", 0o644, "")
		fd, p := e.open("f", unix.O_RDWR, 0), e.process()
		other := p.open("f", unix.O_RDWR)
		e.ok(p.do(func() error { return byteLock(other, unix.F_SETLK, unix.F_WRLCK, 0, 0) }))
		e.want(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0), unix.EAGAIN)
		p.end()
		e.freed(func() error { return byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0) })
	})
	s.run("fcntl refused", func(e *env) {
		e.file("f", 0o644, "")
		r, w := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_WRONLY, 0)
		e.want(byteLock(r, unix.F_SETLK, unix.F_WRLCK, 0, 1), unix.EBADF)
		e.want(byteLock(w, unix.F_SETLK, unix.F_RDLCK, 0, 1), unix.EBADF)
		e.want(byteLock(r, unix.F_SETLK, unix.F_RDLCK, -1, 1), unix.EINVAL)
		e.want(byteLock(r, unix.F_SETLK, 77, 0, 1), unix.EINVAL)
		e.want(byteLock(r, unix.F_SETLK, unix.F_RDLCK, 1<<63-2, 10), unix.EOVERFLOW)
		e.want(byteLock(e.open("f", unix.O_PATH, 0), unix.F_SETLK, unix.F_RDLCK, 0, 1), unix.EBADF)
		e.want(byteLock(-1, unix.F_SETLK, unix.F_RDLCK, 0, 1), unix.EBADF)
		e.ok(byteLock(w, unix.F_SETLK, unix.F_WRLCK, 0, 1))
	})
	s.run("fcntl outlives unlink and rename", func(e *env) {
		e.file("f", 0o644, "")
		fd, p := e.open("f", unix.O_RDWR, 0), e.process()
		other := p.open("f", unix.O_RDWR)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		e.ok(unix.Rename("f", "g"))
		ask := func() error { return p.do(func() error { return byteLock(other, unix.F_SETLK, unix.F_WRLCK, 0, 0) }) }
		e.want(ask(), unix.EAGAIN)
		e.ok(unix.Unlink("g"))
		e.want(ask(), unix.EAGAIN)
		e.close(fd)
		e.want(ask(), 0)
	})
}

// errnoIf lets a refusal be EACCES as well (fcntl(2)).
func errnoIf(want, also unix.Errno) unix.Errno {
	if want == 0 {
		return 0
	}
	return also
}

func waitCases(s *suite) {
	s.run("fcntl waits", func(e *env) {
		e.file("f", 0o644, "")
		fd, p := e.open("f", unix.O_RDWR, 0), e.process()
		other := p.open("f", unix.O_RDWR)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		p.start(func() error { return byteLock(other, unix.F_SETLKW, unix.F_WRLCK, 0, 0) })
		if !p.waits() {
			e.Error("F_SETLKW did not wait for a lock that is held")
		}
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_UNLCK, 0, 0))
		e.want(p.finish(), 0)
		e.want(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0), unix.EAGAIN)
	})
	s.run("fcntl waits until the holder closes", func(e *env) {
		e.file("f", 0o644, "")
		p := e.process()
		fd, other := e.open("f", unix.O_RDWR, 0), p.open("f", unix.O_RDWR)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		p.start(func() error { return byteLock(other, unix.F_SETLKW, unix.F_RDLCK, 0, 0) })
		if !p.waits() {
			e.Error("F_SETLKW did not wait for a lock that is held")
		}
		e.close(fd)
		e.want(p.finish(), 0)
	})
	s.run("fcntl sees a deadlock", func(e *env) {
		e.file("f", 0o644, "")
		fd, p := e.open("f", unix.O_RDWR, 0), e.process()
		other := p.open("f", unix.O_RDWR)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_WRLCK, 0, 1))
		e.ok(p.do(func() error { return byteLock(other, unix.F_SETLK, unix.F_WRLCK, 1, 1) }))
		p.start(func() error { return byteLock(other, unix.F_SETLKW, unix.F_WRLCK, 0, 1) })
		if !p.waits() {
			e.Error("F_SETLKW did not wait for a lock that is held")
		}
		e.want(byteLock(fd, unix.F_SETLKW, unix.F_WRLCK, 1, 1), unix.EDEADLK)
		e.ok(byteLock(fd, unix.F_SETLK, unix.F_UNLCK, 0, 1))
		e.want(p.finish(), 0)
	})
}

// openFileLockCases are locks that belong to an open file description.
func openFileLockCases(s *suite) {
	s.run("open file description locks", func(e *env) {
		e.file("f", 0o644, "")
		a, b := e.open("f", unix.O_RDWR, 0), e.open("f", unix.O_RDWR, 0)
		e.ok(byteLock(a, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 10))
		e.want(byteLock(b, unix.F_OFD_SETLK, unix.F_WRLCK, 5, 10), unix.EAGAIN) // in one process
		e.want(byteLock(b, unix.F_SETLK, unix.F_WRLCK, 5, 10), unix.EAGAIN)     // and against the classic kind
		e.ok(byteLock(b, unix.F_OFD_SETLK, unix.F_WRLCK, 10, 10))
		l := unix.Flock_t{Type: unix.F_WRLCK}
		e.ok(unix.FcntlFlock(uintptr(b), unix.F_OFD_GETLK, &l))
		equal(e, "type", l.Type, unix.F_WRLCK)
		equal(e, "length", l.Len, 10)
		dup, err := unix.Dup(a)
		e.ok(err)
		e.fds = append(e.fds, dup)
		e.ok(byteLock(dup, unix.F_OFD_SETLK, unix.F_RDLCK, 0, 10)) // a duplicate is the same owner
		third := e.open("f", unix.O_RDONLY, 0)
		e.close(third) // closing another descriptor releases nothing
		e.close(a)
		e.want(byteLock(b, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 10), unix.EAGAIN)
		e.close(dup)
		e.want(byteLock(b, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 10), 0)
	})
	s.run("open file description lock waits", func(e *env) {
		e.file("f", 0o644, "")
		p := e.process()
		fd, other := e.open("f", unix.O_RDWR, 0), p.open("f", unix.O_RDWR)
		e.ok(byteLock(fd, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0))
		p.start(func() error { return byteLock(other, unix.F_OFD_SETLKW, unix.F_WRLCK, 0, 0) })
		if !p.waits() {
			e.Error("F_OFD_SETLKW did not wait for a lock that is held")
		}
		e.close(fd)
		e.want(p.finish(), 0)
	})
}

func flockCases(s *suite) {
	s.run("flock conflicts", func(e *env) {
		for _, c := range []struct {
			held, asked int
			want        unix.Errno
		}{
			{unix.LOCK_SH, unix.LOCK_SH, 0}, {unix.LOCK_SH, unix.LOCK_EX, unix.EWOULDBLOCK},
			{unix.LOCK_EX, unix.LOCK_SH, unix.EWOULDBLOCK}, {unix.LOCK_EX, unix.LOCK_EX, unix.EWOULDBLOCK},
		} {
			e.ok(tryOpen("f", unix.O_CREAT, 0o644))
			a, b := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_WRONLY, 0)
			e.ok(unix.Flock(a, c.held))
			e.want(unix.Flock(b, c.asked|unix.LOCK_NB), c.want)
			e.ok(unix.Flock(a, c.held|unix.LOCK_NB)) // its own again
			e.close(a)
			e.want(unix.Flock(b, c.asked|unix.LOCK_NB), 0)
			e.close(b)
		}
	})
	s.run("flock belongs to the description", func(e *env) {
		e.file("f", 0o644, "")
		a, b := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_RDONLY, 0)
		dup, err := unix.Dup(a)
		e.ok(err)
		e.fds = append(e.fds, dup)
		e.ok(unix.Flock(a, unix.LOCK_EX))
		e.ok(unix.Flock(dup, unix.LOCK_EX|unix.LOCK_NB))
		e.close(a)
		e.want(unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
		e.ok(unix.Flock(dup, unix.LOCK_UN))
		e.want(unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), 0)
	})
	s.run("flock upgrades and downgrades", func(e *env) {
		e.file("f", 0o644, "")
		a, b := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_RDONLY, 0)
		e.ok(unix.Flock(a, unix.LOCK_SH))
		e.ok(unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB))
		e.want(unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
		e.ok(unix.Flock(a, unix.LOCK_SH|unix.LOCK_NB))
		e.want(unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), 0)
		e.want(unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	})
	s.run("flock of a directory", func(e *env) {
		e.mkdir(0o755, "d")
		a, b := e.open("d", unix.O_DIRECTORY, 0), e.open("d", unix.O_DIRECTORY, 0)
		e.ok(unix.Flock(a, unix.LOCK_EX))
		e.want(unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	})
	s.run("flock waits", func(e *env) {
		e.file("f", 0o644, "")
		p := e.process()
		fd, other := e.open("f", unix.O_RDONLY, 0), p.open("f", unix.O_RDONLY)
		e.ok(unix.Flock(fd, unix.LOCK_EX))
		p.start(func() error { return unix.Flock(other, unix.LOCK_EX) })
		if !p.waits() {
			e.Error("flock did not wait for a lock that is held")
		}
		e.ok(unix.Flock(fd, unix.LOCK_UN))
		e.want(p.finish(), 0)
		e.want(unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		p.end()
		e.freed(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	})
	s.run("flock refused", func(e *env) {
		e.file("f", 0o644, "")
		fd := e.open("f", unix.O_RDONLY, 0)
		e.want(unix.Flock(fd, 0), unix.EINVAL)
		e.want(unix.Flock(fd, 1<<10), unix.EINVAL)
		e.want(unix.Flock(-1, unix.LOCK_SH), unix.EBADF)
		e.want(unix.Flock(e.open("f", unix.O_PATH, 0), unix.LOCK_SH), unix.EBADF)
	})
	s.run("flock and fcntl do not meet", func(e *env) {
		e.file("f", 0o644, "")
		p := e.process()
		fd, other := e.open("f", unix.O_RDWR, 0), p.open("f", unix.O_RDWR)
		e.ok(unix.Flock(fd, unix.LOCK_EX))
		e.want(p.do(func() error { return byteLock(other, unix.F_SETLK, unix.F_WRLCK, 0, 0) }), 0)
	})
}

package posix

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// together runs f on n threads at once and returns their errors. The threads do
// not stand in the case's directory.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// raceCases are operations that have to be atomic against each other.
func raceCases(s *suite) {
	const threads, rounds = 8, 30
	claims := []struct {
		name string
		loss unix.Errno // what all but one are told
		do   func(from, to string) error
	}{
		{"open exclusive", unix.EEXIST, func(_, to string) error { return tryOpen(to, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644) }},
		{"mkdir", unix.EEXIST, func(_, to string) error { return unix.Mkdir(to, 0o755) }},
		{"link", unix.EEXIST, func(from, to string) error { return unix.Link(from, to) }},
		{"symlink", unix.EEXIST, func(from, to string) error { return unix.Symlink(from, to) }},
		{"mkfifo", unix.EEXIST, func(_, to string) error { return unix.Mkfifo(to, 0o644) }},
		{"rename without replacing", unix.EEXIST, func(from, to string) error { return renameFlags(from, to, unix.RENAME_NOREPLACE) }},
	}
	for _, c := range claims {
		s.run("one wins/"+c.name, func(e *env) {
			for round := range rounds {
				for i := range threads {
					e.ok(tryOpen(fmt.Sprintf("from %d", i), unix.O_CREAT, 0o644))
				}
				errs := together(threads, func(i int) error {
					return c.do(fmt.Sprintf("%s/from %d", e.dir, i), fmt.Sprintf("%s/to %d", e.dir, round))
				})
				e.oneWon(errs, c.loss)
			}
		})
	}
	removals := []struct {
		name string
		make kind
		do   func(path string) error
	}{
		{"unlink", regular, unix.Unlink},
		{"rmdir", directory, unix.Rmdir},
		{"rename away", regular, func(p string) error { return unix.Rename(p, p+" away") }},
	}
	for _, r := range removals {
		s.run("one wins/"+r.name, func(e *env) {
			for round := range rounds {
				path := fmt.Sprintf("%s/%d", e.dir, round)
				e.make(r.make, path, 0o755)
				e.oneWon(together(threads, func(int) error { return r.do(path) }), unix.ENOENT)
			}
		})
	}
	s.run("appends lose nothing", appendTogether)
	s.run("link counts add up", linkTogether)
	s.run("directories stay a tree", renameTogether)
}

// oneWon reports anything but one success and losses with one errno.
func (e *env) oneWon(errs []error, loss unix.Errno) {
	e.Helper()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		e.want(err, loss)
	}
	equal(e, "winners", won, 1)
}

func appendTogether(e *env) {
	const threads, lines = 8, 200
	e.file("f", 0o644, "")
	for _, err := range together(threads, func(i int) error {
		fd, err := unix.Open(e.dir+"/f", unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for n := range lines {
			if _, err := unix.Write(fd, fmt.Appendf(nil, "thread %d line %03d\n", i, n)); err != nil {
				return err
			}
		}
		return nil
	}) {
		e.want(err, 0)
	}
	got, err := readUpTo("f", 1<<20)
	e.ok(err)
	equal(e, "bytes", len(got), threads*lines*len("thread 0 line 000\n"))
	for i := range threads {
		for n := range lines {
			if line := fmt.Sprintf("thread %d line %03d\n", i, n); strings.Count(got, line) != 1 {
				e.Errorf("%q is there %d times", line, strings.Count(got, line))
			}
		}
	}
}

func linkTogether(e *env) {
	const threads, rounds = 8, 100
	e.file("f", 0o644, "")
	for _, err := range together(threads, func(i int) error {
		for n := range rounds {
			name := fmt.Sprintf("%s/%d %d", e.dir, i, n)
			if err := unix.Link(e.dir+"/f", name); err != nil {
				return err
			}
			if n%2 == 0 {
				if err := unix.Unlink(name); err != nil {
					return err
				}
			}
		}
		return nil
	}) {
		e.want(err, 0)
	}
	e.nlink("f", 1+threads*rounds/2)
	equal(e, "names", len(e.list(".")), 1+threads*rounds/2)
}

// renameTogether moves directories into each other from all sides: no two may
// ever end up inside of one another, cut off from the root.
func renameTogether(e *env) {
	const threads, rounds, dirs = 4, 200, 5
	for i := range dirs {
		e.mkdir(0o755, number(i))
	}
	for _, err := range together(threads, func(t int) error {
		for n := range rounds {
			from, to := (t+n)%dirs, (t*3+n*7+1)%dirs
			err := unix.Rename(fmt.Sprintf("%s/%d", e.dir, from), fmt.Sprintf("%s/%d/%d", e.dir, to, from))
			if err == nil {
				err = unix.Rename(fmt.Sprintf("%s/%d/%d", e.dir, to, from), fmt.Sprintf("%s/%d", e.dir, from))
			}
			switch errnoOf(err) {
			case 0, unix.ENOENT, unix.EINVAL, unix.ENOTEMPTY, unix.EEXIST:
			default:
				return err
			}
		}
		return nil
	}) {
		e.want(err, 0)
	}
	equal(e, "directories that can be reached", e.countDirs("."), dirs)
}

func (e *env) countDirs(path string) int {
	e.Helper()
	names := e.list(path)
	n := len(names)
	for _, name := range names {
		n += e.countDirs(path + "/" + name)
	}
	return n
}

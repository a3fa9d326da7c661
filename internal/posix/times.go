package posix

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// times runs op and compares the times of files before and after it. A watch is
// "path:fields", or "path>new path:fields" where op moves the file; fields are
// of a, m and c. The times named must move forward, and not past the clock;
// mtime and ctime must stay to the nanosecond where they are not named. M leaves
// the mtime open, and an atime that is not named is open too: relatime decides.
func (e *env) times(op func(), watches ...string) {
	e.Helper()
	before := make([]unix.Stat_t, len(watches))
	for i, w := range watches {
		from, _, _ := splitWatch(w)
		before[i] = e.lstat(from)
	}
	tick()
	op()
	now := clock(unix.CLOCK_REALTIME)
	for i, w := range watches {
		_, path, fields := splitWatch(w)
		after := e.lstat(path)
		if strings.Contains(fields, "a") {
			e.moved(path+": atime", before[i].Atim, after.Atim, now)
		}
		if !strings.Contains(fields, "M") {
			e.movedOrNot(path+": mtime", strings.Contains(fields, "m"), before[i].Mtim, after.Mtim, now)
		}
		e.movedOrNot(path+": ctime", strings.Contains(fields, "c"), before[i].Ctim, after.Ctim, now)
	}
}

// still runs op, which must change no time of the files.
func (e *env) still(op func(), paths ...string) {
	e.Helper()
	watches := make([]string, len(paths))
	for i, p := range paths {
		watches[i] = p + ":"
	}
	e.times(op, watches...)
}

func splitWatch(w string) (from, to, fields string) {
	paths, fields, _ := strings.Cut(w, ":")
	from, to, found := strings.Cut(paths, ">")
	if !found {
		to = from
	}
	return from, to, fields
}

func (e *env) movedOrNot(what string, want bool, before, after, now unix.Timespec) {
	e.Helper()
	if want {
		e.moved(what, before, after, now)
		return
	}
	if before != after {
		e.Errorf("%s moved from %v to %v, want it unchanged", what, stamp(before), stamp(after))
	}
}

func (e *env) moved(what string, before, after, now unix.Timespec) {
	e.Helper()
	if after.Nano() <= before.Nano() {
		e.Errorf("%s went from %v to %v, want it later", what, stamp(before), stamp(after))
	}
	if after.Nano() > now.Nano() {
		e.Errorf("%s = %v is in the future: it is %v", what, stamp(after), stamp(now))
	}
}

func stamp(ts unix.Timespec) string {
	return time.Unix(ts.Unix()).UTC().Format("15:04:05.000000000")
}

// tick returns when the kernel's coarse clock, with which file systems stamp, is
// past now and so past every stamp given so far: 1 to 10 ms. One step of that
// clock is not enough: a stamp may be a fine one (multigrain timestamps), and the
// clock steps in whole ticks however late it is.
func tick() {
	now := clock(unix.CLOCK_REALTIME)
	for {
		coarse := clock(unix.CLOCK_REALTIME_COARSE)
		if coarse.Nano() > now.Nano() {
			return
		}
		time.Sleep(500 * time.Microsecond)
	}
}

func clock(id int32) unix.Timespec {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err) // a clock the kernel does not have
	}
	return ts
}

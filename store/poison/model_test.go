package poison_test

import (
	"fmt"
	"testing"
)

// This file model-checks the protocol: it walks every interleaving of a few
// processes over two locks and looks for a world that breaks a property:
//
//	P1  no write section runs on torn data
//	P2  no read without an event sees torn data, nor two locks that disagree
//	P3  a reset clears only the event that the admin was shown
//	P4  there is no deadlock, and in the end no lock is held
//
// Each decision of the design can be left out, and must then be found out: a model
// that cannot fail proves nothing.

// omission is a decision left out.
type omission string

const (
	nothing          omission = ""
	readCheckOutside omission = "a read looks for poison after it released the lock"
	noGenCheck       omission = "a reset does not compare generations"
	splitPublication omission = "event and generation are published one after the other"
	poisonLate       omission = "a dying section releases its lock before it poisons it"
	poisonOne        omission = "a dying section poisons the lock it was at, not all it holds"
	checkAsYouGo     omission = "a section takes, checks and changes its locks one by one"
	unordered        omission = "a section takes its locks in the order given"
)

// mlock is a lock and the value behind it. When all is well a == b, and link is
// the same behind both locks.
type mlock struct {
	writer   bool
	readers  uint8
	poisoned bool
	gen, ev  uint8
	a, b     uint8
	link     uint8
}

func (l *mlock) free() bool { return !l.writer && l.readers == 0 }

func (l *mlock) poison() {
	l.poisoned, l.gen = true, l.gen+1
	l.ev = l.gen
}

// mproc is a process: where it is, how many rounds it has left, what it remembers.
type mproc struct {
	kind   uint8
	lock   uint8 // that it works on; the first one it names, for a linker
	pc     uint8
	rounds uint8
	x, y   uint8
	seen   bool // poison
}

const (
	mwriter uint8 = iota // changes a and b of one lock, and may die in between
	mlinker              // changes link of both locks, and may die in between
	mreader              // reads a and b of one lock
	mboth                // reads link of both locks
	madmin               // resets one lock, when it sees it poisoned
)

type world struct {
	locks [2]mlock
	truth uint8 // link as the durable store has it
	procs [5]mproc
}

// checker explores worlds.
type checker struct {
	without omission
	seen    map[world]struct{}
	todo    []world
	broken  string // the first broken property
}

// explore returns the first broken property that can be reached from w, or "".
func (c *checker) explore(w world) string {
	c.seen = map[world]struct{}{}
	c.add(w)
	for len(c.todo) > 0 && c.broken == "" {
		w := c.todo[len(c.todo)-1]
		c.todo = c.todo[:len(c.todo)-1]
		finished, moved := true, false
		for i := range w.procs {
			if w.procs[i].rounds > 0 {
				finished = false
				moved = c.step(w, i) || moved
			}
		}
		c.require(finished || moved, "P4: deadlock in %+v", w)
		c.require(!finished || w.locks[0].free() && w.locks[1].free(), "P4: a lock is held for ever in %+v", w)
	}
	return c.broken
}

func (c *checker) require(ok bool, format string, args ...any) {
	if !ok && c.broken == "" {
		c.broken = fmt.Sprintf(format, args...)
	}
}

func (c *checker) add(w world) {
	if _, ok := c.seen[w]; !ok {
		c.seen[w] = struct{}{}
		c.todo = append(c.todo, w)
	}
}

// step adds the worlds that process i can turn w into, and reports whether there
// are any.
func (c *checker) step(w world, i int) bool {
	switch w.procs[i].kind {
	case mwriter:
		return c.stepWriter(w, i)
	case mlinker:
		return c.stepLinker(w, i)
	case mreader:
		return c.stepReader(w, i)
	case mboth:
		return c.stepBoth(w, i)
	}
	return c.stepAdmin(w, i)
}

// goTo adds w with process i at pc.
func (c *checker) goTo(w world, i int, pc uint8) bool {
	w.procs[i].pc = pc
	c.add(w)
	return true
}

// done adds w with process i at the end of a round.
func (c *checker) done(w world, i int) bool {
	p := &w.procs[i]
	p.rounds--
	p.pc, p.x, p.y, p.seen = 0, 0, 0, false
	c.add(w)
	return true
}

func (c *checker) stepWriter(w world, i int) bool {
	p := w.procs[i]
	l := &w.locks[p.lock]
	switch p.pc {
	case 0:
		if !l.free() {
			return false
		}
		l.writer = true
		return c.goTo(w, i, 1)
	case 1:
		if l.poisoned {
			l.writer = false
			return c.done(w, i)
		}
		c.require(l.a == l.b, "P1: a write section runs in %+v", w)
		l.a = (l.a + 1) % 3
		return c.goTo(w, i, 2)
	case 2:
		lives := w
		lives.locks[p.lock].b, lives.locks[p.lock].writer = l.a, false
		c.done(lives, i)
		return c.die(w, i)
	case 3:
		l.writer = false
		return c.done(w, i)
	case 4:
		l.poison()
		return c.done(w, i)
	case 5:
		l.gen++
		return c.goTo(w, i, 6)
	default: // 6
		l.ev = l.gen
		return c.goTo(w, i, 3)
	}
}

// die is a panic or Goexit of writer i, half-way through its change.
func (c *checker) die(w world, i int) bool {
	l := &w.locks[w.procs[i].lock]
	switch c.without {
	case poisonLate:
		l.writer = false
		return c.goTo(w, i, 4)
	case splitPublication:
		l.poisoned = true
		return c.goTo(w, i, 5)
	}
	l.poison()
	return c.goTo(w, i, 3)
}

func (c *checker) stepLinker(w world, i int) bool {
	if c.without == checkAsYouGo {
		return c.stepOneByOne(w, i)
	}
	p := w.procs[i]
	first, second := &w.locks[0], &w.locks[1]
	if c.without == unordered && p.lock == 1 {
		first, second = second, first
	}
	switch p.pc {
	case 0, 1:
		l := []*mlock{first, second}[p.pc]
		if !l.free() {
			return false
		}
		l.writer = true
		return c.goTo(w, i, p.pc+1)
	case 2: // all are held: check all, then change
		if first.poisoned || second.poisoned {
			first.writer, second.writer = false, false
			return c.done(w, i)
		}
		c.require(first.link == second.link, "P1: a write section runs in %+v", w)
		w.truth = (w.truth + 1) % 3
		first.link = w.truth
		return c.goTo(w, i, 3)
	case 3:
		lives := w
		for k := range lives.locks {
			lives.locks[k].link, lives.locks[k].writer = w.truth, false
		}
		c.done(lives, i)
		first.poison()
		return c.goTo(w, i, 4)
	case 4:
		if c.without != poisonOne {
			second.poison()
		}
		return c.goTo(w, i, 5)
	case 5: // poisoned all: release all
		first.writer = false
		return c.goTo(w, i, 6)
	default: // 6
		second.writer = false
		return c.done(w, i)
	}
}

// stepOneByOne is the linker of the design that this package replaces: take a
// lock, check it, change what is behind it, release it, go on to the next.
func (c *checker) stepOneByOne(w world, i int) bool {
	p := w.procs[i]
	l := &w.locks[p.pc/2]
	if p.pc%2 == 0 {
		if !l.free() {
			return false
		}
		l.writer = true
		return c.goTo(w, i, p.pc+1)
	}
	l.writer = false
	if l.poisoned {
		return c.done(w, i) // "cleanly" refused
	}
	if p.pc == 1 {
		w.truth = (w.truth + 1) % 3
	}
	l.link = w.truth
	if p.pc == 3 {
		return c.done(w, i)
	}
	return c.goTo(w, i, 2)
}

func (c *checker) stepReader(w world, i int) bool {
	p := &w.procs[i]
	l := &w.locks[p.lock]
	switch p.pc {
	case 0:
		if l.writer {
			return false
		}
		l.readers++
		return c.goTo(w, i, 1)
	case 1:
		p.seen = l.poisoned
		return c.goTo(w, i, 2)
	case 2:
		p.x = l.a
		return c.goTo(w, i, 3)
	case 3:
		p.y = l.b
		l.readers--
		return c.goTo(w, i, 4)
	default: // 4
		if c.without == readCheckOutside {
			p.seen = l.poisoned
		}
		c.require(p.seen || p.x == p.y, "P2: a read saw %d and %d in %+v", p.x, p.y, w)
		return c.done(w, i)
	}
}

// stepBoth reads both locks under both. In the one-by-one design there is nothing
// else to do, either.
func (c *checker) stepBoth(w world, i int) bool {
	p := &w.procs[i]
	switch p.pc {
	case 0, 1:
		l := &w.locks[p.pc]
		if l.writer {
			return false
		}
		l.readers++
		return c.goTo(w, i, p.pc+1)
	default: // 2
		l, m := &w.locks[0], &w.locks[1]
		c.require(l.poisoned || m.poisoned || l.link == m.link, "P2: links %d and %d in %+v", l.link, m.link, w)
		l.readers--
		m.readers--
		return c.done(w, i)
	}
}

func (c *checker) stepAdmin(w world, i int) bool {
	p := &w.procs[i]
	l := &w.locks[p.lock]
	switch p.pc {
	case 0: // the page shows an event and its generation
		if !l.poisoned {
			return c.done(w, i)
		}
		p.x, p.y = l.gen, l.ev
		return c.goTo(w, i, 1)
	case 1:
		if !l.free() {
			return false
		}
		l.writer = true
		return c.goTo(w, i, 2)
	default: // 2
		l.writer = false
		if !l.poisoned || p.x != l.gen && c.without != noGenCheck {
			return c.done(w, i)
		}
		c.require(p.y == l.ev, "P3: an admin who saw event %d clears %d in %+v", p.y, l.ev, w)
		c.done(w, i) // the rebuild returned an error
		panicked := w
		panicked.locks[p.lock].poison()
		c.done(panicked, i)
		l.b, l.link, l.poisoned, l.gen = l.a, w.truth, false, l.gen+1
		return c.done(w, i)
	}
}

func TestModelOfTheProtocol(t *testing.T) {
	small := world{procs: [5]mproc{
		{kind: mwriter, rounds: 2}, {kind: mwriter, rounds: 2}, {kind: mreader, rounds: 2},
		{kind: madmin, rounds: 2}, {kind: madmin, rounds: 2},
	}}
	pairs := world{procs: [5]mproc{
		{kind: mlinker, rounds: 2}, {kind: mlinker, lock: 1, rounds: 2}, {kind: mboth, rounds: 2},
		{kind: madmin, rounds: 2}, {kind: madmin, lock: 1, rounds: 2},
	}}
	mixed := world{procs: [5]mproc{
		{kind: mwriter, rounds: 2}, {kind: mlinker, rounds: 2}, {kind: mboth, rounds: 1},
		{kind: mreader, rounds: 1}, {kind: madmin, rounds: 2},
	}}
	worlds := map[string]world{"OneLock": small, "TwoLocks": pairs, "Mixed": mixed}
	for name, w := range worlds {
		t.Run(name, func(t *testing.T) {
			c := checker{without: nothing}
			if broken := c.explore(w); broken != "" {
				t.Error(broken)
			}
			t.Logf("%d worlds", len(c.seen))
		})
	}
	for without, where := range map[omission]string{
		readCheckOutside: "OneLock", noGenCheck: "OneLock", splitPublication: "OneLock", poisonLate: "OneLock",
		poisonOne: "TwoLocks", checkAsYouGo: "Mixed", unordered: "TwoLocks",
	} {
		t.Run(string(without), func(t *testing.T) {
			c := checker{without: without}
			broken := c.explore(worlds[where])
			if broken == "" {
				t.Errorf("%d worlds, and the omission is not found out", len(c.seen))
			}
			t.Logf("after %d worlds: %s", len(c.seen), broken)
		})
	}
}

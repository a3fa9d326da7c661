//go:build race || lockdebug

package poison

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// orderChecks turns the lock-order checks on: every goroutine's held locks are
// listed, and a lock that could deadlock panics before it is waited for. The rules
// look at what is held, so one goroutine alone is enough to find a mistake that
// would need two to hang.
const orderChecks = true

const (
	ruleReentry = "a lock must not be taken twice by one goroutine"
	ruleInvert  = "locks are taken by ascending rank, and by ascending id within a family"
	ruleUpgrade = "a write section must not begin inside a read section"
)

// holding is one lock held by a goroutine.
type holding struct {
	c    *core
	op   string
	mode lockMode
	sec  *Section // nil: not taken by Atomically
	pcs  []uintptr
}

// heldLocks lists the locks held by the goroutines of one shard.
type heldLocks struct {
	mu  sync.Mutex // protects byG
	byG map[uint64][]holding
}

var (
	heldShards      [64]heldLocks
	orderChecked    atomic.Uint64
	orderViolations atomic.Uint64
)

func orderCounts() (acquisitions, violations uint64) {
	return orderChecked.Load(), orderViolations.Load()
}

// orderAcquire checks that this goroutine may take c, and notes that it has.
func orderAcquire(c *core, op string, mode lockMode, sec *Section) {
	id := goid()
	orderCheck(id, holding{c: c, op: op, mode: mode, sec: sec})
	orderNote(id, holding{c: c, op: op, mode: mode, sec: sec, pcs: callers()})
}

// orderAcquireAll is orderAcquire for all locks of s. It checks them all first, so
// that a panic leaves none behind.
func orderAcquireAll(s *Section) {
	id := goid()
	hs := make([]holding, 0, len(s.holds))
	for _, h := range s.holds {
		mode := shared
		if h.write {
			mode = exclusive
		}
		hs = append(hs, holding{c: h.c, op: s.op, mode: mode, sec: s})
		orderCheck(id, hs[len(hs)-1])
	}
	pcs := callers()
	for _, h := range hs {
		h.pcs = pcs
		orderNote(id, h)
	}
}

func orderCheck(id uint64, want holding) {
	orderChecked.Add(1)
	sh := &heldShards[id%uint64(len(heldShards))]
	sh.mu.Lock()
	held := sh.byG[id] // only this goroutine changes its list
	sh.mu.Unlock()
	for _, h := range held {
		if rule := brokenRule(h, want); rule != "" {
			orderViolations.Add(1)
			panic(&OrderError{
				Rule: rule, Lock: want.c.name(), Op: want.op, Stack: frames(callers()),
				Held: h.c.name(), HeldOp: h.op, HeldStack: frames(h.pcs),
			})
		}
	}
}

func brokenRule(h, want holding) string {
	switch order := want.c.compare(h.c); {
	case order == 0:
		return ruleReentry
	case order < 0:
		return ruleInvert
	}
	// A cache may be filled from inside a read section: it is last in the order,
	// and a panic in it tears nothing that is kept.
	upgrade := want.mode == exclusive && h.mode == shared && (want.sec == nil || want.sec != h.sec)
	if upgrade && want.c.grp.class != Disposable {
		return ruleUpgrade
	}
	return ""
}

func orderNote(id uint64, h holding) {
	sh := &heldShards[id%uint64(len(heldShards))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.byG == nil {
		sh.byG = map[uint64][]holding{}
	}
	sh.byG[id] = append(sh.byG[id], h)
}

// orderRelease notes that this goroutine holds c no more.
func orderRelease(c *core) {
	id := goid()
	sh := &heldShards[id%uint64(len(heldShards))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	held := sh.byG[id]
	for i := len(held) - 1; i >= 0; i-- {
		if held[i].c == c {
			held = append(held[:i], held[i+1:]...)
			break
		}
	}
	if len(held) == 0 {
		delete(sh.byG, id)
		return
	}
	sh.byG[id] = held
}

// goid returns the number of this goroutine, which the runtime tells nobody but
// the readers of stacks.
func goid() uint64 {
	var buf [64]byte
	b := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	digits, _, _ := bytes.Cut(b, []byte(" "))
	id, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("poison: no goroutine number in %q", buf))
	}
	return id
}

func callers() []uintptr {
	var pcs [32]uintptr
	return append([]uintptr(nil), pcs[:runtime.Callers(3, pcs[:])]...)
}

func frames(pcs []uintptr) string {
	var b strings.Builder
	fs := runtime.CallersFrames(pcs)
	for {
		f, more := fs.Next()
		fmt.Fprintf(&b, "\t%s\n\t\t%s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return b.String()
		}
	}
}

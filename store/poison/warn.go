package poison

import (
	"sync"
	"time"
)

// maxWarnOps bounds the ops that a poisoning remembers; the ones beyond share
// one entry.
const maxWarnOps = 64

// warnLimit lets one warning per op and interval through. The zero value is ready.
type warnLimit struct {
	mu sync.Mutex // protects byOp; taken with no other lock held

	byOp map[string]*warnMark
}

type warnMark struct {
	last       time.Time
	suppressed uint64
}

// allow reports whether a warning for op may be logged at now, and how many were
// held back since the last one.
func (w *warnLimit) allow(op string, now time.Time, every time.Duration) (suppressed uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byOp == nil {
		w.byOp = map[string]*warnMark{}
	}
	m := w.byOp[op]
	if m == nil && len(w.byOp) >= maxWarnOps {
		op = ""
		m = w.byOp[op]
	}
	if m == nil {
		w.byOp[op] = &warnMark{last: now}
		return 0, true
	}
	if since := now.Sub(m.last); since >= 0 && since < every {
		m.suppressed++
		return 0, false
	}
	suppressed, m.suppressed, m.last = m.suppressed, 0, now
	return suppressed, true
}

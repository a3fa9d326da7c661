package fuse

import (
	"sync"
	"time"

	"engramfs/store"
)

// notice is something that the kernel shall drop: a name in a directory, or with
// no name an inode's attributes.
type notice struct {
	ino  store.Ino
	name string
}

// everything stands for all notices at once.
var everything = notice{}

// waitingNotice is what the queue knows of a notice.
type waitingNotice struct {
	content bool          // drop the pages, too
	mark    uint64        // notifyQueue.mark when it was queued
	since   time.Time     // when it was queued
	pause   time.Duration // before the last attempt; 0: there was none
}

// notifyQueue holds the notices that one goroutine is to send, first in first
// out. A notice that already waits is not queued twice.
//
// To know when all that was queued before some moment is done, every notice
// carries the mark of its time, and whoever asks raises the mark.
type notifyQueue struct {
	wake chan struct{} // has an element when there may be something to take

	// mu protects the fields below. It is held for a few instructions only.
	mu      sync.Mutex
	order   []notice // of waiting
	waiting map[notice]waitingNotice
	later   []laterNotice
	sending time.Time // since when the notice waits that is being sent; zero: none is
	mark    uint64
	undone  map[uint64]int // notices not done, by mark
	settle  []settling     // ascending by mark
}

// laterNotice is not to be sent before due.
type laterNotice struct {
	what notice
	w    waitingNotice
	due  time.Time
}

// settling is closed once all notices up to mark are done.
type settling struct {
	mark uint64
	done chan struct{}
}

func (q *notifyQueue) init() {
	q.wake = make(chan struct{}, 1)
	q.waiting = make(map[notice]waitingNotice)
	q.undone = make(map[uint64]int)
}

// add queues a notice. It reports false if there is no room.
func (q *notifyQueue) add(what notice, content bool, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, all := q.waiting[everything]; all {
		return true
	}
	w, queued := q.waiting[what]
	if !queued {
		if len(q.waiting) >= notifyLimit {
			return false
		}
		w = waitingNotice{mark: q.mark, since: now}
		q.undone[w.mark]++
		q.order = append(q.order, what)
	}
	w.content = w.content || content
	q.waiting[what] = w
	q.signal()
	return true
}

// replace puts one notice of everything in the place of all that wait.
func (q *notifyQueue) replace(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := waitingNotice{mark: q.mark, since: now}
	for _, w := range q.waiting {
		all.mark = min(all.mark, w.mark)
		if w.since.Before(all.since) {
			all.since = w.since
		}
	}
	q.undone[all.mark]++ // first, so that nothing seems to be settled meanwhile
	for _, w := range q.waiting {
		q.finishLocked(w)
	}
	clear(q.waiting)
	q.waiting[everything] = all
	q.order = append(q.order[:0], everything)
	q.signal()
}

func (q *notifyQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for the next notice, which the caller must report with done or
// again. ok is false once quit is closed.
func (q *notifyQueue) take(quit <-chan struct{}) (what notice, w waitingNotice, ok bool) {
	for {
		what, w, ok, due := q.tryTake(time.Now())
		if ok {
			return what, w, true
		}
		var timer <-chan time.Time
		if !due.IsZero() {
			timer = time.After(time.Until(due))
		}
		select {
		case <-quit:
			return notice{}, waitingNotice{}, false
		case <-q.wake:
		case <-timer:
		}
	}
}

// tryTake returns the next notice, or when to try again: zero if there is none.
func (q *notifyQueue) tryTake(now time.Time) (what notice, w waitingNotice, ok bool, due time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, l := range q.later {
		if !l.due.After(now) {
			q.later = append(q.later[:i], q.later[i+1:]...)
			q.sending = l.w.since
			return l.what, l.w, true, due
		}
		if due.IsZero() || l.due.Before(due) {
			due = l.due
		}
	}
	if len(q.order) == 0 {
		return what, w, false, due
	}
	what = q.order[0]
	q.order = q.order[1:]
	w = q.waiting[what]
	delete(q.waiting, what)
	q.sending = w.since
	return what, w, true, due
}

// done says that a notice that was taken needs nothing more.
func (q *notifyQueue) done(w waitingNotice) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = time.Time{}
	q.finishLocked(w)
}

// again says that a notice that was taken must be sent once more after w.pause.
func (q *notifyQueue) again(what notice, w waitingNotice, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = time.Time{}
	q.later = append(q.later, laterNotice{what, w, now.Add(w.pause)})
}

func (q *notifyQueue) finishLocked(w waitingNotice) {
	if q.undone[w.mark]--; q.undone[w.mark] > 0 {
		return
	}
	delete(q.undone, w.mark)
	first := q.mark + 1
	for mark := range q.undone {
		first = min(first, mark)
	}
	for len(q.settle) > 0 && q.settle[0].mark < first {
		close(q.settle[0].done)
		q.settle = q.settle[1:]
	}
}

// settled returns a channel that is closed once all that has been queued so far
// is done; nil if it is already.
func (q *notifyQueue) settled() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.undone) == 0 {
		return nil
	}
	s := settling{mark: q.mark, done: make(chan struct{})}
	q.settle = append(q.settle, s)
	q.mark++
	return s.done
}

// abandon forgets all notices and lets go of those who wait for them.
func (q *notifyQueue) abandon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.waiting)
	clear(q.undone)
	q.order, q.later = nil, nil
	for _, s := range q.settle {
		close(s.done)
	}
	q.settle = nil
}

// lag returns the age of the oldest notice.
func (q *notifyQueue) lag(now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	oldest := q.sending
	if len(q.order) > 0 {
		if w := q.waiting[q.order[0]]; oldest.IsZero() || w.since.Before(oldest) {
			oldest = w.since
		}
	}
	if oldest.IsZero() {
		return 0
	}
	return now.Sub(oldest)
}

// len returns the number of notices not done.
func (q *notifyQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, count := range q.undone {
		n += count
	}
	return n
}

package metrics

import (
	"sync"
	"time"
)

// askWait is how long a scrape waits for a figure that may need a lock of the store.
const askWait = 200 * time.Millisecond

// asker asks for something that may hang. At most one question is on its way at a
// time, so that a stuck store costs one goroutine and not one for every scrape.
// Its zero value is ready.
type asker[T any] struct {
	// mu protects the fields below.
	mu sync.Mutex

	asking chan struct{} // closed when the question is answered; nil: there is none
	value  T
	ok     bool
}

// ask returns fn's answer. It is not ok if it does not come in time, or if fn
// panics or is not ok itself.
func (a *asker[T]) ask(fn func() (T, bool)) (T, bool) {
	a.mu.Lock()
	if a.asking == nil {
		a.asking = make(chan struct{})
		go a.run(a.asking, fn)
	}
	asking := a.asking
	a.mu.Unlock()

	late := time.NewTimer(askWait)
	defer late.Stop()
	select {
	case <-asking:
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.value, a.ok
	case <-late.C:
		var none T
		return none, false
	}
}

func (a *asker[T]) run(answered chan struct{}, fn func() (T, bool)) {
	var v T
	ok := false
	defer func() {
		if recover() != nil {
			ok = false
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.value, a.ok, a.asking = v, ok, nil
		close(answered)
	}()
	v, ok = fn()
}

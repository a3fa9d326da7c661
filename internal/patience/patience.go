// Package patience asks for what may hang, and waits for a moment only.
package patience

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// Wait is how long Ask waits for an answer.
	Wait = 200 * time.Millisecond
	// Recent is how old an answer may be that still stands for one that is late.
	Recent = time.Minute
)

// ErrLate is returned when an answer does not come in time, or not at all.
var ErrLate = errors.New("no answer in time")

// Asker asks for something that may hang, such as what needs a lock of the store. At
// most one question is on its way at a time, so that a stuck store costs one goroutine
// and not one for every request. Its zero value is ready.
type Asker[T any] struct {
	// mu protects the fields below.
	mu sync.Mutex

	asking chan struct{} // closed when the question is answered; nil: there is none
	value  T
	err    error
	good   T         // the last answer without an error
	goodAt time.Time // when its question was asked; zero: there is none
}

// Ask returns fn's answer, which may be that of a question that began a moment
// before. The error is fn's, that of its panic, or ErrLate.
func (a *Asker[T]) Ask(fn func() (T, error)) (T, error) {
	a.mu.Lock()
	if a.asking == nil {
		a.asking = make(chan struct{})
		go a.run(a.asking, fn)
	}
	asking := a.asking
	a.mu.Unlock()

	late := time.NewTimer(Wait)
	defer late.Stop()
	select {
	case <-asking:
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.value, a.err
	case <-late.C:
		var unknown T
		return unknown, ErrLate
	}
}

// AskOrLast is Ask, but where there is no answer it returns the last one there was. That
// is as good as an answer as long as it is Recent; later the error stays with it.
func (a *Asker[T]) AskOrLast(fn func() (T, error)) (T, error) {
	v, err := a.Ask(fn)
	if err == nil {
		return v, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.goodAt.IsZero() && time.Since(a.goodAt) <= Recent {
		err = nil
	}
	return a.good, err
}

func (a *Asker[T]) run(answered chan struct{}, fn func() (T, error)) {
	var v T
	asked, err := time.Now(), ErrLate // stays if fn ends its goroutine
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("question panicked: %v\n%s", r, debug.Stack())
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.value, a.err, a.asking = v, err, nil
		if err == nil {
			a.good, a.goodAt = v, asked
		}
		close(answered)
	}()
	v, err = fn()
}

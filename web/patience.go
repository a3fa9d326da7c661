package web

import (
	"sync"
	"time"

	"engramfs/store"
)

// probeWait is how long an answer waits for what can only be had with a lock of
// the store.
const probeWait = 200 * time.Millisecond

// probe asks for something that may hang. At most one question is on its way at
// a time, so that a stuck store costs one goroutine and not one per request.
// Its zero value is ready.
type probe[T any] struct {
	// mu protects the fields below.
	mu sync.Mutex

	asking chan struct{} // closed when the question is answered; nil: there is none
	value  T
	err    error
}

// ask returns fn's answer, which may be that of a question that began a moment
// before, or errBusy if it does not come in time.
func (p *probe[T]) ask(fn func() (T, error)) (T, error) {
	p.mu.Lock()
	if p.asking == nil {
		p.asking = make(chan struct{})
		go p.run(p.asking, fn)
	}
	asking := p.asking
	p.mu.Unlock()

	late := time.NewTimer(probeWait)
	defer late.Stop()
	select {
	case <-asking:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.value, p.err
	case <-late.C:
		var unknown T
		return unknown, errBusy
	}
}

func (p *probe[T]) run(answered chan struct{}, fn func() (T, error)) {
	var v T
	var err error = errBusy // stays if fn ends its goroutine
	defer func() {
		if r := recover(); r != nil {
			err = panicError(r)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.value, p.err, p.asking = v, err, nil
		close(answered)
	}()
	v, err = fn()
}

// probes are the questions of a server.
type probes struct {
	space    probe[store.StatFS]
	counts   probe[counts]
	engine   probe[EngineStats]
	davLocks probe[[]store.DAVLock]
	damaged  probe[[]store.Damage]
	scrub    probe[store.ScrubStatus]
	handles  probe[[]OpenHandle]
	mounts   probe[[]Mount]
}

type counts struct{ files, dirs int64 }

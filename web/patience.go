package web

import (
	"errors"

	"engramfs/internal/patience"
	"engramfs/store"
)

// probe asks for what can only be had with a lock of the store, and gives up with
// errBusy. Its zero value is ready.
type probe[T any] struct{ asker patience.Asker[T] }

func (p *probe[T]) ask(fn func() (T, error)) (T, error) {
	v, err := p.asker.Ask(fn)
	return v, busy(err)
}

// askOrLast is ask, but where there is no answer it returns the last one there was:
// see patience.Asker.
func (p *probe[T]) askOrLast(fn func() (T, error)) (T, error) {
	v, err := p.asker.AskOrLast(fn)
	return v, busy(err)
}

func busy(err error) error {
	if errors.Is(err, patience.ErrLate) {
		return errBusy
	}
	return err
}

// probes are the questions of a server.
type probes struct {
	space    probe[store.StatFS]
	counts   probe[counts]
	engine   probe[EngineStats]
	davLocks probe[[]store.DAVLock]
	damaged  probe[[]store.Damage]
	handles  probe[[]OpenHandle]
	mounts   probe[[]Mount]

	scrub     probe[store.ScrubStatus]
	stopScrub probe[bool]
}

type counts struct{ files, dirs int64 }

//go:build !race

package poison

import "sync/atomic"

// setHold is a plain store on purpose. The hold word is advice for the watchdog
// and orders nothing; an atomic store would be a locked exchange on amd64, and two
// of them make an uncontended write section 1.5 times as dear (37 ns instead of
// 25 ns). The Go memory model bounds what the watchdog's read of one machine word
// can see to a value that was really written (https://go.dev/ref/mem#restrictions),
// and the word holds a number, not a pointer. Race builds use an atomic store.
func (c *core) setHold(w uintptr) { c.hold = w }

func (c *core) loadHold() uintptr { return atomic.LoadUintptr(&c.hold) }

//go:build race

package poison

import "sync/atomic"

// setHold is an atomic store in race builds only; hold_plain.go says why.
func (c *core) setHold(w uintptr) { atomic.StoreUintptr(&c.hold, w) }

func (c *core) loadHold() uintptr { return atomic.LoadUintptr(&c.hold) }

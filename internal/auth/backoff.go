package auth

import (
	"net/netip"
	"sync"
	"time"
)

const (
	failureBurst  = 10              // wrong passwords an address may send at once
	failureRefill = 3 * time.Second // after which it may send one more
	maxAddresses  = 4096            // addresses remembered
)

// backoff limits how fast one address can guess passwords. It forgets an
// address once its allowance is whole again, so that its memory is bounded.
type backoff struct {
	// mu protects the field below.
	mu sync.Mutex

	// full[a] is when the allowance of a is whole again. The allowance left
	// at t is failureBurst - (full[a] - t) / failureRefill.
	full map[netip.Addr]time.Time
}

// wait returns how long addr has to wait before its next attempt; 0: not at all.
func (b *backoff) wait(addr netip.Addr, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	full, known := b.full[bucket(addr)]
	if !known {
		return 0
	}
	return max(full.Sub(now)-(failureBurst-1)*failureRefill, 0)
}

// fail counts a wrong password from addr.
func (b *backoff) fail(addr netip.Addr, now time.Time) {
	addr = bucket(addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full == nil {
		b.full = map[netip.Addr]time.Time{}
	}
	from, known := b.full[addr]
	if !known && len(b.full) >= maxAddresses {
		b.evictLocked(now)
	}
	if from.Before(now) {
		from = now
	}
	b.full[addr] = from.Add(failureRefill)
}

// evictLocked makes room: every address whose allowance is whole goes, or else
// the one that comes closest.
func (b *backoff) evictLocked(now time.Time) {
	var next netip.Addr
	for addr, full := range b.full {
		if full.Before(now) {
			delete(b.full, addr)
		} else if !next.IsValid() || full.Before(b.full[next]) {
			next = addr
		}
	}
	if len(b.full) >= maxAddresses {
		delete(b.full, next)
	}
}

// bucket folds the addresses one client can choose from: a /64 of IPv6.
func bucket(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

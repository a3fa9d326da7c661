package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"engramfs/store/meta"
	"engramfs/store/poison"
)

// Bounds of WebDAV locks. A client that asks for more or less gets the nearest
// bound and is told so in the reply (RFC 4918 section 10.7).
const (
	MinLockTimeout     = time.Minute
	MaxLockTimeout     = time.Hour
	DefaultLockTimeout = 10 * time.Minute
	MaxLocks           = 100_000 // in all
	MaxPrincipalLocks  = 10_000  // of one principal
)

var (
	// ErrNoLock is returned for a lock token that names no live lock (409).
	ErrNoLock = errors.New("store: no such lock")
	// ErrLockLimit is returned when MaxLocks or MaxPrincipalLocks is reached (507).
	ErrLockLimit = errors.New("store: too many locks")
)

// DAVLock is one WebDAV write lock (RFC 4918 section 6).
type DAVLock struct {
	Token     string        // urn:uuid:, the key
	Path      string        // lock root: absolute, clean, without a trailing slash
	Infinite  bool          // Depth: infinity; else Depth: 0
	Shared    bool          // shared scope; else exclusive
	Owner     string        // content of the owner element, XML that stands on its own; "" for none
	Principal string        // who created it; only they may use it
	Timeout   time.Duration // granted, counted from the last refresh
	Expires   time.Time
}

// Covers reports whether the lock applies to path: its root, or for an infinite
// lock anything below. A lock of depth 0 on a collection also protects the
// list of its members; that is for the caller to ask with the collection's path.
func (l *DAVLock) Covers(path string) bool {
	return l.Path == path || l.Infinite && pathWithin(path, l.Path)
}

// LockConflictError is returned by LockTable.Create with the locks that stand
// against the new one, at least one. It matches ErrLocked.
type LockConflictError struct{ Locks []DAVLock }

// Error names the first conflicting lock root, never a token.
func (e *LockConflictError) Error() string {
	return fmt.Sprintf("%v: a lock on %q conflicts", ErrLocked, e.Locks[0].Path)
}

// Is makes the error match ErrLocked.
func (e *LockConflictError) Is(target error) bool { return target == ErrLocked }

// ClampLockTimeout returns the timeout that a lock is granted when d is asked:
// DefaultLockTimeout for 0, MaxLockTimeout for an infinite (negative) one.
func ClampLockTimeout(d time.Duration) time.Duration {
	switch {
	case d == 0:
		return DefaultLockTimeout
	case d < 0, d > MaxLockTimeout:
		return MaxLockTimeout
	case d < MinLockTimeout:
		return MinLockTimeout
	}
	return d
}

// LockTable holds the WebDAV locks of a store. It is fail-closed: after a
// writer died inside it every method returns an error matching ErrPoisoned until
// the lock "dav-locks" is reset, because a lock that is not seen is a lost
// update. All methods may be called at the same time.
//
// A change is visible on return and durable after Store.Sync; its error matches
// ErrReadOnly or ErrClosed if the store accepts none. Expired locks are
// never returned; they leave the table with the next change, or soon after a
// reader met them.
type LockTable struct {
	eng      meta.Engine
	logger   *slog.Logger
	writable func() error // nil while changes are accepted
	fault    func(point string) error
	set      *poison.Guarded[davLocks]

	// live is len(set.tokens), so that requests cost one atomic load while
	// nobody uses locks. nextExpiry is the earliest expiry (Unix ns, 0: none).
	live       atomic.Int64
	nextExpiry atomic.Int64
	pruning    atomic.Bool
}

// newLockTable loads the locks from eng and registers the lock "dav-locks". The error of
// writable refuses every change.
// fault is called at the points "davlock:append" and "davlock:publish" of every
// change and may return an error or panic. Locks that expired meanwhile go with
// the first request that asks.
func newLockTable(reg *poison.Registry, eng meta.Engine, logger *slog.Logger, writable func() error, fault func(point string) error) (*LockTable, error) {
	if fault == nil {
		fault = func(string) error { return nil }
	}
	set, err := loadDAVLocks(eng)
	if err != nil {
		return nil, fmt.Errorf("load WebDAV locks: %w", err)
	}
	t := &LockTable{eng: eng, logger: logger, writable: writable, fault: fault}
	t.noteSize(&set)
	t.set = poison.New(reg, lockDAVLocks, poison.LockOptions{Rank: rankDAVLocks, Class: poison.FailClosed}, set)
	return t, nil
}

// The table's lock comes after every inode lock.
const (
	lockDAVLocks = "dav-locks"
	rankDAVLocks = 50
)

// Covering returns the locks that apply to path: those on it and the infinite
// ones on its ancestors. It costs O(depth) and, while there are no locks at
// all, two atomic loads.
func (t *LockTable) Covering(now time.Time, path string) ([]DAVLock, error) {
	return t.collect("davlock_covering", now, func(s *davLocks, add func(*heldDAVLock)) {
		s.covering(path, add)
	})
}

// Within returns the locks on path and on anything below it. It costs O(depth
// + matches) and, while there are no locks at all, two atomic loads.
func (t *LockTable) Within(now time.Time, path string) ([]DAVLock, error) {
	return t.collect("davlock_within", now, func(s *davLocks, add func(*heldDAVLock)) {
		s.within(path, add)
	})
}

// collect returns copies of the live locks that walk visits.
func (t *LockTable) collect(op string, now time.Time, walk func(*davLocks, func(*heldDAVLock))) ([]DAVLock, error) {
	if t.live.Load() == 0 && t.set.Event() == nil {
		return nil, nil
	}
	var found []DAVLock
	_, err := t.set.Read(op, func(s *davLocks) {
		walk(s, func(l *heldDAVLock) {
			if l.Expires.After(now) {
				found = append(found, l.DAVLock)
			}
		})
	})
	return found, err
}

// Get returns the live lock that token names, or ErrNoLock.
func (t *LockTable) Get(now time.Time, token string) (DAVLock, error) {
	var lock DAVLock
	found := false
	_, err := t.set.Read("davlock_get", func(s *davLocks) {
		if l, ok := s.tokens[token]; ok && l.Expires.After(now) {
			lock, found = l.DAVLock, true
		}
	})
	if err == nil && !found {
		err = ErrNoLock
	}
	return lock, err
}

// Len returns the number of locks in the table, expired ones that were not yet
// removed among them. It never blocks, also when the table is poisoned.
func (t *LockTable) Len() int { return int(t.live.Load()) }

// Create adds a lock with l's Path, Infinite, Shared, Owner, Principal and
// clamped Timeout, gives it a fresh token and returns it. It returns a
// *LockConflictError when a live lock stands against it (RFC 4918 section 6.1)
// and ErrLockLimit when there are too many.
func (t *LockTable) Create(now time.Time, l DAVLock) (DAVLock, error) {
	l.Token = newLockToken()
	l.Timeout = ClampLockTimeout(l.Timeout)
	l.Expires = expiry(now, l.Timeout)
	err := t.set.Write("davlock_create", func(s *davLocks) error {
		if conflicts := s.conflicts(now, &l); len(conflicts) > 0 {
			return &LockConflictError{Locks: conflicts}
		}
		gone := s.expired(now)
		if s.full(l.Principal, gone) {
			return ErrLockLimit
		}
		return t.commit(s, &l, gone)
	})
	if err != nil {
		return DAVLock{}, err
	}
	return l, nil
}

// Refresh starts the lock's timeout anew, clamped as in Create, and returns the
// lock. It returns ErrNoLock when token names no live lock.
func (t *LockTable) Refresh(now time.Time, token string, timeout time.Duration) (DAVLock, error) {
	var fresh DAVLock
	err := t.set.Write("davlock_refresh", func(s *davLocks) error {
		l, ok := s.tokens[token]
		if !ok || !l.Expires.After(now) {
			return ErrNoLock
		}
		fresh = l.DAVLock
		fresh.Timeout = ClampLockTimeout(timeout)
		fresh.Expires = expiry(now, fresh.Timeout)
		return t.commit(s, &fresh, s.expired(now))
	})
	if err != nil {
		return DAVLock{}, err
	}
	return fresh, nil
}

// Unlock removes the lock that token names, or returns ErrNoLock.
func (t *LockTable) Unlock(now time.Time, token string) error {
	return t.set.Write("davlock_unlock", func(s *davLocks) error {
		l, ok := s.tokens[token]
		if !ok || !l.Expires.After(now) {
			return ErrNoLock
		}
		return t.commit(s, nil, append(s.expired(now), l))
	})
}

// DropUnder removes every lock on path and below it: their resources were
// deleted or moved away (RFC 4918 sections 9.6 and 7.7).
func (t *LockTable) DropUnder(path string) error {
	if t.live.Load() == 0 && t.set.Event() == nil {
		return nil
	}
	return t.set.Write("davlock_drop", func(s *davLocks) error {
		var gone []*heldDAVLock
		s.within(path, func(l *heldDAVLock) { gone = append(gone, l) })
		return t.commit(s, nil, gone)
	})
}

// Drop removes those of locks that are still in the table: their resources were
// deleted or moved away.
func (t *LockTable) Drop(locks []DAVLock) error {
	if len(locks) == 0 {
		return nil
	}
	return t.set.Write("davlock_drop", func(s *davLocks) error {
		var gone []*heldDAVLock
		for i := range locks {
			if l, ok := s.tokens[locks[i].Token]; ok {
				gone = append(gone, l)
			}
		}
		return t.commit(s, nil, gone)
	})
}

// Prune removes expired locks when there are any and no other goroutine is at it
// already. It must not be called inside a change of the store: what goes wrong is to
// concern the locks alone. No method returns expired locks, whether they are removed or not.
func (t *LockTable) Prune(now time.Time) {
	next := t.nextExpiry.Load()
	if next == 0 || next > now.UnixNano() || !t.pruning.CompareAndSwap(false, true) {
		return
	}
	defer t.pruning.Store(false)
	t.prune(now)
}

// prune removes the expired locks. A failure is only logged: expired locks are
// never returned anyway.
func (t *LockTable) prune(now time.Time) {
	if t.live.Load() == 0 || t.writable() != nil {
		return
	}
	err := t.set.Write("davlock_prune", func(s *davLocks) error {
		return t.commit(s, nil, s.expired(now))
	})
	if err != nil && !errors.Is(err, ErrPoisoned) {
		t.logger.Warn("expired WebDAV locks stay in the table", "err", err)
	}
}

// commit puts one lock (nil: none) and removes others: first in the engine in
// one batch, then in s. An error before the batch has changed nothing.
func (t *LockTable) commit(s *davLocks, put *DAVLock, gone []*heldDAVLock) error {
	if put == nil && len(gone) == 0 {
		return nil
	}
	if err := t.writable(); err != nil {
		return err
	}
	if err := t.fault("davlock:append"); err != nil {
		return err
	}
	err := t.eng.Update(func(tx meta.Txn) error {
		for _, l := range gone {
			tx.Delete(lockKey(l.Token))
		}
		if put != nil {
			tx.Put(lockKey(put.Token), appendLock(nil, put))
		}
		return nil
	})
	if err != nil {
		return engineError(err)
	}
	if err := t.fault("davlock:publish"); err != nil {
		return poison.Fatal(err) // the engine has it and s does not
	}
	for _, l := range gone {
		s.remove(l)
	}
	if put != nil {
		s.put(*put)
	}
	t.noteSize(s)
	return nil
}

// noteSize publishes what the lock-free paths look at.
func (t *LockTable) noteSize(s *davLocks) {
	var next int64
	if len(s.expiry) > 0 {
		next = s.expiry[0].Expires.UnixNano()
	}
	t.nextExpiry.Store(next)
	t.live.Store(int64(len(s.tokens)))
}

// reset rebuilds the poisoned table from the engine, which is its only truth.
// kept and reloaded say, lock root by lock root, what memory had right and what
// it had not. With dryRun nothing changes.
func (t *LockTable) reset(wantGen uint64, dryRun bool) (kept, reloaded []string, err error) {
	err = t.set.Reset(wantGen, poison.ResetOptions{DryRun: dryRun}, func(old *davLocks) (davLocks, error) {
		fresh, err := loadDAVLocks(t.eng)
		if err != nil {
			return davLocks{}, err
		}
		kept, reloaded = compareDAVLocks(old, &fresh)
		if !dryRun {
			t.noteSize(&fresh)
		}
		return fresh, nil
	})
	return kept, reloaded, err
}

// compareDAVLocks reports the locks that both sets have alike, and those that
// differ or only one has.
func compareDAVLocks(old, fresh *davLocks) (kept, reloaded []string) {
	for token, l := range fresh.tokens {
		if have, ok := old.tokens[token]; ok && have.DAVLock == l.DAVLock {
			kept = append(kept, "WebDAV lock on "+l.Path)
			continue
		}
		reloaded = append(reloaded, "WebDAV lock on "+l.Path)
	}
	for token, l := range old.tokens {
		if _, ok := fresh.tokens[token]; !ok {
			reloaded = append(reloaded, "WebDAV lock on "+l.Path+" (gone)")
		}
	}
	return kept, reloaded
}

// expiry is now + timeout as a record keeps it: wall clock only.
func expiry(now time.Time, timeout time.Duration) time.Time {
	return time.Unix(0, now.Add(timeout).UnixNano())
}

// newLockToken returns a random (version 4) UUID URN: globally unique and not
// guessable (RFC 4918 section 6.5).
func newLockToken() string {
	var u [16]byte
	rand.Read(u[:]) // never fails (crypto/rand)
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	var b [45]byte
	copy(b[:], "urn:uuid:")
	p := b[9:]
	hex.Encode(p[0:8], u[0:4])
	p[8] = '-'
	hex.Encode(p[9:13], u[4:6])
	p[13] = '-'
	hex.Encode(p[14:18], u[6:8])
	p[18] = '-'
	hex.Encode(p[19:23], u[8:10])
	p[23] = '-'
	hex.Encode(p[24:36], u[10:16])
	return string(b[:])
}

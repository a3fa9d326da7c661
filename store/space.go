package store

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// spaceGuard refuses changes while the disk has less than the reserve free, so
// that the engine itself never meets a full disk: what it would do then is
// much worse than an error here.
type spaceGuard struct {
	blobs   blob.Backend
	reserve int64 // bytes

	free  atomic.Int64 // as last asked, less what was taken since
	asked atomic.Int64 // when, in nanoseconds
}

const spaceMaxAge = 250 * time.Millisecond

// defaultReserve is 1 GiB or 2 % of the disk, whichever is more, but never more
// than an eighth of a small disk.
func defaultReserve(total int64) int64 { return min(max(1<<30, total/50), total/8) }

func newSpaceGuard(blobs blob.Backend, reserve int64) (*spaceGuard, error) {
	free, total, err := blobs.Free()
	if err != nil {
		return nil, fmt.Errorf("free space: %w", err)
	}
	if reserve == 0 {
		reserve = defaultReserve(total)
	}
	g := &spaceGuard{blobs: blobs, reserve: max(reserve, 0)}
	g.free.Store(free)
	return g, nil
}

// take returns ErrNoSpace if n more bytes would reach into the reserve. now is
// in nanoseconds.
func (g *spaceGuard) take(now, n int64) error {
	asked := g.asked.Load()
	// A clock that was set back is no reason to go on with an old answer.
	if age := now - asked; (age > int64(spaceMaxAge) || age < 0) && g.asked.CompareAndSwap(asked, now) {
		free, _, err := g.blobs.Free()
		if err != nil {
			return fmt.Errorf("free space: %w", err)
		}
		g.free.Store(free)
	}
	if g.free.Add(-n) < g.reserve {
		g.free.Add(n)
		return ErrNoSpace
	}
	return nil
}

// writable returns nil if changes are accepted, else ErrClosed or ErrReadOnly.
func (s *Store) writable() error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.ReadOnly()
}

// changeCost is what one change of metadata may take in the engine's log, in
// bytes, its inline content not included.
const changeCost = 4 << 10

// ReadOnly returns nil while changes are accepted, and otherwise an error that
// matches ErrReadOnly and says why they are not: the engine could not write or
// sync, content could not be synced, or Options.ReadOnly asks for it. Only a
// restart, once the cause is gone, ends it.
func (s *Store) ReadOnly() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	if err := s.engine.Failed(); err != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return nil
}

// fail makes the store read-only because of cause.
func (s *Store) fail(what string, cause error) {
	err := fmt.Errorf("%w: %s: %w", ErrReadOnly, what, cause)
	if s.failure.CompareAndSwap(nil, &err) {
		s.log.Error("store is read-only", "cause", what, "err", cause)
	}
}

func (s *Store) engineError(err error) error { return engineError(err) }

// engineError gives an engine's error the store's meaning.
func engineError(err error) error {
	switch {
	case errors.Is(err, meta.ErrReadOnly):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, meta.ErrClosed):
		return ErrClosed
	}
	return err
}

// blobError gives an error of writing content the store's meaning: a failed
// sync makes the store read-only, because the kernel may have dropped pages that
// other files need too.
func (s *Store) blobError(what string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s: %w: %w", what, ErrNoSpace, err)
	case errors.Is(err, blob.ErrSyncFailed), errors.Is(err, syscall.EROFS):
		s.fail(what, err)
		return s.ReadOnly()
	}
	return fmt.Errorf("%s: %w", what, err)
}

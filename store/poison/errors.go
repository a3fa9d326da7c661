package poison

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Returned by sections.
var (
	// ErrPoisoned matches, by errors.Is, every *Error: the lock was poisoned
	// before the call or by it.
	ErrPoisoned = errors.New("poison: lock is poisoned")
	// ErrDiscarded matches, by errors.Is, every *DiscardedError: a write section
	// on a Disposable lock failed and the lock's value was replaced by an empty one.
	ErrDiscarded = errors.New("poison: value was discarded")
)

// Returned by Reset, wrapped with the lock's name.
var (
	// ErrStale is returned when the lock's generation is not the one named: the
	// poison the caller saw is gone and another has taken its place.
	ErrStale = errors.New("poison: generation is stale")
	// ErrHeld is returned when the lock could not be taken in time. Nothing can
	// take a lock from its holder; a stuck holder ends with the process.
	ErrHeld = errors.New("poison: lock is held")
	// ErrNotPoisoned is returned when there is nothing to reset.
	ErrNotPoisoned = errors.New("poison: lock is not poisoned")
)

// Error is returned by a section on a poisoned lock and by the section that
// poisoned it. Its text names lock, op, cause and generation, and never holds the
// panic value or the stack. When the section itself panicked with an error,
// or returned Fatal of one, errors.Is and errors.As find that error too.
type Error struct {
	Ev *Event

	// Refused is true when the section was not run because the lock was
	// poisoned before: this call changed nothing. It is false in the error of
	// the section that poisoned the lock, whose outcome is unknown.
	Refused bool

	cause error
}

func (e *Error) Error() string {
	return fmt.Sprintf("poison: lock %s is poisoned by %s (%v, generation %d)",
		e.Ev.Lock, e.Ev.Op, e.Ev.Cause, e.Ev.Gen)
}

// Is reports whether target is ErrPoisoned.
func (e *Error) Is(target error) bool { return target == ErrPoisoned }

// Unwrap returns the error that ended the section, or nil.
func (e *Error) Unwrap() error { return e.cause }

// DiscardedError is returned by a write section on a Disposable lock that
// panicked or returned Fatal. The lock is empty and in service.
type DiscardedError struct {
	Lock  string
	Op    string
	Cause Cause
	Value string // panic value or error as text
	Stack []byte // not for clients

	cause error
}

func (e *DiscardedError) Error() string {
	return fmt.Sprintf("poison: value of %s was discarded after %s (%v)", e.Lock, e.Op, e.Cause)
}

// Is reports whether target is ErrDiscarded.
func (e *DiscardedError) Is(target error) bool { return target == ErrDiscarded }

// Unwrap returns the error that ended the section, or nil.
func (e *DiscardedError) Unwrap() error { return e.cause }

// fatalError marks an error as one that leaves a half-made change behind.
type fatalError struct {
	err   error
	stack []byte
}

// Fatal marks err for the return from a write section: "I changed things and
// cannot undo them". The lock is poisoned with cause Invariant, exactly as if the
// section had panicked, and the caller gets an *Error that wraps err. The mark
// survives wrapping. Fatal(nil) is nil.
func Fatal(err error) error {
	if err == nil {
		return nil
	}
	return &fatalError{err: err, stack: debug.Stack()}
}

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// fatalStack returns the stack at which err was marked by Fatal, or nil when it
// was not.
func fatalStack(err error) []byte {
	if f, ok := errors.AsType[*fatalError](err); ok {
		return f.stack
	}
	return nil
}

package poison

import "fmt"

// A Class says what a lock's owner can afford to lose, and so what happens when
// a write section on it ends abnormally. The zero value is Durable.
type Class uint8

const (
	// Durable is for state that must be neither lost nor changed in the dark:
	// the lock is poisoned, writes are refused, reads are served and say so.
	Durable Class = iota
	// Disposable is for caches: the value is replaced by an empty one, which is
	// counted, and the lock is never poisoned.
	Disposable
	// FailClosed is for state that decides what others may do (lock tables,
	// sessions, quota): poisoned, it refuses reads as well as writes.
	FailClosed
)

var classNames = [...]string{"durable", "disposable", "failclosed"}

// String returns "durable", "disposable" or "failclosed".
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// MarshalText implements encoding.TextMarshaler with String.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText wrote, and refuses any other word.
func (c *Class) UnmarshalText(b []byte) error {
	for i, name := range classNames {
		if name == string(b) {
			*c = Class(i)
			return nil
		}
	}
	return fmt.Errorf("poison: unknown class %q", b)
}

// A Cause says why a lock was poisoned.
type Cause uint8

const (
	// Panic: the write section panicked.
	Panic Cause = 1 + iota
	// Goexit: the write section called runtime.Goexit, as testing.T.FailNow does.
	Goexit
	// Invariant: the write section returned Fatal, or a check found the value wrong.
	Invariant
	// Manual: somebody called Poison, for a drill or to take the value out of service.
	Manual
)

var causeNames = [...]string{"unknown", "panic", "goexit", "invariant", "manual"}

// String returns "panic", "goexit", "invariant" or "manual".
func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return fmt.Sprintf("cause(%d)", uint8(c))
}

// MarshalText implements encoding.TextMarshaler with String.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText wrote, and refuses any other word.
func (c *Cause) UnmarshalText(b []byte) error {
	for i, name := range causeNames {
		if name == string(b) {
			*c = Cause(i)
			return nil
		}
	}
	return fmt.Errorf("poison: unknown cause %q", b)
}

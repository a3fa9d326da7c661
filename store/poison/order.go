package poison

import "fmt"

// lockMode is how a section holds a lock.
type lockMode uint8

const (
	shared lockMode = iota
	exclusive
)

// OrderError is the panic value when a goroutine takes a lock in a way that can
// deadlock. It is found only in builds with the tag race or lockdebug, before the
// lock is waited for. When the mistake is made inside a write section, the section
// ends like any other that panics, and the OrderError is found in its *Error by
// errors.As.
type OrderError struct {
	Rule   string // what is forbidden
	Lock   string // the lock that was to be taken
	Op     string // by this op
	Stack  string
	Held   string // the lock held already
	HeldOp string // by this op
	// HeldStack is where Held was taken.
	HeldStack string
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("poison: lock order: %s: %s takes %s while %s holds %s\n\ntaking %s:\n%s\nholding %s:\n%s",
		e.Rule, e.Op, e.Lock, e.HeldOp, e.Held, e.Lock, e.Stack, e.Held, e.HeldStack)
}

// OrderChecks reports whether this build checks the lock order, how many
// acquisitions it has checked and how many of them broke a rule, over all
// registries of the process.
func OrderChecks() (acquisitions, violations uint64, enabled bool) {
	acquisitions, violations = orderCounts()
	return acquisitions, violations, orderChecks
}

package poison_test

import (
	"errors"
	"strings"
	"testing"

	"engramfs/store/poison"
)

// orderRegistry returns locks of ascending rank: a, b, a family of two, a cache.
func orderRegistry(t *testing.T) (a, b, i1, i2, cache *poison.Guarded[pair]) {
	t.Helper()
	r, _ := newRegistry(t, poison.RegistryOptions{})
	a = poison.New(r, "a", poison.LockOptions{Rank: 1}, pair{})
	b = poison.New(r, "b", poison.LockOptions{Rank: 2}, pair{})
	f := r.NewFamily(poison.FamilyOptions{Name: "inode", Rank: 3})
	i1, i2 = poison.NewIn(f, 1, pair{}), poison.NewIn(f, 2, pair{})
	cache = poison.New(r, "cache", poison.LockOptions{Rank: 9, Class: poison.Disposable}, pair{})
	return a, b, i1, i2, cache
}

func write(g *poison.Guarded[pair], f func()) error {
	return g.Write("w-"+g.Name(), func(*pair) error { f(); return nil })
}

func read(g *poison.Guarded[pair], f func()) {
	_, _ = g.Read("r-"+g.Name(), func(*pair) { f() })
}

// violation runs f, which must break a lock-order rule, and returns the error in
// which the build with checks says so.
func violation(t *testing.T, f func() error) *poison.OrderError {
	t.Helper()
	if _, _, enabled := poison.OrderChecks(); !enabled {
		t.Skip("the lock order is checked in builds with the tag race or lockdebug")
	}
	_, before, _ := poison.OrderChecks()
	var err error
	v := panics(func() { err = f() })
	if v != nil {
		err, _ = v.(error)
	}
	var oe *poison.OrderError
	if !errors.As(err, &oe) {
		t.Fatalf("got %v, want an *OrderError", err)
	}
	if _, after, _ := poison.OrderChecks(); after != before+1 {
		t.Errorf("%d violations counted, want 1", after-before)
	}
	if !strings.Contains(oe.Stack, "orderRegistry") && !strings.Contains(oe.Stack, "order_test.go") {
		t.Errorf("no stack of the taker in:\n%v", oe)
	}
	if !strings.Contains(oe.HeldStack, "order_test.go") {
		t.Errorf("no stack of the holder in:\n%v", oe)
	}
	return oe
}

func TestOrderInversionPanicsWithBothStacks(t *testing.T) {
	a, b, _, _, _ := orderRegistry(t)
	oe := violation(t, func() error { return write(b, func() { _ = write(a, func() {}) }) })
	if oe.Lock != "a" || oe.Held != "b" || oe.Op != "w-a" || oe.HeldOp != "w-b" {
		t.Errorf("error = %v", oe)
	}
	if b.Event() == nil || a.Event() != nil {
		t.Error("the outer section must be poisoned, as by any panic; the inner never began")
	}
	free(t, a)
	free(t, b)
}

func TestOrderInversionWithinAFamilyPanics(t *testing.T) {
	_, _, i1, i2, _ := orderRegistry(t)
	violation(t, func() error { return write(i2, func() { _ = write(i1, func() {}) }) })
}

func TestOrderInversionOfReadsPanics(t *testing.T) {
	a, b, _, _, _ := orderRegistry(t)
	violation(t, func() error { read(b, func() { read(a, func() {}) }); return nil })
	free(t, a)
	free(t, b)
}

func TestOrderReentryPanics(t *testing.T) {
	for name, f := range map[string]func(a *poison.Guarded[pair]) error{
		"WriteWrite": func(a *poison.Guarded[pair]) error { return write(a, func() { _ = write(a, func() {}) }) },
		"WriteRead":  func(a *poison.Guarded[pair]) error { return write(a, func() { read(a, func() {}) }) },
		"ReadRead":   func(a *poison.Guarded[pair]) error { read(a, func() { read(a, func() {}) }); return nil },
		"ReadWrite":  func(a *poison.Guarded[pair]) error { read(a, func() { _ = write(a, func() {}) }); return nil },
		"WritePoison": func(a *poison.Guarded[pair]) error {
			return write(a, func() { a.Poison("drill", poison.Manual, "") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, _, _, _, _ := orderRegistry(t)
			violation(t, func() error { return f(a) })
			free(t, a)
		})
	}
}

func TestOrderWriteUnderReadPanics(t *testing.T) {
	a, b, _, _, _ := orderRegistry(t)
	violation(t, func() error { read(a, func() { _ = write(b, func() {}) }); return nil })
	free(t, a)
	free(t, b)
}

func TestOrderOfAtomicallyAgainstWhatIsHeld(t *testing.T) {
	a, b, i1, i2, _ := orderRegistry(t)
	violation(t, func() error {
		return write(b, func() {
			_ = poison.Atomically("link", lockers(i1, a), nil, func(*poison.Section) error { return nil })
		})
	})
	for _, g := range []*poison.Guarded[pair]{a, b, i1, i2} {
		free(t, g) // a violation must leave nothing held
	}
}

func TestOrderAllowsWhatIsInOrder(t *testing.T) {
	a, b, i1, i2, cache := orderRegistry(t)
	_, before, _ := poison.OrderChecks()
	read(a, func() { read(b, func() { _ = write(cache, func() {}) }) })
	if err := write(a, func() { _ = write(b, func() { read(i1, func() { read(i2, func() {}) }) }) }); err != nil {
		t.Error(err)
	}
	err := poison.Atomically("link", lockers(i2, i1), lockers(a, b), func(*poison.Section) error {
		return write(cache, func() {})
	})
	if err != nil {
		t.Error(err)
	}
	a.Poison("drill", poison.Manual, "")
	if err := a.Reset(a.Event().Gen, once, func(old *pair) (pair, error) {
		read(b, func() {})
		return repair(old)
	}); err != nil {
		t.Error(err)
	}
	if err := write(b, func() { exit(func() { _ = write(a, func() {}) }) }); err != nil {
		t.Errorf("another goroutine's locks count: %v", err)
	}
	if _, after, _ := poison.OrderChecks(); after != before {
		t.Errorf("%d violations", after-before)
	}
}

package poison

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// A Guarded stands in every inode in use, of which there may be 100,000.
func TestGuardedIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Guarded[*int]{}); size > 64 {
		t.Errorf("Guarded[*int] takes %d bytes, want one cache line at most", size)
	}
}

func TestSectionsDoNotAllocate(t *testing.T) {
	if orderChecks {
		t.Skip("lock-order checks allocate")
	}
	r := NewRegistry(RegistryOptions{})
	g := New(r, "g", LockOptions{}, 0)
	bad := New(r, "bad", LockOptions{}, 0)
	bad.Poison("drill", Manual, "")
	for name, f := range map[string]func(){
		"Read":    func() { _, _ = g.Read("read", func(v *int) { sinkInt += *v }) },
		"Write":   func() { _ = g.Write("write", func(v *int) error { *v++; return nil }) },
		"Refused": func() { _ = bad.Write("write", func(v *int) error { *v++; return nil }) },
		"Event":   func() { _ = bad.Event() },
		"Refuse":  func() { _ = bad.Refuse() },
		"Any":     func() { _ = r.AnyPoisoned() },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times, want 0", name, n)
		}
	}
}

func TestOpIndexIsStableAndBounded(t *testing.T) {
	ops.mu.Lock()
	kept := ops.byName
	keptNames := ops.names.Load()
	ops.byName = map[string]uintptr{}
	ops.mu.Unlock()
	reset := func() {
		for i := range ops.cache {
			ops.cache[i].Store(nil)
		}
	}
	ops.names.Store(nil)
	reset()
	defer func() { // other tests hold indexes of the real table
		ops.mu.Lock()
		defer ops.mu.Unlock()
		ops.byName = kept
		ops.names.Store(keptNames)
		reset()
	}()
	a := opIndex("rename")
	if opIndex("rename") != a || opIndex(strings.Clone("rename")) != a {
		t.Error("one op has two indexes")
	}
	if opName(a) != "rename" {
		t.Errorf("opName = %q", opName(a))
	}
	if opIndex("") != 0 || opName(0) != "" || opName(maxOps) != "" {
		t.Error("unknown ops must have no name")
	}
	for i := range 2 * maxOps {
		op := fmt.Sprint("made-up-", i)
		if index := opIndex(op); index > maxOps || (index != 0 && opName(index) != op) {
			t.Fatalf("op %d has index %d, named %q", i, index, opName(index))
		}
	}
	if opIndex("one more") != 0 {
		t.Error("the table grew past its bound")
	}
	if opIndex("rename") != a {
		t.Error("a full table lost an op")
	}
}

func TestHoldWordTellsSectionsApart(t *testing.T) {
	var c core
	op := opIndex("rename")
	c.enter(op)
	first := c.loadHold()
	if got, active := writeOp(first); got != "rename" || !active {
		t.Errorf("writeOp = %q, %v", got, active)
	}
	c.leave()
	if got, active := writeOp(c.loadHold()); got != "" || active {
		t.Errorf("after leave: %q, %v", got, active)
	}
	c.enter(op)
	if c.loadHold() == first {
		t.Error("two sections of one op have the same word")
	}
	c.hold = ^uintptr(0) // the sequence number wraps without touching the op
	c.leave()
	c.enter(op)
	if got, active := writeOp(c.loadHold()); got != "rename" || !active {
		t.Errorf("after the wrap: %q, %v", got, active)
	}
}

func TestLockOrderIsTotal(t *testing.T) {
	r := NewRegistry(RegistryOptions{})
	f, f2 := r.NewFamily(FamilyOptions{Name: "f", Rank: 2}), r.NewFamily(FamilyOptions{Name: "f2", Rank: 2})
	ls := []Locker{
		New(r, "low", LockOptions{Rank: -1}, 0), New(r, "one", LockOptions{Rank: 1}, 0),
		NewIn(f, 1, 0), NewIn(f, 9, 0), NewIn(f2, 1, 0), New(r, "top", LockOptions{Rank: 3}, 0),
	}
	for i, a := range ls {
		for j, b := range ls {
			got := a.lockCore().compare(b.lockCore())
			if (i < j) != (got < 0) || (i == j) != (got == 0) {
				t.Errorf("compare(%s, %s) = %d", a.Name(), b.Name(), got)
			}
		}
	}
	a, b := NewIn(f, 5, 0), NewIn(f, 5, 0)
	if ab, ba := a.compare(&b.core), b.compare(&a.core); ab == 0 || ab != -ba {
		t.Errorf("two locks of one id compare as %d and %d", ab, ba)
	}
}

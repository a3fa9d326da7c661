package torture

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"engramfs/store"
)

// fault is what happens at a call.
type fault struct {
	name string
	Fault
	only  string // calls of this name; "": any
	stays bool   // the calls that follow fail as well, until the cause is gone
}

var faults = []fault{
	{name: "EIO", Fault: Fault{Err: syscall.EIO}},
	{name: "ENOSPC", Fault: Fault{Err: syscall.ENOSPC}},
	{name: "short write", Fault: Fault{Err: syscall.ENOSPC, Short: true}, only: "write"},
	{name: "failed sync", Fault: Fault{Err: syscall.EIO}, only: "sync"},
	{name: "full disk", Fault: Fault{Err: syscall.ENOSPC, Short: true}, stays: true},
}

// TestFaultAtEveryCall lets the k-th call that changes something on the disk fail, for
// every k and in every way, in each scenario. The caller gets an error that says
// what is wrong; what it sees then, and what a power cut would leave, is a legal state
// in which nothing acknowledged is missing; and when the cause is gone the store
// serves again, at once or, where it has become read-only, after a restart.
func TestFaultAtEveryCall(t *testing.T) {
	begin := time.Now()
	var sum faultCount
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			history, names := rehearse(t, sc)
			for k := range names {
				for _, f := range faults {
					if f.only != "" && names[k] != f.only {
						continue
					}
					within(t, sc.name, func() { sum.add(strike(t, sc, history, f, k)) })
					if t.Failed() {
						t.Fatalf("%s at call %d (%s)", f.name, k, names[k])
					}
				}
			}
		})
	}
	if sum.struck < sum.tried*7/10 || sum.refused == 0 || sum.restarted == 0 {
		t.Errorf("%+v: the faults have hardly struck", sum)
	}
	fmt.Printf("I/O errors: %d scenarios, %d faults of %d kinds (%d operations got an error, %d starts after which a restart was needed), 0 lost, 0 half changes, check clean, back in service (%v)\n",
		len(scenarios), sum.struck, len(faults), sum.refused, sum.restarted, time.Since(begin).Round(time.Millisecond))
}

// faultCount counts faults that were to strike, that did, and what came of them.
type faultCount struct{ tried, struck, refused, restarted int }

func (c *faultCount) add(d faultCount) {
	c.tried, c.struck, c.refused, c.restarted = c.tried+d.tried, c.struck+d.struck, c.refused+d.refused, c.restarted+d.restarted
}

// rehearse runs a scenario without a fault. It returns what clients saw after each
// step and the names of the calls, in order.
func rehearse(t *testing.T, sc scenario) (history History, names []string) {
	t.Helper()
	history, cuts, _ := cutEverywhere(t, sc, 1)
	for i := 0; i < len(cuts)-2; i += 2 { // two cuts at every call, and two at the end
		names = append(names, cuts[i].before.Name)
	}
	return history, names
}

// strike runs a scenario with a fault at its k-th call.
func strike(t *testing.T, sc scenario, history History, f fault, k int) (n faultCount) {
	t.Helper()
	n.tried = 1
	m := mustBoot(t, newDisk())
	r := newRun(m.s)
	prepare(t, r, sc)
	var calls, struck atomic.Int64
	m.Watch(func(c Call) Fault {
		i := calls.Add(1) - 1
		if (i == int64(k) || f.stays && i > int64(k)) && (f.only == "" || c.Name == f.only) {
			struck.Add(1)
			return f.Fault
		}
		return Fault{}
	})
	durable, done, err := perform(r, sc)
	if struck.Load() > 0 {
		n.struck = 1
	}
	if err != nil {
		n.refused = 1
		if why := unclear(err); why != "" && struck.Load() > 0 {
			t.Errorf("step %d: %v: %s", done+1, err, why)
		}
		if struck.Load() == 0 {
			t.Errorf("step %d without a fault: %v", done+1, err)
		}
	}
	last := min(done+1, len(history)-1)
	mustExplain(t, "seen at once", m.s, history, done, last, sc.blend)
	after := m.powerCut(nil)
	m.Watch(nil) // the cause is gone
	r.close()    // says again what has failed
	if m.s.ReadOnly() == nil {
		mustExplain(t, "seen later", m.s, history, done, last, sc.blend)
		m.mustBeSound(t)
	} else {
		n.restarted = 1
		m.s.Close() // returns why it is read-only
		again := mustBoot(t, m.disk)
		mustExplain(t, "after a restart", again.s, history, durable, last, sc.blend)
		again.mustBeSound(t)
	}
	cut{after, Call{Name: "none: a cut after the fault"}, durable, last}.judge(t, sc, history)
	return n
}

// perform runs the steps until one fails. It returns how many were done, and
// which of them must survive a power cut.
func perform(r *run, sc scenario) (durable, done int, err error) {
	for i, step := range sc.steps {
		if err := step.do(r); err != nil {
			return durable, done, err
		}
		done = i + 1
		if step.durable {
			durable = done
		}
	}
	return durable, done, nil
}

// unclear says what is wrong with an error that a fault has caused.
func unclear(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "goroutine ") || strings.Contains(text, "panic"):
		return "a panic is no answer"
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENOSPC), errors.Is(err, store.ErrReadOnly):
		return ""
	}
	return "it matches neither EIO, ENOSPC nor ErrReadOnly"
}

func mustExplain(t *testing.T, when string, s *store.Store, h History, from, to int, blend bool) {
	t.Helper()
	got, err := See(ctx, s)
	if err == nil {
		err = h.Explain(got, from, to, blend)
	}
	if err != nil {
		t.Errorf("%s, steps %d to %d: %v", when, from, to, err)
	}
}

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is what a path is to its clients: it has a value, or is absent (0).
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		paths := map[string][]porcupine.Operation{}
		for _, o := range history {
			p := o.Input.(linearOp).path
			paths[p] = append(paths[p], o)
		}
		var parts [][]porcupine.Operation
		for _, ops := range paths {
			parts = append(parts, ops)
		}
		return parts
	},
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		was, op := state.(int), input.(linearOp)
		if op.kind == "write" {
			return true, op.value
		}
		return output.(int) == was, was
	},
}

// linearOp is one operation on a path: "write" or "read".
type linearOp struct {
	kind, path string
	value      int
}

// linearContent is a content that says its value, small or a blob.
func linearContent(value int) []byte {
	pad := 0
	if value%3 == 0 {
		pad = 40_000
	}
	return []byte(fmt.Sprintf("%d\n%s", value, strings.Repeat("x", pad)))
}

// linearValue is linearContent backwards. Content that nobody wrote as a whole is -1.
func linearValue(b []byte, err error) (int, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var value int
	fmt.Sscan(string(b[:min(len(b), 20)]), &value) // nonsense is 0, whose content it is not
	if value == 0 || string(b) != string(linearContent(value)) {
		return -1, nil
	}
	return value, nil
}

// TestHistoriesAreLinearizable has eight clients write and read the same few
// paths, through WebDAV and through the mount, and has every history of a path
// checked: there must be an order in which each operation took effect at one instant
// between its call and its answer. In every third run writers die in the middle.
// (Between the doors there is no such promise: a kernel hears of a change a moment
// after WebDAV has answered.)
func TestHistoriesAreLinearizable(t *testing.T) {
	runs, histories, operations, unknown := 6, 0, 0, 0
	if long() {
		runs = 300
	}
	m := StartMounted(t, Options{Binary: engramfs, Args: []string{"--enable-drills"}})
	doors := []linearDoor{newDAVDoor(func() *DAV { return connect(t, m.Server) }), &osDoor{root: m.Point}}
	w := &weather{m: m, admin: NewDAV(m.Admin, "", time.Minute)}
	t.Cleanup(w.admin.Close)
	for run := range runs {
		l := newLinearRun(t, doors[run%2], run)
		end := make(chan struct{})
		var clients, storm sync.WaitGroup
		for client := range 8 {
			clients.Go(func() {
				if failed := l.client(client); run%3 != 2 && failed != nil {
					t.Errorf("run %d, in which nothing dies: client %d: %v", run, client, failed)
				}
			})
		}
		if run%3 == 2 {
			storm.Go(func() { l.strike(t, w, end) })
		}
		clients.Wait()
		close(end)
		storm.Wait()
		switch porcupine.CheckOperationsTimeout(register, l.history, time.Minute) {
		case porcupine.Illegal:
			t.Errorf("run %d: no order explains what the clients saw", run)
		case porcupine.Unknown:
			unknown++
		}
		histories, operations = histories+len(l.paths), operations+len(l.history)
	}
	if unknown > runs/10 {
		t.Errorf("%d of %d runs took too long to be judged", unknown, runs)
	}
	fmt.Printf("linearizability: %d histories of paths, %d operations, faults in a third of the runs: 0 illegal, %d unknown\n", histories, operations, unknown)
}

// linearDoor is a door as the clients use it: a write replaces a file as a whole.
type linearDoor interface {
	ReadFile(p string) ([]byte, error)
	Replace(p string, content []byte) error
}

// linearRun is some clients at work on some paths.
type linearRun struct {
	door  linearDoor
	seed  int
	paths []string
	begin time.Time
	value atomic.Int64 // the last one that was written

	mu      sync.Mutex // protects history
	history []porcupine.Operation
}

const firstValue = 1_000_000

func newLinearRun(t *testing.T, door linearDoor, run int) *linearRun {
	t.Helper()
	l := &linearRun{door: door, seed: run, begin: time.Now()}
	for i := range 3 {
		p := fmt.Sprintf("/r%d-%d", run, i)
		if err := door.Replace(p, linearContent(firstValue)); err != nil {
			t.Fatal(err)
		}
		l.paths = append(l.paths, p)
		l.history = append(l.history, porcupine.Operation{ClientId: 8, Input: linearOp{"write", p, firstValue}, Call: -2, Output: 0, Return: -1})
	}
	return l
}

// client does its operations, and returns the first error of one. One that fails has
// changed nothing: the drill strikes, and what it leaves refuses, before there is a change.
func (l *linearRun) client(id int) (failed error) {
	rng := rand.New(rand.NewPCG(uint64(l.seed), uint64(id)))
	for range 40 {
		op := linearOp{kind: "read", path: l.paths[rng.IntN(len(l.paths))]}
		if rng.IntN(2) == 0 {
			op.kind, op.value = "write", int(l.value.Add(1))
		}
		o := porcupine.Operation{ClientId: id, Input: op, Output: 0, Call: int64(time.Since(l.begin))}
		var err error
		if op.kind == "write" {
			err = l.door.Replace(op.path, linearContent(op.value))
		} else {
			o.Output, err = linearValue(l.door.ReadFile(op.path))
		}
		o.Return = int64(time.Since(l.begin))
		if err != nil {
			failed = cmp.Or(failed, fmt.Errorf("%s %s: %w", op.kind, op.path, err))
			continue
		}
		l.mu.Lock()
		l.history = append(l.history, o)
		l.mu.Unlock()
	}
	return failed
}

// strike lets writers of the first path die and resets what that poisons, until the
// end, and once more then.
func (l *linearRun) strike(t *testing.T, w *weather, end <-chan struct{}) {
	body, _ := json.Marshal(map[string]string{"path": l.paths[0], "point": "change:computed", "cause": "panic"}) // cannot fail: strings
	for last := false; !last; {
		if r, _, err := w.admin.Do("POST", "/api/v1/drills", []string{"Content-Type: application/json"}, body); err != nil || !r.OK() {
			t.Errorf("arm a drill: %d, %v", status(r), err)
		}
		select {
		case <-end:
			last = true
		case <-time.After(10 * time.Millisecond):
		}
		if err := w.heal(); err != nil && !errors.Is(err, errNothingPoisoned) {
			t.Error(err)
		}
	}
}

// TestLinearizabilityControl checks the checker: a read of an old value is found.
func TestLinearizabilityControl(t *testing.T) {
	op := func(client int, kind string, value, out int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: linearOp{kind, "/f", value}, Output: out, Call: call, Return: ret}
	}
	good := []porcupine.Operation{op(0, "write", 1, 0, 0, 10), op(1, "write", 2, 0, 5, 15), op(2, "read", 0, 1, 12, 20), op(2, "read", 0, 2, 21, 25)}
	bad := append(good[:3:3], op(1, "read", 0, 2, 16, 18), op(2, "read", 0, 1, 21, 25))
	if !porcupine.CheckOperations(register, good) || porcupine.CheckOperations(register, bad) {
		t.Error("the checker does not know legal from illegal")
	}
}

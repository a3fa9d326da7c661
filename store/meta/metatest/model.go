package metatest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"testing"

	"pgregory.net/rapid"

	"engramfs/store/meta"
)

// state is the model: what an engine holds, in the plainest form.
type state map[string]string

func (s state) keys(lo, hi []byte) []string {
	var keys []string
	for k := range s {
		if k >= string(lo) && (hi == nil || k < string(hi)) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	return keys
}

func (s state) add(key string, delta int64) {
	n := int64(0)
	if v, ok := s[key]; ok {
		n, _ = meta.DecodeCounter([]byte(v))
	}
	s[key] = string(meta.EncodeCounter(n + delta))
}

// machine drives an engine and the model with the same random operations.
type machine struct {
	h      Harness
	engine meta.Engine
	open   []meta.Engine // every engine there was; crashed ones are closed at the end

	// history holds the states a crash may leave: the last durable one first, the
	// current one last.
	history []state
}

// testModel compares the engine with the model after random operations,
// restarts and, where the harness can, crashes.
func testModel(t *testing.T, newHarness func(t *testing.T) Harness) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{h: newHarness(t), history: []state{{}}}
		m.reopen(rt)
		defer func() {
			for _, e := range m.open {
				if err := e.Close(); err != nil {
					rt.Errorf("Close: %v", err)
				}
			}
		}()
		actions := map[string]func(*rapid.T){
			"update":     m.update,
			"update2":    m.update, // twice as likely
			"failUpdate": m.failUpdate,
			"getMany":    m.getMany,
			"scan":       m.scan,
			"sync":       m.sync,
			"restart":    m.restart,
			"":           m.check,
		}
		if m.h.Crash != nil {
			actions["crash"] = m.crash
		}
		rt.Repeat(actions)
	})
}

// Few and short keys, so that operations meet.
var (
	genKey     = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xff}), 1, 3)
	genCounter = rapid.SampledFrom([]string{"#1", "#2", "#3"})
	genValue   = rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 8),
		rapid.Just(bytes.Repeat([]byte("large"), 500)))
)

func (m *machine) current() state { return m.history[len(m.history)-1] }

func (m *machine) reopen(rt *rapid.T) {
	e, err := m.h.Open()
	if err != nil {
		rt.Fatalf("Open: %v", err)
	}
	m.engine = e
	m.open = append(m.open, e)
}

// change draws the changes of one update and applies them to both sides.
func (m *machine) change(rt *rapid.T, tx meta.Txn, next state) {
	for range rapid.IntRange(0, 5).Draw(rt, "changes") {
		switch rapid.SampledFrom([]string{"put", "put", "delete", "deleteRange", "add", "add"}).Draw(rt, "change") {
		case "put":
			k, v := genKey.Draw(rt, "key"), genValue.Draw(rt, "value")
			tx.Put(k, v)
			next[string(k)] = string(v)
		case "delete":
			k := genKey.Draw(rt, "key")
			if rapid.Bool().Draw(rt, "counter") {
				k = []byte(genCounter.Draw(rt, "key"))
			}
			tx.Delete(k)
			delete(next, string(k))
		case "deleteRange":
			lo, hi := genKey.Draw(rt, "lo"), genKey.Draw(rt, "hi")
			tx.DeleteRange(lo, hi)
			for _, k := range next.keys(lo, hi) {
				delete(next, k)
			}
		case "add":
			k, d := genCounter.Draw(rt, "key"), rapid.Int64().Draw(rt, "delta")
			tx.Add([]byte(k), d)
			next.add(k, d)
		}
	}
}

func (m *machine) update(rt *rapid.T) {
	next := maps.Clone(m.current())
	if err := m.engine.Update(func(tx meta.Txn) error {
		m.change(rt, tx, next)
		m.compare(rt, tx, m.current()) // reads see the state before
		return nil
	}); err != nil {
		rt.Fatalf("Update: %v", err)
	}
	m.history = append(m.history, next)
}

func (m *machine) failUpdate(rt *rapid.T) {
	want := errors.New("mine")
	if err := m.engine.Update(func(tx meta.Txn) error {
		m.change(rt, tx, state{})
		return want
	}); !errors.Is(err, want) {
		rt.Fatalf("Update = %v, want the error of fn", err)
	}
}

func (m *machine) getMany(rt *rapid.T) {
	keys := rapid.SliceOf(genKey).Draw(rt, "keys")
	slices.SortFunc(keys, bytes.Compare)
	got := 0
	err := m.engine.GetMany(keys, func(i int, value []byte) error {
		got++
		want, ok := m.current()[string(keys[i])]
		if ok != (value != nil) || want != string(value) {
			return fmt.Errorf("key %q = %q (nil: %v), want %q (present: %v)", keys[i], value, value == nil, want, ok)
		}
		return nil
	})
	if err != nil || got != len(keys) {
		rt.Fatalf("GetMany: %d of %d keys, %v", got, len(keys), err)
	}
}

func (m *machine) scan(rt *rapid.T) {
	lo, hi := genKey.Draw(rt, "lo"), genKey.Draw(rt, "hi")
	var got []string
	if err := m.engine.Scan(lo, hi, func(k, _ []byte) bool {
		got = append(got, string(k))
		return true
	}); err != nil {
		rt.Fatalf("Scan: %v", err)
	}
	if want := m.current().keys(lo, hi); !slices.Equal(got, want) {
		rt.Fatalf("Scan(%q, %q) = %q, want %q", lo, hi, got, want)
	}
}

func (m *machine) sync(rt *rapid.T) {
	if err := m.engine.Sync(); err != nil {
		rt.Fatalf("Sync: %v", err)
	}
	m.history = []state{m.current()}
}

func (m *machine) restart(rt *rapid.T) {
	if err := m.engine.Close(); err != nil {
		rt.Fatalf("Close: %v", err)
	}
	m.reopen(rt)
	m.history = []state{m.current()}
}

// crash demands one of the states since the last durable one: all of some
// first updates and nothing of the rest.
func (m *machine) crash(rt *rapid.T) {
	m.h.Crash()
	m.reopen(rt)
	got, err := dump(m.engine)
	if err != nil {
		rt.Fatalf("read after a crash: %v", err)
	}
	for _, s := range m.history {
		if maps.Equal(got, s) {
			// What a restart has recovered is durable.
			m.history = []state{s}
			return
		}
	}
	rt.Fatalf("state after a crash is none of the last %d: %q", len(m.history), got)
}

func (m *machine) check(rt *rapid.T) {
	m.compare(rt, m.engine, m.current())
	if err := m.engine.View(func(r meta.Reader) error {
		m.compare(rt, r, m.current())
		return nil
	}); err != nil {
		rt.Fatalf("View: %v", err)
	}
}

func (m *machine) compare(rt *rapid.T, r meta.Reader, want state) {
	got, err := dump(r)
	if err != nil {
		rt.Fatalf("Scan: %v", err)
	}
	if !maps.Equal(got, want) {
		rt.Fatalf("state = %q, want %q", got, want)
	}
	for _, k := range []string{"#1", "#2", "#3"} {
		n, err := r.Counter([]byte(k))
		w, _ := meta.DecodeCounter([]byte(want[k]))
		if err != nil || n != w {
			rt.Fatalf("Counter(%s) = %d, %v, want %d", k, n, err, w)
		}
	}
}

// dump returns everything, read by Scan and again by Get.
func dump(r meta.Reader) (state, error) {
	got := state{}
	err := r.Scan(nil, nil, func(k, v []byte) bool {
		got[string(k)] = string(v)
		return true
	})
	for k, want := range got {
		if v, getErr := r.Get([]byte(k)); getErr != nil || string(v) != want {
			err = errors.Join(err, fmt.Errorf("Get(%q) = %q, %v, but Scan gave %q", k, v, getErr, want))
		}
	}
	return got, err
}

package metatest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"engramfs/store/meta"
)

func testDeleteRange(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1", "b", "2", "bb", "3", "c", "4", "d", "5")
	update(t, e, func(tx meta.Txn) { tx.DeleteRange([]byte("b"), []byte("c")) })
	if got := scan(t, e, nil, nil); !slices.Equal(got, []string{"a=1", "c=4", "d=5"}) {
		t.Errorf("after DeleteRange(b, c): %q", got)
	}
	update(t, e, func(tx meta.Txn) {
		tx.DeleteRange([]byte("c"), []byte("c"))
		tx.DeleteRange([]byte("d"), []byte("a"))
		tx.DeleteRange([]byte("x"), []byte("z"))
	})
	if got := scan(t, e, nil, nil); len(got) != 3 {
		t.Errorf("empty ranges deleted something: %q", got)
	}
	if err := e.Update(func(tx meta.Txn) error { tx.DeleteRange([]byte("a"), nil); return nil }); err == nil {
		t.Error("DeleteRange to nil succeeded, want an error")
	}
	wantGet(t, e, "a", "1")
}

func testChangesApplyInOrder(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "old", "1", "oz", "1")
	update(t, e, func(tx meta.Txn) {
		tx.Put([]byte("a"), []byte("1"))
		tx.Put([]byte("a"), []byte("2"))
		tx.Delete([]byte("b"))
		tx.Put([]byte("b"), []byte("after delete"))
		tx.Put([]byte("c"), []byte("1"))
		tx.Delete([]byte("c"))
		tx.Put([]byte("om"), []byte("gone"))
		tx.DeleteRange([]byte("o"), []byte("p"))
		tx.Put([]byte("on"), []byte("kept"))
		tx.Add([]byte("n"), 5)
		tx.Delete([]byte("n"))
		tx.Add([]byte("n"), 3)
	})
	want := []string{"a=2", "b=after delete", "n=" + string(meta.EncodeCounter(3)), "on=kept"}
	if got := scan(t, e, nil, nil); !slices.Equal(got, want) {
		t.Errorf("state = %q, want %q", got, want)
	}
}

func testCounter(t *testing.T, h Harness) {
	e := open(t, h)
	add := func(key string, deltas ...int64) {
		for _, d := range deltas {
			update(t, e, func(tx meta.Txn) { tx.Add([]byte(key), d) })
		}
	}
	wantCounter(t, e, "n", 0)
	add("n", 1, 2, -10)
	wantCounter(t, e, "n", -7)
	update(t, e, func(tx meta.Txn) {
		tx.Add([]byte("n"), 7)
		tx.Add([]byte("n"), 100)
	})
	wantCounter(t, e, "n", 100)
	wantGet(t, e, "n", string(meta.EncodeCounter(100)))
	update(t, e, func(tx meta.Txn) { tx.Delete([]byte("n")) })
	wantCounter(t, e, "n", 0)
	add("n", 4)
	wantCounter(t, e, "n", 4)
	update(t, e, func(tx meta.Txn) { tx.Put([]byte("n"), meta.EncodeCounter(-1)) })
	add("n", 3)
	wantCounter(t, e, "n", 2)
	add("max", math.MaxInt64, 1)
	wantCounter(t, e, "max", math.MinInt64)

	put(t, e, "text", "not a counter")
	if n, err := e.Counter([]byte("text")); err == nil {
		t.Errorf("Counter of a text = %d, want an error", n)
	}
	e = reopen(t, h, e)
	wantCounter(t, e, "n", 2)
	wantCounter(t, e, "max", math.MinInt64)
}

func testCounterOfConcurrentUpdates(t *testing.T, h Harness) {
	e := open(t, h)
	const workers, each = 8, 200
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if err := e.Update(func(tx meta.Txn) error {
					tx.Add([]byte("total"), int64(w))
					tx.Put(fmt.Appendf(nil, "k%d.%d", w, i), []byte("x"))
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := int64(each * workers * (workers - 1) / 2)
	wantCounter(t, e, "total", want)
	e = reopen(t, h, e)
	wantCounter(t, e, "total", want)
	if n := len(scan(t, e, []byte("k"), []byte("l"))); n != workers*each {
		t.Errorf("%d keys, want %d", n, workers*each)
	}
}

func testTxnReadsStateBefore(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1", "b", "1")
	update(t, e, func(tx meta.Txn) { tx.Add([]byte("n"), 1) })
	update(t, e, func(tx meta.Txn) {
		tx.Put([]byte("a"), []byte("2"))
		tx.Delete([]byte("b"))
		tx.Put([]byte("c"), []byte("2"))
		tx.Add([]byte("n"), 1)
		wantGet(t, tx, "a", "1")
		wantGet(t, tx, "b", "1")
		wantGet(t, tx, "c", "")
		wantCounter(t, tx, "n", 1)
		if got := scan(t, tx, nil, []byte("n")); !slices.Equal(got, []string{"a=1", "b=1"}) {
			t.Errorf("Scan in an update = %q", got)
		}
	})
	wantGet(t, e, "a", "2")
	wantCounter(t, e, "n", 2)
}

func testUpdateErrorChangesNothing(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1")
	want := errors.New("mine")
	err := e.Update(func(tx meta.Txn) error {
		tx.Put([]byte("a"), []byte("2"))
		tx.Add([]byte("n"), 1)
		return want
	})
	if !errors.Is(err, want) {
		t.Errorf("Update = %v, want the error of fn", err)
	}
	wantGet(t, e, "a", "1")
	wantCounter(t, e, "n", 0)
}

func testUpdateRefusesEmptyKey(t *testing.T, h Harness) {
	e := open(t, h)
	for name, change := range map[string]func(meta.Txn){
		"Put":         func(tx meta.Txn) { tx.Put(nil, []byte("1")) },
		"Delete":      func(tx meta.Txn) { tx.Delete([]byte{}) },
		"DeleteRange": func(tx meta.Txn) { tx.DeleteRange(nil, []byte("z")) },
		"Add":         func(tx meta.Txn) { tx.Add(nil, 1) },
	} {
		err := e.Update(func(tx meta.Txn) error {
			tx.Put([]byte("a"), []byte("1"))
			change(tx)
			return nil
		})
		if !errors.Is(err, meta.ErrEmptyKey) {
			t.Errorf("Update with %s of the empty key = %v, want ErrEmptyKey", name, err)
		}
	}
	wantGet(t, e, "a", "")
	if _, err := e.Get(nil); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("Get of the empty key = %v, want ErrNotFound", err)
	}
}

func testUpdatePanicChangesNothing(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1")
	func() {
		defer func() {
			if r := recover(); r != "mine" {
				t.Errorf("recovered %v, want the panic of fn", r)
			}
		}()
		_ = e.Update(func(tx meta.Txn) error {
			tx.Put([]byte("a"), []byte("2"))
			panic("mine")
		})
	}()
	wantGet(t, e, "a", "1")
	put(t, e, "a", "3") // the engine is as good as before
	wantGet(t, e, "a", "3")
	if err := e.Failed(); err != nil {
		t.Errorf("Failed = %v after a panic in fn, want nil", err)
	}
}

func testUpdateIsAtomicToViews(t *testing.T, h Harness) {
	e := open(t, h)
	const rounds = 300
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; i <= rounds; i++ {
			v := fmt.Sprint(i)
			put(t, e, "x", v, "y", v, "z", v)
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		var seen []string
		if err := e.View(func(r meta.Reader) error {
			return r.Scan(nil, nil, func(_, v []byte) bool {
				seen = append(seen, string(v))
				return true
			})
		}); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 0 && (len(seen) != 3 || seen[0] != seen[1] || seen[1] != seen[2]) {
			t.Fatalf("a view saw a part of an update: %q", seen)
		}
	}
	wantGet(t, e, "z", fmt.Sprint(rounds))
}

func testLargeBatch(t *testing.T, h Harness) {
	e := open(t, h)
	const n = 20000
	value := make([]byte, 200)
	update(t, e, func(tx meta.Txn) {
		for i := range n {
			tx.Put(fmt.Appendf(nil, "big%08d", i), value)
		}
	})
	count := func(e meta.Engine) (c int) {
		if err := e.Scan(nil, nil, func(_, v []byte) bool { c++; return len(v) == len(value) }); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := count(e); c != n {
		t.Errorf("%d keys after a large batch, want %d", c, n)
	}
	e = reopen(t, h, e)
	if c := count(e); c != n {
		t.Errorf("%d keys after reopening, want %d", c, n)
	}
	update(t, e, func(tx meta.Txn) { tx.DeleteRange([]byte("big"), []byte("bih")) })
	if c := count(e); c != 0 {
		t.Errorf("%d keys after DeleteRange, want 0", c)
	}
}

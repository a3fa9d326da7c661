package metatest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"engramfs/store/meta"
)

func testGetPutDelete(t *testing.T, h Harness) {
	e := open(t, h)
	wantGet(t, e, "a", "")
	put(t, e, "a", "1", "b", "2", "c\x00\xff", "3")
	wantGet(t, e, "a", "1")
	wantGet(t, e, "b", "2")
	wantGet(t, e, "c\x00\xff", "3")
	wantGet(t, e, "c\x00", "")
	put(t, e, "a", "11")
	wantGet(t, e, "a", "11")
	update(t, e, func(tx meta.Txn) {
		tx.Delete([]byte("b"))
		tx.Delete([]byte("never there"))
	})
	wantGet(t, e, "b", "")
	wantGet(t, e, "a", "11")

	update(t, e, func(tx meta.Txn) { tx.Put([]byte("empty"), nil) })
	if v, err := e.Get([]byte("empty")); err != nil || len(v) != 0 {
		t.Errorf("Get(empty) = %q, %v, want an empty value", v, err)
	}
}

func testGetReturnsCallersSlice(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "k", "value")
	v, err := e.Get([]byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	clear(v)
	wantGet(t, e, "k", "value")
	put(t, e, "k", "other")
	if !bytes.Equal(v, make([]byte, 5)) {
		t.Errorf("the slice that Get returned changed to %q", v)
	}
}

func testPutCopiesItsArguments(t *testing.T, h Harness) {
	e := open(t, h)
	key, value := []byte("key"), []byte("value")
	update(t, e, func(tx meta.Txn) {
		tx.Put(key, value)
		copy(key, "XXX")
		copy(value, "YYYYY")
	})
	wantGet(t, e, "key", "value")
	wantGet(t, e, "XXX", "")
}

func testScanBoundsAndOrder(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "b", "2", "a", "1", "d", "4", "\xff\xff", "z", "c", "3")
	for _, tt := range []struct {
		name   string
		lo, hi []byte
		want   []string
	}{
		{"all", nil, nil, []string{"a=1", "b=2", "c=3", "d=4", "\xff\xff=z"}},
		{"from", []byte("c"), nil, []string{"c=3", "d=4", "\xff\xff=z"}},
		{"to", nil, []byte("b"), []string{"a=1"}},
		{"both", []byte("b"), []byte("d"), []string{"b=2", "c=3"}},
		{"between keys", []byte("bb"), []byte("cc"), []string{"c=3"}},
		{"nothing", []byte("e"), []byte("f"), nil},
		{"empty range", []byte("b"), []byte("b"), nil},
		{"inverted range", []byte("d"), []byte("a"), nil},
	} {
		if got := scan(t, e, tt.lo, tt.hi); !slices.Equal(got, tt.want) {
			t.Errorf("%s: Scan(%q, %q) = %q, want %q", tt.name, tt.lo, tt.hi, got, tt.want)
		}
	}
}

func testScanStops(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1", "b", "2", "c", "3")
	var seen []string
	err := e.Scan(nil, nil, func(k, _ []byte) bool {
		seen = append(seen, string(k))
		wantGet(t, e, "c", "3") // fn may read
		return len(seen) < 2
	})
	if err != nil || !slices.Equal(seen, []string{"a", "b"}) {
		t.Errorf("Scan saw %q, %v, want a and b", seen, err)
	}
}

// manyKeys stores the even numbers below 2n as "kNNNNNN" = "vNNNNNN".
func manyKeys(t *testing.T, e meta.Engine, n int) {
	t.Helper()
	update(t, e, func(tx meta.Txn) {
		for i := range n {
			tx.Put(fmt.Appendf(nil, "k%06d", 2*i), fmt.Appendf(nil, "v%06d", 2*i))
		}
	})
}

func testGetMany(t *testing.T, h Harness) {
	e := open(t, h)
	manyKeys(t, e, 500)
	put(t, e, "k000500", "changed", "z", "last")
	update(t, e, func(tx meta.Txn) {
		tx.Delete([]byte("k000502"))
		tx.Put([]byte("k000504"), nil)
	})
	// Neighbours, gaps, absent keys, equal keys, before the first and after the last.
	keys := []string{"", "k000000", "k000001", "k000002", "k000002", "k000100", "k000499", "k000500",
		"k000501", "k000502", "k000504", "k000998", "k000999", "y", "z", "zz"}
	want := map[string]string{"k000000": "v000000", "k000002": "v000002", "k000100": "v000100",
		"k000500": "changed", "k000504": "", "k000998": "v000998", "z": "last"}
	check := func(r meta.Reader) {
		next := 0
		err := r.GetMany(asKeys(keys), func(i int, value []byte) error {
			if i != next {
				t.Errorf("fn called with i = %d, want %d", i, next)
			}
			next++
			w, ok := want[keys[i]]
			if ok != (value != nil) || w != string(value) {
				t.Errorf("GetMany: %q = %q (nil: %v), want %q (present: %v)", keys[i], value, value == nil, w, ok)
			}
			return nil
		})
		if err != nil || next != len(keys) {
			t.Errorf("GetMany called fn %d times, %v, want %d", next, err, len(keys))
		}
	}
	check(e)
	if err := e.View(func(r meta.Reader) error { check(r); return nil }); err != nil {
		t.Error(err)
	}
	if err := e.GetMany(nil, func(int, []byte) error { return errors.New("called") }); err != nil {
		t.Errorf("GetMany of no keys: %v", err)
	}
}

func testGetManyReturnsErrorOfFn(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1", "b", "2")
	stop, calls := errors.New("stop"), 0
	err := e.GetMany(asKeys([]string{"a", "b"}), func(int, []byte) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("GetMany = %v after %d calls, want the error of fn after 1", err, calls)
	}
}

func testGetManyRefusesDescendingKeys(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1", "b", "2")
	err := e.GetMany(asKeys([]string{"b", "a"}), func(int, []byte) error { return nil })
	if err == nil {
		t.Error("GetMany of descending keys succeeded, want an error")
	}
}

func asKeys(s []string) [][]byte {
	keys := make([][]byte, len(s))
	for i := range s {
		keys[i] = []byte(s[i])
	}
	return keys
}

func testViewIsOneState(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1", "b", "1")
	err := e.View(func(r meta.Reader) error {
		put(t, e, "a", "2", "b", "2", "c", "2")
		update(t, e, func(tx meta.Txn) { tx.Add([]byte("n"), 1) })
		wantGet(t, r, "a", "1")
		wantGet(t, r, "b", "1")
		wantGet(t, r, "c", "")
		wantCounter(t, r, "n", 0)
		if got := scan(t, r, nil, nil); !slices.Equal(got, []string{"a=1", "b=1"}) {
			t.Errorf("Scan in a view = %q", got)
		}
		wantGet(t, e, "a", "2")
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func testViewReturnsErrorOfFn(t *testing.T, h Harness) {
	e := open(t, h)
	want := errors.New("mine")
	if err := e.View(func(meta.Reader) error { return want }); !errors.Is(err, want) {
		t.Errorf("View = %v, want the error of fn", err)
	}
}

func testLargeValues(t *testing.T, h Harness) {
	e := open(t, h)
	value := func(n int) string { return string(bytes.Repeat([]byte{byte(n), byte(n >> 8)}, n/2+1)[:n]) }
	sizes := []int{1, 100, 1 << 10, 16<<10 - 1, 16 << 10, 64 << 10, 1 << 20}
	for _, n := range sizes {
		put(t, e, fmt.Sprintf("size %d", n), value(n))
	}
	check := func(e meta.Engine) {
		for _, n := range sizes {
			if v, err := e.Get(fmt.Appendf(nil, "size %d", n)); err != nil || string(v) != value(n) {
				t.Errorf("Get of a value of %d bytes: %d bytes, %v, or other content", n, len(v), err)
			}
		}
		if err := e.Scan(nil, nil, func(k, v []byte) bool {
			if string(v) != value(len(v)) || string(k) != fmt.Sprintf("size %d", len(v)) {
				t.Errorf("Scan: %q has %d bytes, or other content", k, len(v))
			}
			return true
		}); err != nil {
			t.Error(err)
		}
	}
	check(e)
	check(reopen(t, h, e))
}

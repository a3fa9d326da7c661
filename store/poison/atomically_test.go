package poison_test

import (
	"errors"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"

	"engramfs/store/poison"
)

// inodes returns n locks of one family, with ids 0 to n-1.
func inodes(t testing.TB, n int) (*poison.Registry, []*poison.Guarded[pair]) {
	t.Helper()
	r, _ := newRegistry(t, poison.RegistryOptions{})
	f := r.NewFamily(poison.FamilyOptions{Name: "inode", Rank: 10})
	var gs []*poison.Guarded[pair]
	for i := range n {
		gs = append(gs, poison.NewIn(f, uint64(i), pair{}))
	}
	return r, gs
}

func lockers(gs ...*poison.Guarded[pair]) []poison.Locker {
	var ls []poison.Locker
	for _, g := range gs {
		ls = append(ls, g)
	}
	return ls
}

func TestAtomicallyReachesAllValues(t *testing.T) {
	_, gs := inodes(t, 3)
	err := poison.Atomically("link", lockers(gs[2], gs[0]), lockers(gs[1]), func(s *poison.Section) error {
		_ = bump(poison.Held(s, gs[0]))
		_ = bump(poison.Held(s, gs[2]))
		if *poison.Held(s, gs[1]) != (pair{}) {
			t.Error("the lock for reading has another value")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []pair{{1, 1}, {0, 0}, {1, 1}} {
		if ev, err := gs[i].Read("read", func(p *pair) {
			if *p != want {
				t.Errorf("inode %d = %v, want %v", i, *p, want)
			}
		}); ev != nil || err != nil {
			t.Error(ev, err)
		}
	}
}

func TestAtomicallyReturnsTheErrorUnchanged(t *testing.T) {
	_, gs := inodes(t, 2)
	want := errors.New("exists")
	err := poison.Atomically("link", lockers(gs...), nil, func(*poison.Section) error { return want })
	if err != want || gs[0].Event() != nil || gs[1].Event() != nil {
		t.Errorf("Atomically = %v, want the very error and no poison", err)
	}
}

func TestAtomicallyChecksEveryLockBeforeTheFirstChange(t *testing.T) {
	for name, split := range map[string]func(gs []*poison.Guarded[pair]) (w, r []poison.Locker){
		"WriteHeld": func(gs []*poison.Guarded[pair]) (w, r []poison.Locker) { return lockers(gs...), nil },
		"ReadHeld":  func(gs []*poison.Guarded[pair]) (w, r []poison.Locker) { return lockers(gs[0], gs[1]), lockers(gs[2]) },
	} {
		t.Run(name, func(t *testing.T) {
			r, gs := inodes(t, 3)
			_ = gs[2].Write("tear", tear)
			w, rd := split(gs)
			ran := false
			err := poison.Atomically("rename", w, rd, func(*poison.Section) error { ran = true; return nil })
			var pe *poison.Error
			if !errors.As(err, &pe) || !pe.Refused || pe.Ev != gs[2].Event() || ran {
				t.Errorf("Atomically = %v, ran %v; want a refusal by the last lock", err, ran)
			}
			for _, g := range gs {
				free(t, g)
			}
			if h, _ := r.LockHealth("inode:2"); h.WritesRejected < 1 {
				t.Errorf("health = %+v, want a rejected write", h)
			}
		})
	}
}

func TestAtomicallyPoisonsEveryWrittenLockBeforeAnyIsReleased(t *testing.T) {
	ends := map[string]struct {
		f     func()
		err   error
		cause poison.Cause
	}{
		"Panic":  {f: func() { panic(http.ErrAbortHandler) }, cause: poison.Panic},
		"Goexit": {f: runtime.Goexit, cause: poison.Goexit},
		"Fatal":  {f: func() {}, err: poison.Fatal(http.ErrAbortHandler), cause: poison.Invariant},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			_, gs := inodes(t, 4)
			var wg sync.WaitGroup
			var err error
			exit(func() {
				err = poison.Atomically("rename", lockers(gs[3], gs[0], gs[2]), lockers(gs[1]), func(s *poison.Section) error {
					poison.Held(s, gs[0]).a++
					for _, g := range gs { // whoever gets any lock next must see all poisoned
						wg.Go(func() {
							_ = g.Write("look", func(*pair) error {
								if g != gs[1] {
									t.Errorf("%s was written", g.Name())
								}
								return nil
							})
							for _, i := range []int{0, 2, 3} {
								if gs[i].Event() == nil {
									t.Errorf("%s was free while inode:%d was healthy", g.Name(), i)
								}
							}
						})
					}
					for range 10 {
						runtime.Gosched()
					}
					end.f()
					return end.err
				})
			})
			wg.Wait()
			if name != "Goexit" && (!errors.Is(err, poison.ErrPoisoned) || !errors.Is(err, http.ErrAbortHandler)) {
				t.Errorf("Atomically = %v", err)
			}
			if gs[1].Event() != nil {
				t.Error("the lock held for reading is poisoned")
			}
			also := map[int][]string{0: {"inode:2", "inode:3"}, 2: {"inode:0", "inode:3"}, 3: {"inode:0", "inode:2"}}
			for i, names := range also {
				ev := gs[i].Event()
				if ev == nil || ev.Cause != end.cause || ev.Op != "rename" || !slices.Equal(ev.Also, names) {
					t.Errorf("inode:%d: event %+v, want Also %v", i, ev, names)
				}
			}
			for _, g := range gs {
				free(t, g)
			}
		})
	}
}

func TestAtomicallyFoldsDuplicatesAndWriteWins(t *testing.T) {
	_, gs := inodes(t, 2)
	err := poison.Atomically("link", lockers(gs[0], gs[0]), lockers(gs[0], gs[1], gs[1]), func(s *poison.Section) error {
		return bump(poison.Held(s, gs[0]))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = poison.Atomically("link", lockers(gs[0]), lockers(gs[0], gs[1]), func(s *poison.Section) error { panic("x") })
	if !errors.Is(err, poison.ErrPoisoned) || gs[0].Event() == nil || gs[1].Event() != nil {
		t.Errorf("Atomically = %v; inode:0 %v, inode:1 %v", err, gs[0].Event(), gs[1].Event())
	}
}

func TestAtomicallyEmptiesDisposableLocks(t *testing.T) {
	r, gs := inodes(t, 1)
	cache := poison.New(r, "cache", poison.LockOptions{Rank: 20, Class: poison.Disposable}, pair{3, 3})
	err := poison.Atomically("fill", []poison.Locker{cache, gs[0]}, nil, func(*poison.Section) error { panic("x") })
	if !errors.Is(err, poison.ErrPoisoned) || gs[0].Event() == nil || cache.Event() != nil {
		t.Errorf("Atomically = %v; inode %v, cache %v", err, gs[0].Event(), cache.Event())
	}
	if also := gs[0].Event().Also; len(also) != 0 {
		t.Errorf("Also = %v, want none: the cache is not poisoned", also)
	}
	_, _ = cache.Read("read", func(p *pair) {
		if *p != (pair{}) {
			t.Errorf("cache = %v, want it emptied", *p)
		}
	})
	err = poison.Atomically("fill", []poison.Locker{cache}, nil, func(*poison.Section) error { panic("x") })
	if !errors.Is(err, poison.ErrDiscarded) || errors.Is(err, poison.ErrPoisoned) {
		t.Errorf("with caches only: %v, want ErrDiscarded", err)
	}
}

// With nothing held for writing a section is a read: its panic poisons nothing and
// goes on.
func TestAtomicallyWithoutWritesIsARead(t *testing.T) {
	r, gs := inodes(t, 2)
	v := panics(func() {
		_ = poison.Atomically("stat", nil, lockers(gs...), func(*poison.Section) error { panic(http.ErrAbortHandler) })
	})
	if v != http.ErrAbortHandler {
		t.Errorf("panicked with %v, want the same value", v)
	}
	want := poison.Fatal(errors.New("x"))
	if err := poison.Atomically("stat", nil, lockers(gs...), func(*poison.Section) error { return want }); err != want {
		t.Errorf("Atomically = %v, want the error unchanged", err)
	}
	for _, g := range gs {
		if g.Event() != nil {
			t.Errorf("%s is poisoned", g.Name())
		}
		free(t, g)
	}
	if n := r.Health().Families[0].Counters.ReadPanics; n != 2 {
		t.Errorf("ReadPanics = %d, want 2", n)
	}
	ran := false
	if err := poison.Atomically("nothing", nil, nil, func(*poison.Section) error { ran = true; return nil }); err != nil || !ran {
		t.Errorf("with no locks: %v, ran %v", err, ran)
	}
}

func TestHeldOutsideItsSectionPanics(t *testing.T) {
	_, gs := inodes(t, 2)
	var kept *poison.Section
	err := poison.Atomically("link", lockers(gs[0]), nil, func(s *poison.Section) error {
		kept = s
		if panics(func() { poison.Held(s, gs[1]) }) == nil {
			t.Error("Held of a lock that is not held did not panic")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if panics(func() { poison.Held(kept, gs[0]) }) == nil {
		t.Error("Held after the section did not panic")
	}
}

// Sections that name the same locks in any order, for reading or writing, must not
// deadlock.
func TestAtomicallyTakesLocksInOrder(t *testing.T) {
	_, gs := inodes(t, 5)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for n := range 6 {
			wg.Go(func() {
				for i := range 300 {
					a, b, c := gs[(i+n)%5], gs[(i*n+3)%5], gs[(i*3+n*2)%5]
					_ = poison.Atomically("mix", lockers(a, b), lockers(c), func(*poison.Section) error {
						runtime.Gosched()
						return nil
					})
				}
			})
		}
		wg.Wait()
	}()
	wait(t, "overlapping sections", done)
}

// Two guards of one family and id exist for a moment when a node is dropped and
// made again. They are two locks.
func TestAtomicallyWithTwoLocksOfOneID(t *testing.T) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	f := r.NewFamily(poison.FamilyOptions{Name: "inode"})
	a, b := poison.NewIn(f, 1, pair{}), poison.NewIn(f, 1, pair{})
	for _, ls := range [][]poison.Locker{{a, b}, {b, a}} {
		if err := poison.Atomically("link", ls, nil, func(s *poison.Section) error {
			poison.Held(s, a).a++
			poison.Held(s, b).b++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = a.Read("read", func(p *pair) {
		if *p != (pair{2, 0}) {
			t.Errorf("a = %v", *p)
		}
	})
}

// files is a file system of five tables, each behind a lock, that belong together: a
// file is in all of them or in none.
type files [5]*poison.Guarded[map[int]bool]

func newFiles(t *testing.T) (f files, torn func() int) {
	r, _ := newRegistry(t, poison.RegistryOptions{})
	for i := range f {
		f[i] = poison.New(r, "table"+string(rune('0'+i)), poison.LockOptions{Rank: i}, map[int]bool{})
	}
	return f, func() int {
		count := map[int]int{}
		for _, table := range f {
			_, _ = table.Read("count", func(m *map[int]bool) {
				for id := range *m {
					count[id]++
				}
			})
		}
		n := 0
		for _, tables := range count {
			if tables < len(f) {
				n++
			}
		}
		return n
	}
}

// addOneByOne takes the locks one after the other and checks each when its turn
// comes, as many a program does.
func (f files) addOneByOne(id int, die bool) error {
	for i, table := range f {
		err := table.Write("add_file", func(m *map[int]bool) error {
			if die && i == 2 {
				panic("half-way")
			}
			(*m)[id] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f files) addAtomically(id int, die bool) error {
	var all []poison.Locker
	for _, table := range f {
		all = append(all, table)
	}
	return poison.Atomically("add_file", all, nil, func(s *poison.Section) error {
		for i, table := range f {
			if die && i == 2 {
				panic("half-way")
			}
			(*poison.Held(s, table))[id] = true
		}
		return nil
	})
}

// One death, then a hundred adds that are all refused. Taking the locks one by one,
// each refusal leaves another torn file behind; taking them all first, none does.
func TestRefusedSectionsTearNothing(t *testing.T) {
	for name, c := range map[string]struct {
		add  func(f files, id int, die bool) error
		torn int
	}{
		"OneByOne":   {files.addOneByOne, 101},
		"Atomically": {files.addAtomically, 1}, // the one that died, and that is marked
	} {
		t.Run(name, func(t *testing.T) {
			f, torn := newFiles(t)
			for id := range 101 {
				if err := c.add(f, id, id == 0); !errors.Is(err, poison.ErrPoisoned) {
					t.Fatalf("add %d = %v, want ErrPoisoned", id, err)
				}
			}
			if n := torn(); n != c.torn {
				t.Errorf("%d torn files, want %d", n, c.torn)
			}
		})
	}
}

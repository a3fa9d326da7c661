package poison_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"engramfs/store/poison"
)

// Account is a value with an invariant: the balance is the sum of the entries.
type Account struct {
	Entries []int
	Balance int
}

// book breaks the invariant when it panics half-way.
func (a *Account) book(amount int) {
	a.Entries = append(a.Entries, amount)
	if amount == 13 {
		panic("unlucky")
	}
	a.Balance += amount
}

// A writer dies half-way. The process lives, nobody writes on top of the torn
// value, readers are told, and an admin rebuilds it.
func Example() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	acc := poison.New(reg, "account", poison.LockOptions{}, Account{})

	book := func(amount int) error {
		return acc.Write("book", func(a *Account) error { a.book(amount); return nil })
	}
	fmt.Println("book 5:", book(5))
	fmt.Println("book 13:", book(13))
	fmt.Println("book 7 is refused:", errors.Is(book(7), poison.ErrPoisoned))

	event, _ := acc.Read("show", func(a *Account) {
		fmt.Println("recovered:", a.Entries, a.Balance)
	})
	fmt.Printf("because %s said %q in %s\n", event.Cause, event.Value, event.Op)

	err := acc.Reset(event.Gen, poison.ResetOptions{}, func(old *Account) (Account, error) {
		fresh := Account{Entries: old.Entries}
		for _, amount := range old.Entries {
			fresh.Balance += amount
		}
		return fresh, nil
	})
	fmt.Println("reset:", err)
	fmt.Println("book 7:", book(7))
	event, _ = acc.Read("show", func(a *Account) { fmt.Println("healthy:", a.Entries, a.Balance) })
	fmt.Println("event:", event)
	// Output:
	// book 5: <nil>
	// book 13: poison: lock account is poisoned by book (panic, generation 1)
	// book 7 is refused: true
	// recovered: [5 13] 5
	// because panic said "unlucky" in book
	// reset: <nil>
	// book 7: <nil>
	// healthy: [5 13 7] 25
	// event: <nil>
}

// A transfer needs two accounts. When it dies, both are poisoned before either
// is released; when one is poisoned already, it is refused before it begins.
func ExampleAtomically() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	accounts := reg.NewFamily(poison.FamilyOptions{Name: "account"})
	from := poison.NewIn(accounts, 1, 100)
	to := poison.NewIn(accounts, 2, 0)
	other := poison.NewIn(accounts, 3, 0)

	transfer := func(from, to *poison.Guarded[int], amount int) error {
		return poison.Atomically("transfer", []poison.Locker{from, to}, nil, func(s *poison.Section) error {
			*poison.Held(s, from) -= amount
			if amount == 13 {
				panic("unlucky")
			}
			*poison.Held(s, to) += amount
			return nil
		})
	}
	fmt.Println(transfer(from, to, 10))
	fmt.Println(transfer(from, to, 13))
	fmt.Println("also poisoned:", from.Event().Also)
	fmt.Println(transfer(other, to, 10))
	fmt.Println("untouched:", other.Event() == nil)
	// Output:
	// <nil>
	// poison: lock account:1 is poisoned by transfer (panic, generation 1)
	// also poisoned: [account:2]
	// poison: lock account:2 is poisoned by transfer (panic, generation 2)
	// untouched: true
}

// An error does not poison: the section has undone what it did. One that cannot
// undo says so.
func ExampleFatal() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	g := poison.New(reg, "index", poison.LockOptions{}, map[string]int{})

	errFull, errLost := errors.New("index full"), errors.New("index lost")
	fmt.Println(g.Write("put", func(m *map[string]int) error { return errFull }))
	fmt.Println(g.Event() == nil)

	err := g.Write("put", func(m *map[string]int) error {
		(*m)["half"] = 1
		return poison.Fatal(errLost)
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, errLost), g.Event().Value)
	// Output:
	// index full
	// true
	// poison: lock index is poisoned by put (invariant, generation 1)
	// true index lost
}

// A cache is not worth an alarm: it is emptied and goes on.
func ExampleDisposable() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	cache := poison.New(reg, "cache", poison.LockOptions{
		Class: poison.Disposable,
		Empty: func() map[string]int { return map[string]int{} },
	}, map[string]int{"old": 1})

	err := cache.Write("fill", func(m *map[string]int) error { panic("bad entry") })
	fmt.Println(errors.Is(err, poison.ErrDiscarded), errors.Is(err, poison.ErrPoisoned))
	_, _ = cache.Read("look", func(m *map[string]int) { fmt.Println(len(*m), "entries") })
	// Output:
	// true false
	// 0 entries
}

// A dry run shows an admin what a reset would do.
func ExampleGuarded_Reset() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	g := poison.New(reg, "counter", poison.LockOptions{}, -1)
	gen := g.Poison("check", poison.Invariant, "counter is negative").Gen

	var report string
	rebuild := func(old *int) (int, error) {
		report = fmt.Sprintf("%d becomes 0", *old)
		return 0, nil
	}
	fmt.Println("dry run:", g.Reset(gen, poison.ResetOptions{DryRun: true}, rebuild), report)
	fmt.Println("still poisoned:", g.Event() != nil)
	fmt.Println("wrong generation:", errors.Is(g.Reset(gen+7, poison.ResetOptions{}, rebuild), poison.ErrStale))
	fmt.Println("reset:", g.Reset(gen, poison.ResetOptions{}, rebuild))
	fmt.Println("again:", errors.Is(g.Reset(gen, poison.ResetOptions{}, rebuild), poison.ErrNotPoisoned))
	// Output:
	// dry run: <nil> -1 becomes 0
	// still poisoned: true
	// wrong generation: true
	// reset: <nil>
	// again: true
}

// Domain locks are always listed, the many locks of a family when there is
// something to say.
func ExampleRegistry_Health() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	poison.New(reg, "allocator", poison.LockOptions{Rank: 2}, 0)
	inodes := reg.NewFamily(poison.FamilyOptions{
		Name: "inode", Rank: 1,
		Detail: func(id uint64) string { return fmt.Sprintf("/photos/%d.jpg", id) },
	})
	for id := range uint64(1000) {
		g := poison.NewIn(inodes, id, 0)
		if id == 42 {
			g.Poison("drill", poison.Manual, "")
		}
	}
	h := reg.Health()
	fmt.Println(h.Poisoned, "poisoned")
	for _, l := range h.Locks {
		fmt.Println(l.Name, l.Detail, l.Event != nil)
	}
	// Output:
	// 1 poisoned
	// allocator  false
	// inode:42 /photos/42.jpg true
}

// Hooks run on a goroutine of their own, after the lock is free.
func ExampleRegistry_OnTransition() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	g := poison.New(reg, "counter", poison.LockOptions{}, 0)
	reg.OnTransition(func(t poison.Transition) {
		fmt.Println(t.Lock, "was", t.Kind, "at generation", t.Gen)
	})
	_ = g.Write("count", func(n *int) error { panic("overflow") })
	_ = g.Reset(1, poison.ResetOptions{}, func(old *int) (int, error) { return 0, nil })
	reg.Close() // waits for the hooks
	// Output:
	// counter was poisoned at generation 1
	// counter was reset at generation 2
}

// The watchdog runs until its context is done.
func ExampleRegistry_Watch() {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	g := poison.New(reg, "counter", poison.LockOptions{}, 0)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	go func() {
		_ = g.Write("count", func(*int) error { <-ctx.Done(); return nil }) // stuck
	}()
	reg.Watch(ctx, poison.WatchOptions{
		Interval: time.Millisecond, Soft: 10 * time.Millisecond, Hard: 20 * time.Millisecond,
		OnSoft: func(s poison.Stuck, stacks []byte) { fmt.Println(s.Lock, "is stuck in", s.Op) },
		OnHard: func(s poison.Stuck) { fmt.Println("only a restart helps"); cancel() },
	})
	// Output:
	// counter is stuck in count
	// only a restart helps
}

// The warning of a recovered read.
func ExampleRegistryOptions() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case "time", "event_id", "stack":
				return slog.Attr{}
			}
			return a
		},
	}))
	reg := poison.NewRegistry(poison.RegistryOptions{Logger: logger})
	defer reg.Close()
	g := poison.New(reg, "inodes", poison.LockOptions{}, 0)
	_ = g.Write("add_file", func(*int) error { panic("torn") })
	for range 1000 {
		_, _ = g.Read("lookup_path", func(*int) {})
	}
	// Output:
	// level=ERROR msg="lock poisoned" lock=inodes op=add_file cause=panic value=torn gen=1
	// level=WARN msg="lock poisoned, recovering" lock=inodes op=lookup_path gen=1
}

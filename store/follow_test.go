package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// followed is an operation that Options.Began was told of.
type followed struct {
	op  string
	ino store.Ino
	err error
}

type followKey struct{}

// TestOperationsAreFollowed asks for every kind of operation, for the context that
// it was called with, and for the result in each way that one can end.
func TestOperationsAreFollowed(t *testing.T) {
	var (
		mu  sync.Mutex
		all []followed
	)
	s, _ := storetest.NewWith(t, store.Options{Began: func(ctx context.Context, op string, ino store.Ino) func(error) {
		if ctx.Value(followKey{}) == nil {
			return nil // nobody follows it
		}
		return func(err error) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, followed{op, ino, err})
		}
	}})
	ctx := context.WithValue(t.Context(), followKey{}, true)
	take := func() []followed {
		mu.Lock()
		defer mu.Unlock()
		got := all
		all = nil
		return got
	}
	last := func(op string, ino store.Ino) error {
		t.Helper()
		got := take()
		i := slices.IndexFunc(got, func(f followed) bool { return f.op == op })
		if i < 0 || got[i].ino != ino {
			t.Fatalf("followed %v, want %s of inode %d", got, op, ino)
		}
		return got[i].err
	}

	a, err := s.Create(ctx, store.RootIno, "f", store.NewNode{Mode: 0o644})
	if err != nil || last("add_file", store.RootIno) != nil {
		t.Fatal(err)
	}
	if _, err := s.Lookup(ctx, store.RootIno, "absent"); err == nil || !errors.Is(last("lookup_entry", store.RootIno), err) {
		t.Errorf("Lookup: %v, and another was told", err)
	}
	if err := s.Sync(ctx); err != nil || last("sync", 0) != nil {
		t.Errorf("Sync: %v", err)
	}
	if _, err := s.GetAttr(t.Context(), a.Ino); err != nil || take() != nil {
		t.Errorf("GetAttr: %v, or it was followed", err)
	}
	mode := uint32(0o600)
	chmod := func() error {
		_, err := s.SetAttr(ctx, a.Ino, store.SetAttr{Mode: &mode})
		return err
	}
	for _, cause := range []string{"panic", "goexit"} {
		if err := s.ArmFault(t.Context(), "/f", "change:computed", cause); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = chmod() }) // the drill's error, or none: the goroutine exits
		wg.Wait()
		got := last("set_attr", a.Ino)
		if want := map[string]error{"panic": store.ErrPoisoned, "goexit": store.ErrPanic}[cause]; !errors.Is(got, want) {
			t.Errorf("%s: the result is %v, want %v", cause, got, want)
		}
		l, err := s.LockStatus("inode:2")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.ResetLock(t.Context(), l.Name, l.Gen, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := chmod(); err != nil || last("set_attr", a.Ino) != nil {
		t.Errorf("after the reset: %v", err)
	}
}

// A panic outside every lock is an error with its stack.
func TestPanicErrorHasTheStack(t *testing.T) {
	s := storetest.New(t)
	if _, err := s.EnsureDirectory(t.Context(), "/d", store.NewNode{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := s.ArmFault(t.Context(), "/d", "change:unlocked", "panic"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Create(t.Context(), 2, "f", store.NewNode{Mode: 0o644})
	var died *store.PanicError
	if !errors.As(err, &died) || !errors.Is(err, store.ErrPanic) {
		t.Fatalf("Create: %v", err)
	}
	if died.Op != "add_file" || died.Value != "drill at change:unlocked" || len(died.Stack) == 0 {
		t.Errorf("%+v", died)
	}
}

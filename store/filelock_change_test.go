package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/storetest"
)

// TestExclusiveLocksHinderOthersChanges tries every kind of change of a file on
// which a mount's client has a lock.
func TestExclusiveLocksHinderOthersChanges(t *testing.T) {
	mode, size := uint32(0o640), int64(0)
	set := func(a store.SetAttr) func(context.Context, *store.Store, store.Ino) error {
		return func(ctx context.Context, s *store.Store, ino store.Ino) error {
			return second(s.SetAttr(ctx, ino, a))
		}
	}
	rename := func(from, to string, o store.RenameOptions) func(context.Context, *store.Store, store.Ino) error {
		return func(ctx context.Context, s *store.Store, _ store.Ino) error {
			return second(s.Rename(ctx, lookup(s, "/d").Ino, from, lookup(s, "/d").Ino, to, o))
		}
	}
	changes := map[string]func(context.Context, *store.Store, store.Ino) error{
		"put": func(_ context.Context, s *store.Store, _ store.Ino) error {
			return second(tryPut(s, "/d/f", []byte("new")))
		},
		"write": func(ctx context.Context, s *store.Store, ino store.Ino) error {
			h, err := s.Open(ctx, ino, true)
			if err != nil {
				return err
			}
			defer h.Close()
			return second(h.WriteAt(ctx, []byte("x"), 0))
		},
		"chmod":    set(store.SetAttr{Mode: &mode}),
		"truncate": set(store.SetAttr{Size: &size}),
		"setxattr": func(ctx context.Context, s *store.Store, ino store.Ino) error {
			return s.SetXattr(ctx, ino, "user.a", nil, 0)
		},
		"removexattr": func(ctx context.Context, s *store.Store, ino store.Ino) error {
			return s.RemoveXattr(ctx, ino, "user.x")
		},
		"patch": func(ctx context.Context, s *store.Store, ino store.Ino) error {
			return second(s.PatchXattrs(ctx, ino, map[string][]byte{"user.a": {}}, store.SetAttr{}, nil))
		},
		"unlink": func(ctx context.Context, s *store.Store, _ store.Ino) error {
			return s.Unlink(ctx, lookup(s, "/d").Ino, "f", nil)
		},
		"remove tree": func(ctx context.Context, s *store.Store, _ store.Ino) error {
			return s.RemoveAll(ctx, store.RootIno, "d", nil)
		},
		"rename":       rename("f", "n", store.RenameOptions{}),
		"rename over":  rename("other", "f", store.RenameOptions{}),
		"exchange":     rename("other", "f", store.RenameOptions{Exchange: true}),
		"replace tree": rename("other", "f", store.RenameOptions{ReplaceTree: true}),
		"copy over": func(ctx context.Context, s *store.Store, _ store.Ino) error {
			_, _, err := s.Clone(ctx, lookup(s, "/d/other").Ino, lookup(s, "/d").Ino, "f", store.CloneOptions{Replace: true})
			return err
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			mkdir(t, s, "/d")
			ino := put(t, s, "/d/f", []byte("locked")).Ino
			put(t, s, "/d/other", []byte("other"))
			if err := s.SetXattr(ctx, ino, "user.x", nil, 0); err != nil {
				t.Fatal(err)
			}
			mount := store.NewOrigin()
			l := recordLock(1, true, 3, 3)
			l.Origin = mount
			if err := s.FileLocks().Lock(ctx, ino, l, false); err != nil {
				t.Fatal(err)
			}
			before := lookup(s, "/d/f")
			wantErr(t, "under an exclusive lock", change(ctx, s, ino), store.ErrLocked)
			if got := get(t, s, "/d/f"); string(got) != "locked" || lookup(s, "/d/f") != before {
				t.Errorf("a refused change has changed the file: %q", got)
			}
			l.Exclusive = false
			if err := s.FileLocks().Lock(ctx, ino, l, false); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Clone(ctx, ino, store.RootIno, "copy", store.CloneOptions{}); err != nil {
				t.Errorf("a copy of a locked file: %v", err)
			}
			if err := change(ctx, s, ino); err != nil {
				t.Errorf("under a shared lock: %v", err)
			}
			storetest.Check(t, s)
		})
	}
}

func TestLocksAreAdvisoryAmongThoseWhoLock(t *testing.T) {
	s := storetest.New(t)
	a := put(t, s, "/f", []byte("x"))
	if err := s.FileLocks().Lock(ctx, a.Ino, fileLock(1, true), false); err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o600)
	if _, err := s.SetAttr(store.WithOrigin(ctx, store.NewOrigin()), a.Ino, store.SetAttr{Mode: &mode}); err != nil {
		t.Errorf("another adapter's change: %v", err)
	}
}

// TestExclusiveLockWaitsForChanges takes a lock while others put: none of their
// changes may come after it was granted.
func TestExclusiveLockWaitsForChanges(t *testing.T) {
	s := storetest.New(t)
	ino := put(t, s, "/f", []byte("0")).Ino
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := tryPut(s, "/f", []byte{byte(i)}); err != nil && !errors.Is(err, store.ErrLocked) {
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		if err := s.FileLocks().Lock(ctx, ino, fileLock(1, true), true); err != nil {
			t.Fatal(err)
		}
		before := lookup(s, "/f")
		time.Sleep(50 * time.Microsecond)
		if after := lookup(s, "/f"); after != before {
			t.Fatalf("changed under an exclusive lock: %+v, then %+v", before, after)
		}
		if err := s.FileLocks().Release(ino, 1, 1, true); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

package store_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// TestAdaptersChangesEndWebDAVLocks: what an adapter's client removes or renames
// loses its WebDAV locks, below it too; everything else keeps them.
func TestAdaptersChangesEndWebDAVLocks(t *testing.T) {
	dir := func(s *store.Store) store.Ino { return lookup(s, "/d").Ino }
	for _, c := range []struct {
		name   string
		change func(context.Context, *store.Store) error
		left   string
	}{
		{"Unlink", func(ctx context.Context, s *store.Store) error { return s.Unlink(ctx, dir(s), "f", nil) }, "/d /d/g /d/sub /d/sub/x"},
		{"Rename", func(ctx context.Context, s *store.Store) error {
			return second(s.Rename(ctx, dir(s), "f", dir(s), "n", store.RenameOptions{}))
		}, "/d /d/g /d/sub /d/sub/x"},
		{"RenameOver", func(ctx context.Context, s *store.Store) error {
			return second(s.Rename(ctx, dir(s), "f", dir(s), "g", store.RenameOptions{}))
		}, "/d /d/g /d/sub /d/sub/x"},
		{"RenameTree", func(ctx context.Context, s *store.Store) error {
			return second(s.Rename(ctx, dir(s), "sub", store.RootIno, "moved", store.RenameOptions{}))
		}, "/d /d/f /d/g"},
		{"RemoveAll", func(ctx context.Context, s *store.Store) error { return s.RemoveAll(ctx, store.RootIno, "d", nil) }, ""},
		{"RenameToTheSame", func(ctx context.Context, s *store.Store) error {
			return second(s.Rename(ctx, dir(s), "f", dir(s), "f", store.RenameOptions{}))
		}, "/d /d/f /d/g /d/sub /d/sub/x"},
		{"PutOverOpenFile", func(ctx context.Context, s *store.Store) error {
			h, err := s.Open(ctx, lookup(s, "/d/f").Ino, false)
			if err != nil {
				return err
			}
			defer h.Close()
			return second(tryPut(s, "/d/f", []byte("new")))
		}, "/d /d/f /d/g /d/sub /d/sub/x"},
		{"Refused", func(ctx context.Context, s *store.Store) error {
			if err := s.Rmdir(ctx, dir(s), "sub", nil); err == nil {
				t.Error("a directory with entries was removed")
			}
			return nil
		}, "/d /d/f /d/g /d/sub /d/sub/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := storetest.New(t)
			mkdir(t, s, "/d/sub")
			for _, p := range []string{"/d/f", "/d/g", "/d/sub/x"} {
				put(t, s, p, nil)
			}
			for _, p := range []string{"/d", "/d/f", "/d/g", "/d/sub", "/d/sub/x"} {
				if _, err := s.DAVLocks().Create(s.Now(), store.DAVLock{Path: p, Principal: "p"}); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.change(store.WithOrigin(ctx, store.NewOrigin()), s); err != nil {
				t.Fatal(err)
			}
			locks, err := s.DAVLocks().Within(s.Now(), "/")
			if err != nil {
				t.Fatal(err)
			}
			var left []string
			for _, l := range locks {
				left = append(left, l.Path)
			}
			slices.Sort(left)
			if got := strings.Join(left, " "); got != c.left {
				t.Errorf("locks left on %q, want %q", got, c.left)
			}
		})
	}
}

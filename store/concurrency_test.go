package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/storetest"
)

// TestConcurrentRenames moves directories into one another from many goroutines:
// whatever order they happen in, the result is one tree.
func TestConcurrentRenames(t *testing.T) {
	s := storetest.New(t)
	var dirs []store.Ino
	for i := range 6 {
		dirs = append(dirs, mkdir(t, s, fmt.Sprintf("/d%d", i)).Ino)
	}
	dirs = append(dirs, store.RootIno)
	deadline := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for time.Now().Before(deadline) {
				from, to := dirs[rng.IntN(len(dirs))], dirs[rng.IntN(len(dirs))]
				o := store.RenameOptions{Exchange: rng.IntN(4) == 0}
				_, err := s.Rename(ctx, from, fmt.Sprintf("d%d", rng.IntN(6)), to, fmt.Sprintf("d%d", rng.IntN(6)), o)
				for _, ok := range []error{fs.ErrNotExist, store.ErrSubtree, store.ErrNotEmpty, store.ErrStale} {
					if errors.Is(err, ok) {
						err = nil
					}
				}
				if err != nil {
					t.Errorf("rename: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestConcurrentCreatesInOneDirectory checks that create-if-absent has one winner.
func TestConcurrentCreatesInOneDirectory(t *testing.T) {
	s := storetest.New(t)
	const workers, names = 8, 200
	var won [names]int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range names {
				_, err := s.Create(ctx, store.RootIno, fmt.Sprintf("f%d", i), store.NewNode{})
				if err == nil {
					mu.Lock()
					won[i]++
					mu.Unlock()
				} else if !errors.Is(err, fs.ErrExist) {
					t.Errorf("create: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for i, n := range won {
		if n != 1 {
			t.Errorf("f%d was created %d times", i, n)
		}
	}
}

// TestConcurrentPutAndDelete overwrites and removes one name: a put never fails,
// and never loses its place to a file that is gone.
func TestConcurrentPutAndDelete(t *testing.T) {
	s := storetest.New(t)
	deadline := time.Now().Add(500 * time.Millisecond)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; time.Now().Before(deadline); i++ {
				if g == 0 {
					if err := unlink(s, "/f"); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("unlink: %v", err)
					}
					continue
				}
				if _, err := tryPut(s, "/f", pattern(i%40_000, byte(g))); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestReadDirInChunks(t *testing.T) {
	s := storetest.New(t)
	for i := range 2500 {
		if _, err := s.Create(ctx, store.RootIno, fmt.Sprintf("f%04d", i), store.NewNode{}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := s.ReadDirPlus(ctx, store.RootIno, "", func(name string, a *store.Attr) bool {
		if want := fmt.Sprintf("f%04d", n); name != want || !a.IsRegular() {
			t.Fatalf("entry %d is %q %+v, want %q", n, name, a, want)
		}
		n++
		return true
	}); err != nil || n != 2500 {
		t.Errorf("%d entries, %v", n, err)
	}
	var got []string
	if err := s.ReadDir(ctx, store.RootIno, "f0998", func(d store.Dirent) bool {
		got = append(got, d.Name)
		return len(got) < 2
	}); err != nil || fmt.Sprint(got) != "[f0999 f1000]" {
		t.Errorf("ReadDir from the middle = %v, %v", got, err)
	}
}

func TestEventsAndSlowSubscribers(t *testing.T) {
	s := storetest.New(t)
	events, cancel := s.Subscribe(10)
	put(t, s, "/f", []byte("x"))
	put(t, s, "/f", []byte("y"))
	if err := unlink(s, "/f"); err != nil {
		t.Fatal(err)
	}
	created, changed, removed := <-events, <-events, <-events
	if created.Name != "f" || created.Parent != store.RootIno || created.Removed || created.Ino == 0 {
		t.Errorf("created: %+v", created)
	}
	if !changed.Content || changed.Ino != created.Ino {
		t.Errorf("changed: %+v", changed)
	}
	if !removed.Removed || removed.Name != "f" || removed.Lost {
		t.Errorf("removed: %+v", removed)
	}
	for i := range 20 {
		put(t, s, fmt.Sprintf("/g%d", i), nil)
	}
	for range 10 {
		<-events
	}
	put(t, s, "/h", nil)
	if e := <-events; !e.Lost || e.Name != "h" {
		t.Errorf("after an overflow: %+v, want Lost", e)
	}
	cancel()
	cancel()
	if _, ok := <-events; ok {
		t.Error("the channel is open after cancel")
	}
}

func TestCondRefuses(t *testing.T) {
	s := storetest.New(t)
	a := put(t, s, "/f", []byte("x"))
	refuse := func(cur *store.Attr) error {
		if cur == nil || cur.Ino != a.Ino {
			t.Errorf("Cond got %+v", cur)
		}
		return store.ErrPrecondition
	}
	wantErr(t, "unlink", s.Unlink(ctx, store.RootIno, "f", refuse), store.ErrPrecondition)
	_, err := s.Rename(ctx, store.RootIno, "f", store.RootIno, "g", store.RenameOptions{Source: refuse})
	wantErr(t, "rename", err, store.ErrPrecondition)
	_, _, err = s.Clone(ctx, a.Ino, store.RootIno, "g", store.CloneOptions{Source: refuse})
	wantErr(t, "clone", err, store.ErrPrecondition)
	u, err := s.NewUpload(ctx, store.RootIno, "f", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = u.Commit(ctx, store.CommitOptions{Cond: refuse})
	wantErr(t, "commit", err, store.ErrPrecondition)
	if got := get(t, s, "/f"); string(got) != "x" || exists(s, "/g") {
		t.Errorf("content %q", got)
	}
}

// TestConcurrentCopyAndMove copies a file over the name that a move brings it to:
// the file must never be replaced by itself.
func TestConcurrentCopyAndMove(t *testing.T) {
	s := storetest.New(t)
	data := pattern(20_000, 1)
	for i := range 300 {
		a := put(t, s, "/a", data)
		put(t, s, "/t", []byte("in the way"))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _, err := s.Clone(ctx, a.Ino, store.RootIno, "t", store.CloneOptions{Replace: true})
			if err != nil && !errors.Is(err, store.ErrSubtree) {
				t.Errorf("copy: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := s.Rename(ctx, store.RootIno, "a", store.RootIno, "t", store.RenameOptions{}); err != nil {
				t.Errorf("move: %v", err)
			}
		})
		wg.Wait()
		if got, err := tryGet(ctx, s, "/t"); err != nil || len(got) != len(data) {
			t.Fatalf("round %d: %d bytes, %v", i, len(got), err)
		}
	}
}

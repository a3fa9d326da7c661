package torture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"engramfs/store"
)

// scenario is a few operations on a store that has setup's files.
type scenario struct {
	name  string
	setup func(r *run) error
	steps []step
	// blend says that content is written without a sync: a power cut may leave
	// any mixture of what it was.
	blend bool
}

// step is one operation.
type step struct {
	do func(r *run) error
	// durable says that the operation and all before it must survive a power cut
	// once it has returned: WebDAV has answered, or fsync(2) has returned.
	durable bool
}

// run is a store with a scenario on it.
type run struct {
	s *store.Store
	h map[string]*store.Handle
	l store.DAVLock
}

func newRun(s *store.Store) *run { return &run{s: s, h: map[string]*store.Handle{}} }

// close closes the handles that are open. After a fault they may say so once more.
func (r *run) close() error {
	var errs []error
	for _, h := range r.h {
		errs = append(errs, h.Close())
	}
	clear(r.h)
	return errors.Join(errs...)
}

// acked returns a step that WebDAV acknowledges: it is synced before it returns.
func acked(do func(r *run) error) step {
	return step{durable: true, do: func(r *run) error {
		if err := do(r); err != nil {
			return err
		}
		return r.s.Sync(ctx)
	}}
}

// quiet returns a step as a mount makes it, which nobody syncs.
func quiet(do func(r *run) error) step { return step{do: do} }

func put(path string, n int, seed byte) func(*run) error {
	return func(r *run) error { return Write(ctx, r.s, path, pattern(n, seed)) }
}

func mkdir(path string) func(*run) error {
	return func(r *run) error {
		_, err := r.s.EnsureDirectory(ctx, path, store.NewNode{Mode: store.ModeDir | 0o755})
		return err
	}
}

// named calls fn with the parent and the name of a path.
func named(path string, fn func(r *run, dir store.Ino, name string) error) func(*run) error {
	return func(r *run) error {
		dir, name, err := r.s.LookupParent(ctx, path)
		if err != nil {
			return err
		}
		return fn(r, dir, name)
	}
}

func move(from, to string) func(*run) error {
	return named(from, func(r *run, dir store.Ino, name string) error {
		return named(to, func(r *run, toDir store.Ino, toName string) error {
			_, err := r.s.Rename(ctx, dir, name, toDir, toName, store.RenameOptions{ReplaceTree: true})
			return err
		})(r)
	})
}

func clone(from, to string) func(*run) error {
	return named(to, func(r *run, dir store.Ino, name string) error {
		a, err := r.s.LookupPath(ctx, from)
		if err != nil {
			return err
		}
		_, _, err = r.s.Clone(ctx, a.Ino, dir, name, store.CloneOptions{Replace: true})
		return err
	})
}

func remove(path string) func(*run) error {
	return named(path, func(r *run, dir store.Ino, name string) error {
		return r.s.RemoveAll(ctx, dir, name, nil)
	})
}

func link(path, to string) func(*run) error {
	return named(to, func(r *run, dir store.Ino, name string) error {
		a, err := r.s.LookupPath(ctx, path)
		if err != nil {
			return err
		}
		_, err = r.s.Link(ctx, a.Ino, dir, name)
		return err
	})
}

func prop(path string, set map[string][]byte) func(*run) error {
	return func(r *run) error {
		a, err := r.s.LookupPath(ctx, path)
		if err != nil {
			return err
		}
		_, err = r.s.PatchXattrs(ctx, a.Ino, set, store.SetAttr{}, nil)
		return err
	}
}

// lockExpiry is far enough away that no lock of a scenario ends by itself.
const lockExpiry = time.Hour

func lock(r *run) (err error) {
	r.l, err = r.s.DAVLocks().Create(time.Now(), store.DAVLock{Path: "/f", Owner: "me", Timeout: lockExpiry})
	return err
}

func refresh(r *run) error {
	_, err := r.s.DAVLocks().Refresh(time.Now(), r.l.Token, lockExpiry+time.Minute)
	return err
}

func unlock(r *run) error { return r.s.DAVLocks().Unlock(time.Now(), r.l.Token) }

func open(path string) func(*run) error {
	return func(r *run) error {
		a, err := r.s.LookupPath(ctx, path)
		if err != nil {
			return err
		}
		r.h[path], err = r.s.Open(ctx, a.Ino, true)
		if err != nil {
			delete(r.h, path)
		}
		return err
	}
}

func create(path string) func(*run) error {
	return named(path, func(r *run, dir store.Ino, name string) error {
		if _, err := r.s.Create(ctx, dir, name, store.NewNode{Mode: store.ModeRegular | 0o600}); err != nil {
			return err
		}
		return open(path)(r)
	})
}

// onHandle returns a step's function on the handle that open has opened at path.
func onHandle(path string, fn func(h *store.Handle) error) func(*run) error {
	return func(r *run) error {
		h := r.h[path]
		if h == nil {
			return fmt.Errorf("%s was not opened", path)
		}
		return fn(h)
	}
}

func write(path string, off int64, n int, seed byte) func(*run) error {
	return onHandle(path, func(h *store.Handle) error {
		_, err := h.WriteAt(ctx, pattern(n, seed), off)
		return err
	})
}

func truncate(path string, size int64) func(*run) error {
	return onHandle(path, func(h *store.Handle) error { return h.Truncate(ctx, size) })
}

// fsync returns a step that makes durable what a handle has written.
func fsync(path string) step {
	return step{durable: true, do: onHandle(path, func(h *store.Handle) error { return h.Sync(ctx) })}
}

func closed(path string) func(*run) error {
	return func(r *run) error {
		h := r.h[path]
		if h == nil {
			return nil
		}
		delete(r.h, path)
		return h.Close()
	}
}

// seal gives what was written in place its checksums. It changes nothing that a
// client sees.
func seal(r *run) error {
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return r.s.Quiesce(limited)
}

// then runs functions one after the other.
func then(fns ...func(*run) error) func(*run) error {
	return func(r *run) error {
		for _, fn := range fns {
			if err := fn(r); err != nil {
				return err
			}
		}
		return nil
	}
}

const small, large = 3000, 100_000 // bytes: in the engine, and in a blob

var tree = then(mkdir("/t/a/b"), put("/t/x", small, 1), put("/t/a/y", large, 2), put("/t/a/b/z", small, 3))

var scenarios = []scenario{
	{name: "put small", steps: []step{acked(put("/f", small, 1)), acked(put("/g", 0, 2))}},
	{name: "put large", steps: []step{acked(put("/f", large, 1)), acked(put("/g", large, 2))}},
	{name: "overwrite", setup: then(put("/f", small, 1), put("/g", large, 2)), steps: []step{
		acked(put("/f", large, 3)), acked(put("/f", small, 4)), acked(put("/g", large, 5)), acked(put("/g", small, 6))}},
	{name: "move over", setup: then(put("/f", large, 1), put("/g", large, 2), put("/h", small, 3), mkdir("/d")), steps: []step{
		acked(move("/f", "/g")), acked(move("/g", "/d/g")), acked(move("/h", "/d/g")), acked(move("/d", "/e"))}},
	{name: "move tree over", setup: then(tree, mkdir("/u/v"), put("/u/v/w", large, 4)), steps: []step{
		acked(move("/t", "/u")), acked(move("/u/a/b", "/b"))}},
	{name: "copy", setup: then(put("/f", large, 1), put("/g", small, 2)), steps: []step{
		acked(clone("/f", "/c")), acked(clone("/g", "/c")), acked(remove("/f")), acked(clone("/g", "/f"))}},
	{name: "copy tree", setup: tree, steps: []step{acked(clone("/t", "/u")), acked(remove("/t")), acked(clone("/u/a", "/u/x"))}},
	{name: "delete", setup: then(put("/f", large, 1), put("/g", small, 2)), steps: []step{acked(remove("/f")), acked(remove("/g")), acked(put("/f", small, 3))}},
	{name: "delete tree", setup: tree, steps: []step{acked(remove("/t/a")), acked(remove("/t"))}},
	{name: "mkdir tree", steps: []step{quiet(mkdir("/a")), acked(mkdir("/a/b")), quiet(mkdir("/a/b/c")), acked(put("/a/b/c/d", small, 1))}},
	{name: "prop patch", setup: put("/f", small, 1), steps: []step{
		acked(prop("/f", map[string][]byte{"user.a": []byte("1"), "user.b": pattern(2000, 5)})),
		acked(prop("/f", map[string][]byte{"user.a": nil, "user.b": []byte("2")}))}},
	{name: "lock", setup: put("/f", small, 1), steps: []step{acked(lock), acked(refresh), acked(put("/f", large, 2)), acked(unlock)}},
	{name: "link", setup: put("/f", large, 1), steps: []step{quiet(link("/f", "/g")), quiet(remove("/f")), acked(put("/g", small, 2)), acked(link("/g", "/h"))}},
	{name: "write and fsync", setup: put("/f", small, 1), blend: true, steps: []step{
		quiet(open("/f")), quiet(write("/f", 1000, small, 2)), fsync("/f"), quiet(write("/f", 2000, large, 3)), quiet(write("/f", 500, small, 4)), fsync("/f"),
		quiet(truncate("/f", 7000)), quiet(write("/f", 50_000, small, 5)), fsync("/f"), quiet(closed("/f"))}},
	{name: "write sealed", setup: put("/f", large, 1), blend: true, steps: []step{
		quiet(open("/f")), quiet(write("/f", 70_000, 20_000, 2)), quiet(write("/f", 0, 5000, 3)), fsync("/f"), quiet(closed("/f"))}},
	{name: "write shared", setup: then(put("/f", large, 1), clone("/f", "/g")), blend: true, steps: []step{
		quiet(open("/g")), quiet(write("/g", 70_000, 20_000, 2)), fsync("/g"), quiet(closed("/g")), acked(remove("/f"))}},
	{name: "seal", setup: put("/f", small, 1), blend: true, steps: []step{
		quiet(open("/f")), quiet(write("/f", 0, large, 2)), quiet(closed("/f")), quiet(seal), acked(clone("/f", "/g"))}},
	{name: "put over open file", setup: then(put("/f", large, 1), link("/f", "/g")), blend: true, steps: []step{
		quiet(open("/f")), acked(put("/f", large, 2)), quiet(write("/f", 0, small, 3)), fsync("/f"), quiet(closed("/f"))}},
	{name: "save by rename", setup: put("/f", large, 1), blend: true, steps: []step{
		quiet(create("/f.tmp")), quiet(write("/f.tmp", 0, large, 2)), fsync("/f.tmp"), quiet(move("/f.tmp", "/f")), fsync("/f.tmp"), quiet(closed("/f.tmp"))}},
}

package store

import (
	"errors"
	"fmt"

	"github.com/maypok86/otter/v2"

	"engramfs/store/meta"
)

// direntCache remembers what names mean, and which names mean nothing, so that
// a lookup costs no engine read. It is disposable: the engine is the truth.
//
// It is coherent because it is filled under the parent's read lock and changed
// under its write lock. Of a poisoned parent it may be out of date, and is not asked.
type direntCache struct {
	c *otter.Cache[direntName, dirent]
}

type direntName struct {
	parent Ino
	name   string
}

func newDirentCache(limit int) *direntCache {
	return &direntCache{c: otter.Must(&otter.Options[direntName, dirent]{MaximumSize: limit})}
}

// get returns the dirent, whose ino is 0 if it is known that there is none; ok
// is false if nothing is known.
func (dc *direntCache) get(parent Ino, name string) (d dirent, ok bool) {
	return dc.c.GetIfPresent(direntName{parent, name})
}

func (dc *direntCache) set(parent Ino, name string, d dirent) {
	dc.c.Set(direntName{parent, name}, d)
}

func (dc *direntCache) clear() { dc.c.InvalidateAll() }

// lookupEntry returns what name means in parent. With cached, the caller holds
// the lock of a parent that is not poisoned; otherwise the engine is asked.
func (s *Store) lookupEntry(parent Ino, name string, cached bool) (d dirent, ok bool, err error) {
	if cached {
		if d, ok := s.dirents.get(parent, name); ok {
			return d, d.ino != 0, nil
		}
	}
	b, err := s.engine.Get(direntKey(parent, name))
	switch {
	case err == nil:
		if d, err = decodeDirent(b); err != nil {
			return dirent{}, false, fmt.Errorf("entry %q of directory %d: %w", name, parent, err)
		}
	case !errors.Is(err, meta.ErrNotFound):
		return dirent{}, false, fmt.Errorf("look up %q in directory %d: %w", name, parent, err)
	}
	if cached {
		s.dirents.set(parent, name, d)
	}
	return d, d.ino != 0, nil
}

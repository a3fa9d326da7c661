package store

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Damage is a place in a file's content that cannot be served.
type Damage struct {
	Ino     Ino       `json:"ino"`
	Path    string    `json:"path,omitempty"` // as a user names it
	Version uint64    `json:"version"`        // of the content
	Offset  int64     `json:"offset"`         // of the first bad block, in bytes
	At      time.Time `json:"at"`             // when it was first met
	Err     string    `json:"error"`
}

// damageKey tells places apart.
type damageKey struct {
	ino    Ino
	offset int64
}

// damages remembers where content was found damaged, at most maxDamages places.
// It is a list for people: what is damaged is found again by reading it.
type damages struct {
	noted atomic.Uint64 // places ever added

	// mu protects the field below.
	mu  sync.Mutex
	all map[damageKey]Damage
}

const maxDamages = 1000

// note adds a place unless it is known for this version of the content.
func (d *damages) note(n Damage) {
	key := damageKey{n.Ino, n.Offset}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, ok := d.all[key]; ok && old.Version == n.Version || !ok && len(d.all) >= maxDamages {
		return
	}
	if d.all == nil {
		d.all = make(map[damageKey]Damage)
	}
	d.all[key] = n
	d.noted.Add(1)
}

// Damaged returns the places where content was found damaged since the start,
// by inode and offset, at most 1,000. Content that was replaced or removed since
// is left out.
func (s *Store) Damaged() []Damage {
	d := &s.damages
	d.mu.Lock()
	list := make([]Damage, 0, len(d.all))
	for _, n := range d.all {
		list = append(list, n)
	}
	d.mu.Unlock()
	list = slices.DeleteFunc(list, func(n Damage) bool {
		v, err := readInode(s.engine, n.Ino)
		gone := err == nil && v.Version != n.Version || errors.Is(err, ErrStale)
		if gone {
			d.forget(n)
		}
		return gone
	})
	slices.SortFunc(list, func(a, b Damage) int {
		return cmp.Or(cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Offset, b.Offset))
	})
	for i := range list {
		list[i].Path, _ = s.pathOf(list[i].Ino)
	}
	return list
}

// forget takes a place off the list if it is still the one that was looked at.
func (d *damages) forget(n Damage) {
	key := damageKey{n.Ino, n.Offset}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all[key].Version == n.Version {
		delete(d.all, key)
	}
}

package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// Damage is a place in a file's content that cannot be served.
type Damage struct {
	Ino     Ino          `json:"ino"`
	Path    string       `json:"path,omitempty"` // as a user names it
	Version uint64       `json:"version"`        // of the content
	Kind    DamageKind   `json:"kind"`
	Offset  int64        `json:"offset"` // of the first bad byte, as far as that is known: checksums are of blocks
	Length  int64        `json:"length"` // of the place, in bytes
	Source  DamageSource `json:"source"`
	At      time.Time    `json:"at"` // when it was first met
	Err     string       `json:"error"`

	blob blob.ID // that has it; zero: the content is none
}

// DamageKind says what is damaged.
type DamageKind string

// The kinds of damage.
const (
	DamagedContent DamageKind = "content" // bytes that fail their checksum or cannot be read; the default
	DamagedMissing DamageKind = "missing" // all of the content
	DamagedRecord  DamageKind = "record"  // the inode itself
)

// DamageSource says how damage was met.
type DamageSource string

// The sources of damage.
const (
	DamageByRead  DamageSource = "read" // somebody wanted the content; the default
	DamageByScrub DamageSource = "scrub"
)

func (d *Damage) end() int64 { return d.Offset + d.Length }

// damages remembers what was found damaged, in memory and in the engine, where a
// restart finds it again.
type damages struct {
	s *Store // immutable

	noted [2]atomic.Uint64 // places ever added since the start: by reads, by scrubs
	files atomic.Int64     // len(all): nearly always 0

	// save is held while a file's places change in memory and in the engine, so
	// that both have the last change. It is taken before mu.
	save sync.Mutex
	// ready: the engine has all that is in memory, and takes changes. Guarded by save.
	ready bool

	// mu protects the field below.
	mu  sync.Mutex
	all map[Ino][]Damage // by offset, never overlapping; a slice is never changed in place
}

const (
	maxDamagedFiles = 10_000
	// maxPlaces of one file. What comes after is added to the last one, with what is between.
	maxPlaces = 64
)

// damageRecord is a Damage in the engine.
type damageRecord struct {
	Damage
	Blob string `json:"blob,omitempty"`
}

// loadDamages reads what earlier runs have found.
func (s *Store) loadDamages() error {
	d := &s.damages
	d.s, d.all = s, make(map[Ino][]Damage)
	err := s.engine.Scan([]byte{keyDamage}, []byte{keyDamage + 1}, func(key, value []byte) bool {
		var records []damageRecord
		if err := json.Unmarshal(value, &records); err != nil {
			s.log.Error("record of damage cannot be read: a scrub finds it again", "ino", inoOfKey(key), "err", err)
			return true
		}
		list := make([]Damage, len(records))
		for i, r := range records {
			list[i] = r.Damage
			list[i].blob, _ = blob.ParseID(r.Blob) // none: zero
		}
		d.all[inoOfKey(key)] = list
		return true
	})
	d.files.Store(int64(len(d.all)))
	if err != nil {
		return fmt.Errorf("load the damage: %w", err)
	}
	return nil
}

// start puts into the engine what was found while the store was opened.
func (d *damages) start() {
	d.save.Lock()
	defer d.save.Unlock()
	d.ready = true
	d.mu.Lock()
	inos := make([]Ino, 0, len(d.all))
	for ino := range d.all {
		inos = append(inos, ino)
	}
	d.mu.Unlock()
	for _, ino := range inos {
		if list := d.of(ino); len(list) > 0 && !d.s.hasRecord(inoKey(keyDamage, ino)) {
			d.write(ino, list)
			d.tell(list[0])
		}
	}
}

func (s *Store) hasRecord(key []byte) bool {
	_, err := s.engine.Get(key)
	return err == nil
}

// note adds a place unless it is known. It may be called with an inode locked.
func (d *damages) note(n Damage) {
	n.Kind, n.Source = cmp.Or(n.Kind, DamagedContent), cmp.Or(n.Source, DamageByRead)
	n.At = n.At.UTC()
	d.save.Lock()
	defer d.save.Unlock()
	list := d.of(n.Ino)
	if d.ready { // else the inode is being brought up to date
		if !d.fill(&n) {
			return
		}
		list = slices.DeleteFunc(slices.Clone(list), func(old Damage) bool { return old.blob != n.blob })
	}
	n.Length = max(n.Length, 1)
	if slices.ContainsFunc(list, func(old Damage) bool { return old.Kind == n.Kind && old.Offset <= n.Offset && n.end() <= old.end() }) {
		return
	}
	known := len(list) > 0
	if !known && d.files.Load() >= maxDamagedFiles {
		d.s.log.Error("more damaged files than are remembered", "ino", n.Ino, "limit", maxDamagedFiles)
		return
	}
	d.noted[sourceIndex(n.Source)].Add(1)
	d.set(n.Ino, addPlace(list, n))
	if d.ready && !known {
		d.tell(n)
	}
}

func sourceIndex(s DamageSource) int {
	if s == DamageByScrub {
		return 1
	}
	return 0
}

// fill completes n, and reports whether the inode still has what it is about.
func (d *damages) fill(n *Damage) bool {
	v, err := readInode(d.s.engine, n.Ino)
	if n.Kind == DamagedRecord {
		return errors.Is(err, ErrDamaged)
	}
	if err != nil {
		return !errors.Is(err, ErrStale)
	}
	if n.Length == 0 {
		n.Length = min(blockSize, v.Size-n.Offset)
	}
	return !n.gone(&v)
}

// gone reports whether v, the inode, does not have the place any more.
func (d *Damage) gone(v *inode) bool {
	switch {
	case d.Kind == DamagedRecord:
		return true // it can be read
	case d.blob.IsZero():
		return v.content.kind == contentBlob || v.Version != d.Version
	}
	return v.content.blob != d.blob || d.Offset >= v.Size
}

// addPlace returns list with n, by offset. Places that touch become one.
func addPlace(list []Damage, n Damage) []Damage {
	var out []Damage
	for _, old := range list {
		if old.Kind == n.Kind && old.Offset <= n.end() && n.Offset <= old.end() {
			end := max(old.end(), n.end())
			if old.At.Before(n.At) {
				n.At, n.Version, n.Err, n.Source = old.At, old.Version, old.Err, old.Source
			}
			n.Offset = min(old.Offset, n.Offset)
			n.Length = end - n.Offset
			continue
		}
		out = append(out, old)
	}
	out = append(out, n)
	slices.SortStableFunc(out, func(a, b Damage) int { return cmp.Compare(a.Offset, b.Offset) })
	if len(out) > maxPlaces {
		last := &out[maxPlaces-1]
		for _, more := range out[maxPlaces:] {
			last.Length = max(last.end(), more.end()) - last.Offset
		}
		out = out[:maxPlaces]
	}
	return out
}

// of returns the places of a file, which the caller does not change.
func (d *damages) of(ino Ino) []Damage {
	if d.files.Load() == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all[ino]
}

// set replaces the places of a file. The caller holds save.
func (d *damages) set(ino Ino, list []Damage) {
	d.mu.Lock()
	if len(list) > 0 {
		d.all[ino] = list
	} else {
		delete(d.all, ino)
	}
	d.files.Store(int64(len(d.all)))
	d.mu.Unlock()
	if d.ready {
		d.write(ino, list)
	}
}

// write puts the places of a file into the engine, which has them durably a moment later.
func (d *damages) write(ino Ino, list []Damage) {
	records := make([]damageRecord, len(list))
	for i, n := range list {
		records[i] = damageRecord{Damage: n}
		if !n.blob.IsZero() {
			records[i].Blob = n.blob.String()
		}
	}
	b, err := json.Marshal(records)
	if err == nil {
		err = d.s.engine.Update(func(tx meta.Txn) error {
			if len(list) == 0 {
				tx.Delete(inoKey(keyDamage, ino))
			} else {
				tx.Put(inoKey(keyDamage, ino), b)
			}
			return nil
		})
	}
	if err != nil {
		d.s.log.Error("damage not kept", "ino", ino, "err", err)
		return
	}
	d.s.flusher.mark()
}

// tell leaves an event for a file that was sound so far. The caller holds save.
func (d *damages) tell(n Damage) {
	n.Path, _ = d.s.pathOf(n.Ino)
	d.s.log.Error("file is damaged", "ino", n.Ino, "path", n.Path, "kind", n.Kind, "offset", n.Offset, "length", n.Length, "source", n.Source, "err", n.Err)
	d.s.history.add(HistoryEntry{Kind: "damaged", Path: n.Path, At: n.At, Damage: &n})
}

// damagedAt reports whether one of n bytes from off on is known to be damaged in
// the content that the inode has now. It costs next to nothing while nothing is
// damaged, and takes no lock of an inode.
func (s *Store) damagedAt(ino Ino, off, n int64) bool {
	hit := func(d Damage) bool { return d.Kind != DamagedRecord && d.Offset < off+n && off < d.end() }
	if !slices.ContainsFunc(s.damages.of(ino), hit) {
		return false
	}
	return slices.ContainsFunc(s.damages.look(ino), hit)
}

// overwritten takes n bytes from off on off the list: they were written anew.
// Blocks that were written in part stay. Who cuts a file gives all behind its end.
func (d *damages) overwritten(ino Ino, off, n int64) {
	if len(d.of(ino)) == 0 {
		return
	}
	d.save.Lock()
	defer d.save.Unlock()
	var left []Damage
	for _, p := range d.of(ino) {
		from, to := max((off+blockSize-1)/blockSize*blockSize, p.Offset), min((off+n)/blockSize*blockSize, p.end())
		if off+n >= p.end() {
			to = p.end()
		}
		if p.Kind != DamagedContent || from >= to {
			left = append(left, p)
			continue
		}
		before, after := p, p
		before.Length = from - p.Offset
		after.Offset, after.Length = to, p.end()-to
		for _, rest := range []Damage{before, after} {
			if rest.Length > 0 {
				left = append(left, rest)
			}
		}
	}
	d.set(ino, left)
}

// sound takes a file off the list whose content was read and found right, if
// that is the version that the damage was found in.
func (d *damages) sound(v *inode) {
	if len(d.of(v.Ino)) == 0 {
		return
	}
	d.save.Lock()
	defer d.save.Unlock()
	left := slices.DeleteFunc(slices.Clone(d.of(v.Ino)), func(p Damage) bool {
		return p.Kind == DamagedRecord || p.Version <= v.Version && p.blob == v.content.blob
	})
	d.set(v.Ino, left)
}

// look returns the places that a file still has, and forgets the others.
func (d *damages) look(ino Ino) []Damage {
	if len(d.of(ino)) == 0 {
		return nil
	}
	d.save.Lock()
	defer d.save.Unlock()
	list := d.of(ino)
	v, err := readInode(d.s.engine, ino)
	left := slices.DeleteFunc(slices.Clone(list), func(p Damage) bool {
		return errors.Is(err, ErrStale) || err == nil && p.gone(&v)
	})
	if len(left) < len(list) {
		d.set(ino, left)
	}
	return left
}

// Damaged returns what was found damaged, by inode and offset. A restart does not
// forget it. Content that was replaced or removed since is left out.
func (s *Store) Damaged() []Damage {
	d := &s.damages
	if d.files.Load() == 0 {
		return nil
	}
	d.mu.Lock()
	inos := make([]Ino, 0, len(d.all))
	for ino := range d.all {
		inos = append(inos, ino)
	}
	d.mu.Unlock()
	slices.Sort(inos)
	var list []Damage
	for _, ino := range inos {
		places := d.look(ino)
		path, _ := s.pathOf(ino)
		for _, p := range places {
			p.Path = path
			list = append(list, p)
		}
	}
	return list
}

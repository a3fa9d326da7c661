package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"engramfs/store"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// viewEntry is a name in a directory.
type viewEntry struct {
	parent store.Ino
	name   string
}

// view is what a kernel may cache of the tree. It forgets exactly what events
// name, so it is stale if they name too little.
type view struct {
	mu      sync.Mutex
	entries map[viewEntry]store.Ino // 0: a name that means nothing
	attrs   map[store.Ino]store.Attr
	events  []store.Event
}

func (v *view) Changed(e store.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.entries, viewEntry{e.Parent, e.Name})
	delete(v.attrs, e.Parent)
	delete(v.attrs, e.Ino)
	v.events = append(v.events, e)
}

func (v *view) Settle(context.Context) {}

// eventMachine changes a small tree in every way there is.
type eventMachine struct {
	s    *store.Store
	view *view
	inos map[store.Ino]bool // every inode there ever was
	open []*store.Handle
	pins []*store.Pin
	dirs []store.Ino
}

var eventNames = []string{"a", "b", "c", "d"}

func (m *eventMachine) dir(t *rapid.T) store.Ino { return rapid.SampledFrom(m.dirs).Draw(t, "dir") }
func (m *eventMachine) name(t *rapid.T) string   { return rapid.SampledFrom(eventNames).Draw(t, "name") }
func (m *eventMachine) any(t *rapid.T) store.Ino {
	return rapid.SampledFrom(slices.Sorted(maps.Keys(m.inos))).Draw(t, "ino")
}

// learn remembers an inode that has appeared.
func (m *eventMachine) learn(a store.Attr) {
	if a.Ino == 0 || m.inos[a.Ino] {
		return
	}
	m.inos[a.Ino] = true
	if a.IsDir() {
		m.dirs = append(m.dirs, a.Ino)
	}
}

func (m *eventMachine) create(t *rapid.T) {
	mode := rapid.SampledFrom([]uint32{store.ModeRegular | 0o644, store.ModeDir | 0o755, store.ModeDir | 0o2755, store.ModeSymlink | 0o777}).Draw(t, "mode")
	a, err := m.s.Create(ctx, m.dir(t), m.name(t), store.NewNode{Mode: mode, Target: "x"})
	if err == nil {
		m.learn(a)
	}
}

func (m *eventMachine) put(t *rapid.T) {
	u, err := m.s.NewUpload(ctx, m.dir(t), m.name(t), -1)
	if err != nil {
		return
	}
	defer u.Abort()
	if _, err := u.Write(make([]byte, rapid.SampledFrom([]int{0, 9, 20_000}).Draw(t, "size"))); err != nil {
		t.Fatal(err)
	}
	if a, _, err := u.Commit(ctx, store.CommitOptions{}); err == nil {
		m.learn(a)
	}
}

func (m *eventMachine) link(t *rapid.T) { _, _ = m.s.Link(ctx, m.any(t), m.dir(t), m.name(t)) }

func (m *eventMachine) remove(t *rapid.T) {
	dir, name := m.dir(t), m.name(t)
	switch rapid.IntRange(0, 2).Draw(t, "how") {
	case 0:
		_ = m.s.Unlink(ctx, dir, name, nil)
	case 1:
		_ = m.s.Rmdir(ctx, dir, name, nil)
	case 2:
		_ = m.s.RemoveAll(ctx, dir, name, nil)
	}
}

func (m *eventMachine) rename(t *rapid.T) {
	o := rapid.SampledFrom([]store.RenameOptions{{}, {}, {ReplaceTree: true}, {Exchange: true}, {NoReplace: true}}).Draw(t, "options")
	_, _ = m.s.Rename(ctx, m.dir(t), m.name(t), m.dir(t), m.name(t), o)
}

func (m *eventMachine) clone(t *rapid.T) {
	a, _, err := m.s.Clone(ctx, m.any(t), m.dir(t), m.name(t), store.CloneOptions{Replace: rapid.Bool().Draw(t, "replace")})
	if err == nil {
		m.learn(a)
	}
}

func (m *eventMachine) setAttr(t *rapid.T) {
	mode, size := uint32(0o600), rapid.SampledFrom([]int64{0, 5, 30_000}).Draw(t, "size")
	a := rapid.SampledFrom([]store.SetAttr{{Mode: &mode}, {Size: &size}, {MtimeNow: true}, {Size: &size, Mode: &mode}, {KillPriv: true}, {}}).Draw(t, "set")
	_, _ = m.s.SetAttr(ctx, m.any(t), a)
}

func (m *eventMachine) xattr(t *rapid.T) {
	ino := m.any(t)
	switch rapid.IntRange(0, 2).Draw(t, "how") {
	case 0:
		_ = m.s.SetXattr(ctx, ino, "user.x", []byte("v"), 0)
	case 1:
		_ = m.s.RemoveXattr(ctx, ino, "user.x")
	case 2:
		_, _ = m.s.PatchXattrs(ctx, ino, map[string][]byte{"user.x": nil, "user.y": {}}, store.SetAttr{}, nil)
	}
}

func (m *eventMachine) handles(t *rapid.T) {
	if len(m.open) > 4 || len(m.open) > 0 && rapid.Bool().Draw(t, "close") {
		i := rapid.IntRange(0, len(m.open)-1).Draw(t, "handle")
		_ = m.open[i].Close()
		m.open = slices.Delete(m.open, i, i+1)
		return
	}
	var h *store.Handle
	var err error
	if rapid.Bool().Draw(t, "tmpfile") {
		var a store.Attr
		a, h, err = m.s.Tmpfile(ctx, m.dir(t), store.NewNode{})
		m.learn(a)
	} else {
		h, err = m.s.Open(ctx, m.any(t), true)
	}
	if err == nil {
		m.open = append(m.open, h)
	}
}

func (m *eventMachine) write(t *rapid.T) {
	if len(m.open) == 0 {
		return
	}
	h := rapid.SampledFrom(m.open).Draw(t, "handle")
	if _, err := h.WriteAt(ctx, []byte("data"), rapid.SampledFrom([]int64{0, 20_000}).Draw(t, "off")); err != nil {
		t.Fatal(err)
	}
}

func (m *eventMachine) pin(t *rapid.T) {
	if len(m.pins) > 4 || len(m.pins) > 0 && rapid.Bool().Draw(t, "close") {
		i := rapid.IntRange(0, len(m.pins)-1).Draw(t, "pin")
		if err := m.pins[i].Close(); err != nil {
			t.Fatal(err)
		}
		m.pins = slices.Delete(m.pins, i, i+1)
		return
	}
	if p, err := m.s.Pin(ctx, m.any(t)); err == nil {
		m.pins = append(m.pins, p)
	}
}

// check compares what the view still has with the store, and lets it look at
// everything again.
func (m *eventMachine) check(t *rapid.T) {
	if rapid.Bool().Draw(t, "quiesce") {
		if err := m.s.Quiesce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, ino := range slices.Clone(m.dirs) { // copies of trees bring inodes that nobody has told of
		_ = m.s.ReadDirPlus(ctx, ino, "", func(_ string, a *store.Attr) bool { m.learn(*a); return true })
	}
	// The collector may be at work: what is read while the view is locked is at
	// most newer than the event that is about to tell of it, so look twice.
	for range 100 {
		stale := m.stale()
		if stale == "" {
			return
		}
		if err := m.s.Quiesce(ctx); err != nil {
			t.Fatal(err)
		}
		if m.stale() == stale {
			t.Fatalf("%s\nevents: %+v", stale, m.view.events)
		}
	}
	t.Fatal("the view does not settle")
}

func (m *eventMachine) stale() string {
	v := m.view
	v.mu.Lock()
	had := view{entries: maps.Clone(v.entries), attrs: maps.Clone(v.attrs)}
	v.mu.Unlock()
	for ino := range m.inos {
		a, err := m.s.GetAttr(ctx, ino)
		if err != nil {
			a = store.Attr{} // gone: its attributes are nobody's business any more
		} else if old, ok := had.attrs[ino]; ok && old != a {
			return fmt.Sprintf("inode %d: the view has %+v, it is %+v", ino, old, a)
		}
		if err == nil {
			v.mu.Lock()
			v.attrs[ino] = a
			v.mu.Unlock()
		}
		if !a.IsDir() {
			continue
		}
		for _, name := range eventNames {
			e, err := m.s.Lookup(ctx, ino, name)
			if err != nil {
				e.Ino = 0
			}
			if old, ok := had.entries[viewEntry{ino, name}]; ok && old != e.Ino {
				return fmt.Sprintf("entry %s of %d: the view has %d, it is %d", name, ino, old, e.Ino)
			}
			v.mu.Lock()
			v.entries[viewEntry{ino, name}] = e.Ino
			v.mu.Unlock()
		}
	}
	v.mu.Lock()
	v.events = nil
	v.mu.Unlock()
	return ""
}

// TestEventsNameAllThatChanged replays the events of random changes against a
// cache of everything: what they do not name must be as it was.
func TestEventsNameAllThatChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := eventStore(t)
		m := &eventMachine{s: s, inos: map[store.Ino]bool{}, view: &view{entries: map[viewEntry]store.Ino{}, attrs: map[store.Ino]store.Attr{}}}
		defer s.Close()
		defer s.Observe(m.view)()
		defer func() {
			for _, h := range m.open {
				h.Close()
			}
			for _, p := range m.pins {
				p.Close()
			}
		}()
		root, err := s.GetAttr(ctx, store.RootIno)
		if err != nil {
			t.Fatal(err)
		}
		m.learn(root)
		t.Repeat(map[string]func(*rapid.T){
			"create": m.create, "put": m.put, "link": m.link, "remove": m.remove, "rename": m.rename, "rename again": m.rename,
			"clone": m.clone, "setattr": m.setAttr, "xattr": m.xattr, "handles": m.handles, "write": m.write, "pin": m.pin,
			"": m.check,
		})
	})
}

func eventStore(t *rapid.T) *store.Store {
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: storetest.NewMemBlobs(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// slowObserver settles when it is let to.
type slowObserver struct {
	mu      sync.Mutex
	got     []store.Event
	settled int
	hang    bool
	panics  bool
}

func (o *slowObserver) Changed(e store.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.got = append(o.got, e)
	if o.panics {
		panic("observer")
	}
}

func (o *slowObserver) Settle(ctx context.Context) {
	o.mu.Lock()
	o.settled++
	hang := o.hang
	o.mu.Unlock()
	if hang {
		<-ctx.Done()
	}
}

func TestSyncSettlesForOthersOnly(t *testing.T) {
	s := storetest.New(t)
	o := &slowObserver{}
	stop := s.Observe(o)
	put(t, s, "/f", nil)
	if len(o.got) == 0 || o.got[0].Origin != 0 || o.got[0].Name != "f" {
		t.Errorf("events %+v", o.got)
	}
	mount := store.NewOrigin()
	octx := store.WithOrigin(ctx, mount)
	o.got = nil
	if err := s.Unlink(octx, store.RootIno, "f", nil); err != nil {
		t.Fatal(err)
	}
	if len(o.got) == 0 || o.got[0].Origin != mount || mount == 0 || mount == store.NewOrigin() {
		t.Errorf("events %+v, want origin %d", o.got, mount)
	}
	if err := s.Sync(octx); err != nil || o.settled != 0 {
		t.Errorf("Sync with an origin: %v, settled %d times", err, o.settled)
	}
	if err := s.Sync(ctx); err != nil || o.settled != 1 {
		t.Errorf("Sync without an origin: %v, settled %d times", err, o.settled)
	}
	o.hang = true
	begin := time.Now()
	if err := s.Sync(ctx); err != nil {
		t.Errorf("Sync with an observer that hangs: %v", err)
	}
	if took := time.Since(begin); took < 90*time.Millisecond || took > 2*time.Second {
		t.Errorf("waited %v for an observer that hangs, want about 100 ms", took)
	}
	stop()
	stop()
	o.got = nil
	put(t, s, "/g", nil)
	if err := s.Sync(ctx); err != nil || o.settled != 2 || len(o.got) != 0 {
		t.Errorf("after stop: %v, settled %d times, events %v", err, o.settled, o.got)
	}
}

func TestPanickingObserverHarmsNobody(t *testing.T) {
	s := storetest.New(t)
	bad, good := &slowObserver{panics: true}, &slowObserver{}
	defer s.Observe(bad)()
	defer s.Observe(good)()
	if _, err := tryPut(s, "/f", nil); err != nil {
		t.Errorf("put: %v", err)
	}
	if len(good.got) == 0 || s.AnyPoisoned() {
		t.Errorf("the other observer got %v; poisoned: %v", good.got, s.AnyPoisoned())
	}
}

func TestSubscribersAreNotToldOfTheCollector(t *testing.T) {
	s := storetest.New(t)
	mkdir(t, s, "/d/e")
	for i := range 50 {
		put(t, s, fmt.Sprintf("/d/e/f%d", i), nil)
	}
	events, cancel := s.Subscribe(100)
	defer cancel()
	if err := s.RemoveAll(ctx, store.RootIno, "d", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	n := 0
	for e := range events {
		if n++; e.Op != "remove_all" {
			t.Errorf("event %+v", e)
		}
	}
	if n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if _, err := s.GetAttr(ctx, 2); !errors.Is(err, store.ErrStale) {
		t.Errorf("the tree was not collected: %v", err)
	}
}

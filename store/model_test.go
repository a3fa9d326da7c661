package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"engramfs/store"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// modelNode is an inode of the model: a plain tree that does what the store promises.
type modelNode struct {
	kids  map[string]*modelNode // of a directory, else nil
	data  []byte
	nlink int
	// poisoned: the store refuses to change it.
	poisoned bool
}

// model runs the same operations on the store and on a plain tree.
type model struct {
	t    *rapid.T
	s    *store.Store
	root *modelNode
}

var modelNames = []string{"a", "b", "c", "ä ö", strings.Repeat("n", 255)[:9]}

// paths returns the paths in the model for which keep is true, the root's first.
func (m *model) paths(keep func(*modelNode) bool) []string {
	var list []string
	var walk func(p string, n *modelNode)
	walk = func(p string, n *modelNode) {
		if keep(n) {
			list = append(list, p)
		}
		for _, name := range slices.Sorted(maps.Keys(n.kids)) {
			walk(path.Join(p, name), n.kids[name])
		}
	}
	walk("/", m.root)
	return list
}

// drawPath returns the path of a name in one of the directories, most often a
// name that is there.
func (m *model) drawPath(label string) string {
	if there := m.paths(func(n *modelNode) bool { return n != m.root }); len(there) > 0 && rapid.IntRange(0, 3).Draw(m.t, label+"There") > 0 {
		return rapid.SampledFrom(there).Draw(m.t, label)
	}
	dirs := m.paths(func(n *modelNode) bool { return n.kids != nil })
	dir := rapid.SampledFrom(dirs[:min(len(dirs), 8)]).Draw(m.t, label+"Dir")
	return path.Join(dir, rapid.SampledFrom(modelNames).Draw(m.t, label))
}

func (m *model) find(p string) *modelNode {
	n := m.root
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		if n == nil || n.kids == nil {
			return nil
		}
		n = n.kids[name]
	}
	return n
}

// parent returns the directory of p in the model and its inode.
func (m *model) parent(p string) (*modelNode, store.Ino, string) {
	dir, name := path.Split(p)
	ino, _, err := m.s.LookupParent(ctx, p)
	if err != nil {
		m.t.Fatalf("LookupParent(%s): %v", p, err)
	}
	return m.find(dir), ino, name
}

// expect compares an error with what the model says.
func (m *model) expect(what string, err, want error) bool {
	if !errors.Is(err, want) {
		m.t.Fatalf("%s: %v, want %v", what, err, want)
	}
	return err == nil
}

// first returns the first condition that holds.
func first(conds ...any) error {
	for i := 0; i < len(conds); i += 2 {
		if conds[i].(bool) {
			return conds[i+1].(error)
		}
	}
	return nil
}

func poisonedBelow(n *modelNode) bool {
	if n.poisoned {
		return true
	}
	for _, k := range n.kids {
		if poisonedBelow(k) {
			return true
		}
	}
	return false
}

// poisonedElsewhere reports whether a file below n is poisoned that has other names: the
// store finds it by one of them, which may be outside of n.
func poisonedElsewhere(n *modelNode) bool {
	for _, k := range n.kids {
		if k.poisoned && k.kids == nil && k.nlink > 1 || poisonedElsewhere(k) {
			return true
		}
	}
	return false
}

func (m *model) mkdir(t *rapid.T) {
	m.t = t
	p := m.drawPath("path")
	dir, ino, name := m.parent(p)
	_, err := m.s.Create(ctx, ino, name, store.NewNode{Mode: store.ModeDir | 0o755})
	if m.expect("mkdir "+p, err, first(dir.poisoned, store.ErrPoisoned, dir.kids[name] != nil, fs.ErrExist)) {
		dir.kids[name] = &modelNode{kids: map[string]*modelNode{}}
	}
}

func (m *model) put(t *rapid.T) {
	m.t = t
	p := m.drawPath("path")
	dir, _, name := m.parent(p)
	data := pattern(rapid.SampledFrom([]int{0, 3, 5000, 16 << 10, 17 << 10, 70_000}).Draw(t, "size"), rapid.Byte().Draw(t, "seed"))
	_, err := tryPut(m.s, p, data)
	old := dir.kids[name]
	isDir := old != nil && old.kids != nil
	if !m.expect("put "+p, err, first(isDir, store.ErrIsDir, old == nil && dir.poisoned, store.ErrPoisoned, old != nil && old.poisoned, store.ErrPoisoned)) {
		return
	}
	if old == nil {
		old = &modelNode{nlink: 1}
		dir.kids[name] = old
	}
	old.data = data
}

func (m *model) write(t *rapid.T) {
	m.t = t
	p := m.drawPath("path")
	n := m.find(p)
	if n == nil || n.kids != nil {
		return
	}
	h, err := m.s.Open(ctx, lookup(m.s, p).Ino, true)
	if !m.expect("open "+p, err, first(n.poisoned, store.ErrPoisoned)) {
		return
	}
	defer h.Close()
	for range rapid.IntRange(1, 3).Draw(t, "writes") {
		off := rapid.IntRange(0, 80_000).Draw(t, "offset")
		if rapid.Bool().Draw(t, "truncate") {
			if err := h.Truncate(ctx, int64(off)); err != nil {
				t.Fatalf("truncate %s to %d: %v", p, off, err)
			}
			n.data = append(slices.Clone(n.data), make([]byte, max(off-len(n.data), 0))...)[:off]
			continue
		}
		data := pattern(rapid.IntRange(1, 30_000).Draw(t, "bytes"), byte(off))
		if _, err := h.WriteAt(ctx, data, int64(off)); err != nil {
			t.Fatalf("write %s at %d: %v", p, off, err)
		}
		n.data = append(slices.Clone(n.data), make([]byte, max(off+len(data)-len(n.data), 0))...)
		copy(n.data[off:], data)
	}
}

func (m *model) link(t *rapid.T) {
	m.t = t
	from, to := m.drawPath("from"), m.drawPath("to")
	n := m.find(from)
	if n == nil {
		return
	}
	dir, ino, name := m.parent(to)
	_, err := m.s.Link(ctx, lookup(m.s, from).Ino, ino, name)
	if m.expect("link "+from+" "+to, err, first(n.poisoned || dir.poisoned, store.ErrPoisoned,
		n.kids != nil, fs.ErrPermission, dir.kids[name] != nil, fs.ErrExist)) {
		dir.kids[name] = n
		n.nlink++
	}
}

func (m *model) remove(t *rapid.T) {
	m.t = t
	p := m.drawPath("path")
	dir, ino, name := m.parent(p)
	n := dir.kids[name]
	if n == nil {
		return
	}
	poisoned := dir.poisoned || n.poisoned
	var ok bool
	switch rapid.SampledFrom([]string{"unlink", "rmdir", "all"}).Draw(t, "how") {
	case "unlink":
		ok = m.expect("unlink "+p, m.s.Unlink(ctx, ino, name, nil), first(poisoned, store.ErrPoisoned, n.kids != nil, store.ErrIsDir))
	case "rmdir":
		ok = m.expect("rmdir "+p, m.s.Rmdir(ctx, ino, name, nil), first(poisoned, store.ErrPoisoned, n.kids == nil, store.ErrNotDir, len(n.kids) > 0, store.ErrNotEmpty))
	default:
		ok = m.expect("remove "+p, m.s.RemoveAll(ctx, ino, name, nil), first(poisoned || poisonedBelow(n), store.ErrPoisoned))
	}
	if ok {
		delete(dir.kids, name)
		n.drop()
	}
}

func within2(top, n *modelNode) bool {
	if top == n {
		return true
	}
	for _, k := range top.kids {
		if within2(k, n) {
			return true
		}
	}
	return false
}

func (m *model) rename(t *rapid.T) {
	m.t = t
	from, to := m.drawPath("from"), m.drawPath("to")
	sdir, sino, sname := m.parent(from)
	ddir, dino, dname := m.parent(to)
	src, dst := sdir.kids[sname], ddir.kids[dname]
	if src == nil {
		return
	}
	tree := rapid.Bool().Draw(t, "replaceTree")
	_, err := m.s.Rename(ctx, sino, sname, dino, dname, store.RenameOptions{ReplaceTree: tree})
	var want error
	switch {
	case sdir.poisoned || ddir.poisoned || src.poisoned || dst != nil && dst.poisoned:
		want = store.ErrPoisoned
	case src == dst:
	case src.kids != nil && within2(src, ddir):
		want = store.ErrSubtree
	case dst == nil:
	case dst.kids == nil:
		want = first(src.kids != nil && !tree, store.ErrNotDir)
	case within2(dst, sdir):
		want = first(tree, store.ErrSubtree, true, store.ErrNotEmpty)
	case tree:
		want = first(poisonedBelow(dst), store.ErrPoisoned)
	default:
		want = first(src.kids == nil, store.ErrIsDir, len(dst.kids) > 0, store.ErrNotEmpty)
	}
	if m.expect("rename "+from+" "+to, err, want) && src != dst {
		dst.drop()
		delete(sdir.kids, sname)
		ddir.kids[dname] = src
	}
}

// drop takes one name from n, and from all that is below a directory.
func (n *modelNode) drop() {
	if n == nil {
		return
	}
	n.nlink--
	for _, k := range n.kids {
		k.drop()
	}
}

func (n *modelNode) clone() *modelNode {
	c := &modelNode{data: n.data, nlink: 1}
	if n.kids != nil {
		c.kids = map[string]*modelNode{}
		for name, k := range n.kids {
			c.kids[name] = k.clone()
		}
	}
	return c
}

func (m *model) copy(t *rapid.T) {
	m.t = t
	from, to := m.drawPath("from"), m.drawPath("to")
	src := m.find(from)
	if src == nil {
		return
	}
	ddir, dino, dname := m.parent(to)
	dst := ddir.kids[dname]
	if dst != nil && poisonedElsewhere(dst) {
		return
	}
	_, _, err := m.s.Clone(ctx, lookup(m.s, from).Ino, dino, dname, store.CloneOptions{Replace: true})
	alone := src.kids != nil || src.nlink == 1 // a file with another name survives that its tree is replaced
	inside := within2(src, ddir) && src.kids != nil || dst != nil && (dst == src || alone && within2(dst, src))
	if m.expect("copy "+from+" "+to, err, first(inside, store.ErrSubtree, poisonedBelow(src) || ddir.poisoned ||
		dst != nil && poisonedBelow(dst), store.ErrPoisoned)) {
		dup := src.clone()
		dst.drop()
		ddir.kids[dname] = dup
	}
}

func (m *model) poison(t *rapid.T) {
	m.t = t
	p := m.drawPath("path")
	n := m.find(p)
	if n == nil || n.poisoned || rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		return
	}
	if err := m.s.ArmFault(ctx, p, "", "panic"); err != nil {
		t.Fatal(err)
	}
	a := lookup(m.s, p)
	_, err := m.s.SetAttr(ctx, a.Ino, store.SetAttr{UID: &a.UID})
	m.expect("poisoning "+p, err, store.ErrPoisoned)
	n.poisoned = true
}

func (m *model) reset(t *rapid.T) {
	m.t = t
	for _, l := range m.s.Locks() {
		if l.State != "poisoned" || rapid.Bool().Draw(t, "leave") {
			continue
		}
		n := m.find(l.Path)
		if _, err := m.s.ResetLock(ctx, l.Name, l.Gen, false); err != nil || n == nil || !n.poisoned {
			t.Fatalf("reset of %s (%s): %v, model %+v", l.Name, l.Path, err, n)
		}
		n.poisoned = false
	}
}

// compare walks both trees.
func (m *model) compare(t *rapid.T) {
	m.t = t
	if err := m.s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	files := 0
	seen := map[*modelNode]bool{}
	var walk func(p string, n *modelNode, ino store.Ino)
	walk = func(p string, n *modelNode, ino store.Ino) {
		if n.kids == nil {
			if !seen[n] {
				files++
			}
			seen[n] = true
			got, err := tryGet(ctx, m.s, p)
			if err != nil || !bytes.Equal(got, n.data) {
				t.Fatalf("%s: %d bytes, %v, want %d", p, len(got), err, len(n.data))
			}
			return
		}
		var got []string
		inos := map[string]store.Ino{}
		if err := m.s.ReadDirPlus(ctx, ino, "", func(name string, a *store.Attr) bool {
			got = append(got, name)
			inos[name] = a.Ino
			if k := n.kids[name]; k != nil && k.kids == nil && int(a.Nlink) != k.nlink {
				t.Fatalf("%s/%s has %d links, want %d", p, name, a.Nlink, k.nlink)
			}
			return true
		}); err != nil {
			t.Fatalf("ReadDirPlus(%s): %v", p, err)
		}
		if want := slices.Sorted(maps.Keys(n.kids)); !slices.Equal(got, want) {
			t.Fatalf("%s has entries %q, want %q", p, got, want)
		}
		for name, k := range n.kids {
			walk(path.Join(p, name), k, inos[name])
		}
	}
	walk("/", m.root, store.RootIno)
	problems, err := m.s.Check(ctx, store.CheckOptions{})
	if err != nil || len(problems) > 0 {
		t.Fatalf("Check: %v %q", err, problems)
	}
	if !m.s.Registry().AnyPoisoned() && m.s.FileCount(ctx) != int64(files) {
		t.Fatalf("FileCount = %d, want %d", m.s.FileCount(ctx), files)
	}
}

// TestModel compares the store with a plain tree, operation by operation,
// panics and resets among them.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20, MemTableSize: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(ctx, store.Options{Meta: db, Blobs: storetest.NewMemBlobs(), Nodes: 64, Dirents: 64})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(fmt.Errorf("Close: %w", err))
			}
		}()
		m := &model{t: t, s: s, root: &modelNode{kids: map[string]*modelNode{}}}
		t.Repeat(map[string]func(*rapid.T){
			"mkdir": m.mkdir, "put": m.put, "write": m.write, "link": m.link, "remove": m.remove,
			"rename": m.rename, "copy": m.copy, "poison": m.poison, "reset": m.reset, "": m.compare,
		})
	})
}

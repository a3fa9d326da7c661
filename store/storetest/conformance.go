package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// FS is a door to the store as Conformance uses it. Paths are absolute. It must
// be safe for concurrent use. Errors match fs.ErrNotExist if something named, or
// its parent, does not exist, and fs.ErrExist if something does that must not.
type FS interface {
	ReadFile(path string) ([]byte, error)
	// WriteFile replaces the content of a file, or makes the file.
	WriteFile(path string, content []byte) error
	// Replace is WriteFile in one step: a reader sees the old content or the new one.
	Replace(path string, content []byte) error
	// Create makes a file that must not exist.
	Create(path string, content []byte) error
	Mkdir(path string) error
	// Rename moves a file or a directory, onto a file too.
	Rename(from, to string) error
	// Copy copies a file, onto a file too.
	Copy(from, to string) error
	// RemoveAll removes a file or a directory with all that is in it.
	RemoveAll(path string) error
	Stat(path string) (Entry, error)
	ReadDir(path string) ([]Entry, error)
	// SetNote sets the extended attribute NoteXattr, which is the dead property
	// note in the namespace urn:e2e.
	SetNote(path, note string) error
	// Note returns it, "" if there is none.
	Note(path string) (string, error)
}

// NoteXattr is the name of the extended attribute behind FS.SetNote.
const NoteXattr = "user.dav.{urn:e2e}note"

// Entry is what a door says of a file or a directory.
type Entry struct {
	Name string // the last element of the path
	Dir  bool
	Size int64 // of a file
}

// Conformance checks what every door must do alike. It leaves files behind, in
// folders of their own below dir, which must exist.
func Conformance(t *testing.T, door FS, dir string) {
	for _, c := range []struct {
		name string
		run  func(*conformance)
	}{
		{"SizesAtTheEdges", (*conformance).sizes},
		{"OddNames", (*conformance).names},
		{"NameLengths", (*conformance).nameLengths},
		{"OverwriteLeavesNothingOld", (*conformance).overwrite},
		{"CreateRefusesWhatExists", (*conformance).create},
		{"MissingParents", (*conformance).parents},
		{"FilesAndDirectoriesDiffer", (*conformance).kinds},
		{"RenameFiles", (*conformance).renameFiles},
		{"RenameTrees", (*conformance).renameTrees},
		{"CopyIsIndependent", (*conformance).copies},
		{"RemoveTrees", (*conformance).removes},
		{"Listing", (*conformance).listing},
		{"NotesFollowTheFile", (*conformance).notes},
		{"OneCreateWins", (*conformance).oneCreateWins},
		{"ReplaceIsAtomic", (*conformance).replaceIsAtomic},
		{"OneRenameWins", (*conformance).oneRenameWins},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &conformance{t: t, FS: door, dir: path.Join(dir, c.name)}
			k.ok("mkdir", k.FS.Mkdir(k.dir))
			c.run(k)
		})
	}
}

// conformance is one case, in a folder of its own.
type conformance struct {
	FS
	t   *testing.T
	dir string
}

func (k *conformance) at(name string) string { return k.dir + "/" + name }

// ok fails the case if there is an error.
func (k *conformance) ok(what string, err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatalf("%s: %v", what, err)
	}
}

// refused checks that there is an error, and, if want is not nil, which one.
func (k *conformance) refused(what string, err, want error) {
	k.t.Helper()
	if err == nil || want != nil && !errors.Is(err, want) {
		k.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// holds checks a file in every way that a door has.
func (k *conformance) holds(p string, want []byte) {
	k.t.Helper()
	got, err := k.ReadFile(p)
	if err != nil || !bytes.Equal(got, want) {
		k.t.Errorf("read %q: %d bytes, %v, want other %d bytes", p, len(got), err, len(want))
	}
	e, err := k.Stat(p)
	if err != nil || e.Dir || e.Size != int64(len(want)) || e.Name != path.Base(p) {
		k.t.Errorf("stat %q: %+v, %v, want a file of %d bytes", p, e, err, len(want))
	}
}

func (k *conformance) gone(p string) {
	k.t.Helper()
	_, err := k.ReadFile(p)
	k.refused("read of what is gone", err, fs.ErrNotExist)
	_, err = k.Stat(p)
	k.refused("stat of what is gone", err, fs.ErrNotExist)
}

// members checks the names in a directory.
func (k *conformance) members(dir string, want ...string) {
	k.t.Helper()
	entries, err := k.ReadDir(dir)
	k.ok("readdir "+dir, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		k.t.Errorf("readdir %s: %.300q, want %.300q", dir, got, want)
	}
}

// bytesOf returns n bytes that depend on seed only.
func bytesOf(seed, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8), byte(n >> 16)})
	b := make([]byte, n)
	r.Read(b) // never fails
	return b
}

func (k *conformance) sizes() {
	for _, n := range []int{0, 1, 4095, 4096, 16<<10 - 1, 16 << 10, 16<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, 3<<20 + 7} {
		p := k.at(fmt.Sprint(n))
		k.ok("write", k.WriteFile(p, bytesOf(1, n)))
		k.holds(p, bytesOf(1, n))
	}
}

func (k *conformance) names() {
	names := []string{"with space", " leading", "trailing ", "ünï", "e\u0301", "日本語", "emoji😀", "#", "%", "%41", "%2f", "%2e%2e", "a+b&c=d;e", "'", `"`,
		"?", ":", `\`, "*", "|", "<>", "$", "@", "!", "^", "`", ".hidden", "-dash", "...", "dot.", "~", "[b]", "{c}", "(d)", ",", "\u00a0", "\ufeff", "UPPER", "upper"}
	for i, name := range names {
		k.ok(fmt.Sprintf("write %q", name), k.WriteFile(k.at(name), bytesOf(i, 100+i)))
	}
	for i, name := range names {
		k.holds(k.at(name), bytesOf(i, 100+i))
	}
	k.members(k.dir, names...)
	for _, name := range names {
		k.ok(fmt.Sprintf("remove %q", name), k.RemoveAll(k.at(name)))
		k.gone(k.at(name))
	}
	k.members(k.dir)
}

func (k *conformance) nameLengths() {
	for _, unit := range []string{"x", "ä", "漢", "😀"} {
		longest := strings.Repeat(unit, 255/len(unit))
		longest += strings.Repeat("y", 255-len(longest))
		k.ok("write a name of 255 bytes", k.WriteFile(k.at(longest), bytesOf(1, 10)))
		k.holds(k.at(longest), bytesOf(1, 10))
		k.refused("write a name of 256 bytes", k.WriteFile(k.at(longest+"y"), nil), nil)
		k.refused("rename to a name of 256 bytes", k.Rename(k.at(longest), k.at(longest+"y")), nil)
		k.holds(k.at(longest), bytesOf(1, 10))
	}
	deep := k.dir
	for range 40 {
		deep += "/d"
		k.ok("mkdir", k.Mkdir(deep))
	}
	k.ok("write", k.WriteFile(deep+"/f", bytesOf(1, 10)))
	k.holds(deep+"/f", bytesOf(1, 10))
}

func (k *conformance) overwrite() {
	p := k.at("f")
	for i, n := range []int{100_000, 10, 0, 70_000, 16 << 10, 16<<10 + 1, 5, 200_000} {
		k.ok("write", k.WriteFile(p, bytesOf(i, n)))
		k.holds(p, bytesOf(i, n))
	}
	for i, n := range []int{100_000, 10, 0, 70_000} {
		k.ok("replace", k.Replace(p, bytesOf(50+i, n)))
		k.holds(p, bytesOf(50+i, n))
	}
	k.members(k.dir, "f")
}

func (k *conformance) create() {
	k.ok("create", k.Create(k.at("f"), bytesOf(1, 50)))
	k.refused("create again", k.Create(k.at("f"), bytesOf(2, 60)), fs.ErrExist)
	k.holds(k.at("f"), bytesOf(1, 50))
	k.ok("mkdir", k.Mkdir(k.at("d")))
	k.refused("mkdir again", k.Mkdir(k.at("d")), fs.ErrExist)
	k.refused("mkdir onto a file", k.Mkdir(k.at("f")), fs.ErrExist)
	k.holds(k.at("f"), bytesOf(1, 50))
}

func (k *conformance) parents() {
	k.ok("write", k.WriteFile(k.at("f"), bytesOf(1, 50)))
	k.refused("write", k.WriteFile(k.at("none/f"), nil), fs.ErrNotExist)
	k.refused("create", k.Create(k.at("none/f"), nil), fs.ErrNotExist)
	k.refused("mkdir", k.Mkdir(k.at("none/d")), fs.ErrNotExist)
	k.refused("rename to", k.Rename(k.at("f"), k.at("none/f")), fs.ErrNotExist)
	k.refused("rename from", k.Rename(k.at("none/f"), k.at("g")), fs.ErrNotExist)
	k.refused("rename nothing", k.Rename(k.at("none"), k.at("g")), fs.ErrNotExist)
	k.refused("copy to", k.Copy(k.at("f"), k.at("none/f")), fs.ErrNotExist)
	k.refused("copy nothing", k.Copy(k.at("none"), k.at("g")), fs.ErrNotExist)
	k.gone(k.at("none"))
	k.gone(k.at("none/f"))
	k.holds(k.at("f"), bytesOf(1, 50))
	k.members(k.dir, "f")
}

func (k *conformance) kinds() {
	k.ok("mkdir", k.Mkdir(k.at("d")))
	k.ok("write", k.WriteFile(k.at("f"), bytesOf(1, 50)))
	k.refused("write onto a directory", k.WriteFile(k.at("d"), nil), nil)
	k.refused("write below a file", k.WriteFile(k.at("f/g"), nil), nil)
	k.refused("mkdir below a file", k.Mkdir(k.at("f/g")), nil)
	k.refused("rename below a file", k.Rename(k.at("d"), k.at("f/g")), nil)
	_, err := k.ReadFile(k.at("f/g"))
	k.refused("read below a file", err, nil)
	if e, err := k.Stat(k.at("d")); err != nil || !e.Dir {
		k.t.Errorf("stat of a directory: %+v, %v", e, err)
	}
	k.holds(k.at("f"), bytesOf(1, 50))
	k.members(k.at("d"))
	k.members(k.dir, "d", "f")
}

func (k *conformance) renameFiles() {
	for _, sub := range []string{"x", "y"} {
		k.ok("mkdir", k.Mkdir(k.at(sub)))
	}
	small, large := bytesOf(1, 100), bytesOf(2, 100_000)
	k.ok("write", k.WriteFile(k.at("x/small"), small))
	k.ok("write", k.WriteFile(k.at("x/large"), large))
	k.ok("rename in place", k.Rename(k.at("x/small"), k.at("x/moved")))
	k.ok("rename away", k.Rename(k.at("x/large"), k.at("y/large")))
	k.holds(k.at("x/moved"), small)
	k.holds(k.at("y/large"), large)
	k.gone(k.at("x/small"))
	k.gone(k.at("x/large"))
	k.ok("rename over", k.Rename(k.at("x/moved"), k.at("y/large")))
	k.holds(k.at("y/large"), small)
	k.members(k.at("x"))
	k.members(k.at("y"), "large")
}

func (k *conformance) renameTrees() {
	for _, sub := range []string{"a", "a/b", "a/b/c", "e"} {
		k.ok("mkdir", k.Mkdir(k.at(sub)))
	}
	body := bytesOf(1, 20_000)
	k.ok("write", k.WriteFile(k.at("a/b/c/f"), body))
	k.refused("rename into itself", k.Rename(k.at("a"), k.at("a/b/c/a")), nil)
	k.refused("rename onto its own child", k.Rename(k.at("a"), k.at("a/b")), nil)
	k.holds(k.at("a/b/c/f"), body)
	k.ok("rename", k.Rename(k.at("a/b"), k.at("e/moved")))
	k.holds(k.at("e/moved/c/f"), body)
	k.gone(k.at("a/b/c/f"))
	k.members(k.at("a"))
	k.members(k.at("e"), "moved")
	k.members(k.at("e/moved"), "c")
}

func (k *conformance) copies() {
	for i, n := range []int{10, 16 << 10, 300_000} {
		a, b := k.at(fmt.Sprint("a", i)), k.at(fmt.Sprint("b", i))
		k.ok("write", k.WriteFile(a, bytesOf(i, n)))
		k.ok("copy", k.Copy(a, b))
		k.holds(b, bytesOf(i, n))
		k.ok("write the source", k.WriteFile(a, bytesOf(i+10, n+1)))
		k.holds(b, bytesOf(i, n))
		k.ok("write the copy", k.WriteFile(b, bytesOf(i+20, n+2)))
		k.holds(a, bytesOf(i+10, n+1))
		k.ok("copy over", k.Copy(a, b))
		k.ok("remove the source", k.RemoveAll(a))
		k.holds(b, bytesOf(i+10, n+1))
	}
}

func (k *conformance) removes() {
	for _, sub := range []string{"t", "t/u", "t/u/v", "s"} {
		k.ok("mkdir", k.Mkdir(k.at(sub)))
		k.ok("write", k.WriteFile(k.at(sub+"/f"), bytesOf(1, 30_000)))
	}
	k.ok("remove", k.RemoveAll(k.at("t")))
	k.gone(k.at("t/u/v/f"))
	k.gone(k.at("t"))
	k.ok("make again", k.Mkdir(k.at("t")))
	k.members(k.at("t"))
	k.holds(k.at("s/f"), bytesOf(1, 30_000))
	k.members(k.dir, "s", "t")
}

func (k *conformance) listing() {
	var names []string
	for i := range 1000 {
		name := fmt.Sprintf("file-%04d", i)
		names = append(names, name)
		k.ok("write", k.WriteFile(k.at(name), make([]byte, i%7)))
	}
	k.members(k.dir, names...)
	entries, err := k.ReadDir(k.dir)
	k.ok("readdir", err)
	for _, e := range entries {
		var i int64
		if _, err := fmt.Sscanf(e.Name, "file-%d", &i); err != nil || e.Dir || e.Size != i%7 {
			k.t.Fatalf("readdir shows %+v, want a file of %d bytes", e, i%7)
		}
	}
	for _, name := range names[:500] {
		k.ok("remove", k.RemoveAll(k.at(name)))
	}
	k.members(k.dir, names[500:]...)
}

func (k *conformance) notes() {
	k.ok("write", k.WriteFile(k.at("f"), bytesOf(1, 100)))
	has := func(name, want string) {
		k.t.Helper()
		if got, err := k.Note(k.at(name)); err != nil || got != want {
			k.t.Errorf("note of %s: %q, %v, want %q", name, got, err, want)
		}
	}
	has("f", "")
	k.ok("note", k.SetNote(k.at("f"), "first"))
	has("f", "first")
	k.ok("note", k.SetNote(k.at("f"), "second, ünï & <>"))
	has("f", "second, ünï & <>")
	k.ok("write", k.WriteFile(k.at("f"), bytesOf(2, 100_000)))
	has("f", "second, ünï & <>")
	k.ok("rename", k.Rename(k.at("f"), k.at("g")))
	has("g", "second, ünï & <>")
	k.ok("write", k.WriteFile(k.at("f"), nil))
	has("f", "")
	_, err := k.Note(k.at("none"))
	k.refused("note of nothing", err, fs.ErrNotExist)
}

// race runs do several times at once and returns the errors.
func race(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errs
}

func (k *conformance) oneCreateWins() {
	for round := range 20 {
		p := k.at(fmt.Sprint(round))
		errs := race(8, func(i int) error { return k.Create(p, bytesOf(i, 1000)) })
		winner := slices.Index(errs, nil)
		if winner < 0 {
			k.t.Fatalf("no create succeeds: %v", errs)
		}
		for i, err := range errs {
			if i != winner {
				k.refused("create after another", err, fs.ErrExist)
			}
		}
		k.holds(p, bytesOf(winner, 1000))
	}
}

func (k *conformance) replaceIsAtomic() {
	p, sizes := k.at("f"), []int{500, 20_000, 90_000}
	k.ok("replace", k.Replace(p, bytesOf(0, sizes[0])))
	errs := race(6, func(i int) error {
		for n := range 30 {
			if i < 2 {
				if err := k.Replace(p, bytesOf(n, sizes[n%3])); err != nil {
					return err
				}
				continue
			}
			got, err := k.ReadFile(p)
			if err != nil {
				return err
			}
			whole := false
			for v := 0; v < 30 && !whole; v++ {
				whole = len(got) == sizes[v%3] && bytes.Equal(got, bytesOf(v, sizes[v%3]))
			}
			if !whole {
				return fmt.Errorf("%d bytes that are no version", len(got))
			}
		}
		return nil
	})
	k.ok("replace against read", errors.Join(errs...))
}

func (k *conformance) oneRenameWins() {
	for round := range 20 {
		from := k.at(fmt.Sprint("from", round))
		k.ok("write", k.WriteFile(from, bytesOf(round, 2000)))
		to := func(i int) string { return k.at(fmt.Sprintf("to%d-%d", round, i)) }
		errs := race(6, func(i int) error { return k.Rename(from, to(i)) })
		winners := 0
		for i, err := range errs {
			if err == nil {
				winners++
				k.holds(to(i), bytesOf(round, 2000))
				continue
			}
			k.refused("rename after another", err, fs.ErrNotExist)
			k.gone(to(i))
		}
		if winners != 1 {
			k.t.Errorf("%d renames of one file succeed: %v", winners, errs)
		}
	}
}

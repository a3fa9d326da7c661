package torture

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta/pebble"
)

// folder is a data folder in memory.
type folder map[string]file

// file is a file, or with nil data a directory. The time of the last write counts:
// the store takes content that is newer than its checksums for a late write.
type file struct {
	data  []byte
	mtime time.Time
}

// openFolder opens the store in a data folder of the operating system.
func openFolder(dir string, create bool) (*store.Store, error) {
	db, err := pebble.Open(filepath.Join(dir, "meta"), pebble.Options{Create: create, CacheSize: 1 << 20, MemTableSize: 256 << 10, SlowDisk: -1})
	if err != nil {
		return nil, err
	}
	blobs, err := local.Open(filepath.Join(dir, "blobs"), local.Options{Create: create})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return store.Open(ctx, store.Options{Meta: db, Blobs: blobs, Reserve: -1})
}

// populate returns the data folder of a store with something of everything, and
// what clients see of it: after it was closed, or as a process that was killed
// leaves it.
func populate(t *testing.T, killed bool) (folder, Tree) {
	t.Helper()
	dir := memoryDir(t)
	s, err := openFolder(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	steps := []func(*run) error{tree, clone("/t", "/copy"), lock}
	for i := range 20 {
		steps = append(steps, put(fmt.Sprintf("/small%02d", i), 100+i*300, byte(i)))
	}
	steps = append(steps, put("/f", 150_000, 50), put("/empty", 0, 0), link("/f", "/name"),
		prop("/f", map[string][]byte{"user.long": pattern(3000, 51), "user.short": []byte("x")}),
		open("/f"), write("/f", 10_000, 70_000, 52), closed("/f"), seal, remove("/copy/x"))
	r := newRun(s)
	if err := then(steps...)(r); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if !killed { // once more, so that there are tables, and not just a log
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = openFolder(dir, false); err != nil {
			t.Fatal(err)
		}
	}
	want := mustSee(t, newRun(s))
	var image folder
	if killed {
		image = load(t, dir)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !killed {
		image = load(t, dir)
	}
	return image, want
}

// memoryDir returns a temporary folder, in memory if there is such a place: the
// thousands of trials have no need of a disk.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "engramfs-flip-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func load(t testing.TB, dir string) folder {
	t.Helper()
	image := folder{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p) // p is below dir
		if err != nil || e.IsDir() {
			image[rel] = file{}
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			image[rel] = file{append([]byte{}, b...), info.ModTime()}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// write makes the folder in dir.
func (f folder) write(dir string) error {
	for _, p := range slices.Sorted(maps.Keys(f)) { // parents come first
		name, was := filepath.Join(dir, p), f[p]
		var err error
		if was.data == nil {
			err = os.MkdirAll(name, 0o700)
		} else if err = os.WriteFile(name, was.data, 0o600); err == nil {
			err = os.Chtimes(name, was.mtime, was.mtime)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// files returns the paths of the files that have a byte, in order.
func (f folder) files() (paths []string) {
	for p, is := range f {
		if len(is.data) > 0 {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths
}

// kindOf returns what kind of file a path of a data folder is.
func kindOf(p string) string {
	base := filepath.Base(p)
	switch {
	case strings.HasPrefix(p, "blobs/") && len(base) == 32:
		return "blob"
	case strings.HasPrefix(base, "MANIFEST"), strings.HasPrefix(base, "OPTIONS"), strings.HasPrefix(base, "marker"):
		return strings.ToLower(strings.SplitN(base, "-", 2)[0])
	case filepath.Ext(base) != "":
		return filepath.Ext(base)[1:]
	}
	return strings.SplitN(p, "/", 2)[0] + "/" + base
}

// Outcomes of a flip.
const (
	harmless = "harmless"
	refused  = "refused"  // the store does not open, and says why
	detected = "detected" // reading what is damaged is an error
	wrong    = "WRONG"
)

// TestFlippedBitIsNeverServed flips one bit of one file of a populated data folder and
// reads everything: what is served must be right, and all of it be there. Not to be
// served, or not to open, is the right answer to damage.
func TestFlippedBitIsNeverServed(t *testing.T) {
	trials := count(t, "ENGRAMFS_FLIPS", 600, 100_000)
	begin := time.Now()
	total := map[string]int{}
	kinds := map[string]bool{}
	for _, killed := range []bool{false, true} {
		image, want := populate(t, killed)
		f := flipper{t: t, image: image, want: want, killed: killed, tally: map[string]int{}, seed: rand.Uint64()}
		if what, why := f.outcome(memoryDir(t), nil); what != harmless {
			t.Fatalf("killed %t: without a flip: %s %s", killed, what, why)
		}
		f.run(trials / 2)
		for what, n := range f.tally {
			total[what] += n
		}
		for _, p := range image.files() {
			kinds[kindOf(p)] = true
		}
	}
	if total[detected] == 0 || total[refused] == 0 {
		t.Errorf("%v: the flips have hardly reached anything", total)
	}
	fmt.Printf("bit flips: %d over %d kinds of files (%s): %d harmless, %d found when read, %d when opened, %d WRONG (%v)\n",
		trials/2*2, len(kinds), strings.Join(slices.Sorted(maps.Keys(kinds)), " "), total[harmless], total[detected], total[refused], total[wrong],
		time.Since(begin).Round(time.Millisecond))
}

// flipper tries flips on copies of one data folder.
type flipper struct {
	t      *testing.T
	image  folder
	want   Tree
	killed bool
	seed   uint64

	mu    sync.Mutex // protects tally
	tally map[string]int
}

// run tries n flips, one file after the other, on all processors.
func (f *flipper) run(n int) {
	files := f.image.files()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f.try(int(i), files[int(i)%len(files)])
			}
		})
	}
	wg.Wait()
}

func (f *flipper) try(i int, path string) {
	rng := rand.New(rand.NewPCG(f.seed, uint64(i)))
	at, bit := rng.IntN(len(f.image[path].data)), rng.IntN(8)
	dir, err := os.MkdirTemp(memoryParent(), "engramfs-flip-")
	if err != nil {
		f.t.Error(err)
		return
	}
	defer os.RemoveAll(dir)
	what, why := f.outcome(dir, func(copied folder) {
		is := copied[path]
		is.data = slices.Clone(is.data)
		is.data[at] ^= 1 << bit
		copied[path] = is
	})
	if what == wrong {
		f.t.Errorf("bit %d of byte %d of %d of %s, killed %t: %s", bit, at, len(f.image[path].data), path, f.killed, why)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tally[what]++
}

func memoryParent() string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm"
	}
	return os.TempDir()
}

// outcome opens a copy of the folder after flip has changed it, and reads all.
func (f *flipper) outcome(dir string, flip func(folder)) (what, why string) {
	copied := maps.Clone(f.image)
	if flip != nil {
		flip(copied)
	}
	if err := copied.write(dir); err != nil {
		return wrong, err.Error()
	}
	s, err := openFolder(dir, false)
	if err != nil {
		return refused, err.Error()
	}
	defer s.Close() // a store that has met damage may say so again
	got, err := See(ctx, s)
	if err != nil {
		return detected, err.Error()
	}
	return f.judge(got)
}

// judge compares what is served with what was there.
func (f *flipper) judge(got Tree) (what, why string) {
	what = harmless
	for p, is := range got {
		was, ok := f.want[p]
		switch {
		case !ok:
			why += p + " is there; " // its removal was undone
		case is.Err != nil:
			what = detected
		case is.Facts != was.Facts || !Same(p, was, is):
			why += Tree{p: was}.Diff(Tree{p: is}, Same)
		}
	}
	for p := range f.want {
		if _, ok := got[p]; !ok {
			why += p + " is missing; "
		}
	}
	if why != "" {
		return wrong, why
	}
	return what, ""
}

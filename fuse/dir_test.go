package fuse

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// dirEntry is what getdents64(2) returns.
type dirEntry struct {
	name   string
	cookie int64 // of what follows
	typ    byte
	ino    uint64
}

// getdents reads one buffer of entries from an open directory.
func getdents(t testing.TB, fd int, size int) []dirEntry {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	must(t, err)
	var entries []dirEntry
	for buf = buf[:n]; len(buf) > 0; {
		reclen := binary.NativeEndian.Uint16(buf[16:])
		name, _, _ := strings.Cut(string(buf[19:reclen]), "\x00")
		entries = append(entries, dirEntry{
			name: name, typ: buf[18],
			ino: binary.NativeEndian.Uint64(buf), cookie: int64(binary.NativeEndian.Uint64(buf[8:])),
		})
		buf = buf[reclen:]
	}
	return entries
}

func openDir(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestReaddirReturnsEverythingOnce(t *testing.T) {
	m := mountForTest(t, Options{})
	for _, n := range []int{0, 1, 3, dirChunk - 1, dirChunk, dirChunk + 1, 3*dirChunk + 7} {
		dir := m.path(fmt.Sprint("d", n))
		must(t, os.Mkdir(dir, 0o755))
		want := map[string]bool{".": true, "..": true}
		for i := range n {
			name := fmt.Sprintf("%s-%d", strings.Repeat("x", i%200), i)
			want[name] = true
			must(t, unix.Mknod(dir+"/"+name, unix.S_IFREG|0o600, 0))
		}
		fd := openDir(t, dir)
		for range 2 { // and once more after a rewind
			seen := map[string]bool{}
			for {
				entries := getdents(t, fd, 4096)
				if len(entries) == 0 {
					break
				}
				for _, e := range entries {
					if !want[e.name] || seen[e.name] {
						t.Errorf("%d files: %q came from nowhere or twice", n, e.name)
					}
					if st := stat(t, dir+"/"+e.name); e.name != ".." && st.Ino != e.ino {
						t.Errorf("%s has inode %d, stat says %d", e.name, e.ino, st.Ino)
					}
					seen[e.name] = true
				}
			}
			if len(seen) != len(want) {
				t.Errorf("%d files: %d of %d entries seen", n, len(seen), len(want))
			}
			_, err := unix.Seek(fd, 0, unix.SEEK_SET)
			must(t, err)
		}
	}
}

// TestReaddirIsStable reads a directory in small steps while entries are made and
// removed: what is there all the time is seen exactly once.
func TestReaddirIsStable(t *testing.T) {
	m := mountForTest(t, Options{})
	for seed := range uint64(12) {
		readWhileItChanges(t, m.path(fmt.Sprint("seed", seed)), rand.New(rand.NewPCG(seed, 1)))
	}
}

func readWhileItChanges(t *testing.T, dir string, random *rand.Rand) {
	must(t, os.Mkdir(dir, 0o755))
	exists, stays, touched, seen := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]int{}
	toggle := func() string {
		name := fmt.Sprintf("%04d", random.IntN(2000))
		if exists[name] {
			must(t, os.Remove(dir+"/"+name))
		} else {
			must(t, unix.Mknod(dir+"/"+name, unix.S_IFREG|0o600, 0))
		}
		exists[name] = !exists[name]
		return name
	}
	for range random.IntN(600) {
		name := toggle()
		stays[name] = exists[name]
	}
	fd := openDir(t, dir)
	for {
		entries := getdents(t, fd, 300+random.IntN(5000))
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			seen[e.name]++
		}
		for range random.IntN(20) {
			touched[toggle()] = true
		}
	}
	for name, there := range stays {
		if there && !touched[name] && seen[name] != 1 {
			t.Errorf("%s/%s was there all the time and seen %d times", dir, name, seen[name])
		}
	}
	for name, n := range seen {
		if n > 1 && !touched[name] {
			t.Errorf("%s/%s was seen %d times", dir, name, n)
		}
	}
}

func TestSeekdirToEveryCookie(t *testing.T) {
	m := mountForTest(t, Options{})
	for i := range 700 {
		must(t, unix.Mknod(m.path(fmt.Sprintf("%03d", i)), unix.S_IFREG|0o600, 0))
	}
	fd := openDir(t, m.dir)
	var all []dirEntry
	for {
		entries := getdents(t, fd, 2000)
		if len(entries) == 0 {
			break
		}
		all = append(all, entries...)
	}
	if len(all) != 702 {
		t.Fatalf("%d entries", len(all))
	}
	// A removed entry moves none of the others.
	must(t, os.Remove(m.path("350")))
	gone := slices.IndexFunc(all, func(e dirEntry) bool { return e.name == "350" })
	for _, i := range rand.Perm(len(all) - 1) {
		_, err := unix.Seek(fd, all[i].cookie, unix.SEEK_SET)
		must(t, err)
		next := getdents(t, fd, 300)
		want := all[i+1]
		if i+1 == gone {
			want = all[i+2]
		}
		if len(next) == 0 || next[0].name != want.name {
			t.Fatalf("after the cookie of %q comes %v, want %q", all[i].name, next, want.name)
		}
	}
	_, err := unix.Seek(fd, all[len(all)-1].cookie, unix.SEEK_SET)
	must(t, err)
	if rest := getdents(t, fd, 300); len(rest) != 0 {
		t.Errorf("after the last: %v", rest)
	}
	_, err = unix.Seek(fd, 1<<40, unix.SEEK_SET) // never given
	must(t, err)
	if rest := getdents(t, fd, 300); len(rest) != 0 {
		t.Errorf("after a cookie that was never given: %v", rest)
	}
}

// TestReaddirGivesWhatLookupWould looks at entries right after listing them with
// long timeouts: the attributes that came with the list must be true, and later
// changes seen.
func TestReaddirGivesWhatLookupWould(t *testing.T) {
	var ops opCounter
	m := mountForTest(t, Options{EntryTimeout: hour, AttrTimeout: hour, Observe: ops.observe})
	for i := range 300 {
		must(t, os.WriteFile(m.path(fmt.Sprintf("%03d", i)), make([]byte, i), 0o644))
	}
	entries, err := os.ReadDir(m.dir)
	must(t, err)
	for i, e := range entries {
		info, err := e.Info()
		if err != nil || info.Size() != int64(i) {
			t.Errorf("%s: %v, %v", e.Name(), info, err)
		}
	}
	must(t, os.Truncate(m.path("299"), 7))
	if st := stat(t, m.path("299")); st.Size != 7 {
		t.Errorf("size = %d, want 7", st.Size)
	}
	if ops.count("readdirplus") == 0 {
		t.Error("the kernel never asked for attributes with a list")
	}
}

func TestReaddirOfMany(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 20,000 files")
	}
	m := mountForTest(t, Options{})
	const files = 20_000
	for i := range files {
		must(t, unix.Mknod(m.path(fmt.Sprintf("file-%05d", i)), unix.S_IFREG|0o600, 0))
	}
	for range 2 {
		entries, err := os.ReadDir(m.dir)
		if err != nil || len(entries) != files {
			t.Fatalf("%d entries, %v", len(entries), err)
		}
	}
}

// TestCookiesOutliveTheirNames reads a large directory to its end, which must not keep all
// of its names in memory, changes it, and goes back to many places in it: from there on
// everything comes that came after it, and nothing from before.
func TestCookiesOutliveTheirNames(t *testing.T) {
	m := mountForTest(t, Options{})
	const files = 2000
	dir, random := m.path("d"), rand.New(rand.NewPCG(3, 4))
	must(t, os.Mkdir(dir, 0o755))
	name := func(i int, of string) string { return fmt.Sprintf("%06d-%s%s", i, of, strings.Repeat("x", 200)) }
	for i := range files {
		must(t, unix.Mknod(dir+"/"+name(i, "b"), unix.S_IFREG|0o600, 0))
	}
	fd := openDir(t, dir)
	var all []dirEntry
	for {
		entries := getdents(t, fd, 3000)
		if len(entries) == 0 {
			break
		}
		all = append(all, entries...)
	}
	if len(all) != files+2 {
		t.Fatalf("%d entries", len(all))
	}
	m.fs.dirs.mu.Lock()
	for _, d := range m.fs.dirs.open {
		d.mu.Lock()
		if n := len(d.cookies.kept); n > files/keepEvery+200 {
			t.Errorf("%d of %d names are kept", n, files)
		}
		d.mu.Unlock()
	}
	m.fs.dirs.mu.Unlock()
	gone := map[string]bool{}
	for i := range files {
		if random.IntN(3) == 0 || i > 1000 && i < 1500 || i > files-100 {
			must(t, os.Remove(dir+"/"+name(i, "b")))
			gone[name(i, "b")] = true
		}
		if random.IntN(3) == 0 {
			must(t, unix.Mknod(dir+"/"+name(i, []string{"a", "c"}[i%2]), unix.S_IFREG|0o600, 0))
		}
	}
	for _, i := range random.Perm(len(all))[:400] {
		want := ""
		for _, e := range all[i+1:] {
			if !gone[e.name] {
				want = e.name
				break
			}
		}
		if _, err := unix.Seek(fd, all[i].cookie, unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		if got := nextOld(t, fd); got != want {
			t.Fatalf("after %.10s comes %.10s, want %.10s", all[i].name, got, want)
		}
	}
}

// nextOld returns the first entry from here on that was there from the first.
func nextOld(t *testing.T, fd int) string {
	for {
		entries := getdents(t, fd, 3000)
		if len(entries) == 0 {
			return ""
		}
		for _, e := range entries {
			if len(e.name) < 8 || e.name[7] == 'b' {
				return e.name
			}
		}
	}
}

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fsxSeed is the seed of a run: ENGRAMFS_SEED, to see one again, or the time.
func fsxSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("ENGRAMFS_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("ENGRAMFS_SEED=%q is no number", v)
		}
	}
	return seed
}

// TestFsxAgreesWithTheLocalFileSystem checks the checker: what the model says of
// system calls is what the file system below says.
func TestFsxAgreesWithTheLocalFileSystem(t *testing.T) {
	seed := fsxSeed(t)
	x := newFsx(seed, t.TempDir(), nil, "")
	err := x.run(2000)
	x.closeAll()
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("the local file system lacks an operation: %v", err)
	}
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for _, a := range fsxActions {
		if !a.dav && x.done[a.name] == 0 {
			t.Errorf("2000 steps without %s", a.name)
		}
	}
}

// TestFsxSeesEveryDifference checks that it would have said something.
func TestFsxSeesEveryDifference(t *testing.T) {
	for name, spoil := range map[string]func(p string) error{
		"FlippedByte": func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(p, b, 0o600)
		},
		"Longer":  func(p string) error { return os.Truncate(p, 100_001) },
		"Shorter": func(p string) error { return os.Truncate(p, 99_999) },
		"Missing": os.Remove,
		"Extra":   func(p string) error { return os.WriteFile(p+"2", nil, 0o600) },
		"Linked":  func(p string) error { return os.Link(p, filepath.Join(filepath.Dir(filepath.Dir(p)), "elsewhere")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "fsx")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			x := newFsx(1, dir, nil, "")
			x.names["a"] = &fsxFile{data: Content(1, 100_000)}
			if err := os.WriteFile(x.path("a"), x.names["a"].data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := x.compareAll(); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := spoil(x.path("a")); err != nil {
				t.Fatal(err)
			}
			if x.compareAll() == nil {
				t.Error("not seen")
			}
		})
	}
}

// TestFsxThroughBothDoors does random things to a few files through the mount and
// over WebDAV, with passthrough and without.
func TestFsxThroughBothDoors(t *testing.T) {
	steps := 3000
	if long() {
		steps = 100_000
	}
	for _, integrity := range []string{"fast", "strict"} {
		t.Run(integrity, func(t *testing.T) { fsxOnMount(t, integrity, steps) })
	}
}

func fsxOnMount(t *testing.T, integrity string, steps int) {
	m := StartMounted(t, Options{Binary: engramfs, Args: []string{"--mount-integrity", integrity}})
	if err := os.Mkdir(m.Path("fsx"), 0o700); err != nil {
		t.Fatal(err)
	}
	seed := fsxSeed(t)
	x := newFsx(seed, m.Path("fsx"), connect(t, m.Server), "/fsx")
	t.Cleanup(func() { x.closeAll() })
	begin := time.Now()
	// Every part ends with a rest, in which files are sealed and released, and
	// with a restart: then everything has come from the disk.
	const parts = 5
	for part := range parts {
		end := m.Watch(time.Duration(60+steps/parts/50) * time.Second)
		err := x.run(steps / parts)
		end()
		if err != nil {
			t.Fatalf("integrity %s, seed %d: %v", integrity, seed, err)
		}
		if err := x.closeAll(); err != nil {
			t.Fatalf("integrity %s, seed %d: %v", integrity, seed, x.explain(err))
		}
		if long() {
			time.Sleep(8 * time.Second)
		}
		if part%2 == 1 {
			m.Restart()
			x.dav.Close() // the connection went with the server
		}
	}
	if err := x.compareAll(); err != nil {
		t.Errorf("integrity %s, seed %d, after the last restart: %v", integrity, seed, x.explain(err))
	}
	m.mustBeSound()
	t.Logf("fsx: integrity %s, %d steps, 0 divergences, seed %d, %v; %v", integrity, steps, seed, time.Since(begin).Round(time.Millisecond), x.done)
}

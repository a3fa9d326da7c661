package pebble

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"engramfs/store/meta"
)

// newStore makes a closed store with the key "a" in it.
func newStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta")
	db := mustOpen(t, path, Options{Create: true})
	put(t, db, "a", "1")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// dirContent returns the content of every file but the empty LOCK.
func dirContent(t *testing.T, path string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "LOCK" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(path, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

func remove(t *testing.T, pattern string) {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("Glob(%s) = %v, %v", pattern, names, err)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenRefusesDamagedStore: a store that has lost a file is never taken for a
// new one, and nothing is changed.
func TestOpenRefusesDamagedStore(t *testing.T) {
	for _, tt := range []struct {
		name, pattern, names string
	}{
		{"NoFormat", formatName, "FORMAT"},
		{"NoManifest", "MANIFEST-*", "MANIFEST-"},
		{"NoManifestMarker", "marker.manifest.*", "MANIFEST"},
		{"NoTable", "*.sst", ".sst"},
		{"NothingButFormat", "[^F]*", "MANIFEST"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newStore(t)
			remove(t, filepath.Join(path, tt.pattern))
			before := dirContent(t, path)
			_, err := Open(path, Options{Create: true})
			var corrupt *meta.CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("Open = %v, want a CorruptError", err)
			}
			if !strings.HasPrefix(corrupt.Path, path) || !strings.Contains(err.Error(), tt.names) ||
				!strings.Contains(err.Error(), "checkpoint") {
				t.Errorf("the message %q does not name %s in %s and the next step", err, tt.names, path)
			}
			for name, content := range before {
				if dirContent(t, path)[name] != content {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
}

func TestOpenRefusesForeignDirectory(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "holiday.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *meta.CorruptError
	if _, err := Open(path, Options{Create: true}); !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "holiday.jpg") {
		t.Errorf("Open = %v, want a CorruptError that names the file", err)
	}
	if c := dirContent(t, path); len(c) != 1 {
		t.Errorf("Open left %d files in somebody's directory, want 1", len(c))
	}
}

func TestOpenWithoutCreate(t *testing.T) {
	path := t.TempDir()
	for _, p := range []string{path, filepath.Join(path, "missing")} {
		if _, err := Open(p, Options{}); !errors.Is(err, meta.ErrNotExist) {
			t.Errorf("Open(%s) = %v, want ErrNotExist", p, err)
		}
	}
	if _, err := os.Stat(filepath.Join(path, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open made the directory: %v", err)
	}
	wantGet(t, mustOpen(t, newStore(t), Options{}), "a", "1")
}

func TestOpenRefusesNewerVersion(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"Format": func(path string) error {
			return os.WriteFile(filepath.Join(path, formatName), encodeFormat(formatVersion+1), 0o600)
		},
		"Pebble": func(path string) error {
			markers, err := filepath.Glob(filepath.Join(path, "marker.format-version.*"))
			if err != nil || len(markers) != 1 {
				return fmt.Errorf("markers %v, %v", markers, err)
			}
			return os.Rename(markers[0], filepath.Join(path, "marker.format-version.000099.999"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newStore(t)
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			before := dirContent(t, path)
			var version *meta.VersionError
			if _, err := Open(path, Options{Create: true}); !errors.As(err, &version) {
				t.Errorf("Open = %v, want a VersionError", err)
			}
			if after := dirContent(t, path); len(after) != len(before) {
				t.Errorf("%d files before, %d after", len(before), len(after))
			}
		})
	}
}

// TestOpenThroughOtherNameIsInUse: the lock is the directory's, not the name's.
func TestOpenThroughOtherNameIsInUse(t *testing.T) {
	path := newStore(t)
	mustOpen(t, path, Options{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, path + "/../meta", path + "/"} {
		if _, err := Open(p, Options{}); !errors.Is(err, meta.ErrInUse) {
			t.Errorf("Open(%s) = %v, want ErrInUse", p, err)
		}
	}
}

// TestLogLevels: Pebble's chatter is for Debug.
func TestLogLevels(t *testing.T) {
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "meta")
	logger := slog.New(slog.NewTextHandler(&log, nil))
	db := mustOpen(t, path, Options{Create: true, Logger: logger})
	put(t, db, "a", "1")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if log.Len() != 0 {
		t.Errorf("a healthy store logs at Info: %s", log.String())
	}
	log.Reset()
	debug := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	mustOpen(t, path, Options{Logger: debug})
	if !strings.Contains(log.String(), "level=DEBUG") {
		t.Errorf("nothing at Debug: %s", log.String())
	}
}

const helperEnv = "ENGRAMFS_TEST_STORE"

// TestHelperProcess is not a test: it is the other process of the tests below. It
// opens the store, says so, and writes and acknowledges until it is killed.
func TestHelperProcess(t *testing.T) {
	path := os.Getenv(helperEnv)
	if path == "" {
		t.Skip("only runs as a helper of other tests")
	}
	db, err := Open(path, Options{Create: true, MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("open")
	acks := make(chan string)
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d.%08d", w, i)
				if err := tryPut(db, "x"+key, strings.Repeat("v", 1500), "y"+key, "1"); err != nil {
					panic(err)
				}
				if err := db.Sync(); err != nil {
					panic(err)
				}
				acks <- key
			}
		}()
	}
	for key := range acks {
		fmt.Println("ack", key)
	}
}

// startHelper starts the other process and waits until it has the store open.
func startHelper(t *testing.T, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
	cmd.Env = append(os.Environ(), helperEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "open" {
			return cmd, lines
		}
	}
	t.Fatal("the helper did not open the store")
	return nil, nil
}

// TestKillKeepsAcknowledged kills a writing process again and again: the store is
// in use while it lives and free at once when it is dead, every acknowledged
// pair is there and none is torn.
func TestKillKeepsAcknowledged(t *testing.T) {
	for round := range 3 {
		path := filepath.Join(t.TempDir(), "meta")
		cmd, lines := startHelper(t, path)
		if _, err := Open(path, Options{}); !errors.Is(err, meta.ErrInUse) {
			t.Errorf("Open beside another process = %v, want ErrInUse", err)
		}
		timer := time.AfterFunc(time.Duration(100+100*round)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		var acked []string
		for lines.Scan() {
			if key, ok := strings.CutPrefix(lines.Text(), "ack "); ok && len(key) == 10 {
				acked = append(acked, key)
			}
		}
		timer.Stop()
		_ = cmd.Wait()
		if len(acked) < 10 {
			t.Fatalf("only %d acknowledgements before the kill", len(acked))
		}
		db := mustOpen(t, path, Options{})
		found := map[string]int{}
		if err := db.Scan(nil, nil, func(k, _ []byte) bool { found[string(k[1:])]++; return true }); err != nil {
			t.Fatal(err)
		}
		for _, key := range acked {
			if found[key] != 2 {
				t.Errorf("acknowledged pair %s has %d of 2 keys", key, found[key])
			}
		}
		for key, n := range found {
			if n != 2 {
				t.Errorf("pair %s is torn", key)
			}
		}
		t.Logf("killed after %d acknowledged pairs, found %d", len(acked), len(found))
	}
}

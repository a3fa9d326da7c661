package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newData returns a finished data folder.
func newData(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.finish(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n []string
	for _, e := range entries {
		n = append(n, e.Name())
	}
	return strings.Join(n, " ")
}

func TestNewDataFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !d.fresh {
		t.Error("a new folder is not fresh")
	}
	if err := errors.Join(d.finish(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "blobs lock meta version" {
		t.Errorf("folder has %q", got)
	}
	for name, want := range map[string]os.FileMode{".": 0o700, "meta": 0o700, "blobs": 0o700, "version": 0o600, "lock": 0o600} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v, want %v", name, fi.Mode().Perm(), err, want)
		}
	}
	if d, err = openData(dir); err != nil || d.fresh {
		t.Fatalf("second open: %v, fresh %t", err, d.fresh)
	}
	d.Close()
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := newData(t)
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openData(dir); !errors.Is(err, errDataInUse) {
		t.Errorf("second open: %v, want errDataInUse", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = openData(dir); err != nil {
		t.Fatalf("open after close: %v", err)
	}
	d.Close()
}

func TestForeignFolderIsRefusedAndUntouched(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "thesis.txt"), "x")
	if _, err := openData(dir); !errors.Is(err, errDataForeign) {
		t.Errorf("open: %v, want errDataForeign", err)
	}
	if got := names(t, dir); got != "thesis.txt" {
		t.Errorf("the folder now has %q", got)
	}
}

func TestMountPointIsAccepted(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}

func TestUnknownVersionIsRefused(t *testing.T) {
	for _, version := range []string{"engramfs 2\n", "", "junk"} {
		dir := newData(t)
		put(t, filepath.Join(dir, "version"), version)
		if _, err := openData(dir); !errors.Is(err, errDataVersion) {
			t.Errorf("version %q: %v, want errDataVersion", version, err)
		}
	}
}

// A store whose blobs are gone must not become an empty store. (Without its metadata it is salvaged.)
func TestMissingPartIsRefused(t *testing.T) {
	for _, part := range []string{"blobs"} {
		dir := newData(t)
		if err := os.Rename(filepath.Join(dir, part), filepath.Join(dir, part+".old")); err != nil {
			t.Fatal(err)
		}
		if _, err := openData(dir); !errors.Is(err, errDataPart) {
			t.Errorf("without %s: %v, want errDataPart", part, err)
		}
		if _, err := os.Stat(filepath.Join(dir, part)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made again", part)
		}
	}
	dir := newData(t)
	if err := os.Remove(filepath.Join(dir, "version")); err != nil {
		t.Fatal(err)
	}
	if _, err := openData(dir); !errors.Is(err, errDataForeign) {
		t.Errorf("without version: %v, want errDataForeign", err)
	}
}

func TestInterruptedCreationStartsAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, d.path("meta/half"), "x")
	put(t, d.path(tempPrefix+"1"), "x")
	d.Close() // as after kill -9
	if d, err = openData(dir); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := names(t, d.path("meta")); !d.fresh || got != "" {
		t.Errorf("fresh %t, meta has %q", d.fresh, got)
	}
	if got := names(t, dir); got != "blobs creating lock meta" {
		t.Errorf("folder has %q", got)
	}
}

func TestCrashAfterTheVersionKeepsTheStore(t *testing.T) {
	dir := newData(t)
	put(t, filepath.Join(dir, "creating"), "")
	put(t, filepath.Join(dir, "meta", "precious"), "x")
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.fresh || names(t, d.path("meta")) != "precious" || strings.Contains(names(t, dir), "creating") {
		t.Errorf("fresh %t, meta %q, folder %q", d.fresh, names(t, d.path("meta")), names(t, dir))
	}
}

func TestWriteFileReplacesOrLeaves(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	for _, text := range []string{"one", "two"} {
		if err := writeFile(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(name); string(got) != text {
			t.Errorf("file has %q, want %q", got, text)
		}
	}
	// A target that cannot be replaced: the temporary file goes.
	if err := os.MkdirAll(filepath.Join(dir, "d", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "d"), []byte("x")); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if got := names(t, dir); got != "d f" {
		t.Errorf("left behind: %q", got)
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Files and folders of a data folder.
const (
	lockFile     = "lock"     // held with flock(2) by the process that serves it; its text is the pid
	versionFile  = "version"  // dataVersion; its presence is what makes the folder a store
	creatingFile = "creating" // a new store is being made and has never answered anybody
	usersFile    = "users"    // names and hashes of passwords
	metaDir      = "meta"
	blobsDir     = "blobs"
	copyDir      = "copy" // the second copy of the metadata, unless it is elsewhere
)

// dataVersion is the layout of the data folder that this program knows.
const dataVersion = "engramfs 1"

// Errors of opening a data folder.
var (
	errDataInUse   = errors.New("data folder is in use by another process")
	errDataForeign = errors.New("folder is not empty and holds no store")
	errDataVersion = errors.New("unknown version of the data folder")
	errDataPart    = errors.New("a part of the data folder is missing")
)

// dataFolder is an open data folder, locked for this process.
type dataFolder struct {
	dir   string
	lock  *os.File
	fresh bool // the store in it is yet to be made: see finish
}

// openData locks the data folder dir, and makes it if it is empty or does not
// exist. A folder with other content, of another version, or with a missing
// part is refused: nothing is ever made in the place of a store that was lost.
func openData(dir string) (*dataFolder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	d := &dataFolder{dir: dir}
	// Before the lock, so that nothing is written into somebody else's folder.
	if err := d.check(); err != nil {
		return nil, err
	}
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// makeDir makes dir and its parents, durably: a store is lost with the entry of
// its folder.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func (d *dataFolder) path(name string) string { return filepath.Join(d.dir, name) }

// check sets d.fresh, and refuses a folder that is not a store.
func (d *dataFolder) check() error {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	has := func(name string) bool { return slices.Contains(names, name) }
	if has(versionFile) {
		d.fresh = false
		return d.checkVersion()
	}
	d.fresh = true
	if has(creatingFile) {
		return nil
	}
	for _, name := range names {
		if name != lockFile && name != "lost+found" && !strings.HasPrefix(name, tempPrefix) {
			return hint(fmt.Errorf("%s: %w (it has %q)", d.dir, errDataForeign, name),
				"name an empty folder, or one that engramfs has made, with --data")
		}
	}
	return nil
}

func (d *dataFolder) checkVersion() error {
	text, err := os.ReadFile(d.path(versionFile))
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(text)); got != dataVersion {
		return hint(fmt.Errorf("%s: %w: %.40q, this program knows %q", d.path(versionFile), errDataVersion, got, dataVersion),
			"use the version of engramfs that wrote it; nothing was changed")
	}
	// Without its metadata a store is salvaged, see openMetadata.
	if fi, err := os.Stat(d.path(blobsDir)); err != nil || !fi.IsDir() {
		return hint(fmt.Errorf("%s: %w", d.path(blobsDir), errDataPart),
			"restore the whole data folder from a backup; nothing was changed")
	}
	return nil
}

// takeLock takes the folder for this process. The kernel drops the lock when
// the process ends, however it ends.
func (d *dataFolder) takeLock() error {
	f, err := os.OpenFile(d.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := d.flock(f); err != nil {
		f.Close()
		return hint(err, "stop that process, or give this one a folder of its own with --data")
	}
	d.lock = f
	// The pid is for people, so failing to write it is no reason to stop.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return nil
}

// flock locks the folder's lock file. It returns errDataInUse, with the pid of who has
// it, at once.
func (d *dataFolder) flock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, syscall.EWOULDBLOCK):
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	holder := "unknown"
	if pid, err := io.ReadAll(io.LimitReader(f, 20)); err == nil && len(pid) > 0 {
		holder = strings.TrimSpace(string(pid))
	}
	return fmt.Errorf("%s: %w (pid %s)", d.dir, errDataInUse, holder)
}

// prepare looks again, now that nobody else can change the folder, and lays
// out a new one.
func (d *dataFolder) prepare() error {
	if err := d.check(); err != nil {
		return err
	}
	if err := d.removeTemps(); err != nil || !d.fresh {
		return err
	}
	// What an interrupted creation left was never shown to anybody.
	if err := errors.Join(os.RemoveAll(d.path(metaDir)), os.RemoveAll(d.path(blobsDir))); err != nil {
		return err
	}
	if err := writeFile(d.path(creatingFile), nil); err != nil {
		return err
	}
	for _, name := range []string{metaDir, blobsDir} {
		if err := os.Mkdir(d.path(name), 0o700); err != nil {
			return err
		}
	}
	return syncDir(d.dir)
}

// removeTemps removes what writeFile and finish left when they were cut off.
func (d *dataFolder) removeTemps() error {
	left, err := filepath.Glob(d.path(tempPrefix + "*"))
	if err != nil {
		return err
	}
	if !d.fresh {
		left = append(left, d.path(creatingFile))
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// finish makes a fresh folder a store for good. The caller calls it when the
// store in it is durable, before it answers anybody: until then a crash leaves
// a folder that the next start makes anew.
func (d *dataFolder) finish() error {
	if !d.fresh {
		return nil
	}
	if err := writeFile(d.path(versionFile), []byte(dataVersion+"\n")); err != nil {
		return err
	}
	if err := os.Remove(d.path(creatingFile)); err != nil {
		return err
	}
	d.fresh = false
	return syncDir(d.dir)
}

// Close releases the folder.
func (d *dataFolder) Close() error { return d.lock.Close() }

// tempPrefix begins the names of files that are not written to their end.
const tempPrefix = ".tmp-"

// writeFile replaces a file atomically and durably, readable by its owner only.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

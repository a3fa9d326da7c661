package pebble

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"strings"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// The file FORMAT says that a directory is a complete store and of which kind. It
// is written last, when the store has been made or copied, so that a creation
// that was cut short and a store that has lost files cannot be confused.
const (
	formatName = "FORMAT"
	formatKind = "engramfs-meta pebble"

	// formatVersion counts changes that older programs must not touch.
	formatVersion = 1
)

func encodeFormat(version int) []byte {
	body := fmt.Sprintf("%s %d", formatKind, version)
	return fmt.Appendf(nil, "%s %08x\n", body, crc32.Checksum([]byte(body), castagnoli))
}

// checkFormat returns nil if dir is marked as a store of this format, an
// error that wraps fs.ErrNotExist if it is not marked, a *meta.VersionError or
// a *meta.CorruptError.
func checkFormat(disk vfs.FS, dir string) error {
	path := disk.PathJoin(dir, formatName)
	b, err := readFile(disk, path)
	if err != nil {
		return err
	}
	rest, ok := strings.CutPrefix(string(b), formatKind+" ")
	number, _, _ := strings.Cut(rest, " ")
	version, err := strconv.Atoi(number)
	if !ok || err != nil || string(encodeFormat(version)) != string(b) {
		return &meta.CorruptError{Path: path, Err: errors.New("checksum mismatch")}
	}
	if version != formatVersion {
		return &meta.VersionError{Path: path, Found: strings.TrimSpace(string(b)),
			Supported: fmt.Sprintf("%s %d", formatKind, formatVersion)}
	}
	return nil
}

// markFormat marks dir as a complete store.
func markFormat(disk vfs.FS, dir string) error {
	return writeFileSync(disk, dir, formatName, encodeFormat(formatVersion))
}

// checkPebbleVersion returns a *meta.VersionError if a newer Pebble has written
// the store. The number is the last part of the name of a marker file.
func checkPebbleVersion(dir string, names []string) error {
	for _, name := range names {
		if !strings.HasPrefix(name, "marker.format-version.") {
			continue
		}
		v, err := strconv.Atoi(name[strings.LastIndexByte(name, '.')+1:])
		if err == nil && v > int(pebbledb.FormatNewest) {
			return &meta.VersionError{Path: dir, Found: "pebble " + strconv.Itoa(v),
				Supported: fmt.Sprintf("pebble %d and older", pebbledb.FormatNewest)}
		}
	}
	return nil
}

// preflight decides what dir is before anything in it is touched: a store to be
// opened, or a place to make one (fresh). It returns meta.ErrNotExist if there
// is no store and none is to be made, and a *meta.CorruptError if there is
// something that is neither. dir must exist and be locked.
func preflight(disk vfs.FS, dir string, create bool) (fresh bool, err error) {
	names, err := disk.List(dir)
	if err != nil {
		return false, err
	}
	err = checkFormat(disk, dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := checkLeftovers(dir, names); err != nil {
			return false, err
		}
		if !create {
			return false, fmt.Errorf("%w: %s", meta.ErrNotExist, dir)
		}
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if err := checkPebbleVersion(dir, names); err != nil {
		return false, err
	}
	desc, err := pebbledb.Peek(dir, disk)
	if err != nil {
		return false, err
	}
	if !desc.Exists {
		return false, &meta.CorruptError{Path: dir, Err: errors.New("it is marked as a store but names no MANIFEST")}
	}
	return false, verifySeals(disk, dir, desc.ManifestFilename, names)
}

// checkLeftovers returns nil if names is what a creation that was cut short may
// leave over: nothing of value. Anything else is not to be built upon.
func checkLeftovers(dir string, names []string) error {
	for _, name := range names {
		switch {
		case name == "LOCK", name == manifestSealName, name == logSealName, name == formatName+tmpSuffix:
		case strings.HasPrefix(name, "marker."), isJournal(name):
		case strings.HasPrefix(name, "OPTIONS-"), strings.HasPrefix(name, "temporary."):
		default:
			return &meta.CorruptError{Path: dir, Err: fmt.Errorf(
				"the directory is not empty and is not a complete store: it has %q but no %s", name, formatName)}
		}
	}
	return nil
}

const tmpSuffix = ".tmp"

// writeFileSync replaces a file durably and atomically.
func writeFileSync(disk vfs.FS, dir, name string, data []byte) error {
	path := disk.PathJoin(dir, name)
	file, err := disk.Create(path+tmpSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := disk.Rename(path+tmpSuffix, path); err != nil {
		return err
	}
	return syncDir(disk, dir)
}

func syncDir(disk vfs.FS, dir string) error {
	d, err := disk.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readFile returns the content of a small file.
func readFile(disk vfs.FS, path string) ([]byte, error) {
	file, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, 1<<20))
}

package pebble

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// Pebble reads a MANIFEST up to the first record that fails its checksum and
// takes the rest for the torn end of a crash. A flipped bit then drops edits, and
// the tables and WALs that they named are deleted as obsolete. The seal tells
// the two apart: it holds the length and the CRC32C of what was synced of the
// current MANIFEST. What it covers must match; only what follows may be torn.
//
// The seal is written after the MANIFEST was synced and is not synced itself: an
// old seal covers less, and a seal that is torn or about another MANIFEST says
// nothing, which is safe.

const (
	sealName = "manifest.seal"
	sealSize = 128 // one write of this size does not straddle a page
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeSeal returns the seal as one padded line with its own checksum.
func encodeSeal(manifest string, length int64, crc uint32) []byte {
	body := fmt.Sprintf("v1 %s %d %08x", manifest, length, crc)
	line := fmt.Sprintf("%s %08x", body, crc32.Checksum([]byte(body), castagnoli))
	return fmt.Appendf(nil, "%-*s\n", sealSize-1, line)
}

// decodeSeal returns what encodeSeal has written; ok is false if b is not that.
func decodeSeal(b []byte) (manifest string, length int64, crc uint32, ok bool) {
	var sum uint32
	if n, err := fmt.Sscanf(string(b), "v1 %s %d %x %x", &manifest, &length, &crc, &sum); n != 4 || err != nil {
		return "", 0, 0, false
	}
	return manifest, length, crc, string(b) == string(encodeSeal(manifest, length, crc))
}

// openSeal opens the seal for seal to write.
func (f *fence) openSeal() error {
	file, err := f.FS.OpenReadWrite(f.FS.PathJoin(f.dir, sealName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	f.sealMu.Lock()
	defer f.sealMu.Unlock()
	f.sealFile = file
	return nil
}

// seal notes how much of a MANIFEST is durable. A failed write freezes the
// fence like any other.
func (f *fence) seal(manifest string, length int64, crc uint32) {
	f.sealMu.Lock()
	defer f.sealMu.Unlock()
	if f.sealFile == nil {
		return
	}
	_, err := f.sealFile.WriteAt(encodeSeal(manifest, length, crc), 0)
	f.check("write", sealName, err)
}

func (f *fence) closeSeal() {
	f.sealMu.Lock()
	defer f.sealMu.Unlock()
	if f.sealFile != nil {
		_ = f.sealFile.Close() // never synced, so an error tells nothing
		f.sealFile = nil
	}
}

// verifySeal returns a *meta.CorruptError if the current MANIFEST of dir is not
// what was synced.
func verifySeal(disk vfs.FS, dir, manifestPath string) error {
	b, err := readFile(disk, disk.PathJoin(dir, sealName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	name, length, want, ok := decodeSeal(b)
	if !ok || name != disk.PathBase(manifestPath) {
		return nil
	}
	n, got, err := checksum(disk, manifestPath, length)
	if err != nil {
		return err
	}
	if n != length || got != want {
		return &meta.CorruptError{Path: manifestPath, Err: fmt.Errorf(
			"the first %d bytes have checksum %08x, want %d bytes with %08x", n, got, length, want)}
	}
	return nil
}

// sealCheckpoint writes the seal of a finished checkpoint, whose MANIFEST is
// durable as a whole.
func sealCheckpoint(disk vfs.FS, dir string) error {
	desc, err := pebbledb.Peek(dir, disk)
	if err != nil {
		return err
	}
	n, crc, err := checksum(disk, desc.ManifestFilename, math.MaxInt64)
	if err != nil {
		return err
	}
	return writeFileSync(disk, dir, sealName, encodeSeal(disk.PathBase(desc.ManifestFilename), n, crc))
}

// checksum returns the CRC32C of the first max bytes and how many there were.
func checksum(disk vfs.FS, path string, max int64) (n int64, crc uint32, err error) {
	file, err := disk.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	h := crc32.New(castagnoli)
	n, err = io.Copy(h, io.LimitReader(file, max))
	return n, h.Sum32(), err
}

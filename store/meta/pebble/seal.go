package pebble

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// Pebble reads a MANIFEST, and the newest write-ahead log, up to the first record that
// fails its checksum, and takes the rest for the torn end of a crash. A flipped bit
// then drops what was synced: edits of the MANIFEST, and the tables and logs that they
// named are deleted as obsolete; or the updates at the end of the log. A seal tells the
// two apart: it holds the length and the CRC32C of what was synced of the newest file
// of a kind. What it covers must match; only what follows may be torn.
//
// A seal is written after the file was synced, before anyone is told so, and is not
// synced itself. So after a kill it covers everything that was ever acknowledged; after
// a power cut it may be as old as the kernel keeps a page (30 s, vm.dirty_expire_centisecs
// in proc(5)) and covers less. A seal that is torn, or about another file, says nothing.
// Both are safe.

const (
	manifestSealName = "manifest.seal"
	logSealName      = "log.seal"

	sealSize = 128 // one write of this size does not straddle a page
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal is a file with what is durable of the newest file of a kind. Its methods may be
// called by several goroutines at once.
type seal struct {
	name string

	mu   sync.Mutex // protects file
	file vfs.File   // nil: not open
}

// open opens the seal for write.
func (s *seal) open(disk vfs.FS, dir string) error {
	file, err := disk.OpenReadWrite(disk.PathJoin(dir, s.name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = file
	return nil
}

// write notes how much of the file named base is durable.
func (s *seal) write(base string, length int64, crc uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	_, err := s.file.WriteAt(encodeSeal(base, length, crc), 0)
	return err
}

func (s *seal) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close() // never synced, so an error tells nothing
		s.file = nil
	}
}

// encodeSeal returns a seal as one padded line with its own checksum. It is part of
// every sync, so it is not left to fmt.
func encodeSeal(base string, length int64, crc uint32) []byte {
	b := append(make([]byte, 0, sealSize), "v1 "...)
	b = append(append(b, base...), ' ')
	b = append(strconv.AppendInt(b, length, 10), ' ')
	b = append(appendHex(b, crc), ' ')
	b = appendHex(b, crc32.Checksum(b[:len(b)-1], castagnoli))
	for len(b) < sealSize-1 {
		b = append(b, ' ')
	}
	return append(b, '\n')
}

func appendHex(b []byte, n uint32) []byte {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], n)
	return hex.AppendEncode(b, raw[:])
}

// decodeSeal returns what encodeSeal has written; ok is false if b is not that.
func decodeSeal(b []byte) (base string, length int64, crc uint32, ok bool) {
	var sum uint32
	if n, err := fmt.Sscanf(string(b), "v1 %s %d %x %x", &base, &length, &crc, &sum); n != 4 || err != nil {
		return "", 0, 0, false
	}
	return base, length, crc, string(b) == string(encodeSeal(base, length, crc))
}

// verifySeals returns a *meta.CorruptError if the MANIFEST in use, or the newest log,
// of dir is not what was synced. names are the files in dir.
func verifySeals(disk vfs.FS, dir, manifest string, names []string) error {
	if err := verifySeal(disk, dir, manifestSealName, func(base string) bool {
		return base == disk.PathBase(manifest)
	}); err != nil {
		return err
	}
	return verifySeal(disk, dir, logSealName, func(base string) bool {
		// An older log goes only once there is a newer one: without either it was lost.
		return slices.Contains(names, base) || !slices.ContainsFunc(names, func(n string) bool { return logNumber(n) > logNumber(base) })
	})
}

// verifySeal compares a file with its seal, if applies says of its name that it matters.
func verifySeal(disk vfs.FS, dir, name string, applies func(base string) bool) error {
	b, err := readFile(disk, disk.PathJoin(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	base, length, want, ok := decodeSeal(b)
	if !ok || !applies(base) {
		return nil
	}
	path := disk.PathJoin(dir, base)
	n, got, err := checksum(disk, path, length)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case n == length && got == want:
		return nil
	default:
		err = fmt.Errorf("the first %d bytes have checksum %08x, want %d bytes with %08x", n, got, length, want)
	}
	return &meta.CorruptError{Path: path, Err: err}
}

// sealCheckpoint writes the seals of a finished checkpoint, which is durable as a whole.
func sealCheckpoint(disk vfs.FS, dir string) error {
	desc, err := pebbledb.Peek(dir, disk)
	if err != nil {
		return err
	}
	if err := sealWhole(disk, dir, manifestSealName, disk.PathBase(desc.ManifestFilename)); err != nil {
		return err
	}
	names, err := disk.List(dir)
	if err != nil {
		return err
	}
	newest := slices.MaxFunc(append(names, ""), func(a, b string) int { return int(logNumber(a) - logNumber(b)) })
	if logNumber(newest) < 0 {
		return nil
	}
	return sealWhole(disk, dir, logSealName, newest)
}

// sealWhole writes a seal that covers all of the file named base.
func sealWhole(disk vfs.FS, dir, name, base string) error {
	n, crc, err := checksum(disk, disk.PathJoin(dir, base), math.MaxInt64)
	if err != nil {
		return err
	}
	return writeFileSync(disk, dir, name, encodeSeal(base, n, crc))
}

// logNumber returns the number of the log named base; negative if it is none.
func logNumber(base string) int64 {
	digits, ok := strings.CutSuffix(base, logSuffix)
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil {
		return -1
	}
	return n
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

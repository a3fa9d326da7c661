package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"engramfs/store/meta"
)

// LastChange returns when the newest change was made that r has, to see which of two
// copies of a store's metadata is the newer one. Every operation changes the time of an
// inode, that of the directory at least. Zero: r has no inode. It reads all of them; what
// is damaged, or in a sector that cannot be read (EIO), does not count, nor as many
// inodes after it, so that an engine can be asked of which a part cannot be read.
func LastChange(r meta.Reader) (time.Time, error) {
	last := int64(0)
	for next, step := Ino(0), Ino(1); ; step *= 2 {
		lo := binary.BigEndian.AppendUint64([]byte{keyInode}, uint64(next))
		err := scanContained(r, lo, []byte{keyInode + 1}, func(key, value []byte) bool {
			ino := inoOfKey(key)
			if v, err := decodeInode(ino, value); err == nil {
				last = max(last, v.Ctime)
			}
			next, step = ino, 1
			return true
		})
		switch {
		case err != nil && !meta.IsCorrupt(err) && !errors.Is(err, syscall.EIO):
			return time.Time{}, err
		case err != nil && next < math.MaxInt64:
			next += step // over the damage, as fast as it turns out to be large
			continue
		case last == 0:
			return time.Time{}, nil
		}
		return time.Unix(0, last), nil
	}
}

// scanContained is r.Scan. An engine may panic about what it reads: that is damage, too.
func scanContained(r meta.Reader, lo, hi []byte, fn func(key, value []byte) bool) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &meta.CorruptError{Path: "the engine", Err: fmt.Errorf("panic: %v", v)}
		}
	}()
	return r.Scan(lo, hi, fn)
}

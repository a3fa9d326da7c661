package store

import (
	"time"

	"engramfs/store/meta"
)

// LastChange returns when the newest change was made that r has, to see which of two
// copies of a store's metadata is the newer one. Every operation changes the time of an
// inode, that of the directory at least. Zero: r has no inode. It reads all of them; what
// cannot be decoded does not count.
func LastChange(r meta.Reader) (time.Time, error) {
	last := int64(0)
	err := r.Scan([]byte{keyInode}, []byte{keyInode + 1}, func(key, value []byte) bool {
		if v, err := decodeInode(inoOfKey(key), value); err == nil {
			last = max(last, v.Ctime)
		}
		return true
	})
	if err != nil || last == 0 {
		return time.Time{}, err
	}
	return time.Unix(0, last), nil
}

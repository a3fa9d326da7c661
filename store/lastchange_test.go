package store_test

import (
	"encoding/binary"
	"io/fs"
	"syscall"
	"testing"

	"engramfs/store"
	"engramfs/store/meta"
)

// holed is a reader that cannot read the inodes in [lo, hi).
type holed struct {
	meta.Reader
	lo, hi store.Ino
	err    error // nil: it panics
}

func (h holed) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	bad := false
	err := h.Reader.Scan(lo, hi, func(key, value []byte) bool {
		ino := store.Ino(binary.BigEndian.Uint64(key[1:]))
		bad = ino >= h.lo && ino < h.hi
		return !bad && fn(key, value)
	})
	if bad {
		if h.err == nil {
			panic("block cannot be parsed")
		}
		return h.err
	}
	return err
}

func TestLastChangeOfADamagedEngine(t *testing.T) {
	sector := &fs.PathError{Op: "read", Path: "000004.sst", Err: syscall.EIO}
	for name, bad := range map[string]error{"Checksum": &meta.CorruptError{}, "Sector": sector, "Panic": nil} {
		t.Run(name, func(t *testing.T) { lastChangeOfADamagedEngine(t, bad) })
	}
}

func lastChangeOfADamagedEngine(t *testing.T, bad error) {
	sh := newShelf(t)
	sh.engine(t, func(db meta.Engine) {
		want, err := store.LastChange(db)
		if err != nil || want.IsZero() {
			t.Fatalf("LastChange = %s, %v", want, err)
		}
		last := store.RootIno // the inode that was changed last
		for ino := store.RootIno; ino < 100; ino++ {
			if at, err := store.LastChange(holed{db, ino, ino + 1, bad}); err != nil {
				t.Errorf("without inode %d: %v", ino, err)
			} else if !at.Equal(want) {
				last = ino
			}
		}
		if last < 4 {
			t.Fatalf("inode %d was changed last, which shows nothing", last)
		}
		if at, err := store.LastChange(holed{db, store.RootIno, 3, bad}); err != nil || !at.Equal(want) {
			t.Errorf("without the inodes before 3: %s, %v, want %s", at, err, want)
		}
		if at, err := store.LastChange(holed{db, 0, 1 << 63, bad}); err != nil || !at.IsZero() {
			t.Errorf("without any inode: %s, %v", at, err)
		}
	})
}

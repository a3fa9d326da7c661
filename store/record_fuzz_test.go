package store

import (
	"errors"
	"testing"
	"time"

	"engramfs/store/meta"
)

// FuzzParseLock: the record of a WebDAV lock is read as it was written, or refused.
func FuzzParseLock(f *testing.F) {
	f.Add(appendLock(nil, &DAVLock{Path: "/a", Owner: "<D:href>me</D:href>", Principal: "me", Timeout: time.Minute, Expires: time.Unix(9, 9), Infinite: true}))
	f.Add(appendLock(nil, &DAVLock{Path: "/", Shared: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLock("token", b)
		if err != nil {
			var version *meta.VersionError
			if !errors.Is(err, errLockRecord) && !errors.As(err, &version) {
				t.Fatalf("%x: %v, want errLockRecord or a *meta.VersionError", b, err)
			}
			return
		}
		again, err := parseLock("token", appendLock(nil, &l))
		if err != nil || again != l {
			t.Fatalf("%+v became %+v, %v", l, again, err)
		}
	})
}

// FuzzNameOfRecord: the name can be taken from every record that decode accepts,
// also without decoding it.
func FuzzNameOfRecord(f *testing.F) {
	f.Add(appendInode(nil, &inode{Attr: Attr{Mode: ModeRegular | 0o644, Nlink: 1}, name: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v inode
		if v.decode(7, b) != nil {
			return
		}
		if full, err := decodeInode(7, b); err != nil || full.name != string(nameOfRecord(b)) {
			t.Fatalf("name %q, %v, want %q", full.name, err, nameOfRecord(b))
		}
	})
}

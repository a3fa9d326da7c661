package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"engramfs/store/meta"
)

// Locks live in the engine under lockPrefix + token, one record each.
const (
	lockPrefix  = 'L'
	lockVersion = 1 // first byte of a record
)

const (
	lockInfinite = 1 << iota
	lockShared
)

var errLockRecord = errors.New("malformed WebDAV lock record")

func lockKey(token string) []byte {
	return append([]byte{lockPrefix}, token...)
}

// appendLock appends l's record: version, flags, timeout and expiry in ns, then
// path, principal and owner, each behind its length.
func appendLock(b []byte, l *DAVLock) []byte {
	var flags byte
	if l.Infinite {
		flags |= lockInfinite
	}
	if l.Shared {
		flags |= lockShared
	}
	b = append(b, lockVersion, flags)
	b = binary.AppendVarint(b, int64(l.Timeout))
	b = binary.AppendVarint(b, l.Expires.UnixNano())
	for _, s := range []string{l.Path, l.Principal, l.Owner} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// parseLock reads the record of the lock named token.
func parseLock(token string, b []byte) (DAVLock, error) {
	if len(b) < 2 {
		return DAVLock{}, errLockRecord
	}
	if b[0] != lockVersion {
		return DAVLock{}, &meta.VersionError{Path: "WebDAV lock " + token, Found: fmt.Sprint(b[0]), Supported: fmt.Sprint(lockVersion)}
	}
	l := DAVLock{Token: token, Infinite: b[1]&lockInfinite != 0, Shared: b[1]&lockShared != 0}
	b = b[2:]
	var nums [2]int64
	for i := range nums {
		v, n := binary.Varint(b)
		if n <= 0 {
			return DAVLock{}, errLockRecord
		}
		nums[i], b = v, b[n:]
	}
	l.Timeout, l.Expires = time.Duration(nums[0]), time.Unix(0, nums[1])
	for _, s := range []*string{&l.Path, &l.Principal, &l.Owner} {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > uint64(len(b)-n) {
			return DAVLock{}, errLockRecord
		}
		*s, b = string(b[n:n+int(v)]), b[n+int(v):]
	}
	if len(b) > 0 || l.Path == "" || l.Path[0] != '/' {
		return DAVLock{}, errLockRecord
	}
	return l, nil
}

// loadDAVLocks reads every lock from the engine. A record it cannot read is an
// error, not a lock less: a lost lock is a lost update.
func loadDAVLocks(r meta.Reader) (davLocks, error) {
	s := newDAVLocks()
	var failed error
	err := r.Scan([]byte{lockPrefix}, []byte{lockPrefix + 1}, func(key, value []byte) bool {
		l, err := parseLock(string(key[1:]), value)
		if err != nil {
			failed = fmt.Errorf("WebDAV lock %s: %w", key[1:], err)
			return false
		}
		s.put(l)
		return true
	})
	if err == nil {
		err = failed
	}
	return s, err
}

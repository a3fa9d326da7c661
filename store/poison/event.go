package poison

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// maxValue bounds Event.Value, in bytes: a panic value may print as megabytes,
// and events are kept, logged and shown.
const maxValue = 8 << 10

// An Event is one poisoning of one lock. Events are shared between goroutines
// and must not be modified.
type Event struct {
	ID    string    `json:"id"`              // unique and sorting by time (a UUID of version 7)
	Lock  string    `json:"lock"`            // name of the lock
	Op    string    `json:"op"`              // the section that did it
	Cause Cause     `json:"cause"`           // why
	Value string    `json:"value"`           // panic value or error as text, at most 8 KiB; empty for Goexit
	Stack []byte    `json:"stack,omitempty"` // of the goroutine that did it; not for clients
	Gen   uint64    `json:"gen"`             // generation to name in Reset
	At    time.Time `json:"at"`

	// Also names the other locks poisoned by the same section, in lock order.
	Also []string `json:"also,omitempty"`
	// Detail is FamilyOptions.Detail of the lock. It is filled in only in the
	// copies that Registry.Health, Registry.LockHealth and hooks get.
	Detail string `json:"detail,omitempty"`
}

// newEventID returns a UUID of version 7 (RFC 9562 section 5.7): milliseconds
// since 1970, then random bits.
func newEventID(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[0:], uint64(now.UnixMilli())<<16|uint64(rand.Uint32()&0xffff))
	binary.BigEndian.PutUint64(b[8:], rand.Uint64())
	b[6] = b[6]&0x0f | 0x70
	b[8] = b[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:36], b[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// describe returns a panic value as text. Package fmt turns a panic in the
// value's own Error or String method into text as well.
func describe(v any) string {
	if v == nil {
		return ""
	}
	s := fmt.Sprint(v)
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "") + " (cut)"
	}
	return s
}

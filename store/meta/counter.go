package meta

import (
	"encoding/binary"
	"fmt"
)

// counterSize is the length of an encoded counter.
const counterSize = 8

// EncodeCounter returns the stored form of a counter: 8 bytes, big-endian, two's
// complement. Every engine shows counters in this form through Get, Scan and
// GetMany, and a Put of it sets the counter.
func EncodeCounter(n int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, counterSize), uint64(n))
}

// DecodeCounter returns the counter that EncodeCounter has encoded. It is an
// error if v is not 8 bytes long.
func DecodeCounter(v []byte) (int64, error) {
	if len(v) != counterSize {
		return 0, fmt.Errorf("meta: counter has %d bytes, want %d", len(v), counterSize)
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

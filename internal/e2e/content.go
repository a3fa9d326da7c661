package e2e

import (
	"encoding/binary"
	"math/rand/v2"
)

// Content returns size bytes that depend on seed and size only, so that what
// was written can be made again to check it.
func Content(seed uint64, size int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(size))
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

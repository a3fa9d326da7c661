package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Cost of a new hash: the second recommendation of the OWASP password storage
// cheat sheet for argon2id. 19 MiB keeps a burst of logins inside the memory
// that a small server has.
const (
	hashMemory  = 19 << 10 // KiB
	hashPasses  = 2
	hashThreads = 1
	saltSize    = 16 // bytes
	keySize     = 32 // bytes
)

// Upper bounds of what a stored hash may ask for, so that a mistyped users
// file cannot make every login take all memory.
const (
	maxHashMemory  = 1 << 20 // KiB
	maxHashPasses  = 32
	maxHashThreads = 16
	maxHashBytes   = 128 // salt or key
)

// errHash is returned for text that is not an argon2id hash in PHC form.
var errHash = errors.New("not an argon2id hash")

// Hash is a salted argon2id hash of a password. The zero Hash matches nothing.
type Hash struct {
	memory, passes uint32
	threads        uint8
	salt, key      []byte
}

// NewHash hashes password with a random salt. It takes some 20 ms and 19 MiB.
func NewHash(password string) Hash {
	h := Hash{memory: hashMemory, passes: hashPasses, threads: hashThreads, salt: make([]byte, saltSize)}
	rand.Read(h.salt) // never fails, see crypto/rand
	h.key = h.derive(password, keySize)
	return h
}

// ParseHash reads the form that String writes,
// $argon2id$v=19$m=19456,t=2,p=1$SALT$KEY with unpadded base64.
func ParseHash(s string) (Hash, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return Hash{}, errHash
	}
	if want := fmt.Sprintf("v=%d", argon2.Version); parts[2] != want {
		return Hash{}, fmt.Errorf("%w: version %q, want %q", errHash, parts[2], want)
	}
	var h Hash
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.threads); err != nil {
		return Hash{}, fmt.Errorf("%w: parameters %q", errHash, parts[3])
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return Hash{}, fmt.Errorf("%w: salt: %w", errHash, err)
	}
	if h.key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil {
		return Hash{}, fmt.Errorf("%w: key: %w", errHash, err)
	}
	return h, h.check()
}

func (h Hash) check() error {
	switch {
	case h.memory < 8*uint32(h.threads) || h.memory > maxHashMemory,
		h.passes < 1 || h.passes > maxHashPasses,
		h.threads < 1 || h.threads > maxHashThreads,
		len(h.salt) < 8 || len(h.salt) > maxHashBytes,
		len(h.key) < 16 || len(h.key) > maxHashBytes:
		return fmt.Errorf("%w: parameters out of range", errHash)
	}
	return nil
}

// String returns the hash in PHC form. It holds no secret but the hash.
func (h Hash) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, h.memory, h.passes, h.threads, b64(h.salt), b64(h.key))
}

// Matches reports whether password is the one that was hashed, in time that
// does not depend on how much of it is right.
func (h Hash) Matches(password string) bool {
	if len(h.key) == 0 {
		return false
	}
	return subtle.ConstantTimeCompare(h.derive(password, uint32(len(h.key))), h.key) == 1
}

func (h Hash) derive(password string, size uint32) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.threads, size)
}

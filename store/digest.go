package store

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// Hash is an algorithm that digests of whole files are made with. SHA256 is what
// the store vouches with; the others are for clients that know nothing else.
type Hash uint8

const (
	SHA256 Hash = iota
	SHA1
	MD5
	SHA512
	numHashes
)

// new returns a state of the algorithm.
func (h Hash) new() hash.Hash {
	switch h {
	case SHA256:
		return sha256.New()
	case SHA1:
		return sha1.New()
	case MD5:
		return md5.New()
	case SHA512:
		return sha512.New()
	}
	panic(fmt.Sprintf("store: hash %d is unknown", h))
}

// Size returns how many bytes a digest of the algorithm has.
func (h Hash) Size() int { return [numHashes]int{sha256.Size, sha1.Size, md5.Size, sha512.Size}[h] }

// Digests are the digests of a whole file by Hash; one that is not known is nil.
type Digests [numHashes][]byte

// any reports whether there is one.
func (d *Digests) any() bool {
	for _, sum := range d {
		if sum != nil {
			return true
		}
	}
	return false
}

// hashSet is a set of hashes, a bit each.
type hashSet uint8

func hashSetOf(hashes ...Hash) (set hashSet) {
	for _, h := range hashes {
		set |= 1 << h
	}
	return set
}

func (set hashSet) has(h Hash) bool { return set&(1<<h) != 0 }

// sealHashes are the digests that content gets when it is sealed: all of it is
// read anyway, and nobody waits.
var sealHashes = hashSetOf(SHA256, SHA1, MD5)

// digestsOf returns the digests of data.
func digestsOf(data []byte, set hashSet) (d Digests) {
	for h := range numHashes {
		if !set.has(h) {
			continue
		}
		switch h {
		case SHA256: // the one of every small GET
			sum := sha256.Sum256(data)
			d[h] = sum[:]
		default:
			state := h.new()
			state.Write(data)
			d[h] = state.Sum(nil)
		}
	}
	return d
}

const digestRecordVersion = 1

// appendDigests appends the record of d to b: the version, then for each digest
// its number, its length and its bytes.
func appendDigests(b []byte, d *Digests) []byte {
	b = append(b, digestRecordVersion)
	for h, sum := range d {
		if sum != nil {
			b = append(b, byte(h), byte(len(sum)))
			b = append(b, sum...)
		}
	}
	return b
}

// decodeDigests decodes what appendDigests has written. Digests of algorithms
// that it does not know are skipped.
func decodeDigests(b []byte) (d Digests, err error) {
	if len(b) == 0 {
		return Digests{}, errShortRecord
	}
	if b[0] != digestRecordVersion {
		return Digests{}, fmt.Errorf("record version %d is unknown", b[0])
	}
	for b = b[1:]; len(b) > 0; {
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return Digests{}, errShortRecord
		}
		h, sum := Hash(b[0]), b[2:2+int(b[1])]
		b = b[2+len(sum):]
		switch {
		case h >= numHashes:
		case len(sum) != h.Size():
			return Digests{}, fmt.Errorf("digest %d has %d bytes", h, len(sum))
		case d[h] != nil:
			return Digests{}, fmt.Errorf("digest %d comes twice", h)
		default:
			d[h] = sum
		}
	}
	return d, nil
}

// putDigests adds the digests of a blob to the change.
func (c *change) putDigests(id blob.ID, d *Digests) {
	c.put(sumsKey(id, groupDigests), appendDigests(nil, d))
}

// digests returns the digests of the blob; none if it was stored before there
// were any. The error matches ErrDamaged if its record makes no sense.
func (b *openBlob) digests(r meta.Reader) (Digests, error) {
	record, err := b.group(r, groupDigests)
	if err != nil || record == nil {
		return Digests{}, err
	}
	d, err := decodeDigests(record)
	if err != nil {
		return Digests{}, fmt.Errorf("%w: digests of content %s: %w", ErrDamaged, b.id, err)
	}
	return d, nil
}

// Digests returns the digests that are known of this version of the content.
// Those of want are computed if it is small; nothing large is ever read for them.
// Content that was written in place has none until it is sealed.
//
// From then on the content stands by what it has said: a read that would return
// other bytes, because a handle has begun to write to the file in place, fails
// with ErrChanged, as does Digests itself.
func (c *Content) Digests(want ...Hash) (Digests, error) {
	if c.blob == nil {
		data := c.inline
		if data == nil {
			if c.attr.Size > blockSize {
				return Digests{}, nil // a hole
			}
			data = zeros[:c.attr.Size]
		}
		return digestsOf(data, hashSetOf(want...)), nil
	}
	if !c.verified() || c.writtenLate() {
		return Digests{}, nil
	}
	d, err := c.blob.digests(c.s.engine)
	if err != nil || !d.any() {
		return Digests{}, err
	}
	c.vouched.Store(true)
	if !c.verified() { // it began while we looked
		return Digests{}, ErrChanged
	}
	return d, nil
}

package store

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
)

// maxHoleHashed is how many bytes of holes of one file a scrub computes digests of. A
// file with more of them keeps the digests that it has.
const maxHoleHashed = 1 << 30

// scrubDigest computes digests of a file while a scrub reads it: SHA256, to be
// compared with the one that is known, and all that are missing. It goes on after an
// interruption. A nil one computes nothing.
type scrubDigest struct {
	known  Digests
	states map[Hash]hash.Hash // nil: given up
	at     int64              // bytes so far
	holes  int64              // of them in holes
}

// newScrubDigest returns the digest of c's content, from begin on.
func newScrubDigest(c *scrubFile) (*scrubDigest, error) {
	record, err := readGroup(c.w.s.engine, c.v.content.blob, groupDigests)
	if err != nil {
		return nil, err
	}
	d := &scrubDigest{states: make(map[Hash]hash.Hash), at: c.begin}
	if record != nil {
		if d.known, err = decodeDigests(record); err != nil {
			d.known = Digests{} // walk counts the record as bad; it is written anew
		}
	}
	for h := range numHashes {
		if h == SHA256 || sealHashes.has(h) && d.known[h] == nil {
			d.states[h] = h.new()
		}
	}
	if c.begin > 0 && !d.restore(c.w.cursor.Hashes) {
		d.states = nil
	}
	return d, nil
}

// restore gives the states what save has returned.
func (d *scrubDigest) restore(saved map[Hash][]byte) bool {
	for h, state := range d.states {
		u, ok := state.(encoding.BinaryUnmarshaler)
		if !ok || saved[h] == nil || u.UnmarshalBinary(saved[h]) != nil {
			return false
		}
	}
	return true
}

// save returns what the digest goes on with after an interruption.
func (d *scrubDigest) save() map[Hash][]byte {
	if d == nil || d.states == nil {
		return nil
	}
	saved := make(map[Hash][]byte, len(d.states))
	for h, state := range d.states {
		m, ok := state.(encoding.BinaryMarshaler)
		if !ok {
			return nil
		}
		b, err := m.MarshalBinary()
		if err != nil {
			return nil
		}
		saved[h] = b
	}
	return saved
}

// write adds n bytes, which are p, or zeros if that is nil.
func (d *scrubDigest) write(p []byte, n int64) {
	if d == nil {
		return
	}
	if p == nil {
		d.holes += n
	}
	if d.holes > maxHoleHashed || p != nil && int64(len(p)) != n {
		d.giveUp()
	}
	for _, state := range d.states {
		if p != nil {
			state.Write(p) // never fails, see hash.Hash
			continue
		}
		for left := n; left > 0; left -= min(left, int64(len(zeros))) {
			state.Write(zeros[:min(left, int64(len(zeros)))])
		}
	}
	d.at += n
}

// giveUp makes d compute nothing any more.
func (d *scrubDigest) giveUp() {
	if d != nil {
		d.states = nil
	}
}

// digest compares what was computed of all of the content, every block of which is
// right, with the digest that is known, and keeps what was not.
func (c *scrubFile) digest(ctx context.Context) {
	d := c.digests
	if d == nil || d.states == nil || d.at != c.v.Size {
		return
	}
	var sums Digests
	for h, state := range d.states {
		sums[h] = state.Sum(nil)
	}
	want := d.known[SHA256]
	if want != nil && !bytes.Equal(want, sums[SHA256]) {
		if c.w.is(c.v) && !c.writtenLate() {
			c.wrongDigest(want, sums[SHA256])
		} else {
			c.overtook = true
		}
		return
	}
	if want != nil && len(d.states) == 1 {
		return
	}
	if err := c.w.s.addDigests(ctx, c.v, &sums); err != nil && ctx.Err() == nil && !errors.Is(err, ErrStale) {
		c.w.s.log.Warn("digests of content not kept", "ino", c.v.Ino, "err", err)
	}
}

// wrongDigest notes that content is not what it was although the checksum of every
// block is right. Where it is wrong nobody knows.
func (c *scrubFile) wrongDigest(want, have []byte) {
	c.bad++
	err := fmt.Errorf("%w: content %s: SHA-256 is %x, want %x", ErrDamaged, c.v.content.blob, have, want)
	c.w.count(func(r *ScrubRun) { r.problem("inode %d: %v", c.v.Ino, err) })
	c.w.s.damages.note(Damage{
		Ino: c.v.Ino, Version: c.v.Version, Length: c.v.Size, Source: DamageByScrub, At: c.w.s.now(), Err: err.Error(), blob: c.v.content.blob,
	})
}

// addDigests adds digests to those that are known of v's content, unless that has
// changed meanwhile.
func (s *Store) addDigests(ctx context.Context, v *inode, d *Digests) error {
	return s.changeLocked(ctx, "digest", lockSet{write: []Ino{v.Ino}, background: true}, func(c *change) error {
		cur, err := c.view(v.Ino)
		if err != nil || cur.content != v.content || cur.Version != v.Version {
			return err
		}
		all := *d
		record, err := readGroup(s.engine, v.content.blob, groupDigests)
		if err != nil {
			return err
		}
		if known, err := decodeDigests(record); err == nil {
			for h, sum := range known {
				if sum != nil {
					all[h] = sum
				}
			}
		}
		c.putDigests(v.content.blob, &all)
		s.open.forgetGroup(v.content.blob, groupDigests) // it does not know them
		return nil
	})
}

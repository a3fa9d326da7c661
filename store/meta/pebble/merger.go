package pebble

import (
	"encoding/binary"
	"io"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"engramfs/store/meta"
)

// counterMerger adds up the operands of Txn.Add. Its name is stored in every
// file of the store: a change in what Merge does needs a new name.
var counterMerger = &pebbledb.Merger{
	Name: "engramfs.counter.v1",
	Merge: func(_, value []byte) (pebbledb.ValueMerger, error) {
		s := &counterSum{}
		s.add(value)
		return s, nil
	},
}

// counterSum is a running sum. Addition commutes, so newer and older operands
// are treated alike.
//
// An operand that is no counter is a mistake of the caller. It must not become
// an error here, because that would stop every compaction that meets the key.
// Instead the operand wins over all others, whatever the order, and Counter
// reports it when it is read.
type counterSum struct {
	n       uint64
	invalid []byte
}

func (s *counterSum) add(value []byte) {
	if n, err := meta.DecodeCounter(value); err == nil {
		s.n += uint64(n)
		return
	}
	// Length first, then content: the choice between two invalid operands must
	// not depend on the order in which compactions bring them together.
	if s.invalid == nil || len(value) > len(s.invalid) ||
		len(value) == len(s.invalid) && string(value) > string(s.invalid) {
		s.invalid = append([]byte{}, value...)
	}
}

func (s *counterSum) MergeNewer(value []byte) error { s.add(value); return nil }
func (s *counterSum) MergeOlder(value []byte) error { s.add(value); return nil }

func (s *counterSum) Finish(bool) ([]byte, io.Closer, error) {
	if s.invalid != nil {
		return s.invalid, nil, nil
	}
	return binary.BigEndian.AppendUint64(nil, s.n), nil, nil
}

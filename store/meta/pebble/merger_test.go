package pebble

import (
	"testing"

	"pgregory.net/rapid"

	"engramfs/store/meta"
)

// fold merges operands in the way of a tree of compactions: each cut is merged on its
// own first, and the results then in the order given.
func fold(rt *rapid.T, operands [][]byte) string {
	for len(operands) > 1 {
		i := rapid.IntRange(0, len(operands)-2).Draw(rt, "at")
		m, err := counterMerger.Merge(nil, operands[i])
		if err != nil {
			rt.Fatal(err)
		}
		if rapid.Bool().Draw(rt, "newer") {
			err = m.MergeNewer(operands[i+1])
		} else {
			err = m.MergeOlder(operands[i+1])
		}
		if err != nil {
			rt.Fatal(err)
		}
		merged, _, err := m.Finish(false)
		if err != nil {
			rt.Fatal(err)
		}
		operands = append(append(append([][]byte{}, operands[:i]...), merged), operands[i+2:]...)
	}
	return string(operands[0])
}

// TestMergerIsAssociative: the sum does not depend on which compaction came
// first, also when an operand is no counter.
func TestMergerIsAssociative(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		counter := rapid.Map(rapid.Int64(), meta.EncodeCounter)
		operand := rapid.OneOf(counter, counter, counter, rapid.SliceOfN(rapid.Byte(), 0, 10))
		operands := rapid.SliceOfN(operand, 1, 8).Draw(rt, "operands")
		if a, b := fold(rt, operands), fold(rt, operands); a != b {
			rt.Fatalf("two orders give %q and %q", a, b)
		}
		var sum int64
		for _, o := range operands {
			n, err := meta.DecodeCounter(o)
			if err != nil {
				return
			}
			sum += n
		}
		if got, err := meta.DecodeCounter([]byte(fold(rt, operands))); err != nil || got != sum {
			rt.Fatalf("sum = %d, %v, want %d", got, err, sum)
		}
	})
}

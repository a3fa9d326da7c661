package store

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
)

// TestIsSummed: the checksums of a blob that ends with a group are not those of its
// beginning.
func TestIsSummed(t *testing.T) {
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	id := blob.NewID()
	sums := bytes.Repeat([]byte("abcd"), groupSums+1)
	if err := db.Update(func(tx meta.Txn) error {
		replaceSums(tx, id, sums)
		tx.Put(sumsKey(id, groupDigests), []byte("digests"))
		tx.Put(sumsKey(id, groupTimes), []byte("times"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		sums []byte
		want bool
	}{
		"all":       {sums, true},
		"beginning": {sums[:groupSums*sumSize], false},
		"part":      {sums[:8], false},
		"more":      {append(bytes.Clone(sums), 0, 0, 0, 0), false},
		"others":    {bytes.Repeat([]byte("abce"), groupSums+1), false},
		"none":      {nil, false},
	} {
		if got, err := isSummed(db, id, c.sums); got != c.want || err != nil {
			t.Errorf("%s: %t, want %t, %v", name, got, c.want, err)
		}
	}
}

package pebble

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// TestReadOnlyChangesNothing opens what a crash has left, with a log to be replayed.
func TestReadOnlyChangesNothing(t *testing.T) {
	mem := vfs.NewCrashableMem()
	db, err := Open("meta", Options{Create: true, FS: mem, MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	const keys = 5000 // some memtables
	for i := range keys {
		if err := db.Update(func(tx meta.Txn) error { tx.Put(fmt.Appendf(nil, "%06d", i), make([]byte, 200)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before := crashed.String()
	ro, err := Open("meta", Options{ReadOnly: true, Create: true, FS: crashed, MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := ro.Scan(nil, nil, func(_, _ []byte) bool { n++; return true }); err != nil || n != keys {
		t.Errorf("%d keys, want %d, %v", n, keys, err)
	}
	if err := ro.Verify(t.Context()); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if err := ro.Update(func(tx meta.Txn) error { tx.Put([]byte("a"), nil); return nil }); !errors.Is(err, meta.ErrReadOnly) {
		t.Errorf("Update: %v, want ErrReadOnly", err)
	}
	if err := ro.Sync(); !errors.Is(err, meta.ErrReadOnly) {
		t.Errorf("Sync: %v, want ErrReadOnly", err)
	}
	if err := ro.Close(); !errors.Is(err, meta.ErrReadOnly) {
		t.Errorf("Close: %v, want ErrReadOnly", err)
	}
	if after := crashed.String(); after != before {
		t.Errorf("the directory was\n%s\nand is\n%s", before, after)
	}
	if _, err := Open("none", Options{ReadOnly: true, Create: true, FS: crashed}); !errors.Is(err, meta.ErrNotExist) {
		t.Errorf("no store: %v, want ErrNotExist", err)
	}
}

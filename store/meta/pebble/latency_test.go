package pebble

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

func TestLatencyCountsIntoBuckets(t *testing.T) {
	var l latency
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 100*time.Microsecond + 1, time.Second, time.Minute} {
		l.observe(d)
	}
	s := l.snapshot()
	if want := time.Minute + time.Second + 200*time.Microsecond + 1; s.Count != 5 || s.Sum != want {
		t.Errorf("count %d, sum %v, want 5 and %v", s.Count, s.Sum, want)
	}
	for _, b := range s.Buckets {
		want := uint64(3)
		switch {
		case b.Limit == 100*time.Microsecond:
			want = 2
		case b.Limit >= time.Second:
			want = 4
		}
		if b.Count != want {
			t.Errorf("bucket up to %v has %d, want %d", b.Limit, b.Count, want)
		}
	}
}

func TestStatsHaveTheSyncsOfTheJournal(t *testing.T) {
	db, err := Open("meta", Options{Create: true, FS: vfs.NewMem(), CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	before := db.Stats().Fsyncs
	for range 3 {
		if err := db.Update(func(tx meta.Txn) error { tx.Put([]byte("k"), []byte("v")); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := db.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	after := db.Stats().Fsyncs
	if got := after.Count - before.Count; got < 3 || len(after.Buckets) == 0 {
		t.Errorf("%d syncs of the journal in %d buckets, want at least 3", got, len(after.Buckets))
	}
}

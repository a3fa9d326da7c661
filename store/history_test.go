package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// Pages of the history are full wherever there is something older, also behind entries
// that could not be written.
func TestHistoryIsPaged(t *testing.T) {
	fs := vfs.NewMem()
	open := func() (meta.Engine, *store.Store) {
		t.Helper()
		db, err := pebble.Open("meta", pebble.Options{Create: true, FS: fs, CacheSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(ctx, store.Options{Meta: db, Blobs: storetest.NewMemBlobs(), Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		return db, s
	}
	db, s := open()
	if err := db.Update(func(tx meta.Txn) error {
		for seq := 1; seq <= 100; seq++ {
			entry := fmt.Sprintf(`{"seq":%d,"kind":"reset","lock":"usage","gen":1,"at":"2026-01-01T00:00:00Z"}`, seq)
			switch {
			case seq > 20 && seq < 90: // lost
				continue
			case seq == 7:
				entry = `{"seq":7,"kind":"salvaged","lock":"metadata","gen":0,"at":"2026-03-04T05:06:07Z"}`
			case seq == 8: // only looks like one
				entry = `{"seq":8,"kind":"reset","event":{"kind":"salvaged"},"gen":1,"at":"2026-01-01T00:00:00Z"}`
			}
			tx.Put([]byte{'E', 0, 0, 0, 0, 0, 0, 0, byte(seq)}, []byte(entry))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, s = open()
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var got []uint64
	for before := uint64(0); ; {
		page, err := s.History(before, 8)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			got = append(got, e.Seq)
		}
		if len(page) < 8 {
			break
		}
		before = page[7].Seq
	}
	var want []uint64
	for seq := uint64(100); seq > 0; seq-- {
		if seq <= 20 || seq >= 90 {
			want = append(want, seq)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages hold %v, want %v", got, want)
	}
	if page, err := s.History(1, 8); err != nil || len(page) != 0 {
		t.Errorf("below the first: %v, %v", page, err)
	}
	if at, want := s.SalvagedAt(), time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC); !at.Equal(want) {
		t.Errorf("salvaged at %v, want %v", at, want)
	}
}

package store

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"engramfs/store/blob"
)

func TestUnsealedMark(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		written := touched{blocks: make(map[int64]uint64)}
		for range rapid.IntRange(0, 20).Draw(rt, "runs") {
			from := rapid.Int64Range(0, 1<<20).Draw(rt, "from")
			written.add(from*blockSize, (from+rapid.Int64Range(1, 300).Draw(rt, "n"))*blockSize)
		}
		m := unsealedMark{
			native: rapid.Bool().Draw(rt, "native"), known: rapid.Bool().Draw(rt, "known"), final: rapid.Bool().Draw(rt, "final"),
			as: blob.Stat{Size: rapid.Int64Range(0, 1<<50).Draw(rt, "size"), Mtime: rapid.Int64().Draw(rt, "mtime")}, written: written.blocks,
		}
		want := m
		if !m.known {
			want = unsealedMark{native: m.native}
		}
		if got := decodeMark(m.append(nil)); !reflect.DeepEqual(got, want) {
			rt.Fatalf("decoded %+v, want %+v", got, want)
		}
	})
}

// TestUnsealedMarkIsBounded: what is too scattered to be kept is not known.
func TestUnsealedMarkIsBounded(t *testing.T) {
	m := unsealedMark{native: true, known: true, written: make(map[int64]uint64)}
	for i := range int64(maxMarkRuns) {
		m.written[i] = 1
	}
	if b := m.append(nil); len(b) > 5*maxMarkRuns || !decodeMark(b).known {
		t.Errorf("%d bytes", len(b))
	}
	m.written[maxMarkRuns+1] = 0x5555555555555555
	m.written[maxMarkRuns+2] = 1
	if b := m.append(nil); !bytes.Equal(b, []byte{writtenNative}) {
		t.Errorf("%d bytes", len(b))
	}
}

// FuzzUnsealedMark: whatever is in the engine says how a file was written, and claims
// nothing that is not in it.
func FuzzUnsealedMark(f *testing.F) {
	m := unsealedMark{known: true, as: blob.Stat{Size: 1, Mtime: 2}, written: map[int64]uint64{0: 3, 9: 1 << 63}}
	f.Add(m.append(nil))
	f.Add([]byte{writtenNative})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := decodeMark(b)
		if again := decodeMark(m.append(nil)); len(b) > 0 && m.known && !reflect.DeepEqual(again, m) && again.known {
			t.Fatalf("%x decodes to %+v, again to %+v", b, m, again)
		}
	})
}

func TestSealTimes(t *testing.T) {
	sealed := sealTimes{mtime: 100, ctime: 150, native: true}
	for what, c := range map[string]struct {
		st   blob.Stat
		want bool
	}{
		"untouched":                     {blob.Stat{Mtime: 100, Ctime: 150}, false},
		"another mode or owner":         {blob.Stat{Mtime: 100, Ctime: 300}, false},
		"written":                       {blob.Stat{Mtime: 200, Ctime: 200}, true},
		"written, then another mode":    {blob.Stat{Mtime: 200, Ctime: 300}, true},
		"written with a clock set back": {blob.Stat{Mtime: 50, Ctime: 50}, true},
		"written in the same tick":      {blob.Stat{Mtime: 150, Ctime: 150}, true},
		"an mtime that moved alone":     {blob.Stat{Mtime: 200, Ctime: 150}, false},
	} {
		if got := sealed.written(c.st); got != c.want {
			t.Errorf("%s: %t, want %t", what, got, c.want)
		}
		own := sealed
		if own.native = false; own.written(c.st) {
			t.Errorf("%s: written, although nobody was given the blob", what)
		}
	}
}

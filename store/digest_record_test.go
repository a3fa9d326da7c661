package store

import (
	"bytes"
	"log/slog"
	"reflect"
	"testing"
)

func TestDigestRecord(t *testing.T) {
	d := digestsOf([]byte("x"), hashSetOf(SHA256, MD5))
	b := appendDigests(nil, &d)
	got, err := decodeDigests(b)
	if err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("decoded %x, %v, want %x", got, err, d)
	}
	later := append(bytes.Clone(b), byte(numHashes)+3, 2, 1, 1)
	if got, err := decodeDigests(later); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("with an algorithm of a later version: %x, %v", got, err)
	}
	for what, bad := range map[string][]byte{
		"empty": {}, "version": {99}, "short": b[:len(b)-1], "header": append(bytes.Clone(b), 1),
		"twice": append(bytes.Clone(b), b[1:]...), "length": {digestRecordVersion, byte(SHA256), 1, 0},
	} {
		if _, err := decodeDigests(bad); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// FuzzDigestRecord: what decodes is encoded to something that decodes to the same.
func FuzzDigestRecord(f *testing.F) {
	d := digestsOf([]byte("x"), hashSetOf(SHA256, SHA1, MD5, SHA512))
	f.Add(appendDigests(nil, &d))
	f.Add([]byte{digestRecordVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDigests(b)
		if err != nil {
			return
		}
		again, err := decodeDigests(appendDigests(nil, &d))
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("%x decodes to %x, again to %x, %v", b, d, again, err)
		}
	})
}

// TestDigesterPanic: a panic while hashing is an error of the upload, not the end
// of the process.
func TestDigesterPanic(t *testing.T) {
	s := newStoreForDigests()
	d := s.newDigester(hashSetOf(SHA256))
	d.lanes[0].state = nil // its next use panics
	var ring bufferRing
	defer ring.release()
	for range 4 {
		buf, used := ring.next()
		d.write(buf[:10], used)
	}
	if _, err := d.digests(); err == nil {
		t.Error("no error")
	}
}

func newStoreForDigests() *Store { return &Store{log: slog.New(slog.DiscardHandler)} }

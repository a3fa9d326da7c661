// Package blobtest is the conformance suite of blob backends: what package blob
// promises, as tests. A new backend passes it by giving Run a Harness.
package blobtest

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"engramfs/store/blob"
)

// Harness is one set of blobs, empty at first, that a test opens and closes
// several times.
type Harness struct {
	// Open opens the backend. Only one is open at a time.
	Open func() (blob.Backend, error)

	// Exclusive says that a second Open must return blob.ErrInUse.
	Exclusive bool
}

// Run runs the suite. newHarness is called for every test and cleans up with
// t.Cleanup.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, tt := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"CreateWriteRead", testCreateWriteRead},
		{"CreateIsExclusive", testCreateIsExclusive},
		{"CreateRaceHasOneWinner", testCreateRaceHasOneWinner},
		{"OpenMissing", testOpenMissing},
		{"ReadOnlyFileRefusesWrites", testReadOnlyFileRefusesWrites},
		{"WritePastEndLeavesZeros", testWritePastEndLeavesZeros},
		{"Truncate", testTruncate},
		{"TwoFilesSeeEachOther", testTwoFilesSeeEachOther},
		{"ReopenKeepsSynced", testReopenKeepsSynced},
		{"SyncAfterReopeningFile", testSyncAfterReopeningFile},
		{"DeleteIsIdempotent", testDeleteIsIdempotent},
		{"DeletedFileStaysReadable", testDeletedFileStaysReadable},
		{"CreateAfterDelete", testCreateAfterDelete},
		{"List", testList},
		{"ListStopsOnError", testListStopsOnError},
		{"ListFnMayDelete", testListFnMayDelete},
		{"CloneIsIndependent", testCloneIsIndependent},
		{"CloneErrorsLeaveNothing", testCloneErrorsLeaveNothing},
		{"CloneOfEmptyAndOfHoles", testCloneOfEmptyAndOfHoles},
		{"PunchHole", testPunchHole},
		{"SeekDataAndHole", testSeekDataAndHole},
		{"OSFile", testOSFile},
		{"Free", testFree},
		{"ClosedBackendRefuses", testClosedBackendRefuses},
		{"SecondOpenIsRefused", testSecondOpenIsRefused},
		{"ConcurrentLife", testConcurrentLife},
		{"ConcurrentWritesToOneBlob", testConcurrentWritesToOneBlob},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newHarness(t)) })
	}
}

// open opens the backend and closes it at the end of the test.
func open(t *testing.T, h Harness) blob.Backend {
	t.Helper()
	b, err := h.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// create makes a blob with data and keeps it open until the end of the test.
func create(t *testing.T, b blob.Backend, data []byte) (blob.ID, blob.File) {
	t.Helper()
	id := blob.NewID()
	f, err := b.Create(id)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	closeLater(t, f)
	write(t, f, data, 0)
	return id, f
}

func closeLater(t *testing.T, f blob.File) { t.Cleanup(func() { _ = f.Close() }) }

func openFile(t *testing.T, b blob.Backend, id blob.ID, writable bool) blob.File {
	t.Helper()
	f, err := b.Open(id, writable)
	if err != nil {
		t.Fatalf("Open(%s, %v): %v", id, writable, err)
	}
	closeLater(t, f)
	return f
}

func write(t *testing.T, f blob.File, data []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(data, off); err != nil || n != len(data) {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(data), off, n, err)
	}
}

func sync(t *testing.T, f blob.File) {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatalf("Sync: %v", err)
	}
}

// wantContent checks size and content.
func wantContent(t *testing.T, f blob.File, want []byte) {
	t.Helper()
	size, err := f.Size()
	if err != nil || size != int64(len(want)) {
		t.Errorf("Size = %d, %v, want %d", size, err, len(want))
		return
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, size+1))
	if err != nil {
		t.Errorf("read: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("content differs from byte %d on", firstDifference(got, want))
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// noise returns n bytes that cannot be compressed and depend on seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(p)
	return p
}

// list returns what List shows.
func list(t *testing.T, b blob.Backend) map[blob.ID]blob.Info {
	t.Helper()
	got := map[blob.ID]blob.Info{}
	if err := b.List(func(i blob.Info) error {
		if _, twice := got[i.ID]; twice {
			t.Errorf("List shows %s twice", i.ID)
		}
		got[i.ID] = i
		return nil
	}); err != nil {
		t.Fatalf("List: %v", err)
	}
	return got
}

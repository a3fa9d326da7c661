// Package metatest is the conformance suite of metadata engines: what package
// meta promises, as tests. A new engine passes it by giving Run a Harness.
package metatest

import (
	"errors"
	"testing"

	"engramfs/store/meta"
)

// Harness is one store, empty at first, that a test opens and closes several
// times.
type Harness struct {
	// Open opens the store. Only one engine is open at a time.
	Open func() (meta.Engine, error)

	// Crash cuts the power under an open engine: the next Open finds what was
	// durable at that moment, and possibly more, but nothing torn. The engine that was
	// open is abandoned by the test and still closed at the end of it. nil: the
	// tests of crashes are skipped.
	Crash func()

	// OpenCheckpoint opens what Engine.Checkpoint has written to dir.
	OpenCheckpoint func(dir string) (meta.Engine, error)
}

// Run runs the suite. newHarness is called for every test, and many times by the
// model test; it cleans up with t.Cleanup.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"GetPutDelete", testGetPutDelete},
		{"GetReturnsCallersSlice", testGetReturnsCallersSlice},
		{"PutCopiesItsArguments", testPutCopiesItsArguments},
		{"ScanBoundsAndOrder", testScanBoundsAndOrder},
		{"ScanStops", testScanStops},
		{"GetMany", testGetMany},
		{"GetManyReturnsErrorOfFn", testGetManyReturnsErrorOfFn},
		{"GetManyRefusesDescendingKeys", testGetManyRefusesDescendingKeys},
		{"DeleteRange", testDeleteRange},
		{"ChangesApplyInOrder", testChangesApplyInOrder},
		{"Counter", testCounter},
		{"CounterOfConcurrentUpdates", testCounterOfConcurrentUpdates},
		{"TxnReadsStateBefore", testTxnReadsStateBefore},
		{"UpdateErrorChangesNothing", testUpdateErrorChangesNothing},
		{"UpdateRefusesEmptyKey", testUpdateRefusesEmptyKey},
		{"UpdatePanicChangesNothing", testUpdatePanicChangesNothing},
		{"UpdateIsAtomicToViews", testUpdateIsAtomicToViews},
		{"ViewIsOneState", testViewIsOneState},
		{"ViewReturnsErrorOfFn", testViewReturnsErrorOfFn},
		{"LargeValues", testLargeValues},
		{"LargeBatch", testLargeBatch},
		{"ReopenKeepsAll", testReopenKeepsAll},
		{"SecondOpenIsRefused", testSecondOpenIsRefused},
		{"ClosedEngineRefuses", testClosedEngineRefuses},
		{"CloseWaitsForView", testCloseWaitsForView},
		{"ConcurrentSyncs", testConcurrentSyncs},
		{"Checkpoint", testCheckpoint},
		{"CheckpointRefusesExistingDirectory", testCheckpointRefusesExistingDirectory},
		{"Stats", testStats},
		{"CrashKeepsWhatWasSynced", testCrashKeepsWhatWasSynced},
		{"CrashUnderLoad", testCrashUnderLoad},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newHarness(t)) })
	}
	t.Run("Model", func(t *testing.T) { testModel(t, newHarness) })
}

// open opens the store and closes it at the end of the test.
func open(t *testing.T, h Harness) meta.Engine {
	t.Helper()
	e, err := h.Open()
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

// reopen closes e and opens the store again.
func reopen(t *testing.T, h Harness, e meta.Engine) meta.Engine {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return open(t, h)
}

// update applies fn, which cannot fail.
func update(t *testing.T, e meta.Engine, fn func(meta.Txn)) {
	t.Helper()
	if err := e.Update(func(tx meta.Txn) error { fn(tx); return nil }); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

// put stores pairs of key and value in one update.
func put(t *testing.T, e meta.Engine, pairs ...string) {
	t.Helper()
	update(t, e, func(tx meta.Txn) {
		for i := 0; i < len(pairs); i += 2 {
			tx.Put([]byte(pairs[i]), []byte(pairs[i+1]))
		}
	})
}

// wantGet checks one key; want "" means absent.
func wantGet(t *testing.T, r meta.Reader, key, want string) {
	t.Helper()
	got, err := r.Get([]byte(key))
	switch {
	case want == "" && !errors.Is(err, meta.ErrNotFound):
		t.Errorf("Get(%q) = %q, %v, want ErrNotFound", key, got, err)
	case want != "" && (err != nil || string(got) != want):
		t.Errorf("Get(%q) = %q, %v, want %q", key, got, err, want)
	}
}

func wantCounter(t *testing.T, r meta.Reader, key string, want int64) {
	t.Helper()
	if got, err := r.Counter([]byte(key)); err != nil || got != want {
		t.Errorf("Counter(%q) = %d, %v, want %d", key, got, err, want)
	}
}

// scan returns "key=value" of every key in [lo, hi).
func scan(t *testing.T, r meta.Reader, lo, hi []byte) []string {
	t.Helper()
	var got []string
	if err := r.Scan(lo, hi, func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		return true
	}); err != nil {
		t.Fatalf("Scan(%q, %q): %v", lo, hi, err)
	}
	return got
}

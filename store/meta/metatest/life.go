package metatest

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store/meta"
)

func testReopenKeepsAll(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1", "b", "2")
	update(t, e, func(tx meta.Txn) { tx.Delete([]byte("a")) })
	for range 3 {
		e = reopen(t, h, e)
		wantGet(t, e, "a", "")
		wantGet(t, e, "b", "2")
	}
}

func testSecondOpenIsRefused(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1")
	if second, err := h.Open(); !errors.Is(err, meta.ErrInUse) {
		if err == nil {
			second.Close()
		}
		t.Errorf("second Open = %v, want ErrInUse", err)
	}
	put(t, e, "b", "2") // the first is not harmed
	e = reopen(t, h, e)
	wantGet(t, e, "a", "1")
	wantGet(t, e, "b", "2")
}

func testClosedEngineRefuses(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1")
	if err := e.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("second Close = %v, want nil", err)
	}
	_, getErr := e.Get([]byte("a"))
	_, counterErr := e.Counter([]byte("a"))
	for name, err := range map[string]error{
		"Get":        getErr,
		"Counter":    counterErr,
		"Scan":       e.Scan(nil, nil, func(_, _ []byte) bool { return true }),
		"GetMany":    e.GetMany([][]byte{[]byte("a")}, func(int, []byte) error { return nil }),
		"View":       e.View(func(meta.Reader) error { return nil }),
		"Update":     e.Update(func(meta.Txn) error { return nil }),
		"Sync":       e.Sync(),
		"Checkpoint": e.Checkpoint(filepath.Join(t.TempDir(), "c")),
	} {
		if !errors.Is(err, meta.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", name, err)
		}
	}
	e.Stats() // must not panic
}

func testCloseWaitsForView(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1")
	closed := make(chan error, 1)
	err := e.View(func(r meta.Reader) error {
		go func() { closed <- e.Close() }()
		for e.Update(func(meta.Txn) error { return nil }) == nil {
			time.Sleep(time.Millisecond) // until Close has begun
		}
		wantGet(t, r, "a", "1")
		select {
		case err := <-closed:
			t.Errorf("Close returned %v during a view", err)
		case <-time.After(20 * time.Millisecond):
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

func testConcurrentSyncs(t *testing.T, h Harness) {
	e := open(t, h)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				put(t, e, fmt.Sprintf("%d.%d", w, i), "x")
				if err := e.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	before := e.Stats().SyncsSkipped
	for range 3 { // the first may have something left to do
		if err := e.Sync(); err != nil {
			t.Error(err)
		}
	}
	if after := e.Stats().SyncsSkipped; after < before+2 {
		t.Errorf("%d syncs of an unchanged store were skipped, want at least 2 of 3", after-before)
	}
}

// testCheckpoint takes a checkpoint while a writer is running: it is one state, not
// older than the call, and it is a store of its own.
func testCheckpoint(t *testing.T, h Harness) {
	e := open(t, h)
	manyKeys(t, e, 1000)
	update(t, e, func(tx meta.Txn) { tx.Add([]byte("n"), 7) })
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; !stop.Load(); i++ {
			writeBatch(t, e, 0, i)
		}
	})
	dir := filepath.Join(t.TempDir(), "checkpoint")
	err := e.Checkpoint(dir)
	stop.Store(true)
	wg.Wait()
	if err != nil {
		t.Fatalf("Checkpoint: %v", err)
	}
	update(t, e, func(tx meta.Txn) { tx.DeleteRange([]byte("k"), []byte("l")) })

	c, err := h.OpenCheckpoint(dir)
	if err != nil {
		t.Fatalf("OpenCheckpoint: %v", err)
	}
	defer c.Close()
	if n := len(scan(t, c, []byte("k"), []byte("l"))); n != 1000 {
		t.Errorf("the checkpoint has %d of 1000 keys", n)
	}
	wantCounter(t, c, "n", 7)
	checkWriter(t, c, 0, 0)
	put(t, c, "own", "1")
	wantGet(t, e, "own", "")
}

func testCheckpointRefusesExistingDirectory(t *testing.T, h Harness) {
	e := open(t, h)
	put(t, e, "a", "1")
	dir := filepath.Join(t.TempDir(), "checkpoint")
	if err := e.Checkpoint(dir); err != nil {
		t.Fatalf("Checkpoint: %v", err)
	}
	if err := e.Checkpoint(dir); err == nil {
		t.Error("second Checkpoint to the same place succeeded, want an error")
	}
	if err := e.Failed(); err != nil {
		t.Errorf("Failed = %v after a refused checkpoint, want nil", err)
	}
}

func testStats(t *testing.T, h Harness) {
	e := open(t, h)
	before := e.Stats()
	if before.Engine == "" {
		t.Error("Stats has no engine name")
	}
	put(t, e, "a", "1")
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	after := e.Stats()
	if after.Updates != before.Updates+1 || after.Syncs != before.Syncs+1 {
		t.Errorf("Updates %d -> %d, Syncs %d -> %d, want one more each",
			before.Updates, after.Updates, before.Syncs, after.Syncs)
	}
}

func testCrashKeepsWhatWasSynced(t *testing.T, h Harness) {
	if h.Crash == nil {
		t.Skip("the harness cannot crash")
	}
	e := open(t, h)
	put(t, e, "a", "1", "b", "1")
	update(t, e, func(tx meta.Txn) { tx.Add([]byte("n"), 5) })
	if err := e.Sync(); err != nil {
		t.Fatal(err)
	}
	h.Crash()
	e = open(t, h)
	wantGet(t, e, "a", "1")
	wantGet(t, e, "b", "1")
	wantCounter(t, e, "n", 5)
}

// testCrashUnderLoad cuts the power while writers are running: every batch that a
// Sync has acknowledged is there, and no batch is there in part.
func testCrashUnderLoad(t *testing.T, h Harness) {
	if h.Crash == nil {
		t.Skip("the harness cannot crash")
	}
	const writers = 4
	var acked [writers]int
	for round := range 5 {
		e := open(t, h)
		for w := range writers {
			checkWriter(t, e, w, acked[w])
		}
		var stop atomic.Bool
		var progress [writers]atomic.Int64
		var wg sync.WaitGroup
		for w := range writers {
			next := lastBatch(t, e, w) + 1
			wg.Go(func() {
				for i := next; !stop.Load(); i++ {
					writeBatch(t, e, w, i)
					if err := e.Sync(); err != nil {
						t.Errorf("Sync: %v", err)
						return
					}
					progress[w].Store(int64(i))
				}
			})
		}
		time.Sleep(time.Duration(10+10*round) * time.Millisecond)
		for w := range writers {
			acked[w] = max(acked[w], int(progress[w].Load()))
		}
		h.Crash()
		stop.Store(true)
		wg.Wait()
	}
	e := open(t, h)
	for w := range writers {
		if acked[w] == 0 {
			t.Errorf("writer %d got nothing acknowledged", w)
		}
		checkWriter(t, e, w, acked[w])
	}
}

// writeBatch writes the i-th batch of a writer, two keys and a counter.
func writeBatch(t *testing.T, e meta.Engine, w, i int) {
	t.Helper()
	update(t, e, func(tx meta.Txn) {
		tx.Put(fmt.Appendf(nil, "x%d.%08d", w, i), []byte("1"))
		tx.Put(fmt.Appendf(nil, "y%d.%08d", w, i), []byte("1"))
		tx.Add(fmt.Appendf(nil, "n%d", w), 1)
	})
}

func lastBatch(t *testing.T, e meta.Engine, w int) int {
	t.Helper()
	return len(scan(t, e, fmt.Appendf(nil, "x%d.", w), fmt.Appendf(nil, "x%d/", w)))
}

// checkWriter checks that the batches of a writer are whole and without a gap, and
// at least acked of them.
func checkWriter(t *testing.T, e meta.Engine, w, acked int) {
	t.Helper()
	n := lastBatch(t, e, w)
	if n < acked {
		t.Fatalf("writer %d: %d batches after the crash, %d were acknowledged", w, n, acked)
	}
	if ys := len(scan(t, e, fmt.Appendf(nil, "y%d.", w), fmt.Appendf(nil, "y%d/", w))); ys != n {
		t.Fatalf("writer %d: %d first keys but %d second keys: a torn batch", w, n, ys)
	}
	wantCounter(t, e, fmt.Sprintf("n%d", w), int64(n))
	if n > 0 {
		wantGet(t, e, fmt.Sprintf("x%d.%08d", w, n), "1")
	}
}

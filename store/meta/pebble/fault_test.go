package pebble

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"engramfs/internal/logbuf"
	"engramfs/store/meta"
)

// faultFS is a file system in memory whose operations fail while armed.
type faultFS struct {
	vfs.FS
	mem   *vfs.MemFS
	armed atomic.Bool
	fired atomic.Int64
	match func(errorfs.Op) bool
	err   error
}

func newFaultFS(mem *vfs.MemFS, err error, match func(errorfs.Op) bool) *faultFS {
	f := &faultFS{mem: mem, match: match, err: err}
	f.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if f.armed.Load() && match(op) {
			f.fired.Add(1)
			return f.err
		}
		return nil
	}))
	return f
}

// Unwrap hides the file system in memory so that resolve does not take the
// chain for one that ends at the operating system.
func (f *faultFS) Unwrap() vfs.FS { return nil }

// ReuseForWrite makes a new file, as it may: errorfs does not inject into
// reused ones.
func (f *faultFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Remove(oldname); err != nil {
		return nil, err
	}
	return f.Create(newname, category)
}

// OpenReadWrite fails as Create does if it would make the file: errorfs takes it for an
// operation that only opens.
func (f *faultFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	_, err := f.mem.Stat(name)
	if errors.Is(err, fs.ErrNotExist) && f.armed.Load() && f.match(errorfs.Op{Kind: errorfs.OpCreate, Path: name}) {
		f.fired.Add(1)
		return nil, f.err
	}
	return f.FS.OpenReadWrite(name, category, opts...)
}

func on(suffix string, kinds ...errorfs.OpKind) func(errorfs.Op) bool {
	return func(op errorfs.Op) bool {
		if !strings.Contains(op.Path, suffix) {
			return false
		}
		for _, k := range kinds {
			if op.Kind == k {
				return true
			}
		}
		return false
	}
}

const dir = "/data/meta"

func smallOptions(disk vfs.FS) Options {
	return Options{Create: true, FS: disk, MemTableSize: 64 << 10, SlowDisk: -1}
}

// within fails the test if fn hangs, which is the fault these tests look for.
func within(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		panic(what + " hangs") // with the stacks of all goroutines
	}
}

// load runs writers that store numbered pairs and sync, until each meets an
// error. It returns what was acknowledged and what was visible.
type load struct {
	mu      sync.Mutex
	visible map[string]bool
	acked   map[string]bool
	errs    []error
}

const loadValue = 2000 // bytes: kept out of the tables

func (l *load) run(db *DB, writers int, limit int) {
	if l.visible == nil {
		l.visible, l.acked = map[string]bool{}, map[string]bool{}
	}
	offset := len(l.visible)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range limit {
				if err := l.step(db, fmt.Sprintf("%d.%06d", w, offset+i)); err != nil {
					l.mu.Lock()
					l.errs = append(l.errs, err)
					l.mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
}

func (l *load) step(db *DB, key string) error {
	value := strings.Repeat("v", loadValue)
	if err := tryPut(db, "x"+key, value, "y"+key, "small"); err != nil {
		return err
	}
	l.mu.Lock()
	l.visible[key] = true
	l.mu.Unlock()
	if err := db.Sync(); err != nil {
		return err
	}
	l.mu.Lock()
	l.acked[key] = true
	l.mu.Unlock()
	return nil
}

// check wants every key of want, and no pair in part.
func (l *load) check(t *testing.T, db *DB, want map[string]bool) {
	t.Helper()
	found := map[string]int{}
	if err := db.Scan(nil, nil, func(k, v []byte) bool {
		found[string(k[1:])]++
		if k[0] == 'x' && len(v) != loadValue {
			t.Errorf("key %q has %d bytes", k, len(v))
		}
		return true
	}); err != nil {
		t.Errorf("Scan: %v", err)
	}
	for k := range want {
		if found[k] != 2 {
			t.Errorf("pair %s has %d of 2 keys", k, found[k])
		}
		if _, err := db.Get([]byte("x" + k)); err != nil {
			t.Errorf("Get(x%s): %v", k, err)
		}
	}
	for k, n := range found {
		if n != 2 {
			t.Errorf("pair %s has %d of 2 keys: a torn batch", k, n)
		}
	}
}

// writeFaults are failures of the disk that must make the engine read-only.
var writeFaults = []struct {
	name  string
	err   error
	match func(errorfs.Op) bool
}{
	{"WALWriteNoSpace", syscall.ENOSPC, on(".log", errorfs.OpFileWrite)},
	{"WALSync", syscall.EIO, on(".log", errorfs.OpFileSync, errorfs.OpFileSyncData)},
	{"WALCreateNoSpace", syscall.ENOSPC, on(".log", errorfs.OpCreate)},
	{"TableCreateNoSpace", syscall.ENOSPC, on(".sst", errorfs.OpCreate)},
	{"TableWriteNoSpace", syscall.ENOSPC, on(".sst", errorfs.OpFileWrite)},
	{"TableSync", syscall.EIO, on(".sst", errorfs.OpFileSync, errorfs.OpFileSyncData)},
	{"ValueFileCreate", syscall.EMFILE, on(".blob", errorfs.OpCreate)},
	{"ValueFileWriteNoSpace", syscall.ENOSPC, on(".blob", errorfs.OpFileWrite)},
	{"ValueFileSync", syscall.EIO, on(".blob", errorfs.OpFileSync, errorfs.OpFileSyncData)},
	{"ManifestWriteNoSpace", syscall.ENOSPC, on("MANIFEST-", errorfs.OpFileWrite)},
	{"ManifestSync", syscall.EIO, on("MANIFEST-", errorfs.OpFileSync, errorfs.OpFileSyncData)},
	{"ManifestSealWrite", syscall.EIO, on(manifestSealName, errorfs.OpFileWriteAt)},
	{"LogSealWrite", syscall.EIO, on(logSealName, errorfs.OpFileWriteAt)},
	{"DirectorySync", syscall.EIO, func(op errorfs.Op) bool {
		return op.Path == dir && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData)
	}},
	{"AllWritesNoSpace", syscall.ENOSPC, func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt || op.Kind == errorfs.OpCreate
	}},
	{"AllChanges", syscall.EIO, func(op errorfs.Op) bool {
		return op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpLock && op.Kind != errorfs.OpFileClose
	}},
}

// TestFailedWriteMakesReadOnly arms each fault under load. Nobody hangs, every
// writer learns of it, reads see all that was visible, and what was
// acknowledged is there after a restart and after a power cut.
func TestFailedWriteMakesReadOnly(t *testing.T) {
	for _, tt := range writeFaults {
		t.Run(tt.name, func(t *testing.T) {
			disk := newFaultFS(vfs.NewCrashableMem(), tt.err, tt.match)
			db := mustOpen(t, dir, smallOptions(disk))
			var l load
			within(t, "load before the fault", func() { l.run(db, 4, 100) })
			if len(l.errs) > 0 {
				t.Fatalf("before the fault: %v", l.errs)
			}

			disk.armed.Store(true)
			const writers = 8
			within(t, "load under the fault", func() { l.run(db, writers, 10_000) })
			if disk.fired.Load() == 0 {
				t.Fatal("the fault was never reached")
			}
			if len(l.errs) != writers {
				t.Errorf("%d of %d writers got an error", len(l.errs), writers)
			}
			for _, err := range l.errs {
				if !errors.Is(err, meta.ErrReadOnly) || !errors.Is(err, tt.err) {
					t.Errorf("writer got %v, want ErrReadOnly with %v", err, tt.err)
				}
			}
			wantReadOnly(t, db, tt.err)
			within(t, "reading", func() { l.check(t, db, l.visible) })

			cut := disk.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, 2))})
			within(t, "Close", func() {
				if err := db.Close(); !errors.Is(err, meta.ErrReadOnly) {
					t.Errorf("Close = %v, want ErrReadOnly", err)
				}
			})
			l.check(t, mustOpen(t, dir, smallOptions(disk.mem)), l.acked)
			l.check(t, mustOpen(t, dir, smallOptions(cut)), l.acked)
		})
	}
}

func wantReadOnly(t *testing.T, db *DB, cause error) {
	t.Helper()
	for name, err := range map[string]error{
		"Failed":     db.Failed(),
		"Update":     tryPut(db, "z", "1"),
		"Sync":       db.Sync(),
		"Checkpoint": db.Checkpoint("/backup"),
	} {
		if !errors.Is(err, meta.ErrReadOnly) || !errors.Is(err, cause) {
			t.Errorf("%s = %v, want ErrReadOnly with %v", name, err, cause)
		}
	}
	if _, err := db.Get([]byte("z")); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("a refused update is visible: %v", err)
	}
	if s := db.Stats(); s.Engine == "" {
		t.Error("Stats of a read-only engine are empty")
	}
}

// TestFailedEngineKeepsDiskUnchanged: after the first failure nothing in the
// directory changes, so that the state is one a power cut could have left.
func TestFailedEngineKeepsDiskUnchanged(t *testing.T) {
	disk := newFaultFS(vfs.NewCrashableMem(), syscall.EIO, on(".log", errorfs.OpFileSyncData, errorfs.OpFileSync))
	db := mustOpen(t, dir, smallOptions(disk))
	var l load
	l.run(db, 4, 100)
	disk.armed.Store(true)
	within(t, "load", func() { l.run(db, 4, 10_000) })
	disk.armed.Store(false) // it would work again
	before := content(t, disk.mem)
	time.Sleep(50 * time.Millisecond)
	if err := db.Close(); !errors.Is(err, meta.ErrReadOnly) {
		t.Errorf("Close = %v, want ErrReadOnly", err)
	}
	after := content(t, disk.mem)
	for name := range before {
		if before[name] != after[name] {
			t.Errorf("%s changed after the failure (%d -> %d bytes)", name, len(before[name]), len(after[name]))
		}
		delete(after, name)
	}
	for name := range after {
		t.Errorf("%s appeared after the failure", name)
	}
}

func content(t *testing.T, disk vfs.FS) map[string]string {
	t.Helper()
	names, err := disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range names {
		b, err := readFile(disk, disk.PathJoin(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		all[name] = string(b)
	}
	return all
}

// TestFailedCompactionMakesReadOnly fails only what compactions write.
func TestFailedCompactionMakesReadOnly(t *testing.T) {
	for _, op := range []string{"create", "write", "sync"} {
		t.Run(op, func(t *testing.T) {
			disk := &compactionFault{MemFS: vfs.NewCrashableMem(), op: op}
			db := mustOpen(t, dir, smallOptions(disk))
			var l load
			disk.armed.Store(true)
			within(t, "load", func() { l.run(db, 4, 10_000) })
			if disk.fired.Load() == 0 {
				t.Fatal("the fault was never reached")
			}
			wantReadOnly(t, db, syscall.ENOSPC)
			l.check(t, db, l.visible)
			within(t, "Close", func() { _ = db.Close() })
			l.check(t, mustOpen(t, dir, smallOptions(disk.MemFS)), l.acked)
		})
	}
}

// compactionFault has no room for the output of compactions.
type compactionFault struct {
	*vfs.MemFS
	op    string
	armed atomic.Bool
	fired atomic.Int64
}

func (c *compactionFault) fault(op string) error {
	if op != c.op || !c.armed.Load() {
		return nil
	}
	c.fired.Add(1)
	return syscall.ENOSPC
}

func (c *compactionFault) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if !toCompaction(category) {
		return c.MemFS.Create(name, category)
	}
	if err := c.fault("create"); err != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	f, err := c.MemFS.Create(name, category)
	return compactionFaultFile{f, c}, err
}

type compactionFaultFile struct {
	vfs.File
	c *compactionFault
}

func (f compactionFaultFile) Write(p []byte) (int, error) {
	if err := f.c.fault("write"); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f compactionFaultFile) SyncData() error {
	return errors.Join(f.c.fault("sync"), f.File.SyncData())
}

func (f compactionFaultFile) Sync() error {
	return errors.Join(f.c.fault("sync"), f.File.Sync())
}

// TestFatalfDoesNotExit: what Pebble calls fatal makes the engine read-only.
func TestFatalfDoesNotExit(t *testing.T) {
	db := mustOpen(t, dir, smallOptions(vfs.NewCrashableMem()))
	put(t, db, "a", "1")
	db.logger.Fatalf("invariant %d broken", 7)
	if err := tryPut(db, "a", "2"); !errors.Is(err, meta.ErrReadOnly) || !strings.Contains(err.Error(), "invariant 7 broken") {
		t.Errorf("Update = %v, want ErrReadOnly with Pebble's message", err)
	}
	wantGet(t, db, "a", "1")
}

// TestOpenOnFullDisk: a store whose WAL must be replayed while nothing can be
// written opens read-only with everything in it; also one that an older program has
// written, which has no seal of the log.
func TestOpenOnFullDisk(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		t.Run(fmt.Sprintf("Sealed=%v", sealed), func(t *testing.T) { testOpenOnFullDisk(t, sealed) })
	}
}

func testOpenOnFullDisk(t *testing.T, sealed bool) {
	mem := vfs.NewCrashableMem()
	db := mustOpen(t, dir, smallOptions(mem))
	var l load
	l.run(db, 4, 200)
	cut := mem.CrashClone(vfs.CrashCloneCfg{}) // leaves a WAL
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if !sealed {
		if err := cut.Remove(cut.PathJoin(dir, logSealName)); err != nil {
			t.Fatal(err)
		}
	}

	disk := newFaultFS(cut, syscall.ENOSPC, func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt || op.Kind == errorfs.OpCreate
	})
	disk.armed.Store(true)
	within(t, "Open", func() {
		db, err := Open(dir, smallOptions(disk))
		if err != nil {
			t.Errorf("Open on a full disk: %v", err)
			return
		}
		wantReadOnly(t, db, syscall.ENOSPC)
		l.check(t, db, l.acked)
		if err := db.Close(); !errors.Is(err, meta.ErrReadOnly) {
			t.Errorf("Close = %v, want ErrReadOnly", err)
		}
	})
	if disk.fired.Load() == 0 {
		t.Fatal("the fault was never reached")
	}
	disk.armed.Store(false)
	db = mustOpen(t, dir, smallOptions(disk))
	l.check(t, db, l.acked)
	put(t, db, "after", "1")
}

// TestCreateThatFailsCanBeRepeated fails each write of a creation in turn.
func TestCreateThatFailsCanBeRepeated(t *testing.T) {
	for n := int64(1); ; n++ {
		var count atomic.Int64
		mem := vfs.NewCrashableMem()
		disk := newFaultFS(mem, syscall.ENOSPC, func(op errorfs.Op) bool {
			return op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose &&
				op.Kind != errorfs.OpFilePreallocate && count.Add(1) >= n
		})
		disk.armed.Store(true)
		var db *DB
		var err error
		within(t, "Open", func() { db, err = Open(dir, smallOptions(disk)) })
		if err == nil {
			failed := db.Failed()
			if closeErr := db.Close(); failed == nil && closeErr == nil {
				if n < 10 {
					t.Errorf("a creation took only %d writes: the fault is not reached", n)
				}
				return // more writes allowed than a creation and a close need
			}
		}
		db = mustOpen(t, dir, smallOptions(mem))
		put(t, db, "a", "1")
		if err := db.Close(); err != nil {
			t.Fatalf("write %d failed; after the second creation: Close: %v", n, err)
		}
	}
}

// slowFS takes its time to sync WALs.
type slowFS struct {
	*vfs.MemFS
	delay time.Duration
}

func (s slowFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.MemFS.Create(name, category)
	if err == nil && strings.HasSuffix(name, ".log") {
		return slowFile{f, s.delay}, nil
	}
	return f, err
}

type slowFile struct {
	vfs.File
	delay time.Duration
}

func (f slowFile) SyncData() error {
	time.Sleep(f.delay)
	return f.File.SyncData()
}

func TestSlowDiskIsLogged(t *testing.T) {
	if testing.Short() {
		t.Skip("the monitor looks every two seconds")
	}
	var log logbuf.Buffer
	opts := smallOptions(slowFS{vfs.NewMem(), 3 * time.Second})
	opts.SlowDisk, opts.Logger = 100*time.Millisecond, slog.New(slog.NewTextHandler(&log, nil))
	db := mustOpen(t, dir, opts)
	put(t, db, "a", "1")
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, "disk is slow") || !strings.Contains(got, ".log") {
		t.Errorf("a sync of 3 s was not reported: %q", got)
	}
}

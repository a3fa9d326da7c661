package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"engramfs/store/meta"
)

// sampleStore returns a file system with a store that has tables, separated
// values, a MANIFEST with several edits and, unless closed, a WAL; and what is in it.
func sampleStore(t *testing.T, closed bool) (*vfs.MemFS, map[string]string) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	db := mustOpen(t, dir, smallOptions(mem))
	want := map[string]string{}
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 600 {
		key, value := fmt.Sprintf("k%05d", i), fmt.Sprintf("v%x", r.Uint64())
		if i%4 == 0 {
			value = strings.Repeat(value, 100)
		}
		put(t, db, key, value)
		want[key] = value
	}
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	if closed {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: r}), want
}

// flip changes one bit of a file.
func flip(t *testing.T, disk vfs.FS, name string, at int, bit uint) {
	t.Helper()
	path := disk.PathJoin(dir, name)
	b, err := readFile(disk, path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1 << bit
	f, err := disk.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// outcome opens a store and reads all of it. A detected fault is a
// *meta.CorruptError; want is compared only if none was detected. A
// compaction of everything must not panic either.
func outcome(t *testing.T, disk vfs.FS, want map[string]string) string {
	t.Helper()
	db, err := Open(dir, Options{FS: disk, MemTableSize: 64 << 10, SlowDisk: -1})
	if err != nil {
		return detected(err)
	}
	defer db.Close()
	got := map[string]string{}
	err = db.Scan(nil, nil, func(k, v []byte) bool { got[string(k)] = string(v); return true })
	if compactErr := db.db.Compact(t.Context(), []byte("a"), []byte("z"), false); err == nil && compactErr != nil {
		err = classify(dir, compactErr)
	}
	for k := range want {
		if v, getErr := db.Get([]byte(k)); getErr == nil && v != nil && string(v) != want[k] {
			return fmt.Sprintf("SILENT: Get(%s) has other content", k)
		}
	}
	if err != nil {
		return detected(err)
	}
	if isPrefix(got, want) {
		return "tail lost"
	}
	if !maps.Equal(got, want) {
		return fmt.Sprintf("SILENT: %d of %d keys", len(got), len(want))
	}
	return "harmless"
}

// isPrefix reports whether got is what want was at an earlier time: its first keys.
func isPrefix(got, want map[string]string) bool {
	for i := range len(got) {
		k := fmt.Sprintf("k%05d", i)
		if v, ok := got[k]; !ok || v != want[k] {
			return false
		}
	}
	return len(got) > 0 && len(got) < len(want)
}

func detected(err error) string {
	var corrupt *meta.CorruptError
	var version *meta.VersionError
	if errors.As(err, &corrupt) || errors.As(err, &version) {
		return "detected"
	}
	return "UNCLASSIFIED: " + err.Error()
}

// TestFlippedBitIsDetected flips bits in files of every kind: reading finds it
// out, or it does no harm.
func TestFlippedBitIsDetected(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("Closed=%v", closed), func(t *testing.T) {
			base, want := sampleStore(t, closed)
			if got := outcome(t, clone(base), want); got != "harmless" {
				t.Fatalf("the unharmed store is %s", got)
			}
			files := nonEmptyFiles(t, base)
			r := rand.New(rand.NewPCG(7, 8))
			tally := map[string]int{}
			for trial := range 30 {
				name := files[trial%len(files)]
				b, err := readFile(base, base.PathJoin(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				at, bit := r.IntN(len(b)), uint(r.IntN(8))
				disk := clone(base)
				flip(t, disk, name, at, bit)
				got := outcome(t, disk, want)
				tally[got]++
				if got != "detected" && got != "harmless" {
					t.Errorf("bit %d of byte %d of %d of %s: %s", bit, at, len(b), name, got)
				}
			}
			t.Log(tally)
			if tally["detected"] == 0 {
				t.Error("nothing was detected: the flips did not reach the store")
			}
		})
	}
}

// TestFlippedValueFileIsDetected goes through the end of a file of separated values: a bad
// footer makes Pebble panic.
func TestFlippedValueFileIsDetected(t *testing.T) {
	base, want := sampleStore(t, true)
	for _, name := range nonEmptyFiles(t, base) {
		if !strings.HasSuffix(name, ".blob") {
			continue
		}
		b, err := readFile(base, base.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for back := 1; back <= 64; back += 3 {
			disk := clone(base)
			flip(t, disk, name, len(b)-back, uint(back%8))
			switch got := outcome(t, disk, want); got {
			case "harmless":
			case "detected":
				refused++
			default:
				t.Errorf("byte %d of %d of %s: %s", len(b)-back, len(b), name, got)
			}
		}
		if refused == 0 {
			t.Errorf("no flip at the end of %s was noticed", name)
		}
		return
	}
	t.Fatal("there is no file of separated values")
}

// TestFlippedManifestIsDetected goes through the whole MANIFEST: Pebble alone takes a
// flipped record for the end of the file and deletes the tables named after it.
func TestFlippedManifestIsDetected(t *testing.T) {
	base, want := sampleStore(t, true)
	var manifest string
	for _, name := range nonEmptyFiles(t, base) {
		if isManifest(name) {
			manifest = name
		}
	}
	b, err := readFile(base, base.PathJoin(dir, manifest))
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(b); at += 1 + len(b)/40 {
		disk := clone(base)
		flip(t, disk, manifest, at, 3)
		before := content(t, disk)
		if got := outcome(t, disk, want); got != "detected" {
			t.Errorf("byte %d of %d of %s: %s", at, len(b), manifest, got)
		}
		if !maps.Equal(before, content(t, disk)) {
			t.Errorf("byte %d: the refused store was changed", at)
		}
	}
	t.Run("Truncated", func(t *testing.T) {
		disk := clone(base)
		f, err := disk.Create(base.PathJoin(dir, manifest), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(b[:len(b)/2]); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if got := outcome(t, disk, want); got != "detected" {
			t.Errorf("half a MANIFEST: %s", got)
		}
	})
}

// TestWithoutSealManifestFlipIsSilent is the control: it shows that Pebble alone
// does lose data, so that the seal is what the test above tests.
func TestWithoutSealManifestFlipIsSilent(t *testing.T) {
	base, want := sampleStore(t, true)
	silent := 0
	for _, name := range nonEmptyFiles(t, base) {
		if !isManifest(name) {
			continue
		}
		b, err := readFile(base, base.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for at := len(b) / 4; at < len(b); at += 1 + len(b)/20 {
			disk := clone(base)
			if err := disk.Remove(base.PathJoin(dir, manifestSealName)); err != nil {
				t.Fatal(err)
			}
			flip(t, disk, name, at, 3)
			if strings.HasPrefix(outcome(t, disk, want), "SILENT") {
				silent++
			}
		}
	}
	if silent == 0 {
		t.Error("Pebble found every flip by itself: the seal can go")
	}
	t.Logf("%d silent losses without the seal", silent)
}

// newestLog returns the newest log of a store, and how much of it was synced.
func newestLog(t *testing.T, disk vfs.FS) (name string, sealed int64) {
	t.Helper()
	b, err := readFile(disk, disk.PathJoin(dir, logSealName))
	if err != nil {
		t.Fatal(err)
	}
	name, sealed, _, ok := decodeSeal(b)
	if !ok || sealed == 0 {
		t.Fatalf("the log's seal is %q", b)
	}
	return name, sealed
}

// TestFlippedLogIsDetected goes through what was synced of the newest log of a process
// that was killed. Pebble alone takes a bad record for the torn end of the log, at
// least where no later sync says otherwise, and loses what follows: that is the control.
func TestFlippedLogIsDetected(t *testing.T) {
	base, want := sampleStore(t, false)
	name, sealed := newestLog(t, base)
	lost := 0
	for at := int64(0); at < sealed; at += 1 + sealed/60 {
		disk := clone(base)
		flip(t, disk, name, int(at), uint(at%8))
		before := content(t, disk)
		if got := outcome(t, disk, want); got != "detected" {
			t.Errorf("byte %d of %d of %s: %s", at, sealed, name, got)
		}
		if !maps.Equal(before, content(t, disk)) {
			t.Errorf("byte %d: the refused store was changed", at)
		}
		if err := disk.Remove(base.PathJoin(dir, logSealName)); err != nil {
			t.Fatal(err)
		}
		if outcome(t, disk, want) == "tail lost" {
			lost++
		}
	}
	if lost == 0 {
		t.Error("Pebble found every flip by itself: the log's seal can go")
	}
	t.Logf("%d silent losses without the seal", lost)
	t.Run("Missing", func(t *testing.T) {
		disk := clone(base)
		if err := disk.Remove(base.PathJoin(dir, name)); err != nil {
			t.Fatal(err)
		}
		if got := outcome(t, disk, want); got != "detected" {
			t.Errorf("without the log: %s", got)
		}
	})
}

// TestFlippedLogOfACheckpointIsDetected: a checkpoint is durable as a whole.
func TestFlippedLogOfACheckpointIsDetected(t *testing.T) {
	mem := vfs.NewMem()
	db := mustOpen(t, "/data/live", Options{Create: true, FS: mem, SlowDisk: -1})
	defer db.Close()
	for i := range 100 {
		put(t, db, fmt.Sprintf("k%05d", i), "value")
	}
	if err := db.Checkpoint(dir); err != nil {
		t.Fatal(err)
	}
	name, sealed := newestLog(t, mem)
	flip(t, mem, name, int(sealed)-30, 2)
	if got := outcome(t, mem, nil); got != "detected" {
		t.Errorf("a flip in %s: %s", name, got)
	}
}

// TestOpenCutHasAllBeforeTheDamage flips a bit anywhere in the newest log: the cut store
// has everything before it, and the damaged one stays as it is.
func TestOpenCutHasAllBeforeTheDamage(t *testing.T) {
	base, want := sampleStore(t, false)
	name, sealed := newestLog(t, base)
	kept := -1
	for at := int64(0); at < sealed; at += 1 + sealed/20 {
		disk := clone(base)
		flip(t, disk, name, int(at), uint(at%8))
		before := content(t, disk)
		got, cut := openedCut(t, disk)
		if !isPrefix(got, want) {
			t.Errorf("byte %d: %d of %d keys, which are not the first", at, len(got), len(want))
		}
		if len(got) < kept {
			t.Errorf("byte %d: %d keys, an earlier flip left %d", at, len(got), kept)
		}
		kept = len(got)
		if cut.Log != name || cut.Kept > at || cut.Kept+cut.Lost < sealed || at-cut.Kept > 2*logBlock {
			t.Errorf("byte %d of %d of %s: %+v", at, sealed, name, cut)
		}
		if !maps.Equal(before, content(t, disk)) {
			t.Errorf("byte %d: the damaged store was changed", at)
		}
	}
	if kept < len(want)*9/10 {
		t.Errorf("a flip near the end leaves %d of %d keys", kept, len(want))
	}
}

// logBlock is what one record of the log can take at most, here.
const logBlock = 32 << 10

// openedCut returns what a cut store has, once it has been closed and opened again.
func openedCut(t *testing.T, disk vfs.FS) (map[string]string, Cut) {
	t.Helper()
	to := disk.PathJoin(disk.PathDir(dir), "cut")
	o := Options{FS: disk, MemTableSize: 64 << 10, SlowDisk: -1}
	db, cut, err := OpenCut(t.Context(), dir, to, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, to, o)
	defer db.Close()
	got := map[string]string{}
	if err := db.Scan(nil, nil, func(k, v []byte) bool { got[string(k)] = string(v); return true }); err != nil {
		t.Fatal(err)
	}
	return got, cut
}

// TestOpenCutRefusesOtherDamage: a store with a bad table, or a bad MANIFEST, is not cut.
func TestOpenCutRefusesOtherDamage(t *testing.T) {
	base, _ := sampleStore(t, true)
	for _, name := range nonEmptyFiles(t, base) {
		if !strings.HasSuffix(name, ".sst") && !isManifest(name) && name != formatName {
			continue
		}
		disk := clone(base)
		flip(t, disk, name, 20, 1)
		to := disk.PathJoin(disk.PathDir(dir), "cut")
		_, _, err := OpenCut(t.Context(), dir, to, Options{FS: disk, SlowDisk: -1})
		if !meta.IsCorrupt(err) {
			t.Errorf("%s is damaged: %v", name, err)
		}
		if _, err := disk.Stat(to); err == nil {
			t.Errorf("%s is damaged: a folder is left over", name)
		}
	}
}

// TestOpenCutWithoutAnyLog: a store whose logs are gone is damaged, and nothing is left over.
func TestOpenCutWithoutAnyLog(t *testing.T) {
	disk, _ := sampleStore(t, false)
	for _, name := range logsOf(t, disk) {
		if err := disk.Remove(disk.PathJoin(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := OpenCut(t.Context(), dir, "/data/cut", Options{FS: disk, SlowDisk: -1})
	if !meta.IsCorrupt(err) {
		t.Errorf("OpenCut = %v, want a CorruptError", err)
	}
}

// TestVerifyOfWhatCannotBeRead: a bad sector, or a panic about what was read, is damage,
// whether tables have it or separated values.
func TestVerifyOfWhatCannotBeRead(t *testing.T) {
	for _, suffix := range []string{".sst", ".blob"} {
		for _, panics := range []bool{false, true} {
			mem, _ := sampleStore(t, true)
			reads := on(suffix, errorfs.OpFileReadAt)
			disk := newFaultFS(mem, syscall.EIO, func(op errorfs.Op) bool {
				if !reads(op) || !bytes.Contains(debug.Stack(), []byte("(*DB).Verify(")) { // Pebble reads, too
					return false
				}
				if panics {
					panic("boom")
				}
				return true
			})
			db := mustOpen(t, dir, smallOptions(disk))
			disk.armed.Store(true)
			if err := db.Verify(t.Context()); !meta.IsCorrupt(err) {
				t.Errorf("%s, panics=%t: Verify = %v, want a CorruptError", suffix, panics, err)
			}
			disk.armed.Store(false)
			within(t, "Close", func() {
				if err := db.Close(); err != nil && !panics {
					t.Errorf("%s: Close = %v", suffix, err)
				}
			})
			if disk.fired.Load() == 0 && !panics {
				t.Errorf("%s: nothing was read", suffix)
			}
		}
	}
}

func clone(m *vfs.MemFS) *vfs.MemFS {
	return m.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
}

func nonEmptyFiles(t *testing.T, disk vfs.FS) []string {
	t.Helper()
	var names []string
	for name, b := range content(t, disk) {
		if b != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestSealRoundTrip(t *testing.T) {
	b := encodeSeal("MANIFEST-000123", 4567, 0xdeadbeef)
	if len(b) != sealSize {
		t.Errorf("a seal has %d bytes, want %d", len(b), sealSize)
	}
	name, length, crc, ok := decodeSeal(b)
	if !ok || name != "MANIFEST-000123" || length != 4567 || crc != 0xdeadbeef {
		t.Errorf("decodeSeal = %q, %d, %x, %v", name, length, crc, ok)
	}
	for i := range b {
		torn := slices.Clone(b)
		torn[i] ^= 1
		if _, _, _, ok := decodeSeal(torn); ok {
			t.Errorf("a seal with byte %d changed is accepted", i)
		}
	}
	if _, _, _, ok := decodeSeal(nil); ok {
		t.Error("an empty seal is accepted")
	}
}

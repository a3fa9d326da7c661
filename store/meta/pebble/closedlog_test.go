package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// gatedFS lets nobody make a table before it is opened, so that logs stay needed.
type gatedFS struct {
	vfs.FS
	gate chan struct{}
}

func (g gatedFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") || isValueFile(name) {
		<-g.gate
	}
	return g.FS.Create(name, category)
}

func (g gatedFS) Unwrap() vfs.FS { return g.FS }

// logsOf returns the names of the logs of the store in dir, in order.
func logsOf(t *testing.T, disk vfs.FS) []string {
	t.Helper()
	names, err := disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !isLog(n) })
	slices.Sort(names)
	return names
}

// twoLogStore returns what a power cut leaves of a store with a closed log and a newer
// one, both needed; and what is in it.
func twoLogStore(t *testing.T) (base *vfs.MemFS, logs []string, want map[string]string) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	disk := gatedFS{mem, make(chan struct{})}
	db := mustOpen(t, dir, smallOptions(disk))
	want = map[string]string{}
	r := rand.New(rand.NewPCG(5, 6))
	for i, last := 0, 5000; i < last; i++ {
		key, value := fmt.Sprintf("k%05d", i), fmt.Sprintf("v%x", r.Uint64())
		put(t, db, key, value)
		want[key] = value
		if last == 5000 && len(logsOf(t, mem)) == 2 {
			last = i + 40
		}
	}
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	base = mem.CrashClone(vfs.CrashCloneCfg{})
	close(disk.gate)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if logs = logsOf(t, base); len(logs) != 2 {
		t.Fatalf("the logs are %v, want two", logs)
	}
	if got := outcome(t, clone(base), want); got != "harmless" {
		t.Fatalf("the unharmed store is %s", got)
	}
	return base, logs, want
}

// chunks returns where the chunks of a log begin, without its trailer.
func chunks(t *testing.T, disk vfs.FS, name string) []int {
	t.Helper()
	b, err := readFile(disk, disk.PathJoin(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for at := 0; at+19 <= len(b); {
		header := 11 // CRC (4), length (2), kind (1), log number (4)
		if b[at+6] >= 9 {
			header += 8 // synced offset
		}
		length := int(binary.LittleEndian.Uint16(b[at+4:]))
		switch {
		case length > 0:
			found = append(found, at)
			at += header + length
		case logBlock-at%logBlock < header:
			at += logBlock - at%logBlock
		default:
			return found
		}
	}
	return found
}

// TestFalseEndOfClosedLogIsDetected makes chunks of a closed log look like its end, by one
// bit or by a lost rest. Pebble alone goes on with the next log.
func TestFalseEndOfClosedLogIsDetected(t *testing.T) {
	base, logs, want := twoLogStore(t)
	if logNumber(logs[0])%2 != 0 {
		t.Fatalf("%s has an odd number, so one bit does not make it the next", logs[0])
	}
	starts := chunks(t, base, logs[0])
	if len(starts) < 200 {
		t.Fatalf("%s has %d chunks", logs[0], len(starts))
	}
	for i := 0; i < len(starts); i += len(starts) / 10 {
		at := starts[i]
		t.Run(fmt.Sprintf("Flipped=%d", at), func(t *testing.T) {
			disk := clone(base)
			flip(t, disk, logs[0], at+7, 0)
			wantCut(t, disk, logs, at, want)
		})
		t.Run(fmt.Sprintf("Truncated=%d", at), func(t *testing.T) {
			disk := clone(base)
			path := disk.PathJoin(dir, logs[0])
			if err := vfs.LimitedCopy(disk, path, path+tmpSuffix, int64(at)); err != nil {
				t.Fatal(err)
			}
			if err := disk.Rename(path+tmpSuffix, path); err != nil {
				t.Fatal(err)
			}
			wantCut(t, disk, logs, at, want)
		})
	}
}

// TestOpenCutAtClosedLogLeavesNoHole flips bits anywhere in a closed log.
func TestOpenCutAtClosedLogLeavesNoHole(t *testing.T) {
	base, logs, want := twoLogStore(t)
	size := len(content(t, base)[logs[0]])
	for _, at := range []int{100, size / 4, size / 2, size - 200} {
		disk := clone(base)
		flip(t, disk, logs[0], at, 3)
		wantCut(t, disk, logs, at, want)
	}
}

// wantCut wants the store, damaged in the first of its two logs at byte at, to be refused,
// and OpenCut to have what was written before that, nothing of the newer log, and to say so.
func wantCut(t *testing.T, disk *vfs.MemFS, logs []string, at int, want map[string]string) {
	t.Helper()
	before := content(t, disk)
	if got := outcome(t, disk, want); got != "detected" {
		t.Errorf("byte %d of %s: %s", at, logs[0], got)
	}
	got, cut := openedCut(t, disk)
	if cut.Kept > 0 && !isPrefix(got, want) {
		t.Errorf("byte %d: %d of %d keys, which are not the first", at, len(got), len(want))
	}
	if cut.Log != logs[0] || cut.Kept > int64(at) || cut.Lost == 0 {
		t.Errorf("byte %d of %s: %+v", at, logs[0], cut)
	}
	if !maps.Equal(before, content(t, disk)) {
		t.Errorf("byte %d: the damaged store was changed", at)
	}
}

// rotationFS keeps what a power cut could leave before and after a log is begun.
type rotationFS struct {
	*vfs.MemFS

	mu     sync.Mutex // protects the fields below
	rng    *rand.Rand
	images []powerCut
	acked  int // keys
	reused int // logs
}

type powerCut struct {
	*vfs.MemFS
	acked int // keys that must be there
}

func (r *rotationFS) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, percent := range []int{0, 50, 100} {
		left := r.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r.rng})
		r.images = append(r.images, powerCut{left, r.acked})
	}
}

func (r *rotationFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if isLog(name) {
		r.keep()
		defer r.keep()
	}
	return r.MemFS.Create(name, category)
}

func (r *rotationFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	r.mu.Lock()
	r.reused++
	r.mu.Unlock()
	r.keep()
	defer r.keep()
	return r.MemFS.ReuseForWrite(oldname, newname, category)
}

// TestPowerCutAtRotationIsNoDamage: a store opens whenever the power is cut, with what was
// acknowledged, also where a log that was closed is needed or older records are behind its end.
func TestPowerCutAtRotationIsNoDamage(t *testing.T) {
	disk := &rotationFS{MemFS: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(3, 4))}
	db := mustOpen(t, dir, smallOptions(disk))
	disk.images = nil // of a creation that was cut short
	for i := range 600 {
		put(t, db, fmt.Sprintf("k%05d", i), strings.Repeat("v", i*7%1000))
		if i%20 == 0 {
			if err := db.Sync(); err != nil {
				t.Fatal(err)
			}
			disk.mu.Lock()
			disk.acked = i + 1
			disk.mu.Unlock()
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	closed := 0
	for i, image := range disk.images {
		logs := logsOf(t, image)
		if len(logs) > 1 {
			closed++
		}
		db, err := Open(dir, smallOptions(image.MemFS))
		if err != nil {
			t.Errorf("image %d with %v: %v", i, logs, err)
			continue
		}
		for k := range image.acked {
			if _, err := db.Get(fmt.Appendf(nil, "k%05d", k)); err != nil {
				t.Errorf("image %d with %v: key %d of %d: %v", i, logs, k, image.acked, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if closed == 0 || disk.reused == 0 {
		t.Errorf("%d images with a closed log, %d logs made of older ones", closed, disk.reused)
	}
	t.Logf("%d images, %d with a closed log, %d logs made of older ones", len(disk.images), closed, disk.reused)
}

// unlinkableFS has no hard links, like vfat.
type unlinkableFS struct{ *vfs.MemFS }

func (unlinkableFS) Link(oldname, newname string) error {
	return &os.LinkError{Op: "link", Old: oldname, New: newname, Err: syscall.EPERM}
}

func TestOpenCutWithoutHardLinks(t *testing.T) {
	base, want := sampleStore(t, false)
	name, sealed := newestLog(t, base)
	flip(t, base, name, int(sealed)/2, 2)
	if got, _ := openedCut(t, unlinkableFS{base}); !isPrefix(got, want) {
		t.Errorf("%d of %d keys, which are not the first", len(got), len(want))
	}
	if err := linkOrCopy(base, base.PathJoin(dir, name), base.PathJoin(dir, formatName)); !errors.Is(err, os.ErrExist) {
		t.Errorf("linkOrCopy over a file = %v", err)
	}
}

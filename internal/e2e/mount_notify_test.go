package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stuckAfter is what no request of the hammer may take.
const stuckAfter = 5 * time.Second

// TestPUTAgainstReaders replaces files over WebDAV as fast as it goes while
// others read, map and stat them through the mount: the kernel has to be told of
// each change while it holds the very inode.
func TestPUTAgainstReaders(t *testing.T) {
	lasts := 5 * time.Second
	if long() {
		lasts = time.Minute
	}
	for _, integrity := range []string{"fast", "strict"} {
		t.Run(integrity, func(t *testing.T) {
			m := StartMounted(t, Options{Binary: engramfs, Args: []string{"--mount-integrity", integrity}})
			h := newHammer(t, m)
			end := m.Watch(lasts + 30*time.Second)
			h.run(lasts / 2)
			end()
			m.mustBeSound()
			t.Logf("hammer, integrity %s: %d PUTs, %d reads, %d maps, %d stats in %v, each a whole version; slowest %v; %d looks showed a version older than one acknowledged before, the oldest by %v",
				integrity, h.puts.Load(), h.reads.Load(), h.maps.Load(), h.stats.Load(), lasts/2, time.Duration(h.slowest.Load()).Round(time.Millisecond),
				h.stale.Load(), time.Duration(h.staleBy.Load()).Round(time.Millisecond))
		})
	}
}

// hammer is the load and what it has seen.
type hammer struct {
	t     *testing.T
	m     *Mounted
	files []*hammered

	puts, reads, maps, stats, stale atomic.Int64
	slowest, staleBy                atomic.Int64 // nanoseconds
	stop                            atomic.Bool
}

// hammered is a file whose versions count up. Version and size are part of its
// content.
type hammered struct {
	name string
	size int // of version 0; later ones differ by up to 100 bytes
	mu   sync.Mutex
	// acked is when each version was acknowledged.
	acked []time.Time
}

func newHammer(t *testing.T, m *Mounted) *hammer {
	t.Helper()
	h := &hammer{t: t, m: m}
	d := connect(t, m.Server)
	for i, size := range []int{200, 12_000, 100_000, 1 << 20} {
		f := &hammered{name: fmt.Sprintf("f%d", i), size: size}
		must(t, d, "PUT", "/"+f.name, nil, f.content(0), 201)
		f.ack()
		h.files = append(h.files, f)
	}
	return h
}

// content returns a version of the file.
func (f *hammered) content(version int) []byte {
	b := Content(uint64(version)<<8|uint64(f.name[1]), f.size+version%100)
	binary.LittleEndian.PutUint64(b, uint64(version))
	return b
}

func (f *hammered) ack() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked = append(f.acked, time.Now())
}

func (f *hammered) latest() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.acked) - 1
}

// run hammers for a while.
func (h *hammer) run(lasts time.Duration) {
	var wg sync.WaitGroup
	for _, f := range h.files {
		wg.Go(func() { h.write(f) })
		for _, look := range []func(*hammered) ([]byte, error){h.read, h.mapped, h.held} {
			wg.Go(func() { h.look(f, look) })
		}
		wg.Go(func() { h.stat(f) })
	}
	time.Sleep(lasts)
	h.stop.Store(true)
	wg.Wait()
	if h.puts.Load() < 50 || h.reads.Load() < 50 || h.maps.Load() < 50 {
		h.t.Errorf("%d PUTs, %d reads and %d maps: that is no hammering", h.puts.Load(), h.reads.Load(), h.maps.Load())
	}
}

// timed runs one request and fails the test if it took too long.
func (h *hammer) timed(what string, do func() error) error {
	begin := time.Now()
	err := do()
	took := time.Since(begin)
	for {
		old := h.slowest.Load()
		if int64(took) <= old || h.slowest.CompareAndSwap(old, int64(took)) {
			break
		}
	}
	if took > stuckAfter {
		h.t.Errorf("%s took %v", what, took)
	}
	return err
}

func (h *hammer) write(f *hammered) {
	d := NewDAV(h.m.Addr, "", time.Minute)
	defer d.Close()
	for v := 1; !h.stop.Load(); v++ {
		err := h.timed("PUT", func() error {
			r, _, err := d.Do("PUT", "/"+f.name, nil, f.content(v))
			if err == nil && r.Status != 204 {
				err = fmt.Errorf("status %d", r.Status)
			}
			return err
		})
		if err != nil {
			h.t.Errorf("PUT %s: %v", f.name, err)
			return
		}
		f.ack()
		h.puts.Add(1)
	}
}

// look reads the file again and again. What it sees must be a whole version, and
// one that is not older than what was acknowledged before it looked.
func (h *hammer) look(f *hammered, read func(*hammered) ([]byte, error)) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a mapping of a file that became shorter
	defer func() {
		if v := recover(); v != nil {
			h.t.Errorf("%s: %v\n%s", f.name, v, debug.Stack())
		}
	}()
	for !h.stop.Load() {
		floor := f.latest()
		var b []byte
		err := h.timed("read", func() (err error) { b, err = read(f); return err })
		if err != nil {
			h.t.Errorf("read %s: %s", f.name, describeErrno(err))
			return
		}
		if len(b) < 8 {
			h.t.Errorf("%s: %d bytes, which is no version", f.name, len(b))
			return
		}
		version := int(binary.LittleEndian.Uint64(b))
		if version < 0 || version > f.latest()+1 || !bytes.Equal(b, f.content(version)) {
			h.t.Errorf("%s: %d bytes that begin like version %d and are not that; the latest is %d", f.name, len(b), version, f.latest())
			return
		}
		if version < floor {
			h.late(f, version, floor)
		}
	}
}

// late counts a look that showed version though a newer one, floor, had been
// acknowledged when it began.
func (h *hammer) late(f *hammered, version, floor int) {
	h.stale.Add(1)
	f.mu.Lock()
	by := time.Since(f.acked[version+1])
	f.mu.Unlock()
	if h.staleBy.Load() < int64(by) {
		h.staleBy.Store(int64(by))
	}
	if by > stuckAfter {
		h.t.Errorf("%s: version %d is seen %v after version %d was acknowledged, and now there is %d", f.name, version, by, version+1, floor)
		h.stop.Store(true)
	}
}

func (h *hammer) read(f *hammered) ([]byte, error) {
	h.reads.Add(1)
	return os.ReadFile(h.m.Path(f.name))
}

// held reads the same open file twice: it must not change.
func (h *hammer) held(f *hammered) ([]byte, error) {
	file, err := os.Open(h.m.Path(f.name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	first, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Millisecond)
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	again, err := io.ReadAll(file)
	if err == nil && !bytes.Equal(first, again) {
		err = errors.New("an open file has changed")
	}
	h.reads.Add(2)
	return first, err
}

func (h *hammer) mapped(f *hammered) ([]byte, error) {
	file, err := os.Open(h.m.Path(f.name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	h.maps.Add(1)
	return bytes.Clone(b), unix.Munmap(b)
}

// stat looks for sizes that no version has, and for moments without the file.
func (h *hammer) stat(f *hammered) {
	for !h.stop.Load() {
		var info os.FileInfo
		err := h.timed("stat", func() (err error) { info, err = os.Stat(h.m.Path(f.name)); return err })
		if err != nil {
			h.t.Errorf("stat %s: %s", f.name, describeErrno(err))
			return
		}
		if more := info.Size() - int64(f.size); more < 0 || more >= 100 {
			h.t.Errorf("stat %s: %d bytes, which no version has", f.name, info.Size())
			return
		}
		h.stats.Add(1)
		time.Sleep(time.Millisecond)
	}
}

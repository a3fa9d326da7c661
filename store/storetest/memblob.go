package storetest

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"engramfs/store/blob"
)

// MemBlobs is a blob backend in memory that forgets on demand what was not
// synced, as a power cut does.
type MemBlobs struct {
	// mu protects the field below and the content of every file.
	mu    sync.Mutex
	blobs map[blob.ID]*memBlob
}

type memBlob struct {
	data, synced []byte
	durable      bool // synced at least once
	modTime      time.Time
	changed      int64 // when, in nanoseconds
}

// touch notes a write, later than any before it. The caller holds mu.
func (b *memBlob) touch() {
	b.changed = max(b.changed+1, time.Now().UnixNano())
	b.modTime = time.Unix(0, b.changed)
}

// NewMemBlobs returns an empty backend.
func NewMemBlobs() *MemBlobs { return &MemBlobs{blobs: make(map[blob.ID]*memBlob)} }

// PowerCut returns what a power cut now would leave: every blob as it was when
// it was last synced, and none that never was.
func (m *MemBlobs) PowerCut() *MemBlobs {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := NewMemBlobs()
	for id, b := range m.blobs {
		if b.durable {
			s := append([]byte(nil), b.synced...)
			after.blobs[id] = &memBlob{data: s, synced: slices.Clone(s), durable: true, modTime: b.modTime, changed: b.changed}
		}
	}
	return after
}

// TornPowerCut is PowerCut on a disk that was just writing: every page of what was
// not synced has reached it or has not, and so has every size and name. No blob
// changes while others runs, which is for the disks that lose power with this one.
func (m *MemBlobs) TornPowerCut(rng *rand.Rand, others func()) *MemBlobs {
	m.mu.Lock()
	defer m.mu.Unlock()
	others()
	after := NewMemBlobs()
	for id, b := range m.blobs {
		if b.durable || rng.IntN(2) == 0 {
			s := b.torn(rng)
			after.blobs[id] = &memBlob{data: s, synced: slices.Clone(s), durable: true, modTime: b.modTime, changed: b.changed}
		}
	}
	return after
}

// torn returns a mixture of b's synced and its present content.
func (b *memBlob) torn(rng *rand.Rand) []byte {
	const page = 4096
	size := len(b.data)
	if rng.IntN(2) == 0 {
		size = len(b.synced)
	}
	s := make([]byte, size)
	copy(s, b.synced)
	for off := 0; off < min(size, len(b.data)); off += page {
		if rng.IntN(2) == 0 {
			copy(s[off:min(off+page, size)], b.data[off:])
		}
	}
	return s
}

// Len returns the number of blobs.
func (m *MemBlobs) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.blobs)
}

// Flip inverts one bit of a blob's content, as a failing disk does.
func (m *MemBlobs) Flip(id blob.ID, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[id].data[off] ^= 1
}

// Scribble writes p into a blob as a memory mapping that outlived its file does:
// past the store.
func (m *MemBlobs) Scribble(id blob.ID, p []byte, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.blobs[id].data[off:], p)
	m.blobs[id].touch()
}

// IDs returns the blobs' ids in no order.
func (m *MemBlobs) IDs() []blob.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]blob.ID, 0, len(m.blobs))
	for id := range m.blobs {
		ids = append(ids, id)
	}
	return ids
}

// Create implements blob.Backend.
func (m *MemBlobs) Create(id blob.ID) (blob.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs[id] != nil {
		return nil, fmt.Errorf("create blob %s: %w", id, fs.ErrExist)
	}
	b := &memBlob{}
	b.touch()
	m.blobs[id] = b
	return &memFile{m: m, b: b, write: true}, nil
}

// Open implements blob.Backend.
func (m *MemBlobs) Open(id blob.ID, write bool) (blob.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.blobs[id]
	if b == nil {
		return nil, fmt.Errorf("open blob %s: %w", id, fs.ErrNotExist)
	}
	return &memFile{m: m, b: b, write: write}, nil
}

// Clone implements blob.Backend.
func (m *MemBlobs) Clone(src, dst blob.ID) (blob.File, error) {
	m.mu.Lock()
	b := m.blobs[src]
	m.mu.Unlock()
	if b == nil {
		return nil, fmt.Errorf("clone blob %s: %w", src, fs.ErrNotExist)
	}
	f, err := m.Create(dst)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f.(*memFile).b.data = append([]byte(nil), b.data...)
	return f, nil
}

// Delete implements blob.Backend.
func (m *MemBlobs) Delete(id blob.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, id)
	return nil
}

// List implements blob.Backend.
func (m *MemBlobs) List(fn func(blob.Info) error) error {
	m.mu.Lock()
	var infos []blob.Info
	for id, b := range m.blobs {
		infos = append(infos, blob.Info{ID: id, Size: int64(len(b.data)), ModTime: b.modTime})
	}
	m.mu.Unlock()
	for _, info := range infos {
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Free implements blob.Backend.
func (m *MemBlobs) Free() (free, total int64, err error) { return 1 << 40, 1 << 40, nil }

// Close implements blob.Backend.
func (m *MemBlobs) Close() error { return nil }

type memFile struct {
	m     *MemBlobs
	b     *memBlob
	write bool
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off >= int64(len(f.b.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.b.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.write {
		return 0, fs.ErrPermission
	}
	f.b.touch()
	if end := off + int64(len(p)); end > int64(len(f.b.data)) {
		f.b.data = append(f.b.data, make([]byte, end-int64(len(f.b.data)))...)
	}
	return copy(f.b.data[off:], p), nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.write {
		return fs.ErrPermission
	}
	f.b.touch()
	if size <= int64(len(f.b.data)) {
		f.b.data = append([]byte(nil), f.b.data[:size]...)
	} else {
		f.b.data = append(f.b.data, make([]byte, size-int64(len(f.b.data)))...)
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.b.data)), nil
}

// Stat implements blob.Stater.
func (f *memFile) Stat() (blob.Stat, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	n := int64(len(f.b.data))
	return blob.Stat{Size: n, Allocated: n, Mtime: f.b.modTime.UnixNano(), Ctime: f.b.changed}, nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.b.synced = append([]byte(nil), f.b.data...)
	f.b.durable = true
	return nil
}

func (f *memFile) Close() error { return nil }

var (
	_ blob.Backend = (*MemBlobs)(nil)
	_ blob.Stater  = (*memFile)(nil)
)

// Snapshot returns a copy of everything as it is, synced or not: what the death
// of the process leaves.
func (m *MemBlobs) Snapshot() *MemBlobs {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := NewMemBlobs()
	for id, b := range m.blobs {
		c := *b
		c.data, c.synced = slices.Clone(b.data), slices.Clone(b.synced)
		after.blobs[id] = &c
	}
	return after
}

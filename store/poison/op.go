package poison

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// Ops are interned to small numbers, so that a write section can say which op
// holds the lock in one word and without an allocation. The table is shared by
// all registries, as it only maps constant strings to numbers.
const (
	opBits  = 12
	maxOps  = 1<<opBits - 1 // op 0 stands for all ops beyond the table
	opCache = 1024          // slots; a server has a few dozen ops
)

var ops = opTable{byName: map[string]uintptr{}}

type opTable struct {
	cache [opCache]atomic.Pointer[opEntry] // by the string's address: a constant keeps its own
	names atomic.Pointer[[]string]         // by index - 1

	mu     sync.Mutex // protects byName and the replacement of names
	byName map[string]uintptr
}

type opEntry struct {
	name  string // keeps the address from being reused
	index uintptr
}

// opIndex returns the number of op, 0 when the table is full or op is empty.
func opIndex(op string) uintptr {
	p := unsafe.StringData(op)
	h := (uint64(uintptr(unsafe.Pointer(p))) * 0x9e3779b97f4a7c15) >> 54
	if e := ops.cache[h].Load(); e != nil && len(e.name) == len(op) && unsafe.StringData(e.name) == p {
		return e.index
	}
	return ops.intern(op, h)
}

func (t *opTable) intern(op string, slot uint64) uintptr {
	if op == "" {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	index, ok := t.byName[op]
	if !ok && len(t.byName) < maxOps {
		index = uintptr(len(t.byName) + 1)
		t.byName[op] = index
		var names []string
		if old := t.names.Load(); old != nil {
			names = append(names, *old...)
		}
		names = append(names, op)
		t.names.Store(&names)
	}
	t.cache[slot].Store(&opEntry{name: op, index: index})
	return index
}

// opName returns the op with the given index, "" when it is not known.
func opName(index uintptr) string {
	names := ops.names.Load()
	if names == nil || index == 0 || int(index) > len(*names) {
		return ""
	}
	return (*names)[index-1]
}

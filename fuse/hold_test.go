package fuse

import (
	"os"
	"testing"
	"time"

	"engramfs/store"
)

// TestNativeFileStaysForWhoJoins closes the first handle of a file while another is
// about to join it: what the kernel has stays the content.
func TestNativeFileStaysForWhoJoins(t *testing.T) {
	m := mountForTest(t, Options{})
	if !m.Native() {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal("the kernel offers no passthrough")
		}
		t.Skip("the kernel offers no passthrough")
	}
	path, _ := m.makeBig("f", 300_000)
	first := open(t, path, os.O_RDONLY)
	if m.mode(path) != modeNative {
		t.Fatal("the file is not native")
	}
	a, err := m.store.LookupPath(t.Context(), "/f")
	must(t, err)

	// The first half of join, as of an operation that is overtaken by what follows.
	s := m.fs.table.shard(a.Ino)
	s.mu.Lock()
	s.entries[a.Ino].opens++
	file := s.entries[a.Ino].file
	s.mu.Unlock()
	must(t, first.Close())
	for m.fs.files.len() > 0 { // the kernel's RELEASE is on its way
		time.Sleep(time.Millisecond)
	}
	_, _, err = m.store.Clone(t.Context(), a.Ino, store.RootIno, "copy", store.CloneOptions{})
	must(t, err)

	h, err := m.store.Open(t.Context(), a.Ino, true)
	must(t, err)
	f := &openFile{h: h, ino: a.Ino, write: true}
	must(t, m.fs.joinNative(t.Context(), f))
	if got, err := h.Native(t.Context()); err != nil || got != file {
		t.Errorf("the file has changed under the kernel (%v)", err)
	}
	must(t, m.fs.closeFile(f))
	if m.mode(path) != modeNone {
		t.Error("the file stays open")
	}
}

package fuse

import (
	"math/rand/v2"
	"sync"
	"testing"

	"engramfs/store"
)

func TestTableCountsReferences(t *testing.T) {
	tab := newTable()
	if tab.known(7) {
		t.Error("an inode is known before its first lookup")
	}
	if !tab.known(store.RootIno) {
		t.Error("the root is not known")
	}
	tab.remember(7)
	tab.remember(7)
	tab.forget(7, 1)
	if !tab.known(7) {
		t.Error("one of two references is gone and the inode is not known")
	}
	tab.forget(7, 1)
	if tab.known(7) || tab.len() != 0 {
		t.Error("a forgotten inode is known")
	}
	tab.remember(8)
	tab.forget(8, 1<<60) // more than there are
	if tab.known(8) {
		t.Error("an inode is known after more was forgotten than there was")
	}
	tab.forget(9, 1) // never seen
}

func TestTableKeepsWhatIsOpen(t *testing.T) {
	tab := newTable()
	tab.remember(7)
	s := tab.shard(7)
	s.entryLocked(7).opens = 1
	tab.forget(7, 1)
	if !tab.has(7) {
		t.Error("an open inode was forgotten")
	}
}

func TestTableRemembersTheRemoved(t *testing.T) {
	tab := newTable()
	tab.bury(store.Attr{Ino: 7})
	if _, ok := tab.buried(7, nil); ok {
		t.Error("an inode that nobody refers to is remembered")
	}
	tab.remember(7)
	tab.bury(store.Attr{Ino: 7, Size: 5})
	if a, ok := tab.buried(7, nil); !ok || a.Size != 5 {
		t.Errorf("buried = %+v, %t", a, ok)
	}
	tab.forget(7, 1)
	if _, ok := tab.buried(7, nil); ok {
		t.Error("a forgotten inode is remembered")
	}
}

func TestTableEach(t *testing.T) {
	tab := newTable()
	want := map[store.Ino]bool{}
	for ino := store.Ino(1); ino < 1000; ino += 3 {
		tab.remember(ino)
		want[ino] = true
	}
	tab.each(func(ino store.Ino) {
		if !want[ino] {
			t.Errorf("inode %d came twice or from nowhere", ino)
		}
		delete(want, ino)
		tab.forget(ino, 1) // no lock is held
	})
	if len(want) != 0 || tab.len() != 0 {
		t.Errorf("%d inodes were not visited, %d are left", len(want), tab.len())
	}
}

func TestTableConcurrently(t *testing.T) {
	tab := newTable()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				ino := store.Ino(1 + rand.IntN(100))
				tab.remember(ino)
				tab.known(ino)
				tab.bury(store.Attr{Ino: ino})
				tab.buried(ino, nil)
				tab.forget(ino, 1)
			}
		})
	}
	wg.Wait()
	if n := tab.len(); n != 0 {
		t.Errorf("%d inodes are left", n)
	}
}

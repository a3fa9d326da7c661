package store_test

import (
	"io/fs"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

func TestTmpfileGetsAName(t *testing.T) {
	s := storetest.New(t)
	d, err := s.Create(ctx, store.RootIno, "d", store.NewNode{Mode: store.ModeDir | 0o2775, GID: 77})
	if err != nil {
		t.Fatal(err)
	}
	a, h, err := s.Tmpfile(ctx, d.Ino, store.NewNode{Mode: store.ModeRegular | 0o2640, UID: 5, GID: 6})
	if err != nil {
		t.Fatal(err)
	}
	if a.Nlink != 0 || a.Mode != store.ModeRegular|0o2640 || a.UID != 5 || a.GID != 77 {
		t.Errorf("attributes %+v", a)
	}
	if after, _ := s.GetAttr(ctx, d.Ino); after.Mtime != lookup(s, "/d").Mtime || after.Version != d.Version {
		t.Errorf("the directory has changed: %+v", after)
	}
	if _, err := h.WriteAt(ctx, []byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	storetest.Check(t, s)
	if names(t, s, d.Ino) != "" || s.FileCount(ctx) != 1 {
		t.Errorf("entries %q, %d files", names(t, s, d.Ino), s.FileCount(ctx))
	}
	if _, err := s.Link(ctx, a.Ino, d.Ino, "f"); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	if got := get(t, s, "/d/f"); string(got) != "content" || lookup(s, "/d/f").Nlink != 1 {
		t.Errorf("content %q", got)
	}
	storetest.Check(t, s)
}

func TestTmpfileGoesWithItsLastHandle(t *testing.T) {
	s := storetest.New(t)
	a, h, err := s.Tmpfile(ctx, store.RootIno, store.NewNode{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Mode != store.ModeRegular|0o600 {
		t.Errorf("mode %#o", a.Mode)
	}
	if _, err := h.WriteAt(ctx, pattern(50_000, 1), 0); err != nil {
		t.Fatal(err)
	}
	other, err := s.Open(ctx, a.Ino, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	if _, err := other.Attr(ctx); err != nil {
		t.Errorf("collected while a handle is open: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	quiesce(t, s)
	_, err = s.GetAttr(ctx, a.Ino)
	wantErr(t, "after the last handle", err, store.ErrStale)
	if s.FileCount(ctx) != 0 || s.TotalSize(ctx) != 0 {
		t.Errorf("%d files, %d bytes", s.FileCount(ctx), s.TotalSize(ctx))
	}
	storetest.Check(t, s)
}

func TestTmpfileErrors(t *testing.T) {
	s := storetest.New(t)
	f := put(t, s, "/f", nil)
	_, _, err := s.Tmpfile(ctx, f.Ino, store.NewNode{})
	wantErr(t, "in a file", err, store.ErrNotDir)
	_, _, err = s.Tmpfile(ctx, 999, store.NewNode{})
	wantErr(t, "in nothing", err, store.ErrStale)
	_, _, err = s.Tmpfile(ctx, store.RootIno, store.NewNode{Mode: store.ModeDir})
	wantErr(t, "a directory", err, fs.ErrInvalid)
	if n := s.FileCount(ctx); n != 1 {
		t.Errorf("%d files", n)
	}
}

// A file in a directory with the set-group-ID bit gets its group and keeps its
// own mode; a directory gets the bit too (inode_init_owner in Linux's fs/inode.c).
func TestSetgidDirectory(t *testing.T) {
	s := storetest.New(t)
	d, err := s.Create(ctx, store.RootIno, "d", store.NewNode{Mode: store.ModeDir | 0o2755, GID: 50})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		mode, to uint32
	}{
		{"plain", store.ModeRegular | 0o644, store.ModeRegular | 0o644},
		{"setgid", store.ModeRegular | 0o2755, store.ModeRegular | 0o2755},
		{"mandatory", store.ModeRegular | 0o2644, store.ModeRegular | 0o2644},
		{"dir", store.ModeDir | 0o755, store.ModeDir | 0o2755},
		{"fifo", store.ModeFIFO | 0o600, store.ModeFIFO | 0o600},
	} {
		a, err := s.Create(ctx, d.Ino, c.name, store.NewNode{Mode: c.mode, GID: 9})
		if err != nil || a.Mode != c.to || a.GID != 50 {
			t.Errorf("%s: mode %#o, group %d, %v; want %#o, 50", c.name, a.Mode, a.GID, err, c.to)
		}
	}
}

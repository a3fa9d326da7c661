package store

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"engramfs/store/blob"
)

func drawInode(t *rapid.T) inode {
	v := inode{
		Attr: Attr{
			Ino: Ino(rapid.Uint64Min(1).Draw(t, "ino")), Gen: rapid.Uint64().Draw(t, "gen"), Mode: rapid.Uint32().Draw(t, "mode"),
			Nlink: rapid.Uint32().Draw(t, "nlink"), UID: rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
			Rdev: rapid.Uint32().Draw(t, "rdev"), Size: rapid.Int64Min(0).Draw(t, "size"),
			Atime: rapid.Int64().Draw(t, "atime"), Mtime: rapid.Int64().Draw(t, "mtime"), Ctime: rapid.Int64().Draw(t, "ctime"),
			Btime: rapid.Int64().Draw(t, "btime"), Change: rapid.Uint64().Draw(t, "change"), Version: rapid.Uint64().Draw(t, "version"),
			HasXattrs: rapid.Bool().Draw(t, "xattrs"),
		},
		parent: Ino(rapid.Uint64().Draw(t, "parent")), name: rapid.StringN(0, 255, 255).Draw(t, "name"),
	}
	v.content.kind = contentKind(rapid.IntRange(0, int(contentBlob)).Draw(t, "kind"))
	if v.content.kind == contentBlob {
		v.content.blob = blob.NewID()
		v.content.sealed = rapid.Bool().Draw(t, "sealed")
	}
	return v
}

func TestInodeRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawInode(t)
		b := appendInode(nil, &want)
		got, err := decodeInode(want.Ino, b)
		if err != nil || got != want {
			t.Fatalf("decodeInode = %+v, %v, want %+v", got, err, want)
		}
		if cut := len(b) - len(want.name); cut > 0 {
			if _, err := decodeInode(want.Ino, b[:rapid.IntRange(0, cut-1).Draw(t, "cut")]); !errors.Is(err, ErrDamaged) {
				t.Fatalf("a cut record: %v, want ErrDamaged", err)
			}
		}
	})
}

func FuzzDecodeInode(f *testing.F) {
	f.Add(appendInode(nil, &inode{Attr: Attr{Mode: ModeRegular | 0o644, Nlink: 1}, name: "x"}))
	f.Add(appendInode(nil, &inode{content: content{kind: contentBlob, blob: blob.NewID()}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeInode(7, b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("error %v does not match ErrDamaged", err)
			}
			return
		}
		again, err := decodeInode(7, appendInode(nil, &v))
		if err != nil || again != v {
			t.Errorf("%+v became %+v, %v", v, again, err)
		}
	})
}

func FuzzDecodeDirent(f *testing.F) {
	f.Add(appendDirent(nil, dirent{ino: 5, typ: ModeDir}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := decodeDirent(b); err == nil && string(appendDirent(nil, d)) != string(b) {
			t.Errorf("%x became %x", b, appendDirent(nil, d))
		} else if err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("error %v does not match ErrDamaged", err)
		}
	})
}

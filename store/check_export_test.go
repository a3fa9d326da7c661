package store

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"

	"engramfs/store/meta"
)

// Breakage is a way to violate one invariant of a store, by its records.
type Breakage struct {
	Code  string
	Break func(tx meta.Txn, f BrokenFiles) error
}

// BrokenFiles are the inodes that a Breakage works on. All names are of one letter.
type BrokenFiles struct {
	Dir, Sub    Ino // /d, /d/s
	Inline      Ino // /d/i, with a second name /l
	Blob, Other Ino // /d/b and /o, sealed
	Xattr       Ino // /x
}

func editRecord(tx meta.Txn, ino Ino, fn func(v *inode)) error {
	v, err := readInode(tx, ino)
	if err == nil {
		fn(&v)
		tx.Put(inoKey(keyInode, ino), appendInode(nil, &v))
	}
	return err
}

func put(key, value []byte) func(meta.Txn, BrokenFiles) error {
	return func(tx meta.Txn, _ BrokenFiles) error { tx.Put(key, value); return nil }
}

func entry(ino Ino, typ uint32) []byte { return appendDirent(nil, dirent{ino: ino, typ: typ}) }

const noIno = 1 << 40

// Breakages returns a way to violate each invariant.
func Breakages() []Breakage {
	edit := func(of func(f BrokenFiles) Ino, fn func(v *inode)) func(meta.Txn, BrokenFiles) error {
		return func(tx meta.Txn, f BrokenFiles) error { return editRecord(tx, of(f), fn) }
	}
	dir := func(f BrokenFiles) Ino { return f.Dir }
	inl := func(f BrokenFiles) Ino { return f.Inline }
	blb := func(f BrokenFiles) Ino { return f.Blob }
	del := func(key func(f BrokenFiles) []byte) func(meta.Txn, BrokenFiles) error {
		return func(tx meta.Txn, f BrokenFiles) error { tx.Delete(key(f)); return nil }
	}
	set := func(key func(f BrokenFiles) []byte, value []byte) func(meta.Txn, BrokenFiles) error {
		return func(tx meta.Txn, f BrokenFiles) error { tx.Put(key(f), value); return nil }
	}
	return []Breakage{
		{"record.key", put([]byte("I7"), nil)},
		{"inode.record", set(func(f BrokenFiles) []byte { return inoKey(keyInode, f.Inline) }, []byte{9})},
		{"dirent.record", put(direntKey(RootIno, "o"), []byte{1})},
		{"xattr.record", set(func(f BrokenFiles) []byte { return xattrKey(f.Xattr, "a\x00b") }, nil)},
		{"davlock.record", put(lockKey("urn:uuid:x"), []byte{1})},
		{"history.record", put(seqKey(keyHistory, 1), []byte("{"))},
		{"digests.record", func(tx meta.Txn, f BrokenFiles) error {
			v, err := readInode(tx, f.Blob)
			tx.Put(sumsKey(v.content.blob, groupDigests), []byte{digestRecordVersion, byte(SHA256)})
			return err
		}},
		{"damage.record", set(func(f BrokenFiles) []byte { return inoKey(keyDamage, f.Blob) }, []byte("{"))},
		{"fact.format", del(func(BrokenFiles) []byte { return factFormat })},
		{"fact.generation", put(factGen, []byte{1})},
		{"fact.next-ino", put(factNextIno, []byte{0, 0, 0, 0, 0, 0, 0, 3})},
		{"fact.poison", put(factPoison, []byte{1})},
		{"fact.run", edit(dir, func(v *inode) { v.Version = 40 * versionGap })},
		{"inode.type", edit(blb, func(v *inode) { v.Mode = 0o644 | ModeFIFO })},
		{"inode.root", del(func(BrokenFiles) []byte { return inoKey(keyInode, RootIno) })},
		{"inode.entries", edit(dir, func(v *inode) { v.Mode = 0o644 | ModeRegular })},
		{"dirent.directory", del(func(f BrokenFiles) []byte { return inoKey(keyInode, f.Dir) })},
		{"inline.stray", del(func(f BrokenFiles) []byte { return inoKey(keyInode, f.Inline) })},
		{"dirent.parent", func(tx meta.Txn, f BrokenFiles) error {
			tx.Put(direntKey(f.Blob, "z"), entry(f.Other, ModeRegular))
			return nil
		}},
		{"dirent.target", put(direntKey(RootIno, "z"), entry(noIno, ModeRegular))},
		{"dirent.name", func(tx meta.Txn, f BrokenFiles) error {
			tx.Put(direntKey(RootIno, ".."), entry(f.Other, ModeRegular))
			return nil
		}},
		{"dirent.type", func(tx meta.Txn, f BrokenFiles) error {
			tx.Put(direntKey(RootIno, "o"), entry(f.Other, ModeSocket))
			return nil
		}},
		{"dirent.lost", del(func(BrokenFiles) []byte { return direntKey(RootIno, "o") })},
		{"link.lost", del(func(BrokenFiles) []byte { return direntKey(RootIno, "l") })},
		{"link.stray", func(tx meta.Txn, f BrokenFiles) error { tx.Put(linkKey(f.Other, RootIno, "x"), nil); return nil }},
		{"inode.root-name", put(direntKey(RootIno, "z"), entry(RootIno, ModeDir))},
		{"orphan.named", set(func(f BrokenFiles) []byte { return inoKey(keyOrphan, f.Other) }, nil)},
		{"orphan.stray", put(inoKey(keyOrphan, noIno), nil)},
		{"inode.home", edit(inl, func(v *inode) { v.parent, v.name = RootIno, "nothing" })},
		{"directory.names", func(tx meta.Txn, f BrokenFiles) error {
			tx.Put(direntKey(RootIno, "z"), entry(f.Sub, ModeDir))
			return nil
		}},
		{"inode.nameless", func(tx meta.Txn, f BrokenFiles) error {
			tx.Delete(direntKey(RootIno, "o"))
			return editRecord(tx, f.Other, func(v *inode) { v.parent, v.name = 0, "" })
		}},
		{"tree.cycle", func(tx meta.Txn, f BrokenFiles) error {
			tx.Delete(direntKey(RootIno, "d"))
			tx.Put(direntKey(f.Sub, "d"), entry(f.Dir, ModeDir))
			return editRecord(tx, f.Dir, func(v *inode) { v.parent, v.name = f.Sub, "d" })
		}},
		{"inline.unreferred", edit(inl, func(v *inode) { v.content, v.Size = content{}, 0 })},
		{"inline.size", edit(inl, func(v *inode) { v.Size++ })},
		{"inline.missing", del(func(f BrokenFiles) []byte { return inoKey(keyInline, f.Inline) })},
		{"content.none", func(tx meta.Txn, f BrokenFiles) error {
			tx.Delete(inoKey(keyInline, f.Inline))
			return editRecord(tx, f.Inline, func(v *inode) { v.content.kind = contentNone })
		}},
		{"content.missing", edit(blb, func(v *inode) { v.content.blob[3] ^= 1 })},
		{"content.lost", edit(blb, func(v *inode) { v.content, v.Size = content{}, 0 })},
		{"content.flags", edit(inl, func(v *inode) { v.content.sealed = true })},
		{"content.size", edit(blb, func(v *inode) { v.Size++ })},
		{"content.sums", func(tx meta.Txn, f BrokenFiles) error {
			v, err := readInode(tx, f.Blob)
			tx.Delete(sumsKey(v.content.blob, 0))
			return err
		}},
		{"content.unsealed", edit(blb, func(v *inode) { v.content.sealed = false })},
		{"unsealed.stray", set(func(f BrokenFiles) []byte { return inoKey(keyUnsealed, f.Blob) }, []byte{0})},
		{"xattr.flag", edit(func(f BrokenFiles) Ino { return f.Xattr }, func(v *inode) { v.HasXattrs = false })},
		{"xattr.stray", put(xattrKey(noIno, "user.a"), []byte("1"))},
		{"inode.links", edit(dir, func(v *inode) { v.Nlink = 9 })},
		{"link.records", del(func(f BrokenFiles) []byte { return linkKey(f.Inline, RootIno, "l") })},
		{"refs.count", func(tx meta.Txn, f BrokenFiles) error {
			v, err := readInode(tx, f.Blob)
			tx.Put(blobKey(keyBlobRefs, v.content.blob), meta.EncodeCounter(7))
			return err
		}},
		{"usage", func(tx meta.Txn, _ BrokenFiles) error { tx.Add(usageFiles, 1); return nil }},
		{"sums.stray", put(sumsKey([16]byte{1}, 0), []byte("1234"))},
	}
}

// Devastate makes every link count and every reference count wrong, takes all links from
// every file, and removes the inodes of all directories but the root.
func Devastate(engine meta.Engine) error {
	return engine.Update(func(tx meta.Txn) error {
		err := tx.Scan(nil, nil, func(key, value []byte) bool {
			var v inode
			switch {
			case key[0] == keyBlobRefs:
				tx.Put(key, meta.EncodeCounter(7))
			case key[0] == keyLink:
				tx.Delete(key)
			case key[0] != keyInode:
			case v.decode(inoOfKey(key), value) != nil:
			case v.IsDir() && v.Ino != RootIno:
				tx.Delete(key)
			default:
				v.name = string(nameOfRecord(value))
				v.Nlink = 9
				tx.Put(key, appendInode(nil, &v))
			}
			return true
		})
		return err
	})
}

// FixedCodes returns the codes that a repair can mend.
func FixedCodes() (codes []string) {
	for code := range fixes {
		codes = append(codes, code)
	}
	return codes
}

// Corrupt alters or deletes n random records of an engine, but for the inode
// records of regular files and their content, and returns what it did. Counters and
// checksums it only deletes: a wrong checksum is the same as wrong content.
func Corrupt(engine meta.Engine, rng *rand.Rand, n int) (did []string, err error) {
	var keys [][]byte
	err = engine.Scan(nil, nil, func(key, value []byte) bool {
		var v inode
		spared := key[0] == keyInline || key[0] == keyAside ||
			key[0] == keyInode && v.decode(inoOfKey(key), value) == nil && v.IsRegular()
		if !spared {
			keys = append(keys, append([]byte(nil), key...))
		}
		return true
	})
	for range n {
		key := keys[rng.IntN(len(keys))]
		value, gerr := engine.Get(key)
		if gerr != nil {
			continue
		}
		remove := len(value) == 0 || rng.IntN(2) == 0 || bytes.IndexByte([]byte{keyBlobRefs, keyUsage, keySums}, key[0]) >= 0
		if !remove {
			value[rng.IntN(len(value))] ^= 1 << rng.IntN(8)
		}
		err = engine.Update(func(tx meta.Txn) error {
			if remove {
				tx.Delete(key)
			} else {
				tx.Put(key, value)
			}
			return nil
		})
		b, _ := json.Marshal(struct {
			Key    string
			Remove bool
		}{string(key), remove})
		did = append(did, string(b))
	}
	return did, err
}

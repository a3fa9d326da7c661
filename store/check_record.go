package store

import (
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"slices"

	"engramfs/store/blob"
)

var nameSeed = maphash.MakeSeed()

// hashName stands for a name in the table of inodes.
func hashName(name []byte) uint64 { return maphash.Bytes(nameSeed, name) }

// hasInoKey reports whether key can be of a record that belongs to one inode.
func (k *checker) hasInoKey(key []byte, exact bool) bool {
	if len(key) == 9 && exact || len(key) > 9 && !exact {
		return true
	}
	k.add(Finding{Code: "record.key", key: key}, "a record of kind %q has a key of %d bytes", key[:1], len(key))
	return false
}

func (k *checker) readInodes() error {
	return k.scan(keyInode, func(key, value []byte) {
		if !k.hasInoKey(key, true) {
			return
		}
		var v inode
		ino := inoOfKey(key)
		if err := v.decode(ino, value); err != nil {
			k.add(Finding{Code: "inode.record", Ino: ino, key: key}, "%v", err)
			return
		}
		c := checkedInode{
			ino: ino, parent: v.parent, name: hashName(nameOfRecord(value)), size: v.Size, nlink: v.Nlink,
			typ: uint16(v.Mode & ModeType), kind: v.content.kind,
		}
		for _, f := range [...]struct {
			set  bool
			flag inodeFlags
		}{{v.content.sealed, isSealed}, {v.content.fresh, isFresh}, {v.HasXattrs, hasXattrs}} {
			if f.set {
				c.is |= f.flag
			}
		}
		k.inodes.add(c)
		k.maxVer = max(k.maxVer, v.Version)
		k.checkType(&v)
		k.used.add(&v)
		if v.content.kind == contentBlob {
			k.refs = append(k.refs, checkedRef{v.content.blob, ino})
		}
	})
}

// checkType compares an inode's type with what it has.
func (k *checker) checkType(v *inode) {
	f := Finding{Code: "inode.type", Ino: v.Ino}
	switch typ := v.Mode & ModeType; {
	case !knownType(typ):
		k.add(f, "inode %d has type %#o, which does not exist", v.Ino, typ)
	case v.content.kind == contentBlob && typ != ModeRegular, v.content.kind == contentInline && typ != ModeRegular && typ != ModeSymlink:
		k.add(f, "inode %d has type %#o and content", v.Ino, typ)
	case v.Ino == RootIno && typ != ModeDir:
		k.add(f, "the root has type %#o and is no directory", typ)
	}
}

func knownType(typ uint32) bool {
	return slices.Contains([]uint32{ModeFIFO, ModeChar, ModeDir, ModeBlock, ModeRegular, ModeSymlink, ModeSocket}, typ)
}

// readFacts checks what the store knows of itself.
func (k *checker) readFacts() error {
	format, err := k.get(factFormat)
	if err != nil {
		return err
	}
	if len(format) != 1 || format[0] != formatVersion {
		k.add(Finding{Code: "fact.format", key: factFormat}, "the store's format is %q", format)
	}
	for _, fact := range []struct {
		key      []byte
		code     string
		required bool
	}{
		{factGen, "fact.generation", true}, {factNextIno, "fact.next-ino", false},
		{factPoison, "fact.poison", false}, {factRun, "fact.run", false},
	} {
		b, err := k.get(fact.key)
		if err != nil {
			return err
		}
		if b != nil && len(b) != 8 || b == nil && fact.required {
			k.add(Finding{Code: fact.code, key: fact.key}, "the record %q has %d bytes, want 8", fact.key, len(b))
			continue
		}
		k.compareFact(fact.code, fact.key, b)
	}
	return nil
}

// compareFact compares a fact with the inodes. Nothing is given twice, no number
// and no version.
func (k *checker) compareFact(code string, key, b []byte) {
	var n uint64
	if b != nil {
		n = binary.BigEndian.Uint64(b)
	}
	switch code {
	case "fact.next-ino":
		n = max(n, uint64(RootIno)+1)
		if last := uint64(k.inodes.last()); last >= n {
			k.add(Finding{Code: code, key: key}, "the next inode is %d, there is an inode %d", n, last)
		}
	case "fact.run":
		if run := max(n, 1); k.maxVer/versionGap >= run {
			k.add(Finding{Code: code, key: key}, "the store ran %d times, there is a version of run %d", n, k.maxVer/versionGap+1)
		}
	}
}

// readOthers checks the records that are about no inode.
func (k *checker) readOthers() error {
	if err := k.scan(lockPrefix, func(key, value []byte) {
		if _, err := parseLock(string(key[1:]), value); err != nil {
			k.add(Finding{Code: "davlock.record", key: key}, "WebDAV lock %q: %v", key[1:], err)
		}
	}); err != nil {
		return err
	}
	if err := k.scan(keyHistory, func(key, value []byte) {
		var e HistoryEntry
		if err := json.Unmarshal(value, &e); err != nil || len(key) != 9 {
			k.add(Finding{Code: "history.record", key: key}, "event %d cannot be read: %v", inoOfKey(key), err)
		}
	}); err != nil {
		return err
	}
	return k.scan(keyDamage, func(key, value []byte) {
		var list []damageRecord
		if err := json.Unmarshal(value, &list); err != nil || len(key) != 9 {
			k.add(Finding{Code: "damage.record", key: key}, "the damage of inode %d cannot be read: %v", inoOfKey(key), err)
		}
	})
}

func (k *checker) readUsage() error {
	u, err := loadUsage(k.r)
	if err != nil || u != k.used {
		k.add(Finding{Code: "usage"}, "usage counts %+v, there are %+v (%v)", u, k.used, err)
	}
	return nil
}

// knownDamage reports whether the list of damage has this content of ino's: then
// it is no news. A zero id stands for content that is no blob.
func (k *checker) knownDamage(ino Ino, id blob.ID) bool {
	if k.o.Damaged {
		return false
	}
	b, err := k.get(inoKey(keyDamage, ino))
	var list []damageRecord
	if err != nil || b == nil || json.Unmarshal(b, &list) != nil {
		return false
	}
	return slices.ContainsFunc(list, func(d damageRecord) bool {
		if id.IsZero() {
			return d.Blob == ""
		}
		return d.Blob == id.String()
	})
}

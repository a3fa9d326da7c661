package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// fix mends findings of one code. mend does nothing if the finding is mended
// already: earlier ones of the phase may have done so.
type fix struct {
	phase phase
	mend  func(r *repair, tx meta.Txn, f Finding) error
	needs need
}

// need is what mend looks up in what repair.gather has read.
type need int

const (
	needNames need = iota + 1 // the names of the inode
	needRefs                  // how many inodes have the content
)

// phase orders a repair: what comes first is the ground for what comes later.
type phase int

const (
	phaseRecords phase = iota // records that cannot be read
	phaseInodes               // inodes that must be there
	phaseNames                // entries
	phaseHomes                // which entry is home
	phaseTree                 // everything leads to the root
	phaseContent
	phaseCounts // derived from all that
	phaseRest
)

var fixes map[string]fix

func init() { // not a composite literal: the fixes call what reads this table
	fixes = map[string]fix{
		"record.key":     {phaseRecords, (*repair).setAside, 0},
		"inode.record":   {phaseRecords, (*repair).setAside, 0},
		"dirent.record":  {phaseRecords, (*repair).setAside, 0},
		"xattr.record":   {phaseRecords, (*repair).setAside, 0},
		"davlock.record": {phaseRecords, (*repair).setAside, 0},
		"history.record": {phaseRecords, (*repair).setAside, 0},
		"damage.record":  {phaseRecords, (*repair).setAside, 0},
		"digests.record": {phaseRecords, (*repair).setAside, 0},

		"fact.format":     {phaseRecords, (*repair).setFormat, 0},
		"fact.generation": {phaseRecords, (*repair).setGeneration, 0},
		"fact.next-ino":   {phaseRecords, (*repair).setNextIno, 0},
		"fact.poison":     {phaseRecords, (*repair).setPoison, 0},
		"fact.run":        {phaseRecords, (*repair).setRun, 0},

		"inode.type":       {phaseInodes, (*repair).setType, 0},
		"inode.root":       {phaseInodes, (*repair).makeDirectory, needNames},
		"inode.entries":    {phaseInodes, (*repair).setType, 0},
		"dirent.directory": {phaseInodes, (*repair).makeDirectory, needNames},
		"inline.stray":     {phaseInodes, (*repair).makeFile, needNames},

		"dirent.parent":   {phaseNames, (*repair).setAside, 0},
		"dirent.target":   {phaseNames, (*repair).setAside, 0},
		"dirent.name":     {phaseNames, (*repair).setAside, 0},
		"dirent.type":     {phaseNames, (*repair).setDirentType, 0},
		"dirent.lost":     {phaseNames, (*repair).restoreHome, 0},
		"link.lost":       {phaseNames, (*repair).restoreLink, 0},
		"link.stray":      {phaseNames, (*repair).setAside, 0},
		"inode.root-name": {phaseNames, (*repair).unnameRoot, needNames},
		"orphan.named":    {phaseNames, (*repair).setAsideOrphan, 0},
		"orphan.stray":    {phaseNames, (*repair).setAside, 0},

		"inode.home":      {phaseHomes, (*repair).rehome, needNames},
		"directory.names": {phaseHomes, (*repair).rehome, needNames},

		"inode.nameless": {phaseTree, (*repair).toLostFound, 0},
		"tree.cycle":     {phaseTree, (*repair).toLostFound, 0},

		"inline.unreferred": {phaseContent, (*repair).referInline, 0},
		"inline.size":       {phaseContent, (*repair).referInline, 0},
		"inline.missing":    {phaseContent, (*repair).noteMissing, 0},
		"content.none":      {phaseContent, (*repair).noteMissing, 0},
		"content.missing":   {phaseContent, (*repair).noteMissing, 0},
		"content.lost":      {phaseContent, (*repair).adopt, 0},
		"content.flags":     {phaseContent, (*repair).clearFlags, 0},
		"content.size":      {phaseContent, (*repair).settleSize, 0},
		"content.sums":      {phaseContent, (*repair).resealOr, 0},
		"content.unsealed":  {phaseContent, (*repair).resealOr, 0},
		"unsealed.stray":    {phaseContent, (*repair).setAside, 0},
		"xattr.flag":        {phaseContent, (*repair).flagXattrs, 0},
		"xattr.stray":       {phaseContent, (*repair).setAside, 0},

		"inode.links":  {phaseCounts, (*repair).countLinks, needNames},
		"link.records": {phaseCounts, (*repair).rehome, needNames},
		"refs.count":   {phaseCounts, (*repair).countRefs, needRefs},

		"usage":      {phaseRest, (*repair).countUsage, 0},
		"sums.stray": {phaseRest, (*repair).setAsideSums, 0},
	}
}

// asideKey is where a record stays that was taken out.
func asideKey(key []byte) []byte { return append([]byte{keyAside}, key...) }

// takeOut moves a record to where nothing reads it.
func (r *repair) takeOut(tx meta.Txn, key []byte) error {
	value, err := tx.Get(key)
	if errors.Is(err, meta.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	tx.Put(asideKey(key), value)
	tx.Delete(key)
	if r.step.Key == nil {
		r.step.Key, r.step.Value = key, value
	}
	r.did("record %q set aside", key)
	return nil
}

func (r *repair) setAside(tx meta.Txn, f Finding) error { return r.takeOut(tx, f.key) }

func (r *repair) setAsideOrphan(tx meta.Txn, f Finding) error {
	return r.takeOut(tx, inoKey(keyOrphan, f.Ino))
}

// setAsideSums takes out all that is known of content that does not exist.
func (r *repair) setAsideSums(tx meta.Txn, f Finding) error {
	var keys [][]byte
	prefix := blobKey(keySums, f.blob)
	err := tx.Scan(prefix, prefixEnd(prefix), func(key, _ []byte) bool {
		keys = append(keys, append([]byte(nil), key...))
		return true
	})
	for _, key := range keys {
		err = errors.Join(err, r.takeOut(tx, key))
	}
	return err
}

// putNumber sets a fact of the store.
func (r *repair) putNumber(tx meta.Txn, key []byte, n uint64) error {
	if old, err := tx.Get(key); err == nil {
		tx.Put(asideKey(key), old)
		r.step.Key, r.step.Value = key, old
	}
	tx.Put(key, binary.BigEndian.AppendUint64(nil, n))
	r.did("%s set to %d", key[1:], n)
	return nil
}

func (r *repair) setFormat(tx meta.Txn, _ Finding) error {
	tx.Put(factFormat, []byte{formatVersion})
	r.did("format set to %d", formatVersion)
	return nil
}

func (r *repair) setGeneration(tx meta.Txn, _ Finding) error {
	return r.putNumber(tx, factGen, uint64(r.o.Now().UnixNano()))
}

// setNextIno puts the next number behind all that records mention, whatever else
// becomes of them.
func (r *repair) setNextIno(tx meta.Txn, _ Finding) error {
	last, err := lastIno(tx)
	if err != nil {
		return err
	}
	return r.putNumber(tx, factNextIno, uint64(last)+1)
}

// lastIno returns the highest number that any record mentions, or that was reserved.
func lastIno(r meta.Reader) (Ino, error) {
	last := max(RootIno+1, Ino(numberOf(r, factNextIno))) - 1
	for _, kind := range []byte{keyInode, keyInline, keyXattr, keyUnsealed, keyLink, keyDamage} {
		if err := r.Scan([]byte{kind}, []byte{kind + 1}, func(key, _ []byte) bool {
			last = max(last, inoOfKey(key))
			return true
		}); err != nil {
			return 0, err
		}
	}
	err := r.Scan([]byte{keyDirent}, []byte{keyDirent + 1}, func(_, value []byte) bool {
		if d, err := decodeDirent(value); err == nil {
			last = max(last, d.ino)
		}
		return true
	})
	return last, err
}

func (r *repair) setPoison(tx meta.Txn, _ Finding) error {
	last := uint64(0)
	if err := tx.Scan([]byte{keyHistory}, []byte{keyHistory + 1}, func(_, value []byte) bool {
		var e HistoryEntry
		if json.Unmarshal(value, &e) == nil {
			last = max(last, e.Gen)
		}
		return true
	}); err != nil {
		return err
	}
	return r.putNumber(tx, factPoison, last+generationStep)
}

// setRun says what begin has done.
func (r *repair) setRun(meta.Txn, Finding) error {
	r.did("number of the run set to %d", r.version/versionGap+1)
	return nil
}

// edit changes an inode.
func (r *repair) edit(tx meta.Txn, ino Ino, fn func(v *inode) error) error {
	v, err := readInode(tx, ino)
	if err != nil {
		return err
	}
	if err := fn(&v); err != nil {
		return err
	}
	return r.save(tx, &v)
}

// save puts a changed inode into the engine, as a version of its own.
func (r *repair) save(tx meta.Txn, v *inode) error {
	v.Change++
	if v.Version = max(v.Version, r.version) + 1; v.Version/versionGap > r.version/versionGap {
		return fmt.Errorf("%w: inode %d: too many versions", ErrDamaged, v.Ino)
	}
	tx.Put(inoKey(keyInode, v.Ino), appendInode(nil, v))
	return nil
}

// setType gives an inode the type that fits what it has.
func (r *repair) setType(tx meta.Txn, f Finding) error {
	typ := ModeRegular
	entries := inoKey(keyDirent, f.Ino)
	return r.edit(tx, f.Ino, func(v *inode) error {
		has := false
		if err := tx.Scan(entries, prefixEnd(entries), func(_, _ []byte) bool { has = true; return false }); err != nil {
			return err
		}
		b, err := tx.Get(direntKey(v.parent, v.name))
		d, derr := decodeDirent(b)
		named := err == nil && derr == nil && d.ino == v.Ino && knownType(d.typ)
		switch {
		case f.Ino == RootIno, has && v.content.kind == contentNone:
			typ = ModeDir
		case v.content.kind == contentBlob:
		case v.content.kind == contentInline:
			if named && d.typ == ModeSymlink {
				typ = ModeSymlink
			}
		case named:
			typ = d.typ
		}
		v.Mode = v.Mode&ModePerm | typ
		if typ == ModeDir {
			v.content, v.Size = content{}, 0
		}
		r.did("inode %d has type %#o", v.Ino, typ)
		return nil
	})
}

// newInode returns the record of an inode of which only a part is left. Nobody
// but its owner may see it: who might have before is not known.
func (r *repair) newInode(ino Ino, mode uint32) inode {
	now := r.o.Now().UnixNano()
	return inode{Attr: Attr{
		Ino: ino, Gen: uint64(now), Mode: mode, Nlink: 1, UID: r.o.UID, GID: r.o.GID,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Change: 1, Version: r.version,
	}}
}

// makeDirectory makes the inode of a directory that has entries, or of the root.
func (r *repair) makeDirectory(tx meta.Txn, f Finding) error {
	ino := f.about()
	if _, err := readInode(tx, ino); !errors.Is(err, ErrStale) {
		return err
	}
	mode := ModeDir | 0o700
	if ino == RootIno {
		mode = ModeDir | 0o755 // as in a new store
	}
	v := r.newInode(ino, mode)
	v.Nlink = 2
	r.findHome(&v)
	tx.Put(inoKey(keyInode, ino), appendInode(nil, &v))
	r.did("directory %d made anew", ino)
	return nil
}

// makeFile makes the inode of a file of which the content is left.
func (r *repair) makeFile(tx meta.Txn, f Finding) error {
	ino := inoOfKey(f.key)
	b, err := tx.Get(f.key)
	if err != nil {
		return err
	}
	if ino == 0 {
		return r.takeOut(tx, f.key)
	}
	v := r.newInode(ino, ModeRegular|0o600)
	v.Size, v.content.kind = int64(len(b)), contentInline
	r.findHome(&v)
	tx.Put(inoKey(keyInode, ino), appendInode(nil, &v))
	r.did("file %d made anew for its content of %d bytes", ino, len(b))
	return nil
}

// noteMissing puts an inode whose content is gone on the list of damage. It stays
// as it is: its name and size say what there was.
func (r *repair) noteMissing(tx meta.Txn, f Finding) error {
	v, err := readInode(tx, f.Ino)
	if err != nil {
		return err
	}
	return r.note(tx, &v, Damage{Kind: DamagedMissing, Length: v.Size, Err: f.Detail, blob: f.blob})
}

// note adds to the list of damage.
func (r *repair) note(tx meta.Txn, v *inode, d Damage) error {
	key := inoKey(keyDamage, v.Ino)
	var list []damageRecord
	b, err := tx.Get(key)
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	d.Ino, d.Version, d.At, d.Source = v.Ino, v.Version, r.o.Now().UTC(), DamageByScrub
	d.Length = max(d.Length, 1)
	rec := damageRecord{Damage: d}
	if d.blob != (blob.ID{}) {
		rec.Blob = d.blob.String()
	}
	if b, err = json.Marshal(append(list, rec)); err != nil {
		return err
	}
	tx.Put(key, b)
	r.did("inode %d put on the list of damage", v.Ino)
	return nil
}

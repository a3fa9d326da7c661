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
	phase int
	mend  func(r *repair, tx meta.Txn, f Finding) error
}

// Phases of a repair: what comes first is the ground for what comes later.
const (
	phaseRecords = iota // records that cannot be read
	phaseInodes         // inodes that must be there
	phaseNames          // entries
	phaseHomes          // which entry is home
	phaseTree           // everything leads to the root
	phaseContent
	phaseCounts // derived from all that
	phaseRest
)

var fixes map[string]fix

func init() { // not a composite literal: the fixes call what reads this table
	fixes = map[string]fix{
		"record.key":     {phaseRecords, (*repair).setAside},
		"inode.record":   {phaseRecords, (*repair).setAside},
		"dirent.record":  {phaseRecords, (*repair).setAside},
		"xattr.record":   {phaseRecords, (*repair).setAside},
		"davlock.record": {phaseRecords, (*repair).setAside},
		"history.record": {phaseRecords, (*repair).setAside},
		"damage.record":  {phaseRecords, (*repair).setAside},

		"fact.format":     {phaseRecords, (*repair).setFormat},
		"fact.generation": {phaseRecords, (*repair).setGeneration},
		"fact.next-ino":   {phaseRecords, (*repair).setNextIno},
		"fact.poison":     {phaseRecords, (*repair).setPoison},
		"fact.run":        {phaseRecords, (*repair).setRun},

		"inode.type":       {phaseInodes, (*repair).setType},
		"inode.root":       {phaseInodes, (*repair).makeDirectory},
		"inode.entries":    {phaseInodes, (*repair).setType},
		"dirent.directory": {phaseInodes, (*repair).makeDirectory},
		"inline.stray":     {phaseInodes, (*repair).makeFile},

		"dirent.parent":   {phaseNames, (*repair).setAside},
		"dirent.target":   {phaseNames, (*repair).setAside},
		"dirent.name":     {phaseNames, (*repair).setAside},
		"dirent.type":     {phaseNames, (*repair).setDirentType},
		"dirent.lost":     {phaseNames, (*repair).restoreHome},
		"link.lost":       {phaseNames, (*repair).restoreLink},
		"link.stray":      {phaseNames, (*repair).setAside},
		"inode.root-name": {phaseNames, (*repair).unnameRoot},
		"orphan.named":    {phaseNames, (*repair).setAsideOrphan},
		"orphan.stray":    {phaseNames, (*repair).setAside},

		"inode.home":      {phaseHomes, (*repair).rehome},
		"directory.names": {phaseHomes, (*repair).rehome},

		"inode.nameless": {phaseTree, (*repair).toLostFound},
		"tree.cycle":     {phaseTree, (*repair).toLostFound},

		"inline.unreferred": {phaseContent, (*repair).referInline},
		"inline.size":       {phaseContent, (*repair).referInline},
		"inline.missing":    {phaseContent, (*repair).noteMissing},
		"content.none":      {phaseContent, (*repair).noteMissing},
		"content.missing":   {phaseContent, (*repair).noteMissing},
		"content.lost":      {phaseContent, (*repair).adopt},
		"content.flags":     {phaseContent, (*repair).clearFlags},
		"content.size":      {phaseContent, (*repair).settleSize},
		"content.sums":      {phaseContent, (*repair).unseal},
		"content.unsealed":  {phaseContent, (*repair).unseal},
		"unsealed.stray":    {phaseContent, (*repair).setAside},
		"xattr.flag":        {phaseContent, (*repair).flagXattrs},
		"xattr.stray":       {phaseContent, (*repair).setAside},

		"inode.links":  {phaseCounts, (*repair).countLinks},
		"link.records": {phaseCounts, (*repair).rehome},
		"refs.count":   {phaseCounts, (*repair).countRefs},

		"usage":      {phaseRest, (*repair).countUsage},
		"sums.stray": {phaseRest, (*repair).setAsideSums},
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
	last := RootIno
	if b, err := tx.Get(factNextIno); err == nil && len(b) == 8 {
		last = max(last, Ino(binary.BigEndian.Uint64(b))-1)
	}
	for _, kind := range []byte{keyInode, keyInline, keyXattr, keyUnsealed, keyLink, keyDamage} {
		if err := tx.Scan([]byte{kind}, []byte{kind + 1}, func(key, _ []byte) bool {
			last = max(last, inoOfKey(key))
			return true
		}); err != nil {
			return err
		}
	}
	if err := tx.Scan([]byte{keyDirent}, []byte{keyDirent + 1}, func(_, value []byte) bool {
		if d, err := decodeDirent(value); err == nil {
			last = max(last, d.ino)
		}
		return true
	}); err != nil {
		return err
	}
	return r.putNumber(tx, factNextIno, uint64(last)+1)
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
	ino := f.Ino
	if ino == 0 {
		ino = inoOfKey(f.key)
	}
	if _, err := readInode(tx, ino); !errors.Is(err, ErrStale) {
		return err
	}
	mode := ModeDir | 0o700
	if ino == RootIno {
		mode = ModeDir | 0o755 // as in a new store
	}
	v := r.newInode(ino, mode)
	v.Nlink = 2
	if err := r.findHome(tx, &v, ModeDir); err != nil {
		return err
	}
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
	if err := r.findHome(tx, &v, 0); err != nil {
		return err
	}
	tx.Put(inoKey(keyInode, ino), appendInode(nil, &v))
	r.did("file %d made anew for its content of %d bytes", ino, len(b))
	return nil
}

// findHome looks for an entry that names v, of a type, or of any that can have
// content, and makes it its home.
func (r *repair) findHome(tx meta.Txn, v *inode, typ uint32) error {
	if v.Ino == RootIno {
		return nil
	}
	names, err := namesOf(tx, v.Ino, 1)
	if err != nil || len(names) == 0 {
		return err
	}
	n := names[0]
	v.parent, v.name = n.parent, n.name
	if typ == 0 && n.typ == ModeSymlink {
		v.Mode = ModeSymlink | 0o777
	}
	return nil
}

// home is an entry that names an inode.
type home struct {
	parent Ino
	name   string
	typ    uint32
}

// namesOf returns up to limit entries that name ino. It reads all entries there are:
// only what is damaged needs it.
func namesOf(r meta.Reader, ino Ino, limit int) (names []home, err error) {
	err = r.Scan([]byte{keyDirent}, []byte{keyDirent + 1}, func(key, value []byte) bool {
		if d, derr := decodeDirent(value); derr == nil && d.ino == ino && len(key) > 9 {
			names = append(names, home{parent: inoOfKey(key), name: string(key[9:]), typ: d.typ})
		}
		return len(names) < limit
	})
	return names, err
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

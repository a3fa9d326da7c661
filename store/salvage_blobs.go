package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// listBlobs lists the content there is, and which of it is still referred to.
func (s *salvager) listBlobs() error {
	s.blobs = make(map[blob.ID]*salvagedBlob)
	err := s.o.Blobs.List(func(info blob.Info) error {
		s.blobs[info.ID] = &salvagedBlob{info: info}
		return s.ctx.Err()
	})
	if err != nil {
		return err
	}
	return eachContent(s.o.Meta, func(v *inode) {
		if b := s.blobs[v.content.blob]; b != nil {
			b.refs++
		}
	})
}

// writtenSince brings the records of every file up to date whose content was written since
// they were copied. The time of a write may be a tick behind the clock.
func (s *salvager) writtenSince() error {
	var newer []Ino
	since := s.o.Instant.Add(-clockTick)
	if err := eachContent(s.o.Meta, func(v *inode) {
		b := s.blobs[v.content.blob]
		if b != nil && b.info.ModTime.After(since) {
			newer = append(newer, v.Ino)
		}
	}); err != nil {
		return err
	}
	for _, ino := range newer {
		if err := s.o.Meta.Update(func(tx meta.Txn) error { return s.catchUp(tx, ino) }); err != nil {
			return err
		}
	}
	return nil
}

// catchUp makes the record of a file that of the content that it has now. If that is proven
// it is sealed, else it is to be sealed with the next start. If it is what its checksums are
// of nothing changes: only its time is another one, as after a copy of the folder.
func (s *salvager) catchUp(tx meta.Txn, ino Ino) error {
	old, err := readInode(tx, ino)
	if err != nil {
		return err
	}
	v, b := old, s.blobs[old.content.blob]
	v.Size = b.info.Size
	// Of files that shared the content one at most has what was written since: a label
	// does not prove it for the others.
	proof, err := s.repair.reseal(tx, &v, b.refs == 1)
	if err != nil || proof != "" && proof != "label" && v.content == old.content && v.Size == old.Size {
		return err
	}
	s.repair.step = RepairStep{Path: pathIn(tx, ino)}
	if old.content.fresh {
		base := inoKey(keyInline, ino)
		inline, err := tx.Get(base)
		if proof == "" && int64(len(inline)) > v.Size {
			return nil // a power cut may have taken the rest: the next start puts it back
		}
		if err = errors.Join(ignore(err, meta.ErrNotFound), s.repair.takeOut(tx, base)); err != nil {
			return err
		}
		v.content.fresh = false
	}
	written := b.info.ModTime.UnixNano()
	v.Mtime, v.Ctime = max(v.Mtime, written), max(v.Ctime, written)
	if proof == "" {
		return s.repair.unseal(tx, &v)
	}
	return s.repair.save(tx, &v)
}

// strayBlobs gives content that no file refers to back to its file.
func (s *salvager) strayBlobs() error {
	garbage := make(map[blob.ID]bool)
	err := s.o.Meta.Scan([]byte{keyGarbage}, []byte{keyGarbage + 1}, func(key, _ []byte) bool {
		if len(key) > len(blob.ID{}) {
			garbage[blobOfKey(key)] = true
		}
		return true
	})
	if err != nil {
		return err
	}
	var strays []*stray
	for id, b := range s.blobs {
		if b.refs > 0 || garbage[id] || b.info.Size == 0 {
			continue
		}
		st, err := s.readStray(b.info)
		if err != nil {
			return err
		}
		strays = append(strays, st)
	}
	// The newest content of a path gets it.
	slices.SortFunc(strays, func(a, b *stray) int { return b.label.modTime().Compare(a.label.modTime()) })
	for _, st := range strays {
		if err := errors.Join(s.ctx.Err(), s.place(st)); err != nil {
			return err
		}
	}
	return nil
}

// stray is content that no file refers to.
type stray struct {
	info    blob.Info
	label   label
	why     string // the label is not to be trusted; "": it is
	sums    []byte // of the blocks; nil: the content cannot be read as a whole
	digests Digests
}

// readStray reads what the content says of itself, and compares it with the bytes.
func (s *salvager) readStray(info blob.Info) (*stray, error) {
	st := &stray{info: info}
	f, err := s.o.Blobs.Open(info.ID, false)
	if err != nil {
		return nil, fmt.Errorf("content %s: %w", info.ID, err)
	}
	defer f.Close() // it was only read
	st.label, err = labelOn(f)
	if err != nil {
		st.why = "it carries no label"
		st.label.mtime = info.ModTime.UnixNano()
	}
	digest := sha256.New()
	sums, err := sumBlob(s.ctx, f, info.Size, digest)
	if err != nil {
		st.why = err.Error()
		note(&s.report.Missing, "content %s: %v", info.ID, err)
		return st, s.ctx.Err()
	}
	st.sums, st.digests[SHA256] = sums, digest.Sum(nil)
	if st.why == "" && !st.label.proves(info.Size, st.sums) {
		st.why = "its bytes are not those of its label"
	}
	return st, nil
}

func labelOn(f blob.File) (label, error) {
	k, ok := f.(blob.Labeler)
	if !ok {
		return label{}, fs.ErrNotExist
	}
	b, err := k.Label()
	if err != nil {
		return label{}, err
	}
	return decodeLabel(b)
}

// content returns st as the content of a file. Nothing is known of when it was sealed.
func (st *stray) content(tx meta.Txn, ino Ino) content {
	prefix := blobKey(keySums, st.info.ID) // of what it was when the records were copied
	tx.DeleteRange(prefix, prefixEnd(prefix))
	c := content{kind: contentBlob, blob: st.info.ID, sealed: st.sums != nil}
	if !c.sealed {
		tx.Put(inoKey(keyUnsealed, ino), []byte{writtenNative})
		return c
	}
	tx.Delete(inoKey(keyUnsealed, ino))
	replaceSums(tx, st.info.ID, st.sums)
	tx.Put(sumsKey(st.info.ID, groupDigests), appendDigests(nil, &st.digests))
	return c
}

// place makes st a file again.
func (s *salvager) place(st *stray) error {
	if st.why != "" {
		return s.placeLost(st)
	}
	parent, name, err := s.parents(&st.label)
	if err != nil {
		return err
	}
	if name == "" {
		return s.placeLost(st)
	}
	v, err := s.lookup(parent, name)
	switch {
	case err != nil:
		return err
	case v == nil:
		return s.placeAt(st, parent, name, &s.report.Restored)
	case v.IsRegular() && v.content.kind == contentBlob && s.blobs[v.content.blob] == nil:
		return s.refill(st, v)
	}
	return s.placeLost(st)
}

// lookup returns what a name means, nil if nothing.
func (s *salvager) lookup(parent Ino, name string) (*inode, error) {
	b, err := s.o.Meta.Get(direntKey(parent, name))
	if err != nil {
		return nil, ignore(err, meta.ErrNotFound)
	}
	d, err := decodeDirent(b)
	if err != nil {
		return nil, err
	}
	v, err := readInode(s.o.Meta, d.ino)
	return &v, err
}

// refill gives a file whose content was replaced since the records were copied
// what it was replaced with.
func (s *salvager) refill(st *stray, v *inode) error {
	v.Size, v.Mtime, v.Mode, v.UID, v.GID = st.info.Size, st.label.mtime, st.label.mode, st.label.uid, st.label.gid
	err := s.o.Meta.Update(func(tx meta.Txn) error {
		v.content = st.content(tx, v.Ino)
		return s.repair.save(tx, v)
	})
	note(&s.report.Restored, "%s", pathIn(s.o.Meta, v.Ino))
	return err
}

// parents returns the directory of a label's path, which it makes, and the last name.
// name is "" if the path cannot be had.
func (s *salvager) parents(l *label) (parent Ino, name string, err error) {
	names := strings.Split(strings.TrimPrefix(l.path, "/"), "/")
	if l.mode&ModeType != ModeRegular || slices.ContainsFunc(names, func(n string) bool { return CheckName(n) != nil }) {
		return 0, "", nil
	}
	parent = RootIno
	for _, n := range names[:len(names)-1] {
		v, err := s.lookup(parent, n)
		if err != nil || v != nil && !v.IsDir() {
			return 0, "", err
		}
		if v == nil {
			dir := inode{Attr: Attr{Mode: ModeDir | 0o755, Nlink: 2, UID: l.uid, GID: l.gid}}
			if v, err = s.insert(dir, parent, n, nil); err != nil {
				return 0, "", err
			}
		}
		parent = v.Ino
	}
	return parent, names[len(names)-1], nil
}

// insert makes an inode like v, with content that fill adds, unless that is nil.
func (s *salvager) insert(v inode, parent Ino, name string, fill func(tx meta.Txn, v *inode)) (*inode, error) {
	err := s.o.Meta.Update(func(tx meta.Txn) error {
		ino, _, err := s.repair.twoInos(tx)
		if err != nil {
			return err
		}
		fresh := s.repair.newInode(ino, v.Mode)
		fresh.Nlink, fresh.UID, fresh.GID, fresh.Size = v.Nlink, v.UID, v.GID, v.Size
		if v.Mtime != 0 {
			fresh.Mtime = v.Mtime
		}
		v = fresh
		if fill != nil {
			fill(tx, &v)
		}
		if v.IsDir() {
			if err := s.repair.edit(tx, parent, func(dir *inode) error { dir.Nlink++; return nil }); err != nil {
				return err
			}
		}
		return s.repair.enter(tx, &v, parent, name)
	})
	return &v, err
}

// cutName returns the beginning of a name, at most n bytes and no part of a character.
func cutName(name string, n int) string {
	if len(name) <= n {
		return name
	}
	for at := n; at > n-utf8.UTFMax; at-- {
		if utf8.RuneStart(name[at]) {
			return name[:at]
		}
	}
	return name[:n] // it is no UTF-8
}

// placeLost puts st into /lost+found.
func (s *salvager) placeLost(st *stray) error {
	if s.lost == 0 {
		if err := s.o.Meta.Update(func(tx meta.Txn) error {
			spare, _, err := s.repair.twoInos(tx)
			if err != nil {
				return err
			}
			s.lost, err = s.repair.lostFoundDir(tx, spare)
			return err
		}); err != nil {
			return err
		}
	}
	name := "content-" + st.info.ID.String()
	if i := strings.LastIndexByte(st.label.path, '/'); i >= 0 && CheckName(st.label.path[i+1:]) == nil {
		name = cutName(st.label.path[i+1:], 180) + "." + st.info.ID.String()
	}
	if st.label.mode&ModeType != ModeRegular {
		st.label.mode = ModeRegular | 0o600
	}
	return s.placeAt(st, s.lost, name, &s.report.LostFound)
}

func (s *salvager) placeAt(st *stray, parent Ino, name string, list *[]string) error {
	l := &st.label
	file := inode{Attr: Attr{Mode: l.mode, Nlink: 1, UID: l.uid, GID: l.gid, Size: st.info.Size, Mtime: l.mtime}}
	v, err := s.insert(file, parent, name, func(tx meta.Txn, v *inode) { v.content = st.content(tx, v.Ino) })
	if err != nil {
		return err
	}
	path := pathIn(s.o.Meta, v.Ino)
	if st.why != "" {
		path += " (" + st.why + ")"
	}
	note(list, "%s", path)
	return nil
}

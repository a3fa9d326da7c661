package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"

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
	for _, v := range s.inodes {
		if b := s.blobs[v.content.blob]; v.content.kind == contentBlob && b != nil {
			b.refs++
		}
	}
	return err
}

// contents compares the files with their content.
func (s *salvager) contents() error {
	for ino, v := range s.inodes {
		if v.orphan || v.mode&ModeType != ModeRegular {
			continue
		}
		var err error
		switch v.content.kind {
		case contentInline:
			err = s.inline(ino, v)
		case contentBlob:
			err = s.blob(ino, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *salvager) inline(ino Ino, v *salvaged) error {
	b, err := s.o.Meta.Get(inoKey(keyInline, ino))
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	if int64(len(b)) != v.size {
		s.missing("%s: %d bytes of content, there are %d", s.path(ino), v.size, len(b))
	}
	return nil
}

// blob makes a file whose content was written since the records were copied one that
// is to be sealed again: its checksums are of what was there before.
func (s *salvager) blob(ino Ino, v *salvaged) error {
	b := s.blobs[v.content.blob]
	if b == nil {
		return nil // see strayBlobs
	}
	if !v.content.sealed || s.o.Instant.IsZero() || !b.info.ModTime.After(s.o.Instant) {
		return nil
	}
	if same, err := s.unchanged(v); same || err != nil {
		return err // only its time is another one, as after a copy of the folder
	}
	v.content.sealed, v.dirty = false, true
	return s.update(func(tx meta.Txn) { tx.Put(inoKey(keyUnsealed, ino), []byte{writtenNative}) })
}

// unchanged reports whether a file's content is what its checksums are of.
func (s *salvager) unchanged(v *salvaged) (bool, error) {
	f, err := s.o.Blobs.Open(v.content.blob, false)
	if err != nil {
		return false, fmt.Errorf("content %s: %w", v.content.blob, err)
	}
	defer f.Close()
	if size, err := f.Size(); err != nil || size != v.size {
		return false, err
	}
	sums, err := s.sums(f, v.size)
	if err != nil {
		return false, s.ctx.Err() // it cannot be read: the sealer says so
	}
	for group := uint32(0); len(sums) > 0; group++ {
		n := min(len(sums), groupSums*sumSize)
		b, err := s.o.Meta.Get(sumsKey(v.content.blob, group))
		if err != nil || string(b) != string(sums[:n]) {
			return false, ignore(err, meta.ErrNotFound)
		}
		sums = sums[n:]
	}
	return true, nil
}

// strayBlobs gives content that no file refers to back to its file, and reports the
// files whose content is gone.
func (s *salvager) strayBlobs() error {
	garbage := make(map[blob.ID]bool)
	if err := s.records(keyGarbage, func(key, _ []byte) func(meta.Txn) {
		var id blob.ID
		copy(id[:], key[1:])
		garbage[id] = true
		return nil
	}); err != nil {
		return err
	}
	var strays []*stray
	for id, b := range s.blobs {
		if b.refs > 0 || garbage[id] || b.info.Size == 0 {
			continue
		}
		st, err := s.readLabel(b.info)
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
	for ino, v := range s.inodes {
		if v.content.kind == contentBlob && s.blobs[v.content.blob] == nil && !v.orphan && !v.content.fresh {
			s.missing("%s: content of %d bytes", s.path(ino), v.size)
		}
	}
	return nil
}

// stray is content that no file refers to.
type stray struct {
	info  blob.Info
	label label
	why   string // the label is not to be trusted; "": it is
	sums  []byte // of the blocks
}

// straySums drops the checksums of content that is gone and that no file refers to:
// it was replaced after the records were copied.
func (s *salvager) straySums() error {
	referred := make(map[blob.ID]bool)
	for _, v := range s.inodes {
		if v.content.kind == contentBlob {
			referred[v.content.blob] = true
		}
	}
	return s.records(keySums, func(key, _ []byte) func(meta.Txn) {
		var id blob.ID
		copy(id[:], key[1:])
		if s.blobs[id] != nil || referred[id] {
			return nil
		}
		return s.drop(key)
	})
}

// readLabel reads what the content says of itself, and compares it with the bytes.
func (s *salvager) readLabel(info blob.Info) (*stray, error) {
	st := &stray{info: info}
	f, err := s.o.Blobs.Open(info.ID, false)
	if err != nil {
		return nil, fmt.Errorf("content %s: %w", info.ID, err)
	}
	defer f.Close()
	st.label, err = labelOn(f)
	if err != nil {
		st.why = "it carries no label"
		st.label.mtime = info.ModTime.UnixNano()
	}
	if st.sums, err = s.sums(f, info.Size); err != nil {
		st.why = err.Error()
		s.missing("content %s: %v", info.ID, err)
		return st, nil
	}
	if st.why == "" && (st.label.size != info.Size || st.label.sum != crc32.Checksum(st.sums, castagnoli)) {
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

// sums reads content and returns the sums of its blocks.
func (s *salvager) sums(f blob.File, size int64) ([]byte, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var m summer
	for off := int64(0); off < size; {
		n, err := f.ReadAt((*buf)[:min(int64(len(*buf)), size-off)], off)
		if n == 0 && err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if n == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		m.write((*buf)[:n])
		off += int64(n)
	}
	return m.done(), s.ctx.Err()
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
	ino, taken := s.lookup(parent, name)
	switch {
	case !taken:
		return s.placeAt(st, parent, name, &s.report.Restored)
	case s.contentGone(ino):
		return s.refill(st, ino)
	}
	return s.placeLost(st)
}

func (s *salvager) contentGone(ino Ino) bool {
	v := s.inodes[ino]
	return v.mode&ModeType == ModeRegular && v.content.kind == contentBlob && s.blobs[v.content.blob] == nil
}

// refill gives a file whose content was replaced since the records were copied
// what it was replaced with.
func (s *salvager) refill(st *stray, ino Ino) error {
	r, err := readInode(s.o.Meta, ino)
	if err != nil {
		return err
	}
	v := s.inodes[ino]
	v.size, v.content = st.info.Size, content{kind: contentBlob, blob: st.info.ID, sealed: true}
	r.Size, r.content, r.Mtime, r.Mode, r.UID, r.GID = v.size, v.content, st.label.mtime, st.label.mode, st.label.uid, st.label.gid
	r.Nlink, r.parent, r.name = v.nlink, v.parent, v.name
	r.Version, r.Change = max(s.nextVersion(), r.Version+1), r.Change+1
	v.mode = r.Mode
	note(&s.report.Restored, "%s", s.path(ino))
	return s.update(func(tx meta.Txn) {
		tx.Put(inoKey(keyInode, ino), appendInode(nil, &r))
		tx.Delete(inoKey(keyUnsealed, ino))
		putSums(tx, st.info.ID, st.sums)
	})
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
		ino, ok := s.lookup(parent, n)
		if ok && s.inodes[ino].mode&ModeType != ModeDir {
			return 0, "", nil
		}
		if !ok {
			ino = s.nextIno()
			v := &inode{Attr: Attr{Ino: ino, Mode: ModeDir | 0o755, Nlink: 2, UID: l.uid, GID: l.gid}, parent: parent, name: n}
			if err := s.make(v); err != nil {
				return 0, "", err
			}
		}
		parent = ino
	}
	return parent, names[len(names)-1], nil
}

// placeLost puts st into /lost+found.
func (s *salvager) placeLost(st *stray) error {
	dir, err := s.lostDir()
	if err != nil {
		return err
	}
	name := "content-" + st.info.ID.String()
	if i := strings.LastIndexByte(st.label.path, '/'); i >= 0 && CheckName(st.label.path[i+1:]) == nil {
		name = fmt.Sprintf("%.180s.%s", st.label.path[i+1:], st.info.ID)
	}
	if st.label.mode&ModeType != ModeRegular {
		st.label.mode = ModeRegular | 0o600
	}
	return s.placeAt(st, dir, name, &s.report.LostFound)
}

func (s *salvager) placeAt(st *stray, parent Ino, name string, list *[]string) error {
	v := &inode{
		Attr: Attr{
			Ino: s.nextIno(), Mode: st.label.mode, Nlink: 1, UID: st.label.uid, GID: st.label.gid,
			Size: st.info.Size, Mtime: st.label.mtime,
		},
		content: content{kind: contentBlob, blob: st.info.ID, sealed: true}, parent: parent, name: name,
	}
	if st.sums == nil {
		v.content.sealed = false // it cannot be read as a whole
	}
	if err := s.make(v); err != nil {
		return err
	}
	path := s.path(v.Ino)
	if st.why != "" {
		path += " (" + st.why + ")"
	}
	note(list, "%s", path)
	return s.update(func(tx meta.Txn) {
		putSums(tx, st.info.ID, st.sums)
		if !v.content.sealed {
			tx.Put(inoKey(keyUnsealed, v.Ino), []byte{writtenNative})
		}
	})
}

// putSums writes the sums of a blob's blocks.
func putSums(tx meta.Txn, id blob.ID, sums []byte) {
	for group := uint32(0); len(sums) > 0; group++ {
		n := min(len(sums), groupSums*sumSize)
		tx.Put(sumsKey(id, group), sums[:n])
		sums = sums[n:]
	}
}

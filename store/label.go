package store

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"engramfs/store/blob"
)

// label is what a blob says of the file that it is the content of, for the day
// when the metadata is lost. It is text, for people with no other tool than
// getfattr(1). See labeler for how it follows the file.
type label struct {
	ino      Ino // 0: unknown
	mode     uint32
	uid, gid uint32
	size     int64
	mtime    int64
	sum      uint32 // CRC32C of the checksums of the blocks
	path     string // absolute
}

const labelFormat = "engramfs 1"

// encode returns "<CRC32C> engramfs 1 ino=… mode=… … path=/…", the path as it is.
func (l *label) encode() []byte {
	body := fmt.Sprintf("%s ino=%d mode=%o uid=%d gid=%d size=%d mtime=%d sum=%08x path=%s",
		labelFormat, l.ino, l.mode, l.uid, l.gid, l.size, l.mtime, l.sum, l.path)
	return fmt.Appendf(nil, "%08x %s", crc32.Checksum([]byte(body), castagnoli), body)
}

var errLabel = errors.New("store: label of content is damaged")

func decodeLabel(b []byte) (label, error) {
	crc, body, ok := strings.Cut(string(b), " ")
	sum, err := strconv.ParseUint(crc, 16, 32)
	if !ok || err != nil || uint32(sum) != crc32.Checksum([]byte(body), castagnoli) {
		return label{}, errLabel
	}
	head, path, ok := strings.Cut(body, " path=")
	l := label{path: path}
	_, err = fmt.Sscanf(head, labelFormat+" ino=%d mode=%o uid=%d gid=%d size=%d mtime=%d sum=%x",
		&l.ino, &l.mode, &l.uid, &l.gid, &l.size, &l.mtime, &l.sum)
	if !ok || err != nil {
		return label{}, errLabel
	}
	return l, nil
}

// labelOf returns the label of content with the attributes a at path. sum is of the
// checksums of its blocks.
func labelOf(a *Attr, path string, sum uint32) label {
	return label{ino: a.Ino, mode: a.Mode, uid: a.UID, gid: a.GID, size: a.Size, mtime: a.Mtime, sum: sum, path: path}
}

// proves reports whether content of that size, whose blocks have these checksums, is
// what the label was put on.
func (l *label) proves(size int64, sums []byte) bool {
	return l.size == size && l.sum == crc32.Checksum(sums, castagnoli)
}

// setLabel puts l on a blob if its backend can keep it. Nothing depends on it while
// the metadata is there, so a failure is no reason to refuse the content.
func (s *Store) setLabel(f blob.File, id blob.ID, l label) {
	k, ok := f.(blob.Labeler)
	if !ok {
		return
	}
	if err := k.SetLabel(l.encode()); err != nil {
		s.log.Warn("content has no label", "blob", id, "err", err)
	}
}

// label puts the label on what was uploaded, before it is synced. The file gets the
// time that the label has.
func (u *Upload) label(ctx context.Context, o *CommitOptions) {
	if u.file == nil {
		return
	}
	if o.Mtime.IsZero() {
		o.Mtime = u.s.now()
	}
	u.moves = u.s.dirMoves.Load()
	dir, err := u.s.pathOf(u.parent)
	if err != nil {
		return // Commit says why
	}
	a := Attr{Mode: ModeRegular | 0o600, UID: o.UID, GID: o.GID}
	if o.Mode != 0 {
		a.Mode = ModeRegular | o.Mode&ModePerm
	}
	if u.target != 0 {
		if old, err := u.s.GetAttr(ctx, u.target); err == nil {
			a = old
		}
	}
	a.Size, a.Mtime = u.size, o.Mtime.UnixNano()
	u.labeled = labelOf(&a, joinPath(dir, u.name), crc32.Checksum(u.sums.done(), castagnoli))
	u.s.setLabel(u.file, u.id, u.labeled)
}

// labelFits reports whether the label is that of v, which the content becomes that of.
func (u *Upload) labelFits(v *inode) bool {
	l := &u.labeled
	return (l.ino == 0 || l.ino == v.Ino) && l.mode == v.Mode && l.uid == v.UID && l.gid == v.GID && l.mtime == v.Mtime &&
		u.parent == v.parent && u.name == v.name && u.moves == u.s.dirMoves.Load()
}

// joinPath returns the path of name in the directory dir.
func joinPath(dir, name string) string { return strings.TrimSuffix(dir, "/") + "/" + name }

func (l *label) modTime() time.Time { return time.Unix(0, l.mtime) }

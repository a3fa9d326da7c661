package store

import (
	"encoding/binary"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// sealTimes is what is known of a blob's last seal, under groupTimes.
type sealTimes struct {
	mtime int64
	// ctime is from after the seal, and from after whatever the store has done to the
	// blob since that moves it, such as giving it another label.
	ctime  int64
	native bool // it was ever written natively: a mapping of it may be left
}

func (t *sealTimes) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(t.mtime))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.ctime))
	if t.native {
		return append(b, writtenNative)
	}
	return append(b, writtenHere)
}

// sealTimes returns the times that the blob had when it was sealed; false if
// they are not known, as of a blob that nobody ever wrote in place.
func (s *Store) sealTimes(id blob.ID) (t sealTimes, ok bool) { return readSealTimes(s.engine, id) }

func readSealTimes(r meta.Reader, id blob.ID) (t sealTimes, ok bool) {
	b, err := r.Get(sumsKey(id, groupTimes))
	if err != nil || len(b) < 16 {
		return t, false
	}
	t.mtime = int64(binary.LittleEndian.Uint64(b))
	t.ctime = int64(binary.LittleEndian.Uint64(b[8:]))
	t.native = len(b) == 16 || b[16] == writtenNative // the shorter ones did not say
	return t, true
}

// written reports whether a blob that is now as st says was written past the store
// since then. Only a blob that was lent to a kernel can be. A write moves both times,
// the one of the content in any direction, as the clock may have been set; nobody can
// set the ctime, so that an mtime that moved alone is not a write. The ctime alone
// proves nothing: it also moves with modes, owners and links.
func (t *sealTimes) written(st blob.Stat) bool {
	if !t.native || st.Mtime == t.mtime {
		return false
	}
	return st.Ctime != t.ctime || st.Ctime == st.Mtime // equal: in the same tick of the clock
}

// lateWrite reports whether the blob was written past the store since it was sealed. A
// mapping of a file into memory, or a descriptor that a kernel has been given, can
// outlive the last handle, and even the process; such a write makes the blob newer, and
// damage does not.
func lateWrite(r meta.Reader, id blob.ID, file blob.File) bool {
	f, ok := file.(blob.Stater)
	if !ok {
		return false
	}
	t, ok := readSealTimes(r, id)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && t.written(st)
}

// writtenLate is lateWrite of the blob. The content is then served as it is, and sealed
// again.
func (c *Content) writtenLate() bool {
	if !lateWrite(c.s.engine, c.blob.id, c.blob.file) {
		return false
	}
	if c.blob.unsealed.CompareAndSwap(false, true) {
		c.s.log.Info("content was written after it was closed", "ino", c.attr.Ino, "blob", c.blob.id)
		c.s.sealer.askLate(c.attr.Ino)
	}
	return true
}

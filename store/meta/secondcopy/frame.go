package secondcopy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A file begins with a header of 64 bytes: magic, kind, number of the file, run,
// number of the first frame, whether it joins the log before it, CRC32C.
const (
	fileMagic  = "engramfs-copy 1\n"
	headerSize = 64
)

// Kinds of files.
const (
	kindLog      = 'L'
	kindSnapshot = 'S'
)

// header describes a file.
type header struct {
	kind   byte
	number uint64
	run    uint64 // of the process that wrote it, random
	first  uint64 // number of its first frame
	joined bool   // nothing is missing between the log before and this one
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, fileMagic)
	b[16] = h.kind
	if h.joined {
		b[17] = 1
	}
	binary.LittleEndian.PutUint64(b[24:], h.number)
	binary.LittleEndian.PutUint64(b[32:], h.run)
	binary.LittleEndian.PutUint64(b[40:], h.first)
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

var errHeader = errors.New("secondcopy: header of the file is damaged")

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerSize || string(b[:16]) != fileMagic ||
		binary.LittleEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return header{}, errHeader
	}
	return header{
		kind: b[16], joined: b[17] == 1, number: binary.LittleEndian.Uint64(b[24:]),
		run: binary.LittleEndian.Uint64(b[32:]), first: binary.LittleEndian.Uint64(b[40:]),
	}, nil
}

// A frame is a header of 24 bytes (marker, kind, length, number, CRC32C of the rest of
// the header and of the payload) and its payload.
const (
	frameMarker = 0xc09e5afe
	frameSize   = 24
	maxPayload  = 256 << 20
)

// Kinds of frames.
const (
	frameBatch  = 'B' // of a log: one update
	frameStamp  = 'T' // of a log: it has everything that was applied before this time
	frameEnd    = 'E' // of a log: the run ended in order; the value of Options.StateKey
	frameBlock  = 'K' // of a snapshot: keys and values
	frameFooter = 'F' // of a snapshot: it is complete; see footer
)

// footer ends a snapshot. Snapshots of before it had a run have another number there, and
// nothing after that.
type footer struct {
	at time.Time // what was applied before is in the snapshot
	// The snapshot has all updates of the frames before first of this run, and of each of
	// the others no part, or all of it while of those that depend on it it has none.
	run, first uint64
}

func (f footer) encode() []byte {
	b := binary.LittleEndian.AppendUint64(encodeTime(f.at), f.run)
	return binary.LittleEndian.AppendUint64(b, f.first)
}

func decodeFooter(b []byte) (f footer, ok bool) {
	f.at, ok = decodeTime(b)
	if len(b) >= 24 {
		f.run, f.first = binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	}
	return f, ok
}

// frame is one that was read.
type frame struct {
	kind    byte
	seq     uint64
	payload []byte // valid until the next one is read
}

// appendFrame appends a frame to b. sum is the CRC32C of payload.
func appendFrame(b []byte, kind byte, seq uint64, payload []byte, sum uint32) []byte {
	var h [frameSize]byte
	binary.LittleEndian.PutUint32(h[0:], frameMarker)
	h[4] = kind
	binary.LittleEndian.PutUint32(h[8:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(h[12:], seq)
	binary.LittleEndian.PutUint32(h[20:], crc32.Update(sum, castagnoli, h[4:20]))
	return append(append(b, h[:]...), payload...)
}

// frameReader reads the frames of a file and skips what is none.
type frameReader struct {
	f      io.ReaderAt
	size   int64
	off    int64
	header header
	err    error // an error of reading, which looks like bad bytes

	window []byte // of the file, from windowAt
	at     int64
}

// errForeign: a file has the name of another one.
var errForeign = errors.New("secondcopy: the file is not what its name says")

// openFrames reads the header of a file, which is to be the one of that kind and number,
// or it returns errForeign. The error is errHeader if it is damaged: the frames can be
// read all the same.
func openFrames(f *os.File, kind byte, number uint64) (*frameReader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r := &frameReader{f: f, size: fi.Size(), off: headerSize}
	r.header, err = decodeHeader(r.bytes(0, headerSize))
	if err == nil && (r.header.kind != kind || r.header.number != number) {
		err = errForeign
	}
	return r, err
}

const windowSize = 1 << 20

// bytes returns n bytes at off, fewer if they cannot be had, valid until the next call.
func (r *frameReader) bytes(off int64, n int) []byte {
	n = int(min(int64(n), r.size-off))
	if n <= 0 {
		return nil
	}
	if off < r.at || off+int64(n) > r.at+int64(len(r.window)) {
		want := int(min(int64(max(n, windowSize)), r.size-off))
		if cap(r.window) < want {
			r.window = make([]byte, want)
		}
		m, err := r.f.ReadAt(r.window[:want], off)
		if err != nil && !errors.Is(err, io.EOF) {
			r.err = err
		}
		r.window, r.at = r.window[:m], off
	}
	from := off - r.at
	return r.window[from:min(from+int64(n), int64(len(r.window)))]
}

// next returns the next good frame and how many bad bytes were skipped before it.
// At the end it returns false, with the bad bytes that the file ends with.
func (r *frameReader) next() (f frame, skipped int64, ok bool) {
	from := r.off
	for r.off < r.size {
		if f, ok := r.frame(); ok {
			start := r.off
			r.off += int64(frameSize + len(f.payload))
			return f, start - from, true
		}
		r.off = r.marker(r.off + 1)
	}
	return frame{}, r.size - from, false
}

// frame returns the frame at r.off if it is good.
func (r *frameReader) frame() (frame, bool) {
	h := r.bytes(r.off, frameSize)
	if len(h) < frameSize || binary.LittleEndian.Uint32(h) != frameMarker {
		return frame{}, false
	}
	n := int64(binary.LittleEndian.Uint32(h[8:]))
	if n > maxPayload || r.off+frameSize+n > r.size {
		return frame{}, false
	}
	b := r.bytes(r.off, frameSize+int(n))
	if int64(len(b)) < frameSize+n {
		return frame{}, false
	}
	sum := crc32.Update(crc32.Checksum(b[frameSize:], castagnoli), castagnoli, b[4:20])
	if sum != binary.LittleEndian.Uint32(b[20:]) {
		return frame{}, false
	}
	return frame{kind: b[4], seq: binary.LittleEndian.Uint64(b[12:]), payload: b[frameSize:]}, true
}

// marker returns where the next marker at or after off is, or the end.
func (r *frameReader) marker(off int64) int64 {
	want := binary.LittleEndian.AppendUint32(nil, frameMarker)
	for off < r.size {
		b := r.bytes(off, windowSize)
		if len(b) == 0 { // cannot be read: try behind it
			off += 4096
			continue
		}
		if i := bytes.Index(b, want); i >= 0 {
			return off + int64(i)
		}
		off += int64(max(len(b)-3, 1))
	}
	return r.size
}

// Operations of an update, and the pairs of a block (all opPut).
const (
	opPut         = 'P'
	opDelete      = 'D'
	opDeleteRange = 'R' // value: the end
	opAdd         = 'A' // value: the delta, as a counter
)

func appendOp(b []byte, op byte, key, value []byte) []byte {
	b = append(b, op)
	b = append(binary.AppendUvarint(b, uint64(len(key))), key...)
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

// eachOp calls fn for each operation of a payload that a checksum has proven, until
// fn returns false.
func eachOp(payload []byte, fn func(op byte, key, value []byte) bool) error {
	take := func() ([]byte, bool) {
		n, w := binary.Uvarint(payload)
		if w <= 0 || n > uint64(len(payload)-w) {
			return nil, false
		}
		v := payload[w : w+int(n) : w+int(n)]
		payload = payload[w+int(n):]
		return v, true
	}
	for len(payload) > 0 {
		op := payload[0]
		payload = payload[1:]
		key, ok := take()
		if !ok {
			return fmt.Errorf("secondcopy: operation %q is cut short", op)
		}
		value, ok := take()
		if !ok {
			return fmt.Errorf("secondcopy: operation %q is cut short", op)
		}
		if !fn(op, key, value) {
			return nil
		}
	}
	return nil
}

// frameSeq returns the number of the first frame of b, which has one.
func frameSeq(b []byte) uint64 { return binary.LittleEndian.Uint64(b[12:]) }

package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// Cut says what OpenCut has left out.
type Cut struct {
	Log  string `json:"log"`        // name of the file that was cut
	Kept int64  `json:"bytes_kept"` // what it has before its first bad record
	// Lost is what it has from there on, and what newer logs have, in bytes. It may be
	// less: a log that was in use before has older records behind its end.
	Lost int64 `json:"bytes_lost"`
}

// OpenCut makes a store in the folder to, which must not exist, of one in from that does
// not open because its log is damaged, and opens it. It has everything up to the first
// bad record, has been verified, and nothing in from has changed. If more than the
// log is damaged the error is the *meta.CorruptError of that.
//
// from must not be open. Tables are hard-linked if both are on the same file system.
func OpenCut(ctx context.Context, from, to string, opts Options) (*DB, Cut, error) {
	opts = opts.withDefaults()
	opts.Create = false
	logs, err := readLogs(opts.FS, from)
	if err != nil {
		return nil, Cut{}, fmt.Errorf("cut the log of %s: %w", from, err)
	}
	if len(logs) == 0 {
		return nil, Cut{}, &meta.CorruptError{Path: from, Err: errors.New("it has no log")}
	}
	// A bad log may be one that nothing needs any more. So the newest is cut first: if
	// that leaves a log that is needed and bad, Pebble says so.
	for i := len(logs) - 1; i >= 0; i-- {
		if logs[i].whole && i < len(logs)-1 {
			continue
		}
		var db *DB
		if db, err = openCutAt(ctx, from, to, logs[:i+1], opts); err == nil {
			return db, cutAt(logs, i), nil
		}
		if !meta.IsCorrupt(err) {
			break
		}
	}
	return nil, Cut{}, fmt.Errorf("cut the log of %s: %w", from, err)
}

// openCutAt copies a store with only these logs, the last as far as it is good, and opens
// it. The others stay as they are: Pebble must see a bad one, or it goes on with the next.
func openCutAt(ctx context.Context, from, to string, logs []logFile, opts Options) (_ *DB, err error) {
	disk := opts.FS
	defer func() {
		if err != nil {
			err = errors.Join(err, disk.RemoveAll(to))
		}
	}()
	if err := copyStore(disk, from, to); err != nil {
		return nil, err
	}
	last := len(logs) - 1
	for i, l := range logs {
		size := int64(math.MaxInt64)
		if i == last {
			size = l.good
		}
		if err := vfs.LimitedCopy(disk, disk.PathJoin(from, l.name), disk.PathJoin(to, l.name), size); err != nil {
			return nil, err
		}
	}
	if err := markFormat(disk, to); err != nil {
		return nil, err
	}
	db, err := Open(to, opts)
	if err != nil {
		return nil, err
	}
	if err := db.Verify(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// copyStore copies a store without its logs and what belongs to them.
func copyStore(disk vfs.FS, from, to string) error {
	if err := checkFormat(disk, from); err != nil {
		return classify(from, err)
	}
	names, err := disk.List(from)
	if err != nil {
		return err
	}
	if err := disk.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		transfer := vfs.Copy
		switch {
		case isLog(name), name == logSealName, name == formatName, name == "LOCK":
			continue
		case strings.HasSuffix(name, ".sst"), isValueFile(name): // written once
			transfer = linkOrCopy
		}
		if err := transfer(disk, disk.PathJoin(from, name), disk.PathJoin(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// linkOrCopy copies also where vfs.LinkOrCopy gives up: vfat answers a link with EPERM, as
// do protected_hardlinks (proc(5)) for another user's file.
func linkOrCopy(disk vfs.FS, from, to string) error {
	if err := disk.Link(from, to); err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return vfs.Copy(disk, from, to)
}

// logFile is a write-ahead log.
type logFile struct {
	name  string
	good  int64 // bytes before its first bad record
	rest  int64 // bytes after that, without zeros at the end
	whole bool  // it ends as one that was closed does
}

// readLogs reads the logs in dir, in order.
func readLogs(disk vfs.FS, dir string) ([]logFile, error) {
	names, err := disk.List(dir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return logNumber(n) < 0 })
	slices.SortFunc(names, func(a, b string) int { return int(logNumber(a) - logNumber(b)) })
	logs := make([]logFile, 0, len(names))
	for _, name := range names {
		l, err := readLog(disk, dir, name)
		if err != nil {
			return nil, err
		}
		logs = append(logs, l)
	}
	return logs, nil
}

func readLog(disk vfs.FS, dir, name string) (logFile, error) {
	l := logFile{name: name}
	file, err := disk.Open(disk.PathJoin(dir, name))
	if err != nil {
		return l, err
	}
	defer file.Close()
	b, err := io.ReadAll(file)
	if err != nil {
		return l, err
	}
	l.good, err = goodRecords(bytes.NewReader(b), logNumber(name))
	l.whole = err == nil
	l.rest = max(0, int64(len(bytes.TrimRight(b, "\x00")))-l.good)
	return l, nil
}

// goodRecords returns how many bytes of a log the records before the first bad one take,
// and what is wrong there: nil if the log ends as one that was closed does,
// errFalseEnd if Pebble takes it for one.
func goodRecords(log io.ReaderAt, number int64) (n int64, err error) {
	r := newRecords(record.NewReader, io.NewSectionReader(log, 0, math.MaxInt64), number)
	for {
		n = r.Offset()
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return n, checkTrailer(log, r.Offset(), number)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, rec)
		}
		if err != nil {
			return n, err
		}
	}
}

var errFalseEnd = errors.New("it does not end as a log that was closed")

// checkTrailer returns errFalseEnd if what the log has at byte at is not what Pebble
// writes when it closes it: the header of an empty chunk of the next log. Pebble (v2.1.7,
// record.Reader) looks at the number in it alone, and not if the file ends, so one
// flipped bit of any chunk can hide those behind it.
func checkTrailer(log io.ReaderAt, at, number int64) error {
	const recyclableFullChunk = 5
	want := make([]byte, 11) // CRC (4), length (2), kind (1), log number (4)
	want[6] = recyclableFullChunk
	binary.LittleEndian.PutUint32(want[7:], uint32(number+1))
	got := make([]byte, len(want))
	if n, err := log.ReadAt(got, at); n < len(got) && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(got, want) {
		return errFalseEnd
	}
	return nil
}

// newRecords calls record.NewReader, whose second argument has a type without a name
// outside of Pebble.
func newRecords[N ~uint64](open func(io.Reader, N) *record.Reader, r io.Reader, number int64) *record.Reader {
	return open(r, N(number))
}

// cutAt describes the cut of log i.
func cutAt(logs []logFile, i int) Cut {
	c := Cut{Log: logs[i].name, Kept: logs[i].good, Lost: logs[i].rest}
	for _, l := range logs[i+1:] {
		c.Lost += l.good + l.rest
	}
	return c
}

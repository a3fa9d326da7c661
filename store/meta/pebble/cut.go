package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
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
		if !isCorrupt(err) {
			break
		}
	}
	return nil, Cut{}, fmt.Errorf("cut the log of %s: %w", from, err)
}

// openCutAt copies a store with only these logs, as far as they are good, and opens it.
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
	for _, l := range logs {
		if err := vfs.LimitedCopy(disk, disk.PathJoin(from, l.name), disk.PathJoin(to, l.name), l.good); err != nil {
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
			transfer = vfs.LinkOrCopy
		}
		if err := transfer(disk, disk.PathJoin(from, name), disk.PathJoin(to, name)); err != nil {
			return err
		}
	}
	return nil
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
	l.good, l.whole = goodRecords(b, logNumber(name))
	l.rest = max(0, int64(len(bytes.TrimRight(b, "\x00")))-l.good)
	return l, nil
}

// goodRecords returns how many bytes of a log the records before the first bad one take.
func goodRecords(b []byte, number int64) (n int64, whole bool) {
	r := newRecords(record.NewReader, bytes.NewReader(b), number)
	for {
		n = r.Offset()
		rec, err := r.Next()
		if err != nil {
			return n, errors.Is(err, io.EOF)
		}
		if _, err := io.Copy(io.Discard, rec); err != nil {
			return n, false
		}
	}
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

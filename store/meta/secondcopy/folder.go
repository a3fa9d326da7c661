package secondcopy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	logPrefix      = "log-"
	snapshotPrefix = "snapshot-"
	tmpSuffix      = ".tmp"
	lockName       = "lock"

	filePerm   = 0o600
	folderPerm = 0o700
)

func logName(n uint64) string      { return fmt.Sprintf("%s%016x", logPrefix, n) }
func snapshotName(n uint64) string { return fmt.Sprintf("%s%016x", snapshotPrefix, n) }

// folder is what there is of a copy. Numbers are ascending.
type folder struct {
	dir       string
	logs      []uint64
	snapshots []uint64
	cutOff    []string // files that were never finished
}

// readFolder lists a copy. An absent folder is an empty one.
func readFolder(dir string) (folder, error) {
	f := folder{dir: dir}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	for _, e := range entries {
		var n uint64
		switch name := e.Name(); {
		case scan(strings.TrimSuffix(name, tmpSuffix), snapshotPrefix, &n) && strings.HasSuffix(name, tmpSuffix):
			if !e.IsDir() { // the folder may be one that others use, too
				f.cutOff = append(f.cutOff, name)
			}
		case scan(name, logPrefix, &n):
			f.logs = append(f.logs, n)
		case scan(name, snapshotPrefix, &n):
			f.snapshots = append(f.snapshots, n)
		}
	}
	slices.Sort(f.logs)
	slices.Sort(f.snapshots)
	return f, err
}

func scan(name, prefix string, n *uint64) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return false
	}
	_, err := fmt.Sscanf(rest, "%x", n)
	return err == nil && name == fmt.Sprintf("%s%016x", prefix, *n)
}

// last returns the highest number in use.
func (f folder) last() uint64 {
	n := uint64(0)
	for _, all := range [][]uint64{f.logs, f.snapshots} {
		if len(all) > 0 {
			n = max(n, all[len(all)-1])
		}
	}
	return n
}

// chain reports whether there is a snapshot with all logs after it, and the sizes of
// the two.
func (f folder) chain() (snapshot, logs int64, ok bool) {
	if len(f.snapshots) == 0 || len(f.logs) == 0 {
		return 0, 0, false
	}
	first := f.snapshots[len(f.snapshots)-1]
	for n := first; n <= f.logs[len(f.logs)-1]; n++ {
		fi, err := os.Stat(filepath.Join(f.dir, logName(n)))
		if err != nil {
			return 0, 0, false
		}
		logs += fi.Size()
	}
	fi, err := os.Stat(filepath.Join(f.dir, snapshotName(first)))
	return size(fi), logs, err == nil && logs > 0
}

func size(fi os.FileInfo) int64 {
	if fi == nil {
		return 0
	}
	return fi.Size()
}

// prune removes what the two newest snapshots and their logs make superfluous.
func (f folder) prune() error {
	if len(f.snapshots) < 2 {
		return nil
	}
	oldest := f.snapshots[len(f.snapshots)-2]
	var errs []error
	for _, n := range f.snapshots {
		if n < oldest {
			errs = append(errs, os.Remove(filepath.Join(f.dir, snapshotName(n))))
		}
	}
	for _, n := range f.logs {
		if n < oldest {
			errs = append(errs, os.Remove(filepath.Join(f.dir, logName(n))))
		}
	}
	return errors.Join(errs...)
}

// tail is how a log ends.
type tail struct {
	stamp  time.Time // the last one; zero: none in the part that was looked at
	state  []byte    // of the end frame
	closed bool      // the log ends with an end frame
}

// tailSize is the part of a log in which its last stamp is looked for.
const tailSize = 1 << 20

// readTail looks at the end of log n.
func readTail(dir string, n uint64) (tail, error) {
	file, err := os.Open(filepath.Join(dir, logName(n)))
	if err != nil {
		return tail{}, err
	}
	defer file.Close()
	r, err := openFrames(file, kindLog, n)
	if err != nil {
		return tail{}, err
	}
	r.off = max(r.off, r.size-tailSize)
	var t tail
	for {
		f, skipped, ok := r.next()
		if !ok {
			t.closed = t.closed && skipped == 0
			return t, r.err
		}
		t.closed = f.kind == frameEnd
		switch f.kind {
		case frameEnd:
			t.state = append([]byte{}, f.payload...)
		case frameStamp:
			if at, ok := decodeTime(f.payload); ok {
				t.stamp = at
			}
		}
	}
}

// makeFolder makes dir unless it exists. Its parent must: a disk that is not
// mounted is not to be replaced by a folder.
func makeFolder(dir string) error {
	err := os.Mkdir(dir, folderPerm)
	if err == nil {
		return syncDir(filepath.Dir(dir))
	}
	if fi, serr := os.Stat(dir); serr == nil && fi.IsDir() {
		return nil
	}
	return err
}

// lockFolder takes the folder for its caller, until the file is closed: two that wrote
// to one would remove each other's files. Where files cannot be locked it takes nothing.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == unix.EWOULDBLOCK {
		return nil, errors.Join(fmt.Errorf("lock %s: it is in use by another server", dir), f.Close())
	}
	return f, nil // network file systems refuse in many ways
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package fsload

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"engramfs/internal/bench/pattern"
)

// body is the content of every small file.
var body = pattern.At(0, FileSize)

// FileName returns the path of one file of a load, relative to its folder.
func FileName(s *Spec, worker, i int) string {
	return filepath.Join(Folder(worker), fmt.Sprintf("%s%06d", s.Prefix, i))
}

// Folder returns the name of a worker's folder.
func Folder(worker int) string { return fmt.Sprintf("t%d", worker) }

// paths returns the files of one worker: file i belongs to worker i mod Threads.
func paths(s *Spec, worker int, prefix string) []string {
	named := *s
	named.Prefix = prefix
	var all []string
	for i := worker; i < s.Files; i += max(1, s.Threads) {
		all = append(all, filepath.Join(s.Dir, FileName(&named, worker, i)))
	}
	return all
}

// eachFile makes an operation of a call on one path.
func eachFile(call func(path string) error) operation {
	return func(s *Spec, worker int) (func() (int64, error), error) {
		all := paths(s, worker, s.Prefix)
		return func() (int64, error) {
			for i, path := range all {
				if err := call(path); err != nil {
					return int64(i), &fs.PathError{Op: s.Op, Path: path, Err: err}
				}
			}
			return int64(len(all)), nil
		}, nil
	}
}

func create(path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	n, err := unix.Write(fd, body)
	if err2 := unix.Close(fd); err == nil {
		err = err2
	}
	return wholeFile(int64(n), err)
}

func stat(path string) error {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return wholeFile(st.Size, err)
}

func read(s *Spec, worker int) (func() (int64, error), error) {
	// More than the file: a read that returns less shows the end.
	buf := make([]byte, 2*FileSize)
	return eachFile(func(path string) error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		n, err := unix.Read(fd, buf)
		if err2 := unix.Close(fd); err == nil {
			err = err2
		}
		return wholeFile(int64(n), err)
	})(s, worker)
}

func wholeFile(size int64, err error) error {
	if err == nil && size != FileSize {
		return fmt.Errorf("%d bytes, want %d", size, FileSize)
	}
	return err
}

func rename(s *Spec, worker int) (func() (int64, error), error) {
	from, to := paths(s, worker, s.Prefix), paths(s, worker, s.Target)
	return func() (int64, error) {
		for i := range from {
			if err := unix.Rename(from[i], to[i]); err != nil {
				return int64(i), &os.LinkError{Op: "rename", Old: from[i], New: to[i], Err: err}
			}
		}
		return int64(len(from)), nil
	}, nil
}

// list reads the worker's folder from the start to the end, names only.
func list(s *Spec, worker int) (func() (int64, error), error) {
	want := len(paths(s, worker, s.Prefix))
	dir := filepath.Join(s.Dir, Folder(worker))
	return func() (int64, error) {
		n, err := countEntries(dir)
		if err == nil && n != want {
			err = fmt.Errorf("%s lists %d entries, want %d", dir, n, want)
		}
		return int64(n), err
	}, nil
}

func countEntries(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 32<<10) // as glibc's readdir
	count := 0
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return count, &fs.PathError{Op: "getdents", Path: dir, Err: err}
		}
		if n == 0 {
			return count, nil
		}
		_, entries, _ := unix.ParseDirent(buf[:n], -1, nil)
		count += entries
	}
}

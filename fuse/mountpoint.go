package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Errors of Mount about the mount point. Each is wrapped with the paths.
var (
	// ErrNoPoint is returned when the mount point does not exist or is no directory.
	ErrNoPoint = errors.New("mount point is not a directory")
	// ErrOverlap is returned when the mount point and the data folder are the
	// same or one is inside the other: the store would wait for itself.
	ErrOverlap = errors.New("mount point and data folder overlap")
	// ErrMounted is returned when a living process serves a mount of this kind at the point.
	ErrMounted = errors.New("mount point is in use by another process")
	// ErrHung is returned when the mount at the point neither answers nor is dead.
	ErrHung = errors.New("mount at this point does not answer")
)

// preparePoint returns the mount point without symbolic links, once it is sure
// that a mount there makes sense. A dead mount of an earlier process is detached.
func preparePoint(ctx context.Context, point, data string, log *slog.Logger) (string, error) {
	point, err := resolvePoint(point)
	if err != nil {
		return "", err
	}
	if err := replaceStale(ctx, point, log); err != nil {
		return "", err
	}
	fi, err := os.Lstat(point)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s: %w: it does not exist", point, ErrNoPoint)
	case err != nil:
		return "", err
	case !fi.IsDir():
		return "", fmt.Errorf("%s: %w", point, ErrNoPoint)
	}
	if data != "" {
		if err := checkOverlap(point, data); err != nil {
			return "", err
		}
	}
	// As mount(8) does: what is below is hidden, not lost.
	if hidden := firstEntry(point); hidden != "" {
		log.Warn("mount point is not empty, its content is hidden while mounted", "point", point, "entry", hidden)
	}
	return point, nil
}

// resolvePoint follows symbolic links, but never looks at what point itself is:
// on a dead mount that would fail.
func resolvePoint(point string) (string, error) {
	point, err := filepath.Abs(point)
	if err != nil {
		return "", err
	}
	const maxLinks = 40 // as the kernel, path_resolution(7)
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(point))
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s: %w: it does not exist", point, ErrNoPoint)
		}
		if err != nil {
			return "", err
		}
		if point != "/" {
			point = filepath.Join(dir, filepath.Base(point))
		}
		target, err := os.Readlink(point)
		if err != nil {
			return point, nil // no link
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		point = filepath.Clean(target)
	}
	return "", fmt.Errorf("%s: %w: too many symbolic links", point, ErrNoPoint)
}

// checkOverlap compares the ancestors of both as files, so that it sees through
// bind mounts, too.
func checkOverlap(point, data string) error {
	data, err := filepath.EvalSymlinks(data)
	if err != nil {
		return err
	}
	for _, pair := range [][2]string{{point, data}, {data, point}} {
		within, err := isWithin(pair[0], pair[1])
		if err != nil {
			return err
		}
		if within {
			return fmt.Errorf("%s, %s: %w", point, data, ErrOverlap)
		}
	}
	return nil
}

// isWithin reports whether path is dir or below it.
func isWithin(path, dir string) (bool, error) {
	d, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	for {
		fi, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		if os.SameFile(fi, d) {
			return true, nil
		}
		if path == "/" {
			return false, nil
		}
		path = filepath.Dir(path)
	}
}

// firstEntry returns a name in dir, or "" if there is none or it cannot be read.
func firstEntry(dir string) string {
	f, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	if err != nil && !errors.Is(err, io.EOF) || len(names) == 0 {
		return ""
	}
	return strings.ToValidUTF8(names[0], "?")
}

package fuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// unmountPatience is how long Unmount waits for programs to leave the mount.
	unmountPatience = 5 * time.Second
	// unmountRetry is how often it tries meanwhile.
	unmountRetry = 50 * time.Millisecond
	// flushPatience is how long the pages of those who stay may take to be written.
	flushPatience = 5 * time.Second
	// abortAfter and endPatience are how long requests may go on after the mount
	// has left the tree, until they are cut off, and until that is given up.
	abortAfter  = time.Second
	endPatience = 4 * time.Second
)

// errCovered is returned when somebody has mounted something on top of the mount.
// The kernel finds mounts by their path, so ours cannot be named any more. It ends
// with the process.
var errCovered = errors.New("another file system is mounted on top of it")

// Unmount ends the mount. Programs that are still in it have 5 seconds, or until
// ctx ends, to leave. Then it is taken away from them: what they have written is
// kept, and their next request fails. When Unmount returns without an error nothing
// of the store is in use for the mount any more. It may be called again.
func (m *Mounted) Unmount(ctx context.Context) error {
	m.leaving.Store(true)
	select {
	case <-m.ended:
		return nil // somebody else has unmounted it
	default:
	}
	err := m.leave(ctx)
	if errors.Is(err, unix.EBUSY) {
		err = m.evict()
	}
	if err == nil {
		err = m.wait()
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.point, err)
	}
	return nil
}

// leave unmounts politely; EBUSY: somebody stays.
func (m *Mounted) leave(ctx context.Context) error {
	deadline := time.NewTimer(unmountPatience)
	defer deadline.Stop()
	for {
		err := m.umount(ctx)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-time.After(unmountRetry):
		case <-m.ended:
			return nil
		case <-deadline.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// umount is one polite attempt. A mount that is not ours any more, or has
// another on top of it, is left alone.
func (m *Mounted) umount(ctx context.Context) error {
	top, ok, err := topMount(m.point)
	if err != nil {
		return err
	}
	if !ok || top.dev != m.dev {
		return m.notOnTop()
	}
	if canMount() {
		return unix.Unmount(m.point, unix.UMOUNT_NOFOLLOW)
	}
	if err := fusermount(ctx, "-u", "--", m.point); err != nil {
		if strings.Contains(err.Error(), "busy") {
			return fmt.Errorf("%w: %w", unix.EBUSY, err)
		}
		return err
	}
	return nil
}

// notOnTop decides what it means that our mount is not what a path walk ends on:
// it is gone from here, or covered.
func (m *Mounted) notOnTop() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if e, err := parseMountEntry(strings.TrimSuffix(line, "\n")); err == nil && e.dev == m.dev && e.point == m.point {
			return errCovered
		}
	}
	return nil
}

// evict takes the mount away from those who have not left.
func (m *Mounted) evict() error {
	m.log.Warn("mount is busy, so it is taken away from those who use it", "point", m.point, "users", holders(m.point, maxHolders))
	m.flush()
	if !canMount() {
		return detach(context.Background(), m.point)
	}
	// MNT_FORCE makes waiting requests fail, MNT_DETACH takes it out of the tree
	// at once (umount2(2)).
	return unix.Unmount(m.point, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// flush has the kernel write what programs have stored in memory that they
// share with files: with the connection it would be lost (syncfs(2)).
func (m *Mounted) flush() {
	done := make(chan error, 1)
	go func() {
		fd, err := unix.Open(m.point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		err = unix.Syncfs(fd)
		unix.Close(fd)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			m.log.Warn("pages of the mount may be lost", "point", m.point, "err", err)
		}
	case <-time.After(flushPatience):
		m.log.Warn("pages of the mount may be lost", "point", m.point, "err", "writing them takes too long")
	}
}

// wait returns once the last request has been answered. Programs in another
// mount namespace may hold on to the connection, and without CAP_SYS_ADMIN those who
// were in the mount: they are cut off.
func (m *Mounted) wait() error {
	abort, end := time.NewTimer(abortAfter), time.NewTimer(endPatience)
	defer abort.Stop()
	defer end.Stop()
	for {
		select {
		case <-m.ended:
			m.log.Info("unmounted", "point", m.point)
			return nil
		case <-abort.C:
			m.abort()
		case <-end.C:
			return errors.New("requests are still being served")
		}
	}
}

// abort cuts the connection, which is ours: its number is that of the device we
// mounted.
func (m *Mounted) abort() {
	err := os.WriteFile(filepath.Join("/sys/fs/fuse/connections", connection(m.dev), "abort"), []byte("1"), 0)
	m.log.Warn("unmounted, but still in use, so the connection is cut", "point", m.point, "err", err)
}

// maxHolders is how many users of a busy mount are named.
const maxHolders = 5

// holders names up to limit processes with a file, a working or a root directory at or
// below point, as far as this process may see them.
func holders(point string, limit int) []string {
	var found []string
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range pids {
		if len(found) == limit {
			break
		}
		if use := useOf(dir, point); use != "" {
			name, _ := os.ReadFile(dir + "/comm")
			found = append(found, fmt.Sprintf("%s[%s] %s", strings.TrimSpace(string(name)), filepath.Base(dir), use))
		}
	}
	return found
}

// useOf says how the process whose folder in /proc is dir uses point; "": it does not.
func useOf(dir, point string) string {
	for _, l := range []string{"cwd", "root", "exe"} {
		if target, err := os.Readlink(dir + "/" + l); err == nil && below(target, point) {
			return l
		}
	}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(fds, func(fd os.DirEntry) bool {
		_, err := strconv.Atoi(fd.Name())
		target, lerr := os.Readlink(dir + "/fd/" + fd.Name())
		return err == nil && lerr == nil && below(target, point)
	})
	if i < 0 {
		return ""
	}
	return "fd " + fds[i].Name()
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

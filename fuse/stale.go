package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// aliveTimeout is how long a mount of our kind may take to answer statfs(2). A
// process that was just killed still holds its mount while it is torn down: its
// statfs waits, and then fails.
const aliveTimeout = 5 * time.Second

// replaceStale detaches dead mounts of our kind from point. Mounts of other
// kinds are left alone: mounting on top of them is the user's decision.
func replaceStale(ctx context.Context, point string, log *slog.Logger) error {
	for {
		m, ok, err := topMount(point)
		if err != nil {
			return err
		}
		if !ok || m.fsType != fsType {
			return nil
		}
		switch err := statfs(ctx, point); {
		case err == nil:
			return fmt.Errorf("%s: %w", point, ErrMounted)
		case !isDead(err):
			return fmt.Errorf("%s: %w (connection %s): %w", point, ErrHung, connection(m.dev), err)
		}
		if err := detach(ctx, point); err != nil {
			return fmt.Errorf("detach the dead mount at %s: %w", point, err)
		}
		log.Warn("detached the dead mount of a process that is gone", "point", point)
	}
}

// isDead reports whether err says that nobody serves a FUSE connection any more.
func isDead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// statfs is statfs(2) that gives up. What it waits for is then left behind,
// until the mount dies.
func statfs(ctx context.Context, point string) error {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(point, &st)
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// detach removes the mount from the tree, busy or not (umount2(2), MNT_DETACH).
func detach(ctx context.Context, point string) error {
	if canMount() {
		return unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return fusermount(ctx, "-u", "-z", "--", point)
}

// connection returns the number of the FUSE connection of a device: the folder
// below /sys/fs/fuse/connections.
func connection(dev string) string {
	_, minor, _ := strings.Cut(dev, ":")
	return minor
}

// fusermount runs the set-user-ID helper that lets users mount. Its error is
// what it printed.
func fusermount(ctx context.Context, args ...string) error {
	return runFusermount(exec.CommandContext(ctx, fusermountProgram, args...))
}

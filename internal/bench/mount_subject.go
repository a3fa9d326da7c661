package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// filesystem is a mount, or a plain folder, that the benchmark can set up.
type filesystem struct {
	name    string
	program string // looked up in PATH; empty where command knows it
	// command returns the command line that mounts point and stays in the
	// foreground. It is nil for the plain folder.
	command func(s site, program string) ([]string, error)
}

// subject is a file system that has been set up.
type subject struct {
	filesystem
	*process // nil for the plain folder
	// work is the folder on the file system in which the rows work.
	work string
	// made holds what rows have left in work for other rows.
	made map[string]string
	// failed is set once the file system cannot be used any more.
	failed error
}

const loopbackPackage = "github.com/hanwen/go-fuse/v2/example/loopback"

// mountPeers are the file systems in the order of the table. Each runs with the
// options that its documentation gives for a mount that other users may enter.
func mountPeers(engramfs, loopback string) []filesystem {
	return []filesystem{
		{name: "engramfs", command: engramfsMount(engramfs)},
		{name: "strict", command: engramfsMount(engramfs, "--mount-integrity", "strict")},
		{name: "ext4"},
		{name: "loopback", command: func(s site, _ string) ([]string, error) {
			if loopback == "" {
				return nil, errAbsent
			}
			return []string{loopback, "-q", "-allow-other", "-directmountstrict", s.point(), s.Root}, nil
		}},
		{name: "bindfs", program: "bindfs", command: func(s site, program string) ([]string, error) {
			return []string{program, "-f", s.Root, s.point()}, nil
		}},
		{name: "rclone", program: "rclone", command: func(s site, program string) ([]string, error) {
			return []string{program, "mount", s.Root, s.point(), "--vfs-cache-mode", "writes", "--allow-other",
				"--cache-dir", s.file("cache"), "--config", s.file("rclone.conf"), "--log-level", "ERROR"}, nil
		}},
	}
}

func engramfsMount(binary string, more ...string) func(site, string) ([]string, error) {
	return func(s site, _ string) ([]string, error) {
		if binary == "" {
			return nil, errAbsent
		}
		return append([]string{binary, "serve", "--data", s.Root, "--listen", s.addr(), "--admin", s.Admin,
			"--anonymous", "--log-level", "warn", "--mount", s.point()}, more...), nil
	}
}

// start sets up every chosen file system. One that cannot be is left out, with
// a note; the project's own counts as failed.
func (m *mountBench) start(ctx context.Context, o options) error {
	binary, loopback := "", ""
	var err error
	if o.wants("engramfs") || o.wants("strict") {
		if binary, err = m.binary(ctx, o.binary); err != nil {
			return err
		}
	}
	if o.wants("loopback") {
		if loopback, err = m.build(ctx, "loopback", loopbackPackage); err != nil {
			m.absent = append(m.absent, fmt.Sprintf("loopback: %v", err))
		}
	}
	for _, f := range mountPeers(binary, loopback) {
		if !o.wants(f.name) {
			continue
		}
		s, err := m.setUp(ctx, f)
		if err == nil {
			m.subjects = append(m.subjects, s)
			continue
		}
		m.absent = append(m.absent, fmt.Sprintf("%s: %v", f.name, err))
		if f.name == "engramfs" || f.name == "strict" {
			m.subjects = append(m.subjects, &subject{filesystem: f, failed: errors.New("not mounted")})
		}
	}
	if len(m.subjects) == 0 {
		return errors.New("no file system to measure")
	}
	return nil
}

// setUp gives the file system a folder of its own and mounts it.
func (m *mountBench) setUp(ctx context.Context, f filesystem) (*subject, error) {
	program := ""
	if f.program != "" {
		var err error
		if program, err = lookPath(f.program); err != nil {
			return nil, err
		}
	}
	st := site{Dir: filepath.Join(m.dir, "mount-"+f.name), Host: "127.0.0.1"}
	st.Root = filepath.Join(st.Dir, "root")
	for _, dir := range []string{st.Root, st.point()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	spread(st.Root)
	s := &subject{filesystem: f, work: st.Root, made: map[string]string{}}
	if f.command == nil {
		return s, nil
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	st.Port, st.Admin = ports[0], fmt.Sprintf("%s:%d", st.Host, ports[1])
	args, err := f.command(st, program)
	if err != nil {
		return nil, err
	}
	if s.process, err = spawn(st, args); err != nil {
		return nil, err
	}
	s.work = st.point()
	if err := s.await(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", err, s.output()), s.stop())
	}
	return s, nil
}

// await returns when a FUSE file system is mounted on the point.
func (s *subject) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for !isFUSE(s.work) {
		if err := s.ended(); err != nil {
			return fmt.Errorf("at start: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not mounted: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func isFUSE(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
}

// checkAlive marks a file system whose server has ended.
func (s *subject) checkAlive() {
	if s.process == nil {
		return
	}
	if err := s.ended(); err != nil {
		s.failed = fmt.Errorf("server %w: %s", err, s.output())
	}
}

// watch kills the server after limit unless end is called before.
func (s *subject) watch(limit time.Duration) (end func()) {
	if s.process == nil {
		return func() {}
	}
	timer := time.AfterFunc(limit, func() { s.cmd.Process.Kill() })
	return func() { timer.Stop() }
}

// stop ends the server, and takes the mount away that it may have left behind.
func (s *subject) stop() error {
	if s.process == nil {
		return nil
	}
	s.process.stop()
	point := s.site.point()
	if err := unix.Unmount(point, unix.MNT_DETACH); err == nil {
		return fmt.Errorf("left its mount behind on %s", point)
	}
	return nil
}

// point is the site's mount point.
func (s site) point() string { return s.file("mnt") }

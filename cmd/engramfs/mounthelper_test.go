package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseHelperArgs(t *testing.T) {
	for _, c := range []struct {
		args []string
		want *helperArgs // nil: an error
	}{
		{[]string{"/data", "/mnt"}, &helperArgs{source: "/data", dir: "/mnt"}},
		{[]string{"/data", "/mnt", "-o", "rw,acl"}, &helperArgs{source: "/data", dir: "/mnt", options: []string{"rw,acl"}}},
		{[]string{"/data", "/mnt", "-sv", "-n", "-t", "engramfs", "-N", "/proc/1/ns/mnt"}, &helperArgs{source: "/data", dir: "/mnt"}},
		{[]string{"-f", "/data", "/mnt"}, &helperArgs{source: "/data", dir: "/mnt", fake: true}},
		{[]string{"/data"}, nil},
		{[]string{"/data", "/mnt", "/more"}, nil},
		{[]string{"/data", "/mnt", "-o"}, nil},
		{[]string{"/data", "/mnt", "-x"}, nil},
	} {
		got, err := parseHelperArgs(c.args)
		if (err != nil) != (c.want == nil) || err == nil && !reflect.DeepEqual(got, *c.want) {
			t.Errorf("%q = %+v, %v, want %+v", c.args, got, err, c.want)
		}
	}
}

// What mount(8) starts for a line of fstab.
func TestMountHelper(t *testing.T) {
	point := mountPoint(t)
	dir := t.TempDir()
	helper := filepath.Join(dir, helperName)
	if err := os.Symlink(os.Args[0], helper); err != nil {
		t.Fatal(err)
	}
	cmd := func(args ...string) *exec.Cmd {
		c := exec.Command(helper, args...)
		c.Env = append(os.Environ(), asMain+"=1", "ENGRAMFS_RESERVE=none")
		return c
	}
	if out, err := cmd(filepath.Join(dir, "data"), filepath.Join(dir, "missing")).CombinedOutput(); err == nil {
		t.Errorf("a mount on nothing succeeded\n%s", out)
	} else if code := err.(*exec.ExitError).ExitCode(); code != exitMountFailure {
		t.Errorf("exit code %d, want %d\n%s", code, exitMountFailure, out)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := cmd(filepath.Join(dir, "data"), point, "-o", "rw,noexec")
	c.Stderr = log
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(point, "a"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	// The server ends with its mount, and lets go of the data folder.
	waitFor(t, func() bool {
		text, err := os.ReadFile(log.Name())
		return err == nil && strings.Contains(string(text), `"stopped"`)
	})
	lock, err := os.Open(filepath.Join(dir, "data", lockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	waitFor(t, func() bool { return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil })
}

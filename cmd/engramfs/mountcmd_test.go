package main

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestExpandMountOptions(t *testing.T) {
	for _, c := range []struct {
		in, want []string // want nil: an error
	}{
		{[]string{"mount", "/mnt"}, []string{"mount", "/mnt"}},
		{[]string{"mount", "/mnt", "-o", "ro"}, []string{"mount", "/mnt", "--mount-read-only"}},
		{[]string{"mount", "-oro,suid", "/mnt"}, []string{"mount", "--mount-read-only", "--mount-suid", "/mnt"}},
		{[]string{"mount", "-o", "rw,nosuid,nodev,exec,async,noacl"}, []string{"mount", "--mount-read-only=false",
			"--mount-suid=false", "--mount-dev=false", "--mount-noexec=false", "--mount-sync=false", "--mount-acl=false"}},
		{[]string{"mount", "-o", "defaults,noauto,x-systemd.automount,_netdev,noatime,,comment=x"}, []string{"mount"}},
		{[]string{"mount", "-o", "allow_other,integrity=strict,timeout=5s"}, []string{"mount",
			"--mount-allow-other=yes", "--mount-integrity=strict", "--mount-timeout=5s"}},
		{[]string{"mount", "-o", "data=/srv/a b,cache-size=1GiB"}, []string{"mount", "--data=/srv/a b", "--cache-size=1GiB"}},
		{[]string{"mount", "--", "-o", "ro"}, []string{"mount", "--", "-o", "ro"}},
		{[]string{"serve", "-o", "ro"}, []string{"serve", "-o", "ro"}},
		{[]string{"mount", "-o"}, nil},
		{[]string{"mount", "-o", "nonsense"}, nil},
	} {
		got, err := expandMountOptions(c.in)
		if (err != nil) != (c.want == nil) || err == nil && !slices.Equal(got, c.want) {
			t.Errorf("%q = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
}

// parseMount parses the arguments of the mount command as run does.
func parseMount(t *testing.T, args ...string) *mountCmd {
	t.Helper()
	args, err := expandMountOptions(append([]string{"mount"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	var c cli
	if _, _, err := parse(&c, args, &process{t.Context(), new(bytes.Buffer), new(bytes.Buffer)}); err != nil {
		t.Fatalf("parse %q: %v", args, err)
	}
	return &c.Mount
}

// The two commands have the same flags of the store and the mount, with the same
// defaults, from the same sources.
func TestMountHasTheFlagsOfServe(t *testing.T) {
	file := tempFile(t, "listen: 1.2.3.4:5\nmount: /elsewhere\nmount-acl: true\ncache-size: 1MiB\n")
	t.Setenv("ENGRAMFS_MOUNT_TIMEOUT", "7s")
	serve, mount := mustParse(t, "--config", file), parseMount(t, "--config", file, "/mnt")
	if !reflect.DeepEqual(serve.serverFlags, mount.serverFlags) || !reflect.DeepEqual(serve.mountFlags, mount.mountFlags) {
		t.Errorf("serve %+v\nmount %+v", serve, mount)
	}
	if mount.Point != "/mnt" || mount.Admin != none || !mount.MountACL || mount.CacheSize != 1<<20 || mount.MountTimeout != 7*time.Second {
		t.Errorf("mount = %+v", mount)
	}
}

// -o wins over the file, as the other flags do.
func TestMountOptionsWinOverTheFile(t *testing.T) {
	file := tempFile(t, "mount-read-only: true\nmount-integrity: fast\n")
	c := parseMount(t, "--config", file, "-o", "rw,integrity=strict", "/mnt")
	if c.MountReadOnly || c.MountIntegrity != "strict" {
		t.Errorf("read-only %t, integrity %s, want false, strict", c.MountReadOnly, c.MountIntegrity)
	}
}

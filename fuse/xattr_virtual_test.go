package fuse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestVirtualXattrs: the digest is that of the content once it is sealed; nobody
// can set or remove it, and copies do not carry it along.
func TestVirtualXattrs(t *testing.T) {
	m := mountForTest(t, Options{})
	f := m.path("f")
	buf := make([]byte, 128)
	get := func(name string) (string, error) {
		n, err := unix.Lgetxattr(f, name, buf)
		return string(buf[:max(n, 0)]), err
	}
	check := func(content []byte) {
		t.Helper()
		sum := sha256.Sum256(content)
		if got, err := get("user.sha256"); err != nil || got != hex.EncodeToString(sum[:]) {
			t.Errorf("user.sha256 of %d bytes = %q, %v", len(content), got, err)
		}
		if got, err := get("user.engramfs.state"); err != nil || got != "ok" {
			t.Errorf("state = %q, %v", got, err)
		}
	}
	must(t, os.WriteFile(f, []byte("small"), 0o644))
	check([]byte("small"))

	large := bytes.Repeat([]byte("large "), 50_000)
	must(t, os.WriteFile(f, large, 0o644))
	_, err := get("user.sha256")
	wantErrno(t, "digest while unsealed", err, unix.ENODATA)
	if got, err := get("user.engramfs.state"); err != nil || got != "unsealed" {
		t.Errorf("state = %q, %v", got, err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		must(t, m.store.Quiesce(context.Background())) // close(2) returns before the kernel releases the file
		if _, err := get("user.sha256"); err == nil {
			break
		}
	}
	check(large)

	for _, name := range []string{"user.sha256", "user.engramfs.state"} {
		wantErrno(t, "set "+name, unix.Lsetxattr(f, name, []byte("x"), 0), unix.EPERM)
		wantErrno(t, "remove "+name, unix.Lremovexattr(f, name), unix.EPERM)
	}
	if got := listxattr(t, f); len(got) != 0 {
		t.Errorf("list = %q", got)
	}
	_, err = unix.Lgetxattr(m.path(""), "user.sha256", buf)
	wantErrno(t, "digest of a directory", err, unix.ENODATA)
	must(t, unix.Lsetxattr(f, "user.kept", []byte("v"), 0))
	for i, argv := range [][]string{{"cp", "-a"}, {"cp", "--preserve=all"}, {"rsync", "-aX"}} {
		if _, err := exec.LookPath(argv[0]); err != nil {
			if os.Getenv("REQUIRE_ALL") == "1" {
				t.Fatal(argv[0] + " is needed")
			}
			continue
		}
		for _, to := range []string{m.path("copy" + argv[0] + string(rune('0'+i))), filepath.Join(t.TempDir(), "copy")} {
			if out, err := exec.Command(argv[0], append(argv[1:], f, to)...).CombinedOutput(); err != nil {
				t.Errorf("%q to %s: %v\n%s", argv, to, err, out)
			}
			if got := listxattr(t, to); len(got) != 1 || got[0] != "user.kept" {
				t.Errorf("%q to %s: list = %q", argv, to, got)
			}
		}
	}
}

package posix

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// native are the file systems of the kernel itself that the suite has to pass on,
// by the magic number of statfs(2).
var native = []int64{unix.EXT4_SUPER_MAGIC}

// TestNativeFileSystem holds the suite itself to account: what the kernel's own
// file system does not do cannot be asked of another.
func TestNativeFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "the suite switches users and needs root")
	}
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(native, int64(st.Type)) {
		missing(t, "the temporary directory is on no ext4 file system")
	}
	Run(t, dir, Options{})
}

// TestDirectory runs the suite on the directory that POSIX_DIR names, to see
// how any file system does. It skips where none is named.
func TestDirectory(t *testing.T) {
	dir := os.Getenv("POSIX_DIR")
	if dir == "" {
		t.Skip("POSIX_DIR names no directory")
	}
	Run(t, dir, Options{})
}

// missing skips the test, or fails it where everything is required.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

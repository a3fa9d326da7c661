package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyLimit bounds one run of a copying client.
const copyLimit = 20 * time.Minute

// source returns the folder to copy and the number of its files: a few hundred
// odd ones, or in the long form the Go source tree.
func source(t *testing.T, longest int) (string, int) {
	t.Helper()
	dir := t.TempDir()
	if !long() {
		n, err := PlantOddTree(dir, longest)
		if err != nil {
			t.Fatal(err)
		}
		return dir, n
	}
	return dir, goTree(t, dir)
}

// goTree copies the source of the Go distribution, and its tests, to dir.
func goTree(t *testing.T, dir string) int {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	root := strings.TrimSpace(string(out))
	for _, part := range []string{"src", "test"} {
		if _, err := os.Stat(filepath.Join(root, part)); err != nil {
			continue // Distributions split the tree into packages.
		}
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(root, part))); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n <= 10_000 {
		t.Fatalf("the Go tree has %d files, want more than 10,000", n)
	}
	return n
}

// rclone runs rclone with a remote "dav:" that is the server.
func rclone(t *testing.T, s *Server, args ...string) {
	t.Helper()
	env := []string{"RCLONE_CONFIG_DAV_TYPE=webdav", "RCLONE_CONFIG_DAV_VENDOR=other", "RCLONE_CONFIG_DAV_URL=" + s.URL}
	dir := t.TempDir()
	conf := filepath.Join(dir, "rclone.conf")
	if err := os.WriteFile(conf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// One try: a repeated transfer would hide an error that the server made.
	all := append([]string{Program(t, "rclone"), "--config", conf, "--retries", "1", "--low-level-retries", "1"}, args...)
	if out, err := Command(t, copyLimit, dir, env, "", all...); err != nil {
		t.Fatalf("rclone %s: %v\n%s", strings.Join(args, " "), err, tail(out))
	}
}

func tail(out string) string { return out[max(0, len(out)-4000):] }

// verifyCopy compares by rclone, which reads as a client does, and by our own
// client, which looks for what should not be there as well.
func verifyCopy(t *testing.T, s *Server, src, base string, files int) {
	t.Helper()
	rclone(t, s, "check", "--download", src, "dav:"+base)
	compareCopy(t, s, src, base, files)
}

func compareCopy(t *testing.T, s *Server, src, base string, files int) {
	t.Helper()
	d := NewDAV(s.Addr, "", time.Minute)
	defer d.Close()
	if n, err := CompareTree(d, base, src); err != nil || n != files {
		t.Fatalf("%s: %d of %d files equal: %v", base, n, files, err)
	}
}

func TestRcloneCopySurvivesRestartAndKill(t *testing.T) {
	Program(t, "rclone")
	src, files := source(t, 255)
	s := start(t)
	rclone(t, s, "copy", src, "dav:/first", "--create-empty-src-dirs")
	verifyCopy(t, s, src, "/first", files)

	s.Stop()
	s.Restart()
	verifyCopy(t, s, src, "/first", files)

	rclone(t, s, "copy", src, "dav:/second", "--create-empty-src-dirs")
	s.Kill()
	s.Restart()
	compareCopy(t, s, src, "/first", files)
	verifyCopy(t, s, src, "/second", files)
	t.Logf("%d files, twice", files)
}

// mountDavfs mounts the server with davfs2 and returns the mount point. The
// test's end unmounts it.
func mountDavfs(t *testing.T, s *Server) string {
	t.Helper()
	mount := Program(t, "mount.davfs")
	if os.Geteuid() != 0 {
		missing(t, "davfs2: mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(t, "davfs2: no /dev/fuse")
	}
	dir := openTempDir(t)
	conf, secrets, point, cache := filepath.Join(dir, "conf"), filepath.Join(dir, "secrets"), filepath.Join(dir, "mnt"), filepath.Join(dir, "cache")
	for _, d := range []string{point, cache} {
		if err := errors.Join(os.Mkdir(d, 0o755), os.Chmod(d, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	// No refresh and no delay: what the test reads and compares is the
	// server's, as soon as a file is closed. The buffer is larger than the
	// default because davfs2 answers EINVAL to readdir requests that do not fit,
	// and newer kernels read folders in larger pieces.
	text := "buf_size 256\nask_auth 0\nuse_locks 1\ndelay_upload 0\ndir_refresh 0\nfile_refresh 0\ncache_dir " + cache + "\nsecrets " + secrets + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secrets, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := Command(t, time.Minute, dir, nil, "", mount, s.URL+"/", point, "-o", "conf="+conf); err != nil {
		t.Fatalf("mount.davfs: %v\n%s", err, out)
	}
	t.Cleanup(func() { unmount(t, point, true) })
	return point
}

// openTempDir is a temporary folder that other users can reach: davfs2 gives up
// root's rights, and the folders of t.TempDir are closed to others.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engramfs-davfs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unmount waits until davfs2 has uploaded everything. At the test's end it is
// forced: nothing may stay mounted.
func unmount(t *testing.T, point string, force bool) {
	t.Helper()
	out, err := Command(t, copyLimit, "/", nil, "", "umount", point)
	if !force && err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
	if force && err != nil && !strings.Contains(out, "not mounted") {
		Command(t, time.Minute, "/", nil, "", "umount", "-l", point)
	}
}

func TestDavfs2CopySurvivesRestartAndKill(t *testing.T) {
	// davfs2 adds 11 bytes to a name for its own cache file ("dir-", "-XXXXXX").
	src, files := source(t, 244)
	s := start(t)
	point := mountDavfs(t, s)
	// davfs2 reads the listing of a folder that it has not made itself.
	must(t, connect(t, s), "MKCOL", "/made by another", nil, nil, 201)

	if out, err := Command(t, copyLimit, "/", nil, "", "cp", "-r", src, filepath.Join(point, "first")); err != nil {
		t.Fatalf("cp: %v\n%s", err, tail(out))
	}
	unmount(t, point, false)
	compareCopy(t, s, src, "/first", files)

	s.Stop()
	s.Restart()
	point = mountDavfs(t, s)
	if out, err := Command(t, copyLimit, "/", nil, "", "diff", "-r", src, filepath.Join(point, "first")); err != nil {
		t.Fatalf("diff through the mount: %v\n%s", err, tail(out))
	}
	if out, err := Command(t, copyLimit, "/", nil, "", "cp", "-r", src, filepath.Join(point, "second")); err != nil {
		t.Fatalf("cp: %v\n%s", err, tail(out))
	}
	unmount(t, point, false)
	s.Kill()
	s.Restart()
	compareCopy(t, s, src, "/first", files)
	compareCopy(t, s, src, "/second", files)
	t.Logf("%d files, twice", files)
}

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a file system that can lose power: it lives in an image file, which in
// turn lies on an XFS whose files can be cloned in one instant. A clone of the image has
// what the file system has handed to its disk so far, and nothing of what is in the
// machine's page cache. (What it does not imitate is a disk that loses what it has
// itself put into a cache and was never asked to flush.)
type Disk struct {
	// Dir is where the file system is mounted.
	Dir string

	t      testing.TB
	kind   string // "xfs" or "ext4"
	images string // the folder of the images, on the XFS that clones
	image  string // the one that is mounted, "" for none
	cuts   int
}

const (
	diskSize   = 3 << 30  // of an image, which takes no more space than what was written
	imagesSize = 64 << 30 // of the file system around the images, the same way
)

// NewDisk makes an empty file system of a kind and mounts it. It skips the test
// where that cannot be done. The test's end unmounts it.
func NewDisk(t testing.TB, kind string) *Disk {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "loop mounts need root")
	}
	for _, program := range []string{"mkfs.xfs", "mkfs." + kind, "mount", "losetup"} {
		Program(t, program)
	}
	dir := t.TempDir()
	d := &Disk{t: t, kind: kind, images: filepath.Join(dir, "images"), Dir: filepath.Join(dir, "disk")}
	outer := filepath.Join(dir, "images.img")
	d.format("xfs", outer, imagesSize)
	for _, p := range []string{d.images, d.Dir} {
		if err := os.Mkdir(p, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := mountImage("xfs", outer, d.images); err != nil {
		missing(t, fmt.Sprintf("an image cannot be mounted here: %v: %s", err, out))
	}
	t.Cleanup(func() { d.unmount(d.images) })
	first := filepath.Join(d.images, "0.img")
	d.format(kind, first, diskSize)
	d.attach(first)
	t.Cleanup(func() { d.unmount(d.Dir) })
	return d
}

func (d *Disk) format(kind, image string, size int64) {
	d.t.Helper()
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
	args := map[string][]string{
		"xfs":  {"mkfs.xfs", "-q", "-m", "reflink=1", image},
		"ext4": {"mkfs.ext4", "-q", "-F", image},
	}[kind]
	if out, err := Command(d.t, time.Minute, filepath.Dir(image), nil, "", args...); err != nil {
		d.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// mountImage mounts an image. A clone has the UUID of its original, which XFS
// would not mount beside it.
func mountImage(kind, image, dir string) (out []byte, err error) {
	options := "loop,noatime"
	if kind == "xfs" {
		options += ",nouuid"
	}
	return exec.Command("mount", "-t", kind, "-o", options, image, dir).CombinedOutput()
}

func (d *Disk) attach(image string) {
	d.t.Helper()
	if out, err := mountImage(d.kind, image, d.Dir); err != nil {
		d.t.Fatalf("mount %s: %v\n%s", image, err, out)
	}
	d.image = image
}

// unmount takes a file system away. Whoever still holds a file on it, such as a
// process that is about to end, is waited for.
func (d *Disk) unmount(dir string) {
	d.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err == nil {
		return
	}
	d.t.Errorf("unmount %s: %v", dir, err)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		d.t.Errorf("detach %s: %v", dir, err)
	}
}

// Snapshot takes the image as a power cut in this instant would leave it.
func (d *Disk) Snapshot() (image string) {
	d.t.Helper()
	d.cuts++
	image = filepath.Join(d.images, fmt.Sprintf("%d.img", d.cuts))
	from, err := os.Open(d.image)
	if err != nil {
		d.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(image)
	if err != nil {
		d.t.Fatal(err)
	}
	defer to.Close()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		d.t.Fatalf("clone %s: %v", d.image, err)
	}
	return image
}

// Boot goes on with a snapshot in place of what is mounted, which is lost. The
// file system replays its own journal.
func (d *Disk) Boot(image string) {
	d.t.Helper()
	d.unmount(d.Dir)
	if err := os.Remove(d.image); err != nil {
		d.t.Error(err)
	}
	d.attach(image)
}

// freeze stops the process as it is, and returns once none of its threads can
// answer anybody: each one is stopped, or inside a system call that cannot be
// interrupted, as fdatasync(2) is. Those go on.
func (s *Server) freeze() error {
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for deadline := time.Now().Add(startTimeout); ; {
		busy, err := s.runningThreads()
		if err != nil || busy == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d threads still run after SIGSTOP", busy)
		}
	}
}

// runningThreads counts the threads of the server that are neither stopped nor in
// uninterruptible sleep, see proc_pid_stat(5).
func (s *Server) runningThreads() (n int, err error) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.Pid()))
	if err != nil {
		return 0, err
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return 0, err
		}
		// The name before the state may hold anything, also a parenthesis.
		after := text[bytes.LastIndexByte(text, ')')+1:]
		if len(after) > 1 && !bytes.ContainsRune([]byte("TtDZX"), rune(after[1])) {
			n++
		}
	}
	return n, nil
}

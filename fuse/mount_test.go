package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"engramfs/internal/logbuf"
	"engramfs/store"
	"engramfs/store/storetest"
)

// deadMount leaves at point what a killed process leaves: a mount that answers
// ENOTCONN. With answering it is not dead, but says nothing either.
func deadMount(t *testing.T, point string, silent bool) {
	t.Helper()
	o := &MountOptions{}
	fd, err := connectDirect(point, o, false)
	must(t, err)
	t.Cleanup(func() { unix.Unmount(point, unix.MNT_FORCE|unix.MNT_DETACH) })
	if silent {
		t.Cleanup(func() { unix.Close(fd) })
		return
	}
	must(t, unix.Close(fd))
}

func isMounted(t *testing.T, point string) bool {
	t.Helper()
	top, ok, err := topMount(point)
	must(t, err)
	return ok && top.fsType == fsType
}

func TestMountRefuses(t *testing.T) {
	needFUSE(t)
	s := storetest.New(t)
	base := t.TempDir()
	for _, dir := range []string{"data/sub", "data/blobs", "point", "over/data", "bind", "silent"} {
		must(t, os.MkdirAll(filepath.Join(base, dir), 0o755))
	}
	at := func(p string) string { return filepath.Join(base, p) }
	must(t, os.WriteFile(at("file"), nil, 0o644))
	must(t, os.Symlink("data/sub", at("link")))
	must(t, os.Symlink("nowhere", at("dangling")))
	must(t, os.Symlink("loop", at("loop")))
	must(t, unix.Mount(at("data"), at("bind"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(at("bind"), unix.MNT_DETACH)) })
	deadMount(t, at("silent"), true)

	for _, c := range []struct {
		name, point, data string
		want              error
	}{
		{"Missing", "missing", "data", ErrNoPoint},
		{"MissingParent", "missing/point", "data", ErrNoPoint},
		{"File", "file", "data", ErrNoPoint},
		{"DanglingLink", "dangling", "data", ErrNoPoint},
		{"LinkLoop", "loop", "data", ErrNoPoint},
		{"PointIsData", "data", "data", ErrOverlap},
		{"PointInData", "data/blobs", "data", ErrOverlap},
		{"PointInDataThroughLink", "link", "data", ErrOverlap},
		{"PointInDataThroughBind", "bind/sub", "data", ErrOverlap},
		{"DataInPoint", "over", "over/data", ErrOverlap},
		{"DataInPointThroughBind", "data", "bind/sub", ErrOverlap},
		{"Hung", "silent", "data", ErrHung},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			m, err := Mount(ctx, MountOptions{Options: Options{Store: s}, Point: at(c.point), DataDir: at(c.data)})
			if err == nil {
				must(t, m.Unmount(t.Context()))
			}
			if !errors.Is(err, c.want) {
				t.Errorf("Mount = %v, want %v", err, c.want)
			}
		})
	}
}

func TestMountTwice(t *testing.T) {
	m := mountForTest(t, Options{})
	_, err := Mount(t.Context(), MountOptions{Options: Options{Store: m.store}, Point: m.dir})
	if !errors.Is(err, ErrMounted) {
		t.Errorf("second mount at the same point = %v, want ErrMounted", err)
	}
	must(t, os.WriteFile(m.path("a"), nil, 0o644))
}

// The point is found through a symbolic link, dead mounts on it are stacked, and
// one of them is busy.
func TestMountReplacesDeadMounts(t *testing.T) {
	needFUSE(t)
	s := storetest.New(t)
	base := t.TempDir()
	point, link := filepath.Join(base, "point"), filepath.Join(base, "link")
	must(t, os.Mkdir(point, 0o755))
	must(t, os.Symlink(point, link))
	deadMount(t, point, false)
	root, err := unix.Open(point, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(root)
	if err := unix.Stat(point, new(unix.Stat_t)); !errors.Is(err, unix.ENOTCONN) {
		t.Fatalf("stat of a dead mount = %v, want ENOTCONN", err)
	}
	log := new(logbuf.Buffer)
	m, err := Mount(t.Context(), MountOptions{
		Options: Options{Store: s, Logger: slog.New(slog.NewTextHandler(log, nil))}, Point: link,
	})
	must(t, err)
	wantLog(t, log, "detached the dead mount")
	must(t, os.WriteFile(filepath.Join(point, "a"), []byte("x"), 0o644))
	must(t, m.Unmount(t.Context()))
	if _, ok, _ := topMount(point); ok {
		t.Error("something is still mounted")
	}
}

// Other file systems at the point are nobody's business but the user's.
func TestMountOnTopOfOthers(t *testing.T) {
	needFUSE(t)
	point := t.TempDir()
	must(t, unix.Mount("none", point, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(point, unix.MNT_DETACH)) })
	must(t, os.WriteFile(filepath.Join(point, "below"), nil, 0o644))
	log := new(logbuf.Buffer)
	m, err := Mount(t.Context(), MountOptions{
		Options: Options{Store: storetest.New(t), Logger: slog.New(slog.NewTextHandler(log, nil))}, Point: point,
	})
	must(t, err)
	wantLog(t, log, "entry=below")
	must(t, m.Unmount(t.Context()))
	if _, err := os.Stat(filepath.Join(point, "below")); err != nil {
		t.Errorf("what was below: %v", err)
	}
}

func TestUnmountedByOthers(t *testing.T) {
	m := mountForTest(t, Options{})
	must(t, os.WriteFile(m.path("a"), []byte("x"), 0o644))
	must(t, unix.Unmount(m.dir, 0))
	select {
	case <-m.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("Done is not closed")
	}
	wantLog(t, m.log, "unmounted by somebody else")
	if a, err := m.store.LookupPath(t.Context(), "/a"); err != nil || a.Size != 1 {
		t.Errorf("the store has %+v, %v", a, err)
	}
}

// Another file system on top of ours is not ours to unmount.
func TestUnmountCovered(t *testing.T) {
	m := mountForTest(t, Options{})
	must(t, unix.Mount("none", m.dir, "tmpfs", 0, ""))
	err := m.Unmount(t.Context())
	if !errors.Is(err, errCovered) {
		t.Errorf("Unmount = %v, want errCovered", err)
	}
	if top, ok, err := topMount(m.dir); err != nil || !ok || top.fsType != "tmpfs" {
		t.Errorf("on top is %+v, %v", top, err)
	}
	must(t, unix.Unmount(m.dir, 0))
}

// Programs that stay lose the mount, but nothing that they have written: neither
// to files nor to memory that is shared with a file.
func TestUnmountBusy(t *testing.T) {
	m := mountForTest(t, Options{Integrity: IntegrityStrict})
	const size = 50_000
	f, err := os.Create(m.path("mapped"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(data)
	must(t, storeMapped(data[size-100:], "stored in memory"))
	must(t, os.Mkdir(m.path("dir"), 0o755))
	resident := startResident(t, m.path("dir"))

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	must(t, m.Unmount(ctx))
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("Unmount took %v", took)
	}
	if isMounted(t, m.dir) {
		t.Error("still mounted")
	}
	wantLog(t, m.log, fmt.Sprintf("[%d] cwd", resident))
	if _, err := f.Stat(); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("a file of the lost mount: %v", err)
	}
	got := contentOf(t, m.store, "/mapped")
	if len(got) != size || !bytes.HasPrefix(got[size-100:], []byte("stored in memory")) {
		t.Errorf("the store has %d bytes, without what was stored in memory", len(got))
	}
	must(t, m.Unmount(t.Context())) // again
}

// startResident starts a process that has dir as its working directory, until the
// test ends. It goes there on its own: exec.Cmd.Dir would have the runtime wait for
// this process's own answer with its hands tied (vfork(2)).
func startResident(t *testing.T, dir string) (pid int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `cd "$0" && echo && exec sleep 60`, dir)
	there, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if _, err := there.Read(make([]byte, 1)); err != nil {
		t.Errorf("no process in %s: %v", dir, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func contentOf(t *testing.T, s *store.Store, path string) []byte {
	t.Helper()
	a, err := s.LookupPath(t.Context(), path)
	must(t, err)
	c, err := s.OpenContent(t.Context(), a.Ino)
	must(t, err)
	defer c.Close()
	got, err := io.ReadAll(io.NewSectionReader(c, 0, a.Size))
	must(t, err)
	return got
}

// Those who leave in time are waited for.
func TestUnmountWaitsForPrograms(t *testing.T) {
	m := mountForTest(t, Options{})
	f, err := os.Create(m.path("a"))
	must(t, err)
	time.AfterFunc(300*time.Millisecond, func() {
		_, werr := f.WriteString("late")
		if err := errors.Join(werr, f.Close()); err != nil {
			t.Errorf("a file is not writable while Unmount waits: %v", err)
		}
	})
	must(t, m.Unmount(t.Context()))
	if strings.Contains(m.log.String(), "busy") {
		t.Error("the mount was taken away")
	}
	if got := contentOf(t, m.store, "/a"); string(got) != "late" {
		t.Errorf("content %q", got)
	}
}

func TestMountOptions(t *testing.T) {
	needFUSE(t)
	for _, c := range []struct {
		name string
		o    MountOptions
		want []string // of the options in /proc/self/mounts
	}{
		{"Default", MountOptions{}, []string{"rw", "nosuid", "nodev", "noatime", "default_permissions", "allow_other"}},
		{"ReadOnly", MountOptions{ReadOnly: true, NoExec: true}, []string{"ro", "noexec"}},
		{"SuidDev", MountOptions{Suid: true, Dev: true, AllowOther: AllowOtherNever}, []string{"!nosuid", "!nodev", "!allow_other"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Store, c.o.Point, c.o.FSName = storetest.New(t), t.TempDir(), "my files"
			m, err := Mount(t.Context(), c.o)
			must(t, err)
			defer func() { must(t, m.Unmount(t.Context())) }()
			options := mountOptionsOf(t, c.o.Point)
			for _, w := range c.want {
				name, no := strings.CutPrefix(w, "!")
				if strings.Contains(options+",", ","+name+",") == no {
					t.Errorf("options %q, want %s", options, w)
				}
			}
			err = os.WriteFile(filepath.Join(c.o.Point, "a"), nil, 0o644)
			if c.o.ReadOnly != errors.Is(err, syscall.EROFS) {
				t.Errorf("write = %v", err)
			}
			info := m.Info()
			if info.Point != c.o.Point || info.ReadOnly != c.o.ReadOnly || info.AllowOther == (c.o.AllowOther == AllowOtherNever) || time.Since(info.Since) > time.Minute {
				t.Errorf("info = %+v", info)
			}
		})
	}
}

// mountOptionsOf returns the options with a comma before each.
func mountOptionsOf(t *testing.T, point string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if f[1] == point {
			if f[0] != `my\040files` || f[2] != "fuse.engramfs" {
				t.Errorf("device %s, type %s", f[0], f[2])
			}
			return "," + f[3]
		}
	}
	t.Fatalf("%s is not mounted", point)
	return ""
}

// No child may keep the connection alive: it would hang instead of dying with
// this process.
func TestChildrenDoNotInheritTheConnection(t *testing.T) {
	m := mountForTest(t, Options{})
	out, err := exec.Command("sh", "-c", "ls -l /proc/thread-self/fd").CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("fuse")) {
		t.Errorf("a child's descriptors: %v\n%s", err, out)
	}
	_ = m
}

func TestIncrementEpoch(t *testing.T) {
	m := mountForTest(t, Options{EntryTimeout: time.Hour, AttrTimeout: time.Hour, NegativeTimeout: time.Hour})
	must(t, os.WriteFile(m.path("a"), nil, 0o644))
	if err := incrementEpoch(m.device); errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no FUSE_NOTIFY_INC_EPOCH")
	} else if err != nil {
		t.Fatal(err)
	}
	// Whatever changes behind the kernel's back now is seen without a notification.
	ctx := store.WithOrigin(context.Background(), m.fs.origin)
	must(t, m.store.Unlink(ctx, store.RootIno, "a", nil))
	must(t, unix.Access(m.dir, unix.F_OK))
	_, err := os.Stat(m.path("a"))
	if !errors.Is(err, os.ErrNotExist) {
		must(t, incrementEpoch(m.device))
		_, err = os.Stat(m.path("a"))
	}
	wantErrno(t, "stat of a removed file", err, unix.ENOENT)
}

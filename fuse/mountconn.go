package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

const fuseDevice = "/dev/fuse"

// fusermountProgram is the set-user-ID helper of libfuse 3.
const fusermountProgram = "fusermount3"

// Errors of Mount about what this process may do.
var (
	// ErrNoDevice is returned when the system has no /dev/fuse.
	ErrNoDevice = errors.New("no " + fuseDevice)
	// ErrMountDenied is returned when this process may not mount: it has neither
	// CAP_SYS_ADMIN nor a usable fusermount3.
	ErrMountDenied = errors.New("may not mount")
	// ErrAllowOther is returned when other users were to be let in and
	// /etc/fuse.conf does not let this user do that.
	ErrAllowOther = errors.New("user_allow_other is not set in /etc/fuse.conf")
)

// canMount reports whether this process may call mount(2) itself.
func canMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[unix.CAP_SYS_ADMIN/32].Effective&(1<<(unix.CAP_SYS_ADMIN%32)) != 0
}

// connect mounts a new FUSE connection at point and returns its descriptor,
// which no child process inherits: the kernel sees the end of this process by it.
func connect(ctx context.Context, point string, o *MountOptions, allowOther bool) (fd int, err error) {
	if _, err := os.Stat(fuseDevice); errors.Is(err, fs.ErrNotExist) {
		return -1, ErrNoDevice
	}
	if canMount() {
		return connectDirect(point, o, allowOther)
	}
	return connectHelped(ctx, point, o, allowOther)
}

// connectDirect opens the device and mounts it (fuse(4), mount(2)).
func connectDirect(point string, o *MountOptions, allowOther bool) (fd int, err error) {
	fd, err = unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: fuseDevice, Err: err}
	}
	data := []string{
		fmt.Sprintf("fd=%d", fd), fmt.Sprintf("rootmode=%o", unix.S_IFDIR),
		fmt.Sprintf("user_id=%d", os.Geteuid()), fmt.Sprintf("group_id=%d", os.Getegid()),
		fmt.Sprintf("max_read=%d", maxTransfer), "default_permissions",
	}
	if allowOther {
		data = append(data, "allow_other")
	}
	if err := unix.Mount(o.fsName(), point, fsType, o.flags(), strings.Join(data, ",")); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: %w", ErrMountDenied, err)
		}
		return -1, &fs.PathError{Op: "mount", Path: point, Err: err}
	}
	return fd, nil
}

// flags returns the flags of mount(2). Access times are not kept, so the kernel
// need not ask for them to be.
func (o *MountOptions) flags() uintptr {
	var flags uintptr = unix.MS_NOATIME
	for _, f := range []struct {
		set  bool
		flag uintptr
	}{{!o.Suid, unix.MS_NOSUID}, {!o.Dev, unix.MS_NODEV}, {o.NoExec, unix.MS_NOEXEC}, {o.ReadOnly, unix.MS_RDONLY}} {
		if f.set {
			flags |= f.flag
		}
	}
	return flags
}

// connectHelped has fusermount3 mount, which hands the descriptor back through
// a socket whose number it finds in its environment. It insists on nosuid and nodev.
func connectHelped(ctx context.Context, point string, o *MountOptions, allowOther bool) (fd int, err error) {
	if o.Suid || o.Dev {
		return -1, fmt.Errorf("%s: %w with suid or dev: that takes CAP_SYS_ADMIN", point, ErrMountDenied)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	local, remote := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer local.Close()
	cmd := exec.CommandContext(ctx, fusermountProgram, "-o", o.helperOptions(allowOther), "--", point)
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	err = runFusermount(cmd)
	remote.Close() // so that receiving ends if nothing was sent
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", point, err)
	}
	return receiveFD(pair[0])
}

func (o *MountOptions) helperOptions(allowOther bool) string {
	list := []string{
		"fsname=" + o.fsName(), "subtype=" + fsSubtype, fmt.Sprintf("max_read=%d", maxTransfer),
		"default_permissions", "noatime", "nosuid", "nodev",
	}
	for _, c := range []struct {
		set  bool
		name string
	}{{allowOther, "allow_other"}, {o.ReadOnly, "ro"}, {o.NoExec, "noexec"}} {
		if c.set {
			list = append(list, c.name)
		}
	}
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	for i := range list {
		list[i] = escape.Replace(list[i])
	}
	return strings.Join(list, ",")
}

// receiveFD takes one descriptor from a socket (unix(7), SCM_RIGHTS).
func receiveFD(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 4), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, fmt.Errorf("%w: %s sent no descriptor", ErrMountDenied, fusermountProgram)
}

func runFusermount(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(said.String())
	if text == "" {
		text = err.Error()
	}
	return fmt.Errorf("%w: %s", ErrMountDenied, text)
}

// othersAllowed reports whether this process may let other users into its mount.
func othersAllowed() bool { return canMount() || userAllowOther("/etc/fuse.conf") }

// userAllowOther reads fuse.conf as fusermount3 does: the word is a line of its own.
func userAllowOther(conf string) bool {
	text, err := os.ReadFile(conf)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if line, _, _ = strings.Cut(line, "#"); strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}

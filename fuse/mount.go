package fuse

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxTransfer is the size of the largest READ and WRITE, the most that Linux
	// sends unless fs.fuse.max_pages_limit is raised.
	maxTransfer = 1 << 20
	// maxBackground is how many readahead and asynchronous requests may be in flight.
	maxBackground = 64
	// maxInflightBytes bounds the memory for requests being served.
	maxInflightBytes = 256 << 20
)

// AllowOther says whether users other than the one who mounts may enter.
type AllowOther int

const (
	// AllowOtherAuto lets them in if this process may do so. Modes and owners
	// decide what they can do.
	AllowOtherAuto AllowOther = iota
	// AllowOtherAlways makes Mount fail with ErrAllowOther if it may not.
	AllowOtherAlways
	// AllowOtherNever keeps out even root.
	AllowOtherNever
)

// MountOptions say where and how a store is mounted. The zero value of all but
// Store and Point is usable.
type MountOptions struct {
	Options

	Point string // the directory to mount on, required
	// DataDir is the folder the store lives in: the mount must not overlap it.
	// Empty: not checked.
	DataDir string
	// FSName is the device that mount(8) and df(1) show. Empty: engramfs.
	FSName string

	AllowOther AllowOther
	ReadOnly   bool
	Suid       bool // honour set-user-ID and set-group-ID bits
	Dev        bool // honour device files
	NoExec     bool // refuse to execute programs
	// ReadAhead is how many bytes the kernel reads ahead of a sequential reader
	// of a cached file. 0: the kernel's default, 128 KiB. It takes root.
	ReadAhead int
	// DebugLog logs every request and answer at slog.LevelDebug.
	DebugLog bool
}

func (o *MountOptions) fsName() string {
	if o.FSName == "" {
		return fsSubtype
	}
	return o.FSName
}

// Mounted is a store being served at a mount point.
type Mounted struct {
	// Immutable after Mount.
	o          MountOptions
	log        *slog.Logger
	fs         *fileSystem
	server     *gofuse.Server
	notifier   *notifier
	point      string // without symbolic links
	dev        string // major:minor
	device     int    // a descriptor of the connection of our own
	allowOther bool
	since      time.Time
	ended      chan struct{} // closed when the last request has been answered

	leaving atomic.Bool // Unmount was called
}

// Mount serves a store at o.Point until Unmount is called or somebody else
// unmounts it. When it returns the mount answers. A dead mount that an earlier
// process left there is replaced. ctx bounds only the mounting.
//
// The errors ErrNoPoint, ErrOverlap, ErrMounted, ErrHung, ErrNoDevice,
// ErrMountDenied and ErrAllowOther are for a person to act on.
func Mount(ctx context.Context, o MountOptions) (*Mounted, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	allowOther := o.AllowOther != AllowOtherNever && othersAllowed()
	if o.AllowOther == AllowOtherAlways && !allowOther {
		return nil, fmt.Errorf("mount %s for other users: %w", o.Point, ErrAllowOther)
	}
	point, err := preparePoint(ctx, o.Point, o.DataDir, o.Logger)
	if err != nil {
		return nil, err
	}
	if o.AllowOther == AllowOtherAuto && !allowOther {
		o.Logger.Info("mount is for this user only, as user_allow_other is not set in /etc/fuse.conf", "point", point)
	}
	fd, err := connect(ctx, point, &o, allowOther)
	if err != nil {
		return nil, err
	}
	m := &Mounted{
		o: o, log: o.Logger, point: point, allowOther: allowOther,
		device: -1, since: time.Now(), ended: make(chan struct{}),
	}
	if err := m.start(fd); err != nil {
		return nil, errors.Join(err, detach(ctx, point))
	}
	go m.serve()
	m.answerPoll()
	m.log.Info("mounted", "point", point, "native", m.Native(), "allow_other", allowOther, "read_only", o.ReadOnly)
	return m, nil
}

// start brings the connection up to where the first request can be served.
func (m *Mounted) start(fd int) error {
	top, ok, err := topMount(m.point)
	if err != nil || !ok {
		unix.Close(fd)
		return errors.Join(err, fmt.Errorf("mount %s: it vanished", m.point))
	}
	m.dev = top.dev
	if m.device, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	m.o.NoPassthrough = m.o.NoPassthrough || !canMount() // the kernel would refuse every file
	m.fs = newFileSystem(m.o.Options)
	m.fs.device = m.device
	// go-fuse takes a descriptor that is already mounted by this name.
	m.server, err = gofuse.NewServer(m.fs, "/dev/fd/"+strconv.Itoa(fd), m.serverOptions())
	if err != nil {
		m.fs.OnUnmount()
		unix.Close(m.device)
		return fmt.Errorf("mount %s: %w", m.point, err)
	}
	m.probePassthrough()
	m.setReadAhead()
	m.notifier = newNotifier(m.server, m.fs, m.device)
	return nil
}

func (m *Mounted) serverOptions() *gofuse.MountOptions {
	extra := uint64(gofuse.CAP_READDIRPLUS_AUTO | gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_ATOMIC_O_TRUNC | gofuse.CAP_ASYNC_DIO)
	if m.o.ACL {
		// A default ACL takes the place of the umask, acl(5), and setting a list may
		// drop the set-group-ID bit.
		extra |= gofuse.CAP_DONT_MASK | gofuse.CAP_SETXATTR_EXT
	}
	return &gofuse.MountOptions{
		Name: fsSubtype, FsName: m.o.fsName(),
		MaxWrite: maxTransfer, MaxBackground: maxBackground, MaxInflightRequestBytes: maxInflightBytes,
		EnableLocks: true, EnableAcl: m.o.ACL,
		EnableSymlinkCaching: true, // a symbolic link never changes under its number
		// The kernel drops the pages that we tell it to, and no others. On its own it
		// drops them whenever a file's times have changed, and while a write is on its
		// way it may then read the old bytes back and keep them: one process would
		// read what another has just overwritten.
		ExplicitDataCacheControl: true,
		ExtraCapabilities:        extra,
		// Replies are in memory, or go around us.
		DisableSplice: true,
		Debug:         m.o.DebugLog,
		Logger:        slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) gofuse.Status {
			m.fs.panics.caught(m.fs, "request", v)
			return gofuse.EIO
		},
	}
}

// serve answers requests until the mount ends, and then lets go of everything.
func (m *Mounted) serve() {
	defer func() {
		m.notifier.stop()
		unix.Close(m.device)
		if !m.leaving.Load() {
			m.log.Warn("mount was unmounted by somebody else, and is no longer served", "point", m.point)
		}
		close(m.ended)
	}()
	served := false
	defer func() {
		if v := recover(); v != nil {
			m.fs.panics.caught(m.fs, "serve", v)
		}
		if !served { // a handler has ended this goroutine, which served requests like others
			m.server.Wait()
			m.fs.OnUnmount()
		}
	}()
	m.server.Serve() // it calls OnUnmount at its end
	served = true
}

// answerPoll has the kernel ask for POLL once, and learn that it need not. Go's
// runtime polls the files it opens without giving up its processor: a program
// with both a mount and files on it would wait for itself. go-fuse answers on a
// name of its own in the root.
func (m *Mounted) answerPoll() {
	fd, err := unix.Open(m.point+"/.go-fuse-epoll-hack", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // this user may not enter, and so cannot get into that either
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
}

// probePassthrough finds out once, with a file of no content, whether the
// kernel takes files from this process: in a container it says it would, and does not.
func (m *Mounted) probePassthrough() {
	if m.fs.backings == nil {
		return
	}
	fd, err := m.openProbe()
	if err == nil {
		defer unix.Close(fd)
		id, errno := m.server.RegisterBackingFd(&gofuse.BackingMap{Fd: int32(fd)})
		if errno == 0 {
			m.server.UnregisterBackingFd(id)
			return
		}
		err = errno
	}
	m.log.Info("the kernel does not take files, so all content goes through the server", "err", err)
	m.fs.backings = nil
}

// openProbe opens a file without a name, on the disk of the data folder if that
// can have one.
func (m *Mounted) openProbe() (int, error) {
	if m.o.DataDir != "" {
		if fd, err := unix.Open(m.o.DataDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
			return fd, nil
		}
	}
	return unix.MemfdCreate(fsSubtype, unix.MFD_CLOEXEC)
}

func (m *Mounted) setReadAhead() {
	if m.o.ReadAhead <= 0 {
		return
	}
	file := "/sys/class/bdi/" + m.dev + "/read_ahead_kb"
	err := os.WriteFile(file, []byte(strconv.Itoa(m.o.ReadAhead>>10)), 0)
	if errors.Is(err, fs.ErrPermission) && !canMount() {
		return
	}
	if err != nil {
		m.log.Info("readahead stays at the kernel's default", "err", err)
	}
}

// Native reports whether the kernel may access files of content directly.
func (m *Mounted) Native() bool { return m.fs.backings != nil }

// Point returns the mount point, without symbolic links.
func (m *Mounted) Point() string { return m.point }

// Done is closed when the mount has ended, by whomever, and nothing of the
// store is in use for it any more.
func (m *Mounted) Done() <-chan struct{} { return m.ended }

// Info is what an administrator may want to know of a mount.
type Info struct {
	Point      string
	Since      time.Time
	Native     bool // the kernel may access content directly
	ReadOnly   bool
	AllowOther bool
	Known      int    // inodes the kernel refers to
	OpenFiles  int    // open file handles
	OpenDirs   int    // open directory handles
	Panics     uint64 // operations that panicked
	Notifies   NotifyStats
}

// Info returns the present state.
func (m *Mounted) Info() Info {
	return Info{
		Point: m.point, Since: m.since, Native: m.Native(), ReadOnly: m.o.ReadOnly, AllowOther: m.allowOther,
		Known: m.fs.table.len(), OpenFiles: m.fs.files.len(), OpenDirs: m.fs.dirs.len(),
		Panics: m.fs.panics.count.Load(), Notifies: m.notifier.Stats(),
	}
}

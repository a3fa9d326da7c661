package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"engramfs/fuse"
)

// mountFlags are the flags of a mount.
type mountFlags struct {
	MountIntegrity string        `default:"fast" enum:"fast,strict" placeholder:"MODE" help:"fast: the kernel reads and writes large files directly where it can. strict: every byte is verified on its way (${default})."`
	MountOthers    string        `name:"mount-allow-other" default:"auto" enum:"auto,yes,no" placeholder:"MODE" help:"Let other users in: auto is yes where the system lets us (${default})."`
	MountReadOnly  bool          `help:"Mount read-only."`
	MountSuid      bool          `help:"Honour set-user-ID and set-group-ID bits on the mount."`
	MountDev       bool          `help:"Honour device files on the mount."`
	MountNoExec    bool          `name:"mount-noexec" help:"Execute no programs from the mount."`
	MountACL       bool          `name:"mount-acl" help:"POSIX access control lists."`
	MountSync      bool          `help:"Make every change durable before its call returns."`
	MountDAVLocks  string        `name:"mount-dav-locks" default:"advisory" enum:"advisory,mandatory" placeholder:"MODE" help:"mandatory: what a WebDAV client has locked, programs cannot open for writing, move or remove (${default})."`
	MountTimeout   time.Duration `default:"1m" placeholder:"TIME" help:"How long the kernel may use a name or attributes without asking again; changes over WebDAV are told to it at once (${default})."`
	MountReadAhead byteSize      `name:"mount-readahead" default:"512KiB" placeholder:"SIZE" help:"What the kernel reads ahead of a sequential reader, 0: its own default (${default})."`
	MountName      string        `default:"engramfs" placeholder:"NAME" help:"Device that mount(8) and df(1) show (${default})."`
	MountDebug     bool          `help:"Log every request of the kernel at level debug."`
}

func (f *mountFlags) validate() error {
	switch {
	case f.MountTimeout < 0:
		return fmt.Errorf("--mount-timeout %s: want 0 or more", f.MountTimeout)
	case f.MountReadAhead > 1<<30:
		return fmt.Errorf("--mount-readahead %s: want at most 1GiB", f.MountReadAhead)
	}
	return nil
}

// options returns what the flags mean to package fuse.
func (f *mountFlags) options() fuse.MountOptions {
	o := fuse.MountOptions{
		FSName: f.MountName, ReadOnly: f.MountReadOnly, Suid: f.MountSuid, Dev: f.MountDev, NoExec: f.MountNoExec,
		ReadAhead: int(f.MountReadAhead), DebugLog: f.MountDebug,
	}
	o.EntryTimeout, o.AttrTimeout, o.NegativeTimeout = f.MountTimeout, f.MountTimeout, f.MountTimeout
	o.ACL, o.Sync = f.MountACL, f.MountSync
	if f.MountIntegrity == "strict" {
		o.Integrity = fuse.IntegrityStrict
	}
	if f.MountDAVLocks == "mandatory" {
		o.DAVLocks = fuse.DAVLocksMandatory
	}
	switch f.MountOthers {
	case "yes":
		o.AllowOther = fuse.AllowOtherAlways
	case "no":
		o.AllowOther = fuse.AllowOtherNever
	}
	return o
}

// unmountTimeout bounds the end of a mount at shutdown: programs get five
// seconds to leave, their pages five to be written, and the rest is margin.
const unmountTimeout = 15 * time.Second

// openMount mounts the store, if it shall be.
func (s *server) openMount(ctx context.Context) (err error) {
	if s.cfg.Mount == "" {
		return nil
	}
	o := s.cfg.mountFlags.options()
	o.Store, o.Logger, o.Point, o.DataDir = s.store, s.log, s.cfg.Mount, s.data.dir
	o.Observe, o.Began = s.monitor.metrics.Mount(), s.tracer.Mount()
	s.mount, err = fuse.Mount(ctx, o)
	return mountHint(err)
}

// mountHint adds what a person can do about an error of fuse.Mount.
func mountHint(err error) error {
	for _, h := range []struct {
		cause error
		text  string
	}{
		{fuse.ErrNoPoint, "make the directory first: mkdir -p DIR"},
		{fuse.ErrOverlap, "mount outside of the data folder, and keep the data folder outside of the mount"},
		{fuse.ErrMounted, "stop the process that serves it, or mount on another directory"},
		{fuse.ErrHung, "see which process serves it; umount -f DIR cuts it off"},
		{fuse.ErrNoDevice, "load the kernel's module: modprobe fuse; in a container: --device /dev/fuse"},
		{fuse.ErrAllowOther, "have root add the line user_allow_other to /etc/fuse.conf, or leave out --mount-allow-other=yes"},
		{fuse.ErrMountDenied, "run as root or with CAP_SYS_ADMIN, or install fuse3 and mount on a directory of your own; in a container: --cap-add SYS_ADMIN"},
	} {
		if errors.Is(err, h.cause) {
			return hint(err, h.text)
		}
	}
	return err
}

// unmount takes the mount away, before anything else of the server ends: what
// programs write until then is kept.
func (s *server) unmount() error {
	if s.mount == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), unmountTimeout)
	defer cancel()
	return s.mount.Unmount(ctx)
}

// unmounted is closed when the mount has ended; nil if there is none.
func (s *server) unmounted() <-chan struct{} {
	if s.mount == nil {
		return nil
	}
	return s.mount.Done()
}

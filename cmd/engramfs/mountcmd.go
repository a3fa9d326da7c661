package main

import (
	"fmt"
	"slices"
	"strings"
)

// mountCmd mounts a data folder, without WebDAV: serve with other defaults.
type mountCmd struct {
	configFlag
	Admin   string `default:"none" placeholder:"ADDR" help:"Address of the admin API, or none (${default})."`
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"PEM certificate chain of the admin API; read again on SIGHUP."`

	serverFlags
	mountFlags

	Point string `arg:"" name:"dir" help:"Directory to mount on."`
}

// Run serves the mount until it is unmounted or the process is told to stop.
func (c *mountCmd) Run(p *process) error {
	s := serveCmd{
		reach:  reach{configFlag: c.configFlag, Admin: c.Admin, TLSCert: c.TLSCert},
		Listen: none, Mount: c.Point,
		serverFlags: c.serverFlags, mountFlags: c.mountFlags,
	}
	return s.Run(p)
}

// mountWords are the options of mount(8) and what they are as flags; "" is for
// those that say what is so anyway, or that concern only mount(8).
var mountWords = map[string]string{
	"ro": "--mount-read-only", "rw": "--mount-read-only=false",
	"suid": "--mount-suid", "nosuid": "--mount-suid=false",
	"dev": "--mount-dev", "nodev": "--mount-dev=false",
	"noexec": "--mount-noexec", "exec": "--mount-noexec=false",
	"sync": "--mount-sync", "async": "--mount-sync=false",
	"acl": "--mount-acl", "noacl": "--mount-acl=false",
	"allow_other": "--mount-allow-other=yes", "debug": "--mount-debug",
	"default_permissions": "", "defaults": "", "noatime": "", "nodiratime": "", "relatime": "",
	"auto": "", "noauto": "", "user": "", "nouser": "", "users": "", "owner": "", "group": "", "nofail": "", "_netdev": "",
}

// expandMountOptions replaces -o OPTION,... in the arguments of the mount
// command by the flags that the options stand for.
func expandMountOptions(args []string) ([]string, error) {
	if len(args) == 0 || args[0] != "mount" {
		return args, nil
	}
	var out []string
	for i := 0; i < len(args); i++ {
		list, found := strings.CutPrefix(args[i], "-o")
		if args[i] == "--" {
			return append(out, args[i:]...), nil
		}
		if !found {
			out = append(out, args[i])
			continue
		}
		if list == "" {
			if i++; i == len(args) {
				return nil, fmt.Errorf("-o needs a list of options")
			}
			list = args[i]
		}
		flags, err := mountOptionFlags(list)
		if err != nil {
			return nil, err
		}
		out = append(out, flags...)
	}
	return out, nil
}

func mountOptionFlags(list string) ([]string, error) {
	var flags []string
	for o := range strings.SplitSeq(list, ",") {
		flag, known := mountWords[o]
		name, value, pair := strings.Cut(o, "=")
		switch {
		case known && flag == "", o == "", strings.HasPrefix(o, "x-"), strings.HasPrefix(o, "X-"), strings.HasPrefix(o, "comment="):
		case known:
			flags = append(flags, flag)
		case !pair:
			return nil, fmt.Errorf("-o %s: unknown option", o)
		case slices.Contains(mountOptionNames, name):
			flags = append(flags, "--mount-"+name+"="+value)
		default:
			flags = append(flags, "--"+name+"="+value) // kong knows whether there is such a flag
		}
	}
	return flags, nil
}

// mountOptionNames are the flags of a mount that have a value, without "mount-".
var mountOptionNames = []string{"integrity", "allow-other", "dav-locks", "timeout", "readahead", "name"}

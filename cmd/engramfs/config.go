package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"engramfs/internal/auth"
)

// configFlag names the configuration file.
type configFlag struct {
	Config string `placeholder:"FILE" help:"YAML file with the same keys as the flags of serve. Flags win over the environment, which wins over the file."`
}

// reach is the part of the configuration that says where the admin listener
// is, which more than one command needs.
type reach struct {
	configFlag
	Admin   string `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Address of the admin API, or none (${default})."`
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"PEM certificate chain of both listeners; read again on SIGHUP."`
}

// none is what an address is when there shall be no listener.
const none = "none"

// serveCmd is the configuration of a server. Every flag but Config is also a
// key of the YAML file; configs/engramfs.yaml explains each.
type serveCmd struct {
	reach

	Listen string `default:"127.0.0.1:8080" placeholder:"ADDR" help:"Address of the WebDAV server, or none (${default})."`
	Prefix string `placeholder:"PATH" help:"URL path under which the files are served (/)."`
	Mount  string `placeholder:"DIR" help:"Directory to mount the files on as a file system."`

	serverFlags
	mountFlags

	given auth.Users // of User, hashed
}

// serverFlags are the flags of every command that opens a data folder.
type serverFlags struct {
	Data string `default:"engramfs-data" placeholder:"DIR" help:"Data folder; made if it does not exist (${default})."`

	User      []string `sep:"\n" placeholder:"NAME:PASSWORD" help:"A user beside those of DIR/users; repeatable. PASSWORD may be an argon2id hash."`
	Anonymous bool     `help:"Serve everybody, on both listeners, without passwords."`
	Insecure  bool     `help:"Allow addresses other than loopback without TLS, or with --anonymous."`
	TLSKey    string   `name:"tls-key" placeholder:"FILE" help:"PEM private key of --tls-cert."`
	AllowHost []string `placeholder:"NAME" help:"A host name that requests may use for the admin API or an anonymous server; repeatable. IP addresses and localhost always may."`

	monitorFlags
	tracingFlags
	scrubFlags

	EnableDrills bool `help:"Let the admin API inject faults into the write path."`

	SecondCopy   string        `default:"auto" placeholder:"DIR" help:"Folder of the second copy of the metadata, best on another disk; auto for one in the data folder, none for none (${default})."`
	CacheSize    byteSize      `default:"64MiB" placeholder:"SIZE" help:"Memory for blocks of the metadata engine (${default})."`
	CachedInodes int           `default:"65536" placeholder:"N" help:"Inodes kept in memory (${default})."`
	MemoryLimit  byteSize      `default:"224MiB" placeholder:"SIZE" help:"Soft limit of the process's memory, 0: none (${default}). GOMEMLIMIT wins."`
	Reserve      reserveSize   `default:"auto" placeholder:"SIZE" help:"Disk space kept free: a size, none, or auto for 2 % but at least 1 GiB and at most an eighth of the disk (${default})."`
	InlineSize   byteSize      `default:"16KiB" placeholder:"SIZE" help:"Files up to this size are kept in the metadata engine (${default})."`
	ClientTime   time.Duration `name:"client-timeout" default:"2m" placeholder:"TIME" help:"How long a client may move no byte of a request or an answer (${default})."`
	ShutdownTime time.Duration `name:"shutdown-timeout" default:"15s" placeholder:"TIME" help:"How long running requests may go on after SIGTERM (${default})."`

	LogFormat string `default:"auto" enum:"auto,text,json" placeholder:"FORMAT" help:"auto, text or json; auto is text on a terminal and json elsewhere (${default})."`
	LogLevel  string `default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"debug, info, warn or error (${default})."`
}

// validate checks what concerns more than one flag, and brings Prefix into the
// form that the handlers use: "" or "/a/b".
func (c *serveCmd) validate() error {
	for _, l := range c.listeners() {
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			return fmt.Errorf("%s %q: want HOST:PORT, or %s", l.flag, l.addr, none)
		}
	}
	if c.Listen == none && c.Mount == "" {
		return hint(errors.New("there is nothing to serve: --listen is none and there is no --mount"),
			"give --listen an address, or --mount a directory")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key belong together")
	}
	if c.Anonymous && len(c.User) > 0 {
		return errors.New("--anonymous and --user exclude each other")
	}
	if err := errors.Join(c.checkExposure(), c.cleanPrefix()); err != nil {
		return err
	}
	switch {
	case c.Data == "":
		return errors.New("--data is empty")
	case c.CachedInodes < 1024:
		return fmt.Errorf("--cached-inodes %d: want at least 1024", c.CachedInodes)
	case c.CacheSize < 1<<20:
		return fmt.Errorf("--cache-size %s: want at least 1MiB", c.CacheSize)
	case c.InlineSize > 1<<20:
		return fmt.Errorf("--inline-size %s: want at most 1MiB", c.InlineSize)
	case c.MemoryLimit != 0 && c.MemoryLimit < 2*c.CacheSize:
		return fmt.Errorf("--memory-limit %s: want at least twice --cache-size %s", c.MemoryLimit, c.CacheSize)
	case c.ClientTime <= 0:
		return fmt.Errorf("--client-timeout %s: want more than 0", c.ClientTime)
	case c.ShutdownTime <= 0:
		return fmt.Errorf("--shutdown-timeout %s: want more than 0", c.ShutdownTime)
	}
	return errors.Join(c.monitorFlags.validate(), c.tracingFlags.validate(), c.scrubFlags.validate(), c.mountFlags.validate())
}

// listener is an address that is configured, and the flag it comes from.
type listener struct{ flag, addr string }

// listeners returns the addresses that are not none.
func (c *serveCmd) listeners() []listener {
	var all []listener
	for _, l := range []listener{{"--listen", c.Listen}, {"--admin", c.Admin}} {
		if l.addr != none {
			all = append(all, l)
		}
	}
	return all
}

// checkExposure refuses to show files or passwords to a network by accident.
func (c *serveCmd) checkExposure() error {
	if c.Insecure {
		return nil
	}
	for _, l := range c.listeners() {
		switch {
		case isLoopback(l.addr):
		case c.Anonymous:
			return hint(fmt.Errorf("%s %s is not a loopback address and --anonymous needs no password", l.flag, l.addr),
				"leave out --anonymous, or add --insecure if everybody who can reach the address may change everything")
		case c.TLSCert == "":
			return hint(fmt.Errorf("%s %s is not a loopback address and there is no TLS", l.flag, l.addr),
				"give --tls-cert and --tls-key, or add --insecure if a proxy in front of it speaks TLS")
		}
	}
	return nil
}

func (c *serveCmd) cleanPrefix() error {
	if c.Prefix == "" {
		return nil
	}
	clean := path.Clean(c.Prefix)
	if clean[0] != '/' || strings.ContainsAny(clean, "?#%\\") || clean != strings.TrimSuffix(c.Prefix, "/") && c.Prefix != "/" {
		return fmt.Errorf(`--prefix %q: want a clean, unescaped path such as /dav/files`, c.Prefix)
	}
	c.Prefix = strings.TrimSuffix(clean, "/")
	return nil
}

// isLoopback reports whether only this machine can reach addr.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// byteSize is a number of bytes: digits, and at will KiB, MiB, GiB or TiB.
type byteSize int64

var sizeUnits = []struct {
	name  string
	bytes byteSize
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *byteSize) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || n > uint64(1<<63-1)/uint64(u.bytes) {
			break
		}
		*b = byteSize(n) * u.bytes
		return nil
	}
	return fmt.Errorf("size %q: want a number of bytes such as 65536, 64KiB, 1MiB or 2GiB", s)
}

// String returns the size with the largest unit that divides it.
func (b byteSize) String() string {
	for _, u := range sizeUnits {
		if b != 0 && b%u.bytes == 0 && u.bytes > 1 {
			return strconv.FormatInt(int64(b/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// reserveSize is a byteSize with two more words: auto is 0, none is negative.
type reserveSize int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *reserveSize) UnmarshalText(text []byte) error {
	switch strings.TrimSpace(string(text)) {
	case "auto":
		*r = 0
		return nil
	case "none", "0":
		*r = -1
		return nil
	}
	var b byteSize
	err := b.UnmarshalText(text)
	*r = reserveSize(b)
	return err
}

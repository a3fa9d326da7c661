package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// parseServe parses the flags of serve with no help from run.
func parseServe(t *testing.T, args ...string) (*serveCmd, error) {
	t.Helper()
	var c cli
	_, _, err := parse(&c, append([]string{"serve"}, args...), &process{t.Context(), new(bytes.Buffer), new(bytes.Buffer)})
	return &c.Serve, err
}

func mustParse(t *testing.T, args ...string) *serveCmd {
	t.Helper()
	c, err := parseServe(t, args...)
	if err != nil {
		t.Fatalf("parse %q: %v", args, err)
	}
	return c
}

func tempFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDefaults(t *testing.T) {
	c := mustParse(t)
	want := serveCmd{
		reach: reach{Admin: "127.0.0.1:8081"}, Listen: "127.0.0.1:8080",
		serverFlags: serverFlags{
			Data: "engramfs-data", CacheSize: 64 << 20, CachedInodes: 65536, MemoryLimit: 224 << 20, InlineSize: 16 << 10,
			ClientTime: 2 * time.Minute, ShutdownTime: 15 * time.Second, LogFormat: "auto", LogLevel: "info", SecondCopy: "auto",
			scrubFlags:   scrubFlags{ScrubEvery: 720 * time.Hour, ScrubRate: 20 << 20},
			tracingFlags: tracingFlags{TraceSample: 1},
			monitorFlags: monitorFlags{
				ReadyWhenDegraded: true, SlowAfter: time.Second, StuckAfter: 5 * time.Second,
				Heal: "manual", CrashLimit: 5, AlertRepeat: 4 * time.Hour,
			},
		},
		mountFlags: mountFlags{
			MountIntegrity: "fast", MountOthers: "auto", MountDAVLocks: "advisory", MountTimeout: time.Minute,
			MountReadAhead: 512 << 10, MountName: "engramfs",
		},
	}
	if !reflect.DeepEqual(*c, want) {
		t.Errorf("defaults = %+v\nwant %+v", *c, want)
	}
	if err := c.validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
}

// The order of sources is asked of every kind of flag: kong alone would let
// the file win over the environment.
func TestPrecedence(t *testing.T) {
	file := tempFile(t, "listen: 1.1.1.1:1\nuser: [file:f]\nanonymous: true\ncache-size: 1MiB\nclient-timeout: 1s\nlog-level: error\ncached-inodes: 2000\n")
	type values struct {
		Listen    string
		User      []string
		Anonymous bool
		Cache     byteSize
		Client    time.Duration
		Level     string
		Inodes    int
	}
	get := func(c *serveCmd) values {
		return values{c.Listen, c.User, c.Anonymous, c.CacheSize, c.ClientTime, c.LogLevel, c.CachedInodes}
	}
	check := func(name string, want values, args ...string) {
		t.Helper()
		if got := get(mustParse(t, args...)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %+v\nwant %+v", name, got, want)
		}
	}
	fromFile := values{"1.1.1.1:1", []string{"file:f"}, true, 1 << 20, time.Second, "error", 2000}
	fromEnv := values{"2.2.2.2:2", []string{"env:e,x", "env2:e"}, false, 2 << 20, 2 * time.Second, "warn", 3000}
	fromFlags := values{"3.3.3.3:3", []string{"flag:f,f", "flag2:f"}, true, 3 << 20, 3 * time.Second, "debug", 4000}
	flags := []string{
		"--listen=3.3.3.3:3", "--user=flag:f,f", "--user=flag2:f", "--anonymous", "--cache-size=3MiB",
		"--client-timeout=3s", "--log-level=debug", "--cached-inodes=4000",
	}

	check("file over defaults", fromFile, "--config", file)
	check("flags over file", fromFlags, append(flags, "--config", file)...)
	for k, v := range map[string]string{
		"LISTEN": "2.2.2.2:2", "USER": "env:e,x\nenv2:e", "ANONYMOUS": "false", "CACHE_SIZE": "2MiB",
		"CLIENT_TIMEOUT": "2s", "LOG_LEVEL": "warn", "CACHED_INODES": "3000",
	} {
		t.Setenv("ENGRAMFS_"+k, v)
	}
	check("environment over defaults", fromEnv)
	check("environment over file", fromEnv, "--config", file)
	check("flags over all", fromFlags, append(flags, "--config", file)...)
	t.Setenv("ENGRAMFS_CONFIG", file)
	check("file named by the environment", fromEnv)
	os.Unsetenv("ENGRAMFS_LISTEN")
	if c := mustParse(t); c.Listen != "1.1.1.1:1" {
		t.Errorf("listen = %q, want the file's", c.Listen)
	}
}

func TestConfigFileErrorsNameFileAndLine(t *testing.T) {
	for _, c := range []struct{ name, text, line, want string }{
		{"UnknownKey", "data: x\n\nlisten-on: 1\n", ":3:", `unknown key "listen-on"`},
		{"ConfigInConfig", "config: x\n", ":1:", "unknown key"},
		{"Help", "help: true\n", ":1:", "unknown key"},
		{"BadSize", "\ncache-size: lots\n", ":2:", "cache-size"},
		{"BadBool", "anonymous: perhaps\n", ":1:", "anonymous"},
		{"BadTime", "client-timeout: 5\n", ":1:", "client-timeout"},
		{"BadEnum", "data: x\nlog-level: loud\n", ":2:", "log-level"},
		{"ListForScalar", "listen: [a, b]\n", ":1:", "listen"},
		{"MapForScalar", "listen:\n  a: b\n", ":2:", "plain value"},
		{"Twice", "data: x\ndata: y\n", ":2:", "data"},
		{"NotAMapping", "- data\n", ":1:", "KEY: VALUE"},
		{"Syntax", "data: x\n\tlisten: y\n", ":2:", ""},
		{"TwoDocuments", "data: x\n---\ndata: y\n", ":2:", "document"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := tempFile(t, c.text)
			_, err := parseServe(t, "--config", file)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), file+c.line) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %s%s and %q", err, file, c.line, c.want)
			}
		})
	}
	if _, err := parseServe(t, "--config", "/does/not/exist"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

func TestEmptyConfigFileAndEmptyValuesKeepDefaults(t *testing.T) {
	want := mustParse(t)
	for _, text := range []string{"", "# nothing\n", "listen:\ndata:\n"} {
		got := mustParse(t, "--config", tempFile(t, text))
		got.Config = ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v\nwant %+v", text, got, want)
		}
	}
}

// The reference file and the flags describe the same keys and defaults.
func TestReferenceConfiguration(t *testing.T) {
	const file = "../../configs/engramfs.yaml"
	ref, err := readConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	want, got := mustParse(t), mustParse(t, "--config", file)
	got.Config = ""
	if len(got.User) == 0 && len(got.AllowHost) == 0 && len(got.AlertWebhook) == 0 {
		got.User, got.AllowHost, got.AlertWebhook = nil, nil, nil // an empty list is no list
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the file's values %+v\nare not the defaults %+v", *got, *want)
	}
	for _, f := range command(t, "serve").Flags {
		v, ok := ref.keys[f.Name]
		if (f.Name != "config" && f.Name != "help") != ok {
			t.Errorf("--%s: in the file %t", f.Name, ok)
		}
		if text, isString := v.value.(string); isString && f.HasDefault && text != f.Default {
			t.Errorf("%s: the file has %q, the default is %q", f.Name, text, f.Default)
		}
	}
}

func TestValidate(t *testing.T) {
	tls := []string{"--tls-cert=c", "--tls-key=k"}
	for _, c := range []struct {
		name string
		args []string
		want string // part of the error; "": accepted
	}{
		{"Loopback", []string{"--listen=127.0.0.9:1", "--admin=[::1]:2"}, ""},
		{"Localhost", []string{"--listen=localhost:1"}, ""},
		{"AnonymousLoopback", []string{"--anonymous"}, ""},
		{"OpenWithoutTLS", []string{"--listen=0.0.0.0:1"}, "TLS"},
		{"AnyHostWithoutTLS", []string{"--listen=:1"}, "TLS"},
		{"NameWithoutTLS", []string{"--listen=nas.lan:1"}, "TLS"},
		{"AdminOpenWithoutTLS", []string{"--admin=192.0.2.1:1"}, "--admin"},
		{"OpenWithTLS", append([]string{"--listen=:1", "--admin=:2"}, tls...), ""},
		{"OpenInsecure", []string{"--listen=:1", "--insecure"}, ""},
		{"AnonymousOpen", append([]string{"--listen=:1", "--anonymous"}, tls...), "--anonymous"},
		{"AnonymousAdminOpen", append([]string{"--admin=:1", "--anonymous"}, tls...), "--anonymous"},
		{"AnonymousOpenInsecure", []string{"--listen=:1", "--anonymous", "--insecure"}, ""},
		{"AnonymousWithUser", []string{"--anonymous", "--user=a:b"}, "exclude"},
		{"CertWithoutKey", []string{"--tls-cert=c"}, "together"},
		{"KeyWithoutCert", []string{"--tls-key=k"}, "together"},
		{"NoPort", []string{"--listen=127.0.0.1"}, "HOST:PORT"},
		{"NoData", []string{"--data="}, "--data"},
		{"NoWebDAV", []string{"--listen=none", "--mount=/mnt"}, ""},
		{"NoAdmin", []string{"--admin=none"}, ""},
		{"NoDoor", []string{"--listen=none"}, "nothing to serve"},
		{"OpenButNoListener", []string{"--listen=none", "--admin=none", "--mount=/mnt", "--anonymous"}, ""},
		{"MountTimeout", []string{"--mount-timeout=-1s"}, "--mount-timeout"},
		{"MountReadAhead", []string{"--mount-readahead=2GiB"}, "--mount-readahead"},
		{"Prefix", []string{"--prefix=/dav/files/"}, ""},
		{"PrefixRelative", []string{"--prefix=dav"}, "--prefix"},
		{"PrefixDots", []string{"--prefix=/a/../b"}, "--prefix"},
		{"PrefixEscaped", []string{"--prefix=/a%20b"}, "--prefix"},
		{"FewInodes", []string{"--cached-inodes=1"}, "--cached-inodes"},
		{"SmallCache", []string{"--cache-size=1KiB"}, "--cache-size"},
		{"BigInline", []string{"--inline-size=2MiB"}, "--inline-size"},
		{"SmallMemory", []string{"--memory-limit=100MiB"}, "--memory-limit"},
		{"NoMemoryLimit", []string{"--memory-limit=0"}, ""},
		{"NoClientTimeout", []string{"--client-timeout=0s"}, "--client-timeout"},
		{"NoShutdownTimeout", []string{"--shutdown-timeout=-1s"}, "--shutdown-timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := mustParse(t, c.args...).validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("validate = %v, want %q", err, c.want)
			}
		})
	}
}

func TestPrefixForms(t *testing.T) {
	for in, want := range map[string]string{"": "", "/": "", "/a": "/a", "/a/b/": "/a/b"} {
		c := mustParse(t, "--prefix="+in)
		if err := c.validate(); err != nil || c.Prefix != want {
			t.Errorf("prefix %q = %q, %v, want %q", in, c.Prefix, err, want)
		}
	}
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]byteSize{
		"0": 0, "65536": 65536, "7B": 7, "64KiB": 64 << 10, "1 MiB": 1 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40,
	} {
		var b byteSize
		if err := b.UnmarshalText([]byte(in)); err != nil || b != want {
			t.Errorf("size %q = %d, %v, want %d", in, b, err, want)
		}
		var again byteSize
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("size %q prints as %q, which reads as %d, %v", in, b, again, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "1.5GiB", "1GB", "MiB", "99999999TiB", "0x10"} {
		var b byteSize
		if err := b.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("size %q = %d, want an error", in, b)
		}
	}
}

func TestReserveSize(t *testing.T) {
	for in, want := range map[string]reserveSize{"auto": 0, "none": -1, "0": -1, "1GiB": 1 << 30} {
		var r reserveSize
		if err := r.UnmarshalText([]byte(in)); err != nil || r != want {
			t.Errorf("reserve %q = %d, %v, want %d", in, r, err, want)
		}
	}
}

func TestUserErrorsDoNotShowPasswords(t *testing.T) {
	for _, u := range []string{"topsecret", "a b:topsecret", ":topsecret", "ann:$argon2id$topsecret"} {
		t.Setenv("ENGRAMFS_USER", u)
		var out, errs bytes.Buffer
		if code := run(context.Background(), []string{"serve"}, &out, &errs); code != exitUsage {
			t.Errorf("user %q: exit code %d, want %d", u, code, exitUsage)
		}
		if s := out.String() + errs.String(); strings.Contains(s, "topsecret") || !strings.Contains(s, "--user") {
			t.Errorf("user %q: %s", u, s)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, exitClean},
		{[]string{"--help"}, exitClean},
		{[]string{"serve", "--help"}, exitClean},
		{nil, exitUsage},
		{[]string{"nonsense"}, exitUsage},
		{[]string{"serve", "--nonsense"}, exitUsage},
		{[]string{"serve", "--cache-size=lots"}, exitUsage},
		{[]string{"serve", "--log-level=loud"}, exitUsage},
		{[]string{"serve", "--listen=:0", "--data=" + t.TempDir()}, exitUsage},
		{[]string{"serve", "--config=/does/not/exist"}, exitUsage},
		{[]string{"serve", "--data=/proc/nowhere", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"}, exitRun},
		{[]string{"mount"}, exitUsage},
		{[]string{"mount", "--listen=127.0.0.1:0", "/mnt"}, exitUsage},
		{[]string{"mount", "-o", "bogus", "/mnt"}, exitUsage},
		{[]string{"mount", "-o", "bogus=1", "/mnt"}, exitUsage},
		{[]string{"mount", "/mnt", "-o"}, exitUsage},
		{[]string{"mount", "--data=/proc/nowhere", "/mnt"}, exitRun},
		{[]string{"healthcheck", "--admin=127.0.0.1:1"}, exitRun},
		{[]string{"healthcheck", "--admin=x"}, exitUsage},
	} {
		var out, errs bytes.Buffer
		if got := run(t.Context(), c.args, &out, &errs); got != c.want {
			t.Errorf("engramfs %v: exit code %d, want %d\n%s%s", c.args, got, c.want, &out, &errs)
		}
		if c.want != exitClean && !strings.HasPrefix(errs.String(), "engramfs: error: ") {
			t.Errorf("engramfs %v: message %q", c.args, &errs)
		}
	}
}

// Command bench compares the project's WebDAV server with the servers that
// people use today, on this machine, in one run.
//
// It starts each server on 127.0.0.1 with a data root on the same file system,
// takes the rows in turn and the servers in turn within a row (A B C, A B C),
// reads content back to verify it, and prints the medians as one table. A
// shared machine moves single figures by a third; the ratios within one run
// are what counts, and no ratio fails the run. It exits with 1 when the
// project's server answers wrongly, and with 2 on bad usage.
//
//	go run ./internal/bench -rows get4k,put4k -peers nginx,engramfs
//	go run ./internal/bench -size 64MiB -entries 1000 -secs 1s -rounds 1
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	dir     string
	size    int64
	entries int
	rounds  int
	secs    time.Duration
	gen     generator
	profile string
	servers []*server
	log     io.Writer
}

func main() {
	// When the reader goes away (bench | head) the servers must still be stopped and
	// their folders removed. It cannot be a reason to stop: a client that closes its
	// connection to the x/net peer raises the same signal.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || os.Args[1] != "xnet" {
		os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	if err := serveXNet(ctx, os.Args[2:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

type options struct {
	peers, rows, gen, size, binary, dir, profile string
	entries, rounds                              int
	secs                                         time.Duration
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.peers, "peers", "engramfs,nginx,apache,lighttpd,rclone,xnet", "servers to compare; those not installed are left out")
	fs.StringVar(&o.rows, "rows", "all", "rows to measure: all, or a list of "+strings.Join(rowNames(), ","))
	fs.StringVar(&o.gen, "gen", "auto", "load generator: wrk, go, or auto (wrk when installed)")
	fs.StringVar(&o.size, "size", "1GiB", "size of the big file, a multiple of 1MiB")
	fs.StringVar(&o.binary, "engramfs", "", "the server's binary (default: built from ./cmd/engramfs)")
	fs.StringVar(&o.dir, "dir", "", "folder for the data roots (default: the system's temporary folder)")
	fs.StringVar(&o.profile, "profile", "", "folder for a perf profile of engramfs in each row that falls short")
	fs.IntVar(&o.entries, "entries", 10_000, "files in the folder that is listed, copied, moved and deleted")
	fs.IntVar(&o.rounds, "rounds", 3, "rounds; the table shows medians")
	fs.DurationVar(&o.secs, "secs", 3*time.Second, "length of one request-rate measurement, at least 1s")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if o.rounds < 1 || o.entries < 1 || o.entries > 99_999 || o.secs < time.Second {
		return o, errors.New("need -rounds >= 1, 1 <= -entries <= 99999 and -secs >= 1s")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fail := func(code int, err error) int {
		fmt.Fprintln(stderr, "bench: error:", err)
		return code
	}
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return fail(2, err)
	}
	rows, err := chosen(o.rows)
	if err != nil {
		return fail(2, err)
	}
	b := &bench{entries: o.entries, rounds: o.rounds, secs: o.secs, profile: o.profile, log: stderr}
	if b.size, err = parseSize(o.size); err != nil {
		return fail(2, err)
	}
	if b.dir, err = os.MkdirTemp(o.dir, "engramfs-bench-"); err != nil {
		return fail(1, err)
	}
	defer os.RemoveAll(b.dir)
	defer b.stop()
	if err := b.setup(ctx, o); err != nil {
		return fail(1, err)
	}
	results := b.measure(ctx, rows)
	b.print(stdout, results)
	b.profileShort(ctx, stdout, results)
	if err := ctx.Err(); err != nil {
		return fail(1, err)
	}
	if wrong(results) {
		return fail(1, errors.New("engramfs answered wrongly, see the notes"))
	}
	return 0
}

// setup makes the data folder reachable for servers that drop root's rights
// and starts every chosen peer that is installed.
func (b *bench) setup(ctx context.Context, o options) error {
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	spread(b.dir)
	var err error
	if b.gen, err = newGenerator(o.gen, b.dir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	want := strings.Split(o.peers, ",")
	if o.binary == "" && slices.Contains(want, "engramfs") {
		if o.binary, err = b.build(ctx); err != nil {
			return err
		}
	} else if o.binary != "" {
		if o.binary, err = filepath.Abs(o.binary); err != nil {
			return err
		}
	}
	known := allPeers(self, o.binary)
	for _, name := range want {
		i := slices.IndexFunc(known, func(p peer) bool { return p.name == name })
		if i < 0 {
			return fmt.Errorf("unknown peer %q", name)
		}
		s, err := start(ctx, known[i], b.dir)
		if errors.Is(err, errAbsent) {
			fmt.Fprintf(b.log, "bench: %s is not installed and left out\n", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		b.servers = append(b.servers, s)
	}
	if len(b.servers) == 0 {
		return errors.New("no server to measure")
	}
	return nil
}

// build compiles the project's server. It needs the module's root or a folder
// below it as working directory.
func (b *bench) build(ctx context.Context) (string, error) {
	out := filepath.Join(b.dir, "engramfs-binary")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "engramfs/cmd/engramfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build engramfs: %w\n%s", err, text)
	}
	return out, nil
}

func (b *bench) stop() {
	for _, s := range b.servers {
		s.stop()
	}
}

// parseSize reads "64MiB" or "1GiB".
func parseSize(s string) (int64, error) {
	for unit, n := range map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30} {
		if v, ok := strings.CutSuffix(s, unit); ok {
			if k, err := strconv.ParseInt(v, 10, 32); err == nil && k > 0 {
				return k * n, nil
			}
		}
	}
	return 0, fmt.Errorf("size %q: want a number and MiB or GiB", s)
}

func rowNames() (names []string) {
	for _, r := range allRows() {
		names = append(names, r.name)
	}
	return names
}

// chosen returns the rows named in a comma-separated list, in table order.
func chosen(list string) ([]row, error) {
	all := allRows()
	if list == "all" {
		return all, nil
	}
	want := strings.Split(list, ",")
	for _, w := range want {
		if !slices.Contains(rowNames(), w) {
			return nil, fmt.Errorf("unknown row %q", w)
		}
	}
	return slices.DeleteFunc(all, func(r row) bool { return !slices.Contains(want, r.name) }), nil
}

// Command bench compares the project's WebDAV server and its mount with what
// people use today, on this machine, in one run.
//
// It starts each server on 127.0.0.1, and mounts each file system, with a data
// root on the same file system, takes the rows in turn and the peers in turn
// within a row (A B C, A B C), reads content back to verify it, and prints the
// medians as one table for each of the two groups. A shared machine moves single
// figures by a third; the ratios within one run are what counts, and no ratio
// fails the run. It exits with 1 when the project's server or mount answers
// wrongly, and with 2 on bad usage.
//
//	go run ./internal/bench -rows get4k,put4k -peers nginx,engramfs
//	go run ./internal/bench -group mount -rows 'create.*,stat.*'
//	go run ./internal/bench -short
//
// With -profile every row that falls short is taken once more under perf, a
// mount row also when nobody is there to compare with:
//
//	go run ./internal/bench -group mount -peers engramfs,loopback -rows create1 -profile DIR
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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"engramfs/internal/bench/fsload"
)

// settings are what the options come to.
type settings struct {
	dir     string // for everything that the run makes; removed at its end
	size    int64
	entries int
	rounds  int
	secs    time.Duration
	tree    string
	profile string
	log     io.Writer
}

// bench measures the rows of the WebDAV group.
type bench struct {
	settings
	gen     generator
	servers []*server
}

func main() {
	// When the reader goes away (bench | head) the servers must still be stopped and
	// their folders removed. It cannot be a reason to stop: a client that closes its
	// connection to the x/net peer raises the same signal.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "xnet":
		err = serveXNet(ctx, os.Args[2:], os.Stderr)
	case len(os.Args) == 3 && os.Args[1] == "fsload":
		err = fsload.Serve(os.Args[2], os.Stdout)
	default:
		os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

type options struct {
	group, peers, rows, gen, size, binary, dir, tree, profile string

	entries, rounds int
	secs            time.Duration
	short           bool
}

// wants reports whether a peer was chosen.
func (o options) wants(name string) bool {
	return o.peers == "all" || slices.Contains(strings.Split(o.peers, ","), name)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.group, "group", "all", "rows to measure: dav, mount or all")
	fs.StringVar(&o.peers, "peers", "all", "all, or a list of "+strings.Join(peerNames(), ",")+"; those not installed are left out")
	fs.StringVar(&o.rows, "rows", "all", "all, or a list of names, each a regular expression: "+strings.Join(rowNames(), ","))
	fs.StringVar(&o.gen, "gen", "auto", "load generator: wrk, go, or auto (wrk when installed)")
	fs.StringVar(&o.size, "size", "1GiB", "size of the big file, a multiple of 1MiB")
	fs.StringVar(&o.binary, "engramfs", "", "the server's binary (default: built from ./cmd/engramfs)")
	fs.StringVar(&o.dir, "dir", "", "folder for the data roots (default: the system's temporary folder)")
	fs.StringVar(&o.tree, "tree", filepath.Join(runtime.GOROOT(), "src"), "folder that tar, cp, find, grep and rm work on a copy of")
	fs.StringVar(&o.profile, "profile", "", "folder for a perf profile of engramfs in each row that falls short")
	fs.IntVar(&o.entries, "entries", 10_000, "files in the folder that is listed, copied, moved and deleted, and of each mount row")
	fs.IntVar(&o.rounds, "rounds", 3, "rounds; the table shows medians")
	fs.DurationVar(&o.secs, "secs", 3*time.Second, "length of one request-rate measurement, at least 1s")
	fs.BoolVar(&o.short, "short", false, "see that everything works: one round of small sizes, unless other flags say more")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.short {
		o.shorten(fs)
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if o.rounds < 1 || o.entries < 1 || o.entries > 99_999 || o.secs < time.Second {
		return o, errors.New("need -rounds >= 1, 1 <= -entries <= 99999 and -secs >= 1s")
	}
	if !slices.Contains([]string{"dav", "mount", "all"}, o.group) {
		return o, fmt.Errorf("unknown group %q", o.group)
	}
	return o, nil
}

// shorten sets what the command line leaves open to what takes least time.
func (o *options) shorten(fs *flag.FlagSet) {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, set := range map[string]func(){
		"size":    func() { o.size = "64MiB" },
		"entries": func() { o.entries = 1000 },
		"rounds":  func() { o.rounds = 1 },
		"secs":    func() { o.secs = time.Second },
		"tree":    func() { o.tree = filepath.Join(o.tree, "net") },
	} {
		if !given[name] {
			set()
		}
	}
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
	rows, mounts, err := o.chosen()
	if err != nil {
		return fail(2, err)
	}
	set := settings{entries: o.entries, rounds: o.rounds, secs: o.secs, tree: o.tree, profile: o.profile, log: stderr}
	if set.size, err = parseSize(o.size); err != nil {
		return fail(2, err)
	}
	if set.dir, err = os.MkdirTemp(o.dir, "engramfs-bench-"); err != nil {
		return fail(1, err)
	}
	defer os.RemoveAll(set.dir)
	// Servers that drop root's rights must reach their folders.
	if err := os.Chmod(set.dir, 0o755); err != nil {
		return fail(1, err)
	}
	spread(set.dir)
	right := true
	if len(rows) > 0 {
		if right, err = (&bench{settings: set}).run(ctx, o, rows, stdout); err != nil {
			return fail(1, err)
		}
	}
	if len(mounts) > 0 && ctx.Err() == nil {
		ok, err := (&mountBench{settings: set}).run(ctx, o, mounts, stdout)
		if err != nil {
			return fail(1, err)
		}
		right = right && ok
	}
	if err := ctx.Err(); err != nil {
		return fail(1, err)
	}
	if !right {
		return fail(1, errors.New("engramfs answered wrongly, see the notes"))
	}
	return 0
}

// run measures rows of the WebDAV group and prints them. It returns
// false when the project's server answered wrongly.
func (b *bench) run(ctx context.Context, o options, rows []row, stdout io.Writer) (bool, error) {
	defer b.stop()
	if err := b.setup(ctx, o); err != nil {
		return false, err
	}
	results := b.measure(ctx, rows)
	b.print(stdout, results)
	b.profileShort(ctx, stdout, rows, results)
	return !wrong(results), nil
}

// setup starts every chosen server that is installed.
func (b *bench) setup(ctx context.Context, o options) error {
	var err error
	if b.gen, err = newGenerator(o.gen, b.dir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	binary := ""
	if o.wants("engramfs") {
		if binary, err = b.binary(ctx, o.binary); err != nil {
			return err
		}
	}
	for _, p := range allPeers(self, binary) {
		if !o.wants(p.name) {
			continue
		}
		s, err := start(ctx, p, b.dir)
		if errors.Is(err, errAbsent) {
			fmt.Fprintf(b.log, "bench: %s is not installed and left out\n", p.name)
			continue
		}
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		b.servers = append(b.servers, s)
	}
	if len(b.servers) == 0 {
		return errors.New("no server to measure")
	}
	return nil
}

// binary returns the path of the project's program: the one given, or one built
// from the source.
func (s settings) binary(ctx context.Context, given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	return s.build(ctx, "engramfs", "engramfs/cmd/engramfs")
}

// build compiles a program of the module or of one that it depends on. It needs
// the module's root or a folder below it as working directory.
func (s settings) build(ctx context.Context, name, pkg string) (string, error) {
	out := filepath.Join(s.dir, name+"-binary")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, text)
	}
	return out, nil
}

func (b *bench) stop() {
	for _, s := range b.servers {
		s.stop()
	}
}

func (b *bench) processes() (all []*process) {
	for _, s := range b.servers {
		all = append(all, s.process)
	}
	return all
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

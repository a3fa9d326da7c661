// Command engramfs serves a data folder over WebDAV and HTTP and as a mounted
// file system, and an admin API that shows and heals its locks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitClean = 0
	exitRun   = 1 // the command could not start, failed, or found a problem
	exitUsage = 2 // the command line, the environment or the configuration is wrong; a check could not run
	exitNone  = 3 // the server to be asked does not answer, or not to us
)

func main() {
	ctx := context.Background()
	if isMountHelper(os.Args[0]) {
		os.Exit(runMountHelper(ctx, os.Args[1:], os.Stderr))
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line until it is done or ctx is, and returns the
// exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p := &process{ctx: ctx, stdout: stdout, stderr: stderr}
	args, err := expandMountOptions(args)
	if err != nil {
		return p.report(usage(err))
	}
	kctx, code, err := parse(&cli{}, args, p)
	if err != nil {
		return p.report(hint(usage(err), "see engramfs --help, engramfs COMMAND --help"))
	}
	if kctx == nil {
		return code
	}
	return p.report(kctx.Run(p))
}

// cli is the command line.
type cli struct {
	Serve       serveCmd       `cmd:"" help:"Serve a data folder over WebDAV, and at will as a mount."`
	Mount       mountCmd       `cmd:"" help:"Mount a data folder, without WebDAV. Takes -o OPTION,... as mount(8) does."`
	Check       checkCmd       `cmd:"" help:"Check a data folder that is not served, and repair it. Exit code 1 if problems are left, 2 if it could not run."`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask the admin listener of a running server for its health; exit code 1 if it does not answer."`
	Admin       adminCmd       `cmd:"" help:"Ask a running server: what is wrong, what happened, and heal it."`
	Completion  completionCmd  `cmd:"" help:"Print a script that completes the command line."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

// process is what a command knows of the process it runs in.
type process struct {
	ctx            context.Context
	stdout, stderr io.Writer
}

// exited is the panic by which kong leaves after --help.
type exited int

// parse fills c from args, the environment and the configuration file. It
// returns no context, and the exit code, if kong has done all there is to do.
func parse(c *cli, args []string, p *process) (kctx *kong.Context, code int, err error) {
	defer func() {
		if v := recover(); v != nil {
			e, ok := v.(exited)
			if !ok {
				panic(v)
			}
			code = int(e)
		}
	}()
	k, err := kong.New(c,
		kong.Name("engramfs"),
		kong.Description("A file server that survives its own panics."),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.DefaultEnvars("ENGRAMFS"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return nil, exitUsage, err
	}
	kctx, err = k.Parse(args)
	return kctx, exitClean, err
}

// usageError is the user's to correct: exit code 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(err error) error { return &usageError{err} }

// hintError carries what the user can do about err.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

func hint(err error, text string) error { return &hintError{err, text} }

// report prints err the way every command does, and returns the exit code.
func (p *process) report(err error) int {
	switch {
	case err == nil:
		return exitClean
	case errors.Is(err, errFound):
		return exitRun
	}
	fmt.Fprintf(p.stderr, "engramfs: error: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if h := (*hintError)(nil); errors.As(err, &h) {
		fmt.Fprintf(p.stderr, "engramfs: hint: %s\n", h.hint)
	}
	if u := (*usageError)(nil); errors.As(err, &u) {
		return exitUsage
	}
	if n := (*noAnswerError)(nil); errors.As(err, &n) {
		return exitNone
	}
	return exitRun
}

package fuse

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// childEnv names the function that a test binary runs instead of tests.
const childEnv = "ENGRAMFS_FUSE_TEST_CHILD"

// childFuncs are run in processes of their own: what a lock or a mapping does
// depends on the process, and a page fault on a mount that the same process
// serves can wait for ever.
var childFuncs = map[string]func(c *child, args []string) error{}

// child is a test's other process as it sees itself.
type child struct {
	in  *bufio.Reader
	out io.Writer
}

// tell prints a line for the parent; the child goes on.
func (c *child) tell(line string) { fmt.Fprintln(c.out, line) }

// await returns once the parent has said to go on.
func (c *child) await() { _, _ = c.in.ReadString('\n') }

func TestMain(m *testing.M) {
	name, ok := os.LookupEnv(childEnv)
	if !ok {
		os.Exit(m.Run())
	}
	if err := childFuncs[name](&child{bufio.NewReader(os.Stdin), os.Stdout}, os.Args[1:]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("done")
}

// process is a child as its parent sees it.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startChild starts a process that runs childFuncs[name].
func startChild(t testing.TB, name string, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &process{t, cmd, in, bufio.NewReader(out)}
}

// line returns the next line that the child tells.
func (p *process) line() string {
	p.t.Helper()
	s, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the child ended: %v", err)
	}
	return strings.TrimSuffix(s, "\n")
}

// expect fails the test unless the child's next line is want.
func (p *process) expect(want string) {
	p.t.Helper()
	if got := p.line(); got != want {
		p.t.Fatalf("the child says %q, want %q", got, want)
	}
}

// resume lets the child go on.
func (p *process) resume() { fmt.Fprintln(p.in) }

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"engramfs/internal/bench/proc"
)

// process is a peer's program that runs until stop.
type process struct {
	site site
	cmd  *exec.Cmd
	exit chan error
}

// spawn starts a program in the site's folder; what it prints goes to a file there.
func spawn(st site, args []string) (*process, error) {
	out, err := os.Create(st.file("output"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, st.Dir
	// Its own process group keeps the terminal's interrupt from the server:
	// it is stopped in order, after the row that is running.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{site: st, cmd: cmd, exit: make(chan error, 1)}
	go func() { p.exit <- cmd.Wait() }()
	return p, nil
}

// stop ends the process, politely at first. It may be called more than once.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exit:
	case <-time.After(20 * time.Second):
		p.cmd.Process.Kill()
		<-p.exit
	}
	p.exit <- nil
}

var errExitZero = errors.New("exit status 0")

// ended returns nil while the process runs, and then an error that says how it ended.
func (p *process) ended() error {
	select {
	case err := <-p.exit:
		p.exit <- err
		return fmt.Errorf("ended: %w", cmp.Or(err, errExitZero))
	default:
		return nil
	}
}

// output returns the end of what the process has printed and logged.
func (p *process) output() string {
	var b strings.Builder
	for _, name := range []string{"output", "log"} {
		text, _ := os.ReadFile(p.site.file(name)) // Not every server has both.
		b.Write(text[max(0, len(text)-2000):])
	}
	return strings.TrimSpace(b.String())
}

// settle returns when the processes together have used almost no CPU for a
// while, or after ten seconds: some work in the background without an end.
func settle(all []*process) {
	const step = 60 * time.Millisecond
	last, quiet := busy(all), 0
	for range int(10 * time.Second / step) {
		time.Sleep(step)
		now := busy(all)
		if now-last > 10*time.Millisecond {
			quiet = 0
		} else if quiet++; quiet == 2 {
			return
		}
		last = now
	}
}

func busy(all []*process) (sum time.Duration) {
	for _, p := range all {
		if d, err := proc.CPU(p.cmd.Process.Pid); err == nil {
			sum += d
		}
	}
	return sum
}

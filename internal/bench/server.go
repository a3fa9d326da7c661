package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"engramfs/internal/bench/httpwire"
	"engramfs/internal/bench/proc"
)

// opTimeout ends an exchange that makes no sense to wait for any longer.
const opTimeout = 5 * time.Minute

// server is a started peer.
type server struct {
	peer
	*process
	http *httpwire.Client
	// ready holds the names of the fixtures that have been prepared.
	ready map[fixture]bool
	// failed is set once the server cannot be used any more.
	failed error
}

// start gives the peer a folder under dir and free ports, starts it, and waits
// until it answers. It returns errAbsent when the program is not installed.
func start(ctx context.Context, p peer, dir string) (*server, error) {
	program := ""
	if p.program != "" {
		var err error
		if program, err = lookPath(p.program); err != nil {
			return nil, err
		}
	}
	st := site{Dir: filepath.Join(dir, p.name), Host: "127.0.0.1"}
	st.Root = filepath.Join(st.Dir, "root")
	if err := os.MkdirAll(st.Root, 0o755); err != nil {
		return nil, err
	}
	spread(st.Root)
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	st.Port = ports[0]
	st.Admin = fmt.Sprintf("%s:%d", st.Host, ports[1])
	if err := chown(st, p.user); err != nil {
		return nil, err
	}
	args, err := p.command(st, program)
	if err != nil {
		return nil, err
	}
	return launch(ctx, p, st, args)
}

func launch(ctx context.Context, p peer, st site, args []string) (*server, error) {
	pr, err := spawn(st, args)
	if err != nil {
		return nil, err
	}
	s := &server{peer: p, process: pr, ready: map[fixture]bool{}, http: httpwire.NewClient(st.addr(), opTimeout)}
	if err := s.await(ctx); err != nil {
		s.stop()
		return nil, fmt.Errorf("%w\n%s", err, s.output())
	}
	return s, nil
}

// await polls until the server answers OPTIONS on its root.
func (s *server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		r, err := s.http.Do(&httpwire.Request{Method: "OPTIONS", Path: "/"}, nil)
		if err == nil && r.OK() {
			return nil
		}
		if err := s.ended(); err != nil {
			return fmt.Errorf("at start: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the server. It may be called more than once.
func (s *server) stop() {
	s.http.Close()
	s.process.stop()
}

// restart ends the server and starts it again on the same data.
func (s *server) restart(ctx context.Context) error {
	s.stop()
	again, err := launch(ctx, s.peer, s.site, s.cmd.Args)
	if err != nil {
		s.failed = fmt.Errorf("restart: %w", err)
		return s.failed
	}
	again.ready = s.ready
	*s = *again
	return nil
}

// do sends one request and returns an error unless the answer is 2xx. A 207
// counts as success only for PROPFIND: elsewhere it reports partial failure.
func (s *server) do(req *httpwire.Request, sink io.Writer) (*httpwire.Response, error) {
	r, err := s.http.Do(req, sink)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", req.Method, req.Path, err)
	}
	if !r.OK() || (r.Status == 207 && req.Method != "PROPFIND") {
		return r, fmt.Errorf("%s %s: status %d", req.Method, req.Path, r.Status)
	}
	return r, nil
}

// remove deletes a resource that may be absent.
func (s *server) remove(path string) error {
	r, err := s.do(&httpwire.Request{Method: "DELETE", Path: path}, nil)
	if err != nil && r != nil && r.Status == 404 {
		return nil
	}
	return err
}

func (s *server) mkcol(path string) error {
	_, err := s.do(&httpwire.Request{Method: "MKCOL", Path: path}, nil)
	return err
}

// transfer sends COPY or MOVE.
func (s *server) transfer(method, from, to string) error {
	_, err := s.do(&httpwire.Request{Method: method, Path: from, Header: []string{
		"Destination: http://" + s.site.addr() + to, "Depth: infinity", "Overwrite: T"}}, nil)
	return err
}

// spread marks a folder as the top of directory hierarchies (chattr +T) where
// the file system knows that. ext4 then puts each folder inside into a block
// group of its own; otherwise files created soon after a mass delete nearby
// cost many times more, and one peer's clean-up would slow the next one's
// creates.
func spread(dir string) {
	// Other file systems refuse, and there is nothing to spread on them.
	_ = exec.Command("chattr", "+T", dir).Run()
}

// freePorts returns n ports that were free a moment ago.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// meter measures what one server uses between begin and end.
type meter struct {
	all  []*process
	srv  *server
	cpu  time.Duration
	idle proc.Memory
	t0   time.Time
}

// begin waits until earlier work has reached the disk and no server is busy,
// so that nobody pays for what another did before, then starts the clock.
func (m *meter) begin() error {
	syscall.Sync()
	settle(m.all)
	pid := m.srv.cmd.Process.Pid
	var err error
	if m.idle, err = proc.Mem(pid); err != nil {
		return err
	}
	// Without the right to reset it the peak is that of the whole run.
	_ = proc.ResetPeak(pid)
	if m.cpu, err = proc.CPU(pid); err != nil {
		return err
	}
	// The connection is open before the clock starts, for every server.
	if _, err := m.srv.http.Do(&httpwire.Request{Method: "OPTIONS", Path: "/"}, nil); err != nil {
		return err
	}
	m.t0 = time.Now()
	return nil
}

// end stops the clock and returns a sample with everything but its value.
func (m *meter) end() (sample, error) {
	s := sample{Elapsed: time.Since(m.t0)}
	pid := m.srv.cmd.Process.Pid
	cpu, err1 := proc.CPU(pid)
	mem, err2 := proc.Mem(pid)
	s.CPU, s.Peak, s.Above = cpu-m.cpu, mem.Peak, max(0, mem.Peak-m.idle.RSS)
	return s, errors.Join(err1, err2)
}

// Package e2e runs the real server binary and real clients against each other.
//
// This file and dav.go are the harness: a server that can be started, stopped,
// killed and started again, and a client without retries. The tests need
// programs that are not part of Go (litmus, rclone, davfs2, cadaver, curl);
// they skip where one is missing, and fail instead when REQUIRE_ALL=1.
// ENGRAMFS_LONG=1 chooses the long forms, ENGRAMFS_E2E_BINARY a binary other
// than the one built from this module.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"engramfs/internal/bench/httpwire"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 60 * time.Second
)

// Options say what to start. Binary is required.
type Options struct {
	Binary string
	// Data is the data folder; a temporary one if empty.
	Data string
	// Args follow the flags that the harness sets itself.
	Args []string
}

// Server is a server process on addresses that it keeps over restarts.
type Server struct {
	// URL is where WebDAV is served, without a slash at the end.
	URL string
	// Addr and Admin are the "host:port" of the two listeners.
	Addr, Admin string
	Data        string

	t       testing.TB
	args    []string
	log     *os.File
	cmd     *exec.Cmd
	exit    chan error
	running bool
}

// Build compiles the server into dir and returns the binary's path, or returns
// the one that ENGRAMFS_E2E_BINARY names.
func Build(ctx context.Context, dir string) (string, error) {
	if b := os.Getenv("ENGRAMFS_E2E_BINARY"); b != "" {
		return filepath.Abs(b)
	}
	out := filepath.Join(dir, "engramfs")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "engramfs/cmd/engramfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, text)
	}
	return out, nil
}

// Start starts a server on free ports and waits until it is healthy. The
// test's end stops it, and prints the end of its log if the test failed.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{t: t, Data: o.Data, Addr: freeAddr(t), Admin: freeAddr(t)}
	if s.Data == "" {
		s.Data = t.TempDir()
	}
	s.URL = "http://" + s.Addr
	s.args = append([]string{o.Binary, "serve", "--data", s.Data, "--listen", s.Addr,
		"--admin", s.Admin, "--anonymous", "--crash-limit=0"}, o.Args...)
	var err error
	if s.log, err = os.Create(filepath.Join(t.TempDir(), "server.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.finish)
	s.Restart()
	return s
}

// Restart starts the server again, after Stop or Kill, with the same data and
// addresses, and waits until it is healthy. A running server is stopped first.
func (s *Server) Restart() {
	s.t.Helper()
	if s.running {
		s.Stop()
	}
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // An interrupted test stops it itself.
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd, s.exit, s.running = cmd, make(chan error, 1), true
	go func() { s.exit <- cmd.Wait() }()
	s.awaitHealth()
}

func (s *Server) awaitHealth() {
	s.t.Helper()
	deadline := time.Now().Add(startTimeout)
	c := httpwire.NewClient(s.Admin, 5*time.Second)
	defer c.Close()
	for {
		r, err := c.Do(&httpwire.Request{Method: "GET", Path: "/api/v1/health"}, nil)
		if err == nil && r.OK() {
			return
		}
		select {
		case err := <-s.exit:
			s.running = false
			s.t.Fatalf("server ended at start: %v", err)
		case <-time.After(3 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("server not healthy within %v: %v", startTimeout, err)
		}
	}
}

// Stop asks the server to end and waits. It fails the test unless the server
// ends in time with exit status 0.
func (s *Server) Stop() {
	s.t.Helper()
	if !s.running {
		return
	}
	s.running = false
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exit:
		if err != nil {
			s.t.Errorf("server ended with %v after SIGTERM, want exit status 0", err)
		}
	case <-time.After(stopTimeout):
		s.cmd.Process.Kill()
		<-s.exit
		s.t.Errorf("server did not end within %v of SIGTERM", stopTimeout)
	}
}

// Kill ends the server with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	s.running = false
	s.cmd.Process.Kill()
	<-s.exit
}

// Pid returns the process id of the running server.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// mishaps are lines that no test may cause: the nets below the store's own
// panic handling, and the runtime's last words.
var mishaps = []string{"http: panic serving", "fatal error:", "unexpected fault address", "WARNING: DATA RACE"}

func (s *Server) finish() {
	s.Stop()
	s.log.Close()
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		s.t.Error(err)
	}
	for _, m := range mishaps {
		if bytes.Contains(text, []byte(m)) {
			s.t.Errorf("server log has %q", m)
		}
	}
	if s.t.Failed() {
		s.t.Logf("end of the server's log:\n%s", text[max(0, len(text)-6000):])
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Program returns the path of a program, or skips the test where it is not
// installed; with REQUIRE_ALL=1 it fails the test.
func Program(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	missing(t, name+" is not installed")
	return ""
}

// missing skips the test, or fails it where everything is required.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Command runs a program with a time limit and a home folder of its own. It
// returns what the program printed, both streams.
func Command(t testing.TB, limit time.Duration, dir string, env []string, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append([]string{"HOME=" + dir, "LC_ALL=C.UTF-8"}, env...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done within %v: %w", limit, err)
	}
	return string(out), err
}

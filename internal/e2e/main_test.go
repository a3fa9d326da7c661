package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// engramfs is the server under test, built once by TestMain.
var engramfs string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "engramfs-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if engramfs, err = Build(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// start starts the server under test.
func start(t testing.TB, args ...string) *Server {
	t.Helper()
	return Start(t, Options{Binary: engramfs, Args: args})
}

// connect returns a client of the server.
func connect(t testing.TB, s *Server) *DAV {
	t.Helper()
	d := NewDAV(s.Addr, "", time.Minute)
	t.Cleanup(d.Close)
	return d
}

// long reports whether the long forms of the tests were asked for.
func long() bool { return os.Getenv("ENGRAMFS_LONG") == "1" }

// must fails the test unless the request succeeded with one of the statuses.
func must(t testing.TB, d *DAV, method, path string, header []string, body []byte, want ...int) []byte {
	t.Helper()
	r, got, err := d.Do(method, path, header, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	for _, w := range want {
		if r.Status == w {
			return got
		}
	}
	t.Fatalf("%s %s = %d, want %v, body %.300q", method, path, r.Status, want, got)
	return nil
}

package webdav

import (
	"flag"
	"net"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

var litmusSuites = flag.String("litmus", "", "litmus suites to run, separated by spaces, against a server of the test's own")

// TestLitmus runs the litmus WebDAV suites, which must be installed:
//
//	go test ./webdav -run TestLitmus -litmus "basic copymove props locks http" -v
func TestLitmus(t *testing.T) {
	if *litmusSuites == "" {
		t.Skip("no -litmus suites given")
	}
	for _, prefix := range []string{"", "/dav/a b"} {
		t.Run("prefix="+prefix, func(t *testing.T) {
			b := newDAVBench(t, prefix)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewUnstartedServer(b)
			srv.Listener = l
			srv.Start()
			defer srv.Close()
			cmd := exec.Command("litmus", srv.URL+strings.ReplaceAll(prefix, " ", "%20")+"/")
			cmd.Env = append(cmd.Environ(), "TESTS="+*litmusSuites)
			cmd.Dir = t.TempDir()
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil || strings.Contains(string(out), "FAIL") || strings.Contains(string(out), "WARNING") {
				t.Errorf("litmus: %v", err)
			}
		})
	}
}

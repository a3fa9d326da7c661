package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"engramfs/internal/tracing/otlptest"
)

// TestTraces follows requests through every door of a running server, and a drill
// that strikes the mount. The end of the server sends what waits.
func TestTraces(t *testing.T) {
	point := mountPoint(t)
	c := otlptest.New(t)
	s := start(t, t.TempDir(), "--anonymous", "--enable-drills", "--mount", point, "--otlp-endpoint", c.URL)
	s.want(http.StatusCreated, "PUT", s.url+"a", "hello")
	s.want(http.StatusOK, "GET", s.url+"a", "")
	if err := os.WriteFile(filepath.Join(point, "b"), []byte("made through the mount"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.want(http.StatusOK, "POST", s.admin+"api/v1/drills", `{"path":"/b","cause":"panic"}`, "Content-Type", "application/json")
	if err := os.Chmod(filepath.Join(point, "b"), 0o600); err == nil || !strings.Contains(err.Error(), syscall.EIO.Error()) {
		t.Fatalf("chmod: %v, want EIO", err)
	}
	metrics := s.want(http.StatusOK, "GET", s.admin+"metrics", "")
	if !strings.Contains(metrics, "\nengramfs_traces_dropped_total 0\n") {
		t.Error("there is no engramfs_traces_dropped_total")
	}
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	child := func(root, name string, attrs map[string]any) (parent, found otlptest.Span) {
		t.Helper()
		for _, r := range c.Roots(root) {
			spans := c.Children(t, r)
			for _, s := range spans {
				if s.Name == name && !differs(s, attrs) {
					return r, s
				}
			}
		}
		t.Errorf("there is no %s with %v beneath %d spans %s", name, attrs, len(c.Roots(root)), root)
		return otlptest.Span{}, otlptest.Span{}
	}
	child("PUT", "store.put", nil)
	child("PUT", "store.sync", nil)
	child("GET", "store.read_data", nil)
	child("fuse.create", "store.add_file", nil)
	setattr, change := child("fuse.setattr", "store.set_attr", map[string]any{"engramfs.poisoned": true})
	if t.Failed() {
		t.FailNow()
	}
	e := change.Exceptions()
	if len(e) != 1 || !strings.Contains(fmt.Sprint(e[0]["exception.stacktrace"]), "fuse.(*fileSystem).SetAttr") {
		t.Errorf("exceptions of the change that died: %v", e)
	}
	if setattr.Attr("error.type") != "store_poisoned" || setattr.Attr("engramfs.errno") != "EIO" || !setattr.Failed() {
		t.Errorf("the request that died: %v", setattr)
	}
	if drill := c.Roots("POST /api/v1/drills"); len(drill) != 1 || drill[0].Attr("http.route") != "/api/v1/drills" {
		t.Errorf("requests of the admin API: %v", drill)
	}
	if p := c.Roots("PUT")[0]; p.Resource["service.name"] != "engramfs" || p.Resource["service.version"] != programVersion() {
		t.Errorf("resource = %v", p.Resource)
	}
}

func differs(s otlptest.Span, attrs map[string]any) bool {
	for key, v := range attrs {
		if s.Attr(key) != v {
			return true
		}
	}
	return false
}

// The environment may be that of all programs of a machine.
func TestTracesOfAnEnvironmentThatMakesNoSense(t *testing.T) {
	c := otlptest.New(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment")
	s := start(t, t.TempDir(), "--anonymous", "--otlp-endpoint", c.URL)
	s.want(http.StatusCreated, "PUT", s.url+"a", "hello")
	if code := s.stop(); code != 0 || len(c.Roots("PUT")) != 1 {
		t.Errorf("exit code %d, %d traces", code, len(c.Roots("PUT")))
	}
}

// A collector that is not there changes nothing for clients.
func TestTracesToNobody(t *testing.T) {
	gone := otlptest.New(t)
	gone.Close()
	s := start(t, t.TempDir(), "--anonymous", "--otlp-endpoint", gone.URL)
	begin := time.Now()
	for i := range 100 {
		s.want(http.StatusCreated, "PUT", fmt.Sprintf("%s%d", s.url, i), "content")
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("100 PUTs took %v", took)
	}
	begin = time.Now()
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begin); took > traceTimeout+5*time.Second {
		t.Errorf("the end took %v", took)
	}
	if n := strings.Count(s.stderr.String(), "traces are not sent"); n != 1 {
		t.Errorf("the log says it %d times, want once:\n%s", n, s.stderr)
	}
}

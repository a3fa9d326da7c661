// Package arch holds the direction of imports: cmd -> webdav | fuse | web ->
// store -> store/poison | store/meta | store/blob. The linter has the same rules;
// this test needs no linter.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "engramfs"

// pkg is what go list says of a package. Imports are without those of tests,
// which may reach further.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// loadPackages returns the module's packages and all they depend on.
func loadPackages(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// in reports whether path is one of dirs or below one of them.
func in(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") })
}

// exclusive names the only packages that may import a library: each is an
// adapter of that library, or a tool that measures against it.
var exclusive = map[string][]string{
	"golang.org/x/net/webdav":       {"engramfs/webdav", "engramfs/internal/bench"},
	"github.com/go-chi/chi":         {"engramfs/web"},
	"github.com/hanwen/go-fuse":     {"engramfs/fuse"},
	"github.com/cockroachdb/pebble": {"engramfs/store/meta/pebble", "engramfs/store/storetest", "engramfs/internal/torture"},
	"github.com/alecthomas/kong":    {"engramfs/cmd"},
	"github.com/goccy/go-yaml":      {"engramfs/cmd"},
	"github.com/lmittmann/tint":     {"engramfs/cmd"},
	"github.com/coreos/go-systemd":  {"engramfs/cmd"},
	"golang.org/x/crypto":           {"engramfs/internal/auth"},
	"github.com/prometheus":         {"engramfs/internal/metrics"},
	"go.opentelemetry.io":           {"engramfs/internal/tracing"},
	"engramfs/cmd":                  {},
	"engramfs/webdav":               {"engramfs/cmd", "engramfs/internal/bench"},
	"engramfs/fuse":                 {"engramfs/cmd", "engramfs/internal/bench"},
	"engramfs/web":                  {"engramfs/cmd", "engramfs/internal/bench"},
	"engramfs/store/meta/pebble":    {"engramfs/cmd", "engramfs/internal/bench", "engramfs/internal/torture", "engramfs/store/storetest"},
	"engramfs/store/blob/local":     {"engramfs/cmd", "engramfs/internal/bench", "engramfs/internal/torture", "engramfs/store/storetest"},
	"engramfs/internal/auth":        {"engramfs/cmd"},
	"testing":                       {"engramfs/store/storetest", "engramfs/store/meta/metatest", "engramfs/store/blob/blobtest", "engramfs/internal"},
	"net/http":                      {"engramfs/cmd", "engramfs/webdav", "engramfs/web", "engramfs/internal"},
	"C":                             {},
}

// owned reports whether path may import imported as far as exclusive goes, and
// which entry forbids it.
func owned(path, imported string) (library string, ok bool) {
	for library, owners := range exclusive {
		if in(imported, library) && !in(path, library) && !in(path, owners...) {
			return library, false
		}
	}
	return "", true
}

func TestLibrariesAndAdaptersHaveOneOwner(t *testing.T) {
	for path, p := range loadPackages(t) {
		if !in(path, module) {
			continue
		}
		for _, imported := range p.Imports {
			if library, ok := owned(path, imported); !ok {
				t.Errorf("%s imports %s, which only %v may", path, imported, exclusive[library])
			}
		}
	}
}

// limits names what the packages of the lower layers may import besides the
// standard library and themselves.
var limits = map[string][]string{
	"engramfs/store/poison":      {},
	"engramfs/store/meta":        {},
	"engramfs/store/blob":        {},
	"engramfs/store/meta/pebble": {"engramfs/store/meta", "github.com/cockroachdb/pebble", "golang.org/x/sys"},
	"engramfs/store/blob/local":  {"engramfs/store/blob", "golang.org/x/sys"},
	"engramfs/store":             {"engramfs/store/poison", "engramfs/store/meta", "engramfs/store/blob", "github.com/maypok86/otter", "golang.org/x/sys", "golang.org/x/sync"},
	"engramfs/webdav":            {"engramfs/store", "engramfs/store/poison", "golang.org/x/net"},
	"engramfs/fuse":              {"engramfs/store", "engramfs/store/poison", "github.com/hanwen/go-fuse", "golang.org/x/sys"},
	"engramfs/web":               {"engramfs/store", "engramfs/store/poison", "engramfs/internal/patience", "github.com/go-chi/chi"},
	"engramfs/internal/auth":     {"golang.org/x/crypto"},
}

func TestLayersImportOnlyWhatIsBelow(t *testing.T) {
	all := loadPackages(t)
	for path, allowed := range limits {
		for _, imported := range all[path].Imports {
			if all[imported].Standard || slices.Contains(allowed, imported) {
				continue
			}
			if !in(imported, module) && in(imported, allowed...) {
				continue
			}
			t.Errorf("%s imports %s: it may import the standard library and %v", path, imported, allowed)
		}
	}
}

// The store must be usable without a server: no HTTP reaches it, not even
// through what it imports.
func TestStoreDependsOnNoServer(t *testing.T) {
	deps := loadPackages(t)["engramfs/store"].Deps
	if len(deps) == 0 {
		t.Fatal("go list knows no engramfs/store")
	}
	for _, d := range deps {
		if d == "net/http" || in(d, "engramfs/webdav", "engramfs/fuse", "engramfs/web", "engramfs/cmd", "golang.org/x/net/webdav", "github.com/hanwen/go-fuse", "github.com/go-chi/chi") {
			t.Errorf("engramfs/store depends on %s", d)
		}
	}
}

// The rules must be able to fail: each of them is tried on an import it forbids.
func TestRulesForbid(t *testing.T) {
	for _, c := range [][2]string{
		{"engramfs/web", "engramfs/webdav"}, {"engramfs/webdav", "engramfs/web"}, {"engramfs/store", "net/http"},
		{"engramfs/cmd/engramfs", "github.com/go-chi/chi/v5"}, {"engramfs/store", "engramfs/store/meta/pebble"},
	} {
		if _, ok := owned(c[0], c[1]); ok {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
}

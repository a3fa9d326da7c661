package e2e

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/webdav"
)

// plain serves a folder without the server under test, so that the checks can
// be shown something wrong.
func plain(t *testing.T, prefix string) (*DAV, string) {
	t.Helper()
	dir := t.TempDir()
	srv := httptest.NewServer(&webdav.Handler{Prefix: prefix, FileSystem: webdav.Dir(dir), LockSystem: webdav.NewMemLS()})
	t.Cleanup(srv.Close)
	d := NewDAV(strings.TrimPrefix(srv.URL, "http://"), prefix, 10*time.Second)
	t.Cleanup(d.Close)
	return d, dir
}

func TestCompareTreeSeesEveryDifference(t *testing.T) {
	for _, prefix := range []string{"", "/dav/files"} {
		d, served := plain(t, prefix)
		src := t.TempDir()
		n, err := PlantOddTree(src, 255)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(served, "copy"), os.DirFS(src)); err != nil {
			t.Fatal(err)
		}
		if got, err := CompareTree(d, "/copy", src); err != nil || got != n {
			t.Fatalf("prefix %q: CompareTree of a true copy = %d, %v, want %d", prefix, got, err, n)
		}
		file := filepath.Join(served, "copy", "names", "hash#tag.txt")
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for name, spoil := range map[string]func() error{
			"Missing": func() error { return os.Remove(file) },
			"Flipped": func() error { return os.WriteFile(file, append([]byte{body[0] ^ 1}, body[1:]...), 0o644) },
			"Short":   func() error { return os.WriteFile(file, body[1:], 0o644) },
			"Extra":   func() error { return os.WriteFile(file+".tmp", nil, 0o644) },
			"Kind":    func() error { os.Remove(file); return os.Mkdir(file, 0o755) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			if _, err := CompareTree(d, "/copy", src); err == nil {
				t.Errorf("prefix %q: %s is not seen", prefix, name)
			}
			os.Remove(file + ".tmp")
			os.Remove(file)
			if err := os.WriteFile(file, body, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestObserveKnowsOldFromNewFromTorn(t *testing.T) {
	d, dir := plain(t, "")
	before := model{"/w/f": {seed: 1, size: 1000}}
	after := model{"/w/f": {seed: 2, size: 1000}}
	if err := os.Mkdir(filepath.Join(dir, "w"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "w", "f"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []model{before, after} {
		write(Content(m["/w/f"].seed, 1000))
		got, err := observe(d, "/w", before, after)
		if err != nil || m.diff(got) != "" {
			t.Errorf("observe = %v, %v, want %v", got, err, m)
		}
	}
	for name, b := range map[string][]byte{
		"Half":  Content(1, 1000)[:500],
		"Mixed": append(Content(1, 1000)[:500:500], Content(2, 1000)[500:]...),
		"Empty": {},
	} {
		write(b)
		if got, err := observe(d, "/w", before, after); err == nil {
			t.Errorf("%s content passes as %v", name, got)
		}
	}
}

// TestRefusedPropertyIsNotSuccess: x/net's Dir holds no dead properties and
// says so inside a 207.
func TestRefusedPropertyIsNotSuccess(t *testing.T) {
	d, dir := plain(t, "")
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	code, err := d.Annotate("/f", "x")
	if err != nil || code != 403 {
		t.Errorf("Annotate = %d, %v, want 403", code, err)
	}
	if (op{method: "PROPPATCH"}).succeeded(code) || (op{method: "DELETE"}).succeeded(207) {
		t.Error("a refusal counts as success")
	}
}

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"engramfs/store/storetest"
)

// TestConformance runs the suite that the store itself passes through WebDAV,
// through the mount in both modes, and through both doors in turn.
func TestConformance(t *testing.T) {
	t.Run("webdav", func(t *testing.T) {
		s := start(t)
		storetest.Conformance(t, doorOf(t, s), "/")
		s.Stop()
		mustBeClean(t, s)
	})
	bothWays(t, 2*time.Minute, func(t *testing.T, m *Mounted) {
		dav, mount := doorOf(t, m.Server), &osDoor{root: m.Point}
		for name, door := range map[string]storetest.FS{"mount": mount, "alternating": &alternating{doors: []storetest.FS{dav, mount, mount, dav, dav}}} {
			t.Run(name, func(t *testing.T) {
				if err := os.Mkdir(m.Path(name), 0o700); err != nil {
					t.Fatal(err)
				}
				storetest.Conformance(t, door, "/"+name)
			})
		}
	})
}

// doorOf returns WebDAV as a door. Its connections end with the test.
func doorOf(t *testing.T, s *Server) *davDoor {
	return newDAVDoor(func() *DAV {
		d := NewDAV(s.Addr, "", time.Minute)
		t.Cleanup(d.Close)
		return d
	})
}

// TestConformanceOfTheLocalFileSystem checks the suite: what it asks for is what
// a file system does.
func TestConformanceOfTheLocalFileSystem(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	storetest.Conformance(t, &osDoor{root: root}, "/")
}

package fuse

import (
	"testing"

	"engramfs/internal/posix"
)

// TestConformance runs the suite that every file system of Linux passes.
func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{"native": {}, "cached": {NoPassthrough: true}} {
		t.Run(name, func(t *testing.T) { posix.Run(t, mountForTest(t, o).dir, posix.Options{}) })
	}
}

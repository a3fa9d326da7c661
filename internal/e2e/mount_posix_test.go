package e2e

import (
	"testing"

	"engramfs/internal/posix"
)

// TestMountPosix holds the mount to what every file system of Linux does.
func TestMountPosix(t *testing.T) {
	for _, mode := range []string{"fast", "strict"} {
		t.Run(mode, func(t *testing.T) {
			m := StartMounted(t, Options{Binary: engramfs, Args: []string{"--mount-integrity", mode, "--mount-suid", "--mount-dev"}})
			t.Run("cases", func(t *testing.T) { posix.Run(t, m.Point, posix.Options{}) }) // returns after those that run side by side
			m.mustBeSound()
		})
	}
}

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"time"

	"engramfs/internal/bench/pattern"
)

// fsyncRate returns how often a second the disk under dir makes a 4 KiB write
// durable: fdatasync after each write to blocks that exist already, which is
// the least a journal can pay.
func fsyncRate(dir string, d time.Duration) (float64, error) {
	const area = 32 << 20
	f, err := os.Create(filepath.Join(dir, "yardstick"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := (pattern.Source{Size: area}).WriteTo(f); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	n, t0 := 0, time.Now()
	for ; time.Since(t0) < d; n++ {
		if _, err := f.WriteAt(smallBody, int64(n)*smallSize%area); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(t0).Seconds(), nil
}

// writeRate returns the MiB/s at which one process writes size bytes to a new
// file and syncs it, like dd with conv=fsync and a block size of 1 MiB.
func writeRate(dir string, size int64) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "yardstick"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	syscall.Sync()
	t0 := time.Now()
	if _, err := (pattern.Source{Size: size}).WriteTo(f); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return mib(size) / time.Since(t0).Seconds(), nil
}

// mib converts bytes to MiB.
func mib(n int64) float64 { return float64(n) / (1 << 20) }

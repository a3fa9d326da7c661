package proc

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestTreeHoldsChildren(t *testing.T) {
	cmd := exec.Command("sleep", "30")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if got := Tree(os.Getpid()); !slices.Contains(got, cmd.Process.Pid) || got[0] != os.Getpid() {
		t.Errorf("Tree(self) = %v, want self first and %d in it", got, cmd.Process.Pid)
	}
}

func TestCPUGrowsWithWork(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for x, end := 0, time.Now().Add(100*time.Millisecond); time.Now().Before(end); x++ {
	}
	after, err := CPU(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("CPU = %v then %v (%v), want growth", before, after, err)
	}
}

func TestResetPeakForgetsOldPeak(t *testing.T) {
	const ballast = 64 << 20
	b, err := syscall.Mmap(-1, 0, ballast, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	full, err := Mem(os.Getpid())
	if err != nil || full.RSS < ballast || full.Peak < full.RSS {
		t.Fatalf("Mem = %+v, %v, want at least %d resident and a peak no lower", full, err, ballast)
	}
	if err := syscall.Munmap(b); err != nil {
		t.Fatal(err)
	}
	if err := ResetPeak(os.Getpid()); err != nil {
		t.Skip("clear_refs:", err)
	}
	if after, err := Mem(os.Getpid()); err != nil || after.Peak > full.Peak-ballast/2 {
		t.Errorf("Peak = %d (%v) after reset, was %d with the ballast", after.Peak, err, full.Peak)
	}
}

func TestNoSuchProcessIsAnError(t *testing.T) {
	const never = 1 << 30
	if _, err := CPU(never); err == nil {
		t.Error("CPU of no process succeeded")
	}
	if _, err := Mem(never); err == nil {
		t.Error("Mem of no process succeeded")
	}
}

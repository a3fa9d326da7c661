// Package proc reads what a process and its descendants have used from /proc:
// CPU time and resident memory. It works on Linux only.
package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is USER_HZ, which is 100 on every Linux that Go runs on (proc(5)).
const clockTick = 10 * time.Millisecond

// Tree returns pid and all its living descendants.
func Tree(pid int) []int {
	all := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, l := range lists {
		b, _ := os.ReadFile(l) // Gone is as good as none.
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				all = append(all, Tree(child)...)
			}
		}
	}
	return all
}

// CPU returns the CPU time, user and system, that the tree of pid has used,
// including children that ended and were waited for.
func CPU(pid int) (time.Duration, error) {
	var total time.Duration
	for _, p := range Tree(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if gone(err) && p != pid {
			continue
		}
		if err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(string(b), ") ") // The name may hold spaces.
		f := strings.Fields(rest)
		if !ok || len(f) < 15 {
			return 0, fmt.Errorf("malformed /proc/%d/stat", p)
		}
		for _, s := range f[11:15] { // utime stime cutime cstime
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("malformed /proc/%d/stat: %w", p, err)
			}
			total += time.Duration(n) * clockTick
		}
	}
	return total, nil
}

// Memory is resident memory in bytes, summed over a process tree.
type Memory struct{ RSS, Peak int64 }

// Mem returns the present and the peak resident size of the tree of pid.
// Pages that processes share count once for each of them.
func Mem(pid int) (Memory, error) {
	var m Memory
	for _, p := range Tree(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if gone(err) && p != pid {
			continue
		}
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) != 3 || f[2] != "kB" {
				continue
			}
			n, _ := strconv.ParseInt(f[1], 10, 64)
			switch f[0] {
			case "VmRSS:":
				m.RSS += n << 10
			case "VmHWM:":
				m.Peak += n << 10
			}
		}
	}
	return m, nil
}

// ResetPeak sets the peak of every process of the tree to its present size
// (proc(5), clear_refs value 5).
func ResetPeak(pid int) error {
	for _, p := range Tree(pid) {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0)
		if err != nil && !(gone(err) && p != pid) {
			return err
		}
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

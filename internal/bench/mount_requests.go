package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// opcodes are the requests that a load can cause (enum fuse_opcode in
// include/uapi/linux/fuse.h).
var opcodes = map[int]string{
	1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 5: "READLINK", 6: "SYMLINK", 8: "MKNOD", 9: "MKDIR",
	10: "UNLINK", 11: "RMDIR", 12: "RENAME", 13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE", 17: "STATFS",
	18: "RELEASE", 20: "FSYNC", 21: "SETXATTR", 22: "GETXATTR", 23: "LISTXATTR", 24: "REMOVEXATTR", 25: "FLUSH",
	27: "OPENDIR", 28: "READDIR", 29: "RELEASEDIR", 30: "FSYNCDIR", 31: "GETLK", 32: "SETLK", 33: "SETLKW",
	34: "ACCESS", 35: "CREATE", 36: "INTERRUPT", 42: "BATCH_FORGET", 43: "FALLOCATE", 44: "READDIRPLUS",
	45: "RENAME2", 46: "LSEEK", 47: "COPY_FILE_RANGE", 51: "TMPFILE", 52: "STATX",
}

// requestCounter counts the requests that the kernel sends to one mount.
type requestCounter struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

// countRequests starts perf stat on the kernel's trace point fuse_request_send
// (Linux 6.10), once for each opcode. It needs root.
func countRequests(dir string) (*requestCounter, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return nil, err
	}
	args := []string{"stat", "-a", "-x", ","}
	for _, code := range sortedOpcodes() {
		// The trace point's connection is the mount's device number in the kernel's own
		// form. A mount without a block device has major number 0, and so has that.
		args = append(args, "-e", "fuse:fuse_request_send",
			"--filter", fmt.Sprintf("opcode==%d && connection==%d", code, st.Dev))
	}
	c := &requestCounter{cmd: exec.Command("perf", args...)}
	c.cmd.Stderr = &c.out
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	time.Sleep(300 * time.Millisecond) // perf has started counting.
	return c, nil
}

func sortedOpcodes() []int {
	var codes []int
	for code := range opcodes {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	return codes
}

// stop ends the count and returns it for each of n operations.
func (c *requestCounter) stop(n int64) (string, error) {
	c.cmd.Process.Signal(os.Interrupt)
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return perOperationCounts(c.out.String(), n)
}

// perOperationCounts reads perf's table, one line for each opcode in order.
func perOperationCounts(table string, n int64) (string, error) {
	type count struct {
		name string
		n    float64
	}
	var counts []count
	codes := sortedOpcodes()
	for text := range strings.Lines(table) {
		value, rest, _ := strings.Cut(text, ",")
		if !strings.Contains(rest, "fuse_request_send") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || len(codes) == 0 {
			return "", fmt.Errorf("perf stat: %q", strings.TrimSpace(text))
		}
		counts = append(counts, count{opcodes[codes[0]], v / float64(max(1, n))})
		codes = codes[1:]
	}
	if len(codes) > 0 {
		return "", fmt.Errorf("perf stat counts no FUSE requests here: %.300s", strings.TrimSpace(table))
	}
	slices.SortStableFunc(counts, func(a, b count) int { return cmp.Compare(b.n, a.n) })
	var b strings.Builder
	for _, c := range counts {
		if c.n > 0 {
			fmt.Fprintf(&b, "%s %.3g, ", c.name, c.n)
		}
	}
	return cmp.Or(strings.TrimSuffix(b.String(), ", "), "none"), nil
}

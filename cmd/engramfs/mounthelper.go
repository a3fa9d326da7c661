package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// helperName is the name under which mount(8) starts this program for a file
// system of type engramfs.
const helperName = "mount.engramfs"

// Exit codes of mount(8).
const (
	exitMountUsage   = 1
	exitMountFailure = 32
)

// isMountHelper reports whether the program was started by the helper's name.
func isMountHelper(program string) bool { return filepath.Base(program) == helperName }

// helperArgs are what mount(8) passes to a helper.
type helperArgs struct {
	source, dir string
	options     []string
	fake        bool
}

// parseHelperArgs reads SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE],
// as mount(8) has under external helpers.
func parseHelperArgs(args []string) (h helperArgs, err error) {
	var plain []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-o" || a == "-t" || a == "-N":
			if i++; i == len(args) {
				return h, fmt.Errorf("%s needs a value", a)
			}
			if a == "-o" {
				h.options = append(h.options, args[i])
			}
		case len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], "sfnv") == "":
			h.fake = h.fake || strings.Contains(a, "f")
		case strings.HasPrefix(a, "-"):
			return h, fmt.Errorf("unknown option %s", a)
		default:
			plain = append(plain, a)
		}
	}
	if len(plain) != 2 {
		return h, fmt.Errorf("want %s DATA-FOLDER DIR [-o OPTIONS]", helperName)
	}
	h.source, h.dir = plain[0], plain[1]
	return h, nil
}

// runMountHelper starts the mount command in the background, and returns once it
// serves, or has failed and said why.
func runMountHelper(ctx context.Context, args []string, stderr io.Writer) int {
	h, err := parseHelperArgs(args)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", helperName, err)
		return exitMountUsage
	}
	if h.fake {
		return exitClean
	}
	if err := startMount(ctx, h, stderr); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", helperName, err)
		return exitMountFailure
	}
	return exitClean
}

func startMount(ctx context.Context, h helperArgs, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	command := []string{"mount", "--data", h.source}
	for _, o := range h.options {
		command = append(command, "-o", o)
	}
	cmd := exec.Command(self, append(command, "--", h.dir)...)
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives the terminal
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "engramfs: ready") {
			return cmd.Process.Release()
		}
	}
	return errors.Join(errors.New("not mounted"), cmd.Wait())
}

package fuse

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// fsType is the file system type of our mounts, as mount(8) shows it.
const fsType = "fuse." + fsSubtype

// fsSubtype is what the kernel keeps after "fuse.".
const fsSubtype = "engramfs"

// mountEntry is one line of /proc/self/mountinfo (proc(5)).
type mountEntry struct {
	id, parent int
	dev        string // major:minor, which also names the bdi and the FUSE connection
	point      string
	fsType     string
	source     string
}

// topMount returns the mount that a path walk to point ends on. point has no
// symbolic links. ok is false if nothing is mounted there.
func topMount(point string) (top mountEntry, ok bool, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mountEntry{}, false, err
	}
	defer f.Close()
	return findTopMount(f, point)
}

func findTopMount(mountinfo io.Reader, point string) (top mountEntry, ok bool, err error) {
	var at []mountEntry
	covered := map[int]bool{} // ids of mounts with another one on top of their root
	for lines := bufio.NewScanner(mountinfo); ; {
		if !lines.Scan() {
			err = lines.Err()
			break
		}
		m, err := parseMountEntry(lines.Text())
		if err != nil {
			return mountEntry{}, false, err
		}
		if m.point == point {
			at = append(at, m)
			covered[m.parent] = true
		}
	}
	for _, m := range at {
		if !covered[m.id] {
			return m, true, err
		}
	}
	return mountEntry{}, false, err
}

func parseMountEntry(line string) (m mountEntry, err error) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 2 {
		return m, fmt.Errorf("mountinfo: unknown line %q", line)
	}
	if m.id, err = strconv.Atoi(left[0]); err != nil {
		return m, fmt.Errorf("mountinfo: %w", err)
	}
	if m.parent, err = strconv.Atoi(left[1]); err != nil {
		return m, fmt.Errorf("mountinfo: %w", err)
	}
	m.dev, m.point, m.fsType, m.source = left[2], unescapeMount(left[4]), right[0], unescapeMount(right[1])
	return m, nil
}

// unescapeMount decodes the kernel's \ooo for blanks and backslashes.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// diskSession names the time since the disk under path could last have forgotten
// what nobody had synced: the boot of the machine together with the mount that path
// lies on, whose number is never used again in a boot. The boot alone would not do:
// a disk that was pulled and mounted again has lost its page cache, too. It returns
// "", unknown, where the kernel cannot say (before Linux 6.8, see statx(2)).
func diskSession(path string) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID_UNIQUE, &st) != nil || st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return ""
	}
	return fmt.Sprintf("%s/%d", strings.TrimSpace(string(boot)), st.Mnt_id)
}

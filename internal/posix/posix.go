// Package posix is a conformance suite for a directory of any mounted Linux
// file system: it makes real system calls and compares errors, effects, times
// and permissions with what the manual pages promise.
//
// It needs root, because it acts as several users. Every case has a directory
// and a thread of its own; the thread's working directory, umask and
// credentials belong to the case, and the thread ends with it. Where Linux file
// systems legitimately differ, a case accepts the documented alternatives and
// no others.
package posix

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Options names what the file system under test does not have. The zero value
// demands everything.
type Options struct {
	NoDevices      bool // mknod(2) of character and block devices
	NoTmpfile      bool // open(2) with O_TMPFILE
	NoXattr        bool // extended attributes of any name space
	NoTrustedXattr bool // extended attributes named trusted.*
	NoFallocate    bool // fallocate(2) without flags, and with KEEP_SIZE
	NoPunchHole    bool // fallocate(2) with FALLOC_FL_PUNCH_HOLE and ZERO_RANGE
	NoHoles        bool // holes that SEEK_HOLE and st_blocks show
	NoExchange     bool // renameat2(2) with RENAME_EXCHANGE
	NoSharedMmap   bool // writable shared mappings
	NoDirNlink     bool // a directory's st_nlink counts its subdirectories
	NoLargeFiles   bool // sparse files beyond 4 GiB
}

// groups are the families of cases. The serial ones share process-wide state
// with every other test (descriptor tables, child processes), so they run
// before the parallel ones.
var groups = []struct {
	name   string
	serial bool
	cases  func(s *suite)
}{
	{"locks", true, lockCases},
	{"exec", true, execCases},
	{"mounts", true, mountCases},
	{"pathname", false, pathnameCases},
	{"fault", false, faultCases},
	{"names", false, nameCases},
	{"chmod", false, chmodCases},
	{"chown", false, chownCases},
	{"setid", false, setidCases},
	{"truncate", false, truncateCases},
	{"link", false, linkCases},
	{"unlink", false, unlinkCases},
	{"rmdir", false, rmdirCases},
	{"symlink", false, symlinkCases},
	{"create", false, createCases},
	{"inherit", false, inheritCases},
	{"open", false, openCases},
	{"openperm", false, openPermissionCases},
	{"tmpfile", false, tmpfileCases},
	{"rename", false, renameCases},
	{"renameflags", false, renameFlagCases},
	{"renameperm", false, renamePermissionCases},
	{"utimens", false, utimensCases},
	{"access", false, accessCases},
	{"granular", false, granularCases},
	{"sticky", false, stickyCases},
	{"readwrite", false, readWriteCases},
	{"special", false, specialCases},
	{"fallocate", false, fallocateCases},
	{"holes", false, holeCases},
	{"copyrange", false, copyRangeCases},
	{"mmap", false, mmapCases},
	{"unlinked", false, unlinkedCases},
	{"nlink", false, nlinkCases},
	{"readdir", false, readdirCases},
	{"statfs", false, statfsCases},
	{"xattr", false, xattrCases},
	{"sync", false, syncCases},
	{"race", false, raceCases},
}

// Run exercises dir, an existing directory of the file system under test that
// every user may search. It needs root and fails the test without it. It
// returns when every case is done, and leaves dir as empty as it found it.
func Run(t *testing.T, dir string, o Options) {
	if os.Geteuid() != 0 {
		t.Fatal("posix: the suite switches users and needs root")
	}
	var cases atomic.Int64
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			top, err := os.MkdirTemp(dir, g.name+"-")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(top, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.RemoveAll(top); err != nil {
					t.Error(err)
				}
			})
			if !g.serial {
				t.Parallel()
			}
			g.cases(&suite{t: t, dir: top, o: o, serial: g.serial, cases: &cases})
		})
	}
	t.Cleanup(func() { t.Logf("posix: %d cases", cases.Load()) })
}

// suite hands out the cases of one group.
type suite struct {
	t      *testing.T
	dir    string // the group's own directory
	o      Options
	serial bool
	made   int // cases of this group so far
	cases  *atomic.Int64
}

// run makes f a case in a fresh, empty directory with mode 0777, owned by root,
// that is the working directory of the case's thread. The umask is 0.
func (s *suite) run(name string, f func(e *env)) {
	s.cases.Add(1)
	s.made++
	dir := fmt.Sprintf("%s/%d", s.dir, s.made)
	s.t.Run(name, func(t *testing.T) {
		if !s.serial {
			t.Parallel()
		}
		f(newEnv(t, dir, s.o))
	})
}

// each makes one case of f for every kind.
func (s *suite) each(name string, kinds []kind, f func(e *env, k kind)) {
	for _, k := range kinds {
		if s.o.NoDevices && (k.format == unix.S_IFCHR || k.format == unix.S_IFBLK) {
			continue
		}
		s.run(name+"/"+k.name, func(e *env) { f(e, k) })
	}
}

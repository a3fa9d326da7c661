package fuse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// errnoOf returns the number behind an error of a system call; false: there is none.
func errnoOf(err error) (syscall.Errno, bool) {
	if err == nil {
		return 0, true
	}
	var errno syscall.Errno
	ok := errors.As(err, &errno)
	return errno, ok
}

func TestPosix(t *testing.T) {
	for name, fn := range posixtest.All {
		if name == "FcntlFlockLocksFile" { // wants a process to be hindered by its own POSIX lock, against fcntl(2); ext4 fails it too
			continue
		}
		t.Run(name, func(t *testing.T) {
			m := mountForTest(t, Options{})
			fn(t, m.dir)
		})
	}
}

func TestProgramsWorkOnTheMount(t *testing.T) {
	m := mountForTest(t, Options{})
	script := `set -e
cd "$1"
git init -q repo && cd repo
git config user.email a@b && git config user.name n
for i in $(seq 40); do mkdir -p d$i; head -c $((i*3000)) /dev/urandom > d$i/f$i; done
git add . && git commit -qm one && git gc -q && git fsck --full
cd .. && git clone -q repo clone && git -C clone fsck --full
cp -a repo copy && diff -r repo copy
tar cf t.tar repo && mkdir x && tar xf t.tar -C x && diff -r repo x/repo
rm -rf repo copy x clone t.tar
test -z "$(ls -A)"
`
	for _, program := range []string{"git", "tar", "diff"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("REQUIRE_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	cmd := exec.Command("bash", "-c", script, "sh", m.dir)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(fmt.Errorf("%w: %s", err, out))
	}
}

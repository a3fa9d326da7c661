package fuse

import (
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"engramfs/internal/logbuf"
	"engramfs/store"
)

func init() {
	// hold takes a lock, says so, and keeps it until told to go on.
	childFuncs["hold"] = func(c *child, args []string) error {
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := lockFile(f, args[1], false); err != nil {
			return err
		}
		c.tell("held")
		c.await()
		return nil // the end of the process gives it up
	}
	// try says what becomes of a lock that it does not wait for.
	childFuncs["try"] = func(c *child, args []string) error {
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = lockFile(f, args[1], false)
		c.tell(fmt.Sprint(err))
		return nil
	}
	// wait tells the thread that waits for a lock, and then when it has it.
	childFuncs["wait"] = func(c *child, args []string) error {
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1)
		runtime.LockOSThread()
		c.tell(strconv.Itoa(unix.Gettid()))
		if err := lockFile(f, args[1], true); err != nil {
			return err
		}
		c.tell("held")
		return nil
	}
	// deadlock locks byte 0, and then waits for byte 1.
	childFuncs["deadlock"] = func(c *child, args []string) error {
		f, err := os.OpenFile(args[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := lockFile(f, "posix-ex:"+args[1], false); err != nil {
			return err
		}
		c.tell("held")
		c.await()
		err = lockFile(f, "posix-ex:"+args[2], true)
		c.tell(fmt.Sprint(err))
		c.await()
		return nil
	}
}

// lockFile takes a lock: flock-sh, flock-ex, or posix-sh:from-to, posix-ex:from-to.
func lockFile(f *os.File, kind string, wait bool) error {
	switch kind {
	case "flock-sh", "flock-ex":
		how := syscall.LOCK_SH
		if kind == "flock-ex" {
			how = syscall.LOCK_EX
		}
		if !wait {
			how |= syscall.LOCK_NB
		}
		return syscall.Flock(int(f.Fd()), how)
	}
	name, bytes, _ := strings.Cut(kind, ":")
	lk := unix.Flock_t{Type: unix.F_RDLCK}
	if name == "posix-ex" {
		lk.Type = unix.F_WRLCK
	}
	var to int64
	fmt.Sscanf(bytes, "%d-%d", &lk.Start, &to)
	if to > 0 {
		lk.Len = to - lk.Start + 1
	}
	cmd := unix.F_SETLK
	if wait {
		cmd = unix.F_SETLKW
	}
	return unix.FcntlFlock(f.Fd(), cmd, &lk)
}

func TestLocksBetweenProcesses(t *testing.T) {
	m := mountForTest(t, Options{})
	const again = "resource temporarily unavailable"
	for i, tt := range []struct{ held, tried, want string }{
		{"flock-ex", "flock-ex", again},
		{"flock-ex", "flock-sh", again},
		{"flock-sh", "flock-sh", "<nil>"},
		{"flock-sh", "flock-ex", again},
		{"flock-ex", "posix-ex:0-9", "<nil>"}, // they do not see each other
		{"posix-ex:0-9", "posix-ex:9-20", again},
		{"posix-ex:0-9", "posix-sh:0-0", again},
		{"posix-ex:0-9", "posix-ex:10-20", "<nil>"},
		{"posix-sh:0-9", "posix-sh:5-20", "<nil>"},
		{"posix-sh:0-9", "posix-ex:5-20", again},
		{"posix-ex:5-0", "posix-ex:1000000-1000001", again}, // to the end, however the file grows
	} {
		f := m.path(fmt.Sprint("f", i))
		must(t, os.WriteFile(f, []byte("content"), 0o644))
		holder := startChild(t, "hold", f, tt.held)
		holder.expect("held")
		startChild(t, "try", f, tt.tried).expect(tt.want)
		holder.resume()
		holder.expect("done")
		// RELEASE of a flock is not waited for.
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if got := startChild(t, "try", f, tt.tried).line(); got == "<nil>" {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%s after %s was given up: %s", tt.tried, tt.held, got)
			}
		}
	}
}

func TestLockIsWaitedFor(t *testing.T) {
	m := mountForTest(t, Options{})
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	for _, kind := range []string{"flock-ex", "posix-ex:0-0"} {
		holder := startChild(t, "hold", f, kind)
		holder.expect("held")
		waiter := startChild(t, "wait", f, kind)
		waiter.line()
		time.Sleep(50 * time.Millisecond)
		holder.resume()
		waiter.expect("held")
		waiter.expect("done")
	}
}

func TestWaitForLockIsInterrupted(t *testing.T) {
	interrupted := make(chan struct{}, 10)
	m := mountForTest(t, Options{Observe: func(op string, _ time.Duration, _ int, errno syscall.Errno) {
		if op == "setlkw" && errno == syscall.EINTR {
			interrupted <- struct{}{}
		}
	}})
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	holder := startChild(t, "hold", f, "posix-ex:0-0")
	holder.expect("held")
	waiter := startChild(t, "wait", f, "posix-ex:0-0")
	waiter.line()
	time.Sleep(50 * time.Millisecond)
	must(t, waiter.cmd.Process.Kill()) // it waits in the kernel for the answer to the interrupt
	_, err := waiter.cmd.Process.Wait()
	must(t, err)
	<-interrupted

	// A signal that is handled interrupts the request, and the kernel asks again.
	waiter = startChild(t, "wait", f, "posix-ex:0-0")
	thread, err := strconv.Atoi(waiter.line())
	must(t, err)
	time.Sleep(50 * time.Millisecond)
	must(t, unix.Tgkill(waiter.cmd.Process.Pid, thread, syscall.SIGUSR1))
	<-interrupted
	holder.resume()
	holder.expect("done")
	waiter.expect("held")
	waiter.expect("done")
}

func TestDeadlockIsRefused(t *testing.T) {
	m := mountForTest(t, Options{})
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	a := startChild(t, "deadlock", f, "1-1", "2-2")
	b := startChild(t, "deadlock", f, "2-2", "1-1")
	a.expect("held")
	b.expect("held")
	a.resume()
	time.Sleep(50 * time.Millisecond) // a waits for b
	b.resume()
	b.expect("resource deadlock avoided")
	b.resume()
	b.expect("done")
	a.expect("<nil>")
	a.resume()
	a.expect("done")
}

func TestGetlkTellsWhoHolds(t *testing.T) {
	m := mountForTest(t, Options{})
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	holder := startChild(t, "hold", f, "posix-ex:10-19")
	holder.expect("held")
	file, err := os.OpenFile(f, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	lk := unix.Flock_t{Type: unix.F_RDLCK, Start: 5, Len: 100}
	must(t, unix.FcntlFlock(file.Fd(), unix.F_GETLK, &lk))
	if lk.Type != unix.F_WRLCK || lk.Start != 10 || lk.Len != 10 || int(lk.Pid) != holder.cmd.Process.Pid {
		t.Errorf("conflict %+v, want a write lock of %d on 10-19", lk, holder.cmd.Process.Pid)
	}
	lk = unix.Flock_t{Type: unix.F_RDLCK, Start: 20}
	must(t, unix.FcntlFlock(file.Fd(), unix.F_GETLK, &lk))
	if lk.Type != unix.F_UNLCK {
		t.Errorf("conflict %+v, want none", lk)
	}
}

// TestCloseOfAnyDescriptorGivesPOSIXLocksUp is what fcntl(2) says.
func TestCloseOfAnyDescriptorGivesPOSIXLocksUp(t *testing.T) {
	m := mountForTest(t, Options{})
	f := m.path("f")
	must(t, os.WriteFile(f, nil, 0o644))
	a, err := os.OpenFile(f, os.O_RDWR, 0)
	must(t, err)
	defer a.Close()
	must(t, lockFile(a, "posix-ex:0-9", false))
	startChild(t, "try", f, "posix-ex:0-0").expect("resource temporarily unavailable")
	b, err := os.Open(f)
	must(t, err)
	must(t, b.Close())
	startChild(t, "try", f, "posix-ex:0-0").expect("<nil>")
}

// TestFileLocksBindTheOtherDoor: an exclusive lock of a program makes changes of
// others fail.
func TestFileLocksBindTheOtherDoor(t *testing.T) {
	m := mountForTest(t, Options{})
	must(t, os.WriteFile(m.path("f"), nil, 0o644))
	a, err := m.store.LookupPath(t.Context(), "/f")
	must(t, err)
	f, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
	must(t, err)
	must(t, lockFile(f, "flock-ex", false))
	if !m.store.LockedByFile(a.Ino) {
		t.Error("the store does not know of the lock")
	}
	err = m.store.Unlink(t.Context(), store.RootIno, "f", nil)
	if errno, _ := toErrno(err); errno != syscall.EBUSY {
		t.Errorf("unlink by another: %v", err)
	}
	must(t, f.Close())
	for range 1000 {
		if !m.store.LockedByFile(a.Ino) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	must(t, m.store.Unlink(t.Context(), store.RootIno, "f", nil))
}

func TestLocksEndWithTheMount(t *testing.T) {
	var log logbuf.Buffer
	s := openStoreForTest(t, t.TempDir(), &log)
	m := mountForTest(t, Options{Store: s})
	must(t, os.WriteFile(m.path("f"), nil, 0o644))
	a, err := s.LookupPath(t.Context(), "/f")
	must(t, err)
	must(t, s.FileLocks().Lock(t.Context(), a.Ino, store.FileLock{
		Origin: m.fs.origin, Owner: 1, Exclusive: true, End: math.MaxUint64,
	}, false))
	m.unmount()
	if s.LockedByFile(a.Ino) {
		t.Error("a lock has outlived its mount")
	}
}

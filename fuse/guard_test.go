package fuse

import (
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

func guarded(log *strings.Builder, o Options) *fileSystem {
	return &fileSystem{o: o, log: slog.New(slog.NewTextHandler(log, nil))}
}

func TestGuardTurnsPanicIntoEIO(t *testing.T) {
	var log strings.Builder
	fs := guarded(&log, Options{})
	run := func(v any) (status gofuse.Status) {
		op := fs.begin("frobnicate", &gofuse.InHeader{Unique: 7}, &status)
		defer op.end(&status)
		panic(v)
	}
	for i := range 5 {
		if got := run(i); got != gofuse.EIO {
			t.Errorf("status = %v, want EIO", got)
		}
	}
	if n := fs.panics.count.Load(); n != 5 {
		t.Errorf("%d panics counted, want 5", n)
	}
	if n := strings.Count(log.String(), "panicked"); n != 1 {
		t.Errorf("one place was logged %d times, want 1:\n%s", n, log.String())
	}
	if !strings.Contains(log.String(), "guard_test.go") {
		t.Errorf("the log has no stack:\n%s", log.String())
	}
}

func TestGuardAnswersForAGoroutineThatExits(t *testing.T) {
	var log strings.Builder
	fs := guarded(&log, Options{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fs.device = int(w.Fd())
	var wg sync.WaitGroup
	wg.Go(func() {
		var status gofuse.Status
		op := fs.begin("frobnicate", &gofuse.InHeader{Unique: 0x1122334455667788}, &status)
		defer op.end(&status)
		runtime.Goexit()
	})
	wg.Wait()
	reply := make([]byte, 32)
	n, err := r.Read(reply)
	if want := "\x10\x00\x00\x00\xfb\xff\xff\xff\x88\x77\x66\x55\x44\x33\x22\x11"; err != nil || string(reply[:n]) != want {
		t.Errorf("answer = %q, %v, want %q", reply[:n], err, want)
	}
	if fs.panics.count.Load() != 1 {
		t.Error("the exit was not counted")
	}
}

func TestGuardTellsTheObserver(t *testing.T) {
	type seen struct {
		op    string
		bytes int
		errno syscall.Errno
	}
	var got []seen
	var log strings.Builder
	fs := guarded(&log, Options{Observe: func(op string, took time.Duration, bytes int, errno syscall.Errno) {
		if took < 0 {
			t.Errorf("%s took %v", op, took)
		}
		got = append(got, seen{op, bytes, errno})
	}})
	func() (status gofuse.Status) {
		op := fs.begin("good", nil, &status)
		defer op.end(&status)
		op.bytes = 12
		return gofuse.OK
	}()
	func() (status gofuse.Status) {
		op := fs.begin("bad", nil, &status)
		defer op.end(&status)
		return gofuse.ENOENT
	}()
	func() (status gofuse.Status) {
		op := fs.begin("ugly", nil, &status)
		defer op.end(&status)
		panic("ugly")
	}()
	want := []seen{{"good", 12, 0}, {"bad", 0, syscall.ENOENT}, {"ugly", 0, syscall.EIO}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("observed %v, want %v", got, want)
	}
}

func TestGuardCostsNoAllocation(t *testing.T) {
	var log strings.Builder
	fs := guarded(&log, Options{})
	header := &gofuse.InHeader{Unique: 7}
	n := testing.AllocsPerRun(100, func() {
		func() (status gofuse.Status) {
			op := fs.begin("good", header, &status)
			defer op.end(&status)
			return gofuse.OK
		}()
	})
	if n != 0 {
		t.Errorf("%v allocations per operation", n)
	}
}

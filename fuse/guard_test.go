package fuse

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"engramfs/store"
	"engramfs/store/storetest"
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

func TestGuardTellsWhoFollows(t *testing.T) {
	type seen struct {
		op     string
		ino    store.Ino
		unique uint64
		bytes  int
		errno  syscall.Errno
		why    error
	}
	type key struct{}
	var got []seen
	var log strings.Builder
	fs := guarded(&log, Options{Began: func(ctx context.Context, op string, ino store.Ino, unique uint64) (context.Context, func(int, syscall.Errno, error)) {
		if op == "passed over" {
			return ctx, nil
		}
		return context.WithValue(ctx, key{}, op), func(bytes int, errno syscall.Errno, err error) {
			got = append(got, seen{op, ino, unique, bytes, errno, err})
		}
	}})
	fs.ctx = t.Context()
	fs.store = storetest.New(t)
	serve := func(name string, header *gofuse.InHeader, fn func(op *operation) gofuse.Status) (status gofuse.Status) {
		op := fs.begin(name, header, &status)
		defer op.end(&status)
		return fn(&op)
	}
	header := func(unique uint64) *gofuse.InHeader { return &gofuse.InHeader{Unique: unique, NodeId: 5} }
	serve("good", header(1), func(op *operation) gofuse.Status {
		if ctx, _ := op.context(); ctx.Value(key{}) != "good" {
			t.Error("the store is not called with the context that Began has returned")
		}
		op.bytes = 12
		return gofuse.OK
	})
	serve("bad", header(2), func(op *operation) gofuse.Status { return op.status(store.ErrLocked) })
	serve("ugly", header(3), func(*operation) gofuse.Status { panic("ugly") })
	serve("forget", nil, func(*operation) gofuse.Status { return gofuse.OK }) // awaits no answer
	serve("passed over", header(4), func(op *operation) gofuse.Status {
		if ctx, _ := op.context(); ctx != fs.ctx {
			t.Error("another context")
		}
		return op.status(store.ErrLocked)
	})
	if len(got) != 3 {
		t.Fatalf("followed %v", got)
	}
	var died *store.PanicError
	if !errors.As(got[2].why, &died) || died.Op != "ugly" || died.Value != "ugly" || !strings.Contains(string(died.Stack), "guard_test.go") {
		t.Errorf("of the panic: %+v", got[2].why)
	}
	got[2].why = nil
	want := []seen{{"good", 5, 1, 12, 0, nil}, {"bad", 5, 2, 0, syscall.EBUSY, store.ErrLocked}, {"ugly", 5, 3, 0, syscall.EIO, nil}}
	if !slices.Equal(got, want) {
		t.Errorf("followed %v, want %v", got, want)
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

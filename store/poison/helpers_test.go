package poison_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"engramfs/store/poison"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if n, _, enabled := poison.OrderChecks(); enabled {
		fmt.Printf("lock order: %d acquisitions checked\n", n)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// record is one log line.
type record struct {
	level slog.Level
	msg   string
	attrs map[string]slog.Value
}

// logRecorder is a slog.Handler that keeps what is logged.
type logRecorder struct {
	mu      sync.Mutex // protects records
	records []record
}

func (l *logRecorder) Enabled(context.Context, slog.Level) bool { return true }
func (l *logRecorder) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logRecorder) WithGroup(string) slog.Handler            { return l }
func (l *logRecorder) Handle(_ context.Context, r slog.Record) error {
	rec := record{level: r.Level, msg: r.Message, attrs: map[string]slog.Value{}}
	r.Attrs(func(a slog.Attr) bool { rec.attrs[a.Key] = a.Value; return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, rec)
	return nil
}

// lines returns the records with the given message.
func (l *logRecorder) lines(msg string) []record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rs []record
	for _, r := range l.records {
		if r.msg == msg {
			rs = append(rs, r)
		}
	}
	return rs
}

// newRegistry returns a registry that logs to the recorder and is closed with the
// test.
func newRegistry(t testing.TB, o poison.RegistryOptions) (*poison.Registry, *logRecorder) {
	t.Helper()
	l := &logRecorder{}
	if o.Logger == nil {
		o.Logger = slog.New(l)
	}
	r := poison.NewRegistry(o)
	t.Cleanup(r.Close)
	return r, l
}

// pair is a value with an invariant: a == b.
type pair struct{ a, b int }

func newPair(t testing.TB) (*poison.Guarded[pair], *logRecorder) {
	t.Helper()
	r, l := newRegistry(t, poison.RegistryOptions{})
	return poison.New(r, "pair", poison.LockOptions{}, pair{}), l
}

// bump keeps the invariant.
func bump(p *pair) error { p.a++; p.b++; return nil }

// tear breaks the invariant and panics.
func tear(p *pair) error { p.a++; panic("torn") }

// repair is a rebuild that restores the invariant from a.
func repair(old *pair) (pair, error) { return pair{old.a, old.a}, nil }

// exit runs f on a goroutine of its own that f ends by Goexit, and waits.
func exit(f func()) (returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
		returned = true
	}()
	<-done
	return returned
}

// panics runs f and returns what it panics with.
func panics(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// wait waits for c to be closed, and for no more than ten seconds.
func wait(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s: nothing after 10 s\n%s", what, buf[:runtime.Stack(buf, true)])
	}
}

// eventually waits until ok holds, and for no more than ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 10 s", what)
		}
	}
}

// free checks that g is not held.
func free[T any](t testing.TB, g *poison.Guarded[T]) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Write("free", func(*T) error { return nil })
	}()
	wait(t, g.Name()+" is free", done)
}

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

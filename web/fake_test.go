package web

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/poison"
)

// fake is a store with one poisoned inode, whose methods answer what a test set.
type fake struct {
	locks    []store.LockStatus
	readOnly error
	report   *store.ResetReport
	err      error
	panics   bool

	mu     sync.Mutex
	called string // the last changing call
}

func (f *fake) calls() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.called
}

func (f *fake) call(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called = fmt.Sprintf(format, args...)
}

func (f *fake) Locks() []store.LockStatus {
	if f.panics {
		panic("boom")
	}
	return f.locks
}

func (f *fake) LockStatus(name string) (store.LockStatus, error) {
	for _, l := range f.locks {
		if l.Name == name {
			return l, nil
		}
	}
	return store.LockStatus{}, fmt.Errorf("lock %q: %w", name, fs.ErrNotExist)
}

func (f *fake) ResetLock(_ context.Context, name string, gen uint64, dryRun bool) (*store.ResetReport, error) {
	f.call("reset %s gen=%d dry=%t", name, gen, dryRun)
	report := *f.report
	report.DryRun = dryRun
	return &report, f.err
}

func (f *fake) ReadOnly() error { return f.readOnly }

func (f *fake) ArmFault(_ context.Context, path, point, cause string) error {
	f.call("arm %s %q %s", path, point, cause)
	return f.err
}

var poisonedAt = time.Date(2026, 3, 4, 14, 2, 11, 0, time.UTC)

func newFake() *fake {
	ev := &poison.Event{
		ID: "e1", Lock: "inode:7", Op: "rename", Cause: poison.Panic, Value: "boom",
		Stack: []byte("goroutine 1\n\tfile.go:1\n"), Gen: 3, At: poisonedAt, Also: []string{"inode:9"},
	}
	return &fake{
		locks: []store.LockStatus{
			{Name: "alloc", State: lockHealthy, Class: "durable"},
			{Name: "inode:7", State: lockPoisoned, Class: "durable", Path: "/photos/2024", Gen: 3, WritesRejected: 12, RecoveredReads: 1, Event: ev},
		},
		report: &store.ResetReport{Lock: "inode:7", Gen: 3, Path: "/photos/2024", Kept: []string{"1 handle"}, Reloaded: []string{}, Repaired: []string{}, Problems: []string{}},
	}
}

// rich is a fake with everything that a store may have besides.
type rich struct {
	*fake
	history []store.HistoryEntry // the newest first
	damage  []store.Damage
	tell    chan struct{} // each answer of Damaged waits for one; nil: none does
	check   func(context.Context) ([]string, error)
	hang    chan struct{} // what needs a lock waits for it; nil: it does not
}

func (f *rich) History(before uint64, limit int) ([]store.HistoryEntry, error) {
	list := slices.DeleteFunc(slices.Clone(f.history), func(e store.HistoryEntry) bool { return before > 0 && e.Seq >= before })
	return list[:min(limit, len(list))], nil
}

func (f *rich) Damaged() []store.Damage {
	if f.tell != nil {
		<-f.tell
	}
	return f.damage
}

func (f *rich) Check(ctx context.Context, _ store.CheckOptions) ([]store.Finding, error) {
	problems, err := f.check(ctx)
	var findings []store.Finding
	for _, p := range problems {
		findings = append(findings, store.Finding{Detail: p})
	}
	return findings, err
}

func (f *rich) wait() {
	if f.hang != nil {
		<-f.hang
	}
}

func (f *rich) StatFS(context.Context) (store.StatFS, error) {
	f.wait()
	return store.StatFS{Total: 500 << 30, Free: 312 << 30, Used: 141 << 30, Files: 48211}, nil
}
func (f *rich) FileCount(context.Context) int64 { f.wait(); return 46110 }
func (f *rich) DirCount(context.Context) int64  { f.wait(); return 2101 }

func newRich() *rich {
	f := &rich{fake: newFake(), check: func(context.Context) ([]string, error) { return nil, nil }}
	f.locks = []store.LockStatus{
		{Name: "alloc", State: lockHealthy, Class: "durable"}, {Name: "usage", State: lockHealthy, Class: "durable"},
		{Name: "dav-locks", State: lockHealthy, Class: "failclosed"}, f.locks[1],
	}
	f.history = []store.HistoryEntry{
		{Seq: 3, Kind: "poisoned", Lock: "inode:7", Gen: 3, Path: "/photos/2024", At: poisonedAt, Event: f.locks[3].Event},
		{Seq: 2, Kind: "reset", Lock: "usage", Gen: 1, At: poisonedAt.Add(-26 * time.Hour), Report: &store.ResetReport{Lock: "usage", Gen: 1, Kept: []string{}, Reloaded: []string{"files 3, were 2"}, Repaired: []string{}, Problems: []string{}}},
		{Seq: 1, Kind: "poisoned", Lock: "usage", Gen: 1, At: poisonedAt.Add(-27 * time.Hour), Event: &poison.Event{ID: "e0", Lock: "usage", Op: "usage_add", Cause: poison.Goexit, Gen: 1}},
	}
	return f
}

// now is the time of the fakes' server.
var now = poisonedAt.Add(3*time.Minute + 9*time.Second)

// richOptions are the options of a server that has everything.
func richOptions(f Store) Options {
	since := now.Add(-90 * time.Second)
	return Options{
		Store: f, Build: Build{Version: "v1.4.0", Go: "go1.26"}, Now: func() time.Time { return now },
		Drills: true, Points: store.FaultPoints(),
		Engine: func() EngineStats { return EngineStats{Engine: "pebble", DiskBytes: 210 << 20, Updates: 4711} },
		Handles: func() []OpenHandle {
			return []OpenHandle{{
				Path: "/photos/2024/sea.raw", Ino: 12, Door: "fuse", Opens: 2, Write: true, Since: &since,
				Openers: []Opener{{PID: 4711, Name: "darktable"}, {PID: 12}},
			}}
		},
		Mounts: func() []Mount { return []Mount{{Point: "/mnt/photos", State: "mounted", Detail: "passthrough"}} },
		Listeners: func() []Listener {
			return []Listener{{Door: "webdav", URL: "http://127.0.0.1:8080/", Auth: true}, {Door: "admin", URL: "http://127.0.0.1:8081/", Auth: true}}
		},
		Config: func() []Setting {
			return []Setting{{Name: "data", Value: "/var/lib/engramfs"}, {Name: "user", Value: "ann:hunter2", Secret: true}}
		},
		Copy: func() MetadataCopy {
			asOf := now.Add(-time.Second)
			return MetadataCopy{State: "current", AsOf: &asOf}
		},
		Jobs: []JobSpec{{Name: "scrub", Title: "Scrub", Doc: "Reads all content against its checksums.", Unit: "blocks", Run: func(ctx context.Context, progress func(done, total int64)) ([]string, error) {
			progress(2048, 10_000)
			<-ctx.Done()
			return nil, ctx.Err()
		}}},
	}
}

// addSamples gives a server an hour of figures with a gap.
func addSamples(a *Server) {
	for i := range 120 {
		at := now.Add(time.Duration(i-120) * 30 * time.Second)
		wave := float64((i*37)%23) + float64(i)/4
		p := func(f float64) *float64 { return &f }
		s := Sample{At: at, MemoryBytes: p(90e6 + wave*1e6), FreeBytes: p(312 << 30)}
		if i < 60 || i > 75 {
			s.Requests, s.Failed, s.Changes = p(wave*30), p(float64(i/100)*5), p(wave*4)
			s.LatencyP50, s.LatencyP99, s.BytesOut, s.BytesIn = p(0.0008), p(0.004+wave/5000), p(wave*1e6), p(wave*2e5)
		}
		a.samples.list = append(a.samples.list, s)
	}
	a.samples.last.at = now
}

// state is a server in one of the states of the health.
type state struct {
	name  string
	want  Status
	setup func(f *rich, o *Options) (after func(*Server))
}

var states = []state{
	{"online", Online, func(f *rich, _ *Options) func(*Server) {
		f.locks = f.locks[:3]
		f.history = f.history[1:]
		return nil
	}},
	{"degraded", Degraded, func(*rich, *Options) func(*Server) { return nil }},
	{"rebuilding", Rebuilding, func(*rich, *Options) func(*Server) {
		return func(a *Server) { a.resets.begin("inode:7", "/photos/2024", now.Add(-4*time.Second)) }
	}},
	{"damaged", Degraded, func(f *rich, _ *Options) func(*Server) {
		f.locks = f.locks[:3]
		name := "/films/a very long name of a film that does not end soon enough for a phone.mkv"
		f.damage = []store.Damage{
			{Path: name, Ino: 4, Kind: store.DamagedContent, Offset: 65536, Length: 65536, At: now.Add(-time.Hour), Err: "checksum"},
			{Path: name, Ino: 4, Kind: store.DamagedContent, Offset: 131072, Length: 65536, At: now.Add(-time.Hour), Err: "checksum"},
		}
		return nil
	}},
	{"second-copy", Degraded, func(f *rich, o *Options) func(*Server) {
		f.locks = f.locks[:3]
		asOf := now.Add(-7 * time.Minute)
		o.Copy = func() MetadataCopy {
			return MetadataCopy{State: "failed", AsOf: &asOf, Error: "write log-7: input/output error", Late: true}
		}
		return nil
	}},
	{"read-only", ReadOnly, func(f *rich, _ *Options) func(*Server) {
		f.readOnly = fmt.Errorf("%w: sync the journal: input/output error", store.ErrReadOnly)
		f.locks = f.locks[:3]
		return nil
	}},
	{"stuck", Stuck, func(f *rich, o *Options) func(*Server) {
		f.locks = append(f.locks[:3:3], store.LockStatus{Name: "inode:8", State: lockStuck, Class: "durable", Path: "/music/live"})
		stuck := &poison.Stuck{Lock: "inode:8", Op: "write_content", Mode: "write", Since: now.Add(-41 * time.Second)}
		o.Snapshot = func() poison.Snapshot {
			return poison.Snapshot{WatchedAt: now, Locks: []poison.LockHealth{{Name: "inode:8", Stuck: stuck}}}
		}
		return nil
	}},
	{"unknown", Unknown, func(f *rich, _ *Options) func(*Server) { f.panics = true; return nil }},
	{"several", Stuck, func(f *rich, o *Options) func(*Server) {
		f.locks[0] = store.LockStatus{Name: "alloc", State: lockPoisoned, Class: "durable", Gen: 4, Event: &poison.Event{
			ID: "e2", Lock: "alloc", Op: "alloc_ino", Cause: poison.Invariant, Gen: 4, At: now.Add(-time.Second),
		}}
		f.locks = append(f.locks, store.LockStatus{Name: "inode:8", State: lockStuck, Class: "durable", Path: "/music/live"})
		f.damage = []store.Damage{{Path: "/films/sea.mkv", Ino: 4, Kind: store.DamagedMissing, At: now.Add(-50 * time.Hour), Err: "no such file"}}
		o.Copy = func() MetadataCopy { return MetadataCopy{State: "behind", Late: true} }
		o.Notes = func() []string {
			return []string{"The server has crashed before this start: see crash-1.log in the data folder."}
		}
		return nil
	}},
}

// newState returns a server in s, with samples and a finished check.
func newState(t testing.TB, s state) *Server {
	t.Helper()
	f := newRich()
	o := richOptions(f)
	after := s.setup(f, &o)
	audit, err := OpenAudit(t.TempDir() + "/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	o.Audit = audit
	a := New(o)
	t.Cleanup(func() {
		a.Close()
		if err := audit.Close(); err != nil {
			t.Error(err)
		}
	})
	addSamples(a)
	for _, line := range []AuditLine{
		{ID: "1", At: now.Add(-26 * time.Hour), Actor: "ann", Via: "session", Action: "lock.reset", Target: "usage", Reason: "drill of March", Result: "done"},
		{ID: "2", At: now.Add(-time.Minute), Actor: "ann", Via: "session", Action: "lock.reset", Target: "inode:7", Result: "generation_stale"},
	} {
		if err := audit.append(line); err != nil {
			t.Fatal(err)
		}
	}
	if after != nil {
		after(a)
	}
	return a
}

// gate is an authentication of two users, ann and bob, whose password is "right".
// Eve has to wait.
func gate(o *Options) {
	o.Require = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			switch {
			case user == "eve":
				w.Header().Set("Retry-After", "7")
				http.Error(w, "wait", http.StatusTooManyRequests)
			case (user == "ann" || user == "bob") && password == "right":
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), gateKey{}, user)))
			default:
				w.Header().Set("WWW-Authenticate", "Basic")
				http.Error(w, "no", http.StatusUnauthorized)
			}
		})
	}
	o.Optional = func(next http.Handler) http.Handler { return next }
	o.Principal = func(r *http.Request) string {
		user, _ := r.Context().Value(gateKey{}).(string)
		return user
	}
}

type gateKey struct{}

// Headers of credentials.
const (
	basicAnn   = "Basic YW5uOnJpZ2h0"
	basicWrong = "Basic YW5uOndyb25n"
	basicEve   = "Basic ZXZlOnJpZ2h0"
)

var errTest = errors.New("test")

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"engramfs/store"
	"engramfs/store/poison"
	"engramfs/web"
)

// troubled is a store with one poisoned lock and one damaged file.
type troubled struct {
	mu      sync.Mutex
	gen     uint64 // of inode:7; 0: it has been reset
	fails   bool   // a reset finds a problem
	asked   []string
	check   func(context.Context) ([]string, error)
	history []store.HistoryEntry
}

var poisonedAt = time.Date(2026, 3, 4, 14, 2, 11, 0, time.UTC)

func newTroubled() *troubled {
	f := &troubled{gen: 3, check: func(context.Context) ([]string, error) { return nil, nil }}
	f.history = []store.HistoryEntry{
		{Seq: 2, Kind: "reset", Lock: "usage", Gen: 1, Source: "admin", At: poisonedAt.Add(-time.Hour), Report: &store.ResetReport{
			Lock: "usage", Gen: 1, Kept: []string{}, Reloaded: []string{"files 3, were 2"}, Repaired: []string{}, Problems: []string{}, Took: 1234 * time.Microsecond}},
		{Seq: 1, Kind: "poisoned", Lock: "usage", Gen: 1, At: poisonedAt.Add(-2 * time.Hour), Event: &poison.Event{
			ID: "e0", Lock: "usage", Op: "usage_add", Cause: poison.Goexit, Gen: 1, Stack: []byte("goroutine 1 [running]:\nmain.f()\n\tfile.go:7\n")}},
	}
	return f
}

func (f *troubled) status() store.LockStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := store.LockStatus{Name: "inode:7", State: "healthy", Class: "durable", Path: "/photos/\x1b[2J\n2024"}
	if f.gen > 0 {
		l.State, l.Gen, l.WritesRejected, l.RecoveredReads = "poisoned", f.gen, 12, 1
		l.Event = &poison.Event{ID: "e1", Lock: "inode:7", Op: "rename", Cause: poison.Panic, Value: "boom", Gen: f.gen, At: poisonedAt,
			Stack: []byte("goroutine 1 [running]:\nmain.f()\n\tfile.go:7\n"), Also: []string{"inode:9"}}
	}
	return l
}

func (f *troubled) Locks() []store.LockStatus {
	l := []store.LockStatus{{Name: "alloc", State: "healthy", Class: "durable"}}
	if s := f.status(); s.Gen > 0 {
		l = append(l, s)
	}
	return l
}

func (f *troubled) LockStatus(name string) (store.LockStatus, error) {
	if name != "inode:7" {
		return store.LockStatus{}, fmt.Errorf("lock %q: %w", name, fs.ErrNotExist)
	}
	return f.status(), nil
}

func (f *troubled) ResetLock(_ context.Context, name string, gen uint64, dryRun bool) (*store.ResetReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf("%s gen=%d dry=%t", name, gen, dryRun))
	r := &store.ResetReport{Lock: name, Gen: gen, DryRun: dryRun, Kept: []string{"1 handle"}, Reloaded: []string{"size 5, was 4", "mtime"}, Repaired: []string{}, Problems: []string{}, Took: 12 * time.Millisecond}
	switch {
	case gen != f.gen:
		return r, poison.ErrStale
	case f.fails:
		r.Problems = []string{"dirent of /x: no inode"}
		return r, store.ErrDamaged
	case !dryRun:
		f.gen = 0
	}
	return r, nil
}

func (f *troubled) resets() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.asked, "; ")
}

func (f *troubled) ReadOnly() error                                     { return nil }
func (f *troubled) ArmFault(_ context.Context, path, _, _ string) error { return nil }
func (f *troubled) History(before uint64, limit int) ([]store.HistoryEntry, error) {
	list := slices.DeleteFunc(slices.Clone(f.history), func(e store.HistoryEntry) bool { return before > 0 && e.Seq >= before })
	return list[:min(limit, len(list))], nil
}
func (f *troubled) Damaged() []store.Damage {
	return []store.Damage{{Ino: 4, Path: "/films/a.mkv", Kind: store.DamagedContent, Offset: 65536, Length: 65536, At: poisonedAt.Add(-time.Hour), Err: "checksum"}}
}

const goodToken = "0123456789abcdef0123456789abcdef"

// serveAdmin serves the admin surface of f, to the token and to ann, whose password
// is "hunter2".
func serveAdmin(t *testing.T, f web.Store, change ...func(*web.Options)) *httptest.Server {
	t.Helper()
	audit, err := web.OpenAudit(filepath.Join(t.TempDir(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	since := poisonedAt.Add(-time.Minute)
	o := web.Options{
		Store: f, Build: web.Build{Version: "v1.4.0", Go: "go1.26"}, Now: func() time.Time { return poisonedAt.Add(time.Minute) },
		Drills: true, Points: store.FaultPoints()[:4], Token: goodToken, Audit: audit,
		Require: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if user, password, _ := r.BasicAuth(); user != "ann" || password != "hunter2" {
					http.Error(w, "no", http.StatusUnauthorized)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		Optional:  func(next http.Handler) http.Handler { return next },
		Principal: func(r *http.Request) string { user, _, _ := r.BasicAuth(); return user },
		Handles: func() []web.OpenHandle {
			return []web.OpenHandle{{Path: "/photos/sea.raw", Ino: 12, Door: "fuse", Opens: 2, Write: true, Since: &since, Openers: []web.Opener{{PID: 71, Name: "vi\x1bm"}, {PID: 4711}}}, {Path: "/a", Ino: 5, Door: "webdav", Opens: 1}}
		},
	}
	for _, c := range change {
		c(&o)
	}
	a := web.New(o)
	s := httptest.NewServer(a)
	t.Cleanup(func() {
		s.Close()
		a.Close()
		if err := audit.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// dataWith returns a data folder with a token.
func dataWith(t *testing.T, token string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, tokenFile), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// admin runs engramfs admin against s as the local server of a data folder.
func admin(t *testing.T, s *httptest.Server, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runProgram(t, append([]string{"admin", "--admin", s.Listener.Addr().String(), "--data", dataWith(t, goodToken)}, args...)...)
}

func runProgram(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// adminTables are the commands that show something, and what they show of newTroubled.
var adminTables = map[string]struct {
	args string
	code int
	want string
}{
	"health": {"health", exitRun, `
State:    DEGRADED
Problem:  lock inode:7 (/photos/\x1b[2J\n2024) is poisoned since 2026-03-04 14:02:11 UTC (panic in rename): its writes are refused, its reads are served (and 1 more)
Action:   engramfs admin reset inode:7
Locks:    2 listed, 1 poisoned, 0 stuck
Damaged:  1, see engramfs admin damaged
Server:   v1.4.0 go1.26

SINCE (UTC)          TROUBLE   LOCK     ACTION                                                       PATH
2026-03-04 14:02:11  poisoned  inode:7  engramfs admin reset inode:7                                 /photos/\x1b[2J\n2024
2026-03-04 13:02:11  damaged   -        put the file again from a copy, or restore it from a backup  /films/a.mkv
`},
	"locks": {"locks", exitClean, `
LOCK     STATE     GEN  SINCE (UTC)          CAUSE  OPERATION  REFUSED  PATH
alloc    healthy   -    -                    -      -          -        -
inode:7  poisoned  3    2026-03-04 14:02:11  panic  rename     12       /photos/\x1b[2J\n2024
`},
	"lock": {"locks inode:7", exitClean, `
Lock:     inode:7
State:    poisoned
Path:     /photos/\x1b[2J\n2024
Gen:      3
Since:    2026-03-04 14:02:11 UTC
Why:      panic in rename
Value:    boom
Also:     inode:9
Refused:  12 writes; 1 reads served marked as degraded

  goroutine 1 [running]:
  main.f()
      file.go:7
`},
	"events": {"events", exitClean, `
EVENT  TIME (UTC)           WHAT      LOCK   GEN  BY                   PATH
2      2026-03-04 13:02:11  reset     usage  1    admin                -
1      2026-03-04 12:02:11  poisoned  usage  1    goexit in usage_add  -
`},
	"page of events": {"events --limit 1", exitClean, `
EVENT  TIME (UTC)           WHAT   LOCK   GEN  BY     PATH
2      2026-03-04 13:02:11  reset  usage  1    admin  -

older ones: --before 2
`},
	"poisoning": {"events 1", exitClean, `
Event:    1
What:     poisoned
Time:     2026-03-04 12:02:11 UTC
Lock:     usage
Gen:      1
By:       goexit in usage_add

  goroutine 1 [running]:
  main.f()
      file.go:7
`},
	"event of a reset": {"events 2", exitClean, `
Event:    2
What:     reset
Time:     2026-03-04 13:02:11 UTC
Lock:     usage
Gen:      1
By:       admin
Report:   reset, generation 1
Kept:     none
Reloaded: files 3, were 2
Repaired: none
Problems: none
Took:     1.23ms
`},
	"handles": {"handles", exitClean, `
INODE  DOOR    OPENS  MODE   SINCE (UTC)          BY                        PATH
12     fuse    2      write  2026-03-04 14:01:11  vi\x1bm pid 71, pid 4711  /photos/sea.raw
5      webdav  1      read   -                    -                         /a
`},
	"damaged": {"damaged", exitRun, `
INODE  OFFSET  SINCE (UTC)          ERROR     PATH
4      65536   2026-03-04 13:02:11  checksum  /films/a.mkv
`},
	"drill points": {"drill", exitClean, `
POINT          EFFECT   WHERE
upload:write   fails    an upload's bytes are being taken in; no lock is held
upload:sync    fails    an upload is complete and about to be synced; no lock is held
clone:tree     fails    a tree is being copied beside the visible tree; no lock is held
write:content  poisons  a file's content is about to be changed in place

causes: panic, goexit, error, hold
`},
	"drill": {"drill /photos/a --cause goexit --point write:content", exitClean, `
Armed:    /photos/a
Strikes:  once, at write:content
Cause:    goexit
`},
}

// Each command prints its table, or with --json the answer as it is, and ends with the
// same exit code. Neither depends on where the administrator sits.
func TestAdminTables(t *testing.T) {
	s := serveAdmin(t, newTroubled())
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	for name, tc := range adminTables {
		t.Run(name, func(t *testing.T) {
			code, out, errs := admin(t, s, strings.Fields(tc.args)...)
			if code != tc.code || errs != "" || out != tc.want[1:] {
				t.Errorf("exit %d, want %d\n%s\nwant:%s\nstderr: %s", code, tc.code, out, tc.want, errs)
			}
			code, out, errs = admin(t, s, append(strings.Fields(tc.args), "--json")...)
			if code != tc.code || errs != "" || !json.Valid([]byte(out)) || out[0] != '{' {
				t.Errorf("with --json: exit %d, want %d\n%s\nstderr: %s", code, tc.code, out, errs)
			}
		})
	}
}

// A new command must not stay without a test of what it prints.
func TestEveryAdminCommandIsTested(t *testing.T) {
	elsewhere := map[string]string{
		"reset": "TestResetReports", "check": "TestCheckTellsItsResult", "scrub": "TestScrubIsJoinedAndFollowed",
		"audit": "TestAdminAuditNamesTheToken", "salvage": "TestAdminSalvages",
	}
	tested := map[string]bool{}
	for _, tc := range adminTables {
		name, _, _ := strings.Cut(tc.args, " ")
		tested[name] = true
	}
	for _, cmd := range command(t, "admin").Children {
		if !tested[cmd.Name] && elsewhere[cmd.Name] == "" {
			t.Errorf("admin %s has no test", cmd.Name)
		}
		if cmd.Help == "" {
			t.Errorf("admin %s has no help", cmd.Name)
		}
	}
}

// command returns a command of the program.
func command(t *testing.T, name string) *kong.Node {
	t.Helper()
	k, err := kong.New(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range k.Model.Children {
		if cmd.Name == name {
			return cmd
		}
	}
	t.Fatalf("no %s command", name)
	return nil
}

func TestAdminAuditNamesTheToken(t *testing.T) {
	s := serveAdmin(t, newTroubled())
	if code, out, errs := admin(t, s, "reset", "inode:7", "--yes", "--reason", "disk\tchanged"); code != exitClean {
		t.Fatalf("reset: exit %d\n%s%s", code, out, errs)
	}
	_, out, _ := admin(t, s, "audit")
	want := "TIME (UTC)           WHO    VIA    ACTION      TARGET   RESULT  REASON\n" +
		"2026-03-04 14:03:11  token  token  lock.reset  inode:7  done    disk\\tchanged\n"
	if out != want {
		t.Errorf("audit:\n%s\nwant:\n%s", out, want)
	}
	if code, out, _ := admin(t, s, "audit", "--json"); code != exitClean || !json.Valid([]byte(out)) || !strings.Contains(out, `"action": "lock.reset"`) {
		t.Errorf("audit --json: exit %d\n%s", code, out)
	}
}

func TestAdminJSONIsTheAnswer(t *testing.T) {
	s := serveAdmin(t, newTroubled())
	_, want := do(t, s.Client(), http.MethodGet, s.URL+"/api/v1/locks", "", "Authorization", "Bearer "+goodToken)
	if code, out, _ := admin(t, s, "locks", "--json"); code != exitClean || out != want {
		t.Errorf("exit %d\n%s\nwant\n%s", code, out, want)
	}
	code, out, errs := admin(t, s, "reset", "inode:7", "--yes", "--gen", "2", "--json")
	if code != exitRun || !strings.Contains(out, `"code": "generation_stale"`) || !strings.Contains(errs, "generation_stale") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if code, out, _ := admin(t, s, "health", "--json"); code != exitRun || !strings.Contains(out, `"status": "degraded"`) {
		t.Errorf("health: exit %d\n%s", code, out)
	}
}

func TestAdminCredentials(t *testing.T) {
	s := serveAdmin(t, newTroubled())
	address := s.Listener.Addr().String()
	good, bad, empty := dataWith(t, goodToken), dataWith(t, strings.Repeat("x", 32)), t.TempDir()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "engramfs.yaml")
	if err := os.WriteFile(config, []byte("admin: "+address+"\ndata: "+good+"\nuser: [ann:hunter2]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args string
		env  string // ENGRAMFS_PASSWORD
		code int
		want string // in stderr
	}{
		"token of the data folder":    {args: "--admin " + address + " --data " + good},
		"configuration of the server": {args: "--config " + config},
		"another folder's token":      {args: "--admin " + address + " --data " + bad, code: exitNone, want: "does not take the token in " + bad},
		"no token":                    {args: "--admin " + address + " --data " + empty, code: exitNone, want: "wants credentials"},
		"token file":                  {args: "--url " + s.URL + "/ --token-file " + good + "/admin-token"},
		"token not sent to a URL":     {args: "--url " + s.URL + " --data " + good, code: exitNone, want: "give --token-file or --login"},
		"missing token file":          {args: "--url " + s.URL + " --token-file " + empty + "/nothing", code: exitUsage, want: "no such file"},
		"password file":               {args: "--admin " + address + " --login ann --password-file " + password},
		"password variable":           {args: "--admin " + address + " --login ann", env: "hunter2"},
		"wrong password":              {args: "--admin " + address + " --login ann", env: "wrong", code: exitNone, want: "does not take the user ann"},
		"no password":                 {args: "--admin " + address + " --login ann", code: exitUsage, want: "--login needs"},
		"two kinds":                   {args: "--admin " + address + " --login ann --token-file x", env: "hunter2", code: exitUsage, want: "exclude"},
		"other machine without TLS":   {args: "--url http://192.0.2.1:8081 --token-file " + good + "/admin-token", code: exitUsage, want: "unencrypted"},
		"user in the URL":             {args: "--url http://ann:hunter2@127.0.0.1:8081", code: exitUsage, want: "without a user"},
		"no admin listener":           {args: "--admin none", code: exitUsage, want: "no admin listener"},
		"not an address":              {args: "--admin 8081", code: exitUsage, want: "HOST:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.env != "" {
				t.Setenv(passwordEnv, tc.env)
			}
			code, out, errs := runProgram(t, append(append([]string{"admin"}, strings.Fields(tc.args)...), "locks")...)
			if code != tc.code || !strings.Contains(errs, tc.want) || (code == exitClean) != strings.Contains(out, "alloc") {
				t.Errorf("exit %d, want %d with %q\n%s%s", code, tc.code, tc.want, out, errs)
			}
			for _, secret := range []string{goodToken, "hunter2", "wrong"} {
				if strings.Contains(out+errs, secret) {
					t.Errorf("%s is shown:\n%s%s", secret, out, errs)
				}
			}
		})
	}
	code, out, _ := runProgram(t, "admin", "--url", s.URL, "health")
	if want := "State:    DEGRADED\nDetails:  only with credentials: see --data, --token-file and --login\n"; code != exitRun || out != want {
		t.Errorf("health without credentials: exit %d\n%s", code, out)
	}
}

func TestAdminKnowsWhenNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	l.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved/api/v1/locks":
			http.Redirect(w, r, "/api/v1/locks", http.StatusFound)
		case "/json/api/v1/locks":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `[1]`)
		default:
			fmt.Fprint(w, "hello")
		}
	}))
	defer other.Close()
	for url, want := range map[string]string{
		"http://" + free:     "is the server running",
		other.URL:            "not the answer of an engramfs server",
		other.URL + "/moved": "302 Found, not the answer",
		other.URL + "/json":  "another version",
	} {
		if code, out, errs := runProgram(t, "admin", "--url", url, "locks"); code != exitNone || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d\n%s%s", url, code, out, errs)
		}
	}
}

func TestAdminSaysWhatAServerLacks(t *testing.T) {
	s := serveAdmin(t, newTroubled(), func(o *web.Options) { o.Handles, o.Drills = nil, false })
	for args, want := range map[string]string{
		"handles":             "not_available",
		"drill /a":            "drills_disabled",
		"scrub":               "this server does not have that job",
		"scrub status":        "this server does not have that job",
		"events 99":           "not_found",
		"locks inode:99":      "not_found",
		"reset --yes inode:9": "not_found",
	} {
		if code, _, errs := admin(t, s, strings.Fields(args)...); code != exitRun || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
	for _, args := range []string{"events --limit 0", "drill not/absolute --cause panic", "drill /a --cause fire", "check again", "reset"} {
		s := serveAdmin(t, newTroubled())
		if code, _, errs := admin(t, s, strings.Fields(args)...); code != exitUsage {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
}

func TestAdminHealsARealServer(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	s := start(t, data, "--user=ann:hunter2hunter2", "--enable-drills")
	put := func(status int, text string) {
		t.Helper()
		s.want(status, "PUT", s.url+"a.txt", text, "X-Test-User", "ann:hunter2hunter2")
	}
	put(http.StatusCreated, "one")
	address := strings.Trim(strings.TrimPrefix(s.admin, "http:"), "/")
	ask := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := runProgram(t, append([]string{"admin", "--admin", address, "--data", data}, args...)...)
		if code != want {
			t.Fatalf("%v: exit %d, want %d\n%s%s", args, code, want, out, errs)
		}
		return out
	}
	if out := ask(exitClean, "health"); !strings.HasPrefix(out, "State:    ONLINE\nProblem:  none known\n") {
		t.Errorf("health:\n%s", out)
	}
	ask(exitClean, "drill", "/a.txt")
	put(http.StatusServiceUnavailable, "two")
	out := ask(exitRun, "health")
	_, action, _ := strings.Cut(out, "Action:   engramfs admin reset ")
	lock, _, ok := strings.Cut(action, "\n")
	if !ok || !strings.Contains(out, "/a.txt") {
		t.Fatalf("health:\n%s", out)
	}
	if out := ask(exitClean, "locks", lock); !strings.Contains(out, "goroutine") {
		t.Errorf("no stack:\n%s", out)
	}
	ask(exitClean, "reset", lock, "--dry-run")
	ask(exitRun, "health")
	ask(exitClean, "reset", lock, "--yes", "--reason", "the drill is over")
	put(http.StatusNoContent, "three")
	ask(exitClean, "health")
	ask(exitClean, "check")
	if out := ask(exitClean, "events"); !strings.Contains(out, "poisoned") || !strings.Contains(out, "reset") {
		t.Errorf("events:\n%s", out)
	}
	if out := ask(exitClean, "audit"); !strings.Contains(out, "drill.arm") || !strings.Contains(out, "the drill is over") {
		t.Errorf("audit:\n%s", out)
	}
}

func (f *troubled) Check(ctx context.Context, _ store.CheckOptions) ([]store.Finding, error) {
	problems, err := f.check(ctx)
	var findings []store.Finding
	for _, p := range problems {
		findings = append(findings, store.Finding{Detail: p})
	}
	return findings, err
}

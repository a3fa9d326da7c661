package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"engramfs/internal/bench/httpwire"
)

// lockInfo is what the admin listener says of a lock, as far as it is used here.
type lockInfo struct {
	Name  string `json:"name"`
	Path  string `json:"path"`
	State string `json:"state"`
	Gen   uint64 `json:"gen"`
}

func TestPoisonedInodeLeavesTheRestInService(t *testing.T) {
	for _, cause := range []string{"panic", "goexit"} {
		t.Run(cause, func(t *testing.T) { poisonAndHeal(t, cause) })
	}
}

func poisonAndHeal(t *testing.T, cause string) {
	s := start(t, "--enable-drills")
	d := connect(t, s)
	admin := NewDAV(s.Admin, "", time.Minute)
	t.Cleanup(admin.Close)
	must(t, d, "MKCOL", "/photos", nil, nil, 201)
	old := Content(7, 30_000)
	must(t, d, "PUT", "/photos/victim.jpg", nil, old, 201)
	etag := header(t, d, "/photos/victim.jpg", "ETag")

	drill := fmt.Sprintf(`{"path": "/photos/victim.jpg", "point": "", "cause": %q}`, cause)
	must(t, admin, "POST", "/api/v1/drills", []string{"Content-Type: application/json"}, []byte(drill), 200, 201, 202, 204)
	// Goexit ends the goroutine that would answer, and so the connection.
	r, _, err := d.Do("PUT", "/photos/victim.jpg", nil, Content(8, 30_000))
	if status(r) != 503 && !(cause == "goexit" && err != nil) {
		t.Fatalf("PUT with the drill armed = %d, %v, want 503", status(r), err)
	}

	load := startMixedLoad(s)
	checkPoisoned(t, d, "/photos/victim.jpg", old)
	lock := poisonedLock(t, admin, "/photos/victim.jpg")
	resetPoisoned(t, admin, lock)
	if n, err := load.stop(); err != nil {
		t.Errorf("load on other files, operation %d: %v", n, err)
	} else if n < 100 {
		t.Errorf("only %d operations on other files while one was poisoned", n)
	} else {
		t.Logf("%d operations on other files, 0 errors", n)
	}

	if got := must(t, d, "GET", "/photos/victim.jpg", nil, nil, 200); !bytes.Equal(got, old) {
		t.Errorf("after the reset %d bytes that are not the old content", len(got))
	}
	if got := header(t, d, "/photos/victim.jpg", "EngramFS-Degraded"); got != "" {
		t.Errorf("after the reset EngramFS-Degraded: %s", got)
	}
	if got := header(t, d, "/photos/victim.jpg", "ETag"); got == "" || etag == "" {
		t.Errorf("ETag %q before and %q after, want both", etag, got)
	}
	must(t, d, "PUT", "/photos/victim.jpg", nil, Content(9, 30_000), 204)
	if got := must(t, d, "GET", "/photos/victim.jpg", nil, nil, 200); !bytes.Equal(got, Content(9, 30_000)) {
		t.Errorf("the write after the reset is not what is read")
	}
}

func header(t *testing.T, d *DAV, path, name string) string {
	t.Helper()
	r, _, err := d.Do("GET", path, nil, nil)
	if err != nil || r.Status != 200 {
		t.Fatalf("GET %s: %v, status %d", path, err, status(r))
	}
	return r.Header(name)
}

// checkPoisoned asserts what a client sees of a poisoned file.
func checkPoisoned(t *testing.T, d *DAV, path string, old []byte) {
	t.Helper()
	r, body, err := d.Do("PUT", path, nil, []byte("new"))
	if err != nil || r.Status != 503 || r.Header("Retry-After") == "" {
		t.Fatalf("PUT = %d (%v), Retry-After %q, want 503 and a time", status(r), err, r.Header("Retry-After"))
	}
	if bytes.Contains(body, []byte("goroutine")) || bytes.Contains(body, []byte(".go:")) {
		t.Errorf("the refusal shows a stack: %s", body)
	}
	r, body, err = d.Do("GET", path, nil, nil)
	if err != nil || r.Status != 200 || !bytes.Equal(body, old) {
		t.Fatalf("GET = %d (%v) with %d bytes, want 200 and the old content", status(r), err, len(body))
	}
	mark := r.Header("EngramFS-Degraded")
	if !strings.HasPrefix(mark, "inode:") || !strings.Contains(mark, "gen=") {
		t.Errorf("EngramFS-Degraded: %q, want inode:<ino>; gen=<n>", mark)
	}
	if r.Header("ETag") != "" || !strings.Contains(r.Header("Cache-Control"), "no-store") {
		t.Errorf("recovered data with ETag %q and Cache-Control %q, want none and no-store", r.Header("ETag"), r.Header("Cache-Control"))
	}
}

// poisonedLock finds the one poisoned lock and asserts that it is path's.
func poisonedLock(t *testing.T, admin *DAV, path string) lockInfo {
	t.Helper()
	text := must(t, admin, "GET", "/api/v1/locks", nil, nil, 200)
	var list struct {
		Locks []lockInfo `json:"locks"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatalf("GET /api/v1/locks: %v\n%s", err, text)
	}
	var poisoned []lockInfo
	for _, l := range list.Locks {
		if l.State == "poisoned" {
			poisoned = append(poisoned, l)
		}
	}
	if len(poisoned) != 1 || poisoned[0].Path != path || !strings.HasPrefix(poisoned[0].Name, "inode:") {
		t.Fatalf("poisoned locks %+v, want one inode lock with path %s\n%s", poisoned, path, text)
	}
	return poisoned[0]
}

// resetPoisoned resets a lock as an admin does: not with an old generation,
// first dry, then in earnest.
func resetPoisoned(t *testing.T, admin *DAV, l lockInfo) {
	t.Helper()
	url := "/api/v1/locks/" + l.Name + "/reset"
	match := func(gen uint64) []string { return []string{fmt.Sprintf(`If-Match: "%d"`, gen)} }
	must(t, admin, "POST", url, match(l.Gen+1), nil, 412)
	dry, _, err := admin.query("POST", url, "dry_run=1", match(l.Gen))
	if err != nil || dry.Status != 200 {
		t.Fatalf("dry run of the reset: %v, status %d", err, status(dry))
	}
	must(t, admin, "GET", "/api/v1/locks/"+l.Name, nil, nil, 200)
	if again := poisonedLock(t, admin, l.Path); again.Gen != l.Gen {
		t.Fatalf("the dry run changed the generation from %d to %d", l.Gen, again.Gen)
	}
	must(t, admin, "POST", url, match(l.Gen), nil, 200)
}

// mixedLoad is reads and writes on files of their own, by several clients.
type mixedLoad struct {
	end  chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	n    int
	errs []error
}

func startMixedLoad(s *Server) *mixedLoad {
	l := &mixedLoad{end: make(chan struct{})}
	for i := range 4 {
		l.wg.Go(func() {
			d := NewDAV(s.Addr, "", time.Minute)
			defer d.Close()
			for n := 0; ; n++ {
				done, err := l.turn(d, fmt.Sprintf("/photos/other-%d-%d", i, n))
				l.mu.Lock()
				l.n += done
				if err != nil {
					l.errs = append(l.errs, err)
				}
				l.mu.Unlock()
				select {
				case <-l.end:
					return
				default:
				}
				if err != nil {
					return
				}
			}
		})
	}
	return l
}

// turn is the life of one file beside the poisoned one.
func (l *mixedLoad) turn(d *DAV, p string) (int, error) {
	body := Content(uint64(len(p)), 5000)
	steps := []func() (*httpwire.Response, error){
		func() (*httpwire.Response, error) { r, _, err := d.Do("PUT", p, nil, body); return r, err },
		func() (*httpwire.Response, error) {
			r, got, err := d.Do("GET", p, nil, nil)
			if err == nil && (!bytes.Equal(got, body) || r.Header("EngramFS-Degraded") != "") {
				err = fmt.Errorf("%d bytes, EngramFS-Degraded %q", len(got), r.Header("EngramFS-Degraded"))
			}
			return r, err
		},
		func() (*httpwire.Response, error) { return d.Transfer("MOVE", p, p+"-moved") },
		func() (*httpwire.Response, error) { return d.Transfer("COPY", p+"-moved", p) },
		func() (*httpwire.Response, error) { r, _, err := d.Do("DELETE", p, nil, nil); return r, err },
	}
	for i, step := range steps {
		if r, err := step(); err != nil || !r.OK() {
			return i, fmt.Errorf("step %d of %s: %v, status %d", i, p, err, status(r))
		}
	}
	return len(steps), nil
}

// stop ends the load when each client has done some turns, and returns how many
// operations succeeded and the first error.
func (l *mixedLoad) stop() (int, error) {
	time.Sleep(300 * time.Millisecond)
	close(l.end)
	l.wg.Wait()
	if len(l.errs) > 0 {
		return l.n, l.errs[0]
	}
	return l.n, nil
}

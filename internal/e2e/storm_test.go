package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stormTime is how long the storm lasts: ENGRAMFS_STORM in seconds, or an hour in the
// long form and 20 s in the short one.
func stormTime(t *testing.T) time.Duration {
	t.Helper()
	v := os.Getenv("ENGRAMFS_STORM")
	if v == "" && long() {
		return time.Hour
	}
	if v == "" {
		return 20 * time.Second
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("ENGRAMFS_STORM=%q is no number of seconds", v)
	}
	return time.Duration(n) * time.Second
}

// TestStormThroughBothDoors lets programs on the mount and WebDAV clients work at
// once while writers in other folders die in the middle of their changes and are reset,
// and while the check and the scrub, which must find nothing, run one after the other.
// At the end everything is as the models say, the store passes its check, and the
// server's memory, descriptors and threads are what they were.
func TestStormThroughBothDoors(t *testing.T) {
	lasts := stormTime(t)
	seed := fsxSeed(t)
	k := newKillLoad(t, seed, Options{Binary: engramfs, Args: []string{"--enable-drills"}})
	for range 3 {
		k.addClient(t, seed)
	}
	var stop atomic.Bool
	w := newWeather(t, k)
	w.over = &stop
	warm := min(lasts/4, time.Minute)
	end := k.m.Watch(lasts + 3*time.Minute)
	defer end()
	var wg sync.WaitGroup
	errs := make(chan error, 32)
	work := func(fn func() error) {
		wg.Go(func() {
			for !stop.Load() {
				if err := fn(); err != nil {
					errs <- err
					stop.Store(true)
				}
			}
		})
	}
	for _, f := range k.files {
		work(func() error { return f.turn() })
	}
	for _, c := range k.clients {
		d := connect(t, k.m.Server)
		work(func() error { return c.turn(d) })
	}
	work(w.strike)
	work(w.inspect)
	time.Sleep(warm)
	before := usageOf(t, k.m.Server)
	for begin := time.Now(); time.Since(begin) < lasts-warm && !stop.Load(); time.Sleep(20 * time.Millisecond) {
	}
	after := usageOf(t, k.m.Server)
	stop.Store(true)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for _, f := range k.files {
		f.release()
	}
	if err := k.verify(); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if err := after.grown(before); err != nil {
		t.Error(err)
	}
	k.m.Stop()
	mustBeClean(t, k.m.Server)
	k.reportStorm(lasts, w, before, after)
}

// addClient adds a WebDAV client with a folder of its own.
func (k *killLoad) addClient(t *testing.T, seed uint64) {
	t.Helper()
	n := len(k.clients)
	c := &writer{author: author{root: fmt.Sprintf("/c%d", n), rng: rand.New(rand.NewPCG(seed, 100+uint64(n)))}, state: model{}}
	must(t, connect(t, k.m.Server), "MKCOL", c.root, nil, nil, 201)
	k.clients = append(k.clients, c)
}

// turn does one thing. All of it must succeed: what dies is elsewhere.
func (w *crashWorker) turn() error {
	if err := w.operation(); err != nil {
		return fmt.Errorf("%s\nlast operations:\n%s", describeErrno(err), w.recent(""))
	}
	w.acked++
	w.log = w.log[max(0, len(w.log)-200):]
	if w.acked%50 == 0 {
		return w.syncDir() // so that the states that count stay few
	}
	return nil
}

// turn sends one request, which must succeed.
func (w *writer) turn(d *DAV) error {
	o := w.next(w.state)
	w.log = append(w.log[max(0, len(w.log)-50):], o.String())
	code, err := o.send(d)
	if err != nil || !o.succeeded(code) {
		return fmt.Errorf("%s = %d, %v", o, code, err)
	}
	w.state = o.next
	w.acked++
	return nil
}

// weather makes writers die and heals what they leave.
type weather struct {
	m        *Mounted
	d, admin *DAV
	jobs     *DAV // used by inspect alone
	over     *atomic.Bool
	rng      *rand.Rand
	content  []byte
	strikes  int
	resets   int
	checks   int
	scrubs   int
}

const struck = "/storm/victim"

func newWeather(t *testing.T, k *killLoad) *weather {
	t.Helper()
	w := &weather{m: k.m, d: connect(t, k.m.Server), admin: NewDAV(k.m.Admin, "", time.Minute), jobs: NewDAV(k.m.Admin, "", time.Minute), rng: rand.New(rand.NewPCG(1, 2))}
	t.Cleanup(w.admin.Close)
	t.Cleanup(w.jobs.Close)
	w.content = Content(1, 30_000)
	must(t, w.d, "MKCOL", "/storm", nil, nil, 201)
	must(t, w.d, "PUT", struck, nil, w.content, 201)
	return w
}

// strike lets a writer of the victim die, sees that the old content is served
// through both doors, resets what is poisoned, and writes again.
func (w *weather) strike() error {
	w.strikes++
	cause := []string{"panic", "goexit"}[w.rng.IntN(2)]
	body, _ := json.Marshal(map[string]string{"path": struck, "point": "change:computed", "cause": cause}) // cannot fail: strings
	if r, _, err := w.admin.Do("POST", "/api/v1/drills", []string{"Content-Type: application/json"}, body); err != nil || !r.OK() {
		return fmt.Errorf("arm a drill: %d, %v", status(r), err)
	}
	fresh := Content(uint64(w.strikes), 30_000)
	if r, _, err := w.d.Do("PUT", struck, nil, fresh); err == nil && r.Status != 503 {
		return fmt.Errorf("PUT that dies = %d, want 503", r.Status)
	}
	if err := w.seen(); err != nil {
		return fmt.Errorf("poisoned: %w", err)
	}
	if err := w.heal(); err != nil {
		return err
	}
	if r, _, err := w.d.Do("PUT", struck, nil, fresh); err != nil || !r.OK() {
		return fmt.Errorf("PUT after the reset = %d, %v", status(r), err)
	}
	w.content = fresh
	return w.seen()
}

func (w *weather) seen() error {
	_, b, err := w.d.Do("GET", struck, nil, nil)
	if err != nil || string(b) != string(w.content) {
		return fmt.Errorf("GET: %d bytes that are not the last ones, %v", len(b), err)
	}
	b, err = os.ReadFile(w.m.Path(struck))
	if err != nil || string(b) != string(w.content) {
		return fmt.Errorf("read: %d bytes that are not the last ones, %v", len(b), err)
	}
	return nil
}

// inspect runs a check and a scrub, which see a store that is being changed.
func (w *weather) inspect() error {
	if err := w.runJob("check"); err != nil {
		return err
	}
	w.checks++
	if err := w.runJob("scrub"); err != nil {
		return err
	}
	w.scrubs++
	return nil
}

// jobTime bounds a job. A scrub gives way to what else the server does.
const jobTime = 15 * time.Minute

// runJob runs a job to its end, or to that of the storm. It returns an error unless
// the job found nothing.
func (w *weather) runJob(name string) error {
	url := "/api/v1/jobs/" + name
	r, text, err := w.jobs.Do("POST", url+"/start", []string{"Content-Type: application/json"}, []byte("{}"))
	if err != nil || !r.OK() {
		return fmt.Errorf("start the %s: %d, %v: %s", name, status(r), err, text)
	}
	type run struct {
		Result   string   `json:"result"`
		Error    string   `json:"error"`
		Problems []string `json:"problems"`
	}
	for begin := time.Now(); time.Since(begin) < jobTime; time.Sleep(50 * time.Millisecond) {
		var job struct{ Running, Last *run }
		r, text, err := w.jobs.Do("GET", url, nil, nil)
		if err != nil || !r.OK() {
			return fmt.Errorf("%s: %d, %v: %s", name, status(r), err, text)
		}
		if err := json.Unmarshal(text, &job); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, text)
		}
		if job.Running != nil {
			if w.over.Load() {
				_, _, _ = w.jobs.Do("POST", url+"/stop", []string{"Content-Type: application/json"}, []byte("{}"))
			}
			continue
		}
		if job.Last != nil && job.Last.Result == "stopped" && w.over.Load() {
			return nil
		}
		if job.Last == nil || job.Last.Result != "clean" {
			return fmt.Errorf("the %s in the storm: %s", name, text)
		}
		return nil
	}
	return fmt.Errorf("the %s has not ended after %v", name, jobTime)
}

var errNothingPoisoned = errors.New("a writer died, and nothing is poisoned")

// heal resets every poisoned lock.
func (w *weather) heal() error {
	_, text, err := w.admin.Do("GET", "/api/v1/locks", nil, nil)
	if err != nil {
		return err
	}
	var list struct {
		Locks []lockInfo `json:"locks"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("locks: %w: %s", err, text)
	}
	poisoned := 0
	for _, l := range list.Locks {
		if l.State != "poisoned" {
			continue
		}
		poisoned++
		r, body, err := w.admin.Do("POST", "/api/v1/locks/"+l.Name+"/reset", []string{fmt.Sprintf(`If-Match: "%d"`, l.Gen)}, nil)
		if err != nil || !r.OK() {
			return fmt.Errorf("reset %s: %d, %v: %s", l.Name, status(r), err, body)
		}
	}
	if poisoned == 0 {
		return errNothingPoisoned
	}
	w.resets += poisoned
	return nil
}

// usage is what a server takes of the machine.
type usage struct {
	memory      int64 // resident, in bytes
	descriptors int
	threads     int
}

func usageOf(t *testing.T, s *Server) usage {
	t.Helper()
	var u usage
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "VmRSS":
			fmt.Sscan(value, &u.memory) // in kB, see proc_pid_status(5)
			u.memory <<= 10
		case "Threads":
			fmt.Sscan(value, &u.threads)
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid()))
	if err != nil || u.memory == 0 || u.threads == 0 {
		t.Fatalf("usage of the server: %+v, %v", u, err)
	}
	u.descriptors = len(fds)
	return u
}

// grown returns an error if the server takes more than it should after so much more
// work. Caches and pools may still fill a little.
func (u usage) grown(before usage) error {
	switch {
	case u.memory > before.memory*3/2+(64<<20):
	case u.descriptors > before.descriptors*2+100: // blobs stay open for a while
	case u.threads > before.threads*2+16:
	default:
		return nil
	}
	return fmt.Errorf("the server has grown from %+v to %+v", before, u)
}

func (k *killLoad) reportStorm(lasts time.Duration, w *weather, before, after usage) {
	var mount, dav int
	for _, f := range k.files {
		mount += f.acked
	}
	for _, c := range k.clients {
		dav += c.acked
	}
	fmt.Printf("storm: %v, %d operations through the mount and %d over WebDAV, %d writers died and %d resets, %d checks and %d scrubs meanwhile found nothing, 0 divergences from the models; memory %d to %d MiB, descriptors %d to %d, threads %d to %d\n",
		lasts, mount, dav, w.strikes, w.resets, w.checks, w.scrubs, before.memory>>20, after.memory>>20, before.descriptors, after.descriptors, before.threads, after.threads)
}

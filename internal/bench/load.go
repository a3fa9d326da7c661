package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"engramfs/internal/bench/httpwire"
	"engramfs/internal/bench/pattern"
)

//go:embed testdata/op.lua
var wrkScript []byte

// smallSize is the size of the files of the request-rate rows.
const smallSize = 4096

// smallBody is the content of every small file; the wrk script makes the same.
var smallBody = func() []byte {
	b := make([]byte, smallSize)
	for i := range b {
		b[i] = byte(33 + i*7%91)
	}
	return b
}()

// load is a closed loop of equal requests.
type load struct {
	Method string // GET or PUT
	// Target is the path; a PUT appends "<worker>-<counter>", from 1.
	Target string
	Blocks int // GET: choose a random 4 KiB range of a file with this many blocks
	Ring   int // PUT: use names again after this many
	Conns  int
	For    time.Duration
}

// failed connections and timeouts.
type loadResult struct {
	Requests int64
	Errors   int64
	Elapsed  time.Duration
	P50, P99 time.Duration
}

// generator runs a load against a server.
type generator interface {
	run(addr string, l load) (loadResult, error)
	String() string
}

// newGenerator prefers wrk, which costs the client least, and falls back on
// the one built in. choice is "auto", "wrk" or "go".
func newGenerator(choice, dir string) (generator, error) {
	if choice == "go" {
		return goLoad{}, nil
	}
	program, err := exec.LookPath("wrk")
	if err != nil {
		if choice == "wrk" {
			return nil, err
		}
		return goLoad{}, nil
	}
	script := filepath.Join(dir, "op.lua")
	return wrkLoad{program, script}, os.WriteFile(script, wrkScript, 0o644)
}

type wrkLoad struct{ program, script string }

func (w wrkLoad) String() string { return "wrk" }

func (w wrkLoad) run(addr string, l load) (loadResult, error) {
	threads := min(2, l.Conns)
	cmd := exec.Command(w.program, "-t"+strconv.Itoa(threads), "-c"+strconv.Itoa(l.Conns),
		fmt.Sprintf("-d%ds", max(1, int(l.For.Round(time.Second)/time.Second))),
		"--timeout", "10s", "-s", w.script, "http://"+addr)
	cmd.Env = append(os.Environ(), "METHOD="+l.Method, "TARGET="+l.Target,
		"RANGE="+strconv.Itoa(l.Blocks), "RING="+strconv.Itoa(l.Ring))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return loadResult{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	i := bytes.Index(out, []byte("\nR "))
	if i < 0 {
		return loadResult{}, fmt.Errorf("wrk printed no result:\n%s", out)
	}
	var r loadResult
	var us, p50, p99 int64
	if _, err := fmt.Sscanf(string(out[i+1:]), "R %d %d %d %d %d", &r.Requests, &us, &r.Errors, &p50, &p99); err != nil {
		return r, fmt.Errorf("wrk result: %w\n%s", err, out)
	}
	micro := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	r.Elapsed, r.P50, r.P99 = micro(us), micro(p50), micro(p99)
	return r, nil
}

// goLoad is the generator that needs no other program: a goroutine for each
// connection, requests rendered into a buffer that is used again.
type goLoad struct{}

func (goLoad) String() string { return "go" }

func (goLoad) run(addr string, l load) (loadResult, error) {
	workers := make([]goWorker, l.Conns)
	t0 := time.Now()
	var wg sync.WaitGroup
	for i := range workers {
		w := &workers[i]
		w.id, w.addr, w.load, w.end = i, addr, l, t0.Add(l.For)
		wg.Go(w.work)
	}
	wg.Wait()
	r := loadResult{Elapsed: time.Since(t0)}
	var lat []time.Duration
	for i := range workers {
		r.Errors += workers[i].errors
		lat = append(lat, workers[i].lat...)
	}
	r.Requests = int64(len(lat))
	if len(lat) == 0 {
		return r, fmt.Errorf("no request succeeded, %d errors", r.Errors)
	}
	slices.Sort(lat)
	r.P50, r.P99 = lat[len(lat)/2], lat[len(lat)*99/100]
	return r, nil
}

type goWorker struct {
	load
	id     int
	addr   string
	end    time.Time
	n      int
	buf    []byte
	lat    []time.Duration
	errors int64
}

func (w *goWorker) work() {
	var c *httpwire.Conn
	for time.Now().Before(w.end) {
		if c == nil {
			var err error
			if c, err = httpwire.Dial(w.addr, 10*time.Second); err != nil {
				w.errors++
				time.Sleep(10 * time.Millisecond) // A dead server must not make this loop spin.
				continue
			}
		}
		w.render()
		t0 := time.Now()
		r, err := c.Roundtrip(w.Method, w.buf)
		if err != nil || r.Status > 399 {
			w.errors++
		} else {
			w.lat = append(w.lat, time.Since(t0))
		}
		if err != nil || !r.Reusable() {
			c.Close()
			c = nil
		}
	}
	if c != nil {
		c.Close()
	}
}

// render puts the next request into the buffer.
func (w *goWorker) render() {
	w.n++
	req := httpwire.Request{Method: w.Method, Path: w.Target}
	switch {
	case w.Method == "PUT":
		k := w.n
		if w.Ring > 0 {
			k %= w.Ring
		}
		req.Path = fmt.Sprintf("%s%d-%d", w.Target, w.id, k)
		req.Body = smallBody
	case w.Blocks > 0:
		first := rand.Int64N(int64(w.Blocks)) * pattern.Block
		req.Header = []string{fmt.Sprintf("Range: bytes=%d-%d", first, first+pattern.Block-1)}
	case w.n > 1:
		return // A whole-file GET never changes.
	}
	w.buf = httpwire.AppendRequest(w.buf[:0], w.addr, &req)
}

// Package crash keeps what a process that died leaves behind: the runtime's last
// words, and how often it died soon after its start, so that a server that would
// crash for ever stops doing harm.
//
// A start counts as failed if the process was gone within a minute and did not end
// by itself: it crashed, was killed, or the machine lost power. After five of them
// within ten minutes the next one is to serve read-only, since most of what can kill
// a file server comes in through writes. After ten it refuses to start. A process
// that lives for a minute, in whatever way, has left the loop.
package crash

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ErrLoop is returned by Open when the server has crashed so often that it shall
// not start again before the window is over, or Marker was removed.
var ErrLoop = errors.New("the server crashes again and again")

// Marker is the name of the file that knows the last starts.
const Marker = "starts.json"

// Options of Open. The zero value of all but Dir is usable.
type Options struct {
	Dir    string           // of the files, required; it is there
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now

	// Limit is after how many failed starts within Window the server shall serve
	// read-only; after twice as many Open refuses. 0: 5 within 10 minutes.
	// Negative: any number is fine.
	Limit  int
	Window time.Duration
	// Survive is how long a start has to live to count as good. 0: one minute.
	Survive time.Duration
	// Output is given the file for the runtime's last words, and nil at the end. nil:
	// debug.SetCrashOutput.
	Output func(*os.File) error
}

// Recorder records the life of one process. All methods may be called by several
// goroutines at once.
type Recorder struct {
	// Immutable after Open.
	o       Options
	log     *slog.Logger
	failed  int      // starts before this one
	reports []Report // the newest first
	survive *time.Timer

	// mu protects the fields below.
	mu     sync.Mutex
	starts []start // the last one is this process's
	ended  bool
}

// start is one start, as it is in the file.
type start struct {
	At  time.Time `json:"at"`
	End string    `json:"end,omitempty"` // "": it failed, or is too young to tell
	Log string    `json:"log,omitempty"` // file of the runtime's last words
}

const (
	endClean    = "clean"
	endSurvived = "survived"
)

// Open notes a start, and looks at what the ones before have left. The error
// matches ErrLoop if this start must not be; nothing was noted then. That a file
// cannot be written, as on a full disk, is logged and no reason not to start.
func Open(o Options) (*Recorder, error) {
	o.Limit = cmp.Or(o.Limit, 5)
	o.Window = cmp.Or(o.Window, 10*time.Minute)
	o.Survive = cmp.Or(o.Survive, time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Output == nil {
		o.Output = setOutput
	}
	r := &Recorder{o: o, log: o.Logger}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	before := r.load()
	for _, s := range before {
		if s.End == "" && s.At.After(o.Now().Add(-o.Window)) {
			r.failed++
		}
	}
	if o.Limit > 0 && r.failed >= 2*o.Limit {
		return nil, fmt.Errorf("%w: %d starts within %v ended before their time", ErrLoop, r.failed, o.Window)
	}
	if err := r.collect(before); err != nil {
		r.log.Error("crash reports not read", "err", err)
	}
	if err := r.begin(before); err != nil {
		r.log.Error("start not noted", "err", err)
	}
	r.survive = time.AfterFunc(o.Survive, func() { r.end(endSurvived) })
	if r.Looping() {
		r.log.Error("crash loop: no write is accepted", "failed_starts", r.failed, "window", o.Window)
	}
	return r, nil
}

// begin notes this start, durably, and directs the runtime's last words to a file.
func (r *Recorder) begin(before []start) error {
	now := r.o.Now().UTC()
	name, err := r.openReport(now)
	for _, s := range before {
		if s.At.After(now.Add(-r.o.Window)) {
			r.starts = append(r.starts, s)
		}
	}
	r.starts = append(r.starts, start{At: now, Log: name})
	return errors.Join(err, r.save(r.starts))
}

// Looping reports whether the server shall serve read-only.
func (r *Recorder) Looping() bool { return r.o.Limit > 0 && r.failed >= r.o.Limit }

// Close notes that the process ends by itself, and takes the empty report away.
func (r *Recorder) Close() {
	r.survive.Stop()
	r.end(endClean)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	err := r.o.Output(nil)
	if name := r.starts[len(r.starts)-1].Log; name != "" {
		err = errors.Join(err, os.Remove(filepath.Join(r.o.Dir, name)))
	}
	if err != nil {
		r.log.Warn("crash report not closed", "err", err)
	}
}

// end notes how this start ended. If that cannot be noted, the next start takes
// this one for failed.
func (r *Recorder) end(how string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.starts[len(r.starts)-1].End = how
	if err := r.save(r.starts); err != nil {
		r.log.Error("end of this start not noted", "end", how, "err", err)
	}
}

// marker is the content of the file.
type marker struct {
	Starts []start `json:"starts"`
}

// load returns the starts before this one, the oldest first. A file that cannot be
// read is no reason not to serve.
func (r *Recorder) load() []start {
	text, err := os.ReadFile(filepath.Join(r.o.Dir, Marker))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var m marker
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		r.log.Warn("last starts not known", "err", err)
	}
	return m.Starts
}

// save replaces the file atomically and durably.
func (r *Recorder) save(starts []start) error {
	text, err := json.Marshal(marker{starts})
	if err != nil {
		return err
	}
	name := filepath.Join(r.o.Dir, Marker)
	f, err := os.CreateTemp(r.o.Dir, ".tmp-starts-")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(r.o.Dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

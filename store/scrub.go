package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"engramfs/store/meta"
)

// A scrub reads every record of the engine and every byte that has a checksum, so
// that what a disk has lost is found while there is still a copy of it elsewhere. It
// goes through the engine in the order of its keys, from where the last one has
// stopped. Every scrub takes the same way, so that what comes next is always what was
// not looked at for the longest time, without a note of when that was: no file waits
// longer than the time between two scrubs and what one takes. New content, whose
// checksums were made of the bytes as they came in, has its first turn within that time.
//
// On its way it computes the SHA-256 of content, compares it with the one that is known
// or keeps it if none is, and has labels renewed that are not right.

// ScrubOptions say when and how fast scrubs run. The zero value is the default.
type ScrubOptions struct {
	// Every is the time from the end of a scrub to the next one, which is then
	// up to a fifth earlier or later. 0: 30 days. Negative: only when asked for.
	Every time.Duration
	// Rate is how many bytes a second are read while others use the store. It is
	// eight times that while nobody does, and next to nothing while it is under load.
	// 0: 20 MiB/s.
	Rate int64
}

const (
	scrubEvery = 30 * 24 * time.Hour
	scrubRate  = 20 << 20
	// scrubRuns is how many runs are remembered.
	scrubRuns = 20
	// scrubProblems bounds the problems of a run that are kept in words.
	scrubProblems = 100
	// scrubRetry is when a scrub that was stopped or has failed is due again, at
	// the earliest.
	scrubRetry = 24 * time.Hour
)

// ErrScrubbing is returned by Scrub while another one runs.
var ErrScrubbing = errors.New("store: a scrub is running")

// ScrubRun is one scrub, as far as it has come. Counts are of the whole of it,
// however often it was interrupted.
type ScrubRun struct {
	By      string     `json:"by"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended"`           // null: it runs, or will go on
	Result  string     `json:"result"`          // "clean", "damaged", "stopped" or "failed"; "" while it runs
	Err     string     `json:"error,omitempty"` // why it failed
	Resumed int        `json:"resumed"`         // how often it went on after an interruption

	Done  int64 `json:"done"`  // bytes of content looked at
	Total int64 `json:"total"` // bytes of content when it began or went on
	// Rate is in bytes a second since it began or went on, TimeLeft in seconds;
	// null: not known.
	Rate     *float64 `json:"rate_per_second"`
	TimeLeft *float64 `json:"time_left_seconds"`

	Files         int64 `json:"files"`           // whose content was looked at
	Bytes         int64 `json:"bytes"`           // of content found right
	Blocks        int64 `json:"blocks"`          // of 64 KiB, found right
	CorruptBlocks int64 `json:"corrupt_blocks"`  // that fail their checksum or cannot be read
	CorruptBytes  int64 `json:"corrupt_bytes"`   //
	Damaged       int64 `json:"damaged_files"`   // with such blocks, or whose record cannot be read
	Missing       int64 `json:"missing_files"`   // without content
	Skipped       int64 `json:"skipped_files"`   // without checksums: they are being written
	Records       int64 `json:"records"`         // of the engine
	BadRecords    int64 `json:"corrupt_records"` //

	Problems []string `json:"problems"` // the first of them
}

func (r *ScrubRun) problem(format string, args ...any) {
	if len(r.Problems) < scrubProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Found returns how many files and records were found bad.
func (r *ScrubRun) Found() int64 { return r.Damaged + r.Missing + r.BadRecords }

// ScrubStatus is what is known about scrubs.
type ScrubStatus struct {
	Running *ScrubRun  `json:"running"` // null: none
	Runs    []ScrubRun `json:"runs"`    // that have ended, newest first, at most 20
	// Next is when one starts by itself; null: none does.
	Next *time.Time `json:"next"`
	// Totals are of all scrubs since the start of the server.
	Totals ScrubTotals `json:"totals"`
}

// ScrubTotals are counts that only grow.
type ScrubTotals struct {
	Blocks        int64 `json:"blocks"` // found right
	Bytes         int64 `json:"bytes"`
	CorruptBlocks int64 `json:"corrupt_blocks"`
	CorruptBytes  int64 `json:"corrupt_bytes"`
	MissingFiles  int64 `json:"missing_files"`
}

// scrubState is what the engine keeps about scrubs.
type scrubState struct {
	Run *ScrubRun `json:"run,omitempty"` // unfinished
	// Active: it was running, not stopped, so that the next start goes on with it.
	Active bool        `json:"active"`
	Cursor scrubCursor `json:"cursor"`
	Runs   []ScrubRun  `json:"runs,omitempty"` // newest first
	Next   time.Time   `json:"next"`           // zero: not planned yet
}

// scrubCursor is where a scrub goes on: at a key of the engine, and in the content
// that it is about.
type scrubCursor struct {
	Key     []byte `json:"key,omitempty"`
	Blob    string `json:"blob,omitempty"` // of Offset
	Offset  int64  `json:"offset,omitempty"`
	Version uint64 `json:"version,omitempty"`
	// Hashes are the states of the digests of the content up to Offset.
	Hashes map[Hash][]byte `json:"hashes,omitempty"`
}

// scrubber runs scrubs, one at a time.
type scrubber struct {
	// Immutable after newScrubber.
	s     *Store
	o     ScrubOptions
	sleep func(context.Context, time.Duration) error
	step  int64         // bytes after which the cursor is kept
	wake  chan struct{} // holds one token when the plan has changed

	// mu protects the fields below. Nothing is locked inside but counters.
	mu     sync.Mutex
	state  scrubState
	cancel context.CancelFunc // of the run; nil: none
	begun  time.Time          // of the run, or of its going on
	before int64              // bytes done then
	closed bool
	totals ScrubTotals
}

func newScrubber(s *Store, o ScrubOptions) (*scrubber, error) {
	if o.Every == 0 {
		o.Every = scrubEvery
	}
	if o.Rate <= 0 {
		o.Rate = scrubRate
	}
	k := &scrubber{s: s, o: o, sleep: sleepFor, step: scrubSaveBytes, wake: make(chan struct{}, 1)}
	b, err := s.engine.Get(factScrub)
	if errors.Is(err, meta.ErrNotFound) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load the state of the scrub: %w", err)
	}
	if err := json.Unmarshal(b, &k.state); err != nil {
		s.log.Error("state of the scrub cannot be read: it begins anew", "err", err)
		k.state = scrubState{}
	}
	return k, nil
}

func sleepFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// run starts scrubs when they are due, until ctx ends.
func (k *scrubber) run(ctx context.Context) {
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.closed = true // the goroutines of Scrub are counted before this one ends
	}()
	for ctx.Err() == nil {
		by, wait := k.due(k.s.now())
		if wait <= 0 {
			if _, err := k.s.Scrub(ctx, by); err != nil && ctx.Err() == nil && !errors.Is(err, ErrScrubbing) {
				k.s.log.Error("scrub has not come to its end", "err", err)
			}
			wait = time.Second // also if it failed at once
		}
		select {
		case <-ctx.Done():
		case <-k.wake:
		case <-time.After(min(wait, time.Hour)): // the clock of the schedule may be set
		}
	}
}

// due returns how long it takes until a scrub is to be started, and who asks for it.
func (k *scrubber) due(now time.Time) (by string, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.Active && k.cancel == nil && k.state.Run != nil {
		return k.state.Run.By, 0
	}
	if k.cancel != nil || k.o.Every < 0 {
		return "", time.Hour
	}
	latest := now.Add(k.o.Every + k.o.Every/5)
	if k.state.Next.IsZero() || k.state.Next.After(latest) { // the interval was made shorter
		k.plan(now)
		k.save()
	}
	return "schedule", k.state.Next.Sub(now)
}

// plan sets the next start. The caller holds mu.
func (k *scrubber) plan(now time.Time) {
	if k.o.Every < 0 {
		k.state.Next = time.Time{}
		return
	}
	k.state.Next = now.Add(time.Duration(float64(k.o.Every) * (0.8 + 0.4*rand.Float64()))).UTC()
}

// save puts the state into the engine. The caller holds mu.
func (k *scrubber) save() {
	b, err := json.Marshal(&k.state)
	if err == nil {
		err = k.s.engine.Update(func(tx meta.Txn) error {
			tx.Put(factScrub, b)
			return nil
		})
	}
	if err != nil {
		k.s.log.Warn("state of the scrub not kept", "err", err)
		return
	}
	k.s.flusher.mark()
}

// Scrub reads everything that has a checksum, or goes on with a scrub that was
// stopped, and returns what it has found. What it finds damaged is in Damaged. by
// says who asks for it. The error is ErrScrubbing if another one runs, ErrClosed,
// or why it was not finished: ctx's, or that the engine cannot be read.
func (s *Store) Scrub(ctx context.Context, by string) (run ScrubRun, err error) {
	k := s.scrubber
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := k.begin(by, cancel); err != nil {
		return ScrubRun{}, err
	}
	defer s.background.Done()
	defer func() { run = k.end(err) }() // after contain
	defer s.contain("scrub", &err)
	return ScrubRun{}, newScrubWalk(k).walk(ctx)
}

func (k *scrubber) begin(by string, cancel context.CancelFunc) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.closed || k.s.closed.Load():
		return ErrClosed
	case k.cancel != nil:
		return ErrScrubbing
	}
	k.s.background.Add(1)
	now := k.s.now().UTC()
	st := &k.state
	if st.Run == nil {
		st.Run, st.Cursor = &ScrubRun{By: by, Started: now, Problems: []string{}}, scrubCursor{}
	} else {
		st.Run.By, st.Run.Resumed = by, st.Run.Resumed+1
		st.Run.Ended, st.Run.Result, st.Run.Err = nil, "", ""
	}
	st.Run.Total = max(k.s.TotalSize(context.Background()), st.Run.Done)
	st.Active, k.cancel, k.begun, k.before = true, cancel, now, st.Run.Done
	k.save()
	k.s.log.Info("scrub begins", "by", by, "resumed", st.Run.Resumed, "done", st.Run.Done, "total", st.Run.Total)
	return nil
}

// end closes the run: it is over, or it goes on at the next start of the store, or
// when somebody asks.
func (k *scrubber) end(err error) ScrubRun {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, st := k.s.now().UTC(), &k.state
	run := st.Run
	k.cancel = nil
	if err != nil && k.s.closing.Load() { // the next start goes on
		k.save()
		return *run
	}
	run.Ended, st.Active = &now, false
	switch {
	case err == nil && run.Found() == 0 && run.CorruptBlocks == 0: // which an earlier part may have found
		run.Result = "clean"
	case err == nil:
		run.Result = "damaged"
	case errors.Is(err, context.Canceled):
		run.Result = "stopped"
	default:
		run.Result, run.Err = "failed", err.Error()
	}
	if err == nil {
		st.Run, st.Cursor = nil, scrubCursor{}
		k.plan(now)
	} else if retry := now.Add(scrubRetry); k.o.Every > 0 && st.Next.Before(retry) {
		st.Next = retry
	}
	ended := *run
	ended.Problems = slices.Clone(run.Problems)
	st.Runs = append([]ScrubRun{ended}, st.Runs[:min(len(st.Runs), scrubRuns-1)]...)
	k.save()
	k.notify()
	k.s.log.Info("scrub ended", "result", run.Result, "by", run.By, "files", run.Files, "bytes", run.Bytes,
		"corrupt_blocks", run.CorruptBlocks, "missing", run.Missing, "skipped", run.Skipped, "bad_records", run.BadRecords, "err", err)
	return ended
}

func (k *scrubber) notify() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// StopScrub stops the scrub that runs, and reports whether there was one. The next
// one goes on where it was.
func (s *Store) StopScrub() bool {
	k := s.scrubber
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel == nil {
		return false
	}
	k.cancel()
	return true
}

// ScrubStatus returns what runs, what ran and what comes. It waits for no disk but
// that of a record being written.
func (s *Store) ScrubStatus() ScrubStatus {
	k := s.scrubber
	now := s.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	st := ScrubStatus{Totals: k.totals}
	st.Runs = slices.Clone(k.state.Runs)
	if k.o.Every > 0 && !k.state.Next.IsZero() {
		next := k.state.Next
		st.Next = &next
	}
	if k.cancel != nil {
		run := *k.state.Run
		run.Problems = slices.Clone(run.Problems)
		run.estimate(now.Sub(k.begun), k.before)
		st.Running = &run
	}
	return st
}

// estimate works out the rate and the time left from what was done since before.
func (r *ScrubRun) estimate(took time.Duration, before int64) {
	if took <= 0 || r.Done <= before {
		return
	}
	rate := float64(r.Done-before) / took.Seconds()
	left := float64(max(r.Total-r.Done, 0)) / rate
	r.Rate, r.TimeLeft = &rate, &left
}

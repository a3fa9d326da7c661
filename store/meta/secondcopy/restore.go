package secondcopy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"engramfs/store/meta"
)

// ErrNoCopy is returned by Restore if the folder holds no copy.
var ErrNoCopy = errors.New("secondcopy: there is no copy")

// Report says what Restore has found.
type Report struct {
	Dir      string    `json:"dir"`
	Snapshot time.Time `json:"snapshot,omitzero"` // when the newest readable one was begun; zero: there is none
	// Instant is the time up to which nothing is missing in what the logs gave: that of
	// the last stamp before a gap. It is not after now.
	Instant time.Time `json:"instant,omitzero"`
	Keys    int64     `json:"keys"`    // that snapshots gave
	Updates int64     `json:"updates"` // that logs gave
	// Complete: everything up to Instant is restored.
	Complete bool `json:"complete"`
	// Gaps are the places where something is missing, in words.
	Gaps []string `json:"gaps,omitempty"`
}

// Exists reports whether dir holds anything of a copy.
func Exists(dir string) bool {
	f, err := readFolder(dir)
	return err == nil && len(f.logs)+len(f.snapshots) > 0
}

// Restore puts what the copy in dir holds into the engine, which must be empty. It
// uses all that can be read, and reports what cannot. The error is ErrNoCopy if there
// is nothing, and otherwise one of the engine or of reading the folder. Counters
// must be counted anew. Nothing in dir changes.
func Restore(dir string, into meta.Engine) (Report, error) {
	f, err := readFolder(dir)
	if err != nil {
		return Report{}, fmt.Errorf("second copy: %w", err)
	}
	if len(f.logs)+len(f.snapshots) == 0 {
		return Report{}, fmt.Errorf("%w in %s", ErrNoCopy, dir)
	}
	r := &restorer{folder: f, into: into, report: Report{Dir: dir, Complete: true}}
	if err := r.run(); err != nil {
		return r.report, fmt.Errorf("restore the second copy: %w", err)
	}
	if now := time.Now(); r.report.Instant.After(now) {
		r.report.Instant = now // the clock was set back
	}
	return r.report, r.flush()
}

// restorer fills an engine.
type restorer struct {
	folder
	into   meta.Engine
	report Report

	// ops are what is to be put into the engine next.
	ops []byte

	writer uint64 // the run that wrote the log that was read last
	next   uint64 // number of the frame that follows
}

// span is the keys in [lo, hi); nil: without a bound.
type span struct{ lo, hi []byte }

func (s span) has(key []byte) bool {
	return bytes.Compare(key, s.lo) >= 0 && (s.hi == nil || bytes.Compare(key, s.hi) < 0)
}

// run reads the newest snapshot, what it lacks from the one before, and the logs.
func (r *restorer) run() error {
	newest := len(r.snapshots) - 1
	first, b := uint64(0), base{newest: true}
	if newest >= 0 {
		first = r.snapshots[newest]
		var err error
		if b, err = r.fill([]span{{}}, newest, true); err != nil {
			return err
		}
	} else {
		r.gap("there is no snapshot")
	}
	return r.replay(first, 1<<63, nil, b)
}

// gap notes that something is missing.
func (r *restorer) gap(format string, args ...any) {
	r.report.Complete = false
	const enough = 1000
	if len(r.report.Gaps) < enough {
		r.report.Gaps = append(r.report.Gaps, fmt.Sprintf(format, args...))
	}
}

// base is what a log is replayed onto: a snapshot, which has the updates before frame
// first of this run, but for the keys in holes.
type base struct {
	newest     bool // it is the newest snapshot, or there is none
	run, first uint64
	holes      []span // not nil, unless there is no snapshot
}

// spans returns the keys for which a frame of that run is to be replayed, of those in all.
func (b base) spans(run, seq uint64, all []span) []span {
	if run == b.run && seq < b.first {
		return b.holes
	}
	return all
}

// fill puts the keys in spans into the engine, as they were at snapshot i. newest
// says that it is the newest one.
func (r *restorer) fill(spans []span, i int, newest bool) (base, error) {
	holes, foot, err := r.holes(i, newest)
	if err != nil {
		return base{}, err
	}
	b := base{newest: newest, run: foot.run, first: foot.first, holes: append([]span{}, intersect(spans, holes)...)}
	if len(b.holes) > 0 {
		r.gapsOf(i, holes)
		if err := r.fillOlder(b.holes, i); err != nil {
			return base{}, err
		}
	}
	return b, r.blocks(i, func(f frame) error {
		if f.kind != frameBlock {
			return nil
		}
		return r.add(f.payload, spans, &r.report.Keys)
	})
}

// fillOlder puts the keys in spans, which snapshot i lacks, into the engine from what is
// older.
func (r *restorer) fillOlder(spans []span, i int) (err error) {
	from, to := uint64(0), r.snapshots[i]
	var b base
	if i > 0 {
		from = r.snapshots[i-1]
		if b, err = r.fill(spans, i-1, false); err != nil {
			return err
		}
	}
	if err := r.replay(from, to, spans, b); err != nil {
		return err
	}
	return r.meets(to)
}

// gapsOf reports the holes of a snapshot. If an older one and the logs since are good,
// nothing is missing. The first one may be of an engine that was not empty before.
func (r *restorer) gapsOf(i int, holes []span) {
	name := snapshotName(r.snapshots[i])
	if i == 0 {
		r.gap("%s: %d bad blocks, and there is no older snapshot", name, len(holes))
		return
	}
	r.report.Gaps = append(r.report.Gaps, fmt.Sprintf("%s: %d bad blocks, filled from what is older", name, len(holes)))
}

// holes reads snapshot i and returns the spans that its bad blocks had, and its footer.
func (r *restorer) holes(i int, newest bool) ([]span, footer, error) {
	var holes []span
	var foot footer
	lo, hole, complete := []byte(nil), false, false
	want := uint64(1)
	err := r.blocks(i, func(f frame) error {
		if f.seq != want {
			hole = true
		}
		want = f.seq + 1
		if f.kind == frameFooter {
			foot, complete = decodeFooter(f.payload)
			if complete && newest {
				r.report.Snapshot, r.report.Instant = foot.at, foot.at
			}
			return nil
		}
		var first, last []byte
		err := eachOp(f.payload, func(_ byte, key, _ []byte) bool {
			if first == nil {
				first = bytes.Clone(key)
			}
			last = key
			return true
		})
		if hole {
			holes = append(holes, span{lo, first})
			hole = false
		}
		lo = append(bytes.Clone(last), 0)
		return err
	})
	if hole || !complete {
		holes = append(holes, span{lo, nil})
	}
	return holes, foot, err
}

// blocks calls fn for each good frame of snapshot i. A file that is not there, or is
// another one, has none.
func (r *restorer) blocks(i int, fn func(frame) error) error {
	file, err := os.Open(filepath.Join(r.dir, snapshotName(r.snapshots[i])))
	if err != nil {
		return ignoreAbsent(err)
	}
	defer file.Close()
	frames, err := openFrames(file, kindSnapshot, r.snapshots[i])
	switch {
	case errors.Is(err, errForeign):
		return nil
	case err != nil && !errors.Is(err, errHeader):
		return err
	}
	for {
		f, _, ok := frames.next()
		if !ok {
			return nil
		}
		if f.kind != frameBlock && f.kind != frameFooter {
			continue
		}
		if err := fn(f); err != nil {
			return err
		}
	}
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// replay puts the updates of the logs in [from, to) into the engine, as far as they are
// not in b, and only those of keys in spans unless that is nil.
func (r *restorer) replay(from, to uint64, spans []span, b base) error {
	r.writer, r.next = 0, 0
	for i, n := range r.logs {
		if n < from || n >= to {
			continue
		}
		if i > 0 && r.logs[i-1] != n-1 && n > from {
			r.gap("%s is missing", logName(n-1))
		}
		if err := r.log(n, spans, b, b.newest && i == len(r.logs)-1); err != nil {
			return err
		}
	}
	return nil
}

// log replays one log. end: it is the last one, and what is cut off at its end is younger
// than its last stamp.
func (r *restorer) log(n uint64, spans []span, b base, end bool) error {
	file, err := os.Open(filepath.Join(r.dir, logName(n)))
	if err != nil {
		return ignoreAbsent(err)
	}
	defer file.Close()
	frames, err := openFrames(file, kindLog, n)
	switch {
	case errors.Is(err, errForeign):
		r.gap("%s is missing: the file of that name is another one", logName(n))
		return nil
	case errors.Is(err, errHeader):
		r.gap("%s: bad header", logName(n))
	case err != nil:
		return err
	default:
		r.join(frames.header, n)
	}
	for {
		f, skipped, ok := frames.next()
		if skipped > 0 && !end || skipped > 0 && ok {
			r.gap("%s: %d bad bytes before %d", logName(n), skipped, frames.off)
		}
		if !ok {
			return nil
		}
		if f.seq != r.next && r.next != 0 && skipped == 0 {
			r.gap("%s: updates %d to %d were never written", logName(n), r.next, f.seq-1)
		}
		r.next = f.seq + 1
		switch f.kind {
		case frameStamp:
			if at, ok := decodeTime(f.payload); ok && b.newest && r.report.Complete && at.After(r.report.Instant) {
				r.report.Instant = at
			}
		case frameBatch:
			var updates int64
			if err := r.add(f.payload, b.spans(frames.header.run, f.seq, spans), &updates); err != nil {
				return err
			}
			r.report.Updates++
		}
	}
}

// meets checks that log n, which is not to be replayed yet, goes on where the one before
// has ended.
func (r *restorer) meets(n uint64) error {
	file, err := os.Open(filepath.Join(r.dir, logName(n)))
	if err != nil {
		return ignoreAbsent(err)
	}
	defer file.Close()
	if frames, err := openFrames(file, kindLog, n); err == nil {
		r.join(frames.header, n)
	}
	return nil // what is wrong with the file is noted when it is replayed
}

// join checks that a log goes on where the one before has ended.
func (r *restorer) join(h header, n uint64) {
	if r.writer != 0 && (h.run == r.writer && h.first != r.next || h.run != r.writer && !h.joined) {
		r.gap("%s does not join the log before: the server ended without closing it, or the copy was behind", logName(n))
	}
	r.writer, r.next = h.run, h.first
}

// batchSize is how many bytes of operations one update of the engine takes.
const batchSize = 1 << 20

// add puts operations into the engine and counts them in n. spans: see replay.
func (r *restorer) add(payload []byte, spans []span, n *int64) error {
	err := eachOp(payload, func(op byte, key, value []byte) bool {
		if op == opDeleteRange {
			for _, s := range clip(span{key, value}, spans) {
				r.ops = appendOp(r.ops, op, s.lo, s.hi)
			}
			return true
		}
		if spans == nil || slices.ContainsFunc(spans, func(s span) bool { return s.has(key) }) {
			r.ops = appendOp(r.ops, op, key, value)
			*n++
		}
		return true
	})
	if err != nil || len(r.ops) < batchSize {
		return err
	}
	return r.flush()
}

// flush applies what add has collected.
func (r *restorer) flush() error {
	if len(r.ops) == 0 {
		return nil
	}
	err := r.into.Update(func(tx meta.Txn) error { return apply(tx, r.ops) })
	r.ops = r.ops[:0]
	return err
}

// apply does what a payload says.
func apply(tx meta.Txn, payload []byte) error {
	var bad error
	err := eachOp(payload, func(op byte, key, value []byte) bool {
		switch op {
		case opPut:
			tx.Put(key, value)
		case opDelete:
			tx.Delete(key)
		case opDeleteRange:
			tx.DeleteRange(key, value)
		case opAdd:
			var delta int64
			if delta, bad = meta.DecodeCounter(value); bad == nil {
				tx.Add(key, delta)
			}
		default:
			bad = fmt.Errorf("secondcopy: operation %q is unknown", op)
		}
		return bad == nil
	})
	return errors.Join(err, bad)
}

// clip returns the parts of s that are in spans; nil: all of it.
func clip(s span, spans []span) []span {
	if spans == nil {
		return []span{s}
	}
	return intersect([]span{s}, spans)
}

// intersect returns the keys that are in both.
func intersect(a, b []span) []span {
	var both []span
	for _, s := range a {
		for _, t := range b {
			u := span{lo: s.lo, hi: s.hi}
			if bytes.Compare(t.lo, u.lo) > 0 {
				u.lo = t.lo
			}
			if u.hi == nil || t.hi != nil && bytes.Compare(t.hi, u.hi) < 0 {
				u.hi = t.hi
			}
			if u.hi == nil || bytes.Compare(u.lo, u.hi) < 0 {
				both = append(both, u)
			}
		}
	}
	return both
}

package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// RepairOptions of Repair. The zero value is usable.
type RepairOptions struct {
	// UID and GID own what has to be made anew: /lost+found, and files and directories
	// of which only the content or the entries are left.
	UID, GID uint32
	Now      func() time.Time // nil: time.Now
	Logger   *slog.Logger     // nil: discard
	// Progress is that of CheckOptions; a repair is at least two checks, and begins
	// anew with each.
	Progress func(done, total int64)
}

// RepairReport says what a repair found, did and left.
type RepairReport struct {
	// Found is what was wrong at first. More may show once that is mended.
	Found []Finding `json:"found"`
	// Done says what was changed, in order.
	Done []RepairStep `json:"done"`
	// Left is what is still wrong: it takes a person, or a backup. After an error it is only
	// the content that was made unproven.
	Left []Finding `json:"left"`
}

// RepairStep is one change of a repair.
type RepairStep struct {
	Code   string `json:"code"` // of the finding that it mends
	Ino    Ino    `json:"ino,omitempty"`
	Path   string `json:"path,omitempty"` // as it was before
	Action string `json:"action"`
	// Key and Value are those of a record that was taken out, if it was one. The
	// engine keeps it, too.
	Key   []byte `json:"key,omitempty"`
	Value []byte `json:"value,omitempty"`
}

// String returns the step as one line.
func (s RepairStep) String() string {
	return s.Action + marks(s.Code, s.Path)
}

// maxRounds bounds a repair. What is mended shows what hung on it, a few levels deep.
const maxRounds = 64

// Repair mends what CheckEngine finds in a store that is not open, as far as that
// can be done without a guess: names, link counts, reference counts and usage are
// derived again; what has lost its name goes to /lost+found, as ino-<number> or
// blob-<id>; a file without its content is put on the list of damage, and stays.
// Content that has lost checksums is read, and gets them again if its digest or its
// label proves it. If nothing does, the next start gives it new ones: that is left as
// a problem, once, because damage would not show any more.
// Nothing is deleted: records that mean nothing stay in the engine under another key,
// and are in the report. Content is not touched. The time that it takes grows with what
// there is and what is wrong, not with the product of the two.
//
// A second copy of the metadata that is not written meanwhile is as it was before: the
// value under RunKey is another one then, unless nothing was changed.
//
// It is safe to interrupt and to run again, and a second run changes nothing.
// On an error the report says what was done until then. To see what a repair would
// do, run it on a meta.Engine.Checkpoint.
func Repair(ctx context.Context, engine meta.Engine, blobs blob.Backend, o RepairOptions) (RepairReport, error) {
	r := newRepair(engine, blobs, o)
	err := r.run(ctx, phaseRest)
	if err != nil {
		r.report.Left = r.unproven
		err = fmt.Errorf("repair: %w", err)
	}
	return r.report, err
}

func newRepair(engine meta.Engine, blobs blob.Backend, o RepairOptions) *repair {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &repair{engine: engine, blobs: blobs, o: o}
}

// repair is one run of Repair.
type repair struct {
	engine meta.Engine
	blobs  blob.Backend
	o      RepairOptions
	report RepairReport

	version  uint64 // of this run, 0: nothing was changed yet
	step     RepairStep
	unproven []Finding // content that was unsealed

	// What is mended needs to know of these, as it was when the phase began.
	ctx   context.Context // of the run
	names map[Ino][]home
	refs  map[blob.ID]int64
}

// run mends what is wrong in the phases up to last.
func (r *repair) run(ctx context.Context, last phase) error {
	r.ctx = ctx
	check := CheckOptions{Progress: r.o.Progress, repair: true, upTo: last}
	for round := 0; ; round++ {
		found, err := CheckEngine(ctx, r.engine, r.blobs, check)
		if err != nil {
			return err
		}
		if round == 0 {
			r.report.Found = found
		}
		now := firstPhase(found)
		if len(now) == 0 || round == maxRounds {
			r.report.Left = append(found, r.unproven...)
			return nil
		}
		if err := r.mend(ctx, now); err != nil {
			return err
		}
	}
}

// firstPhase returns the findings to be mended now: what comes later may be a
// consequence.
func firstPhase(found []Finding) []Finding {
	first := phaseRest
	for _, f := range found {
		if fix, ok := fixes[f.Code]; ok {
			first = min(first, fix.phase)
		}
	}
	now := slices.Clone(found)
	now = slices.DeleteFunc(now, func(f Finding) bool { fix, ok := fixes[f.Code]; return !ok || fix.phase != first })
	slices.SortStableFunc(now, func(a, b Finding) int { return cmp.Compare(a.Ino, b.Ino) })
	return now
}

// mend makes the changes for some findings, each of them atomic, and all durable.
func (r *repair) mend(ctx context.Context, findings []Finding) error {
	if err := errors.Join(r.begin(), r.gather(findings)); err != nil {
		return err
	}
	for _, f := range findings {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.step = RepairStep{Code: f.Code, Ino: f.Ino, Path: f.Path}
		if err := r.engine.Update(func(tx meta.Txn) error { return fixes[f.Code].mend(r, tx, f) }); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		if r.step.Action == "" {
			continue // another step has mended it, too
		}
		r.report.Done = append(r.report.Done, r.step)
		r.o.Logger.Info("repaired", "code", f.Code, "ino", f.Ino, "path", f.Path, "action", r.step.Action)
	}
	return r.engine.Sync()
}

// begin takes a number of a run, as every start does, so that no version that the
// repair gives was ever given before.
func (r *repair) begin() error {
	if r.version != 0 {
		return nil
	}
	run, err := nextRun(r.engine)
	if err != nil {
		return err
	}
	r.version = run*versionGap + 1
	return r.engine.Update(func(tx meta.Txn) error {
		putRun(tx, run+1)
		return nil
	})
}

// nextRun returns the number of a run that no version there is was given in.
func nextRun(r meta.Reader) (uint64, error) {
	run := max(numberOf(r, factRun), 1)
	err := r.Scan([]byte{keyInode}, []byte{keyInode + 1}, func(key, value []byte) bool {
		var v inode
		if v.decode(inoOfKey(key), value) == nil {
			run = max(run, v.Version/versionGap+1)
		}
		return true
	})
	return run, err
}

// numberOf returns a number among the store's facts, 0 if there is none.
func numberOf(r meta.Reader, fact []byte) uint64 {
	b, err := r.Get(fact)
	if err != nil || len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// did says what the current step does.
func (r *repair) did(format string, args ...any) { r.step.Action = fmt.Sprintf(format, args...) }

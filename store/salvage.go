package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// SalvageOptions of Salvage.
type SalvageOptions struct {
	Meta  meta.Engine  // required: new, and filled with what could be had of the old one, or empty
	Blobs blob.Backend // required

	// Instant is the time up to which Meta has everything; zero: that is not known.
	Instant time.Time
	// Cause says why the metadata was lost, for the history.
	Cause string

	Logger *slog.Logger     // nil: discard
	Now    func() time.Time // nil: time.Now
}

// SalvageReport says what Salvage has found. Lists are cut off at 10,000 entries.
type SalvageReport struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"`
	Files int64     `json:"files"` // that the store has now
	Dirs  int64     `json:"directories"`
	Bytes int64     `json:"bytes"`
	// Restored are files that came back from their content alone.
	Restored []string `json:"restored,omitempty"`
	// LostFound is what was put into /lost+found, as its path is now.
	LostFound []string `json:"lost_found,omitempty"`
	// Missing are files whose content is gone, and records that nothing could be made of.
	Missing []string `json:"missing,omitempty"`
	// Unproven are files of which nothing says that their content is what it was.
	Unproven []string `json:"unproven,omitempty"`
	// Repaired are records that contradicted others.
	Repaired int64 `json:"repaired"`
}

// SalvageEvent is the kind of the HistoryEntry that Salvage leaves.
const SalvageEvent = "salvaged"

// Salvage makes a store of records that were restored from a copy, which may be
// older than the content and may have gaps, and of content that carries a label. Nothing
// that can be read is thrown away: an inode without a name, and content without a file,
// go to /lost+found. What was written since the records were copied stays, and is in
// Unproven unless a label proves it. The records are mended as by Repair. Counters are
// counted anew; inode numbers and versions begin beyond all that can have been given. It
// is durable when Salvage returns; Open then opens it. The error is one of the engine or
// the backend.
func Salvage(ctx context.Context, o SalvageOptions) (*SalvageReport, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &salvager{o: o, ctx: ctx, repair: newRepair(o.Meta, o.Blobs, RepairOptions{Now: o.Now, Logger: o.Logger})}
	s.report = SalvageReport{At: o.Now(), Cause: o.Cause}
	for _, step := range []func() error{
		s.facts, s.tree, s.listBlobs, s.writtenSince, s.strayBlobs, s.count, s.rest, s.finish,
	} {
		if err := step(); err != nil {
			return &s.report, fmt.Errorf("salvage: %w", err)
		}
	}
	return &s.report, nil
}

// salvager works on an engine that nobody else uses, so it takes no locks.
type salvager struct {
	o      SalvageOptions
	ctx    context.Context
	repair *repair
	report SalvageReport

	blobs map[blob.ID]*salvagedBlob
	lost  Ino // the directory /lost+found; 0: not looked for
}

// salvagedBlob is content that is there.
type salvagedBlob struct {
	info blob.Info
	refs int64 // inodes that have it
}

const salvageList = 10_000

func note(list *[]string, format string, args ...any) {
	if len(*list) < salvageList {
		*list = append(*list, fmt.Sprintf(format, args...))
	}
}

// Gaps of a salvage: more than what can have been given since the copy was made.
const (
	salvageInoGap    = 1 << 32
	salvageRunGap    = 1 << 12
	salvagePoisonGap = 1 << 32
)

// facts makes the records a store of this format, in which no number is given again.
func (s *salvager) facts() error {
	b, err := s.o.Meta.Get(factFormat)
	if err == nil && (len(b) != 1 || b[0] != formatVersion) {
		return &meta.VersionError{Path: "the second copy", Found: fmt.Sprint(b), Supported: fmt.Sprint(formatVersion)}
	}
	if err = ignore(err, meta.ErrNotFound); err != nil {
		return err
	}
	last, err := lastIno(s.o.Meta)
	if err != nil {
		return err
	}
	run, err := nextRun(s.o.Meta)
	if err != nil {
		return err
	}
	gen := cmp.Or(numberOf(s.o.Meta, factGen), uint64(s.o.Now().UnixNano()))
	poison := numberOf(s.o.Meta, factPoison)
	err = s.o.Meta.Update(func(tx meta.Txn) error {
		for _, f := range []struct {
			key []byte
			n   uint64
		}{
			{factGen, gen}, {factNextIno, uint64(last) + salvageInoGap}, {factRun, run + salvageRunGap}, {factPoison, poison + salvagePoisonGap},
		} {
			tx.Put(f.key, binary.BigEndian.AppendUint64(nil, f.n))
		}
		tx.Put(factFormat, []byte{formatVersion})
		return nil
	})
	if err != nil {
		return err
	}
	return s.repair.begin()
}

// tree mends the records up to where every inode has its place.
func (s *salvager) tree() error { return s.mend(phaseTree) }

// rest mends all that has not become right meanwhile.
func (s *salvager) rest() error {
	if err := s.mend(phaseRest); err != nil {
		return err
	}
	for _, f := range s.repair.unproven {
		note(&s.report.Unproven, "%s", f)
	}
	u, err := loadUsage(s.o.Meta)
	s.report.Files, s.report.Dirs, s.report.Bytes = u.files, u.dirs, u.bytes
	return err
}

// mend repairs, and says so in the report.
func (s *salvager) mend(last phase) error {
	s.repair.report.Done = nil
	err := s.repair.run(s.ctx, last)
	for _, step := range s.repair.report.Done {
		switch step.Code {
		case "inode.nameless", "tree.cycle":
			note(&s.report.LostFound, "%s", pathIn(s.o.Meta, step.Ino))
		case "inode.record", "dirent.record", "dirent.target", "content.missing", "content.none", "inline.missing":
			note(&s.report.Missing, "%s: %s (%s)", cmp.Or(step.Path, "?"), step.Action, step.Code)
		default:
			s.report.Repaired++
		}
	}
	return err
}

// count counts references and usage anew.
func (s *salvager) count() error {
	refs := make(map[blob.ID]int64)
	if err := eachContent(s.o.Meta, func(v *inode) { refs[v.content.blob]++ }); err != nil {
		return err
	}
	u, err := countUsage(s.o.Meta)
	if err != nil {
		return err
	}
	return s.o.Meta.Update(func(tx meta.Txn) error {
		tx.DeleteRange([]byte{keyBlobRefs}, []byte{keyBlobRefs + 1})
		for id, n := range refs {
			tx.Put(blobKey(keyBlobRefs, id), meta.EncodeCounter(n))
		}
		putUsage(tx, u)
		return nil
	})
}

// finish leaves the event, and makes all durable.
func (s *salvager) finish() error {
	seq := uint64(0)
	if err := s.o.Meta.Scan([]byte{keyHistory}, []byte{keyHistory + 1}, func(key, _ []byte) bool {
		seq = uint64(inoOfKey(key))
		return true
	}); err != nil {
		return err
	}
	event, err := json.Marshal(HistoryEntry{Seq: seq + 1, Kind: SalvageEvent, Lock: "metadata", At: s.report.At, Path: s.report.Cause})
	if err != nil {
		return err
	}
	err = s.o.Meta.Update(func(tx meta.Txn) error {
		tx.Put(seqKey(keyHistory, seq+1), event)
		return nil
	})
	return errors.Join(err, s.o.Meta.Sync())
}

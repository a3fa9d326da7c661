package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/meta/secondcopy"
)

const (
	newMetaDir    = "meta.new"      // being filled by a salvage
	cutMetaDir    = "meta.cut"      // the old engine up to the damage in its log
	refusedPrefix = "meta.refused-" // what a salvage has replaced
	reportPrefix  = "salvage-"      // what it has found, as JSON

	// asideFile names the folder of an engine that was put aside, until another is in
	// its place.
	asideFile = "meta.aside"
)

// copyLag is how much older than the engine a second copy may be that takes the place of
// one that can be read in part. The copy of a run that was cut off lacks about a second.
const copyLag = 10 * time.Second

var errMetaLost = errors.New("the metadata is lost")

// salvageReport is written into the data folder.
type salvageReport struct {
	Cause   string `json:"cause"`
	Refused string `json:"refused,omitempty"` // folder of what was replaced
	// Engine is the old engine up to the damage in its log, if that has something that
	// the second copy lacks. Then nothing of the copy was used.
	Engine *cutReport           `json:"engine,omitempty"`
	Copy   *secondcopy.Report   `json:"second_copy"` // null: there was none
	Store  *store.SalvageReport `json:"store"`
}

// cutReport says what was used of an engine.
type cutReport struct {
	pebble.Cut
	Instant time.Time `json:"instant,omitzero"` // when the newest change was made that it has
}

// salvage makes a new engine, and puts it in the place of the old one: of the second
// copy, or of the old one up to the damage in its log, whichever is newer, and of what
// the content says of itself.
func (m *metadata) salvage(ctx context.Context, cause error) error {
	m.o.log.Warn("metadata cannot be used, salvaging", "err", cause, "second_copy", m.o.copy)
	if err := m.copyThere(); err != nil {
		return errors.Join(err, cause)
	}
	report := salvageReport{Cause: cause.Error()}
	dir, err := m.fill(ctx, cause, &report)
	if err != nil {
		err = errors.Join(err, m.removeHalves())
		return hint(err, "nothing was changed: restore the data folder from a backup, or look at what the log says")
	}
	if report.Refused, err = m.putAside(refusedPrefix + timeName()); err != nil {
		return err
	}
	// The report first: a start that is cut off here must not leave a store without it.
	if err := m.write(&report); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(dir, m.path(metaDir)), syncDir(m.o.dir)); err != nil {
		return err
	}
	return errors.Join(m.removeAside(), m.removeHalves())
}

// copyThere returns an error if the second copy that the configuration names is not there.
// What would be salvaged without it is less, and would take its place.
func (m *metadata) copyThere() error {
	if m.o.copy == "" || m.o.copy == m.path(copyDir) || m.hasCopy() {
		return nil
	}
	return hint(fmt.Errorf("the metadata cannot be used, and there is no second copy in %s: nothing was changed", m.o.copy),
		"mount its disk, or start once with --second-copy none to do without it")
}

// putAside renames the engine, and returns its new name; "": there is none.
func (m *metadata) putAside(name string) (string, error) {
	if _, err := os.Lstat(m.path(metaDir)); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err := writeFile(m.path(asideFile), []byte(name)); err != nil {
		return "", err
	}
	return name, os.Rename(m.path(metaDir), m.path(name))
}

// removeAside says that the engine that was put aside is not wanted back.
func (m *metadata) removeAside() error {
	if err := os.Remove(m.path(asideFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(m.o.dir)
}

// undoHalf puts the old engine back if a salvage was cut off when it had been put aside:
// of the new one nobody knows whether it is the best there is.
func (m *metadata) undoHalf() error {
	name, err := os.ReadFile(m.path(asideFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(m.path(metaDir)); errors.Is(err, fs.ErrNotExist) {
		err := os.Rename(m.path(string(name)), m.path(metaDir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // else somebody has removed both
			return err
		}
		if err := syncDir(m.o.dir); err != nil {
			return err
		}
	}
	return m.removeAside()
}

// removeHalves removes what a salvage that was cut off has left, or one that is done.
func (m *metadata) removeHalves() error {
	return errors.Join(os.RemoveAll(m.path(newMetaDir)), os.RemoveAll(m.path(cutMetaDir)))
}

// fill makes a store of the best there is, and returns its folder.
func (m *metadata) fill(ctx context.Context, cause error, report *salvageReport) (string, error) {
	db, dir, err := m.best(ctx, cause, report)
	if err != nil {
		return "", err
	}
	report.Store, err = store.Salvage(ctx, store.SalvageOptions{
		Meta: db, Blobs: m.o.blobs, Instant: report.instant(), Cause: report.Cause, Logger: m.o.log,
	})
	return dir, errors.Join(err, db.Close())
}

func (m *metadata) path(name string) string { return filepath.Join(m.o.dir, name) }

// instant is the time up to which the records that were used have everything.
func (r *salvageReport) instant() time.Time {
	switch {
	case r.Engine != nil:
		return r.Engine.Instant
	case r.Copy != nil:
		return r.Copy.Instant
	}
	return time.Time{}
}

// best returns an engine with the newest records there are, and its folder.
func (m *metadata) best(ctx context.Context, cause error, report *salvageReport) (meta.Engine, string, error) {
	restored, err := m.restore(report)
	if err != nil {
		return nil, "", err
	}
	cut, err := m.cut(ctx, cause, restored, report)
	if err != nil {
		return nil, "", errors.Join(err, restored.Close())
	}
	switch {
	case cut != nil:
		return cut, m.path(cutMetaDir), restored.Close()
	case report.Copy != nil, !meta.IsCorrupt(cause) && !m.noContent():
		return restored, m.path(newMetaDir), nil
	case meta.IsCorrupt(cause): // content alone is less than what may be read of the engine
		return nil, "", errors.Join(cause, restored.Close())
	}
	err = fmt.Errorf("%w: %s, and there is neither a second copy nor any content", errMetaLost, report.Cause)
	return nil, "", errors.Join(err, restored.Close())
}

// restore returns a new engine with what the second copy has.
func (m *metadata) restore(report *salvageReport) (meta.Engine, error) {
	db, err := m.pebble(m.path(newMetaDir), true)
	if err != nil || m.o.copy == "" {
		return db, err
	}
	r, err := secondcopy.Restore(m.o.copy, db)
	switch {
	case err == nil:
		report.Copy = &r
	case !errors.Is(err, secondcopy.ErrNoCopy):
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// cut returns the old engine up to the damage in its log; nil if more than the log is
// damaged, or the second copy has all of that. An older copy, as after weeks in which it
// could not be written, is worse than an engine without its end.
func (m *metadata) cut(ctx context.Context, cause error, restored meta.Reader, report *salvageReport) (meta.Engine, error) {
	if !meta.IsCorrupt(cause) {
		return nil, nil
	}
	db, cut, err := pebble.OpenCut(ctx, m.path(metaDir), m.path(cutMetaDir), pebble.Options{CacheSize: m.o.cache, Logger: m.o.log})
	if meta.IsCorrupt(err) {
		m.o.log.Info("more than the end of the metadata's log is damaged", "err", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	of, copied, err := lastChanges(db, restored)
	if err == nil && (report.Copy == nil || !report.Copy.Complete || of.After(copied)) {
		report.Engine = &cutReport{cut, of}
		return db, nil
	}
	return nil, errors.Join(err, db.Close())
}

// lastChanges returns store.LastChange of both: two copies of the same times can be
// compared even if the clock was wrong.
func lastChanges(a, b meta.Reader) (ofA, ofB time.Time, err error) {
	ofA, errA := store.LastChange(a)
	ofB, errB := store.LastChange(b)
	return ofA, ofB, errors.Join(errA, errB)
}

// againstCopy returns why the second copy cannot take the place of db, which can be read
// in part; "": it can.
func (m *metadata) againstCopy(db meta.Reader) string {
	var report salvageReport
	why := ""
	restored, err := m.restore(&report)
	if err == nil {
		if report.Copy == nil || !report.Copy.Complete {
			why = "the second copy is incomplete"
		} else {
			why, err = older(restored, db)
		}
		err = errors.Join(err, restored.Close())
	}
	if err = errors.Join(err, m.removeHalves()); err != nil {
		return fmt.Sprintf("the second copy cannot be used: %v", err)
	}
	return why
}

// older returns in which way restored is much older than db; "": in none.
func older(restored, db meta.Reader) (string, error) {
	copied, of, err := lastChanges(restored, db)
	if err != nil {
		return "", err
	}
	if of.Sub(copied) > copyLag {
		return fmt.Sprintf("the second copy is older: its last change is of %s, that of the metadata of %s",
			copied.UTC().Format(time.RFC3339), of.UTC().Format(time.RFC3339)), nil
	}
	// Times alone do not tell if the clock was set back, or what is newest is damaged.
	if a, b := store.Runs(restored), store.Runs(db); a != 0 && b != 0 && a != b {
		return "the second copy lacks the last run of the server", nil
	}
	return "", nil
}

// noContent reports whether there is no content at all.
func (m *metadata) noContent() bool {
	stop := errors.New("found one")
	return m.o.blobs.List(func(blob.Info) error { return stop }) == nil
}

// write keeps the report, and says what is in it.
func (m *metadata) write(r *salvageReport) error {
	name, err := keepReport(m.o.dir, reportPrefix, r)
	if err != nil {
		return err
	}
	facts := []any{
		"report", name, "refused", r.Refused, "files", r.Store.Files, "directories", r.Store.Dirs,
		"from_content", len(r.Store.Restored), "lost_found", len(r.Store.LostFound), "missing", len(r.Store.Missing), "unproven", len(r.Store.Unproven),
	}
	from := "without a second copy: what was not content of its own is lost"
	switch {
	case r.Engine != nil:
		from = fmt.Sprintf("from the engine up to the damage in its log, as of %s: of the log %d bytes are lost",
			r.Engine.Instant.UTC().Format(time.RFC3339), r.Engine.Lost)
		facts = append(facts, "engine_instant", r.Engine.Instant, "log", r.Engine.Log, "log_bytes_lost", r.Engine.Lost)
	case r.Copy != nil:
		from = "from the second copy as of " + r.Copy.Instant.UTC().Format(time.RFC3339)
		facts = append(facts, "copy_instant", r.Copy.Instant, "copy_complete", r.Copy.Complete, "copy_gaps", len(r.Copy.Gaps))
	}
	m.o.log.Warn("metadata salvaged", facts...)
	m.salvaged = fmt.Sprintf("the metadata was salvaged at this start, %s: %d files, %d restored from content alone, %d in lost+found, %d missing, %d unproven; see %s",
		from, r.Store.Files, len(r.Store.Restored), len(r.Store.LostFound), len(r.Store.Missing), len(r.Store.Unproven), name)
	return nil
}

// keepReport writes a report into the data folder as JSON, and returns its name.
func keepReport(data, prefix string, report any) (name string, err error) {
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return "", err
	}
	name = prefix + timeName() + ".json"
	return name, writeFile(filepath.Join(data, name), append(text, '\n'))
}

// timeName returns the time as a part of a file's name.
func timeName() string { return time.Now().UTC().Format("20060102T150405.000") }

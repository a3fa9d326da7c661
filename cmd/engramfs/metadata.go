package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/meta/secondcopy"
)

// metadataOptions of openMetadata.
type metadataOptions struct {
	dir   string // the data folder
	copy  string // the second copy's folder; "": none is kept
	fresh bool   // the store is yet to be made
	cache int64  // see pebble.Options
	blobs blob.Backend
	log   *slog.Logger
}

func (s *server) metadataOptions(blobs blob.Backend) metadataOptions {
	o := metadataOptions{
		dir: s.data.dir, copy: s.cfg.SecondCopy, fresh: s.data.fresh, cache: int64(s.cfg.CacheSize), blobs: blobs, log: s.log,
	}
	switch o.copy {
	case "auto":
		o.copy = s.data.path(copyDir)
	case none:
		o.copy = ""
	}
	return o
}

// metadata is the open metadata engine with its second copy.
type metadata struct {
	o        metadataOptions
	engine   meta.Engine
	copy     *secondcopy.Engine // nil: none is kept
	salvaged string             // the report of this start's salvage; "": there was none
	damage   atomic.Pointer[string]
}

const (
	newMetaDir    = "meta.new"      // being filled by a salvage
	refusedPrefix = "meta.refused-" // what a salvage has replaced
	reportPrefix  = "salvage-"      // what it has found, as JSON

	// verifyTime is how long a start reads the engine before it serves. What is larger
	// is read on in the background.
	verifyTime = 500 * time.Millisecond
)

var errMetaLost = errors.New("the metadata is lost")

// openMetadata opens the metadata of a store. If the engine is gone, or any block of
// it is damaged, a new one is made of the second copy and of what the content says of
// itself, and the old one is put aside.
func openMetadata(ctx context.Context, o metadataOptions) (*metadata, error) {
	m := &metadata{o: o}
	if err := os.RemoveAll(filepath.Join(o.dir, newMetaDir)); err != nil {
		return nil, err
	}
	engine, err := m.open(ctx)
	if err != nil && m.salvageable(err) {
		if err = m.salvage(ctx, err); err == nil {
			engine, err = m.open(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	m.engine = engine
	if o.copy != "" {
		m.copy = secondcopy.Open(engine, secondcopy.Options{Dir: o.copy, StateKey: store.RunKey(), Logger: o.log})
		m.engine = m.copy
	}
	return m, nil
}

// open opens the engine and reads it, as far as there is time.
func (m *metadata) open(ctx context.Context) (meta.Engine, error) {
	db, err := m.pebble(filepath.Join(m.o.dir, metaDir), m.o.fresh)
	if err != nil || m.o.fresh {
		return db, err
	}
	short, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	err = db.Verify(short)
	switch {
	case err == nil:
		return db, nil
	case m.salvageable(err):
		return nil, errors.Join(err, db.Close())
	case short.Err() != nil && ctx.Err() == nil:
		return m.verifyOn(db), nil
	case ctx.Err() != nil:
		return nil, errors.Join(err, db.Close())
	}
	m.damaged(err)
	return db, nil
}

func (m *metadata) pebble(dir string, create bool) (*pebble.DB, error) {
	return pebble.Open(dir, pebble.Options{Create: create, CacheSize: m.o.cache, Logger: m.o.log})
}

// verifyOn reads the whole engine in the background. What is found is mended by the
// next start.
func (m *metadata) verifyOn(db *pebble.DB) meta.Engine {
	ctx, cancel := context.WithCancel(context.Background())
	v := &verified{DB: db, cancel: cancel}
	v.done.Go(func() {
		if err := db.Verify(ctx); err != nil && ctx.Err() == nil {
			m.damaged(err)
		}
	})
	return v
}

// verified is an engine that is being verified until it is closed.
type verified struct {
	*pebble.DB
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (v *verified) Close() error {
	v.cancel()
	v.done.Wait()
	return v.DB.Close()
}

func (m *metadata) damaged(err error) {
	note := fmt.Sprintf("metadata: %v", err)
	if m.o.copy != "" {
		note += "; the next start restores it from the second copy"
	}
	m.damage.Store(&note)
	m.o.log.Error("metadata is damaged", "err", err)
}

// salvageable reports whether err says that the engine is lost and that there is
// something better. An engine that can be read in part is better than content alone.
func (m *metadata) salvageable(err error) bool {
	var corrupt *meta.CorruptError
	switch {
	case m.o.fresh:
		return false
	case errors.Is(err, meta.ErrNotExist):
		return true
	case errors.As(err, &corrupt):
		return m.o.copy != "" && secondcopy.Exists(m.o.copy)
	}
	return false
}

// salvageReport is written into the data folder.
type salvageReport struct {
	Cause   string               `json:"cause"`
	Refused string               `json:"refused,omitempty"` // folder of what was replaced
	Copy    *secondcopy.Report   `json:"second_copy"`       // null: there was none
	Store   *store.SalvageReport `json:"store"`
}

// salvage makes a new engine and puts it in the place of the old one.
func (m *metadata) salvage(ctx context.Context, cause error) error {
	m.o.log.Warn("metadata cannot be used, salvaging", "err", cause, "second_copy", m.o.copy)
	report := salvageReport{Cause: cause.Error()}
	dir := filepath.Join(m.o.dir, newMetaDir)
	db, err := m.pebble(dir, true)
	if err != nil {
		return fmt.Errorf("salvage: %w", err)
	}
	err = m.fill(ctx, db, &report)
	if err = errors.Join(err, db.Close()); err != nil {
		return hint(err, "nothing was changed: restore the data folder from a backup, or look at what the log says")
	}
	now := time.Now().UTC().Format("20060102T150405.000")
	old := filepath.Join(m.o.dir, metaDir)
	if _, err := os.Lstat(old); err == nil {
		report.Refused = refusedPrefix + now
		if err := os.Rename(old, filepath.Join(m.o.dir, report.Refused)); err != nil {
			return err
		}
	}
	// The report first: a start that is cut off here must not leave a store without it.
	if err := m.write(reportPrefix+now+".json", &report); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil {
		return err
	}
	return syncDir(m.o.dir)
}

// fill puts all there is into a new engine.
func (m *metadata) fill(ctx context.Context, db meta.Engine, report *salvageReport) error {
	o := store.SalvageOptions{Meta: db, Blobs: m.o.blobs, Cause: report.Cause, Logger: m.o.log}
	if m.o.copy != "" {
		r, err := secondcopy.Restore(m.o.copy, db)
		switch {
		case err == nil:
			report.Copy, o.Instant = &r, r.Instant
		case !errors.Is(err, secondcopy.ErrNoCopy):
			return err
		}
	}
	if report.Copy == nil && m.noContent() {
		return fmt.Errorf("%w: %s, and there is neither a second copy nor any content", errMetaLost, report.Cause)
	}
	r, err := store.Salvage(ctx, o)
	report.Store = r
	return err
}

// noContent reports whether there is no content at all.
func (m *metadata) noContent() bool {
	stop := errors.New("found one")
	return m.o.blobs.List(func(blob.Info) error { return stop }) == nil
}

// write keeps the report, and says what is in it.
func (m *metadata) write(name string, r *salvageReport) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(m.o.dir, name), append(b, '\n')); err != nil {
		return err
	}
	facts := []any{
		"report", name, "refused", r.Refused, "files", r.Store.Files, "directories", r.Store.Dirs,
		"from_content", len(r.Store.Restored), "lost_found", len(r.Store.LostFound), "missing", len(r.Store.Missing),
	}
	copied := "without a second copy: what was not content of its own is lost"
	if r.Copy != nil {
		copied = "from the second copy as of " + r.Copy.Instant.UTC().Format(time.RFC3339)
		facts = append(facts, "copy_instant", r.Copy.Instant, "copy_complete", r.Copy.Complete, "copy_gaps", len(r.Copy.Gaps))
	}
	m.o.log.Warn("metadata salvaged", facts...)
	m.salvaged = fmt.Sprintf("the metadata was salvaged at this start, %s: %d files, %d restored from content alone, %d in lost+found, %d missing; see %s",
		copied, r.Store.Files, len(r.Store.Restored), len(r.Store.LostFound), len(r.Store.Missing), name)
	return nil
}

// copyAge returns how far the copy is behind; false if there is none that is good.
func (m *metadata) copyAge(now time.Time) (time.Duration, bool) {
	st := m.copy.Status()
	if st.Instant.IsZero() {
		return 0, false
	}
	return max(now.Sub(st.Instant), 0), true
}

// lateCopy is the age from which an operator should know.
const lateCopy = 10 * time.Second

// notes is what an operator should know of the metadata.
func (m *metadata) notes(now time.Time) []string {
	var notes []string
	if m.salvaged != "" {
		notes = append(notes, m.salvaged)
	}
	if d := m.damage.Load(); d != nil {
		notes = append(notes, *d)
	}
	if m.copy == nil {
		return notes
	}
	st := m.copy.Status()
	age, ok := m.copyAge(now)
	was := "there is none yet"
	if ok {
		was = fmt.Sprintf("it is as of %s ago", age.Round(time.Second))
	}
	switch {
	case st.State == secondcopy.Failed:
		notes = append(notes, fmt.Sprintf("second copy of the metadata: cannot be written (%v); %s", st.Err, was))
	case age > lateCopy || !ok:
		notes = append(notes, fmt.Sprintf("second copy of the metadata: %s; %s", st.State, was))
	}
	return notes
}

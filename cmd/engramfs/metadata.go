package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
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

	// verify is how long a start reads the engine before it serves. What is larger is
	// read on in the background. 0: 500 ms.
	verify time.Duration
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
	whole    bool               // all of the engine was read before anyone used it
	// kept is why the second copy was not put in the place of an engine that is damaged, and
	// will not be if it is tried again; "": that was no question.
	kept   string
	damage atomic.Pointer[string]
}

// suspectFile is in the data folder when damage was met after a start had begun to
// serve. The next one reads the whole engine first, however long that takes.
const suspectFile = "meta.suspect"

// openMetadata opens the metadata of a store. If the engine is gone, or any block of
// it is damaged, a new one is made of the best there is, and the old one is put aside:
// see salvage.
func openMetadata(ctx context.Context, o metadataOptions) (*metadata, error) {
	m := &metadata{o: o}
	if err := errors.Join(m.undoHalf(), m.removeHalves()); err != nil {
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
	if v, ok := engine.(*verified); ok {
		m.verifyOn(v)
	}
	return m, nil
}

// open opens the engine and reads it, as far as there is time.
func (m *metadata) open(ctx context.Context) (meta.Engine, error) {
	db, err := m.pebble(m.path(metaDir), m.o.fresh)
	if err != nil || m.o.fresh {
		return db, err
	}
	short, cancel := m.verifyTime(ctx)
	defer cancel()
	err = db.Verify(short)
	switch {
	case err == nil:
		m.whole = true
		if err := m.unsuspect(); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		return db, nil
	case meta.IsCorrupt(err):
		return m.keep(db, err)
	case short.Err() != nil && ctx.Err() == nil:
		return newVerified(db), nil
	case ctx.Err() != nil:
		return nil, errors.Join(err, db.Close())
	}
	m.kept = "it could not be read to its end, which the next start tries again"
	m.damaged(err)
	return db, nil
}

// keep returns db, which is damaged but can be read in part, unless the second copy can
// take its place: then it returns the damage.
func (m *metadata) keep(db *pebble.DB, damage error) (meta.Engine, error) {
	if m.hasCopy() {
		if m.kept = m.againstCopy(db); m.kept == "" {
			return nil, errors.Join(damage, db.Close())
		}
		if err := m.unsuspect(); err != nil { // the next start would not know better
			return nil, errors.Join(err, db.Close())
		}
	}
	m.damaged(damage)
	return db, nil
}

// verifyTime returns a context that ends when the engine has been read for long enough.
func (m *metadata) verifyTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, err := os.Lstat(m.path(suspectFile)); err == nil && m.hasCopy() {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, cmp.Or(m.o.verify, 500*time.Millisecond))
}

// suspect notes that err says that the engine is damaged, or may: EIO may be of a bad
// sector of it. It reports whether another start may mend that: not without a second copy,
// or with one that lacks something.
func (m *metadata) suspect(err error) bool {
	if !meta.IsCorrupt(err) && !errors.Is(err, syscall.EIO) || !m.hasCopy() || m.whole || m.kept != "" || m.copy.Status().State == secondcopy.Behind {
		return false
	}
	err = writeFile(m.path(suspectFile), []byte(err.Error()+"\n"))
	if err != nil {
		m.o.log.Error("damage of the metadata not noted", "err", err)
	}
	return err == nil
}

// unsuspect says that the engine has been read, and judged.
func (m *metadata) unsuspect() error {
	err := os.Remove(m.path(suspectFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (m *metadata) pebble(dir string, create bool) (*pebble.DB, error) {
	return pebble.Open(dir, pebble.Options{Create: create, CacheSize: m.o.cache, Logger: m.o.log})
}

// verifyOn reads the whole engine in the background. What is found is mended by the
// next start.
func (m *metadata) verifyOn(v *verified) {
	v.done.Go(func() {
		if err := v.Verify(v.ctx); err != nil && v.ctx.Err() == nil {
			m.damaged(err)
		}
	})
}

// verified is an engine that is being verified until it is closed.
type verified struct {
	*pebble.DB
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newVerified(db *pebble.DB) *verified {
	v := &verified{DB: db}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	return v
}

func (v *verified) Close() error {
	v.cancel()
	v.done.Wait()
	return v.DB.Close()
}

func (m *metadata) damaged(err error) {
	note := fmt.Sprintf("metadata: %v", err)
	switch {
	case m.kept != "":
		note += "; it is served as far as it can be read, because " + m.kept
	case m.suspect(err):
		note += "; the next start restores it from the second copy, if that has everything"
	}
	m.damage.Store(&note)
	m.o.log.Error("metadata is damaged", "err", err, "kept_because", m.kept)
}

// salvageable reports whether err says that the engine is lost.
func (m *metadata) salvageable(err error) bool {
	return !m.o.fresh && (errors.Is(err, meta.ErrNotExist) || meta.IsCorrupt(err))
}

func (m *metadata) hasCopy() bool { return m.o.copy != "" && secondcopy.Exists(m.o.copy) }

// notes is what an operator should know of the metadata, besides the state of its
// second copy.
func (m *metadata) notes() []string {
	var notes []string
	if m.salvaged != "" {
		notes = append(notes, m.salvaged)
	}
	if d := m.damage.Load(); d != nil {
		notes = append(notes, *d)
	}
	return notes
}

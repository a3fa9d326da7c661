package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"engramfs/store/meta"
	"engramfs/store/poison"
)

// ResetReport says what a reset did, or would do.
type ResetReport struct {
	Lock     string        `json:"lock"`
	Gen      uint64        `json:"gen"` // the generation that was reset
	DryRun   bool          `json:"dry_run"`
	Path     string        `json:"path,omitempty"`
	Kept     []string      `json:"kept"`     // what lives only in memory and stays
	Reloaded []string      `json:"reloaded"` // what memory had differently from the engine
	Repaired []string      `json:"repaired"` // what the engine had wrong and was derived again
	Problems []string      `json:"problems"` // why the lock stays poisoned; empty: it is healthy
	Took     time.Duration `json:"took_ns"`
}

// resetWait is how long a reset waits for the lock.
const resetWait = 2 * time.Second

// ResetLock rebuilds what a poisoned lock guards from the engine, checks it, and
// only then clears the lock. wantGen must be the generation the caller was shown.
// A dry run does all but the last step and changes nothing.
//
// The error matches fs.ErrNotExist (no such lock), poison.ErrNotPoisoned,
// poison.ErrStale (another event since), poison.ErrHeld (the lock cannot be had), or
// ErrDamaged (the check found something: the report's Problems say what, and
// the lock stays poisoned). The report is never nil unless there is no such lock.
func (s *Store) ResetLock(ctx context.Context, name string, wantGen uint64, dryRun bool) (*ResetReport, error) {
	r := &ResetReport{Lock: name, Gen: wantGen, DryRun: dryRun, Kept: []string{}, Reloaded: []string{}, Repaired: []string{}, Problems: []string{}}
	if ino, ok := inoOfLock(name); ok {
		r.Path, _ = s.pathOf(ino)
	}
	begin := s.now()
	err := s.reset(ctx, r)
	r.Took = s.now().Sub(begin)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	s.counters.countReset(r, resetSource(ctx), err)
	if err == nil && !dryRun {
		s.history.add(HistoryEntry{Kind: "reset", Lock: name, Gen: wantGen, Path: r.Path, Source: resetSource(ctx), At: s.now(), Report: r})
		s.log.Warn("lock reset", "lock", name, "gen", wantGen, "path", r.Path, "source", resetSource(ctx),
			"reloaded", len(r.Reloaded), "repaired", len(r.Repaired))
	}
	return r, err
}

func (s *Store) reset(ctx context.Context, r *ResetReport) error {
	o := poison.ResetOptions{DryRun: r.DryRun, Wait: resetWait}
	switch r.Lock {
	case lockAlloc:
		return s.alloc.Reset(r.Gen, o, func(old *allocator) (allocator, error) {
			a, err := loadAllocator(s.engine)
			if err == nil && a != *old {
				r.Reloaded = append(r.Reloaded, fmt.Sprintf("next inode: %d, was %d", a.next, old.next))
			}
			return a, err
		})
	case lockUsage:
		s.usageMu.Lock() // waits for changes that are about to count
		defer s.usageMu.Unlock()
		return s.usage.Reset(r.Gen, o, func(old *usage) (usage, error) {
			u, err := loadUsage(s.engine)
			if err == nil && u != *old {
				r.Reloaded = append(r.Reloaded, fmt.Sprintf("files %d, directories %d, bytes %d; were %d, %d, %d",
					u.files, u.dirs, u.bytes, old.files, old.dirs, old.bytes))
			}
			return u, err
		})
	case lockDAVLocks:
		kept, reloaded, err := s.davLocks.reset(r.Gen, r.DryRun)
		r.Kept, r.Reloaded = append(r.Kept, kept...), append(r.Reloaded, reloaded...)
		return err
	case lockFileLocks:
		kept, dropped, err := s.fileLocks.reset(r.Gen, o)
		r.Kept, r.Repaired = append(r.Kept, kept...), append(r.Repaired, dropped...)
		return err
	}
	ino, ok := inoOfLock(r.Lock)
	if !ok {
		return fmt.Errorf("lock %q: %w", r.Lock, fs.ErrNotExist)
	}
	return s.resetInode(ctx, ino, r, o)
}

// resetInode rebuilds one inode.
func (s *Store) resetInode(ctx context.Context, ino Ino, r *ResetReport, o poison.ResetOptions) error {
	n := s.nodes.peek(ino)
	if n == nil {
		if _, err := readInode(s.engine, ino); err != nil {
			return fmt.Errorf("lock %q: %w", r.Lock, err)
		}
		return fmt.Errorf("%w: %s", poison.ErrNotPoisoned, r.Lock)
	}
	defer s.nodes.release(n)
	b := rebuild{s: s, n: n, r: r}
	err := n.guard.Reset(r.Gen, o, func(old *inode) (inode, error) { return b.run(ctx, old) })
	if err == nil && !r.DryRun {
		s.collector.wake() // it passes by what is poisoned
		n.share().failed() // what died may have left a tail
		s.sealer.enqueue(ino, sealRequest{due: time.Now()})
	}
	return err
}

// rebuild derives one inode again. It runs with the inode's lock held.
type rebuild struct {
	s *Store
	n *node
	r *ResetReport

	bytes int64 // that the content has more than is counted
}

func (b *rebuild) run(ctx context.Context, old *inode) (inode, error) {
	s, r := b.s, b.r
	v, err := readInode(s.engine, b.n.ino)
	if errors.Is(err, ErrStale) { // the change that died had removed it
		r.Reloaded = append(r.Reloaded, "the inode was removed by the change that failed")
		return inode{Attr: Attr{Ino: b.n.ino}}, nil
	}
	if err != nil {
		return inode{}, err
	}
	b.diff(old, &v)
	if v.content.kind == contentBlob && !v.content.sealed {
		if err := b.newVersion(&v); err != nil {
			return inode{}, err
		}
	}
	if opens := b.n.opens.Load(); opens > 0 {
		r.Kept = append(r.Kept, fmt.Sprintf("%d open handles", opens))
	}
	if pins := b.n.pins.Load(); pins > 0 {
		r.Kept = append(r.Kept, fmt.Sprintf("%d pins", pins))
	}
	if err := ctx.Err(); err != nil {
		return inode{}, err
	}
	if err := b.repairLinks(&v); err != nil {
		return inode{}, err
	}
	problems, err := s.checkInode(ctx, s.engine, &v)
	if err != nil {
		return inode{}, err
	}
	if len(problems) > 0 {
		r.Problems = append(r.Problems, problems...)
		return inode{}, fmt.Errorf("%w: inode %d: %s", ErrDamaged, v.Ino, problems[0])
	}
	if !r.DryRun {
		s.dirents.clear()
		if v.content.kind == contentBlob {
			s.open.forget(v.content.blob)
		}
	}
	return v, nil
}

// diff reports what memory had differently.
func (b *rebuild) diff(old, v *inode) {
	for _, f := range []struct {
		name     string
		old, new any
	}{
		{"mode", fmt.Sprintf("%o", old.Mode), fmt.Sprintf("%o", v.Mode)},
		{"links", old.Nlink, v.Nlink}, {"owner", old.UID, v.UID}, {"group", old.GID, v.GID},
		{"size", old.Size, v.Size}, {"mtime", old.Mtime, v.Mtime}, {"change", old.Change, v.Change},
		{"version", old.Version, v.Version}, {"content", old.content, v.content},
		{"parent", old.parent, v.parent}, {"name", old.name, v.name},
	} {
		if f.old != f.new {
			b.r.Reloaded = append(b.r.Reloaded, fmt.Sprintf("%s: %v, was %v", f.name, f.new, f.old))
		}
	}
}

// repairLinks counts a directory's child directories again.
func (b *rebuild) repairLinks(v *inode) error {
	if !v.IsDir() || v.Nlink == 0 {
		return nil
	}
	want := uint32(2)
	prefix := inoKey(keyDirent, v.Ino)
	err := b.s.engine.Scan(prefix, prefixEnd(prefix), func(_, value []byte) bool {
		if d, err := decodeDirent(value); err == nil && d.typ == ModeDir {
			want++
		}
		return true
	})
	if err != nil || v.Nlink == want {
		return err
	}
	b.r.Repaired = append(b.r.Repaired, fmt.Sprintf("links: %d, were %d", want, v.Nlink))
	v.Nlink = want
	return b.save(v)
}

// newVersion gives content that was being written in place a new version: the
// change that died may have written bytes under the old one, which an ETag has
// promised to be something else.
func (b *rebuild) newVersion(v *inode) error {
	b.r.Repaired = append(b.r.Repaired, "the content was being written in place: it has a new version")
	v.Version = b.s.nextVersion(v.Version)
	native, err := b.s.markedNative(v.Ino)
	if err != nil {
		return err
	}
	size := v.Size
	if st, ok := b.s.statBlob(v.content.blob); native && ok {
		v.absorb(st)
	}
	if v.Size != size {
		b.r.Repaired = append(b.r.Repaired, fmt.Sprintf("size: %d, was %d: programs wrote to the content", v.Size, size))
		b.bytes = v.Size - size
	}
	return b.save(v)
}

// save puts the repaired inode into the engine.
func (b *rebuild) save(v *inode) error {
	v.Change++
	if b.r.DryRun {
		return nil
	}
	b.s.usageMu.RLock()
	defer b.s.usageMu.RUnlock()
	err := b.s.engine.Update(func(tx meta.Txn) error {
		tx.Put(inoKey(keyInode, v.Ino), appendInode(nil, v))
		if b.bytes != 0 {
			tx.Add(usageBytes, b.bytes)
		}
		return nil
	})
	if err == nil {
		b.s.addUsage(0, 0, b.bytes)
		b.bytes = 0
	}
	return b.s.engineError(err)
}

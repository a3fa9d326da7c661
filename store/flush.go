package store

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flushDelay is how long a change may wait for its way to the disk if nobody
// asks for it, as in a file system's commit interval.
const flushDelay = time.Second

// flusher knows what may not be durable: whether the engine has changes, and
// which files were written in place.
type flusher struct {
	dirty chan struct{} // holds one token if the engine has changes

	// mu protects the field below.
	mu      sync.Mutex
	written map[Ino]struct{} // nil: none
}

func newFlusher() *flusher { return &flusher{dirty: make(chan struct{}, 1)} }

// mark is called after every batch.
func (f *flusher) mark() {
	select {
	case f.dirty <- struct{}{}:
	default:
	}
}

// wrote is called for a file whose blob was written in place.
func (f *flusher) wrote(ino Ino) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.written == nil {
		f.written = make(map[Ino]struct{})
	}
	f.written[ino] = struct{}{}
}

// take returns the files written since the last take.
func (f *flusher) take() map[Ino]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	written := f.written
	f.written = nil
	return written
}

// flush makes every change durable within flushDelay and the time of a sync,
// until ctx ends. Where somebody has synced meanwhile the engine's sync costs
// nothing, and while nothing changes flush sleeps.
//
// Content that is written in place is synced beside the engine, not before it:
// one slow file must not hold up the changes of all others. It is synced while
// somebody has it open for writing. A file that is closed is synced together with
// others of its kind, when it gets its checksums: unpacking an archive is not to
// wait for the disk once for every file.
func (s *Store) flush(ctx context.Context) {
	contents := make(chan map[Ino]struct{})
	defer close(contents)
	s.goSafe("content flusher", func() { s.flushContents(ctx, contents) })
	for {
		select {
		case <-ctx.Done(): // Close makes the engine durable
			return
		case <-s.flusher.dirty:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(flushDelay):
		}
		select {
		case <-s.flusher.dirty: // what came meanwhile is part of this sync
		default:
		}
		if err := s.flushEngine(); err != nil {
			s.log.Error("changes not synced", "err", err)
			if s.ReadOnly() != nil {
				return // for good
			}
		}
		s.passContents(contents)
	}
}

// flushEngine syncs the engine. A panic costs this sync, not those after it.
func (s *Store) flushEngine() (err error) {
	defer s.contain("flush", &err)
	return s.engineError(s.engine.Sync())
}

// passContents hands the files that were written to flushContents, or if it has
// not done with the last ones, keeps them for the next time.
func (s *Store) passContents(contents chan<- map[Ino]struct{}) {
	written := s.flusher.take()
	if len(written) == 0 {
		return
	}
	select {
	case contents <- written:
	default:
		for ino := range written {
			s.flusher.wrote(ino)
		}
		s.flusher.mark()
	}
}

// flushContents syncs the content of files until the channel is closed.
func (s *Store) flushContents(ctx context.Context, contents <-chan map[Ino]struct{}) {
	for written := range contents {
		for ino := range written {
			if ctx.Err() != nil {
				return
			}
			if err := s.flushContent(ctx, ino); err != nil && !errors.Is(err, ErrStale) {
				s.log.Error("content not synced", "ino", ino, "err", err)
			}
		}
	}
}

func (s *Store) flushContent(ctx context.Context, ino Ino) (err error) {
	defer s.contain("flush_content", &err)
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return err
	}
	defer s.nodes.release(n)
	if n.writers.Load() > 0 {
		if err := s.syncNode(ctx, n); err != nil {
			return err
		}
	}
	s.keepTouched(ctx, n, false)
	return nil
}

// SyncContent makes what was written into the content of ino through any handle
// durable. Its record, the size among it, is durable after Sync. It takes no lock while it
// waits for the disk.
func (s *Store) SyncContent(ctx context.Context, ino Ino) error {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return err
	}
	defer s.nodes.release(n)
	return s.syncNode(ctx, n)
}

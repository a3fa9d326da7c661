package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"engramfs/store/meta"
)

// versionGap is how far apart the versions of two runs of the store begin. A power
// cut may take back changes whose ETags clients have seen, but no run makes as many
// changes of one inode.
const versionGap = 1 << 40

// beginRun makes sure that no version of this run was given in an earlier one, so
// that no ETag ever means two contents. It is durable when it returns.
//
// Which boot it is stays to be written by who has brought the content up to date: a run
// that ends before that, or is only to look at the store, leaves that to the next one.
func (s *Store) beginRun(boot string) error {
	if s.engine.Failed() != nil {
		return nil // nothing can be changed
	}
	run, err := s.engine.Get(factRun)
	switch {
	case errors.Is(err, meta.ErrNotFound):
		run = make([]byte, 8)
	case err != nil:
		return fmt.Errorf("load the number of the run: %w", err)
	case len(run) != 8:
		return fmt.Errorf("%w: number of the run: %w", ErrDamaged, errShortRecord)
	}
	n := binary.BigEndian.Uint64(run)
	s.firstVersion = n * versionGap
	last, err := s.engine.Get(factBoot)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return fmt.Errorf("load the boot of the last run: %w", err)
	}
	s.sameBoot = boot != "" && string(last) == boot
	if err := s.engine.Update(func(tx meta.Txn) error {
		putRun(tx, n+1)
		return nil
	}); err != nil {
		return s.engineError(err)
	}
	return s.engineError(s.engine.Sync())
}

// putRun makes n the number of runs there were, and gives this one an ID.
func putRun(tx meta.Txn, n uint64) {
	tx.Put(factRun, binary.BigEndian.AppendUint64(nil, n))
	tx.Put(factRunID, newRunID())
}

func newRunID() []byte {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return id
}

// endRun changes the value under RunKey once more: the engine as it was during the run, as a
// snapshot of its disk has it, is not the one that was closed.
func (s *Store) endRun() error {
	if s.engine.Failed() != nil {
		return nil // nothing can be changed
	}
	return s.engineError(s.engine.Update(func(tx meta.Txn) error {
		tx.Put(factRunID, newRunID())
		return nil
	}))
}

// noteBoot notes durably that content is up to date with what this boot of the machine
// has kept.
func (s *Store) noteBoot(boot string) error {
	if s.engine.Failed() != nil {
		return nil // nothing can be changed
	}
	err := s.engine.Update(func(tx meta.Txn) error {
		tx.Put(factBoot, []byte(boot))
		return nil
	})
	if err == nil {
		err = s.engine.Sync()
	}
	return s.engineError(err)
}

// nextVersion returns the version that follows v; that of a new inode follows 0.
func (s *Store) nextVersion(v uint64) uint64 { return max(v+1, s.firstVersion) }

// RunKey returns the key of the engine whose value no other engine has, and this one only
// from an Open, or Repair, until the next one, or Close.
func RunKey() []byte { return append([]byte{}, factRunID...) }

// Runs returns a number that grows with every Open and Repair of the store that is in r;
// 0: not known.
func Runs(r meta.Reader) uint64 { return numberOf(r, factRun) }

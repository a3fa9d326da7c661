package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"engramfs/store/meta"
	"engramfs/store/poison"
)

// allocator hands out inode numbers. It reserves them in the engine in steps,
// so that a number is never given twice, not even after a crash: the batch of
// the reservation comes before the batch of any inode with such a number.
type allocator struct {
	next, limit Ino // INVARIANT: next <= limit, and limit is in the engine
}

const allocStep = 4096

// allocIno returns an inode number that was never used. The error matches
// ErrPoisoned if the allocator is poisoned.
func (s *Store) allocIno() (Ino, error) {
	var ino Ino
	err := s.alloc.Write("alloc_ino", func(a *allocator) error {
		if err := s.faults.hit(faultAllocReserve); err != nil {
			return err
		}
		if a.next == a.limit {
			limit := a.limit + allocStep
			if err := s.engine.Update(func(tx meta.Txn) error {
				tx.Put(factNextIno, binary.BigEndian.AppendUint64(nil, uint64(limit)))
				return nil
			}); err != nil {
				return s.engineError(err)
			}
			a.limit = limit
		}
		ino = a.next
		a.next++
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("allocate an inode number: %w", err)
	}
	return ino, nil
}

// loadAllocator returns the allocator as the engine proves it: numbers up to
// the reserved limit may have been used.
func loadAllocator(r meta.Reader) (allocator, error) {
	b, err := r.Get(factNextIno)
	if errors.Is(err, meta.ErrNotFound) {
		return allocator{next: RootIno + 1, limit: RootIno + 1}, nil
	}
	if err != nil {
		return allocator{}, fmt.Errorf("load the inode allocator: %w", err)
	}
	if len(b) != 8 {
		return allocator{}, fmt.Errorf("%w: inode allocator: %w", ErrDamaged, errShortRecord)
	}
	limit := Ino(binary.BigEndian.Uint64(b))
	return allocator{next: limit, limit: limit}, nil
}

// usage counts what the store holds. The engine's counters are the truth, part
// of every batch; these are their copy in memory, added to after the batch.
type usage struct {
	files, dirs, bytes int64
}

// addUsage follows a batch. A poisoned usage lock keeps the copy as it is: the
// batch has counted already, and the reset reads the engine's counters. The caller
// holds usageMu for reading since before the batch, so that a reset reads them
// either before the batch or after its call, and no batch is counted twice.
func (s *Store) addUsage(files, dirs, bytes int64) {
	if files == 0 && dirs == 0 && bytes == 0 {
		return
	}
	err := s.usage.Write("usage_add", func(u *usage) error {
		u.files += files
		if err := s.faults.hit(faultUsageAdd); err != nil {
			return err
		}
		u.dirs += dirs
		u.bytes += bytes
		return nil
	})
	if err != nil && !errors.Is(err, ErrPoisoned) {
		s.log.Error("usage not counted", "err", err)
	}
}

// add counts an inode.
func (u *usage) add(v *inode) {
	if v.IsDir() {
		u.dirs++
		return
	}
	u.files++
	if v.IsRegular() {
		u.bytes += v.Size
	}
}

// usageCounter is a counter of the engine, and the figure that it is of.
type usageCounter struct {
	key []byte
	n   *int64
}

func (u *usage) counters() [3]usageCounter {
	return [...]usageCounter{{usageFiles, &u.files}, {usageDirs, &u.dirs}, {usageBytes, &u.bytes}}
}

func loadUsage(r meta.Reader) (u usage, err error) {
	for _, c := range u.counters() {
		if *c.n, err = r.Counter(c.key); err != nil {
			return usage{}, fmt.Errorf("load usage: %w", err)
		}
	}
	return u, nil
}

// putUsage makes u what the engine's counters say.
func putUsage(tx meta.Txn, u usage) {
	for _, c := range u.counters() {
		tx.Put(c.key, meta.EncodeCounter(*c.n))
	}
}

// newDomains creates the locks that the whole store shares.
func (s *Store) newDomains() error {
	a, err := loadAllocator(s.engine)
	if err != nil {
		return err
	}
	u, err := loadUsage(s.engine)
	if err != nil {
		return err
	}
	s.alloc = poison.New(s.registry, lockAlloc, poison.LockOptions{Rank: rankAlloc, Class: poison.Durable}, a)
	s.usage = poison.New(s.registry, lockUsage, poison.LockOptions{Rank: rankUsage, Class: poison.Durable}, u)
	return nil
}

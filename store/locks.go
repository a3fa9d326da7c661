package store

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"engramfs/store/poison"
)

// LockStatus is one lock as an operator sees it.
type LockStatus struct {
	Name  string `json:"name"`
	State string `json:"state"` // "healthy", "poisoned" or "stuck"
	Class string `json:"class"`
	// Path is what an inode's lock guards, as a user names it.
	Path string `json:"path,omitempty"`
	// Gen is the generation that a reset has to name; 0: never poisoned.
	Gen            uint64        `json:"gen"`
	WritesRejected uint64        `json:"writes_rejected"`
	RecoveredReads uint64        `json:"recovered_reads"`
	Event          *poison.Event `json:"-"` // why it is poisoned; nil: it is not
}

// AnyPoisoned reports whether a lock of the store is poisoned. It costs one
// atomic load.
func (s *Store) AnyPoisoned() bool { return s.registry.AnyPoisoned() }

// Locks returns the domain locks, and the inode locks that are poisoned or
// stuck. It takes no lock of the store.
func (s *Store) Locks() []LockStatus {
	health := s.registry.Health()
	locks := make([]LockStatus, 0, len(health.Locks))
	for _, l := range health.Locks {
		locks = append(locks, s.lockStatus(l))
	}
	return locks
}

// LockStatus returns the named lock. Every inode has one, "inode:<ino>". The
// error matches fs.ErrNotExist. It takes no lock of the store.
func (s *Store) LockStatus(name string) (LockStatus, error) {
	if l, ok := s.registry.LockHealth(name); ok {
		return s.lockStatus(l), nil
	}
	ino, ok := inoOfLock(name)
	if !ok {
		return LockStatus{}, fmt.Errorf("lock %q: %w", name, fs.ErrNotExist)
	}
	if _, err := readInode(s.engine, ino); err != nil {
		return LockStatus{}, fmt.Errorf("lock %q: %w", name, err)
	}
	path, _ := s.pathOf(ino)
	return LockStatus{Name: name, State: "healthy", Class: poison.Durable.String(), Path: path}, nil
}

func (s *Store) lockStatus(l poison.LockHealth) LockStatus {
	st := LockStatus{
		Name: l.Name, State: "healthy", Class: l.Class.String(), Path: l.Detail, Gen: l.Gen, Event: l.Event,
		WritesRejected: l.WritesRejected, RecoveredReads: l.RecoveredReads,
	}
	if l.Family == lockInode && st.Path == "" { // the registry was asked while it was asking us
		st.Path, _ = s.pathOf(Ino(l.ID))
	}
	switch {
	case l.Event != nil:
		st.State = "poisoned"
	case l.Stuck != nil:
		st.State = "stuck"
	}
	return st
}

// InodeLock returns the name of an inode's lock.
func InodeLock(ino Ino) string { return lockInode + ":" + strconv.FormatUint(uint64(ino), 10) }

// inoOfLock returns the inode whose lock has that name.
func inoOfLock(name string) (Ino, bool) {
	id, ok := strings.CutPrefix(name, lockInode+":")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(id, 10, 64)
	return Ino(n), err == nil && n != 0
}

// eachInodeLock lets the watchdog look at the locks that may be held.
func (s *Store) eachInodeLock(yield func(poison.Locker) bool) {
	s.nodes.inUse(func(n *node) bool { return yield(n.guard) })
}

// lockFault lets drills strike inside the table of WebDAV locks.
func (s *Store) lockFault(point string) error { return s.faults.hit(point) }

package store

import (
	"context"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/store/poison"
)

// FaultPoint is a place inside the write path where a drill can strike.
type FaultPoint struct {
	Name string `json:"name"`
	Doc  string `json:"doc"`
	// Domain marks a point inside the section of a domain lock. It poisons that
	// domain, which the whole store shares, so it strikes only when it is named.
	Domain bool `json:"domain"`
	// Locked says that the point is inside a write section: a panic there
	// poisons. Elsewhere the operation fails and nothing else happens.
	Locked bool `json:"locked"`
	// Late says that the batch is already in the engine: the change is made,
	// though its caller is told that the outcome is unknown.
	Late bool `json:"late"`
}

// The fault points, in the order in which a write reaches them.
const (
	faultUploadWrite      = "upload:write"
	faultUploadSync       = "upload:sync"
	faultCloneTree        = "clone:tree"
	faultChangeLocked     = "change:locked"
	faultChangeComputed   = "change:computed"
	faultChangeAppended   = "change:appended"
	faultChangePublishing = "change:publishing"
	faultChangePublished  = "change:published"
	faultChangeUnlocked   = "change:unlocked"
	faultWriteContent     = "write:content"
	faultAllocReserve     = "alloc:reserve"
	faultUsageAdd         = "usage:add"
	faultDAVLockAppend    = "davlock:append"
	faultDAVLockPublish   = "davlock:publish"
	faultFileLockChange   = "filelock:change"
)

var faultPoints = []FaultPoint{
	{Name: faultUploadWrite, Doc: "an upload's bytes are being taken in; no lock is held"},
	{Name: faultUploadSync, Doc: "an upload is complete and about to be synced; no lock is held"},
	{Name: faultCloneTree, Doc: "a tree is being copied beside the visible tree; no lock is held"},
	{Name: faultWriteContent, Locked: true, Doc: "a file's content is about to be changed in place"},
	{Name: faultChangeLocked, Locked: true, Doc: "every lock is held and checked; nothing is computed"},
	{Name: faultChangeComputed, Locked: true, Doc: "the change is computed; nothing is in the engine"},
	{Name: faultChangeAppended, Locked: true, Late: true, Doc: "the batch is in the engine; memory has the old values"},
	{Name: faultChangePublishing, Locked: true, Late: true, Doc: "the first inode is published, the others are not"},
	{Name: faultChangePublished, Locked: true, Late: true, Doc: "all is published; the locks are still held"},
	{Name: faultChangeUnlocked, Late: true, Doc: "the locks are released; the caller has no answer yet"},
	{Name: faultAllocReserve, Locked: true, Domain: true, Doc: "the allocator takes an inode number"},
	{Name: faultUsageAdd, Locked: true, Domain: true, Late: true, Doc: "the usage counters are updated"},
	{Name: faultDAVLockAppend, Locked: true, Domain: true, Doc: "a WebDAV lock's record is about to be appended"},
	{Name: faultDAVLockPublish, Locked: true, Domain: true, Late: true, Doc: "a WebDAV lock's record is in the engine; the table has the old value"},
	{Name: faultFileLockChange, Locked: true, Domain: true, Doc: "the table of flock(2) and fcntl(2) locks is about to change"},
}

// FaultPoints returns the points that ArmFault knows.
func FaultPoints() []FaultPoint { return slices.Clone(faultPoints) }

// faults holds the armed drills. Each strikes once.
type faults struct {
	armed atomic.Int32 // len(list), so that an unarmed point costs one load
	fired atomic.Int64

	// mu protects the field below.
	mu   sync.Mutex
	list []armedFault
}

type armedFault struct {
	ino   Ino
	point string // "": the first one reached that is no domain's
	cause string
}

// holdTime is how long a drill with cause "hold" stays where it struck: longer than
// the watchdog's soft limit takes to be noticed.
const holdTime = 20 * time.Second

// ArmFault arms a one-shot drill: the next change of the inode at path that
// reaches point panics ("panic"), exits its goroutine ("goexit"), fails with
// ErrFault ("error"), or hangs with its locks for 20 seconds and then goes on as if
// nothing had been ("hold"). The point "" is the first one reached that is inside a
// write section of the inode. Unknown points and causes are refused with an
// error that matches fs.ErrInvalid.
func (s *Store) ArmFault(ctx context.Context, path, point, cause string) error {
	known := point == "" || slices.ContainsFunc(faultPoints, func(p FaultPoint) bool { return p.Name == point })
	if !known {
		return fmt.Errorf("%w: unknown fault point %q", fs.ErrInvalid, point)
	}
	if !slices.Contains([]string{"panic", "goexit", "error", "hold"}, cause) {
		return fmt.Errorf("%w: unknown cause %q, want panic, goexit, error or hold", fs.ErrInvalid, cause)
	}
	a, err := s.LookupPath(ctx, path)
	if err != nil {
		return err
	}
	s.faults.arm(armedFault{ino: a.Ino, point: point, cause: cause})
	s.log.Warn("drill armed", "path", path, "ino", a.Ino, "point", point, "cause", cause)
	return nil
}

// FaultsFired returns how many drills have struck since Open.
func (s *Store) FaultsFired() int64 { return s.faults.fired.Load() }

func (f *faults) arm(a armedFault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, a)
	f.armed.Store(int32(len(f.list)))
}

// hit strikes if a drill for point and one of inos is armed. A nil inos means
// a point that knows no inode: any drill that names the point strikes.
func (f *faults) hit(point string, inos ...Ino) error {
	if f.armed.Load() == 0 {
		return nil
	}
	cause := f.take(point, inos)
	switch cause {
	case "":
		return nil
	case "panic":
		panic("drill at " + point)
	case "goexit":
		runtime.Goexit()
	case "hold":
		time.Sleep(holdTime)
		return nil
	}
	p := faultPoints[slices.IndexFunc(faultPoints, func(p FaultPoint) bool { return p.Name == point })]
	err := fmt.Errorf("%w at %s", ErrFault, point)
	if p.Locked && p.Late {
		return poison.Fatal(err) // the engine has the change: an error cannot take it back
	}
	return err
}

// take removes the first drill that strikes here and returns its cause.
func (f *faults) take(point string, inos []Ino) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, a := range f.list {
		if a.point != point && (a.point != "" || point != faultChangeLocked && point != faultWriteContent) {
			continue
		}
		if inos != nil && !slices.Contains(inos, a.ino) {
			continue
		}
		f.list = slices.Delete(f.list, i, i+1)
		f.armed.Store(int32(len(f.list)))
		f.fired.Add(1)
		return a.cause
	}
	return ""
}

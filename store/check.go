package store

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// Finding is one violated invariant.
type Finding struct {
	// Code names the invariant, the same in every version: "inode.links".
	Code string `json:"code"`
	// Ino is the inode it is about, 0 if it is about none.
	Ino Ino `json:"ino,omitempty"`
	// Path is the inode's path as far as it can be told, or "".
	Path string `json:"path,omitempty"`
	// Detail says what is wrong, for people.
	Detail string `json:"detail"`
	// Repairable: Repair mends it.
	Repairable bool `json:"repairable"`

	key  []byte  // of the record that is wrong
	blob blob.ID // the content it is about
}

// String returns the finding as one line.
func (f Finding) String() string {
	return f.Detail + marks(f.Code, f.Path)
}

// marks returns those of its arguments that are not empty, in brackets.
func marks(list ...string) string {
	list = slices.DeleteFunc(list, func(m string) bool { return m == "" })
	if len(list) == 0 {
		return ""
	}
	return " [" + strings.Join(list, ", ") + "]"
}

// CheckOptions of Check and CheckEngine. The zero value checks the metadata and
// that all content is there.
type CheckOptions struct {
	// Content also reads all content that has checksums against them.
	Content bool
	// Damaged also reports content that is on the list of damage already.
	Damaged bool
	// Progress, if it is not nil, is called now and then with how many records were
	// looked at and about how many there are.
	Progress func(done, total int64)

	repair bool // report what can be mended up to this phase, and without a limit
	upTo   phase
}

// ContentDamaged is the Code of content that fails its checksums.
const ContentDamaged = "content.damaged"

// MaxFindings bounds what a check reports; Repair does without.
const MaxFindings = 10_000

// Check verifies the whole store and returns every violated invariant.
// It changes nothing and can run while the store is in use: the engine is read
// from one snapshot, and inodes in memory are compared with it one by one under
// their locks. Poisoned inodes are left out of that comparison. The error is
// about running the check, not about what it found.
func (s *Store) Check(ctx context.Context, o CheckOptions) ([]Finding, error) {
	o.Damaged = true
	findings, err := CheckEngine(ctx, s.engine, s.blobs, o)
	if err != nil {
		return nil, err
	}
	memory, err := s.checkMemory(ctx)
	return append(findings, memory...), err
}

// CheckEngine is Check of a store that is not open. It changes nothing.
func CheckEngine(ctx context.Context, engine meta.Engine, blobs blob.Backend, o CheckOptions) ([]Finding, error) {
	k := &checker{ctx: ctx, o: o, engine: engine, blobs: blobs}
	err := engine.View(func(r meta.Reader) error {
		k.r = r
		for _, step := range []func() error{
			k.begin, k.readInodes, k.readFacts, k.readInodeParts, k.readDirents, k.readLinks, k.readInline,
			k.compare, k.readRefs, k.readSums, k.readUsage, k.readOthers,
		} {
			if err := step(); err != nil {
				return fmt.Errorf("check: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return k.findings, nil
}

// checker is one run of a check. Its memory is 56 bytes for each inode, and 24 more for each
// that has a blob.
type checker struct {
	ctx    context.Context
	o      CheckOptions
	engine meta.Engine // what is there now
	blobs  blob.Backend
	r      meta.Reader // the snapshot

	inodes   inodeTable
	refs     []checkedRef // by blob, once sorted
	used     usage
	maxVer   uint64
	done     int64
	total    int64
	findings []Finding
}

// begin learns how much there is to do.
func (k *checker) begin() error {
	u, err := loadUsage(k.r)
	if err != nil {
		u = usage{} // a finding later on
	}
	const passes = 3 // inodes, dirents, and the inodes compared with what was counted
	k.total = passes * max(u.files+u.dirs, 1)
	return nil
}

// progressStep is how many records are looked at between two calls of Progress.
const progressStep = 8192

// step counts a record, and returns an error once the check is to stop.
func (k *checker) step() error {
	k.done++
	if k.done%progressStep == 0 && k.o.Progress != nil {
		k.o.Progress(k.done, max(k.done, k.total))
	}
	return k.ctx.Err()
}

func (k *checker) add(f Finding, format string, args ...any) {
	fix, fixable := fixes[f.Code]
	if k.o.repair && fixable && fix.phase > k.o.upTo || !k.o.repair && len(k.findings) >= MaxFindings {
		return
	}
	f.Detail, f.Repairable = fmt.Sprintf(format, args...), fixable
	f.key = slices.Clone(f.key)
	if f.Ino != 0 {
		f.Path = pathIn(k.r, f.Ino)
	}
	k.findings = append(k.findings, f)
}

// pathIn returns where an inode is, "" if it hangs in the air.
func pathIn(r meta.Reader, ino Ino) string {
	const deepest = 4096
	p := ""
	for range deepest {
		if ino == RootIno {
			return "/" + p
		}
		v, err := readInode(r, ino)
		if err != nil || v.parent == 0 {
			return ""
		}
		p, ino = path.Join(v.name, p), v.parent
	}
	return ""
}

// scan calls fn with every record of a kind.
func (k *checker) scan(kind byte, fn func(key, value []byte)) error {
	var stop error
	err := k.r.Scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) bool {
		fn(key, value)
		stop = k.step()
		return stop == nil
	})
	return errors.Join(err, stop)
}

// get returns a record, nil if there is none.
func (k *checker) get(key []byte) ([]byte, error) {
	b, err := k.r.Get(key)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	if b == nil && err == nil {
		b = []byte{}
	}
	return b, err
}

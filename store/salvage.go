package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"engramfs/store/blob"
	"engramfs/store/meta"
)

// SalvageOptions of Salvage.
type SalvageOptions struct {
	Meta  meta.Engine  // required: new, and filled with what could be had of the old one, or empty
	Blobs blob.Backend // required

	// Instant is the time up to which Meta has everything; zero: that is not known.
	Instant time.Time
	// Cause says why the metadata was lost, for the history.
	Cause string

	Logger *slog.Logger     // nil: discard
	Now    func() time.Time // nil: time.Now
}

// SalvageReport says what Salvage has found. Lists are cut off at 10,000 entries.
type SalvageReport struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"`
	Files int64     `json:"files"` // that the store has now
	Dirs  int64     `json:"directories"`
	Bytes int64     `json:"bytes"`
	// Restored are files that came back from their content alone.
	Restored []string `json:"restored,omitempty"`
	// LostFound is what was put into /lost+found, as its path is now.
	LostFound []string `json:"lost_found,omitempty"`
	// Missing are files whose content is gone, and entries that named nothing.
	Missing []string `json:"missing,omitempty"`
	// Repaired are records that contradicted others.
	Repaired int64 `json:"repaired"`
}

// SalvageEvent is the kind of the HistoryEntry that Salvage leaves.
const SalvageEvent = "salvaged"

// Salvage makes a store of records that were restored from a copy, which may be
// older than the content and may have gaps, and of content that carries a label. Nothing
// that can be read is thrown away: an inode without a name, and content without a file,
// go to /lost+found. Counters are counted anew; inode numbers and versions begin
// beyond all that can have been given. It is durable when Salvage returns; Open then
// opens it. The error is one of the engine or the backend.
func Salvage(ctx context.Context, o SalvageOptions) (*SalvageReport, error) {
	s := &salvager{o: o, ctx: ctx, inodes: make(map[Ino]*salvaged)}
	if s.o.Logger == nil {
		s.o.Logger = slog.New(slog.DiscardHandler)
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	s.report = SalvageReport{At: s.o.Now(), Cause: o.Cause}
	for _, step := range []func() error{
		s.facts, s.readInodes, s.root, s.readEntries, s.readLinks, s.readOrphans, s.attach, s.rewrite,
		s.listBlobs, s.contents, s.strayBlobs, s.straySums, s.rewrite, s.count, s.finish,
	} {
		if err := step(); err != nil {
			return &s.report, fmt.Errorf("salvage: %w", err)
		}
	}
	return &s.report, nil
}

// salvager works on an engine that nobody else uses, so it takes no locks.
type salvager struct {
	o      SalvageOptions
	ctx    context.Context
	report SalvageReport

	gen     uint64
	run     uint64
	last    Ino    // the highest number seen
	version uint64 // the highest version seen
	inodes  map[Ino]*salvaged
	extra   []salvagedName // names that the inode they name does not know of
	blobs   map[blob.ID]*salvagedBlob
	lost    Ino // the directory /lost+found; 0: not made
}

// salvaged is what is known of an inode.
type salvaged struct {
	mode, nlink uint32
	size        int64
	content     content
	parent      Ino
	name        string
	home        bool   // the entry at parent and name names it
	names       uint32 // entries that name it
	children    uint32 // directories in it
	orphan      bool
	dirty       bool // the record is to be written anew
}

type salvagedName struct {
	parent Ino
	name   string
	ino    Ino
}

type salvagedBlob struct {
	info blob.Info
	refs int64
}

const salvageList = 10_000

func note(list *[]string, format string, args ...any) {
	if len(*list) < salvageList {
		*list = append(*list, fmt.Sprintf(format, args...))
	}
}

func (s *salvager) missing(format string, args ...any) { note(&s.report.Missing, format, args...) }

func (s *salvager) update(fn func(meta.Txn)) error {
	return s.o.Meta.Update(func(tx meta.Txn) error { fn(tx); return nil })
}

// records calls fn with every record of a kind, and makes the changes that it
// returns afterwards, in batches.
func (s *salvager) records(kind byte, fn func(key, value []byte) func(meta.Txn)) error {
	var changes []func(meta.Txn)
	err := s.o.Meta.Scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) bool {
		if c := fn(key, value); c != nil {
			changes = append(changes, c)
		}
		return s.ctx.Err() == nil
	})
	if err = errors.Join(err, s.ctx.Err()); err != nil || len(changes) == 0 {
		return err
	}
	return s.update(func(tx meta.Txn) {
		for _, c := range changes {
			c(tx)
		}
	})
}

// drop returns a change that removes key.
func (s *salvager) drop(key []byte) func(meta.Txn) {
	key = append([]byte{}, key...)
	s.report.Repaired++
	return func(tx meta.Txn) { tx.Delete(key) }
}

// fact returns a number of the store, 0 if there is none.
func (s *salvager) fact(key []byte) (uint64, error) {
	b, err := s.o.Meta.Get(key)
	if errors.Is(err, meta.ErrNotFound) || err == nil && len(b) != 8 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// Gaps after a salvage: more than what can have been given since the copy was made.
const (
	salvageInoGap    = 1 << 32
	salvageRunGap    = 1 << 12
	salvagePoisonGap = 1 << 32
)

// facts makes the records a store of this format.
func (s *salvager) facts() error {
	b, err := s.o.Meta.Get(factFormat)
	if err == nil && (len(b) != 1 || b[0] != formatVersion) {
		return &meta.VersionError{Path: "the second copy", Found: fmt.Sprint(b), Supported: fmt.Sprint(formatVersion)}
	}
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	if s.gen, err = s.fact(factGen); err != nil {
		return err
	}
	if s.gen == 0 {
		s.gen = uint64(s.o.Now().UnixNano())
	}
	if s.run, err = s.fact(factRun); err != nil {
		return err
	}
	next, err := s.fact(factNextIno)
	s.last = Ino(next)
	return err
}

// readInodes reads every inode. A record that cannot be decoded is dropped.
func (s *salvager) readInodes() error {
	return s.records(keyInode, func(key, value []byte) func(meta.Txn) {
		ino := inoOfKey(key)
		s.last = max(s.last, ino)
		v, err := decodeInode(ino, value)
		if err != nil {
			s.missing("%v", err)
			return s.drop(key)
		}
		s.version = max(s.version, v.Version)
		s.inodes[ino] = &salvaged{
			mode: v.Mode, nlink: v.Nlink, size: v.Size, content: v.content, parent: v.parent, name: v.name,
		}
		return nil
	})
}

// root makes the root directory if it is missing.
func (s *salvager) root() error {
	s.last = max(s.last, RootIno)
	if r := s.inodes[RootIno]; r != nil && r.mode&ModeType == ModeDir {
		r.parent, r.name = 0, ""
		return nil
	}
	s.report.Repaired++
	return s.make(&inode{Attr: Attr{Ino: RootIno, Mode: ModeDir | 0o755, Nlink: 2}})
}

// make writes a new inode and knows it from then on.
func (s *salvager) make(v *inode) error {
	now := s.o.Now().UnixNano()
	v.Gen, v.Change, v.Version, v.Atime, v.Ctime, v.Btime = s.gen, 1, s.nextVersion(), now, now, now
	if v.Mtime == 0 {
		v.Mtime = now
	}
	s.inodes[v.Ino] = &salvaged{
		mode: v.Mode, nlink: v.Nlink, size: v.Size, content: v.content, parent: v.parent, name: v.name, home: v.parent != 0,
	}
	if v.parent != 0 {
		s.inodes[v.Ino].names = 1
		if v.IsDir() {
			dir := s.inodes[v.parent]
			dir.children, dir.nlink, dir.dirty = dir.children+1, dir.nlink+1, true
		}
	}
	return s.update(func(tx meta.Txn) {
		tx.Put(inoKey(keyInode, v.Ino), appendInode(nil, v))
		if v.parent != 0 {
			tx.Put(direntKey(v.parent, v.name), appendDirent(nil, dirent{ino: v.Ino, typ: v.Mode & ModeType}))
		}
	})
}

func (s *salvager) nextIno() Ino {
	s.last++
	return s.last
}

// nextVersion returns a version that no file ever had.
func (s *salvager) nextVersion() uint64 { return max((s.run+1)*versionGap, s.version+1) }

// count counts references and usage anew.
func (s *salvager) count() error {
	refs := make(map[blob.ID]int64)
	for _, v := range s.inodes {
		if v.content.kind == contentBlob {
			refs[v.content.blob]++
		}
		switch v.mode & ModeType {
		case ModeDir:
			s.report.Dirs++
		case ModeRegular:
			s.report.Bytes += v.size
			fallthrough
		default:
			s.report.Files++
		}
	}
	err := s.records(keyBlobRefs, func(key, _ []byte) func(meta.Txn) {
		var id blob.ID
		copy(id[:], key[1:])
		if refs[id] > 0 {
			return nil
		}
		key = append([]byte{}, key...)
		return func(tx meta.Txn) { tx.Delete(key) }
	})
	if err != nil {
		return err
	}
	return s.update(func(tx meta.Txn) {
		for id, n := range refs {
			tx.Put(blobKey(keyBlobRefs, id), meta.EncodeCounter(n))
		}
		tx.Put(usageFiles, meta.EncodeCounter(s.report.Files))
		tx.Put(usageDirs, meta.EncodeCounter(s.report.Dirs))
		tx.Put(usageBytes, meta.EncodeCounter(s.report.Bytes))
	})
}

// finish writes the facts and the event, durably.
func (s *salvager) finish() error {
	poison, err := s.fact(factPoison)
	if err != nil {
		return err
	}
	seq := uint64(0)
	if err := s.o.Meta.Scan([]byte{keyHistory}, []byte{keyHistory + 1}, func(key, _ []byte) bool {
		seq = uint64(inoOfKey(key))
		return true
	}); err != nil {
		return err
	}
	event, err := json.Marshal(HistoryEntry{Seq: seq + 1, Kind: SalvageEvent, Lock: "metadata", At: s.report.At, Path: s.report.Cause})
	if err != nil {
		return err
	}
	run := max(s.run, s.version/versionGap) + salvageRunGap
	err = s.update(func(tx meta.Txn) {
		for _, f := range []struct {
			key []byte
			n   uint64
		}{{factGen, s.gen}, {factNextIno, uint64(s.last) + salvageInoGap}, {factRun, run}, {factPoison, poison + salvagePoisonGap}} {
			tx.Put(f.key, binary.BigEndian.AppendUint64(nil, f.n))
		}
		tx.Put(factFormat, []byte{formatVersion})
		tx.Put(seqKey(keyHistory, seq+1), event)
	})
	return errors.Join(err, s.o.Meta.Sync())
}

package pebble

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/blob"
	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store/meta"
)

// Verify reads everything the engine holds and returns a *meta.CorruptError if a
// checksum fails, a sector cannot be read (EIO), or Pebble panics about what it reads. Opening does not: a bad block of a table shows only when it is read,
// one of a filter when a key is looked for. An update meanwhile does no harm.
func (d *DB) Verify(ctx context.Context) (err error) {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.exit()
	defer func() {
		if v := recover(); v != nil {
			err = &meta.CorruptError{Path: d.dir, Err: panicError(v)}
		}
	}()
	levels, err := d.db.SSTables()
	if err != nil {
		return err
	}
	o := &pebbledb.Options{Merger: counterMerger}
	o.EnsureDefaults()
	ro := o.MakeReaderOptions()
	for _, tables := range levels {
		for _, t := range tables {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := d.verifyTable(ctx, t.BackingSSTNum.String()+".sst", ro); err != nil {
				return fmt.Errorf("verify the metadata engine: %w", err)
			}
		}
	}
	// Values that are kept out of the tables are reached through them alone.
	err = d.latest().Scan(nil, nil, func(_, _ []byte) bool { return ctx.Err() == nil })
	if errors.Is(err, syscall.EIO) && !meta.IsCorrupt(err) {
		err = &meta.CorruptError{Path: d.dir, Err: err}
	}
	return errors.Join(err, ctx.Err())
}

// verifyTable checks every block of a table. One that a compaction has removed since
// it was listed is no part of the engine any more.
func (d *DB) verifyTable(ctx context.Context, name string, o sstable.ReaderOptions) error {
	path := d.disk.PathJoin(d.dir, name)
	file, err := d.disk.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	r, err := sstable.NewReader(ctx, readable, o) // closes readable if it fails
	if err == nil {
		err = errors.Join(r.ValidateBlockChecksums(), r.Close())
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	if _, gone := d.disk.Stat(path); errors.Is(gone, fs.ErrNotExist) {
		return nil
	}
	if err = classify(d.dir, err); !meta.IsCorrupt(err) {
		err = &meta.CorruptError{Path: path, Err: err}
	}
	return err
}

// checkValueFile returns a *meta.CorruptError if the footer of a file of separated values
// is bad. Pebble (v2.1.7, fileCacheHandle.findOrCreateBlob) panics if it finds that out
// by itself.
func checkValueFile(disk vfs.FS, path string) error {
	file, err := disk.Open(path)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	r, err := blob.NewFileReader(context.Background(), readable, blob.FileReaderOptions{})
	if err == nil {
		return r.Close()
	}
	err = errors.Join(err, readable.Close())
	if pebbledb.IsCorruptionError(err) {
		// Not wrapped: what Pebble knows as corruption is what it panics about.
		return &meta.CorruptError{Path: path, Err: errors.New(err.Error())}
	}
	return err
}

// checkClosedLog returns a *meta.CorruptError if a log has a newer one beside it, so that it
// was closed, but ends where Pebble alone would not notice that something is missing.
// All other damage of a log is for Pebble to find.
func checkClosedLog(disk vfs.FS, path string) error {
	number := logNumber(disk.PathBase(path))
	names, err := disk.List(disk.PathDir(path))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(names, func(n string) bool { return logNumber(n) > number }) {
		return nil
	}
	file, err := disk.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if n, err := goodRecords(file, number); errors.Is(err, errFalseEnd) {
		return &meta.CorruptError{Path: path, Err: fmt.Errorf("at byte %d: %w", n, err)}
	}
	return nil
}

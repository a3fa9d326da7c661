package pebble

import (
	"bytes"
	"errors"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"engramfs/store/meta"
)

// reader implements meta.Reader on a snapshot or on the latest state.
type reader struct {
	r   pebbledb.Reader
	dir string
}

var _ meta.Reader = reader{}

func (r reader) Get(key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, meta.ErrNotFound
	}
	value, closer, err := r.r.Get(key)
	if errors.Is(err, pebbledb.ErrNotFound) {
		return nil, meta.ErrNotFound
	}
	if err != nil {
		return nil, classify(r.dir, err)
	}
	value = append(make([]byte, 0, len(value)), value...)
	return value, classify(r.dir, closer.Close())
}

func (r reader) Counter(key []byte) (int64, error) {
	if len(key) == 0 {
		return 0, nil
	}
	value, closer, err := r.r.Get(key)
	if errors.Is(err, pebbledb.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, classify(r.dir, err)
	}
	n, err := meta.DecodeCounter(value)
	return n, errors.Join(err, classify(r.dir, closer.Close()))
}

func (r reader) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	if hi != nil && bytes.Compare(lo, hi) >= 0 {
		return nil
	}
	return r.iterate(lo, hi, func(it *pebbledb.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			value, err := it.ValueAndErr()
			if err != nil {
				return classify(r.dir, err)
			}
			if !fn(it.Key(), value) {
				return nil
			}
		}
		return nil
	})
}

// GetMany walks one iterator forward. Next is much cheaper than a seek, so it is
// tried first: keys that are looked up together are often neighbours.
func (r reader) GetMany(keys [][]byte, fn func(i int, value []byte) error) error {
	if len(keys) == 0 {
		return nil
	}
	hi := append(bytes.Clone(keys[len(keys)-1]), 0)
	return r.iterate(keys[0], hi, func(it *pebbledb.Iterator) error {
		valid := it.First()
		for i, key := range keys {
			if i > 0 && bytes.Compare(keys[i-1], key) > 0 {
				return errors.New("meta: GetMany: keys are not ascending")
			}
			valid = advance(it, valid, key)
			var value []byte
			if valid && bytes.Equal(it.Key(), key) {
				var err error
				if value, err = it.ValueAndErr(); err != nil {
					return classify(r.dir, err)
				}
				if value == nil {
					value = []byte{}
				}
			}
			if err := it.Error(); err != nil {
				return classify(r.dir, err)
			}
			if err := fn(i, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// advance moves it to the first key that is not below key, for keys that never
// go back.
func advance(it *pebbledb.Iterator, valid bool, key []byte) bool {
	if !valid || bytes.Compare(it.Key(), key) >= 0 {
		return valid
	}
	if !it.Next() {
		return false
	}
	if bytes.Compare(it.Key(), key) >= 0 {
		return true
	}
	return it.SeekGE(key)
}

// iterate runs fn on an iterator over [lo, hi) and returns fn's error, or else
// the iterator's.
func (r reader) iterate(lo, hi []byte, fn func(*pebbledb.Iterator) error) error {
	if len(lo) == 0 {
		lo = nil // Pebble's race build cannot seek to the empty key
	}
	it, err := r.r.NewIter(&pebbledb.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return classify(r.dir, err)
	}
	defer it.Close() // its error is it.Error, which is returned below
	if err := fn(it); err != nil {
		return err
	}
	return classify(r.dir, it.Error())
}

// Get implements meta.Reader.
func (d *DB) Get(key []byte) ([]byte, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.exit()
	return d.latest().Get(key)
}

// Scan implements meta.Reader.
func (d *DB) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.exit()
	return d.latest().Scan(lo, hi, fn)
}

// GetMany implements meta.Reader.
func (d *DB) GetMany(keys [][]byte, fn func(i int, value []byte) error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.exit()
	return d.latest().GetMany(keys, fn)
}

// Counter implements meta.Reader.
func (d *DB) Counter(key []byte) (int64, error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	defer d.exit()
	return d.latest().Counter(key)
}

// View implements meta.Engine.
func (d *DB) View(fn func(meta.Reader) error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.exit()
	s := d.db.NewSnapshot()
	defer s.Close()
	return fn(reader{r: s, dir: d.dir})
}

func (d *DB) latest() reader { return reader{r: d.db, dir: d.dir} }

// txn collects the changes of one update in a batch. Its reads go to the
// latest state and do not see the batch.
type txn struct {
	reader
	batch *pebbledb.Batch
	err   error // the first error of a change, returned by Update
}

var _ meta.Txn = (*txn)(nil)

func (t *txn) keep(err error) {
	if t.err == nil {
		t.err = err
	}
}

// check keeps an error for the empty key, which Pebble cannot write to a table.
func (t *txn) check(key []byte) bool {
	if len(key) == 0 {
		t.keep(meta.ErrEmptyKey)
	}
	return len(key) > 0
}

func (t *txn) Put(key, value []byte) {
	if t.check(key) {
		t.keep(t.batch.Set(key, value, nil))
	}
}

func (t *txn) Delete(key []byte) {
	if t.check(key) {
		t.keep(t.batch.Delete(key, nil))
	}
}

func (t *txn) DeleteRange(lo, hi []byte) {
	switch {
	case hi == nil:
		t.keep(errors.New("meta: DeleteRange: hi is nil"))
	case bytes.Compare(lo, hi) >= 0: // no key
	case t.check(lo):
		t.keep(t.batch.DeleteRange(lo, hi, nil))
	}
}

func (t *txn) Add(key []byte, delta int64) {
	if t.check(key) {
		t.keep(t.batch.Merge(key, meta.EncodeCounter(delta), nil))
	}
}

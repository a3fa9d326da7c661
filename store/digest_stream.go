package store

import (
	"hash"
	"sync"
)

// digester computes digests of content as it streams in, each hash in a goroutine
// of its own, so that hashing goes on while the next bytes are read and written.
// stop must be called.
type digester struct {
	lanes []*digestLane
	once  sync.Once
}

// digestLane computes one digest.
type digestLane struct {
	hash Hash
	in   chan piece
	done chan struct{} // closed when the fields below are final

	state hash.Hash
	err   error // of a panic
}

// piece is content to be hashed. Nobody may change it before used.Done.
type piece struct {
	data []byte
	used *sync.WaitGroup
}

func (s *Store) newDigester(set hashSet) *digester {
	d := &digester{}
	for h := range numHashes {
		if !set.has(h) {
			continue
		}
		l := &digestLane{hash: h, in: make(chan piece, 1), done: make(chan struct{}), state: h.new()}
		d.lanes = append(d.lanes, l)
		go l.run(s)
	}
	return d
}

func (l *digestLane) run(s *Store) {
	defer close(l.done)
	for p := range l.in {
		l.take(s, p)
	}
}

// take hashes a piece. After a panic it only lets go of what comes.
func (l *digestLane) take(s *Store, p piece) {
	defer p.used.Done()
	if l.err != nil {
		return
	}
	defer s.contain("digest", &l.err)
	l.state.Write(p.data)
}

// write hashes data, which must stay as it is until used.Wait returns.
func (d *digester) write(data []byte, used *sync.WaitGroup) {
	used.Add(len(d.lanes))
	for _, l := range d.lanes {
		l.in <- piece{data, used}
	}
}

// stop ends the goroutines once they have hashed what was written.
func (d *digester) stop() {
	d.once.Do(func() {
		for _, l := range d.lanes {
			close(l.in)
		}
	})
	for _, l := range d.lanes {
		<-l.done
	}
}

// digests returns the digests of all that was written, and stops the digester. An
// error matches ErrPanic.
func (d *digester) digests() (sums Digests, err error) {
	d.stop()
	for _, l := range d.lanes {
		if l.err != nil {
			return Digests{}, l.err
		}
		sums[l.hash] = l.state.Sum(nil)
	}
	return sums, nil
}

// bufferRing hands out buffers in turn: one is filled while the other is hashed.
type bufferRing struct {
	slots [2]struct {
		buf  *[]byte
		used sync.WaitGroup
	}
	at int
}

// next returns a buffer of streamSize, and what to hand on to digester.write.
func (r *bufferRing) next() ([]byte, *sync.WaitGroup) {
	slot := &r.slots[r.at]
	r.at ^= 1
	slot.used.Wait()
	if slot.buf == nil {
		slot.buf = buffers.Get().(*[]byte)
	}
	return *slot.buf, &slot.used
}

// release gives the buffers back once they are hashed.
func (r *bufferRing) release() {
	for i := range r.slots {
		slot := &r.slots[i]
		slot.used.Wait()
		if slot.buf != nil {
			buffers.Put(slot.buf)
		}
	}
}

package store

import "io"

// aheadAfter is how long a range must be to be read ahead.
const aheadAfter = 2 * streamSize

// aheadPiece is good bytes of a range, or why there are no more.
type aheadPiece struct {
	buf  *[]byte // what data is in
	data []byte
	err  error
}

// writeAhead writes the blob's content from off to end to w. A goroutine reads and
// verifies the next piece meanwhile: as long as a processor is idle the client does not
// wait for checksums.
func (c *Content) writeAhead(w io.Writer, off, end int64) (written int64, err error) {
	pieces, free := make(chan aheadPiece), make(chan *[]byte, 2)
	for range cap(free) {
		free <- buffers.Get().(*[]byte)
	}
	go c.readAhead(pieces, free, off, end)
	defer func() {
		close(free)
		for p := range pieces { // until the goroutine is done with the content
			buffers.Put(p.buf)
		}
		for buf := range free {
			buffers.Put(buf)
		}
	}()
	for p := range pieces {
		err := p.err
		if err == nil {
			var m int
			m, err = w.Write(p.data)
			written += int64(m)
		}
		free <- p.buf
		if err != nil {
			return written, err
		}
	}
	if written < end-off { // the goroutine did not come to its end
		return written, io.ErrUnexpectedEOF
	}
	return written, nil
}

// readAhead hands over the blob's content from off to end in pieces, each in one of the
// free buffers, until these are closed.
func (c *Content) readAhead(pieces chan<- aheadPiece, free <-chan *[]byte, off, end int64) {
	defer close(pieces)
	for off < end {
		buf, ok := <-free
		if !ok {
			return
		}
		p := c.readPiece(buf, off, end)
		pieces <- p
		if p.err != nil {
			return
		}
		off += int64(len(p.data))
	}
}

// readPiece is block. The error of a panic matches ErrPanic.
func (c *Content) readPiece(buf *[]byte, off, end int64) (p aheadPiece) {
	defer c.s.contain("read_ahead", &p.err)
	p.buf = buf
	p.data, p.err = c.block(*buf, off, end)
	return p
}

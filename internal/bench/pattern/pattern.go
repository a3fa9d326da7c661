// Package pattern makes file content of any size that can be checked without
// keeping it: pseudo-random bytes in which every 4 KiB block carries its own
// number, so that a lost, repeated or shifted block is seen.
package pattern

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

// Block is the distance between two block numbers.
const Block = 4096

const chunk = 1 << 20

// template is the content without its block numbers, repeated every chunk.
var template = func() []byte {
	b := make([]byte, chunk)
	rand.NewChaCha8([32]byte{'e', 'n', 'g', 'r', 'a', 'm'}).Read(b)
	return b
}()

func stamp(b []byte, off int64) {
	for i := 0; i+8 <= len(b); i += Block {
		binary.BigEndian.PutUint64(b[i:], uint64((off+int64(i))/Block))
	}
}

// Source writes the first Size bytes of the pattern. It is an io.WriterTo.
type Source struct{ Size int64 }

// WriteTo writes the content in pieces of 1 MiB. It returns the writer's error.
func (s Source) WriteTo(w io.Writer) (int64, error) {
	buf := bytes.Clone(template)
	var off int64
	for off < s.Size {
		stamp(buf, off)
		n, err := w.Write(buf[:min(chunk, s.Size-off)])
		off += int64(n)
		if err != nil {
			return off, err
		}
	}
	return off, nil
}

// At returns the n bytes at offset off. Both must be multiples of Block.
func At(off, n int64) []byte {
	out := make([]byte, n)
	Fill(out, off)
	return out
}

// Fill makes b the content at offset off, without allocating. The offset and
// the length must be multiples of Block.
func Fill(b []byte, off int64) {
	for done := 0; done < len(b); {
		done += copy(b[done:], template[(off+int64(done))%chunk:])
	}
	stamp(b, off)
}

// Checker is a writer that compares what it is given with the pattern from the
// start.
type Checker struct {
	off  int64
	want []byte
	err  error
}

// Write returns an error that names the first offset that differs, and the
// same one ever after.
func (c *Checker) Write(p []byte) (int, error) {
	done := 0
	for c.err == nil && done < len(p) {
		in := c.off % chunk
		if c.want == nil {
			c.want = bytes.Clone(template)
		}
		if in == 0 {
			stamp(c.want, c.off)
		}
		n := min(len(p)-done, int(chunk-in))
		if got, want := p[done:done+n], c.want[in:in+int64(n)]; !bytes.Equal(got, want) {
			i := 0
			for got[i] == want[i] {
				i++
			}
			c.err = fmt.Errorf("content differs at byte %d", c.off+int64(i))
			break
		}
		done += n
		c.off += int64(n)
	}
	return done, c.err
}

// Done returns nil if exactly size bytes were written and all were right.
func (c *Checker) Done(size int64) error {
	if c.err == nil && c.off != size {
		return fmt.Errorf("content has %d bytes, want %d", c.off, size)
	}
	return c.err
}

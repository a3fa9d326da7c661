package pattern

import (
	"bytes"
	"testing"
)

func content(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := (Source{size}).WriteTo(&b); err != nil || n != size {
		t.Fatalf("WriteTo = %d, %v, want %d", n, err, size)
	}
	return b.Bytes()
}

func TestCheckerAcceptsSourceInAnyPieces(t *testing.T) {
	const size = 3<<20 + 12345
	all := content(t, size)
	for _, piece := range []int{1 << 20, 65_537, 4096, 999} {
		var c Checker
		for b := all; len(b) > 0; b = b[min(piece, len(b)):] {
			if _, err := c.Write(b[:min(piece, len(b))]); err != nil {
				t.Fatalf("pieces of %d: %v", piece, err)
			}
		}
		if err := c.Done(size); err != nil {
			t.Errorf("pieces of %d: %v", piece, err)
		}
	}
}

func TestCheckerSeesOneFlippedByteAndSwappedBlocks(t *testing.T) {
	flipped := content(t, 2<<20)
	flipped[1<<20+77] ^= 1
	swapped := content(t, 2<<20)
	a, b := swapped[0:Block], swapped[1<<20:1<<20+Block] // Same template, other number.
	copy(a, bytes.Clone(b))
	for name, bad := range map[string][]byte{"flipped": flipped, "swapped": swapped} {
		if _, err := new(Checker).Write(bad); err == nil {
			t.Errorf("%s content was accepted", name)
		}
	}
	var c Checker
	c.Write(content(t, Block))
	if c.Done(2*Block) == nil {
		t.Error("short content was accepted")
	}
}

func TestAtIsTheSameContent(t *testing.T) {
	all := content(t, 3<<20)
	for _, off := range []int64{0, Block, 1 << 20, 2<<20 - Block} {
		if !bytes.Equal(At(off, 2*Block), all[off:off+2*Block]) {
			t.Errorf("At(%d) differs from the source", off)
		}
	}
}

package store_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/storetest"
)

// limited is a writer that fails after so many bytes.
type limited struct {
	bytes.Buffer
	left int
}

var errLimit = errors.New("the client is gone")

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errLimit
	}
	return n, nil
}

// TestReadAhead writes ranges that are read ahead to a client that goes, from content
// that is damaged, and with a reader that dies.
func TestReadAhead(t *testing.T) {
	blobs := &shortRead{MemBlobs: storetest.NewMemBlobs()}
	s := openTraced(t, vfs.NewMem(), blobs)
	defer s.Close()
	data := pattern(5<<20+7, 1)
	a := put(t, s, "/f", data)
	c := pin(t, s, a.Ino)
	goroutines := runtime.NumGoroutine()
	whole := int64(len(data))
	const off = 70_001
	for name, tt := range map[string]struct {
		limit int
		while func([]byte, int64) // the first piece was read
		want  int64
		err   error
	}{
		"whole":  {limit: len(data), want: whole - off},
		"cut":    {limit: 700_000, want: 700_000, err: errLimit},
		"closed": {limit: 0, err: errLimit},
		"panic":  {limit: len(data), while: func([]byte, int64) { panic("bad luck") }, err: store.ErrPanic},
		"exit":   {limit: len(data), while: func([]byte, int64) { runtime.Goexit() }, err: io.ErrUnexpectedEOF},
	} {
		blobs.while = tt.while
		w := &limited{left: tt.limit}
		n, err := c.WriteRange(w, off, whole-off)
		if n != tt.want || !bytes.Equal(w.Bytes(), data[off:off+n]) {
			t.Errorf("%s: wrote %d bytes, want %d of the content", name, n, tt.want)
		}
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", name, err, tt.err)
		}
	}
	blobs.Flip(s.BlobOf(a.Ino), 3<<20+5)
	w := &limited{left: len(data)}
	if n, err := c.WriteRange(w, off, whole-off); !errors.Is(err, store.ErrDamaged) || n != 3<<20-off || !bytes.Equal(w.Bytes(), data[off:off+n]) {
		t.Errorf("damaged: %d bytes, %v, want %d", n, err, 3<<20-off)
	}
	eventually(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
}

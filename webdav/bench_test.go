package webdav

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"engramfs/store/storetest"
)

// BenchmarkGet is what GET of a small file costs in the handler, without the
// network.
func BenchmarkGet(b *testing.B) {
	h := New(Options{Store: storetest.New(b)})
	put(b, h, "/file.txt", bytes.Repeat([]byte("x"), 4<<10))
	r := httptest.NewRequest("GET", "/file.txt", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := &discard{header: http.Header{}}
		h.ServeHTTP(w, r)
		if w.n != 4<<10 {
			b.Fatalf("%d bytes, status %d", w.n, w.code)
		}
	}
}

// BenchmarkPut is what PUT of a small new file costs in the handler, without the
// network and the disk.
func BenchmarkPut(b *testing.B) {
	h := New(Options{Store: storetest.New(b)})
	body := bytes.Repeat([]byte("x"), 4<<10)
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			put(b, h, fmt.Sprintf("/%d", n.Add(1)), body)
		}
	})
}

func put(b *testing.B, h http.Handler, target string, body []byte) {
	r := httptest.NewRequest("PUT", target, bytes.NewReader(body))
	w := &discard{header: http.Header{}}
	if h.ServeHTTP(w, r); w.code != 201 {
		b.Fatalf("PUT %s = %d", target, w.code)
	}
}

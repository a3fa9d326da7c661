package tracing

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/storetest"
	"engramfs/webdav"
)

// cpu returns the processor time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTracing measures what following costs a request, in processor time too:
// sending the spans is work of another goroutine.
func BenchmarkTracing(b *testing.B) {
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer sink.Close()
	for _, c := range []struct {
		name  string
		ratio float64 // negative: off
	}{{"Off", -1}, {"0.01", 0.01}, {"1", 1}} {
		var tr *Tracer
		if c.ratio >= 0 {
			var err error
			if tr, err = New(b.Context(), Options{Endpoint: sink.URL, Ratio: c.ratio}); err != nil {
				b.Fatal(err)
			}
		}
		s, _ := storetest.NewWith(b, store.Options{Began: tr.Store()})
		h := tr.HTTP(WebDAV, webdav.New(webdav.Options{Store: s, Failed: tr.Failed()}))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("PUT", "/f", strings.NewReader(strings.Repeat("x", 4096))))
		b.Run("GET/"+c.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/f", nil)
			measure(b, func() { h.ServeHTTP(httptest.NewRecorder(), r) })
		})
		if tr == nil {
			continue
		}
		began := tr.Mount()
		b.Run("getattr/"+c.name, func(b *testing.B) {
			measure(b, func() {
				ctx, ended := began(b.Context(), "getattr", 1, 1)
				if _, err := s.GetAttr(ctx, 1); err != nil {
					b.Fatal(err)
				}
				if ended != nil {
					ended(0, 0, nil)
				}
			})
		})
		if err := tr.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func measure(b *testing.B, fn func()) {
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		fn()
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

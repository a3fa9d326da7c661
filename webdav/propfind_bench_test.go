package webdav

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"engramfs/store"
)

// fill makes n files in a new collection below the root.
func (b *davBench) fill(name string, n int) {
	b.t.Helper()
	dir, err := b.st.Create(context.Background(), store.RootIno, name, store.NewNode{Mode: newDirMode})
	for i := 0; i < n && err == nil; i++ {
		_, err = b.st.Create(context.Background(), dir.Ino, fmt.Sprintf("file-%05d.txt", i), store.NewNode{Mode: newFileMode})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

const namedProps = `<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/>` +
	`<D:getcontentlength/><D:getlastmodified/><D:getetag/><D:creationdate/><D:getcontenttype/><D:displayname/></D:prop></D:propfind>`

// discard is a client that counts.
type discard struct {
	header http.Header
	code   int
	n      int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(code int)        { d.code = code }
func (d *discard) Write(p []byte) (int, error) { d.n += len(p); return len(p), nil }

func BenchmarkPropfind(b *testing.B) {
	const entries = 10_000
	d := newDAVBench(b, "")
	d.fill("d", entries)
	for _, bm := range []struct{ name, body string }{{"Named7", namedProps}, {"Allprop", ""}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			var w discard
			for b.Loop() {
				r := httptest.NewRequest("PROPFIND", "/d", stringBody(bm.body))
				r.Header.Set("Depth", "1")
				w = discard{header: http.Header{}}
				d.ServeHTTP(&w, r)
			}
			if w.code != http.StatusMultiStatus {
				b.Fatal(w.code)
			}
			b.ReportMetric(float64(w.n)/entries, "bytes/entry")
		})
	}
}

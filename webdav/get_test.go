package webdav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/storetest"
)

func TestParseRange(t *testing.T) {
	type r = []byteRange
	for _, tc := range []struct {
		in   string
		want r
		ok   bool
	}{
		{"bytes=0-0", r{{0, 1}}, true},
		{"bytes=0-9", r{{0, 10}}, true},
		{"bytes=0-99", r{{0, 10}}, true},
		{"bytes=3-", r{{3, 7}}, true},
		{"bytes=-3", r{{7, 3}}, true},
		{"bytes=-99", r{{0, 10}}, true},
		{"bytes=0-1,4-5, -1", r{{0, 2}, {4, 2}, {9, 1}}, true},
		{"bytes=,0-1,", r{{0, 2}}, true},
		{"bytes=0-1,20-30", r{{0, 2}}, true},
		{"bytes=9-99999999999999999999", r{{9, 1}}, true},
		{"bytes=10-", nil, true},
		{"bytes=20-30", nil, true},
		{"bytes=-0", nil, true},
		{"bytes=99999999999999999999-", nil, true},
		{"bytes=5-4", nil, false},
		{"bytes=a-b", nil, false},
		{"bytes=1", nil, false},
		{"bytes=-", nil, false},
		{"bytes=+1-2", nil, false},
		{"bytes=--1", nil, false},
		{"items=0-1", nil, false},
		{"", nil, false},
		{"bytes=0-9,0-9", r{{0, 10}, {0, 10}}, false}, // more than the file
		{"bytes=" + strings.Repeat("0-0,", 40) + "0-0", nil, false},
	} {
		got, ok := parseRange(tc.in, 10)
		if ok != tc.ok || ok && !reflect.DeepEqual(got, tc.want) {
			t.Errorf("parseRange(%q) = %v, %v; want %v, %v", tc.in, got, ok, tc.want, tc.ok)
		}
	}
	if got, ok := parseRange("bytes=0-", 0); !ok || len(got) != 0 {
		t.Errorf("range of nothing: %v, %v", got, ok)
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-1,-5,3-", int64(10))
	f.Add("bytes=9223372036854775807-", int64(1))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 0 {
			return
		}
		ranges, ok := parseRange(s, size)
		for _, r := range ranges {
			if ok && (r.off < 0 || r.n <= 0 || r.off > size-r.n) {
				t.Fatalf("parseRange(%q, %d) = %v", s, size, ranges)
			}
		}
	})
}

// TestGetAsServeContent compares our answers with net/http's own for inline and
// blob content.
func TestGetAsServeContent(t *testing.T) {
	s := newServer(t, "")
	for _, size := range []int{0, 10, 4 << 10, 200_000} {
		content := strings.Repeat("0123456789abcdefg", size/17+1)[:size]
		target := fmt.Sprintf("/f%d.txt", size)
		etag := s.want(201, "PUT", target, content, "X-OC-Mtime: 1700000000").header.Get("Etag")
		for _, headers := range [][]string{
			nil,
			{"Range: bytes=0-4"},
			{"Range: bytes=5-"},
			{"Range: bytes=-5"},
			{"Range: bytes=0-"},
			{"Range: bytes=70000-140000"},
			{"Range: bytes=65535-65536"},
			{"Range: bytes=1000000-"},
			{"Range: bytes=0-1", "If-Range: " + etag},
			{"Range: bytes=0-1", `If-Range: "x"`},
			{"Range: bytes=0-1", "If-Range: Tue, 14 Nov 2023 22:13:20 GMT"},
			{"Range: bytes=0-1", "If-Range: Tue, 14 Nov 2023 22:13:21 GMT"},
			{"If-None-Match: " + etag},
			{"If-None-Match: *"},
			{`If-None-Match: "x"`},
			{"If-Match: " + etag},
			{`If-Match: "x"`},
			{"If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT"},
			{"If-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT"},
			{"If-Unmodified-Since: Tue, 14 Nov 2023 22:13:19 GMT"},
		} {
			for _, method := range []string{"GET", "HEAD"} {
				got := s.do(method, target, "", headers...)
				want := serveContent(method, content, etag, headers)
				if size == 0 && len(headers) > 0 && strings.HasPrefix(headers[0], "Range") {
					continue // net/http answers 206 or 416 by accident of its seeking
				}
				if method == "HEAD" && want.StatusCode == 206 || method == "HEAD" && want.StatusCode == 416 {
					want.StatusCode = 200 // RFC 9110 section 14.2: Range is for GET only
					want.Header.Del("Content-Range")
					want.Header.Set("Content-Length", fmt.Sprint(size))
				}
				body, _ := io.ReadAll(want.Body)
				what := fmt.Sprintf("%s %s %q", method, target, headers)
				if got.code != want.StatusCode {
					t.Errorf("%s = %d, want %d", what, got.code, want.StatusCode)
					continue
				}
				if got.code < 300 && got.body != string(body) && method == "GET" {
					t.Errorf("%s: %d bytes, want %d", what, len(got.body), len(body))
				}
				if got.code >= 300 || want.Header.Get("Etag") == "" { // net/http drops them with its 416
					continue
				}
				for _, k := range []string{"Content-Length", "Content-Range", "Content-Type", "Etag", "Last-Modified", "Accept-Ranges"} {
					if got.header.Get(k) != want.Header.Get(k) {
						t.Errorf("%s: %s %q, want %q", what, k, got.header.Get(k), want.Header.Get(k))
					}
				}
			}
		}
	}
}

func serveContent(method, content, etag string, headers []string) *http.Response {
	r := httptest.NewRequest(method, "/", nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	w.Header().Set("Etag", etag)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	http.ServeContent(w, r, "f.txt", time.Unix(1700000000, 0), strings.NewReader(content))
	return w.Result()
}

func TestGetMultipart(t *testing.T) {
	s := newServer(t, "")
	content := strings.Repeat("0123456789", 20_000)
	s.want(201, "PUT", "/f.bin", content)
	got := s.want(206, "GET", "/f.bin", "", "Range: bytes=0-4,65530-65540,-3")
	if n := fmt.Sprint(len(got.body)); got.header.Get("Content-Length") != n {
		t.Errorf("Content-Length %s for %s bytes", got.header.Get("Content-Length"), n)
	}
	_, params, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	mr := multipart.NewReader(strings.NewReader(got.body), params["boundary"])
	for _, want := range [][2]string{
		{"bytes 0-4/200000", content[:5]},
		{"bytes 65530-65540/200000", content[65530:65541]},
		{"bytes 199997-199999/200000", content[199997:]},
	} {
		part, err := mr.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(part)
		if part.Header.Get("Content-Range") != want[0] || string(body) != want[1] || part.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("part %v %q, want %q", part.Header, body, want)
		}
	}
	if _, err := mr.NextPart(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last part: %v", err)
	}
	head := s.want(200, "HEAD", "/f.bin", "", "Range: bytes=0-4,10-20")
	if head.header.Get("Content-Length") != "200000" {
		t.Errorf("HEAD: %v", head.header)
	}
}

func TestGetHeaders(t *testing.T) {
	s := newServer(t, "")
	for name, want := range map[string]string{
		"page.html": "text/html; charset=utf-8", "p.PNG": "image/png", "noext": "application/octet-stream",
		"x.unknown-ext": "application/octet-stream", ".profile": "application/octet-stream",
	} {
		s.want(201, "PUT", "/"+name, "<script>alert(1)</script>")
		got := s.want(200, "GET", "/"+name, "")
		hd := got.header
		if hd.Get("Content-Type") != want || hd.Get("X-Content-Type-Options") != "nosniff" ||
			hd.Get("Content-Security-Policy") != "sandbox" || hd.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %v", name, hd)
		}
		propfind := s.want(207, "PROPFIND", "/"+name, "", "Depth: 0")
		if !strings.Contains(propfind.body, "<D:getcontenttype>"+want+"<") {
			t.Errorf("%s: PROPFIND disagrees on the type\n%s", name, propfind.body)
		}
	}
	s.want(404, "GET", "/missing", "")
	s.want(404, "GET", "/noext/below", "")
	s.want(404, "HEAD", "/missing", "")
}

// TestDamagedContent: damage that is found before the first byte is a 503, and
// later the connection is cut; good parts are served.
func TestDamagedContent(t *testing.T) {
	st, blobs := storetest.NewWith(t, store.Options{})
	s := serve(t, st, "")
	content := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	s.want(201, "PUT", "/f", content)
	var id blob.ID
	if err := blobs.List(func(i blob.Info) error { id = i.ID; return nil }); err != nil {
		t.Fatal(err)
	}
	flip := func(off int64) {
		f, err := blobs.Open(id, true)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		f.ReadAt(b, off)
		b[0] ^= 1
		f.WriteAt(b, off)
	}
	flip(900_000)
	if got, err := s.try("GET", "/f", nil); err == nil {
		t.Errorf("GET of damaged content = %d, %d bytes, whole", got.code, len(got.body))
	}
	got := s.want(206, "GET", "/f", "", "Range: bytes=0-99999")
	if got.body != content[:100_000] {
		t.Error("the good part is not served")
	}
	got = s.want(503, "GET", "/f", "", "Range: bytes=900000-900010")
	if !strings.Contains(got.body, "content_damaged") || got.header.Get("Content-Range") != "" {
		t.Errorf("%v\n%s", got.header, got.body)
	}
	s.client.Timeout = 3 * time.Second // nothing of the answer is held back
	s.want(503, "GET", "/f", "", "Range: bytes=900000-909999")
	s.want(204, "PUT", "/f", "healed by overwriting")
	s.want(200, "GET", "/f", "")
}

func TestListing(t *testing.T) {
	for _, prefix := range []string{"", "/dav"} {
		s := newServer(t, prefix)
		hostile := `<img src=x onerror=alert(1)>"'&.txt`
		ctx := context.Background()
		for _, name := range []string{hostile, "ä b", "zz"} {
			if _, err := s.store.Create(ctx, store.RootIno, name, store.NewNode{}); err != nil {
				t.Fatal(err)
			}
		}
		s.want(201, "MKCOL", "/dir", "")
		s.want(201, "PUT", "/dir/f", "12345")
		got := s.want(200, "GET", "/", "")
		for _, want := range []string{
			`href="` + prefix + `/%C3%A4%20b">ä b</a>`,
			`href="` + prefix + `/dir/">dir/</a>`,
			`&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;.txt</a>`,
			`href="` + prefix + `/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26.txt"`,
		} {
			if !strings.Contains(got.body, want) {
				t.Errorf("listing lacks %s\n%s", want, got.body)
			}
		}
		if strings.Contains(got.body, "<img") || strings.Contains(got.body, "../") {
			t.Errorf("listing of the root:\n%s", got.body)
		}
		if csp := got.header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") {
			t.Errorf("CSP %q", csp)
		}
		for _, target := range []string{"/dir", "/dir/"} {
			got = s.want(200, "GET", target, "")
			if !strings.Contains(got.body, `href="`+prefix+`/">../</a>`) || !strings.Contains(got.body, `<td class="n">5<td>`) {
				t.Errorf("GET %s:\n%s", target, got.body)
			}
			head := s.want(200, "HEAD", target, "")
			if head.header.Get("Content-Type") != "text/html; charset=utf-8" || head.header.Get("Etag") != "" {
				t.Errorf("HEAD %s: %v", target, head.header)
			}
		}
	}
}

// TestListingStreams: a large collection is sent while it is read, in flat
// memory.
func TestListingStreams(t *testing.T) {
	s := newServer(t, "")
	for i := range 5000 {
		if _, err := s.store.Create(context.Background(), store.RootIno, fmt.Sprintf("file-%05d", i), store.NewNode{}); err != nil {
			t.Fatal(err)
		}
	}
	got := s.want(200, "GET", "/", "")
	if n := strings.Count(got.body, "<tr>"); n != 5001 {
		t.Errorf("%d rows, want 5001", n)
	}
	if got.header.Get("Content-Length") != "" {
		t.Error("the listing was collected before it was sent")
	}
}

// readHook is a backend that calls a function once, in the middle of a read.
type readHook struct {
	blob.Backend
	call atomic.Pointer[func()]
}

func (b *readHook) Open(id blob.ID, write bool) (blob.File, error) {
	f, err := b.Backend.Open(id, write)
	if write || err != nil {
		return f, err
	}
	return &hookedFile{f, b}, nil
}

type hookedFile struct {
	blob.File
	b *readHook
}

func (f *hookedFile) ReadAt(p []byte, off int64) (int, error) {
	if fn := f.b.call.Swap(nil); fn != nil {
		(*fn)()
	}
	return f.File.ReadAt(p, off)
}

// TestGetOfAFileThatIsCut cuts a file between the promise of its digest and its first
// byte: the answer is begun anew, and arrives also if it is a short one.
func TestGetOfAFileThatIsCut(t *testing.T) {
	for _, tc := range []struct {
		size  int64
		code  int
		extra []string
	}{
		{1, 200, nil}, {10, 200, nil}, {5000, 200, nil}, {10, 416, []string{"Range: bytes=5000-90000"}},
	} {
		eng := newFailingEngine(t)
		blobs := &readHook{Backend: storetest.NewMemBlobs()}
		st, err := store.Open(context.Background(), store.Options{Meta: eng, Blobs: blobs, Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		s := serve(t, st, "")
		s.client.Timeout = 5 * time.Second
		s.want(201, "PUT", "/f", bigContent)
		cut := false
		fn := func() {
			a, err := st.LookupPath(context.Background(), "/f")
			if err != nil {
				t.Error(err)
				return
			}
			hd, err := st.Open(context.Background(), a.Ino, true)
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(hd.Truncate(context.Background(), tc.size), hd.Close()); err != nil {
				t.Error(err)
			}
			cut = true
		}
		blobs.call.Store(&fn)
		got, err := s.try("GET", "/f", nil, append([]string{"Want-Repr-Digest: sha-256=1"}, tc.extra...)...)
		if err != nil || got.code != tc.code || tc.code == 200 && got.body != bigContent[:tc.size] {
			t.Errorf("cut to %d bytes: %d with %d bytes, %v", tc.size, got.code, len(got.body), err)
		}
		if !cut || got.header.Get("Repr-Digest") != "" {
			t.Errorf("cut: %v, digest %q", cut, got.header.Get("Repr-Digest"))
		}
	}
}

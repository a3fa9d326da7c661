package webdav

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/storetest"
)

func contains(s, sub string) bool { return strings.Contains(s, sub) }

// TestAbortedUpload is trace T10: an upload that breaks off leaves the old
// content and its ETag, or nothing, and nothing else.
func TestAbortedUpload(t *testing.T) {
	chunk := strings.Repeat("x", 64<<10)
	for _, target := range []string{"/d/old", "/d/new"} {
		for _, framing := range []string{"length", "chunked", "bad-chunk"} {
			t.Run(target+"/"+framing, func(t *testing.T) {
				st, blobs := storetest.NewWith(t, store.Options{})
				s := serve(t, st, "")
				s.want(201, "MKCOL", "/d", "")
				etag := s.want(201, "PUT", "/d/old", "old content").header.Get("Etag")
				before := s.tree("/")
				size := s.store.TotalSize(context.Background())

				c, err := net.Dial("tcp", s.host)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: %s\r\n", target, s.host)
				if framing == "length" {
					fmt.Fprintf(c, "Content-Length: %d\r\n\r\n", 1<<30)
				} else {
					fmt.Fprint(c, "Transfer-Encoding: chunked\r\n\r\n")
				}
				for range 20 {
					if framing != "length" {
						fmt.Fprintf(c, "%x\r\n", len(chunk))
					}
					io.WriteString(c, chunk)
					if framing != "length" {
						io.WriteString(c, "\r\n")
					}
				}
				if listed := s.want(207, "PROPFIND", "/d", "", "Depth: 1").body; strings.Count(listed, "<D:response>") != 2 {
					t.Errorf("the upload can be seen while it runs:\n%s", listed)
				}
				if framing == "bad-chunk" {
					io.WriteString(c, "not a chunk\r\n")
					c.(*net.TCPConn).CloseWrite()
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err == nil && resp.StatusCode < 400 {
						t.Errorf("status %d", resp.StatusCode)
					}
				}
				c.Close()

				deadline := time.Now().Add(5 * time.Second)
				for s.inFlight() && time.Now().Before(deadline) {
					time.Sleep(time.Millisecond)
				}
				storetest.Check(t, s.store) // waits for the collector
				if err := blobs.List(func(i blob.Info) error { return fmt.Errorf("blob %s is left over", i.ID) }); err != nil {
					t.Error(err)
				}
				if got := s.tree("/"); fmt.Sprint(got) != fmt.Sprint(before) {
					t.Errorf("tree is %.200v", got)
				}
				if got := s.want(200, "GET", "/d/old", "").header.Get("Etag"); got != etag {
					t.Errorf("Etag %s, want %s", got, etag)
				}
				if got := s.store.TotalSize(context.Background()); got != size {
					t.Errorf("TotalSize = %d, want %d", got, size)
				}
			})
		}
	}
}

// inFlight reports whether a request is still being served.
func (s *server) inFlight() bool { return s.active.Load() > 0 }

func TestPutStatuses(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "MKCOL", "/d", "")
	s.want(201, "PUT", "/f", "x")
	for _, tc := range []struct {
		target  string
		headers []string
		code    int
	}{
		{"/", nil, 405},
		{"/d", nil, 405},
		{"/d/", nil, 405},
		{"/missing/f", nil, 409},
		{"/f/below", nil, 409},
		{"/new/", nil, 409},
		{"/f/", nil, 204}, // what exists is found with and without a slash
		{"/f", []string{"Content-Range: bytes 0-0/1"}, 400},
		{"/f", []string{"If-Match: *"}, 204},
		{"/f", []string{"If-None-Match: *"}, 412},
		{"/n1", []string{"If-Match: *"}, 412},
		{"/n2", []string{"If-None-Match: *"}, 201},
		{"/f", []string{`If-Match: "other"`}, 412},
		{"/f", []string{`If-None-Match: "other"`}, 204},
		{"/f", []string{"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"}, 412},
		{"/f", []string{"If-Unmodified-Since: Fri, 01 Jan 2100 00:00:00 GMT"}, 204},
		{"/f", []string{"If: (malformed"}, 400},
		{"/n3", []string{"X-OC-Mtime: 0x10"}, 201},
	} {
		got := s.do("PUT", tc.target, "y", tc.headers...)
		if got.code != tc.code {
			t.Errorf("PUT %s %q = %d, want %d", tc.target, tc.headers, got.code, tc.code)
		}
		if got.code < 300 && (got.header.Get("Etag") == "" || got.header.Get("Last-Modified") == "" || got.header.Get("X-Oc-Mtime") != "") {
			t.Errorf("PUT %s: headers %v", tc.target, got.header)
		}
	}
	long := strings.Repeat("n", 256)
	s.want(400, "PUT", "/"+long, "x")
	s.want(201, "PUT", "/"+long[1:], "x")
}

// TestPutSizes: every way content is kept comes back as it was sent, with the
// ETag that PUT answered.
func TestPutSizes(t *testing.T) {
	s := newServer(t, "")
	for _, n := range []int{0, 1, 4 << 10, 16<<10 - 1, 16 << 10, 16<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3<<20 + 7} {
		body := bytes.Repeat([]byte("0123456789abcdef."), n/17+1)[:n]
		for _, chunked := range []bool{false, true} {
			var r io.Reader = bytes.NewReader(body)
			if chunked {
				r = struct{ io.Reader }{r} // hides the length
			}
			put, err := s.try("PUT", fmt.Sprintf("/f%d", n), r)
			if err != nil || put.code > 204 {
				t.Fatalf("PUT of %d bytes: %d, %v", n, put.code, err)
			}
			got := s.want(200, "GET", fmt.Sprintf("/f%d", n), "")
			if got.body != string(body) || got.header.Get("Etag") != put.header.Get("Etag") || got.header.Get("Last-Modified") != put.header.Get("Last-Modified") {
				t.Errorf("%d bytes, chunked %v: got %d bytes, %v, PUT said %v", n, chunked, len(got.body), got.header, put.header)
			}
		}
	}
}

// TestPutRefusedEarly: a client that waits for 100 Continue is told before it
// sends the body, and one that does not wait gets the status, not a reset.
func TestPutRefusedEarly(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "old")
	got := s.raw("PUT /f HTTP/1.1\r\nHost: " + s.host + "\r\nConnection: close\r\nExpect: 100-continue\r\nIf-None-Match: *\r\nContent-Length: 1000000\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 412 ") {
		t.Errorf("answer %.60q, want 412 without the body", got)
	}
	body := strings.Repeat("x", 8<<20)
	got = s.raw("PUT /f HTTP/1.1\r\nHost: " + s.host + "\r\nConnection: close\r\nIf-None-Match: *\r\nContent-Length: 8388608\r\n\r\n" + body)
	if !strings.HasPrefix(got, "HTTP/1.1 412 ") {
		t.Errorf("answer %.60q, want 412 after the body", got)
	}
	if got := s.content("/f"); got != "old" {
		t.Errorf("content %.20q", got)
	}
}

// TestPutIfMatchRace: of many writers with the same If-Match exactly one wins,
// and of many with If-None-Match: * too.
func TestPutIfMatchRace(t *testing.T) {
	s := newServer(t, "")
	etag := s.want(201, "PUT", "/f", "old").header.Get("Etag")
	for _, tc := range []struct {
		target, header string
		code           int
	}{
		{"/f", "If-Match: " + etag, 204},
		{"/f", "", 204}, // the last writer wins, nobody is refused
		{"/new", "If-None-Match: *", 201},
		{"/newer", `If: (["none"]) (Not ["` + "x" + `"])`, 204},
	} {
		const writers = 16
		var won, lost atomic.Int32
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				var headers []string
				if tc.header != "" {
					headers = append(headers, tc.header)
				}
				got, err := s.try("PUT", tc.target, strings.NewReader(fmt.Sprint(i)), headers...)
				switch {
				case err != nil:
					t.Errorf("PUT: %v", err)
				case got.code == tc.code || tc.header == "":
					won.Add(1)
				case got.code == 412:
					lost.Add(1)
				case got.code != 201:
					t.Errorf("PUT = %d", got.code)
				}
			})
		}
		wg.Wait()
		switch {
		case tc.header == "" && won.Load() != writers:
			t.Errorf("%s: %d of %d unconditional writers won", tc.target, won.Load(), writers)
		case strings.HasPrefix(tc.header, "If-") && (won.Load() != 1 || lost.Load() != writers-1):
			t.Errorf("%s %s: %d won, %d got 412; want 1 and %d", tc.target, tc.header, won.Load(), lost.Load(), writers-1)
		}
	}
}

// startUpload begins a PUT that is past its early checks when startUpload
// returns: more was sent than sockets hold, so the server is taking the body in.
// finish ends the body and returns the answer.
func (s *server) startUpload(target string, headers ...string) (finish func() answer) {
	s.t.Helper()
	r, w := io.Pipe()
	done := make(chan answer, 1)
	go func() {
		got, err := s.try("PUT", target, r, headers...)
		if err != nil {
			s.t.Errorf("PUT: %v", err)
		}
		r.Close()
		done <- got
	}()
	if _, err := w.Write(make([]byte, 32<<20)); err != nil {
		s.t.Fatal(err)
	}
	return func() answer {
		w.Close()
		return <-done
	}
}

// TestLockTakenDuringUpload: a lock that somebody takes while a body comes in
// keeps it out.
func TestLockTakenDuringUpload(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "old")
	finish := s.startUpload("/f")
	token := s.lock("/f")
	if got := finish(); got.code != 423 {
		t.Errorf("PUT = %d, want 423", got.code)
	}
	finish = s.startUpload("/f", "If: (<"+token+">)")
	s.want(204, "UNLOCK", "/f", "", "Lock-Token: <"+token+">")
	if got := finish(); got.code != 204 {
		t.Errorf("PUT whose lock ended meanwhile = %d, want 204", got.code)
	}
}

// TestConditionAskedAtCommit: a condition that held when the upload began, and
// does not when it ends, refuses it.
func TestConditionAskedAtCommit(t *testing.T) {
	for _, tc := range []struct {
		target string
		header func(etag string) string
	}{
		{"/f", func(etag string) string { return "If-Match: " + etag }},
		{"/f", func(etag string) string { return "If: ([" + etag + "])" }},
		{"/new", func(string) string { return "If-None-Match: *" }},
	} {
		s := newServer(t, "")
		etag := s.want(201, "PUT", "/f", "old").header.Get("Etag")
		finish := s.startUpload(tc.target, tc.header(etag))
		s.do("PUT", tc.target, "overtaking")
		if got := finish(); got.code != 412 {
			t.Errorf("PUT %s with %s = %d, want 412", tc.target, tc.header(etag), got.code)
		}
		if got := s.content(tc.target); got != "overtaking" {
			t.Errorf("content is %.20q", got)
		}
	}
}

// TestSyncBeforeAnswer: when the journal cannot be made durable, no change is
// acknowledged.
func TestSyncBeforeAnswer(t *testing.T) {
	for _, r := range [][]string{
		{"PUT", "/new", "x"},
		{"PUT", "/f", "x"},
		{"DELETE", "/f", ""},
		{"DELETE", "/d", ""},
		{"MKCOL", "/new", ""},
		{"MOVE", "/f", "", "Destination: /g"},
		{"COPY", "/f", "", "Destination: /g"},
		{"COPY", "/d", "", "Destination: /e"},
		{"PROPPATCH", "/f", `<propertyupdate xmlns="DAV:"><set><prop><x xmlns="u:">1</x></prop></set></propertyupdate>`},
		{"LOCK", "/f", lockBody("exclusive")},
		{"LOCK", "/new", lockBody("exclusive")},
	} {
		t.Run(r[0]+r[1], func(t *testing.T) {
			eng := newFailingEngine(t)
			st, err := store.Open(context.Background(), store.Options{Meta: eng, Blobs: storetest.NewMemBlobs(), Reserve: -1})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { st.Close() })
			s := serve(t, st, "")
			s.make("/d", "tree", "x")
			s.make("/f", "file", "x")
			eng.fail.Store(true)
			if got := s.do(r[0], r[1], r[2], r[3:]...); got.code != 503 {
				t.Errorf("%s = %d, want 503", r[0], got.code)
			}
		})
	}
}

func TestOCMtime(t *testing.T) {
	for _, tc := range []struct {
		in   string
		ns   int64
		good bool
	}{
		{"1700000000", 1700000000e9, true},
		{" 1700000000 ", 1700000000e9, true},
		{"1700000000.25", 1700000000_250000000, true},
		{"1700000000.123456789", 1700000000_123456789, true},
		{"0", 0, true},
		{"-1", 0, false},
		{"1.-5", 0, false},
		{"0x10", 0, false},
		{"", 0, false},
		{"1e9", 0, false},
		{"9300000000", 0, false}, // after 2262
		{"99999999999999999999", 0, false},
	} {
		got, ok := ocMtime(http.Header{"X-Oc-Mtime": {tc.in}})
		if ok != tc.good || ok && got.UnixNano() != tc.ns {
			t.Errorf("ocMtime(%q) = %v, %v; want %d, %v", tc.in, got, ok, tc.ns, tc.good)
		}
	}
}

// TestAbortedUploadHTTP2: a stream that is reset changes nothing.
func TestAbortedUploadHTTP2(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/old", "old content")
	hs := httptest.NewUnstartedServer(s.handler)
	hs.EnableHTTP2 = true
	hs.StartTLS()
	defer hs.Close()
	for _, target := range []string{"/old", "/new"} {
		for _, length := range []int64{-1, 1 << 30} {
			ctx, cancel := context.WithCancel(context.Background())
			body, w := io.Pipe()
			r, err := http.NewRequestWithContext(ctx, "PUT", hs.URL+target, body)
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = length
			done := make(chan error, 1)
			go func() {
				resp, err := hs.Client().Do(r)
				if err == nil {
					resp.Body.Close()
					err = fmt.Errorf("status %d, HTTP/%d", resp.StatusCode, resp.ProtoMajor)
				}
				done <- err
			}()
			io.WriteString(w, strings.Repeat("x", 1<<20))
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("PUT %s: %v", target, err)
			}
			w.Close()
		}
	}
	hs.Close() // waits for the handlers
	storetest.Check(t, s.store)
	if got := s.tree("/"); len(got) != 1 || got["/old"] != "old content" {
		t.Errorf("tree is %.200v", got)
	}
}

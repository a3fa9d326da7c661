package httpwire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func addrOf(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// serveBytes answers every connection with the same bytes after one request.
func serveBytes(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadAtLeast(c, make([]byte, 4096), 1)
			io.WriteString(c, answer)
			c.Close()
		}
	}()
	return l.Addr().String()
}

func TestBodiesOfEveryDelimitation(t *testing.T) {
	want := strings.Repeat("0123456789", 70_000)
	cases := map[string]http.HandlerFunc{
		"ContentLength": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(want)))
			io.WriteString(w, want)
		},
		"Chunked": func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(want); i += 7000 {
				io.WriteString(w, want[i:i+7000])
				w.(http.Flusher).Flush()
			}
		},
		"Close": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			io.WriteString(w, want)
		},
	}
	for name, h := range cases {
		t.Run(name, func(t *testing.T) {
			c := NewClient(addrOf(t, h), 10*time.Second)
			defer c.Close()
			for range 3 { // The second and third show that the stream stayed in step.
				var got bytes.Buffer
				r, err := c.Do(&Request{Method: "GET", Path: "/"}, &got)
				if err != nil {
					t.Fatal(err)
				}
				if r.Status != 200 || got.String() != want || r.Size != int64(len(want)) {
					t.Fatalf("status %d, %d bytes (Size %d), want 200 and %d", r.Status, got.Len(), r.Size, len(want))
				}
			}
		})
	}
}

func TestRequestReachesServerWhole(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 100_000)
	addr := addrOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Got", fmt.Sprintf("%s %s %s %d %d", r.Method, r.URL.Path, r.Header.Get("Depth"), r.ContentLength, len(b)))
		w.WriteHeader(http.StatusNoContent)
	}))
	c := NewClient(addr, 10*time.Second)
	defer c.Close()
	for _, req := range []*Request{
		{Method: "PUT", Path: "/a%20b", Header: []string{"Depth: 1"}, Body: body},
		{Method: "PUT", Path: "/a%20b", Header: []string{"Depth: 1"}, Stream: bytes.NewReader(body), Length: int64(len(body))},
	} {
		r, err := c.Do(req, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := r.Header("got"), "PUT /a b 1 100000 100000"; got != want || r.Status != 204 {
			t.Errorf("server saw %q (status %d), want %q (204)", got, r.Status, want)
		}
	}
}

func TestInterimAnswerIsSkipped(t *testing.T) {
	addr := serveBytes(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
	r, err := NewClient(addr, time.Second).Do(&Request{Method: "PUT", Path: "/"}, nil)
	if err != nil || r.Status != 201 || r.Size != 2 {
		t.Fatalf("Do = %+v, %v, want 201 with 2 bytes", r, err)
	}
}

func TestIncompleteAnswersAreErrors(t *testing.T) {
	for name, answer := range map[string]string{
		"Empty":     "",
		"NotHTTP":   "SSH-2.0-OpenSSH_9.2\r\n\r\n",
		"ShortBody": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"CutHeader": "HTTP/1.1 200 OK\r\nContent-Le",
		"CutChunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"BadLength": "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := NewClient(serveBytes(t, answer), time.Second).Do(&Request{Method: "GET", Path: "/"}, nil); err == nil {
				t.Fatalf("Do = status %d, nil error, want an error", r.Status)
			}
		})
	}
}

func TestTimeoutIsReported(t *testing.T) {
	release := make(chan struct{})
	addr := addrOf(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() { close(release) })
	_, err := NewClient(addr, 50*time.Millisecond).Do(&Request{Method: "GET", Path: "/"}, nil)
	var ne net.Error
	if err == nil || !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("Do = %v, want a timeout", err)
	}
}
